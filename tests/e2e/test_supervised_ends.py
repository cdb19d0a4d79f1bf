# SPDX-License-Identifier: Apache-2.0
"""How supervised mounts end, and what is said when something ends that should not have.

Most tests run WEIGHTFS_REPEAT times (2 here; 20 in the long run).
"""

import errno
import mmap
import os
import signal
import subprocess
import threading
import time
import traceback

import pytest
from conftest import json_of, run_weightfs, succeed
from following import Held, assert_exact, holds_for, make_run, wait_until
from supervised import (HELPER, MARKER, SOON, again, is_alive, replace_program, restart, send, stop,
                        supervise, own_binaries, wait_end)

SHARD = "model-00001-of-00002.safetensors"
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)


@pytest.fixture
def run(tmp_path):
    """A run with two versions."""
    made = make_run("xor", tmp_path)
    made.publish()
    made.publish()
    return made


def assert_dead(mounted, limit=1.0):
    """Within the limit everything fails; an empty folder is never seen."""
    deadline = time.monotonic() + limit
    while True:
        try:
            assert "base" in os.listdir(mounted.path), "an empty folder in place of a model"
        except OSError as error:
            assert error.errno in DEAD, error
            break
        assert time.monotonic() < deadline, "it still answers"
    for look in (lambda: os.stat(mounted / "latest"), lambda: (mounted / "base" / "config.json").read_bytes()):
        with pytest.raises(OSError) as caught:
            look()
        assert caught.value.errno in DEAD


class Background:
    """Does something in a thread; done() is its result, or raises what it raised."""

    def __init__(self, work):
        self.result, self.problem = None, None
        self.thread = threading.Thread(target=self.run, args=(work,), daemon=True)
        self.thread.start()

    def run(self, work):
        try:
            self.result = work()
        except BaseException:
            self.problem = traceback.format_exc()

    def done(self, limit=SOON):
        self.thread.join(limit)
        assert not self.thread.is_alive(), f"stuck for {limit} s"
        assert self.problem is None, self.problem
        return self.result


