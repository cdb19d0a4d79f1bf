# SPDX-License-Identifier: Apache-2.0
"""Stopping `weightfs warm`, giving memory back, and what cannot be warmed."""

import fcntl
import os
import shutil
import signal

import numpy as np
import pytest
import zstandard
from conftest import json_of, run_weightfs
from reference.safetensors_io import ModelFolder, Tensor, read_file, write_file
from runs import make_run
from test_faults import read_fails, shard_of
from warming import (CANCEL, START, WARM_IOCTL, Mapping, assert_no_errors, assert_reads, by_pread, chain,
                     control_file, drop_page_cache, finish, foreign, hold, make_chain, needs_passthrough, serving,
                     start_warm, state_of, tell, version_of, wait_for, wait_for_state, warm, warm_memory)


# --- stopping ----------------------------------------------------------------------------------


def begin_and_wait(chain, mounted, first, other):
    """Warming of `other` that waits for the memory of a shard of `first`; (its process, the mapping of that)."""
    warm(mounted, first)
    shard = chain.largest_shard(first)
    mapping = Mapping(mounted / first / shard)
    process = start_warm(mounted, other)
    wait_for_state(mounted, other, "waiting")
    return process, mapping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_stops_and_goes_on_later(chain, mount, number):
    mounted = chain.mount(mount, "--memory", chain.memory_for(1))
    needs_passthrough(mounted)
    first, other = chain.names[0], chain.names[2]
    process, mapping = begin_and_wait(chain, mounted, first, other)
    process.send_signal(number)
    finish(process, -number)
    state = wait_for_state(mounted, other, "cancelled")
    assert state["warm_bytes"] < state["total_bytes"]
    assert version_of(mounted, other)["warm"] == "cancelled"
    assert_reads(mounted / other, chain.folders[other])
    assert mapping.view == (chain.folders[first] / chain.largest_shard(first)).read_bytes()
    mapping.close()
    warm(mounted, other)
    assert state_of(mounted, other)["state"] == "warm"
    drop_page_cache(mounted / other)
    assert_reads(mounted / other, chain.folders[other])
    assert_no_errors(mounted)


def test_a_killed_command_does_not_stop_the_daemon(chain, mount):
    mounted = chain.mount(mount, "--memory", chain.memory_for(1))
    needs_passthrough(mounted)
    first, other = chain.names[0], chain.names[2]
    process, mapping = begin_and_wait(chain, mounted, first, other)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert state_of(mounted, other)["state"] == "waiting"
    assert_reads(mounted / other, chain.folders[other])
    mapping.close()
    wait_for_state(mounted, other, "warm")
    assert_reads(mounted / other, chain.folders[other])
    warm(mounted, first)
    assert_reads(mounted / first, chain.folders[first])


def test_unmounting_while_something_waits(foreign, mount):
    mounted = foreign.mount(mount, "--memory", foreign.memory_for(1))
    needs_passthrough(mounted)
    first, other = foreign.names[:2]
    process, mapping = begin_and_wait(foreign, mounted, first, other)
    pid = mounted.status()["pid"]
    process.kill()
    finish(process, -signal.SIGKILL)
    done = run_weightfs("umount", mounted.path)
    assert done.returncode == 3 and "[mount.busy]" in done.stderr, "a mapping is a use of the mount"
    assert mapping.view == (foreign.folders[first] / foreign.largest_shard(first)).read_bytes()
    mapping.close()
    mounted.unmount()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the daemon's end")


def test_drop_gives_memory_back(chain, mount):
    mounted = chain.mount(mount)
    first, second = chain.names[:2]
    warm(mounted, first)
    one = warm_memory(mounted)
    warm(mounted, second)
    assert warm_memory(mounted) > one
    rss = mounted.status()["memory"]["rss"]
    warm(mounted, first, "--drop")
    assert warm_memory(mounted) == one and state_of(mounted, first)["state"] == "cold"
    assert version_of(mounted, first)["served_by"] == "decode"
    assert mounted.status()["memory"]["rss"] < rss - chain.shard_bytes(first) / 2
    assert_reads(mounted / first, chain.folders[first])
    warm(mounted, second, "--drop")
    warm(mounted, second, "--drop")
    assert warm_memory(mounted) == 0
    assert_reads(mounted / second, chain.folders[second])


