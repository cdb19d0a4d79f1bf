# SPDX-License-Identifier: Apache-2.0
"""Loaders from PyPI, unmodified, get the bytes that were published, by whatever a version is served."""

import pytest
from conftest import Mount
from warming import SHAPES, Chain, assert_no_errors, chain, needs_passthrough, warm, warm_memory

torch = pytest.importorskip("torch")


def by_load_file(shards: list[str]) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def by_safe_open(shards: list[str]) -> dict:
    from safetensors import safe_open

    tensors = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            tensors |= {name: file.get_slice(name)[:].clone() for name in file.keys()}
    return tensors


def by_runai_streamer(shards: list[str]) -> dict:
    """It reads a version's files with many threads at a time, past the page cache where it can."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as stream:
        stream.stream_files(shards)
        return {name: tensor.clone() for name, tensor in stream.get_tensors()}


LOADERS = {"load_file": by_load_file, "safe_open": by_safe_open, "runai_streamer": by_runai_streamer}


def cold(chain: Chain, mount, version: str) -> Mount:
    return chain.mount(mount)


def opens_wait(chain: Chain, mount, version: str) -> Mount:
    mounted = chain.mount(mount, "--warm-on-open=wait", "--memory", "256M")
    needs_passthrough(mounted)
    return mounted


def in_memory(chain: Chain, mount, version: str) -> Mount:
    mounted = chain.mount(mount, "--memory", "256M")
    needs_passthrough(mounted)
    warm(mounted, version)
    return mounted


def copied_from_memory(chain: Chain, mount, version: str) -> Mount:
    mounted = chain.mount(mount, "--memory", "256M", "--passthrough=off")
    warm(mounted, version)
    return mounted


def in_page_cache(chain: Chain, mount, version: str) -> Mount:
    mounted = chain.mount(mount)
    warm(mounted, version, "--to", "page-cache")
    return mounted


WAYS = (cold, opens_wait, in_memory, copied_from_memory, in_page_cache)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_loader_gets_what_was_published(chain, mount, way, loader):
    version = chain.names[-1]
    mounted = way(chain, mount, version)
    found, expected = (LOADERS[loader]([str(folder / shard) for shard in chain.shards(version)])
                       for folder in (mounted / version, chain.folders[version]))
    assert found.keys() == expected.keys() and len(found) == len(SHAPES)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name
    held = chain.shard_bytes(version) if way in {opens_wait, in_memory, copied_from_memory} else 0
    assert held <= warm_memory(mounted) <= 2 * held, "not served in the way that is tested"
    assert_no_errors(mounted)
