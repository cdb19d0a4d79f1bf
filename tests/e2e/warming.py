# SPDX-License-Identifier: Apache-2.0
"""What the tests of `weightfs warm` share: chains of every kind, ways to read a file, commands, and states."""

import ctypes
import fcntl
import json
import mmap
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import BINARY, Mount, succeed
from reference import trl, weight_v
from reference.safetensors_io import State, Tensor, write_model
from runs import next_state
from stores import make_store

SHAPES = {"a.weight": (1400, 1024), "b.weight": (900, 1021), "c.norm": (1021,), "d.weight": (800, 1024),
          "e.weight": (613, 511)}
SHARDS = 3
STEPS = 6
START, CANCEL, DROP = 1, 2, 3
WARM_IOCTL = 1 << 30 | 4 << 16 | ord("w") << 8 | 1  # _IOW('w', 1, uint32_t)


# --- chains ---------------------------------------------------------------------------------------


@dataclass
class Chain:
    """A source, and the true folder of every version."""

    source: Path
    base: Path | None  # None: the source says where it is
    folders: dict[str, Path]

    @property
    def names(self) -> list[str]:
        """Versions but the base, oldest first."""
        return [name for name in self.folders if name != "base"]

    def mount(self, mount, *options) -> Mount:
        return mount(self.source, *options, base=self.base)

    def shards(self, name: str) -> list[str]:
        return sorted(path.name for path in self.folders[name].glob("*.safetensors"))

    def shard_bytes(self, name: str) -> int:
        return sum((self.folders[name] / shard).stat().st_size for shard in self.shards(name))

    def largest_shard(self, name: str) -> str:
        return max(self.shards(name), key=lambda shard: (self.folders[name] / shard).stat().st_size)

    def memory_for(self, versions: int) -> str:
        """A --memory in which as many versions as that fit, and next to nothing more.

        Of a small budget a quarter is for replies, and half of the rest is not for warm versions.
        """
        largest = max(self.shard_bytes(name) for name in self.names)
        budget = int((versions + 0.05) * largest / 0.375)
        assert (16 << 20) <= budget <= (64 << 20)
        return str(budget)


def make_state(shapes=None) -> State:
    rng = np.random.default_rng(71)
    return {name: Tensor("BF16", shape, rng.integers(0, 120, int(np.prod(shape)) * 2, dtype=np.uint8))
            for name, shape in (shapes or SHAPES).items()}


def states_of_a_run() -> list[State]:
    """About 1 % changes in a step; now and then a tensor does not."""
    rng = np.random.default_rng(72)
    states = [make_state()]
    for step in range(1, STEPS + 1):
        state = next_state(states[-1], rng)
        if step % 2 == 0:
            state["b.weight"] = states[-1]["b.weight"].copy()
        states.append(state)
    return states


