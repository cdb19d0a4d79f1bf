# SPDX-License-Identifier: Apache-2.0
"""The native container in Python alone: the writer's stores decode to the folders that went in; damage is refused."""

import random

import numpy as np
import pytest
from conftest import assert_same_tree
from reference import native
from reference.native_blocks import DENSE, PLANES, RAW, SPARSE, decode_block, parse_params
from reference.native_encode import encode_as, random_params, serialise, varint
from reference.native_trees import History
from reference.native_writer import StoreWriter
from reference.safetensors_io import UNSIGNED, FormatError, Tensor, write_file


def make_store(folder, seed, versions=4, full=True, **options):
    """A store and the folder of every version in it."""
    history, writer = History(folder / "history", seed), StoreWriter(folder / "store", seed, **options)
    rng = random.Random(seed)
    folders = {"base": history.next()}
    writer.init(folders["base"], full=full, block_bytes=rng.choice(native.BLOCK_BYTES))
    for step in range(1, versions):
        name, parent = f"step-{step:04d}", rng.choice(list(folders)[-2:])
        folders[name] = history.next()
        writer.commit(name, folders[name], parent, full=step == 3, block_bytes=rng.choice(native.BLOCK_BYTES))
    writer.net(list(folders)[-1], "base")
    return folder / "store", folders


@pytest.mark.parametrize("seed", range(6))
def test_what_the_writer_writes_is_what_the_decoder_reads(tmp_path, seed):
    store, folders = make_store(tmp_path, seed, full=seed % 2 == 0)
    decoded = native.decode(store, tmp_path / "decoded")
    assert sorted(decoded) == sorted(folders)
    for name, folder in folders.items():
        assert_same_tree(decoded[name], folder)


def test_the_same_seed_gives_the_same_store(tmp_path):
    for place in ("a", "b"):
        make_store(tmp_path / place, 3)
    assert_same_tree(tmp_path / "a" / "store", tmp_path / "b" / "store")


def block_pair(rng, width, count):
    numbers = np.random.default_rng(rng.getrandbits(32))
    old = numbers.integers(0, 1 << 8 * width, count, dtype=np.uint64)
    if rng.random() < 0.7:
        old = (numbers.standard_normal(count) * 0.02).astype("<f4").view("<u4").astype(np.uint64) >> (32 - 8 * width)
    steps = np.rint(numbers.standard_normal(count) * rng.choice((1, 3, 40, 1e5))).astype(np.int64)
    steps[numbers.random(count) > rng.choice((0.01, 0.1, 0.5, 1))] = 0
    new = (old.astype(np.int64) + steps) % (1 << 8 * width)
    return tuple(values.astype(UNSIGNED[width]).tobytes() for values in (old, new))


def test_blocks_decode_to_what_was_encoded():
    rng, seen = random.Random(7), set()
    for _ in range(600):
        width, count = rng.choice((1, 2, 4)), rng.choice((1, 2, 5, 63, 64, 65, 200, 1000))
        old, new = block_pair(rng, width, count)
        params = parse_params(serialise(random_params(rng, width, np.frombuffer(old, UNSIGNED[width]))), width)
        for coding in (RAW, PLANES, SPARSE, DENSE):
            if (coding == SPARSE and not params.classes) or (coding == DENSE and params.dense is None):
                continue
            payload = encode_as(rng, params, coding, old, new)
            if payload is not None and len(payload) <= len(new):
                assert decode_block(params, coding, payload, old, len(new)) == new
                seen.add((coding, width))
    assert len(seen) == 12


# By hand, from the text of docs/FORMAT.md: one change of -1 at position 2 of 8 elements, K = 1.
# c = 1: x = (2 * 8 - 1) * 123 / 256 = 7, Rice with k = 2, gap 2: low part 2 (bits 0, 1), unary(0): bit 1.
HAND = varint(1) + varint(0) + bytes([0b1101])


def test_a_block_made_by_hand():
    params = parse_params(b"\x01", 2)
    old = np.arange(1000, 1008, dtype="<u2")
    new = old.copy()
    new[2] -= 1
    assert decode_block(params, SPARSE, HAND, old.tobytes(), 16) == new.tobytes()


@pytest.mark.parametrize("payload", [
    b"", b"\x00", b"\x01", HAND[:-1], HAND + b"\0", varint(9) + HAND[1:], b"\x81\x00" + HAND[1:],
    varint(1) + varint(2) + HAND[2:], HAND[:2] + bytes([0b11101]), HAND[:2] + bytes([0b0001])],
    ids=["empty", "no-change", "no-flags", "no-bits", "trailing-byte", "too-many", "long-varint", "too-many-flags",
         "padding", "no-unary"])
def test_a_bad_sparse_block_is_refused(payload):
    with pytest.raises(FormatError):
        decode_block(parse_params(b"\x01", 2), SPARSE, payload, bytes(range(16)), 16)


@pytest.mark.parametrize("record", [
    b"", b"\x05", b"\x41", b"\x09", b"\x02", b"\x02\x00", b"\x03\x05\x05", b"\x03\x05\x04", b"\x01\x00", b"\x21\x00",
    b"\x21\x00\x00\x00\x00", b"\x21\x00\x01\x00\x00", b"\x21\x00\x41\x00\x0f", b"\x21\x00\x41\x40\x00",
    b"\x21\x00\x41\x00\x13"])
def test_a_bad_parameter_record_is_refused(record):
    with pytest.raises(FormatError):
        parse_params(record, 2)


def small_store(folder):
    """A store of a few hundred bytes a file."""
    writer = StoreWriter(folder / "store", 5, sharding=0.5)
    values = (np.arange(400) % 7 * 257 + 0x3C00).astype("<u2")
    for step in range(3):
        source = folder / f"source{step}"
        source.mkdir()
        trained = (values + step * (values > 0x3F00)).astype("<u2")
        write_file(source / "model.safetensors", {"a": Tensor("BF16", (20, 20), trained)})
        (source / "config.json").write_text(f'{{"step":{step}}}')
        if step == 0:
            writer.init(source)
        else:
            writer.commit(f"step-{step}", source, "base" if step == 1 else "step-1")
    writer.net("step-2", "base")
    return folder / "store"


def survives(store, folder, wanted) -> bool:
    """Decodes without an error; what comes out must be right."""
    try:
        decoded = native.Store(store)
        for name, contents in wanted.items():
            for way in decoded.ways(name):
                assert decoded.follow(way).contents() == contents, f"{name}: wrong bytes"
    except (FormatError, KeyError, OSError):
        return False
    return True


def test_damage_is_never_served(tmp_path):
    store = small_store(tmp_path)
    opened = native.Store(store)
    wanted = {name: opened.state(name).contents() for name in opened.versions}
    rng, refused, total = random.Random(1), 0, 0
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.name != "lock"]
    for path in files:
        content = path.read_bytes()
        cuts = [content[:rng.randrange(len(content))] for _ in range(10)]
        flips = []
        for _ in range(60):
            position = rng.randrange(len(content))
            flips.append(content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1:])
        for damaged in cuts + flips:
            path.write_bytes(damaged)
            refused += not survives(store, tmp_path, wanted)
            total += 1
        path.write_bytes(content)
    assert survives(store, tmp_path, wanted)
    # The rest hits what decides nothing: the store's id, names in headers, bytes between payloads.
    assert refused > 0.9 * total
