# SPDX-License-Identifier: Apache-2.0
"""Daemons that die of a request, hang, or wait for a slow source.

The daemon is tests/faulty/weightfs of the build folder, whose reads go wrong as tests/support/fault_pread.cpp says.
"""

import errno
import json
import mmap
import os
import random
import signal
import subprocess
import threading
import time
import traceback
from pathlib import Path

import pytest
from conftest import BINARY, assert_same_tree
from following import holds_for, make_run, wait_until
from reference.safetensors_io import INDEX_NAME, read_header
from supervised import again, supervise, wait_end

FAULTY = BINARY.parent / "tests" / "faulty" / "mount.weightfs"
LAST, FORMER = "weight_v000003", "weight_v000002"
PAGE = 4096
CALM = 3  # seconds in which whatever goes on would have gone on


class Faults:
    """What is to go wrong in the source, and what has."""

    def __init__(self, folder: Path):
        self.file, self.fired_file = folder / "fault", folder / "fired"

    def set(self, *lines: str) -> None:
        """Reads go wrong like that from now on; without lines, not at all."""
        fresh = self.file.with_name("fault.new")
        fresh.write_text("".join(line + "\n" for line in lines))
        fresh.rename(self.file)

    def fired(self) -> list[int]:
        """The process that it happened to, each time."""
        if not self.fired_file.exists():
            return []
        return [int(line.split()[0]) for line in self.fired_file.read_text().splitlines()]


class Poison:
    """A tensor of a version's delta, and where whoever reads the version finds what is made of it."""

    def __init__(self, run, version: str, tensor: str):
        self.shard, found = self.place_in(run.source / version, tensor)
        _, _, begin, end = found.records[tensor]
        self.range = f"{version}/{self.shard} {found.data_start + begin} {end - begin}"
        shown, made = self.place_in(run.folders[version], tensor)
        self.path = Path(version) / shown
        self.truth = run.folders[version] / shown
        self.offset = (made.data_start + made.records[tensor][2]) // PAGE * PAGE + PAGE

    @staticmethod
    def place_in(folder: Path, tensor: str):
        index = json.loads((folder / INDEX_NAME).read_text())
        shard = index["weight_map"][tensor]
        return shard, read_header(folder / shard)

    def read(self, mounted) -> bytes:
        """One page of it, in one request."""
        file = os.open(mounted / self.path, os.O_RDONLY | os.O_DIRECT)
        try:
            aligned = mmap.mmap(-1, PAGE)
            return aligned[:os.preadv(file, [aligned], self.offset)]
        finally:
            os.close(file)

    def expected(self) -> bytes:
        return self.truth.read_bytes()[self.offset:self.offset + PAGE]

    def assert_refused(self, mounted) -> None:
        with pytest.raises(OSError) as caught:
            self.read(mounted)
        assert caught.value.errno == errno.EIO