def read_past_the_cache(mounted, run, name):
    """Reads a shard; what it should be is checked."""
    with open(mounted / name / SHARD, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        found = b"".join(iter(lambda: file.read(1 << 20), b""))
    assert found == (run.folders[name] / SHARD).read_bytes()


# --- who is killed --------------------------------------------------------------------------------


@again
def test_without_a_supervisor_the_daemon_serves_on(run, attempt, supervise):
    mounted = supervise(run)
    daemon = mounted.daemon()
    os.kill(mounted.supervisor, signal.SIGKILL)
    wait_end(mounted.supervisor)
    assert_exact(mounted, run)
    name = run.publish()
    wait_until(lambda: mounted.now()["latest"] == name, what="the new version")
    assert json_of("status", mounted.path)["pid"] == daemon
    assert mounted.now()["supervisor"]["alive"] is False and "has ended" in succeed("status", mounted.path)
    done = restart(mounted)
    assert done.returncode != 0 and "cannot be restarted" in done.stderr
    succeed("umount", mounted.path)
    assert not is_alive(daemon), "umount waits for the last process"
    # Nobody is left who would remove the marker; it says how to mount again.
    assert set(mounted.entries_below()) <= {MARKER}
    again = supervise(run, point=mounted.path)
    again.unmount()
    assert mounted.entries_below() == []


@again
def test_when_both_are_killed_the_mount_says_so(run, attempt, supervise):
    mounted = supervise(run)
    with Held(mounted / "base", run.base) as held:
        os.kill(mounted.supervisor, signal.SIGKILL)
        mounted.daemon()
        os.kill(mounted.first, signal.SIGKILL)
        assert_dead(mounted)
        with pytest.raises(OSError) as caught:
            os.posix_fadvise(held.files["config.json"], 0, 0, os.POSIX_FADV_DONTNEED)
            os.listdir(held.folder)
        assert caught.value.errno in DEAD
    assert mounted.is_mounted()
    done = run_weightfs("status", mounted.path)
    assert done.returncode != 0 and "is gone" in done.stderr and "umount" in done.stderr, done.stderr
    done = run_weightfs("umount", mounted.path)
    assert done.returncode == 0 and "had died" in done.stderr, done.stderr
    assert mounted.entries_below() == [], "the marker goes with the dead mount"
    mounted = supervise(run, point=mounted.path)
    assert_exact(mounted, run)
    mounted.unmount()
    assert mounted.entries_below() == [], "a clean unmount takes the marker away"


@again
def test_too_many_restarts_end_it(run, attempt, supervise):
    mounted = supervise(run, restarts="5/60", foreground=True)
    for count in range(1, 6):
        mounted.kill_and_wait()
        assert mounted.restarts() == count
    with open(mounted / "base" / SHARD, "rb", buffering=0) as file:
        mounted.kill()
        reader = Background(lambda: os.listdir(mounted.path))
        reader.thread.join(2)
        assert not reader.thread.is_alive(), "a reader waits without end"
        assert reader.problem is not None and any(str(number) in reader.problem for number in DEAD)
        assert mounted.foreground.wait(SOON) != 0
        assert "restarts=5/60 allows" in mounted.foreground.stderr.read()
        assert file.fileno()
    assert mounted.is_mounted()
    assert_dead(mounted)
    assert "had died" in run_weightfs("umount", mounted.path).stderr
    assert mounted.entries_below() == []


# --- who is asked to end --------------------------------------------------------------------------


def end_by(mounted, number, whom):
    send(mounted.supervisor if whom == "supervisor" else mounted.daemon(), number)


@again
@pytest.mark.parametrize("whom", ["supervisor", "daemon"])
def test_sigterm_lets_readers_finish(run, whom, attempt, supervise):
    mounted = supervise(run, warm="none", foreground=True)
    name = run.names[-1]
    with Held(mounted / name, run.folders[name]) as held:
        with open(mounted / "base" / SHARD, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        end_by(mounted, signal.SIGTERM, whom)
        wait_until(lambda: not mounted.is_mounted(), 2, "the name to go")
        assert mounted.entries_below() in ([], [MARKER])
        held.assert_files()
        held.assert_folder()
        assert mapped[:] == (run.base / SHARD).read_bytes()
        assert mounted.foreground.poll() is None
        mapped.close()
    assert mounted.foreground.wait(5) == 0
    mounted.assert_nothing_left(SOON)


@again
@pytest.mark.parametrize("whom,number", [("supervisor", signal.SIGTERM), ("supervisor", signal.SIGINT),
                                         ("daemon", signal.SIGTERM), ("daemon", signal.SIGINT)],
                         ids=["term", "int", "daemon-term", "daemon-int"])
def test_a_signal_ends_an_idle_mount(run, whom, number, attempt, supervise):
    mounted = supervise(run, foreground=True)
    end_by(mounted, number, whom)
    assert mounted.foreground.wait(5) == 0
    mounted.assert_nothing_left(SOON)


@again
def test_umount_by_others(run, attempt, supervise):
    mounted = supervise(run)
    with open(mounted / "base" / SHARD, "rb"):
        done = subprocess.run(["umount", mounted.path], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and mounted.is_mounted()
        assert_exact(mounted, run)
    subprocess.run(["umount", mounted.path], check=True)
    mounted.assert_nothing_left(SOON)


@again
def test_a_lazy_unmount_keeps_files_readable_over_a_kill(run, attempt, supervise):
    mounted = supervise(run, warm="none")
    with Held(mounted / run.names[-1], run.folders[run.names[-1]]) as held:
        subprocess.run(["umount", "-l", mounted.path], check=True)
        assert not mounted.is_mounted()
        daemon = mounted.kill()
        held.assert_files()
        held.assert_folder()
        assert mounted.daemon() not in (0, daemon)
    mounted.assert_nothing_left(SOON)


# --- who does not answer --------------------------------------------------------------------------


@again
def test_a_daemon_that_hangs_is_replaced(run, attempt, supervise):
    mounted = supervise(run, hang=1, warm="none")
    stopped = mounted.daemon()
    began = time.monotonic()
    stop(stopped)
    readers = [Background(lambda name=name: read_past_the_cache(mounted, run, name)) for name in run.folders]
    for reader in readers:
        reader.done()
    took = time.monotonic() - began
    assert 0.9 < took < 4, f"replaced after {took:.2f} s"
    found = mounted.now()
    assert found["pid"] != stopped and found["supervisor"]["restarts"] == 1
    assert "hung" in found["supervisor"]["last_end"]
    assert not is_alive(stopped)
    mounted.finish()


def test_nobody_waits_for_one_that_nobody_asks(run, supervise):
    """Only the kernel can tell that nobody waits for a process that may have been stopped with a request in hand."""
    mounted = supervise(run, hang=1)
    connection = os.minor(os.stat(mounted.path).st_dev)
    if not os.path.exists(f"/sys/fs/fuse/connections/{connection}/waiting"):
        pytest.skip("fusectl does not show the mount here")
    stopped = mounted.daemon()
    stop(stopped)
    holds_for(lambda: mounted.daemon() == stopped, 3, "it was replaced")
    os.kill(stopped, signal.SIGCONT)
    assert mounted.restarts() == 0
    mounted.finish()


def test_a_stop_shorter_than_the_limit_is_borne(run, supervise):
    mounted = supervise(run, hang=3)
    stop(mounted.first)
    reader = Background(lambda: os.listdir(mounted.path))
    time.sleep(1)
    os.kill(mounted.first, signal.SIGCONT)
    reader.done()
    assert mounted.restarts() == 0
    mounted.finish()


# --- odd surroundings -----------------------------------------------------------------------------


@again
def test_few_descriptors(run, attempt, supervise):
    mounted = supervise(run, before=["sh", "-c", 'ulimit -n 64; exec "$0" "$@"'])
    for _ in range(3):
        assert_exact(mounted, run)
        mounted.kill_and_wait()
    held = [os.open(mounted / name / SHARD, os.O_RDONLY) for name in run.folders for _ in range(50)]
    mounted.kill_and_wait()
    assert_exact(mounted, run)
    for descriptor in held:
        os.close(descriptor)
    mounted.finish()


def test_a_source_that_vanishes(run, supervise):
    """Daemons fail one after the other until the limit; then it is an error, not an endless wait."""
    mounted = supervise(run, restarts="5/60", foreground=True)
    with mounted.kill_unnoticed():
        run.source.rename(run.place / "elsewhere")
    reader = Background(lambda: os.listdir(mounted.path))
    status = mounted.foreground.wait(30)
    reader.thread.join(2)
    assert not reader.thread.is_alive()
    assert status != 0 and str(run.source) in (said := mounted.foreground.stderr.read()), said
    assert_dead(mounted)
    run_weightfs("umount", mounted.path)
    assert mounted.entries_below() == []


def test_a_source_that_comes_back(run, supervise):
    mounted = supervise(run, restarts="100/60")
    with mounted.kill_unnoticed():
        run.source.rename(run.place / "elsewhere")
    reader = Background(lambda: read_past_the_cache(mounted, run, run.names[-1]))
    time.sleep(1)
    (run.place / "elsewhere").rename(run.source)
    reader.done()
    assert_exact(mounted, run)
    mounted.finish()


# --- another version of the program ---------------------------------------------------------------


def read_again_and_again(mounted, run, ended):
    rounds = 0
    while not ended.is_set():
        for name in run.folders:
            read_past_the_cache(mounted, run, name)
        rounds += 1
    return rounds


def test_restart_under_readers(run, supervise):
    mounted = supervise(run, warm="none")
    ended, pids = threading.Event(), set()
    readers = [Background(lambda: read_again_and_again(mounted, run, ended)) for _ in range(4)]
    for _ in range(20):
        done = restart(mounted)
        assert done.returncode == 0 and "restarted" in done.stdout, done.stderr
        pids.add(mounted.now()["pid"])
        mounted.daemon()
    ended.set()
    assert all(reader.done() > 0 for reader in readers)
    assert len(pids) == 20
    mounted.finish()


@pytest.mark.parametrize("program", [b"#!/bin/sh\necho no such thing >&2\nexit 3\n", b"\x7fELF of no use",
                                     b"#!/bin/sh\nkill -9 $$\n", None],
                         ids=["fails", "no-program", "dies", "gone"])
def test_restart_with_a_program_that_fails(run, program, own_binaries, supervise):
    mounted = supervise(run, helper=own_binaries / HELPER.name)
    before = mounted.daemon()
    good = (own_binaries / "weightfs").read_bytes()
    if program is None:
        (own_binaries / "weightfs").unlink()
    else:
        replace_program(own_binaries, program)
    done = restart(mounted)
    print(done.stderr)
    assert done.returncode != 0 and done.stderr.strip(), done.stdout
    assert mounted.now()["pid"] == before
    assert_exact(mounted, run)
    mounted.kill_and_wait()  # by the program that served, which is held open
    assert_exact(mounted, run)
    replace_program(own_binaries, good)
    done = restart(mounted)
    assert done.returncode == 0, done.stderr
    assert_exact(mounted, run)
    mounted.finish()
