# SPDX-License-Identifier: Apache-2.0
"""A new delta arrives: what a receiver does today beside what weightfs does, until a model is loaded.

    apply             XOR the weight_v delta into a local checkpoint in place, as SGLang's receiver does: mapped shards,
                      a thread pool over the tensors, pieces of 2 MiB decompressed, XORed and digested while in cache
    apply + load      and then load the checkpoint
    mount + load      mount the run with the new delta, load the version
    mount + warm      mount, `weightfs warm --to memory`
    mount + warm + load

The local checkpoint is in the page cache.  Loading is transformers', or safetensors' where that is not installed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from data import shards_of, version_name
from reference.safetensors_io import read_header
from samples import Key

PIECE = 2 << 20

try:
    import zstandard
except ImportError:
    zstandard = None
try:
    import xxhash
except ImportError:
    xxhash = None


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("position", ctypes.c_size_t)]


@functools.cache
def libzstd() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    return library


def pieces_by_libzstd(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of 2 MiB of a frame's content, by the system's libzstd."""
    library = libzstd()
    stream = ctypes.c_void_p(library.ZSTD_createDStream())
    content = np.empty(PIECE, np.uint8)
    source = _Buffer(frame.ctypes.data, frame.size, 0)
    try:
        left = 1
        while left:
            target = _Buffer(content.ctypes.data, content.size, 0)
            while left and target.position < target.size:
                left = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
                if library.ZSTD_isError(ctypes.c_size_t(left)) or (left and source.position == source.size
                                                                  and target.position < target.size):
                    raise SystemExit("a delta's zstd frame is broken")
            yield content[:target.position]
    finally:
        library.ZSTD_freeDStream(stream)


def pieces_of(frame: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of at most 2 MiB of what a zstd frame holds."""
    if zstandard is None:
        yield from pieces_by_libzstd(frame)
        return
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(frame.tobytes()))
    while block := reader.read(PIECE):
        yield np.frombuffer(block, np.uint8)


def xor_tensor(region: np.ndarray, frame: np.ndarray, digest: str | None) -> None:
    """XORs a frame's content into a tensor's bytes; `digest`: the published one of the result, None to skip it."""
    hasher = xxhash.xxh3_128() if xxhash and digest else None
    at = 0
    for piece in pieces_of(frame):
        target = region[at:at + piece.size]
        target ^= piece
        if hasher:
            hasher.update(target)
        at += piece.size
    if at != region.size or (hasher and hasher.hexdigest() != digest):
        raise SystemExit("wrong bytes: a tensor differs from its published digest after the delta was applied")


def apply_delta(checkpoint: Path, delta: Path, check: bool = True) -> None:
    """Changes a checkpoint in place; applying the same xor delta again takes it back (check=False)."""
    regions = {}
    for shard in shards_of(checkpoint):
        mapped, header = np.memmap(shard, np.uint8, "r+"), read_header(shard)
        for name, (_, _, begin, end) in header.records.items():
            regions[name] = mapped[header.data_start + begin:header.data_start + end]
    weight_map = json.loads((delta / "model.safetensors.index.json").read_text())["weight_map"]
    jobs = []
    for shard in shards_of(delta):
        blob, header = np.fromfile(shard, np.uint8), read_header(shard)
        for name, (_, _, begin, end) in header.records.items():
            if weight_map[name] == shard.name:
                frame = blob[header.data_start + begin:header.data_start + end]
                jobs.append((regions[name], frame, header.metadata[name] if check else None))
    with ThreadPoolExecutor(min(32, os.cpu_count() or 8)) as pool:
        list(pool.map(lambda job: xor_tensor(*job), jobs))


def seconds(action, *arguments) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def local_checkpoint(bench) -> Path:
    """A copy of the newest version, which the apply series owns."""
    local = bench.model.folder / "local"
    if not local.exists():
        shutil.copytree(bench.model.plain, local)
    return local


def receiver(bench, worker, loader: str | None) -> None:
    local = local_checkpoint(bench)
    delta = bench.model.folder / "weight_v" / version_name(bench.model.deepest)
    apply_delta(local, delta, check=False)  # back to the version before
    applied = seconds(apply_delta, local, delta)
    key = {"source": "weight_v", "depth": bench.model.deepest}
    bench.samples.add(Key("apply", "apply", **key), applied, bench.model.bytes)
    if loader:
        loaded = worker.load(loader, local)
        bench.samples.add(Key("apply", "apply + load", method=loader, **key), applied + loaded, bench.model.bytes)


def by_mount(bench, worker, loader: str | None, source: str, warm: bool) -> None:
    depth, size = bench.model.deepest, bench.model.bytes
    if loader:
        with bench.mount(source) as mounted:
            loaded = worker.load(loader, bench.version(depth))
        bench.samples.add(Key("apply", "mount + load", source, depth, loader), mounted.seconds + loaded, size)
    if not warm:
        return
    with bench.mount_for_memory(source) as mounted:
        served = mounted.seconds + bench.warm(mounted, depth, "memory")
        bench.samples.add(Key("apply", "mount + warm", source, depth), served, size)
        if loader:
            loaded = worker.load(loader, bench.version(depth))
            bench.samples.add(Key("apply", "mount + warm + load", source, depth, loader), served + loaded, size)


def measure(bench, worker, warm: bool) -> None:
    """One sample of each way from a delta on disk to a loaded model."""
    loader = next((name for name in ("transformers", "load_file") if worker and name in worker.names), None)
    if not loader:
        bench.samples.note("apply: without torch and safetensors nothing is loaded afterwards")
    if xxhash is None:
        bench.samples.note("apply: without xxhash the receiver checks no digests")
    receiver(bench, worker, loader)
    for source in bench.sources:
        by_mount(bench, worker, loader, source, warm)
