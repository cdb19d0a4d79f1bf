# SPDX-License-Identifier: Apache-2.0
"""Many tensors, many versions, deep chains: what tests/bench/scale measures, at a size that takes seconds.

The stores are made by the same generator, and bytes are compared with a composer that follows docs/FORMAT.md.
"""

import json
import mmap
import os
import random
import shutil
from functools import cache

import pytest
import xxhash
from bench.scale import depth, scale
from bench.scale.chains import make_chain, version_name
from bench.scale.model import BigModel
from bench.scale.versions import BigStore
from conftest import assert_same_tree, json_of, succeed
from reference import native
from reference.native_blocks import decode_block
from test_laziness import direct_page

TENSORS, SHARDS, VERSIONS, BLOCK = 500, 4, 50, 1 << 16
PARAMETERS = 18_000_000  # two blocks a matrix
PAGE = 4096
FRAME_HEADER = 18  # bytes of a zstd frame that are looked at before it is streamed
DEPTHS = (1, 3, 8)
KINDS = {"thin": (False, 0), "dense": (True, 0), "thin-nets": (False, 10), "dense-nets": (True, 7)}
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no usable /dev/fuse here")


class Composer:
    """Blocks of any version, decoded from the store's files one delta after the other, without nets."""

    def __init__(self, store):
        self.store = native.Store(store)
        self.base = self.store.state("base")
        self.index = cache(lambda name: self.store.versions[name].index(self.base.tree))
        self.block = cache(self._block)

    def _block(self, name: str, number: int, block: int) -> bytes:
        version = self.store.versions[name]
        if version.kind == "reference":
            return self.base.objects[number][block * BLOCK:(block + 1) * BLOCK]
        before = self.block(version.manifest["parent"]["name"], number, block)
        found = self.index(name).blocks.get((number, block))
        if found is None:
            return before
        payload = version.payload(found.offset, found.length)
        content = decode_block(found.params, found.coding, payload, before, len(before))
        assert xxhash.xxh3_64_intdigest(content) == found.digest
        return content

    def page(self, name: str, path: str, offset: int) -> bytes:
        """A page that lies inside a tensor, or in two that touch."""
        file = next(number for number, file in enumerate(self.base.tree.files) if file.path == path)
        content = b""
        for number, place in enumerate(self.base.tree.objects):
            if place.file != file or place.offset + place.size <= offset or place.offset >= offset + PAGE:
                continue
            begin, end = max(offset - place.offset, 0), min(offset + PAGE - place.offset, place.size)
            blocks = range(begin // BLOCK, (end - 1) // BLOCK + 1)
            joined = b"".join(self.block(name, number, block) for block in blocks)
            content += joined[begin - blocks[0] * BLOCK:end - blocks[0] * BLOCK]
        return content


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = BigModel(TENSORS, SHARDS, PARAMETERS)
    return model, model.write(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module", params=list(KINDS))
def big(request, model, tmp_path_factory) -> BigStore:
    dense, every = KINDS[request.param]
    store = BigStore(tmp_path_factory.mktemp(request.param) / "store", *model, BLOCK, dense)
    store.init(VERSIONS)
    for number in range(1, VERSIONS + 1):
        store.commit()
        if every and number % every == 0:
            store.net(number - every)
    return store


@pytest.fixture(scope="module")
def composer(big) -> Composer:
    return Composer(big.folder)


def some_places(big, count: int, seed: int) -> list[tuple[int, int, int]]:
    """(version, shard, offset of a page)."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        tensor = rng.choice([tensor for tensor in big.model.list if not tensor.vector])
        start = len(big.model.headers[tensor.shard]) + tensor.begin
        # Block 0 is the one that the most deltas touch.
        at = rng.randrange(start, start + (BLOCK if number % 4 == 0 else tensor.bytes) - PAGE)
        found.append((rng.choice((VERSIONS, rng.randint(1, VERSIONS))), tensor.shard, at // PAGE * PAGE))
    return found


def stored_name(version: int) -> str:
    return f"v{version:06d}" if version else "base"


def test_the_generator_makes_good_stores(big):
    listed = json_of("log", big.folder)
    assert [entry["name"] for entry in listed] == [stored_name(number) for number in range(VERSIONS + 1)]
    assert all(entry["state"] == "admitted" and not entry["warnings"] for entry in listed)
    succeed("verify", big.folder, stored_name(VERSIONS))


def test_pages_are_what_the_deltas_say(big, composer, mount):
    mounted = mount(big.folder)
    for version, shard, offset in some_places(big, 4 if big.dense else 8, 1):
        path = mounted / stored_name(version) / big.model.shard_name(shard)
        assert direct_page(path, offset) == composer.page(stored_name(version), path.name, offset)
    counters = mounted.counters()
    assert counters["blocks_decoded"] > 0
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0


def test_mounting_reads_no_index(big, mount):
    """Manifests and the base's headers are all that is read, whatever the number of tensors that versions touch."""
    mounted = mount(big.folder)
    counters = mounted.counters()
    manifests = list(big.folder.glob("*/*/manifest.json"))
    assert counters["tensor_bytes_read"] == counters["blocks_decoded"] == 0
    # A header's length is read before the header.
    known = sum(path.stat().st_size for path in [*manifests, big.folder / "store.json"])
    known += sum(len(header) + 8 for header in big.model.headers)
    assert counters["header_bytes_read"] <= known
    assert counters["source_reads"] <= len(manifests) + 1 + 2 * SHARDS


def test_headers_are_read_without_decoding(big, mount):
    mounted = mount(big.folder)
    rng = random.Random(2)
    for version in [VERSIONS, *(rng.randint(0, VERSIONS) for _ in range(30))]:
        shard = rng.randrange(SHARDS)
        expected = big.model.headers[shard]
        # Past the page cache: the kernel would read ahead, into the first tensors.
        descriptor = os.open(mounted / stored_name(version) / big.model.shard_name(shard), os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, len(expected) + PAGE) as buffer:
            assert os.preadv(descriptor, [memoryview(buffer)[:len(expected)]], 0) == len(expected)
            assert buffer[:len(expected)] == expected
        os.close(descriptor)
    counters = mounted.counters()
    assert counters["blocks_decoded"] == counters["tensor_bytes_read"] == 0


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return make_chain(tmp_path_factory.mktemp("deep") / "chain", list(DEPTHS), 1, 128, 400, 0.01)


@pytest.mark.parametrize("ladders", [(), (4,), (4, 2)], ids=["no-nets", "nets", "two-ladders"])
def test_a_deep_native_chain_gives_the_true_bytes(deep, tmp_path, mount, ladders):
    store = tmp_path / "store"
    shutil.copytree(deep.native, store)
    for every in ladders:
        succeed("squash", store, f"base..{version_name(DEPTHS[-1])}", "--every", every)
    mounted = mount(store)
    for number in reversed(DEPTHS):
        assert_same_tree(mounted / version_name(number), deep.truth(number))


def test_the_strung_chain_is_what_the_decoder_reads(deep, tmp_path):
    decoded = native.decode(deep.native, tmp_path / "decoded")
    for number in DEPTHS:
        assert_same_tree(decoded[version_name(number)], deep.truth(number))


@pytest.mark.parametrize("options", [[], ["--memory", "4G"]], ids=["default", "large"])
def test_a_deep_read_streams_each_frame_once(deep, mount, options):
    """However deep: all that is read is the base's tensors and every frame, once."""
    for number in DEPTHS:
        mounted = mount(deep.weight_v, *options, base=deep.base)
        assert_same_tree(mounted / version_name(number), deep.truth(number))
        read = mounted.counters()["tensor_bytes_read"]
        looked_at = number * deep.about["tensors"] * FRAME_HEADER
        assert read <= deep.tensor_bytes() + deep.weight_v_stored(number) + looked_at


@needs_fuse
def test_the_scale_command(tmp_path, capsys):
    scale.main(["--tensors", "60", "--shards", "2", "--versions", "9", "--parameters", "4e6", "--block-bytes", "65536",
                "--runs", "1", "--every", "3", "--fadvise", "--out", str(tmp_path), "--keep", str(tmp_path / "data")])
    assert "memory at its peak" in capsys.readouterr().out
    report = json.loads((tmp_path / "scale.json").read_text())
    assert report["about"]["versions"] == 9 and report["cooled_by"] == "posix_fadvise"
    for part in ("warm", "cold"):
        assert report[part]["first"]["page"]["median"] > 0
        assert list(report[part]["steps"]) == ["mount", "page", "headers", "pages"]


@needs_fuse
def test_the_depth_command(tmp_path, capsys):
    depth.main(["--depths", "1", "5", "--every", "4", "--runs", "1", "--layers", "1", "--hidden", "128", "--vocab",
                "500", "--out", str(tmp_path)])
    assert "weight_v" in capsys.readouterr().out
    rows = json.loads((tmp_path / "depth.json").read_text())["rows"]
    assert {(row["what"], row["depth"]) for row in rows if "nets" not in row["what"]} == {
        (what, number) for what in ("native", "weight_v", "weight_v, --memory 8G", "weight_v, --memory 64M")
        for number in (1, 5)}
