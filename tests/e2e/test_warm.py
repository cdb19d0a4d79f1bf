# SPDX-License-Identifier: Apache-2.0
"""`weightfs warm`: a version decoded into memory is read without us, and never changes under a reader."""

import concurrent.futures
import hashlib
import json
import os
import random
import shutil

import pytest
from conftest import assert_same_tree, succeed
from reference import weight_v
from warming import (READERS, Mapping, assert_no_errors, assert_reads, by_pread, chain, drop_page_cache, finish,
                     foreign, hold, mapped, needs_passthrough, serving, start_warm, state_of, version_of, wait_for,
                     wait_for_state, warm)


# --- what a warm version costs to read ------------------------------------------------------


@pytest.mark.parametrize("way", READERS)
def test_memory_is_read_by_the_kernel_alone(chain, mount, way):
    mounted = chain.mount(mount)
    needs_passthrough(mounted)
    name = chain.names[-2]
    warm(mounted, name)
    before = mounted.counters()
    assert_reads(mounted / name, chain.folders[name], READERS[way])
    after = mounted.counters()
    assert after["reads"] == before["reads"], "a read request reached us"
    assert after["bytes_from_warm"] == before["bytes_from_warm"] == 0
    assert mounted.status()["kernel"]["passthrough_refused"] == 0
    assert_no_errors(mounted)


@pytest.mark.parametrize("way", READERS)
def test_memory_is_copied_without_passthrough(chain, mount, way):
    mounted = chain.mount(mount, "--passthrough=off")
    name = chain.names[-2]
    warm(mounted, name)
    before = mounted.counters()
    assert_reads(mounted / name, chain.folders[name], READERS[way])
    after = mounted.counters()
    assert after["bytes_from_warm"] - before["bytes_from_warm"] >= chain.shard_bytes(name)
    assert after["blocks_decoded"] == before["blocks_decoded"], "nothing is decoded twice"
    assert_no_errors(mounted)


def test_status_tells_what_is_warm(chain, mount, serving):
    mounted = chain.mount(mount, *serving)
    name, other = chain.names[-1], chain.names[0]
    cold = version_of(mounted, name)
    assert (cold["served_by"], cold["warm"], cold["warm_bytes"]) == ("decode", "cold", 0)
    assert state_of(mounted, name)["state"] == "cold" and mounted.status()["memory"]["warm"] == 0
    report = json.loads(warm(mounted, name, "--json"))
    state = state_of(mounted, name)
    in_memory = [file for file in state["files"] if file["served_by"] == "memory"]
    assert {file["path"] for file in in_memory} >= set(chain.shards(name))
    total = sum(file["bytes"] for file in in_memory)
    assert total >= chain.shard_bytes(name)
    assert (state["state"], state["warm_bytes"], state["total_bytes"]) == ("warm", total, total)
    assert state["error"] is None and report["memory_bytes"] == total and report["version"] == name
    for file in state["files"]:
        assert file["bytes"] == (chain.folders[name] / file["path"]).stat().st_size
    version = version_of(mounted, name)
    assert (version["served_by"], version["warm"], version["warm_bytes"]) == ("memory", "warm", total)
    memory = mounted.status()["memory"]
    assert total <= memory["warm"] <= memory["budget"]
    assert version_of(mounted, other)["served_by"] == "decode"
    warm(mounted, name)
    assert mounted.status()["memory"]["warm"] == memory["warm"], "once more costs nothing"


def test_latest_is_the_newest(chain, mount):
    mounted = chain.mount(mount)
    assert chain.names[-1] in warm(mounted, "latest")
    assert state_of(mounted, chain.names[-1])["state"] == "warm"
    assert_reads(mounted / "latest", chain.folders[chain.names[-1]])


def test_page_cache(chain, mount, serving):
    mounted = chain.mount(mount, *serving)
    name = chain.names[-1]
    report = json.loads(warm(mounted, name, "--to", "page-cache", "--json"))
    assert report["memory_bytes"] == 0 and report["page_cache_bytes"] >= chain.shard_bytes(name)
    before = mounted.counters()["reads"]
    for way in ("pread", "mmap", "sendfile"):
        assert_reads(mounted / name, chain.folders[name], READERS[way])
    assert mounted.counters()["reads"] == before
    assert mounted.status()["memory"]["warm"] == 0 and state_of(mounted, name)["state"] == "cold"