class OtherReaders:
    """Read everything but one version all the while, past the page cache; what is wrong, and the longest wait."""

    def __init__(self, mounted, run, *besides: str, pause: float = 0.005, readers: int = 2):
        self.mounted, self.pause, self.count = mounted, pause, readers
        self.files = [(mounted / name / path.name, path.read_bytes()) for name, folder in run.folders.items()
                      if name not in besides for path in sorted(folder.glob("*.safetensors"))]
        self.stop, self.problems, self.reads, self.longest = threading.Event(), [], 0, 0.0

    def work(self, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not self.stop.wait(self.pause):
                path, content = chance.choice(self.files)
                at = chance.randrange(len(content))
                began = time.monotonic()
                with open(path, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    got = os.pread(file.fileno(), 20000, at)
                assert got == content[at:at + 20000], f"{path} at {at}"
                self.longest = max(self.longest, time.monotonic() - began)
                self.reads += 1
        except BaseException:
            self.problems.append(traceback.format_exc())

    def __enter__(self):
        self.threads = [threading.Thread(target=self.work, args=(seed,)) for seed in range(self.count)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert not self.problems, self.problems[0]
        assert self.reads > 0


@pytest.fixture
def run(tmp_path):
    made = make_run("xor", tmp_path)
    for _ in range(3):
        made.publish()
    return made


@pytest.fixture
def faults(run, tmp_path) -> Faults:
    return Faults(tmp_path)


@pytest.fixture
def serve(supervise, run):
    """serve(**OPTIONS) -> a mount of the run by the daemon that can be made to fail."""
    if not FAULTY.exists():
        pytest.skip(f"no {FAULTY}; build the target faulty_weightfs")

    def make(**options):
        given = {"follow": False, "passthrough": "off", "restarts": "20/60"} | options
        return supervise(run, helper=FAULTY, **given)

    return make


def assert_all_right(mounted, run, *besides: str) -> None:
    for name, folder in run.folders.items():
        if name not in besides:
            assert_same_tree(mounted / name, folder)


# --- requests that end the daemon -------------------------------------------------------------------


@again
@pytest.mark.parametrize("fault", ["crash", "segv", "overflow"])
def test_a_request_that_crashes_the_daemon_is_refused_the_third_time(run, faults, serve, fault, attempt):
    mounted = serve()
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"{fault} {poison.range}")
    with OtherReaders(mounted, run, LAST):
        poison.assert_refused(mounted)
    assert len(set(faults.fired())) == len(faults.fired()) == 2
    assert mounted.restarts() == 2
    assert mounted.count("request.refused") == 1
    refused = next(line for line in mounted.log_file.read_text().splitlines() if "request.refused" in line)
    assert "operation 15" in refused and f" {poison.offset}:" in refused
    signal_name = "SIGABRT" if fault == "crash" else "SIGSEGV"
    assert signal_name in mounted.now()["supervisor"]["last_end"]
    assert_all_right(mounted, run, LAST)
    faults.set()
    assert poison.read(mounted) == poison.expected()  # a new request
    mounted.finish()


def test_a_file_that_crashes_the_daemon_is_not_the_end_of_the_mount(run, faults, serve):
    """As a loader reads: many requests at once, of which each is refused on its own."""
    mounted = serve()
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"crash {poison.range}")
    with OtherReaders(mounted, run, LAST):
        with pytest.raises(OSError) as caught:
            (mounted / poison.path).read_bytes()
        assert caught.value.errno == errno.EIO
    assert mounted.restarts() <= 20
    assert_all_right(mounted, run, LAST)
    mounted.finish()


# --- daemons that hang ------------------------------------------------------------------------------


@again
def test_a_daemon_that_hangs_is_replaced_and_its_request_refused_the_second_time(run, faults, serve, attempt):
    mounted = serve(hang=1)
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"hang-outside {poison.range}")
    began = time.monotonic()
    poison.assert_refused(mounted)
    took = time.monotonic() - began
    assert len(set(faults.fired())) == len(faults.fired()) == 2
    assert 2 <= took < 2 * 2 + 1, f"{took:.1f} s"  # twice the limit, and a second each to begin anew
    assert mounted.restarts() == 2
    assert mounted.count("request.refused") == 1
    assert "hung" in mounted.now()["supervisor"]["last_end"]
    assert_all_right(mounted, run, LAST)
    mounted.finish()


def test_whoever_waits_behind_a_hang_is_served_after_it(run, faults, serve):
    """The hanging thread is the only one that has something to do until another reader comes."""
    mounted = serve(hang=1)
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"hang-outside {poison.range}")
    refused = threading.Thread(target=poison.assert_refused, args=(mounted,))
    refused.start()
    wait_until(lambda: len(faults.fired()) == 2, what="a second hang")
    with OtherReaders(mounted, run, LAST, pause=0.4, readers=1) as others:
        time.sleep(CALM)
        assert others.longest < 2.5
    wait_until(lambda: not refused.is_alive(), what="an answer")
    assert_all_right(mounted, run, LAST)
    mounted.finish()


def test_a_stopped_daemon_is_replaced(run, serve):
    """Wherever it is stopped: perhaps just after it has taken a request."""
    mounted = serve(hang=1)
    for stops in range(1, 6):
        os.kill(mounted.daemon(), signal.SIGSTOP)
        began = time.monotonic()
        while mounted.restarts() < stops:  # it was not stopped at once
            pass
        assert time.monotonic() - began < 2.5
    assert_all_right(mounted, run)
    mounted.finish()


# --- sources that are slow --------------------------------------------------------------------------


def test_a_slow_source_is_no_hang(run, faults, serve):
    mounted = serve(hang=1)
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"slow {LAST}/{poison.shard} 3000")
    began = time.monotonic()
    assert poison.read(mounted) == poison.expected()
    assert time.monotonic() - began >= 3
    assert mounted.restarts() == 0
    assert mounted.daemon() == mounted.first
    mounted.finish()


