# SPDX-License-Identifier: Apache-2.0
"""A large file: read from front to back (--warm-on-open), warmed and stopped in the middle."""

import os
import random
import signal
import time

import pytest
from reference.safetensors_io import read_header
from warming import (Mapping, assert_no_errors, assert_reads, finish, make_large, start_warm, state_of,
                     wait_for, wait_for_state, warm)

CHUNK = 1 << 20
SHARD = "model.safetensors"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """96 MiB in one file, 24 tensors of 4 MiB."""
    return make_large(tmp_path_factory.mktemp("large"))


@pytest.fixture
def open_large(large, mount):
    """open_large(*options) -> (mount, mounted file, its true bytes)

    With the kernel's own read-ahead of 128K: there a stream is helped on any machine; with a longer one only where
    processors are idle.
    """
    content = (large.folders[large.names[0]] / SHARD).read_bytes()

    def make(*options):
        mounted = large.mount(mount, "--read-ahead=0", *options)
        return mounted, mounted / large.names[0] / SHARD, content

    return make


def kernel(mounted):
    return mounted.status()["kernel"]


def read_in_order(file, content, begin=0, end=None):
    end = len(content) if end is None else end
    for at in range(begin, end, CHUNK):
        size = min(CHUNK, end - at)
        assert os.pread(file.fileno(), size, at) == content[at:at + size], f"byte {at}"


def settled(mounted):
    """What has been stored, once that rises no more."""
    stored = -1
    while (now := kernel(mounted)["bytes_stored"]) != stored:
        stored = now
        time.sleep(0.3)
    return stored


# --- stream ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--warm-on-open=stream"], ["--warm-on-open=stream", "--passthrough=off"],
                                     ["--memory=16M"], ["--threads=1"]],
                         ids=["default", "stream", "copy", "little-memory", "one-thread"])
def test_a_sequential_reader_is_helped(open_large, options):
    mounted, path, content = open_large(*options)
    assert kernel(mounted)["warm_on_open"] == "stream"
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content)
        assert kernel(mounted)["streams"] == 1
        assert 0 < kernel(mounted)["bytes_stored"] <= len(content)
        read_in_order(file, content)
    with Mapping(path) as mapping:
        assert mapping.view == content
    for _ in range(2):
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read_in_order(file, content)
    assert_no_errors(mounted)


def test_two_readers_of_one_file(open_large):
    mounted, path, content = open_large()
    middle = len(content) // 2 // CHUNK * CHUNK
    with open(path, "rb", buffering=0) as first, open(path, "rb", buffering=0) as second:
        for at in range(0, middle, CHUNK):
            read_in_order(first, content, at, at + CHUNK)
            read_in_order(second, content, middle + at, min(middle + at + CHUNK, len(content)))
    assert 1 <= kernel(mounted)["streams"] <= 3
    assert_no_errors(mounted)


def test_a_mapping_that_is_read_in_order(open_large):
    mounted, path, content = open_large()
    with Mapping(path) as mapping:
        for at in range(0, len(content), CHUNK):
            assert mapping.view[at:at + CHUNK] == content[at:at + CHUNK]
    assert_no_errors(mounted)


def places(path):
    """Where each tensor of a file lies."""
    header = read_header(path)
    return [header.data_start + begin for _, _, begin, _ in header.records.values()]


@pytest.mark.parametrize("order", ["random", "by-layer"])
def test_jumping_is_no_stream(open_large, large, order):
    """A few rows of each tensor: 64 KiB in every 4 MiB."""
    mounted, path, content = open_large()
    starts = places(large.folders["base"] / SHARD)
    if order == "random":
        random.Random(5).shuffle(starts)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for start in starts:
            assert os.pread(file.fileno(), 65536, start) == content[start:start + 65536]
        assert settled(mounted) == 0
    assert kernel(mounted)["streams"] == 0


def test_a_look_at_the_header_is_no_stream(open_large):
    mounted, path, content = open_large()
    for _ in range(3):
        with open(path, "rb", buffering=0) as file:
            assert os.pread(file.fileno(), 100_000, 0) == content[:100_000]
    assert (kernel(mounted)["streams"], settled(mounted)) == (0, 0)


def test_who_closes_in_the_middle_stops_it(open_large):
    mounted, path, content = open_large("--threads=1")
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content, 0, 24 << 20)
        wait_for(lambda: kernel(mounted)["bytes_stored"] > 0, "the stream")
    wait_for(lambda: settled(mounted) < 64 << 20, "the end of it", timeout=5)
    stored = kernel(mounted)["bytes_stored"]
    time.sleep(0.5)
    assert kernel(mounted)["bytes_stored"] == stored < 64 << 20
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content)


def test_unmounting_in_the_middle_of_a_stream(open_large):
    mounted, path, content = open_large()
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content, 0, 16 << 20)
    mounted.unmount()


