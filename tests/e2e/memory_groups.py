# SPDX-License-Identifier: Apache-2.0
"""Control groups with a memory limit, of either version, for what is started inside them."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A group that was made for one test."""

    def __init__(self, path: Path, is_unified: bool):
        self.path, self.is_unified = path, is_unified

    def _file(self, unified: str, legacy: str) -> Path:
        return self.path / (unified if self.is_unified else legacy)

    def set_limit(self, limit: int) -> None:
        self._file("memory.max", "memory.limit_in_bytes").write_text(str(limit))
        swap = self._file("memory.swap.max", "memory.memsw.limit_in_bytes")
        if swap.exists():  # of the old kind it counts memory and swap together
            swap.write_text("0" if self.is_unified else str(limit))

    def run(self, *command, timeout: float = 120) -> subprocess.CompletedProcess:
        """A command inside; what it leaves running stays inside."""
        inside = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', self.path / "cgroup.procs", *command]
        return subprocess.run(list(map(str, inside)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout)

    def _numbers(self, path: Path) -> dict[str, int]:
        return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}

    def kept(self) -> int:
        """Bytes that are charged to it and that the kernel cannot drop: anonymous memory, and files in memory."""
        stat = self._numbers(self.path / "memory.stat")
        return stat["anon" if self.is_unified else "rss"] + stat["shmem"]

    def page_cache(self) -> int:
        """Bytes of files on disk, and of mounts, whose pages are charged to it."""
        stat = self._numbers(self.path / "memory.stat")
        return stat["file" if self.is_unified else "cache"] - stat["shmem"]

    def kills(self) -> int:
        return self._numbers(self._file("memory.events", "memory.oom_control"))["oom_kill"]

    def remove(self) -> None:
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:  # somebody is just ending in it
                time.sleep(0.05)
        self.path.rmdir()


def _own_path(controllers: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controllers in names.split(","):
            return path.lstrip("/")
    return ""


def make_group() -> MemoryGroup | None:
    """A new group beside or in ours, or at the top; None where that is not allowed."""
    name = f"weightfs-test-{os.getpid()}-{time.monotonic_ns()}"
    for root, own, is_unified, needs in ((ROOT, _own_path(""), True, "memory.max"),
                                         (ROOT / "memory", _own_path("memory"), False, "memory.limit_in_bytes")):
        for parent in (root / own, (root / own).parent, root):
            path = parent / name
            if not parent.is_relative_to(root) or not (parent / "cgroup.procs").exists():
                continue
            try:
                path.mkdir()
            except OSError:
                continue
            if (path / needs).exists() and os.access(path / "cgroup.procs", os.W_OK):
                return MemoryGroup(path, is_unified)
            path.rmdir()
    return None


@contextmanager
def memory_group():
    """The group, or None; it is removed in the end."""
    group = make_group()
    try:
        yield group
    finally:
        if group is not None:
            group.remove()
