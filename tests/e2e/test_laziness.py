# SPDX-License-Identifier: Apache-2.0
"""Counters prove that mounting reads no tensor, and a read only what feeds it."""

import mmap
import os

import numpy as np
import pytest
from reference import trl, weight_v
from reference.safetensors_io import ModelFolder, Tensor, copy_state, read_header, write_model
from warming import chain

BLOCK = 256 << 10
SLACK = 64 << 10  # reads are rounded to pages and buffers


@pytest.fixture(params=["weight_v", "trl-raw", "trl-gap_delta"])
def source(request, tmp_path):
    """(format, source, base, folders): 16 MiB of weights in two tensors, three versions."""
    rng = np.random.default_rng(51)
    state = {name: Tensor("BF16", (2048, 2048), rng.integers(0, 120, 2048 * 2048 * 2, dtype=np.uint8))
             for name in ("first.weight", "second.weight")}
    write_model(tmp_path / "base", state)
    if request.param == "weight_v":
        writer = weight_v.WeightVWriter(tmp_path / "source", state)
    else:
        writer = trl.TrlWriter(tmp_path / "source", anchor_interval=100, encoding=request.param[4:])
        writer.publish(state)
    for _ in range(3):
        state = copy_state(state)
        for tensor in state.values():
            tensor.bits()[rng.integers(0, tensor.elements, tensor.elements // 100)] ^= 1
        writer.publish(state)
    module = weight_v if request.param == "weight_v" else trl
    return request.param, tmp_path / "source", tmp_path / "base", module.decode(
        tmp_path / "source", tmp_path / "base", tmp_path / "decoded")


def direct_page(path, offset) -> bytes:
    """One page past the page cache, so that the kernel does not read ahead."""
    with mmap.mmap(-1, 4096) as buffer:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(descriptor, [buffer], offset) == 4096
            return bytes(buffer)
        finally:
            os.close(descriptor)


def stored_bytes(source_format, source, tensor, ending="") -> int:
    """Bytes that all deltas store for a tensor, or for that part of it (".idx")."""
    total = 0
    pattern = "weight_v*/*.safetensors" if source_format == "weight_v" else "deltas/*.safetensors"
    for path in source.glob(pattern):
        for name, (_, _, begin, end) in read_header(path).records.items():
            total += end - begin if name.startswith(tensor) and name.endswith(ending) else 0
    return total


def test_mounting_and_looking_around_reads_no_tensor(source, mount):
    _, run, base, folders = source
    mounted = mount(run, base=base)
    for name in folders:
        for path in sorted((mounted / name).rglob("*")):
            assert path.stat().st_size >= 0
            read_header(path) if path.suffix == ".safetensors" else path.read_bytes()
    counters = mounted.counters()
    assert counters["header_bytes_read"] > 0
    fresh = mount(run, base=base)
    for name in folders:
        for path in (fresh / name).rglob("*"):
            assert path.stat().st_size >= 0
    assert fresh.counters()["tensor_bytes_read"] == 0
    assert fresh.counters()["blocks_decoded"] == 0


@pytest.mark.parametrize("verify", ["tensor", "off"])
def test_one_page_decodes_only_what_feeds_it(source, mount, verify):
    source_format, run, base, folders = source
    mounted = mount(run, f"--verify={verify}", base=base)
    newest = list(folders)[-1]
    file = mounted / newest / "model.safetensors"
    header = ModelFolder.open(base).headers["model.safetensors"]
    _, _, begin, end = header.records["second.weight"]
    offset = (header.data_start + (begin + end) // 2 + BLOCK // 2) // 4096 * 4096  # within one block
    assert mounted.counters()["tensor_bytes_read"] == 0
    found = direct_page(file, offset)
    with open(folders[newest] / "model.safetensors", "rb") as expected:
        assert found == os.pread(expected.fileno(), 4096, offset)
    counters = mounted.counters()
    stored = stored_bytes(source_format, run, "second.weight")
    if source_format == "weight_v" and verify == "tensor":
        # The digest covers the whole tensor: that one is composed, and no other.
        assert counters["tensors_verified"] == 1
        assert counters["tensor_bytes_read"] <= 2 * (end - begin) + 2 * stored + SLACK
    else:
        # TRL's positions are read twice: all of a tensor's once to check them, then those that are needed.
        positions = 0 if source_format == "weight_v" else stored_bytes(source_format, run, "second.weight", ".idx")
        assert counters["tensors_verified"] == 0
        assert counters["blocks_decoded"] == 1
        assert counters["tensor_bytes_read"] <= BLOCK + positions + stored + SLACK
    # Once more: from memory.
    before = counters["tensor_bytes_read"]
    assert direct_page(file, offset) == found
    assert mounted.counters()["tensor_bytes_read"] == before


def test_a_page_over_a_block_border_decodes_two_blocks(source, mount):
    _, run, base, folders = source
    mounted = mount(run, base=base)
    newest = list(folders)[-1]
    header = ModelFolder.open(base).headers["model.safetensors"]
    _, _, begin, _ = header.records["second.weight"]
    offset = (header.data_start + begin + 3 * BLOCK) // 4096 * 4096
    assert offset < header.data_start + begin + 3 * BLOCK < offset + 4096
    with open(folders[newest] / "model.safetensors", "rb") as expected:
        assert direct_page(mounted / newest / "model.safetensors", offset) == os.pread(expected.fileno(), 4096, offset)
    counters = mounted.counters()
    # Checking a digest composes the whole tensor once; without one, exactly the two blocks.
    assert counters["blocks_decoded"] == 2 or counters["tensors_verified"] == 1


def test_an_untouched_tensor_needs_no_delta(tmp_path, mount):
    rng = np.random.default_rng(52)
    state = {name: Tensor("BF16", (1024, 1024), rng.integers(0, 120, 1024 * 1024 * 2, dtype=np.uint8))
             for name in ("changed.weight", "untouched.weight")}
    write_model(tmp_path / "base", state)
    writer = weight_v.WeightVWriter(tmp_path / "run", state)
    state = copy_state(state)
    state["changed.weight"].bits()[::50] ^= 1
    writer.publish(state)
    mounted = mount(tmp_path / "run", base=tmp_path / "base")
    header = ModelFolder.open(tmp_path / "base").headers["model.safetensors"]
    _, _, begin, _ = header.records["untouched.weight"]
    offset = (header.data_start + begin + 8192) // 4096 * 4096
    page = direct_page(mounted / "latest" / "model.safetensors", offset)
    assert page == state["untouched.weight"].data[offset - header.data_start - begin:][:4096].tobytes()
    counters = mounted.counters()
    assert counters["tensor_bytes_read"] <= BLOCK and counters["tensors_verified"] == counters["segments_decoded"] == 0


def libraries(pid: int) -> set[str]:
    with open(f"/proc/{pid}/maps") as maps:
        return {line.split()[5] for line in maps if ".so" in line and len(line.split()) == 6}


def test_the_first_read_loads_no_library(chain, mount):
    """oneTBB does when it is first used, which would take longer than decoding a block."""
    mounted = chain.mount(mount)
    pid, name = mounted.status()["pid"], chain.names[-1]
    before = libraries(pid)
    shard = chain.largest_shard(name)
    assert (mounted / name / shard).read_bytes() == (chain.folders[name] / shard).read_bytes()
    assert libraries(pid) == before and any("libtbb" in library for library in before)
