# SPDX-License-Identifier: Apache-2.0
"""Mounts that do not answer: a process that is stopped, and one that was killed while it told the kernel of a change.

The kernel waits for a lookup that nobody answers before it takes what is told, and keeps the connection for that long:
so readers wait, and whoever asks the mount does.  `weightfs umount` must come back all the same.
"""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_weightfs
from following import FastRun, follow, make_run, status, wait_until
from supervised import REPEAT, again, is_alive, stop

SOON = 20  # seconds within which `weightfs umount` must be back

# Looks for names that are not there, until it is told that nobody answers.
LOOK = """
import errno, os, random, sys
random.seed(sys.argv[2])
while True:
    try:
        os.stat(f"{sys.argv[1]}/x{random.randrange(10**9)}")
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            break
"""


def unmount(mounted, *options):
    """A `weightfs umount` that comes back."""
    return run_weightfs("umount", *options, mounted.path, timeout=SOON)


@pytest.fixture
def stopped(tmp_path, mount):
    """A mount whose process is stopped; it goes on when the test has ended."""
    run = make_run("xor", tmp_path)
    run.publish()
    mounted = follow(mount, run)
    pid = status(mounted)["pid"]
    stop(pid)
    yield mounted
    if is_alive(pid):
        os.kill(pid, signal.SIGCONT)


def test_a_mount_that_does_not_answer_is_unmounted_when_nobody_uses_it(stopped):
    done = unmount(stopped)
    assert done.returncode == 0, done.stderr
    assert not stopped.is_mounted()


def test_a_mount_that_does_not_answer_is_left_to_who_uses_it(stopped):
    reader = subprocess.Popen(["stat", stopped / "nothing"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "S" in Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()[0]
               or "D" in Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()[0], what="it waits")
    done = unmount(stopped)
    assert done.returncode == 3 and "mount.busy" in done.stderr and "--force" in done.stderr
    assert stopped.is_mounted() and reader.poll() is None
    done = unmount(stopped, "--force")
    assert done.returncode == 0, done.stderr
    assert not stopped.is_mounted()
    assert reader.wait(SOON) != 0
    assert os.strerror(errno.ECONNABORTED) in (said := reader.stderr.read()) or os.strerror(errno.ENOTCONN) in said


def test_force_takes_a_mount_from_its_readers(tmp_path, mount):
    run = make_run("xor", tmp_path)
    name = run.publish()
    mounted = follow(mount, run)
    pid = status(mounted)["pid"]
    shard = next(path.name for path in run.folders[name].iterdir() if path.suffix == ".safetensors")
    with open(mounted / name / shard, "rb", buffering=0) as file:
        assert unmount(mounted).returncode == 3, "it is in use"
        assert unmount(mounted, "--force").returncode == 0
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(OSError) as caught:
            os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    wait_until(lambda: not is_alive(pid), what="the end of its process")


@pytest.mark.timeout(120 + 40 * REPEAT)
def test_umount_after_a_kill_in_the_middle_of_a_change(tmp_path, mount, capsys):
    """Kills a process that tells the kernel of a change all the time, while names are looked up."""
    stuck = 0
    for attempt in range(5 * REPEAT):
        place = tmp_path / str(attempt)
        place.mkdir()
        run = FastRun(place)
        run.publish()
        mounted = follow(mount, run, keep=1, warm="none")
        pid = status(mounted)["pid"]
        readers = [subprocess.Popen([sys.executable, "-c", LOOK, mounted.path, str(i)]) for i in range(6)]
        try:
            until = time.monotonic() + 0.15 + random.random() * 0.2
            while time.monotonic() < until:
                run.publish()
            os.kill(pid, signal.SIGKILL)
            time.sleep(1)
            waiting = [reader for reader in readers if reader.poll() is None]
            stuck += 1 if waiting else 0
            done = unmount(mounted)
            if done.returncode != 0:
                assert waiting and "--force" in done.stderr, done.stderr
                done = unmount(mounted, "--force")
            assert done.returncode == 0, done.stderr
            assert not mounted.is_mounted()
            for reader in readers:
                reader.wait(SOON)
        finally:
            subprocess.run(["umount", "-f", "-l", mounted.path], check=False, capture_output=True)
            for reader in readers:
                reader.kill()
                reader.wait()
    with capsys.disabled():
        print(f"\n  {stuck} of {5 * REPEAT} kills left readers waiting")
