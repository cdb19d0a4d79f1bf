# SPDX-License-Identifier: Apache-2.0
"""The two programs that are measured with: `weightfs` (WEIGHTFS_BIN) and `weightfs_reader` (WEIGHTFS_READER)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "release"
WEIGHTFS = Path(os.environ.get("WEIGHTFS_BIN") or BUILD / "weightfs")
READER = Path(os.environ.get("WEIGHTFS_READER") or
              WEIGHTFS.absolute().parent / "tests" / "bench" / "read_path" / "weightfs_reader")


class Failed(RuntimeError):
    """A command ended with an error."""


def run(*command) -> str:
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def weightfs(*arguments) -> str:
    return run(WEIGHTFS, *arguments)


def can_warm() -> bool:
    try:
        weightfs("warm", "-h")
    except Failed:
        return False
    return True


def read(method: str, readers: int, files: list[Path], *options: str) -> dict:
    """One pass of the reader: {"bytes", "seconds", "gb_per_s", and "sum" with the option --sum}."""
    return json.loads(run(READER, "--method", method, "--readers", readers, *options, *files))


def drop_from_page_cache(files: list[Path]) -> None:
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def huge_tmpfs(point: Path, size: int) -> Iterator[Path]:
    """An empty tmpfs of huge pages at `point`, which goes away with what lies in it; Failed where none can be had."""
    point.mkdir(exist_ok=True)
    try:
        run("mount", "-t", "tmpfs", "-o", f"huge=always,size={size}", "none", point)
        try:
            yield point
        finally:
            run("umount", "-l", point)  # a reader that has just ended may hold it for a moment
    finally:
        point.rmdir()


class Mounted:
    """A mount by a fresh daemon, for a `with` statement."""

    def __init__(self, source: Path, base: Path | None, point: Path, *options: str):
        self.point = point
        point.mkdir(exist_ok=True)
        named = ["--base", base] if base else []
        start = time.perf_counter()
        weightfs("mount", *named, *options, source, point)
        self.seconds = time.perf_counter() - start  # until the mount serves

    def __enter__(self) -> Mounted:
        return self

    def __exit__(self, *_) -> None:
        for attempt in range(5):
            try:
                weightfs("umount", self.point)
                return
            except Failed as error:
                if attempt == 4 or not os.path.ismount(self.point):
                    raise
                print(f"trying again: {error}", file=sys.stderr, flush=True)
                time.sleep(0.2 * (attempt + 1))  # a reader that has just ended may hold it for a moment

    def warm(self, version: str, to: str) -> dict:
        """Brings a version to `to` ("memory" or "page-cache"); returns the command's report with its "seconds"."""
        start = time.perf_counter()
        text = weightfs("warm", self.point, version, "--to", to, "--json")
        wall = time.perf_counter() - start
        return {"seconds": wall, **(json.loads(text) if text.strip() else {})}