@pytest.mark.parametrize("kind", ["mapping", "descriptor", "child"])
def test_drop_of_what_is_in_use(chain, mount, kind):
    mounted = chain.mount(mount)
    needs_passthrough(mounted)
    name = chain.names[-1]
    shard = chain.shards(name)[0]
    expected = (chain.folders[name] / shard).read_bytes()
    warm(mounted, name)
    holder, content = hold(kind, mounted / name / shard)
    try:
        warm(mounted, name, "--drop")
        assert warm_memory(mounted) >= len(expected), "it is still needed"
        assert state_of(mounted, name)["state"] == "cold"
        assert content is None or content() == expected
        assert_reads(mounted / name, chain.folders[name])
        warm(mounted, name)
        assert content is None or content() == expected
        warm(mounted, name, "--drop")
    finally:
        holder.close()
    wait_for(lambda: warm_memory(mounted) == 0, "memory that the last reader's end frees", timeout=3)
    assert_reads(mounted / name, chain.folders[name])


def test_drop_stops_who_warms(foreign, mount):
    mounted = foreign.mount(mount, "--memory", foreign.memory_for(1))
    needs_passthrough(mounted)
    first, other = foreign.names[0], foreign.names[2]
    process, mapping = begin_and_wait(foreign, mounted, first, other)
    warm(mounted, other, "--drop")
    assert "[warm.failed]" in finish(process, 3)
    assert state_of(mounted, other)["warm_bytes"] == 0
    mapping.close()
    warm(mounted, other)
    assert_reads(mounted / other, foreign.folders[other])


@pytest.fixture
def queue(foreign, mount):
    """(mount, a version that is queued behind one that waits for a mapping); in the end that is unmapped."""
    mounted = foreign.mount(mount, "--memory", foreign.memory_for(1))
    needs_passthrough(mounted)
    first, other, queued = foreign.names[:3]
    process, mapping = begin_and_wait(foreign, mounted, first, other)
    tell(mounted, queued, START)
    wait_for_state(mounted, queued, "queued")
    yield mounted, queued
    mapping.close()
    finish(process)
    warm(mounted, queued)
    assert_reads(mounted / queued, foreign.folders[queued])


def test_what_is_queued_can_be_stopped(queue):
    mounted, name = queue
    tell(mounted, name, CANCEL)
    wait_for_state(mounted, name, "cancelled", timeout=3)


def test_what_is_queued_can_be_dropped(queue):
    """Without waiting for what it is queued behind, which would keep a thread that serves readers."""
    mounted, name = queue
    processes = [start_warm(mounted, name, "--drop") for _ in range(20)]
    wait_for(lambda: all(process.poll() is not None for process in processes), "the end of --drop", timeout=3)
    for process in processes:
        finish(process)
    assert state_of(mounted, name)["state"] == "cold"


# --- what cannot be done -----------------------------------------------------------------------


def test_a_version_that_does_not_fit(chain, mount):
    mounted = chain.mount(mount, "--memory", "16M")
    name = chain.names[0]
    done = run_weightfs("warm", mounted.path, name)
    assert done.returncode == 3
    assert "[warm.no_room]" in done.stderr and "--memory" in done.stderr and name in done.stderr
    assert "MiB" in done.stderr or "MB" in done.stderr, "the message says how large it is"
    assert state_of(mounted, name)["error"]["code"] == "warm.no_room"
    assert warm_memory(mounted) == 0
    assert_reads(mounted / name, chain.folders[name])
    warm(mounted, name, "--to", "page-cache")


def test_the_advised_memory_is_enough(foreign, mount):
    name = foreign.names[0]
    too_small = 16 << 20
    text = run_weightfs("warm", foreign.mount(mount, "--memory", str(too_small)).path, name).stderr
    more = int(text.split("larger by ")[1].split("M")[0])
    mounted = foreign.mount(mount, "--memory", str(too_small + (more << 20)))
    warm(mounted, name)
    assert_reads(mounted / name, foreign.folders[name])


def test_what_is_no_version(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 4)
    shutil.rmtree(run / "weight_v000003")
    mounted = mount(run, base=base)
    for name in ("weight_v000099", "weight_v000004", "../base", ""):
        for options in ([], ["--to", "page-cache"], ["--drop"]):
            done = run_weightfs("warm", *options, mounted.path, name)
            assert done.returncode != 0 and done.stderr, (name, options)
    assert "refused" in run_weightfs("warm", mounted.path, "weight_v000004").stderr
    for place in (tmp_path, tmp_path / "nothing", mounted / "base"):
        done = run_weightfs("warm", place, "weight_v000001")
        assert done.returncode != 0 and "mount" in done.stderr
    assert run_weightfs("warm", mounted.path).returncode == 2
    assert run_weightfs("warm", "--to", "disk", mounted.path, "base").returncode == 2
    warm(mounted, "weight_v000002")


