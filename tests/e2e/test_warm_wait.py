# SPDX-License-Identifier: Apache-2.0
"""--warm-on-open=wait: a file is decoded into memory before it is opened, and the kernel reads it by itself then."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from warming import (Mapping, assert_no_errors, assert_reads, by_mmap, by_o_direct, by_pread, make_large,
                     needs_passthrough, start_warm, state_of, wait_for, warm)

WAIT = "--warm-on-open=wait"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """96 MiB in four files, and two versions of it."""
    return make_large(tmp_path_factory.mktemp("shards"), shards=4)


@pytest.fixture
def mounted(shards, mount):
    mounted = shards.mount(mount, WAIT)
    needs_passthrough(mounted)
    return mounted


def shards_of(folder):
    return sorted(folder.glob("*.safetensors"))


def served_by(mounted, name):
    return {file["path"]: file["served_by"] for file in state_of(mounted, name)["files"]}


@pytest.mark.parametrize("reader", [by_pread, by_mmap, by_o_direct])
def test_no_read_comes_to_us(shards, mounted, reader):
    assert mounted.status()["kernel"]["warm_on_open"] == "wait"
    for name in shards.names:
        assert_reads(mounted / name, shards.folders[name], reader)
    assert mounted.counters()["reads"] == 0
    assert_no_errors(mounted)


def test_the_first_open_has_the_others_decoded_too(shards, mounted):
    name = shards.names[0]
    with open(shards_of(mounted / name)[2], "rb"):
        wait_for(lambda: all(served_by(mounted, name)[shard.name] == "memory" for shard in shards_of(mounted / name)),
                 "the whole version")
    assert mounted.counters()["reads"] == 0
    assert_reads(mounted / name, shards.folders[name])


@pytest.mark.parametrize("processes", [4, 12])
def test_many_processes_open_everything_at_once(shards, mounted, processes):
    name = shards.names[1]
    code = "import sys, hashlib\nprint(*[hashlib.sha256(open(path, 'rb').read()).hexdigest() for path in sys.argv[1:]])"
    expected = subprocess.run([sys.executable, "-c", code, *shards_of(shards.folders[name])], capture_output=True,
                              text=True, check=True).stdout
    found = [subprocess.Popen([sys.executable, "-c", code, *shards_of(mounted / name)], stdout=subprocess.PIPE, text=True)
             for _ in range(processes)]
    assert [process.communicate(timeout=60)[0] for process in found] == [expected] * processes
    if processes == 4:  # more than half of the threads that answer requests do not wait: some of twelve may be served
        assert mounted.counters()["reads"] == 0


def test_other_versions_are_read_meanwhile(shards, mount):
    mounted = shards.mount(mount, WAIT, "--threads=1")
    needs_passthrough(mounted)
    first, second = shards.names[:2]
    warm(mounted, second)
    opener = threading.Thread(target=lambda: [open(shard, "rb").close() for shard in shards_of(mounted / first)])
    opener.start()
    while opener.is_alive():
        assert_reads(mounted / second, shards.folders[second])
        assert_reads(mounted / "base", shards.folders["base"])
        mounted.status()
    opener.join()
    assert_reads(mounted / first, shards.folders[first])


def test_without_room_it_is_read_as_ever(shards, mount):
    mounted = shards.mount(mount, WAIT, "--memory=32M")
    for name in shards.names[:2]:
        assert_reads(mounted / name, shards.folders[name])
    assert mounted.counters()["reads"] > 0
    assert mounted.status()["memory"]["warm"] <= 32 << 20
    assert_no_errors(mounted)


def test_room_for_one_version_goes_to_the_one_that_is_opened(shards, mount):
    mounted = shards.mount(mount, WAIT, "--memory=184M")
    needs_passthrough(mounted)
    for name in [*shards.names[:2], shards.names[0]]:
        assert_reads(mounted / name, shards.folders[name])
    first, second = shards.names[:2]
    with Mapping(shards_of(mounted / first)[0]) as mapping:  # holds its memory
        assert_reads(mounted / second, shards.folders[second])
        assert mapping.view == shards_of(shards.folders[first])[0].read_bytes()
    assert_no_errors(mounted)


def test_without_passthrough_nobody_waits(shards, mount):
    mounted = shards.mount(mount, WAIT, "--passthrough=off")
    name = shards.names[0]
    assert_reads(mounted / name, shards.folders[name])
    assert mounted.counters()["reads"] > 0
    assert mounted.status()["memory"]["warm"] == 0


def test_a_file_that_is_open_already_stays_as_it_is_served(shards, mount):
    """All opens of one file are served the same way: one that was opened while it had no room is not waited for."""
    mounted = shards.mount(mount, WAIT, "--memory=184M")
    needs_passthrough(mounted)
    first, second = shards.names[:2]
    with Mapping(shards_of(mounted / first)[0]), Mapping(shards_of(mounted / first)[1]), \
            Mapping(shards_of(mounted / first)[2]), Mapping(shards_of(mounted / first)[3]):
        with open(shards_of(mounted / second)[0], "rb") as file:
            content = shards_of(shards.folders[second])[0].read_bytes()
            assert file.read() == content
            assert by_pread(shards_of(mounted / second)[0]) == content
    assert_no_errors(mounted)


def test_an_opener_that_is_killed(shards, mount):
    mounted = shards.mount(mount, WAIT, "--threads=1")
    needs_passthrough(mounted)
    code = "import sys\nfor path in sys.argv[1:]: open(path, 'rb').close()"
    for pause in (0.02, 0.05, 0.1):
        opener = subprocess.Popen([sys.executable, "-c", code, *shards_of(mounted / shards.names[0])])
        time.sleep(pause)
        opener.send_signal(signal.SIGKILL)
        opener.wait(timeout=10)
    assert_reads(mounted / shards.names[0], shards.folders[shards.names[0]])
    assert_no_errors(mounted)


def test_unmounting_while_an_open_waits(shards, mount):
    mounted = shards.mount(mount, WAIT, "--threads=1")

    def open_all():
        try:
            for shard in shards_of(mounted / shards.names[0]):
                open(shard, "rb").close()
        except OSError:
            pass  # the mount is gone

    opener = threading.Thread(target=open_all)
    opener.start()
    time.sleep(0.02)
    wait_for(lambda: unmounted(mounted), "the end of the mount", timeout=30, pause=0.1)
    opener.join(timeout=30)
    assert not opener.is_alive()


def unmounted(mounted):
    """False while something has a file open."""
    try:
        mounted.unmount()
    except AssertionError:
        return not os.path.ismount(mounted.path)
    return True


def test_a_warm_command_beside_it(shards, mounted):
    name = shards.names[0]
    process = start_warm(mounted, name)
    assert_reads(mounted / name, shards.folders[name])
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert mounted.counters()["reads"] == 0