def test_parallel_faults_on_one_mapping(chain, mount, serving):
    mounted = chain.mount(mount, *serving)
    name, threads, piece = chain.names[-1], 8, 37 * 4096
    shard = chain.largest_shard(name)
    content = memoryview((chain.folders[name] / shard).read_bytes())

    def digest(view, thread):
        result = hashlib.sha256()  # releases the interpreter's lock, so the faults really run at once
        for start in range(thread * piece, len(view), threads * piece):
            result.update(view[start:start + piece])
        return result.digest()

    warm(mounted, name)
    for _ in range(3):
        with Mapping(mounted / name / shard) as mapping, concurrent.futures.ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda thread: digest(mapping.view, thread), range(threads)))
        assert found == [digest(content, thread) for thread in range(threads)]
        drop_page_cache(mounted / name)


# --- memory is used again ----------------------------------------------------------------------


def orders(names):
    rng = random.Random(31)
    return {"rising": names, "falling": names[::-1], "random": rng.sample(names, len(names)) + rng.sample(names, 4)}


@pytest.mark.parametrize("order", ["rising", "falling", "random"])
@pytest.mark.parametrize("versions", [1, 2])
def test_memory_is_used_again(chain, mount, order, versions):
    mounted = chain.mount(mount, "--memory", chain.memory_for(versions))
    for name in orders(chain.names)[order]:
        warm(mounted, name)
        assert state_of(mounted, name)["state"] == "warm"
        assert_reads(mounted / name, chain.folders[name])
        memory = mounted.status()["memory"]
        assert chain.shard_bytes(name) <= memory["warm"] <= memory["budget"]
        states = [state_of(mounted, other)["state"] for other in chain.names]
        assert 1 <= states.count("warm") <= versions
        assert set(states) <= {"warm", "cold"}
    for name in chain.names:
        assert_reads(mounted / name, chain.folders[name])
        drop_page_cache(mounted / name)
        assert_reads(mounted / name, chain.folders[name])
    assert_no_errors(mounted)


def test_the_one_that_was_asked_for_the_longest_ago_goes(foreign, mount):
    """Looking at the mount is not using a version."""
    mounted = foreign.mount(mount, "--memory", foreign.memory_for(2))
    first, second, third = foreign.names[:3]
    warm(mounted, second)
    warm(mounted, first)
    warm(mounted, third)
    states = {name: state_of(mounted, name)["state"] for name in (first, second, third)}
    assert states == {first: "warm", second: "cold", third: "warm"}


# --- never under a reader ----------------------------------------------------------------------


def test_mappings_stay_right_while_others_are_warmed(chain, mount, serving):
    mounted = chain.mount(mount, "--memory", chain.memory_for(2), *serving)
    first = chain.names[0]
    warm(mounted, first)
    with mapped(mounted / first, chain.shards(first)) as held:
        for name in chain.names[1:]:
            warm(mounted, name)
            assert_reads(mounted / name, chain.folders[name])
            for shard, mapping in held.items():
                assert mapping.view == (chain.folders[first] / shard).read_bytes()
            assert_reads(mounted / first, chain.folders[first])
    assert_no_errors(mounted)


@pytest.mark.parametrize("kind", ["mapping", "descriptor", "child"])
def test_warming_waits_for_a_reader(chain, mount, kind):
    mounted = chain.mount(mount, "--memory", chain.memory_for(1))
    needs_passthrough(mounted)
    first, other = chain.names[1], chain.names[3]
    shard = chain.largest_shard(first)
    warm(mounted, first)
    holder, content = hold(kind, mounted / first / shard)
    try:
        process = start_warm(mounted, other)
        wait_for_state(mounted, other, "waiting")
        with pytest.raises(AssertionError):
            wait_for_state(mounted, other, "warm", "filling", "failed", timeout=0.5)
        assert process.poll() is None
        assert content is None or content() == (chain.folders[first] / shard).read_bytes()
        for name in (first, other):
            assert_reads(mounted / name, chain.folders[name])
    finally:
        holder.close()
    finish(process)
    assert state_of(mounted, other)["state"] == "warm" and state_of(mounted, first)["state"] != "warm"
    for name in (other, first):
        assert_reads(mounted / name, chain.folders[name])
    assert_no_errors(mounted)