def test_the_base_has_nothing_to_decode(foreign, mount, serving):
    mounted = foreign.mount(mount, *serving)
    for _ in range(2):
        assert json_of("warm", mounted.path, "base")["memory_bytes"] == 0
    warm(mounted, "base", "--drop")
    assert warm_memory(mounted) == 0
    assert_reads(mounted / "base", foreign.folders["base"])


def spoil(folder, tensor):
    """Changes one byte of a tensor's payload; everything is as it should be but the digest."""
    path, header = shard_of(folder, tensor)
    _, tensors = read_file(path)
    payload = bytearray(zstandard.ZstdDecompressor().decompress(tensors[tensor].data.tobytes()))
    payload[len(payload) // 2] ^= 1
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(payload))
    tensors[tensor] = Tensor("U8", (len(frame),), np.frombuffer(frame, np.uint8))
    write_file(path, tensors, header.metadata)


@pytest.mark.parametrize("budget", [1, 2])
def test_a_wrong_digest_fails_and_harms_nothing_else(foreign, tmp_path, mount, budget):
    run = shutil.copytree(foreign.source, tmp_path / "run")
    good, bad = foreign.names[2], foreign.names[3]
    spoil(run / bad, "d.weight")
    mounted = mount(run, "--memory", foreign.memory_for(budget), base=foreign.base)
    damaged = ModelFolder.open(foreign.base).place["d.weight"]
    warm(mounted, good)
    for _ in range(2):
        done = run_weightfs("warm", mounted.path, bad)
        assert done.returncode == 3 and "d.weight" in done.stderr, done.stderr
        state = state_of(mounted, bad)
        assert state["state"] == "failed" and "d.weight" in state["error"]["message"]
        drop_page_cache(mounted / bad)
        assert read_fails(mounted / bad / damaged) == 5
        for shard in foreign.shards(bad):
            if shard != damaged:
                assert by_pread(mounted / bad / shard) == (foreign.folders[bad] / shard).read_bytes()
        warm(mounted, good)
        assert_reads(mounted / good, foreign.folders[good])
    assert mounted.counters()["digest_failures"] > 0
    warm(mounted, foreign.names[0])
    assert_reads(mounted / foreign.names[0], foreign.folders[foreign.names[0]])


def test_a_flipped_bit_of_a_native_payload(tmp_path_factory, tmp_path, mount):
    made = make_chain("native", tmp_path_factory.mktemp("flipped"))
    good, bad = made.names[1], made.names[2]
    payload = made.source / "versions" / bad / "payload-00001.safetensors"
    content = bytearray(payload.read_bytes())
    content[len(content) * 3 // 4] ^= 0x20
    payload.write_bytes(content)
    mounted = made.mount(mount, "--memory", made.memory_for(1))
    warm(mounted, good)
    assert run_weightfs("warm", mounted.path, bad).returncode == 3
    assert state_of(mounted, bad)["state"] == "failed"
    warm(mounted, good)
    assert_reads(mounted / good, made.folders[good])


# --- who may command --------------------------------------------------------------------------


def as_nobody(action) -> int:
    """Runs in a child without privileges; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            status = action()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_others_may_read_but_not_command(foreign, mount):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    mounted = foreign.mount(mount, "--allow-other")
    name = foreign.names[-1]
    shard = foreign.shards(name)[0]
    expected = (foreign.folders[name] / shard).read_bytes()
    root = os.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)
    here = control_file(mounted, name).relative_to(mounted.path)

    def command():
        file = os.open(here, os.O_RDONLY, dir_fd=root)
        try:
            fcntl.ioctl(file, WARM_IOCTL, START.to_bytes(4, "little"))
        except OSError as error:
            return error.errno
        return 0

    def read():
        file = os.open(f"{name}/{shard}", os.O_RDONLY, dir_fd=root)
        return int(os.pread(file, len(expected) + 1, 0) != expected)

    try:
        assert as_nobody(command) == 1, "EPERM"
        assert state_of(mounted, name)["state"] == "cold"
        warm(mounted, name)
        assert as_nobody(read) == 0
        assert as_nobody(command) == 1
    finally:
        os.close(root)
