# SPDX-License-Identifier: Apache-2.0
"""Mounts that are measured: timed, looked at by status counters, and always taken down again."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BINARY = os.environ.get("WEIGHTFS_BIN") or str(ROOT / "build" / "release" / "weightfs")
PAGE = 4096


def weightfs(*arguments) -> str:
    done = subprocess.run([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"weightfs {' '.join(map(str, arguments))}: {done.returncode}\n{done.stderr}")
    return done.stdout


class Mounted:
    """with Mounted(SOURCE, POINT, OPTION...) as mounted: ..."""

    def __init__(self, source: Path, point: Path, *options: str):
        point.mkdir(exist_ok=True)
        self.point = point
        start = time.perf_counter()
        weightfs("mount", *options, "--log-file", point.parent / "mount.log", source, point)
        self.seconds = time.perf_counter() - start

    def __enter__(self) -> "Mounted":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            weightfs("umount", self.point)
        else:  # something went wrong that should be seen, not how the mount ended
            subprocess.run(["fusermount3", "-u", "-z", self.point], check=False, capture_output=True)

    def status(self) -> dict:
        return json.loads(weightfs("status", self.point, "--json"))

    def counters(self) -> dict:
        return self.status()["counters"]


def peak_rss(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def read_page(path: Path, offset: int) -> tuple[float, bytes]:
    """One page: seconds from open() to the bytes, and these."""
    start = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = os.pread(descriptor, PAGE, offset)
        return time.perf_counter() - start, found
    finally:
        os.close(descriptor)


def touch_page(path: Path, offset: int) -> tuple[float, bytes]:
    """The same by a page fault, which the kernel answers with what it reads ahead around it."""
    start = time.perf_counter()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        mapping.madvise(mmap.MADV_NORMAL)
        found = mapping[offset:offset + PAGE]
        return time.perf_counter() - start, found


def read_direct(path: Path, offset: int, buffer: mmap.mmap) -> float:
    """One page past the page cache, into `buffer`: seconds of the read alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        start = time.perf_counter()
        count = os.preadv(descriptor, [buffer], offset)
        seconds = time.perf_counter() - start
        assert count == PAGE
        return seconds
    finally:
        os.close(descriptor)


def drop_caches(*folders: Path, gently: bool = False) -> str:
    """Makes the next reads come from disk; says how.  `gently`, or without root: these folders' files alone, of which
    names and inodes stay in memory."""
    how = "posix_fadvise"
    if not gently and os.access("/proc/sys/vm/drop_caches", os.W_OK):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        how = "drop_caches"
    else:
        for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    weightfs("--version")  # the program itself is not what is measured
    return how


def warm_up(*folders: Path) -> None:
    """Reads every file that takes disk space; holes of sparse files are left alone."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size == 0:
            continue
        with open(path, "rb", buffering=0) as file:
            limit = file.seek(0, os.SEEK_HOLE)
            file.seek(0)
            while file.tell() < limit and file.read(min(8 << 20, limit - file.tell())):
                pass


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
