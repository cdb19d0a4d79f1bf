# SPDX-License-Identifier: Apache-2.0
"""The series that weightfs_reader measures: how fast the bytes of one version come, by what holds them.

    plain       the newest version as plain files, in the page cache
    disk        the same after dropping them from the page cache (POSIX_FADV_DONTNEED)
    tmpfs       the same in a tmpfs of huge pages: what reading from memory with passthrough can give; needs root
                and memory for another copy
    cold        a version read for the first time from a fresh daemon; its sources are in the page cache
    waited      the same with --warm-on-open=wait and room for the version: decoded before opens return
    second      what was read cold, read again
    page-cache  after `weightfs warm --to page-cache`
    memory      after `weightfs warm --to memory`
    untouched   the version `base` through the mount, which no delta touches
    relayed     the same from a fresh daemon with --passthrough=off, which decodes nothing and only copies: what cold
                reads through FUSE can give
    fill        `weightfs warm --to memory` itself, beside memcpy of as many bytes into fresh huge pages, same threads
    recycle     the same with room for two versions, when it replaces the older of two; memcpy into touched huge pages
    latency     random reads of 4 KiB, and reads of headers, from a fresh daemon

With --method direct a plain file is read from the disk in every series, and so is a mounted one whose files the kernel
reads itself; compare those with the other methods' rows.  A tmpfs that takes O_DIRECT copies from memory all the same.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import SOURCES, Model, shards_of, version_name
from samples import Key, Samples
from tools import Failed, Mounted, drop_from_page_cache, huge_tmpfs, read

METHODS = ("pread", "direct", "mmap-touch", "mmap-copy")
RANDOM_READS = 2000
READ_BYTES = 4096
SMALLEST_MEMORY = 16 << 20  # that --memory takes


@dataclass
class Bench:
    """One model and how it is measured."""

    model: Model
    samples: Samples
    point: Path  # where it is mounted
    methods: list[str]
    readers: list[int]
    files: str = "all"
    sources: tuple[str, ...] = SOURCES
    warm_threads: int = os.cpu_count() or 1
    by_file: bool = False  # each reader takes whole shards
    open_late: bool = False  # shards are opened when a reader comes to them

    def mount(self, source: str, *options: str) -> Mounted:
        base = self.model.base if source == "weight_v" else None
        return Mounted(self.model.folder / source, base, self.point, *options)

    def mount_for_memory(self, source: str, *options: str) -> Mounted:
        """Room for a version and for whatever else the daemon keeps."""
        return self.mount(source, "--memory", f"{self.model.bytes * 3 // 2 + (512 << 20)}", *options)

    def version(self, depth: int) -> Path:
        return self.point / version_name(depth)

    def warm(self, mounted: Mounted, depth: int, to: str) -> float:
        """Seconds that `weightfs warm` took; a remark when not all of the version is in memory afterwards."""
        done = mounted.warm(version_name(depth), to)
        if to == "memory" and done.get("memory_bytes", self.model.bytes) < self.model.bytes:
            self.samples.note(f"warm: only {done['memory_bytes']} of {self.model.bytes} bytes were brought into memory")
        return float(done["seconds"])

    def passes(self) -> Iterator[tuple[str, int]]:
        """(method, readers) to measure; while warming up only with the most readers."""
        for method in self.methods:
            for readers in self.readers if not self.samples.warming else [max(self.readers)]:
                yield method, readers

    def chains(self) -> Iterator[tuple[str, int]]:
        """(source, depth) of every version that is read through a mount."""
        for source in self.sources:
            for depth in self.model.depths:
                yield source, depth

    def expected(self, method: str, depth: int) -> int:
        sums = self.model.sums(depth)["touched" if method == "mmap-touch" else "words"]
        return (sums[0] if self.files == "one" else sum(sums)) % 2**64

    def read(self, series: str, folder: Path, method: str, readers: int, source: str = "", depth: int = 0,
             content: int | None = None) -> None:
        """Reads a folder and notes it; while warming up the bytes are checked against those of depth `content`."""
        key = Key(series, "", source, depth, method, readers)
        options = ["--files", self.files]
        options += ["--by-file"] if self.by_file else []
        options += ["--open-late"] if self.open_late else []
        options += ["--sum"] if self.samples.warming else []
        try:
            done = read(method, readers, shards_of(folder), *options)
        except Failed as error:
            self.samples.note(f"{series} {source} by {method}: {error}")
            return
        if "sum" in done:
            content = depth if content is None else content
            if done["sum"] != self.expected(method, content):
                raise SystemExit(f"wrong bytes: {key} has the sum {done['sum']}")
            for count in self.readers:
                self.samples.sums[Key(series, "", source, depth, method, count)] = done["sum"]
        self.samples.add(key, done["seconds"], done["bytes"])


def plain(bench: Bench) -> None:
    read("pread", max(bench.readers), shards_of(bench.model.plain))  # the first one after a pause is slow
    for method, readers in bench.passes():
        bench.read("plain", bench.model.plain, method, readers, content=bench.model.deepest)


def disk(bench: Bench) -> None:
    shards = shards_of(bench.model.plain)
    for method, readers in bench.passes():
        drop_from_page_cache(shards)
        bench.read("disk", bench.model.plain, method, readers, content=bench.model.deepest)
    read("pread", 1, shards)


def tmpfs(bench: Bench) -> None:
    allowed = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    if not allowed.exists() or "[deny]" in allowed.read_text():
        bench.samples.note("tmpfs: without huge pages, which this machine denies it")
    size = bench.model.bytes + (64 << 20)  # each file takes whole huge pages
    try:
        with huge_tmpfs(bench.model.folder / "tmpfs", size) as point:
            copied = shutil.copytree(bench.model.plain, point / "plain")
            for method, readers in bench.passes():
                bench.read("tmpfs", copied, method, readers, content=bench.model.deepest)
    except (Failed, OSError) as error:
        bench.samples.note(f"left out: tmpfs: {' '.join(str(error).split())}")


def cold(bench: Bench, second: bool) -> None:
    for source, depth in bench.chains():
        for method, readers in bench.passes():
            with bench.mount(source) as mounted:
                bench.samples.add(Key("mount", source=source, depth=bench.model.deepest), mounted.seconds)
                for series in ("cold", "second") if second else ("cold",):
                    bench.read(series, bench.version(depth), method, readers, source, depth)


def waited(bench: Bench) -> None:
    for source, depth in bench.chains():
        for method, readers in bench.passes():
            with bench.mount_for_memory(source, "--warm-on-open=wait"):
                bench.read("waited", bench.version(depth), method, readers, source, depth)


def warmed(bench: Bench, to: str) -> None:
    for source, depth in bench.chains():
        with bench.mount_for_memory(source) as mounted:
            bench.warm(mounted, depth, to)
            for method, readers in bench.passes():
                bench.read(to, bench.version(depth), method, readers, source, depth)


def untouched(bench: Bench) -> None:
    for method, readers in bench.passes():
        with bench.mount(bench.sources[0]):
            bench.read("untouched", bench.version(0), method, readers)


def relayed(bench: Bench) -> None:
    for method, readers in bench.passes():
        with bench.mount(bench.sources[0], "--passthrough=off"):
            bench.read("relayed", bench.version(0), method, readers)


def memcpy(bench: Bench, series: str, *options: str) -> None:
    done = read("fill-memcpy", bench.warm_threads, shards_of(bench.model.plain), *options)
    bench.samples.add(Key(series, "memcpy"), done["seconds"], done["bytes"])


def fill(bench: Bench) -> None:
    memcpy(bench, "fill")
    for source, depth in bench.chains():
        with bench.mount_for_memory(source) as mounted:
            seconds = bench.warm(mounted, depth, "memory")
        bench.samples.add(Key("fill", "warm", source, depth), seconds, bench.model.bytes)


def recycle(bench: Bench) -> None:
    depth = bench.model.deepest
    if depth < 3:
        bench.samples.note("recycle takes three versions on top of the base: a depth of 3 or more")
        return
    memcpy(bench, "recycle", "--refill")
    for source in bench.sources:
        with bench.mount(source, "--memory", f"{max(bench.model.bytes * 11 // 5, SMALLEST_MEMORY)}") as mounted:
            for one in (depth - 2, depth - 1, depth):
                seconds = bench.warm(mounted, one, "memory")
        bench.samples.add(Key("recycle", "warm", source, depth), seconds, bench.model.bytes)


def timed_header(path: Path) -> float:
    """Seconds to open a file and read its header as loaders do: 8 bytes, then as many as they say."""
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, 0))
        text = os.pread(file.fileno(), length, 8)
    seconds = time.perf_counter() - start
    if len(text) != length:
        raise SystemExit(f"wrong bytes: the header of {path} ends early")
    return seconds


def random_reads(shards: list[Path], count: int) -> list[float]:
    """Seconds of each of `count` reads of one page at random places."""
    descriptors = [os.open(shard, os.O_RDONLY) for shard in shards]
    pages = [os.fstat(descriptor).st_size // READ_BYTES for descriptor in descriptors]
    chosen = random.Random(5)
    result = []
    for descriptor in chosen.choices(descriptors, pages, k=count):
        at = chosen.randrange(pages[descriptors.index(descriptor)]) * READ_BYTES
        start = time.perf_counter()
        os.pread(descriptor, READ_BYTES, at)
        result.append(time.perf_counter() - start)
    for descriptor in descriptors:
        os.close(descriptor)
    return result


def latencies(bench: Bench, folder: Path, source: str = "", depth: int = 0) -> None:
    shards = shards_of(folder)
    bench.samples.add(Key("latency", "header", source, depth), list(map(timed_header, shards)))
    bench.samples.add(Key("latency", "4 KiB", source, depth), random_reads(shards, RANDOM_READS))


def latency(bench: Bench) -> None:
    latencies(bench, bench.model.plain)
    for source in bench.sources:
        for depth in sorted({min(bench.model.depths), bench.model.deepest}):
            with bench.mount(source):
                latencies(bench, bench.version(depth), source, depth)


def functions(chosen: list[str]) -> dict:
    """Series name -> what measures one sample of each of its rows; `second` goes with `cold`."""
    every = {"plain": plain, "disk": disk, "tmpfs": tmpfs, "cold": lambda bench: cold(bench, "second" in chosen),
             "waited": waited,
             "page-cache": lambda bench: warmed(bench, "page-cache"), "memory": lambda bench: warmed(bench, "memory"),
             "untouched": untouched, "relayed": relayed, "fill": fill, "recycle": recycle, "latency": latency}
    wanted = set(chosen) | ({"cold"} if "second" in chosen else set())
    return {name: function for name, function in every.items() if name in wanted}