@pytest.mark.parametrize("then", ["warm", "drop"])
def test_bytes_in_a_pipe_stay_right(chain, mount, serving, then):
    """splice and sendfile hand out pages, which a pipe or a socket holds longer than any descriptor."""
    mounted = chain.mount(mount, "--memory", chain.memory_for(1), *serving)
    first, other = chain.names[0], chain.names[-1]
    name = chain.shards(first)[0]
    expected = (chain.folders[first] / name).read_bytes()[65536:2 * 65536]
    warm(mounted, first)
    out, into = os.pipe()
    try:
        with open(mounted / first / name, "rb") as file:
            count = os.splice(file.fileno(), into, len(expected), offset_src=65536)
        if then == "warm":
            finish(start_warm(mounted, other))
        else:
            warm(mounted, first, "--drop")
        assert os.read(out, count) == expected[:count]
    finally:
        os.close(out)
        os.close(into)


# --- files that are open already ---------------------------------------------------------------


def test_an_open_file_stays_served_as_it_was(chain, mount):
    mounted = chain.mount(mount)
    needs_passthrough(mounted)
    name = chain.names[-1]
    shard = chain.shards(name)[0]
    expected = (chain.folders[name] / shard).read_bytes()
    middle = len(expected) // 2
    with open(mounted / name / shard, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == expected[:4096]
        warm(mounted, name)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = mounted.counters()["reads"]
        assert os.pread(file.fileno(), len(expected), middle) == expected[middle:]
        assert mounted.counters()["reads"] > before, "the kernel cannot change over while it is open"
        assert by_pread(mounted / name / shard) == expected
        with Mapping(mounted / name / shard) as mapping:
            assert mapping.view == expected
        assert mounted.status()["kernel"]["passthrough_open"] == 0

    def opened_anew():
        with open(mounted / name / shard, "rb", buffering=0) as file:
            opened = mounted.status()["kernel"]["passthrough_open"]
            before = mounted.counters()["reads"]
            assert os.pread(file.fileno(), len(expected), 0) == expected
            assert opened == 0 or mounted.counters()["reads"] == before
            return opened

    wait_for(opened_anew, "the kernel reading it itself", timeout=5)
    assert_no_errors(mounted)


# --- a loader ---------------------------------------------------------------------------------


def test_transformers_loads_a_warm_version(tmp_path, mount, serving):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from reference.trainer import train
    from safetensors.torch import load_file
    from test_trained import assert_loads_as_trained

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    training = train(tmp_path, 2)
    writer = weight_v.WeightVWriter(tmp_path / "run", training.states[0])
    for state in training.states[1:]:
        writer.publish(state)
    folders = weight_v.decode(tmp_path / "run", training.base, tmp_path / "decoded")
    mounted = mount(tmp_path / "run", *serving, base=training.base)
    for step, name in enumerate(list(folders)[1:], start=1):
        warm(mounted, name)
        assert_loads_as_trained(mounted / name, training, step)
        for shard in folders[name].glob("*.safetensors"):
            found, expected = load_file(mounted / name / shard.name), load_file(shard)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key].view(torch.uint8), expected[key].view(torch.uint8)) for key in expected)
    assert_same_tree(mounted / "latest", folders[name])


def test_export_of_a_warm_version(foreign, mount, tmp_path):
    """cp and export see the same files."""
    mounted = foreign.mount(mount)
    name = foreign.names[-1]
    warm(mounted, name)
    shutil.copytree(mounted / name, tmp_path / "copy")
    succeed("export", "--base", foreign.base, foreign.source, name, tmp_path / "exported")
    assert_same_tree(tmp_path / "exported", foreign.folders[name])
    assert_same_tree(tmp_path / "copy", tmp_path / "exported")
