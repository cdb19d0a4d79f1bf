# SPDX-License-Identifier: Apache-2.0
"""A model of a hundred times the memory budget in every format, and 64 processes that read it while the daemon's
control group leaves it little more than that budget.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
import zstandard
from memory_groups import MemoryGroup
from reference.safetensors_io import INDEX_NAME, Tensor, write_file

from bench.scale import mounts
from bench.scale.model import BigModel
from bench.scale.versions import BigStore, version_name

BUDGET, ROOM, ALLOWANCE = 64 << 20, 128 << 20, 64 << 20
READERS = 64
VERSIONS = 3
MODEL_BYTES = 100 * BUDGET
FORMATS = ("native", "weight_v", "trl")
WARM = ("off", "memory")
# Bytes of a tensor: two make a file that can be warmed into a part of the budget, or one is larger than all of it.
TENSORS = {"small": 8 << 20, "large": 128 << 20}
PAGE = mmap.PAGESIZE
MOST = 4 << 20  # bytes compared at a time


@dataclass
class Part:
    """A tensor in a file, with its bytes in each version."""

    file: str
    begin: int
    contents: dict[str, np.ndarray]


@dataclass
class Source:
    """What is mounted."""

    kind: str
    tensors: str
    folder: Path
    base: Path | None
    parts: list[Part]
    sizes: dict[str, int]

    @property
    def model_bytes(self) -> int:
        return sum(self.sizes.values())


# --- the model ------------------------------------------------------------------------------------


def _native(folder: Path, tensors: str) -> Source:
    count = MODEL_BYTES // TENSORS[tensors] + 2  # two are vectors
    shards = count // 2 if tensors == "small" else count
    model = BigModel(count, shards, MODEL_BYTES // 2)
    store = BigStore(folder / "store", model, model.write(folder / "model"), dense=True)
    store.init(VERSIONS)
    for _ in range(VERSIONS):
        store.commit()
    contents = {}
    for tensor in model.list:
        if tensor.bytes not in contents:
            contents[tensor.bytes] = {
                version_name(version): np.frombuffer(store.expected(version, tensor, 0, tensor.bytes), np.uint8)
                for version in range(1, VERSIONS + 1)}
    parts = [Part(model.shard_name(tensor.shard), len(model.headers[tensor.shard]) + tensor.begin,
                  contents[tensor.bytes]) for tensor in model.list]
    return Source("native", tensors, store.folder, None, parts,
                  {model.shard_name(shard): model.shard_bytes(shard) for shard in range(shards)})


def _base(folder: Path, tensors: str) -> tuple[Path, list[tuple[str, str, int]], dict[str, int]]:
    """Shards of zeros that take no disk: the folder, (tensor, shard, its place in it), sizes of the shards."""
    base, places, sizes = folder / "base", [], {}
    base.mkdir()
    size, each = TENSORS[tensors], 2 if tensors == "small" else 1
    shards = MODEL_BYTES // size // each
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        names = [f"model.layers.{shard * each + i}.weight" for i in range(each)]
        header = {name: {"dtype": "BF16", "shape": [size // 2048, 1024], "data_offsets": [i * size, (i + 1) * size]}
                  for i, name in enumerate(names)}
        text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
        text += b" " * (-len(text) % 8)
        sizes[file] = 8 + len(text) + each * size
        with open(base / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(sizes[file])
        places += [(name, file, 8 + len(text) + i * size) for i, name in enumerate(names)]
    total = {"metadata": {"total_size": shards * each * size}}
    (base / INDEX_NAME).write_text(json.dumps(total | {"weight_map": {name: file for name, file, _ in places}}))
    return base, places, sizes


def _steps(tensors: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What each version does to every tensor: (elements, their new values, all elements after it)."""
    rng = np.random.default_rng(83)
    state, found = np.zeros(TENSORS[tensors] // 2, np.uint16), []
    for _ in range(VERSIONS):
        places = np.unique(rng.integers(0, state.size, state.size // 300))  # hundreds in every block
        state = state.copy()
        state[places] ^= rng.integers(1, 1 << 12, places.size).astype(np.uint16)
        found.append((places, state[places], state))
    return found


def _weight_v(folder: Path, tensors: str) -> Source:
    base, places, sizes = _base(folder, tensors)
    before, contents = np.zeros(TENSORS[tensors] // 2, np.uint16), {}
    for number, (_, _, state) in enumerate(_steps(tensors), 1):
        name = f"weight_v{number:06d}"
        delta = folder / "run" / name
        delta.mkdir(parents=True)
        frame = zstandard.ZstdCompressor(level=1).compress((state ^ before).tobytes())
        tensor, shard = Tensor("U8", (len(frame),), np.frombuffer(frame, np.uint8)), "model-00000-of-00001.safetensors"
        names = [tensor for tensor, _, _ in places]
        write_file(delta / shard, dict.fromkeys(names, tensor),
                   dict.fromkeys(names, xxhash.xxh3_128_hexdigest(state.tobytes())))
        about = {"version": f"{number:06d}", "base_version": f"{number - 1:06d}", "delta_encoding": "xor",
                 "compression_format": "zstd", "checksum_format": "xxh3-128"}
        (delta / INDEX_NAME).write_text(json.dumps({"metadata": about, "weight_map": dict.fromkeys(names, shard)}))
        contents[name], before = state.view(np.uint8), state
    return Source("weight_v", tensors, folder / "run", base, [Part(file, at, contents) for _, file, at in places], sizes)


def _trl(folder: Path, tensors: str) -> Source:
    base, places, sizes = _base(folder, tensors)
    deltas, contents = folder / "bucket" / "deltas", {}
    deltas.mkdir(parents=True)
    for number, (elements, values, state) in enumerate(_steps(tensors), 1):
        index = Tensor("I32", elements.shape, elements.astype("<i4"))
        stored = {}
        for name, _, _ in places:
            stored |= {f"{name}.idx": index, f"{name}.val": Tensor("BF16", values.shape, values)}
        write_file(deltas / f"step_{number:06d}.safetensors", stored, {
            "format": "sparse_weight_patch", "version": "1", "sparse": "True", "encoding": "raw",
            "model_version": str(number)})
        contents[f"step_{number:06d}"] = state.view(np.uint8)
    return Source("trl", tensors, folder / "bucket", base, [Part(file, at, contents) for _, file, at in places], sizes)


def make_source(kind: str, tensors: str, folder: Path) -> Source:
    return {"native": _native, "weight_v": _weight_v, "trl": _trl}[kind](folder, tensors)


# --- readers --------------------------------------------------------------------------------------


class TimeIsOver(Exception):
    pass


class Reader:
    """Reads and compares, in one of four ways, until the time is over; once at least."""

    def __init__(self, source: Source, point: Path, seed: int, deadline: float, note: Callable[[], None]):
        self.source, self.point, self.rng = source, point, random.Random(seed)
        self.deadline, self.note = deadline, note
        self.versions = sorted(source.parts[0].contents)
        self.round = (self.random_read, self.stream, self.touch_mapping, self.copy_mapping)[seed % 4]
        self.parts_of: dict[str, list[Part]] = {}
        for part in source.parts:
            self.parts_of.setdefault(part.file, []).append(part)

    def check(self, part: Part, version: str, at: int, found) -> None:
        if not np.array_equal(np.frombuffer(found, np.uint8), part.contents[version][at:at + len(found)]):
            raise AssertionError(f"wrong bytes at {part.begin + at} of {version}/{part.file}")
        self.note()
        if time.monotonic() > self.deadline:
            raise TimeIsOver

    def open(self, version: str, file: str) -> int:
        return os.open(self.point / version / file, os.O_RDONLY)

    def random_read(self) -> None:
        part, version = self.rng.choice(self.source.parts), self.rng.choice(self.versions)
        length = self.rng.choice([PAGE, 256 << 10, MOST])
        size = part.contents[version].size
        at = self.rng.randrange(max(1, size - length))
        descriptor = self.open(version, part.file)
        try:
            self.check(part, version, at, os.pread(descriptor, min(length, size - at), part.begin + at))
        finally:
            self.forget(descriptor)

    def stream(self) -> None:
        file, version = self.rng.choice(list(self.parts_of)), self.rng.choice(self.versions)
        descriptor = self.open(version, file)
        try:
            for part in self.parts_of[file]:
                size = part.contents[version].size
                for at in range(0, size, 1 << 20):
                    length = min(1 << 20, size - at)
                    self.check(part, version, at, os.pread(descriptor, length, part.begin + at))
        finally:
            self.forget(descriptor)

    def mapped(self, file: str, version: str) -> mmap.mmap:
        descriptor = self.open(version, file)
        try:
            return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)

    def touch_mapping(self) -> None:
        part, version = self.rng.choice(self.source.parts), self.rng.choice(self.versions)
        with self.mapped(part.file, version) as mapping:
            for _ in range(8):
                at = self.rng.randrange(part.contents[version].size)
                end = min(at + PAGE, part.contents[version].size)
                self.check(part, version, at, mapping[part.begin + at:part.begin + end])

    def copy_mapping(self) -> None:
        file, version = self.rng.choice(list(self.parts_of)), self.rng.choice(self.versions)
        with self.mapped(file, version) as mapping:
            for part in self.parts_of[file]:
                for at in range(0, part.contents[version].size, MOST):
                    end = min(at + MOST, part.contents[version].size)
                    self.check(part, version, at, mapping[part.begin + at:part.begin + end])

    @staticmethod
    def forget(descriptor: int) -> None:
        """So that the next one asks the daemon again."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class Readers:
    """Processes, because threads of one would take turns; each counts what it compared in shared memory."""

    def __init__(self, source: Source, point: Path, seconds: float, place: Path):
        self.counts = mmap.mmap(-1, 8 * READERS)
        self.place, self.pids = place, []
        deadline = time.monotonic() + seconds
        for seed in range(READERS):
            pid = os.fork()
            if pid == 0:
                self.be(source, point, seed, deadline)
            self.pids.append(pid)

    def be(self, source: Source, point: Path, seed: int, deadline: float) -> None:
        def note() -> None:
            done, = struct.unpack_from("Q", self.counts, 8 * seed)
            struct.pack_into("Q", self.counts, 8 * seed, done + 1)

        status = 1
        try:
            reader = Reader(source, point, seed, deadline, note)
            while True:
                reader.round()
        except TimeIsOver:
            status = 0
        except BaseException:
            (self.place / f"reader-{seed}.txt").write_text(traceback.format_exc())
        finally:
            os._exit(status)

    def watch(self, look: Callable[[], None]) -> list[str]:
        """Looks again and again until all have ended; what went wrong."""
        failed, left = [], dict(zip(self.pids, range(READERS), strict=True))
        while left:
            look()
            time.sleep(0.01)
            for pid in list(left):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    seed = left.pop(pid)
                    failed += [seed] if status else []
        texts = [self.place / f"reader-{seed}.txt" for seed in failed]
        return [text.read_text() if text.exists() else f"{text.stem} was killed" for text in texts]

    def compared(self) -> list[int]:
        return list(struct.unpack(f"{READERS}Q", self.counts[:]))


# --- the measurement --------------------------------------------------------------------------------


def _status_bytes(pid: int, key: str) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) << 10


def measure(source: Source, warm: str, seconds: float, group: MemoryGroup, place: Path) -> dict:
    """64 readers for so long: what the daemon held at most, and whether anything went wrong."""
    point = place / "mnt"
    point.mkdir(exist_ok=True)
    group.set_limit(BUDGET + ROOM)
    base = [] if source.base is None else ["--base", source.base]
    done = group.run(mounts.BINARY, "mount", "--memory", BUDGET, f"--warm-on-open={warm}", *base, "--log-file",
                     place / "mount.log", source.folder, point)
    if done.returncode != 0:
        raise AssertionError(f"weightfs mount: {done.returncode}\n{done.stderr}")
    try:
        status = _status(point)
        pid, before = status["pid"], status["memory"]["rss"]
        peak = {"kept": 0, "page_cache": 0, "threads": 0}

        def look() -> None:
            peak["kept"] = max(peak["kept"], group.kept())
            peak["page_cache"] = max(peak["page_cache"], group.page_cache())
            peak["threads"] = max(peak["threads"], int(next(
                line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("Threads:"))))

        readers = Readers(source, point, seconds, place)
        problems = readers.watch(look)
        status = _status(point)
        return {"format": source.kind, "tensors": source.tensors, "warm_on_open": warm, "budget": BUDGET, "limit": BUDGET + ROOM,
                "model_bytes": source.model_bytes, "problems": problems, "compared": readers.compared(),
                "kills": group.kills(), "read_errors": status["counters"]["read_errors"], "rss_before": before,
                "peak_kept": peak["kept"], "peak_rss": _status_bytes(pid, "VmHWM"), "threads": peak["threads"],
                "peak_page_cache": peak["page_cache"], "memory": status["memory"],
                "bytes_served": status["counters"]["bytes_served"]}
    finally:
        subprocess.run([mounts.BINARY, "umount", point], check=False, capture_output=True)


def _status(point: Path) -> dict:
    return json.loads(mounts.weightfs("status", point, "--json"))