def make_chain(kind: str, folder: Path) -> Chain:
    """weight_v with digests, trl, or a native store; STEPS versions on a base."""
    states = states_of_a_run()
    base = write_model(folder / "base", states[0], SHARDS, {"model_type": "test"})
    source = folder / "source"
    if kind == "native":
        folders = {"base": base} | {
            f"step-{i}": write_model(folder / f"step-{i}", state, SHARDS, {"model_type": "test", "step": i // 3})
            for i, state in enumerate(states[1:], start=1)}
        return Chain(make_store(source, folders), None, folders)
    module = trl if kind == "trl" else weight_v
    writer = trl.TrlWriter(source, anchor_interval=100) if kind == "trl" else weight_v.WeightVWriter(source, states[0])
    for state in states if kind == "trl" else states[1:]:
        writer.publish(state)
    folders = module.decode(source, base, folder / "decoded")
    if kind == "trl":
        del folders["step_000001"]  # the anchor: it lies on disk as it is
    return Chain(source, base, folders)


def make_large(folder: Path, tensors: int = 24, rows: int = 2048, shards: int = 1) -> Chain:
    """weight_v, one file unless more `shards` are wanted, tensors of 4 MiB; two versions."""
    rng = np.random.default_rng(73)
    state = make_state({f"model.layers.{i}.weight": (rows, 1024) for i in range(tensors)})
    base = write_model(folder / "base", state, shards, {"model_type": "test"})
    writer = weight_v.WeightVWriter(folder / "source", state)
    for _ in range(2):
        state = next_state(state, rng)
        writer.publish(state)
    return Chain(folder / "source", base, weight_v.decode(folder / "source", base, folder / "decoded"))


@pytest.fixture(scope="module", params=["weight_v", "trl", "native"])
def chain(request, tmp_path_factory):
    return make_chain(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """For what does not depend on the format."""
    return make_chain("weight_v", tmp_path_factory.mktemp("foreign"))


@pytest.fixture(params=["kernel", "copy"])
def serving(request):
    """Options of a mount whose warm files are read by the kernel, or copied by the daemon."""
    return ["--passthrough=off"] if request.param == "copy" else []


# --- mappings, which outlive their descriptor ----------------------------------------------------


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Mapping:
    """A file, mapped without a descriptor: Python's own mmap keeps one."""

    def __init__(self, path: Path, flags: int = mmap.MAP_SHARED):
        with open(path, "rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            self._at = _libc.mmap(None, self.size, mmap.PROT_READ, flags, file.fileno(), 0)
        if self._at == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"mmap of {path}")
        self.view = memoryview((ctypes.c_ubyte * self.size).from_address(self._at)).cast("B")

    def close(self) -> None:
        if self._at is not None:
            self.view.release()
            assert _libc.munmap(self._at, self.size) == 0
            self._at = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@contextmanager
def mapped(folder: Path, names: list[str]):
    """Mappings of files of a folder, by name."""
    held = {name: Mapping(folder / name) for name in names}
    try:
        yield held
    finally:
        for mapping in held.values():
            mapping.close()


class Child:
    """A forked process that holds what this one has mapped, and nothing else happens in."""

    def __init__(self):
        self._stay, release = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(release)
            os.read(self._stay, 1)
            os._exit(0)
        self._release = release

    def close(self):
        os.close(self._release)
        os.close(self._stay)
        assert os.waitpid(self.pid, 0)[1] == 0


def hold(kind, path):
    """(what holds the file, a function that tells its bytes)"""
    if kind == "descriptor":
        file = open(path, "rb", buffering=0)
        return file, lambda: os.pread(file.fileno(), 1 << 30, 0)
    mapping = Mapping(path)
    if kind == "child":
        child = Child()
        mapping.close()
        return child, None
    return mapping, lambda: bytes(mapping.view)


# --- ways to read a file --------------------------------------------------------------------------


def by_pread(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        pieces, at = [], 0
        while piece := os.pread(file.fileno(), 300_001, at):
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)


def by_mmap(path: Path) -> bytes:
    with Mapping(path) as mapping:
        return bytes(mapping.view)


def by_private_mmap(path: Path) -> bytes:
    with Mapping(path, mmap.MAP_PRIVATE) as mapping:
        return bytes(mapping.view)


def by_sendfile(path: Path) -> bytes:
    target = os.memfd_create("sendfile")
    try:
        with open(path, "rb") as file:
            at = 0
            while sent := os.sendfile(target, file.fileno(), at, 1 << 20):
                at += sent
        return os.pread(target, at + 1, 0)
    finally:
        os.close(target)


def by_o_direct(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 1 << 20) as buffer:
            pieces, at = [], 0
            while count := os.preadv(descriptor, [buffer], at):
                pieces.append(buffer[:count])
                at += count
            return b"".join(pieces)
    finally:
        os.close(descriptor)


READERS = {"pread": by_pread, "mmap": by_mmap, "private_mmap": by_private_mmap, "sendfile": by_sendfile,
           "o_direct": by_o_direct}


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def assert_reads(found: Path, expected: Path, reader=by_pread) -> None:
    """The same files with the same bytes, read in this way."""
    names = files_below(expected)
    assert files_below(found) == names
    for name in names:
        content = (expected / name).read_bytes()
        if content:  # nothing can be mapped of an empty file
            assert reader(found / name) == content, f"{found / name}: other bytes"


# --- commands and states --------------------------------------------------------------------------


def warm(mounted: Mount, name: str, *options) -> str:
    return succeed("warm", *options, mounted.path, name)


def start_warm(mounted: Mount, name: str, *options) -> subprocess.Popen:
    return subprocess.Popen([BINARY, "warm", *options, mounted.path, name], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, status: int = 0, timeout: float = 30) -> str:
    """Waits for a command; what it wrote to stderr."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == status, f"{process.args}: {process.returncode}\n{errors}{output}"
    return errors


def control_file(mounted: Mount, name: str) -> Path:
    return mounted.path / ".weightfs" / "versions" / name / "warm.json"


def tell(mounted: Mount, name: str, command: int) -> None:
    """What the command line does, without its process."""
    with open(control_file(mounted, name), "rb") as file:
        fcntl.ioctl(file, WARM_IOCTL, command.to_bytes(4, "little"))


def state_of(mounted: Mount, name: str) -> dict:
    return json.loads(control_file(mounted, name).read_text())


def version_of(mounted: Mount, name: str) -> dict:
    return next(version for version in mounted.status()["versions"] if version["name"] == name)


def wait_for(condition, what: str, timeout: float = 15, pause: float = 0.01):
    """The first answer of condition() that is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(pause)
    return answer


def wait_for_state(mounted: Mount, name: str, *states: str, timeout: float = 15) -> dict:
    def reached():
        state = state_of(mounted, name)
        return state if state["state"] in states else None

    return wait_for(reached, f"{name} {' or '.join(states)}", timeout)


def assert_no_errors(mounted: Mount) -> None:
    counters = mounted.counters()
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0


def warm_memory(mounted):
    return mounted.status()["memory"]["warm"]


def needs_passthrough(mounted):
    state = mounted.status()["kernel"]["passthrough"]
    if state != "on":
        pytest.skip(f"the kernel does not read files itself here: {state}")


def drop_page_cache(folder):
    """Pages of a folder's files, as far as nobody maps them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