def test_a_source_that_answers_no_more_is_no_hang(run, faults, serve):
    """Nothing is gained by another process, which would wait too; and others are served."""
    mounted = serve(hang=1)
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"hang {poison.range}")
    reader = threading.Thread(target=lambda: suppress(poison.read, mounted), daemon=True)
    reader.start()
    wait_until(faults.fired, what="the read")
    with OtherReaders(mounted, run, LAST):
        holds_for(lambda: mounted.daemon() == mounted.first, CALM, "it is another daemon")
    faults.set()
    mounted.kill()  # by hand
    wait_until(lambda: not reader.is_alive(), what="the answer of the next one")
    assert mounted.restarts() == 1
    mounted.finish()


def test_a_slow_source_is_no_hang_of_a_daemon_that_begins_anew(run, faults, serve):
    mounted = serve(hang=1)
    poison = Poison(run, LAST, "a.weight")
    faults.set(*(f"slow {name}/{poison.shard} 1500" for name in (FORMER, LAST)))
    mounted.kill()
    assert poison.read(mounted) == poison.expected()
    assert mounted.restarts() == 1
    faults.set()
    assert_all_right(mounted, run)
    mounted.finish()


# --- daemons that cannot begin ----------------------------------------------------------------------


def test_a_daemon_that_cannot_start_again_is_given_up(run, faults, serve):
    mounted = serve(restarts="3/60", foreground=True)
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"crash {LAST}/{poison.shard} 0 8")
    file = os.open(mounted / "base" / poison.path.name, os.O_RDONLY)
    mounted.kill()
    mounted.foreground.wait(30)
    assert len(set(faults.fired())) == len(faults.fired()) == 3
    assert mounted.foreground.returncode == 32
    said = mounted.foreground.stderr.read()
    assert "the daemon was ended by signal 6 (SIGABRT); that is once more than restarts=3/60 allows" in said
    for look in (lambda: os.listdir(mounted.path), lambda: os.pread(file, 1, 0)):
        with pytest.raises(OSError) as caught:
            look()
        assert caught.value.errno == errno.ENOTCONN
    os.close(file)
    assert mounted.is_mounted()  # so that nobody takes it for an empty folder


def test_a_daemon_that_can_start_again_in_the_end_serves(run, faults, serve):
    mounted = serve(restarts="100/60")
    poison = Poison(run, LAST, "a.weight")
    faults.set(f"crash {LAST}/{poison.shard} 0 8")
    mounted.kill()
    wait_until(lambda: len(faults.fired()) >= 3, what="starts that fail")
    faults.set()
    assert mounted.restarts() >= 4
    assert_all_right(mounted, run)
    mounted.finish()


# --- ends -------------------------------------------------------------------------------------------


def test_what_was_kept_is_not_dropped_when_a_daemon_dies(run, serve):
    """Its channel closes before it can be waited for: that must not be taken for a daemon that lives on unheard."""
    mounted = serve(foreground=True, restarts="100/60")
    for _ in range(15):
        mounted.kill_and_wait()
    mounted.finish()
    said = mounted.foreground.stderr.read()
    assert said.count("daemon.restarted") == 15
    assert "daemon.unheard" not in said


def test_a_daemon_that_is_stuck_when_the_mount_ends_leaves_no_dead_mount(run, serve):
    mounted = serve(hang=0)
    pid = mounted.daemon()
    os.kill(pid, signal.SIGSTOP)
    os.kill(mounted.supervisor, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(mounted.supervisor, signal.SIGTERM)  # do not wait for readers
    wait_end(mounted.supervisor)
    mounted.assert_nothing_left()


def test_a_mount_that_has_taken_our_place_is_left_alone(run, serve):
    mounted = serve()
    file = os.open(mounted / LAST / "model.safetensors.index.json", os.O_RDONLY)
    subprocess.run(["umount", "-l", mounted.path], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "other", mounted.path], check=True)
    try:
        (mounted / "theirs").write_text("x")
        os.kill(mounted.supervisor, signal.SIGTERM)
        os.close(file)
        wait_end(mounted.supervisor)
        assert (mounted / "theirs").read_text() == "x"
    finally:
        subprocess.run(["umount", mounted.path], check=False)


def suppress(work, *arguments) -> None:
    try:
        work(*arguments)
    except OSError:
        pass
