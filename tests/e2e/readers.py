# SPDX-License-Identifier: Apache-2.0
"""Readers that check every byte, each a process tree of its own, and take the time of every operation.

They go on while daemons are killed, and say at the end what they saw.
"""

import errno
import json
import mmap
import os
import random
import signal
import struct
import time
import traceback
from pathlib import Path

import pytest
from following import Run, number_of, wait_until

PINNED_FILES = ("config.json", "model.safetensors.index.json")


class Truth:
    """True folders, also of versions that are published later: known by their names."""

    def __init__(self, run: Run):
        self.base = run.base
        self.folder = run.place / f"{run.title}-true"
        self.files = sorted(path.relative_to(run.base).as_posix() for path in run.base.rglob("*") if path.is_file())
        self.shards = [name for name in self.files if name.endswith(".safetensors")]
        self.top = set(os.listdir(run.base))
        self._known: dict[tuple[str, str], bytes] = {}

    def __call__(self, version: str, name: str) -> bytes:
        if (version, name) not in self._known:
            if len(self._known) > 200:
                self._known.clear()
            folder = self.base if version == "base" else self.folder / version
            self._known[version, name] = (folder / name).read_bytes()
        return self._known[version, name]


class Reader:
    """One process; a subclass's round() is what it does again and again."""

    def __init__(self, mount: str, truth: Truth, keep: int | None):
        self.mount, self.truth, self.keep = mount, truth, keep
        self.operations = self.bytes = 0
        self.longest, self.slowest = 0.0, ""

    def timed(self, what, function, *arguments):
        began = time.monotonic()
        try:
            return function(*arguments)
        except OSError as error:
            if not error.filename:
                error.filename = str(arguments[:1])
            error.strerror = f"{error.strerror} ({what}, after {time.monotonic() - began:.3f} s)"
            raise
        finally:
            took = time.monotonic() - began
            self.operations += 1
            if took > self.longest:
                self.longest, self.slowest = took, what

    def check(self, found: bytes, expected: bytes, what: str) -> None:
        self.bytes += len(found)
        if found != expected:
            at = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), -1)
            raise AssertionError(f"{what}: wrong bytes, {len(found)} instead of {len(expected)}, first at {at}")

    def names(self) -> list[str]:
        return sorted((name for name in self.timed("listdir", os.listdir, self.mount) if name != "latest"),
                      key=number_of)

    def open_some(self) -> tuple[str, str, int]:
        """(version, file, descriptor) of something that is listed; again when --keep was faster."""
        while True:
            version, name = random.choice(self.names()), random.choice(self.truth.files)
            try:
                return version, name, self.timed("open", os.open, f"{self.mount}/{version}/{name}", os.O_RDONLY)
            except FileNotFoundError:
                assert self.keep is not None and version not in self.names(), f"{version}/{name} is not there"

    def round(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """After the last round."""


class Preader(Reader):
    """Reads pieces, half of them past the page cache."""

    def round(self):
        version, name, file = self.open_some()
        try:
            expected = self.truth(version, name)
            for _ in range(4):
                start, length = random.randrange(len(expected) + 1), random.choice([1, 4096, 50000, 1 << 20])
                if random.random() < 0.5:
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                found = self.timed("pread", os.pread, file, length, start)
                self.check(found, expected[start:start + length], f"{version}/{name} at {start}")
        finally:
            self.timed("close", os.close, file)


class Mapper(Reader):
    """Maps files, and looks at their pages now, later, and when others have been mapped."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.held = []

    def page(self, version, name, mapped, start):
        end = min(start + mmap.PAGESIZE, len(mapped))
        found = self.timed("page", lambda: mapped[start:end])
        self.check(found, self.truth(version, name)[start:end], f"{version}/{name} mapped, at {start}")

    def round(self):
        version, name, file = self.open_some()
        try:
            mapped = mmap.mmap(file, 0, prot=mmap.PROT_READ, flags=random.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE]))
        finally:
            self.timed("close", os.close, file)
        self.held.append((version, name, mapped))
        for held in random.sample(self.held, min(2, len(self.held))):
            self.page(*held, random.randrange(0, len(held[2]), mmap.PAGESIZE))
        if len(self.held) > 6:
            self.let_go()

    def let_go(self):
        version, name, mapped = self.held.pop(random.randrange(len(self.held)))
        for start in range(0, len(mapped), mmap.PAGESIZE):
            self.page(version, name, mapped, start)
        mapped.close()

    def end(self):
        while self.held:
            self.let_go()


class Holder(Reader):
    """Has files and folders open for long: until the rounds end, or some seconds."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.held = []

    def round(self):
        if len(self.held) < 6:
            version, name, file = self.open_some()
            # By the file's own folder: the name may have left by now.
            self.held.append((version, name, file, time.monotonic() + random.uniform(1, 6)))
        for version, name, file, _ in self.held:
            expected = self.truth(version, name)
            start = random.randrange(len(expected))
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            found = self.timed("held pread", os.pread, file, 4096, start)
            self.check(found, expected[start:start + 4096], f"{version}/{name} held, at {start}")
        for held in [held for held in self.held if held[3] < time.monotonic()]:
            self.let_go(held)

    def let_go(self, held):
        version, name, file, _ = held
        found = self.timed("held pread", os.pread, file, 1 << 30, 0)
        self.check(found, self.truth(version, name), f"{version}/{name} held")
        self.timed("close", os.close, file)
        self.held.remove(held)

    def end(self):
        for held in list(self.held):
            self.let_go(held)


class Lister(Reader):
    """What was shown stays shown; sizes are true; the status is whole."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen: set[str] = set()

    def round(self):
        names = self.names()
        newest = number_of(names[-1])
        oldest = max(newest - self.keep + 1, 0) if self.keep else 0  # older ones may be listed for who is pinned
        assert "base" in names and newest >= max(map(number_of, self.seen), default=0), f"{names} after {self.seen}"
        lost = {name for name in self.seen if name != "base" and number_of(name) >= oldest} - set(names)
        assert not lost, f"{lost} shown before, now {names}"
        self.seen.update(names)
        version, name = random.choice(names), random.choice(self.truth.files)
        try:
            size = self.timed("stat", os.stat, f"{self.mount}/{version}/{name}").st_size
            entries = set(self.timed("listdir", os.listdir, f"{self.mount}/{version}"))
        except FileNotFoundError:
            assert self.keep is not None and version not in self.names(), f"{version}/{name} is not there"
            return
        assert size == len(self.truth(version, name)) and entries == self.truth.top, f"{version}: {size}, {entries}"
        found = json.loads(self.status())
        odd = [(entry["name"], entry["state"], entry["error"]) for entry in found["versions"]
               if entry["state"] not in ("admitted", "waiting")]
        assert found["supervisor"]["pid"] and not odd, odd


    def status(self) -> bytes:
        """A text that was begun before a kill cannot be read on: it is asked for again."""
        while True:
            try:
                return self.timed("status", Path(f"{self.mount}/.weightfs/status.json").read_bytes)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise


def of_one_process(function):
    """function() in a process tree of its own: what it returns, a short text."""
    out, into = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            try:
                while os.getppid() != 1:  # until then it belongs to our tree, and shares its pin
                    time.sleep(0.0005)
                text = function()
            except BaseException:
                text = "!" + traceback.format_exc()
            os.write(into, text.encode()[-4000:])
        os._exit(0)
    os.close(into)
    os.waitpid(middle, 0)
    with open(out) as file:
        text = file.read()
    assert text and not text.startswith("!"), text or "a process ended without a word"
    return text


class Loader(Reader):
    """Every round is a new process that loads by the path through `latest`: all it gets is of one version."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = 0

    def load(self) -> str:
        self.longest, self.operations, self.bytes = 0.0, 0, 0
        version = self.timed("readlink", os.readlink, f"{self.mount}/latest")
        for name in [*PINNED_FILES, *self.truth.shards]:
            file = self.timed("open latest", os.open, f"{self.mount}/latest/{name}", os.O_RDONLY)
            assert self.timed("getxattr", os.getxattr, file, "user.weightfs.version").decode() == version, name
            self.check(self.timed("pread", os.pread, file, 1 << 30, 0), self.truth(version, name), f"latest/{name}")
            self.timed("close", os.close, file)
        assert self.timed("readlink", os.readlink, f"{self.mount}/latest") == version, "unpinned"
        return json.dumps([version, self.longest, self.slowest, self.operations, self.bytes])

    def round(self):
        operations, count = self.operations, self.bytes
        version, longest, slowest, more, read = json.loads(of_one_process(self.load))
        self.operations, self.bytes = operations + more, count + read
        if longest > self.longest:
            self.longest, self.slowest = longest, slowest
        assert number_of(version) >= self.seen, f"latest went from {self.seen} back to {version}"
        self.seen = number_of(version)


KINDS = [Preader] * 4 + [Mapper] * 4 + [Holder] * 3 + [Lister] * 2 + [Loader] * 3
PAUSE = 0.003  # between rounds, so that sixteen of them leave time for others


class Readers:
    """Processes of all kinds, from entering until finish()."""

    def __init__(self, mounted, run: Run, keep: int | None):
        self.place = run.place / "readers"
        self.place.mkdir(exist_ok=True)
        self.arguments = (str(mounted.path), Truth(run), keep)
        self.flag = mmap.mmap(-1, mmap.PAGESIZE)  # the stop, then one number of rounds a reader
        self.pids: list[int] = []

    def rounds(self) -> list[int]:
        return list(struct.unpack_from(f"{len(KINDS)}Q", self.flag, 8))

    def __enter__(self):
        for index, kind in enumerate(KINDS):
            pid = os.fork()
            if pid == 0:
                self.be(index, kind)
            self.pids.append(pid)
        return self

    def be(self, index, kind):
        problem, reader = "", None
        try:
            os.setsid()
            random.seed(index)
            reader = kind(*self.arguments)
            while not self.flag[0]:
                reader.round()
                struct.pack_into("Q", self.flag, 8 + 8 * index, self.rounds()[index] + 1)
                time.sleep(PAUSE)
            reader.end()
        except BaseException:
            problem = traceback.format_exc()
            self.flag[1] = 1
        report = {"kind": kind.__name__, "rounds": self.rounds()[index], "problem": problem}
        if reader is not None:
            report |= {name: getattr(reader, name) for name in ("operations", "bytes", "longest", "slowest")}
        (self.place / f"{index}.tmp").write_text(json.dumps(report))
        (self.place / f"{index}.tmp").rename(self.place / f"{index}.json")
        os._exit(0)

    def is_troubled(self) -> bool:
        return bool(self.flag[1])

    def finish(self, limit: float = 30) -> list[dict]:
        self.flag[0] = 1
        reports = [self.place / f"{index}.json" for index in range(len(KINDS))]
        wait_until(lambda: all(report.exists() for report in reports), limit,
                   lambda: f"stuck: {[KINDS[i].__name__ for i, report in enumerate(reports) if not report.exists()]}")
        return [json.loads(report.read_text()) for report in reports]

    def __exit__(self, *_):
        self.flag[0] = 1
        deadline = time.monotonic() + 15
        for pid in self.pids:
            while os.waitpid(pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    deadline += 5
                time.sleep(0.01)


def summary(reports: list[dict]) -> dict:
    """What all readers did; fails when one of them had a problem."""
    problems = [f"{report['kind']}: {report['problem']}" for report in reports if report["problem"]]
    slowest = max(reports, key=lambda report: report.get("longest", 0.0))
    found = {"rounds": sum(report["rounds"] for report in reports),
             "operations": sum(report["operations"] for report in reports),
             "bytes": sum(report["bytes"] for report in reports), "problems": len(problems),
             "longest": round(slowest["longest"], 3), "slowest": f"{slowest['kind']} {slowest['slowest']}"}
    if problems:
        pytest.fail("\n".join([str(found), *problems[:3]]))
    return found