# --- memory, off ----------------------------------------------------------------------------------


def test_memory_mode_decodes_a_file_that_is_streamed(open_large, large):
    mounted, path, content = open_large("--warm-on-open=memory")
    name = large.names[0]
    assert kernel(mounted)["warm_on_open"] == "memory"
    with open(path, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100_000, 0) == content[:100_000]
        time.sleep(0.2)
        assert mounted.status()["memory"]["warm"] == 0, "a look at the header is no stream"
        read_in_order(file, content)

    def served_by():
        return {file["path"]: file["served_by"] for file in state_of(mounted, name)["files"]}[SHARD]

    wait_for(lambda: served_by() == "memory", "the file in memory")
    assert mounted.status()["memory"]["warm"] >= len(content)
    wait_for(lambda: kernel(mounted)["passthrough_open"] == 0, "the release")
    before = mounted.counters()["reads"]
    assert_reads(mounted / name, large.folders[name])
    if kernel(mounted)["passthrough"] == "on":
        assert mounted.counters()["reads"] == before


def test_memory_mode_has_the_other_shards_warm_for_a_loader_that_takes_them_in_turn(tmp_path, mount):
    many = make_large(tmp_path, shards=4)
    name = many.names[0]
    mounted = many.mount(mount, "--warm-on-open=memory")
    shards = sorted((mounted / name).glob("*.safetensors"))
    assert len(shards) == 4

    def served_by():
        return {file["path"]: file["served_by"] for file in state_of(mounted, name)["files"]}

    with open(shards[1], "rb", buffering=0) as file:
        read_in_order(file, (many.folders[name] / shards[1].name).read_bytes())
        wait_for(lambda: all(served_by()[shard.name] == "memory" for shard in shards if shard != shards[1]), "the others")
    before = mounted.counters()["reads"]
    for shard in [shards[2], shards[3], shards[0]]:
        with open(shard, "rb", buffering=0) as file:
            read_in_order(file, (many.folders[name] / shard.name).read_bytes())
    if kernel(mounted)["passthrough"] == "on":
        assert mounted.counters()["reads"] == before, "a shard was decoded for its reader"
    wait_for(lambda: served_by()[shards[1].name] == "memory", "the one that was read first")
    assert mounted.status()["memory"]["warm"] >= sum(shard.stat().st_size for shard in shards)
    assert all(file["served_by"] != "memory" for file in state_of(mounted, many.names[1])["files"])
    assert_reads(mounted / name, many.folders[name])
    assert_no_errors(mounted)


def test_memory_mode_without_room_streams(open_large):
    mounted, path, content = open_large("--warm-on-open=memory", "--memory=32M")
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content)
        assert mounted.status()["memory"]["warm"] == 0
    assert_no_errors(mounted)


def test_off_does_nothing(open_large):
    mounted, path, content = open_large("--warm-on-open=off")
    with open(path, "rb", buffering=0) as file:
        read_in_order(file, content)
        found = kernel(mounted)
    assert (found["warm_on_open"], found["streams"], found["bytes_stored"]) == ("off", 0, 0)
    assert mounted.status()["memory"]["warm"] == 0


# --- warming a large file -------------------------------------------------------------------------


def test_an_interrupt_in_the_middle_of_decoding(open_large, large):
    """What was decoded stays, and the next try goes on from there."""
    mounted, path, content = open_large("--threads=1")
    name = large.names[0]
    header = 8 + int.from_bytes(content[:8], "little")  # comes first, and is not decoded
    for _ in range(10):
        process = start_warm(mounted, name)
        wait_for(lambda: process.poll() is not None or state_of(mounted, name)["warm_bytes"] > header, "a beginning",
                 pause=0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        state = wait_for_state(mounted, name, "cancelled", "warm")
        if process.returncode == -signal.SIGINT and state["state"] == "cancelled":
            break
        warm(mounted, name, "--drop")
    else:
        pytest.skip("it was always done before the signal came")
    assert header < state["warm_bytes"] < state["total_bytes"] == len(content)
    decoded = mounted.counters()["blocks_decoded"]
    warm(mounted, name)
    assert mounted.counters()["blocks_decoded"] - decoded < len(content) >> 18, "not all of it anew"
    assert_reads(mounted / name, large.folders[name])
    assert_no_errors(mounted)


def test_reading_while_it_is_decoded(open_large, large):
    mounted, path, content = open_large("--threads=1")
    process = start_warm(mounted, large.names[0])
    while process.poll() is None:
        with open(path, "rb", buffering=0) as file:
            start = random.randrange(len(content))
            assert os.pread(file.fileno(), 100_000, start) == content[start:start + 100_000]
    finish(process)
    assert_reads(mounted / large.names[0], large.folders[large.names[0]])
