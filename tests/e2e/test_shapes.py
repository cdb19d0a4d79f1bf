# SPDX-License-Identifier: Apache-2.0
"""Bases and tensors of every shape: dtypes, shards, empty and 0-d tensors, symlinks, subfolders."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from conftest import assert_same_tree, json_of
from reference import trl, weight_v
from reference.safetensors_io import DTYPE_BYTES, Tensor, copy_state, split_by_size, write_file, write_model

EXTRA = {
    "config.json": b'{"tie_word_embeddings": false}\n',
    "1_Pooling/config.json": b"{}\n",
    "a/b/c/deep.bin": bytes(range(256)) * 600,
    "empty.txt": b"",
    "README.md": "Grüße\n".encode(),
}
SHAPES = {
    "model.embed.weight": (331, 257),
    "model.layers.0.weight": (3, 5, 7, 11),
    "model.layers.1.weight": (400_003,),
    "model.norm.weight": (1,),
    "model.empty": (0, 16),
    "model.empty_too": (7, 0, 2),
    "model.scale": (),
    "last.weight": (17, 1),
}


def random_state(rng, dtypes):
    state = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        dtype = dtypes[place % len(dtypes)]
        size = int(np.prod(shape)) * DTYPE_BYTES[dtype]
        state[name] = Tensor(dtype, shape, rng.integers(0, 120, size, dtype=np.uint8))
    return state


def mutate(state, rng, share=0.02):
    """Changes some bits; 0-d tensors never change in a delta."""
    result = copy_state(state)
    for tensor in result.values():
        if tensor.shape and tensor.elements:
            chosen = rng.integers(0, tensor.elements, max(1, int(tensor.elements * share)))
            tensor.bits()[chosen] ^= rng.integers(1, 8, chosen.size).astype(tensor.bits().dtype)
    return result


def publish(writer, state, rng, count=4):
    for _ in range(count):
        state = mutate(state, rng)
        writer.publish(state)
    return state


def assert_mount_shows(mounted, folders):
    assert mounted.versions() == sorted(folders)
    for name, folder in folders.items():
        assert_same_tree(mounted / name, folder)


@pytest.mark.parametrize("encoding", ["xor", "overwrite"])
@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize(
    "dtypes", [["F32"], ["F16"], ["F8_E4M3"], ["I8"], ["F64", "BOOL", "F8_E5M2", "I64", "U16", "BF16"]],
    ids=["F32", "F16", "FP8", "INT8", "mixed"])
def test_weight_v_over_every_dtype(tmp_path, mount, dtypes, shards, encoding):
    rng = np.random.default_rng(31)
    state = random_state(rng, dtypes)
    write_model(tmp_path / "base", state, shards, extra=EXTRA)
    publish(weight_v.WeightVWriter(tmp_path / "run", state, encoding=encoding), state, rng)
    folders = weight_v.decode(tmp_path / "run", tmp_path / "base", tmp_path / "decoded")
    assert_mount_shows(mount(tmp_path / "run", base=tmp_path / "base"), folders)


@pytest.mark.parametrize("options", [dict(generation="T1"), dict(encoding="raw"), dict(),
                                     dict(generation="T1", prefix="module."), dict(prefix="module.", partial=True)],
                         ids=["T1", "T2-raw", "T2-gap_delta", "T1-module-prefix", "T2-module-prefix-partial"])
@pytest.mark.parametrize("base_dtype", ["BF16", "F32"])
def test_trl_over_bf16_and_widened_to_f32(tmp_path, mount, options, base_dtype):
    rng = np.random.default_rng(32)
    published = random_state(rng, ["BF16"])
    base = published
    if base_dtype == "F32":  # F32 values that BF16 does not hold: the first anchor rounds them
        base = random_state(rng, ["F32"])
        published = {name: trl.to_bf16(tensor) for name, tensor in base.items()}
    write_model(tmp_path / "base", base, 2, extra=EXTRA)
    writer = trl.TrlWriter(tmp_path / "bucket", anchor_interval=4, **options)
    writer.publish(published)
    publish(writer, published, rng, 8)
    folders = trl.decode(tmp_path / "bucket", tmp_path / "base", tmp_path / "decoded")
    assert_mount_shows(mount(tmp_path / "bucket", base=tmp_path / "base"), folders)


def test_trl_numbers_with_gaps_are_normal(tmp_path, mount):
    rng = np.random.default_rng(33)
    state = random_state(rng, ["BF16"])
    write_model(tmp_path / "base", state)
    writer = trl.TrlWriter(tmp_path / "bucket", anchor_interval=100)
    for step in range(8):
        if step not in (2, 5, 6):
            state = mutate(state, rng)
        writer.publish(state)
    folders = trl.decode(tmp_path / "bucket", tmp_path / "base", tmp_path / "decoded")
    assert list(folders) == ["base"] + [f"step_{step:06d}" for step in (1, 2, 4, 5, 8)]
    assert_mount_shows(mount(tmp_path / "bucket", base=tmp_path / "base"), folders)


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3"])
def test_a_dtype_that_bf16_does_not_widen_to_is_refused(tmp_path, dtype):
    rng = np.random.default_rng(34)
    state = {"w": Tensor("BF16", (64,), rng.integers(0, 120, 128, dtype=np.uint8))}
    write_model(tmp_path / "base", {"w": Tensor(dtype, (64,), np.zeros(64 * DTYPE_BYTES[dtype], np.uint8))})
    trl.TrlWriter(tmp_path / "bucket").publish(state)
    versions = json_of("log", "--base", tmp_path / "base", tmp_path / "bucket")
    assert versions[1]["state"] == "refused" and versions[1]["error"]["code"] == "delta.dtype_mismatch"


@pytest.fixture
def run_folder(tmp_path):
    """(run, base) of three weight_v versions in BF16."""
    rng = np.random.default_rng(35)
    state = random_state(rng, ["BF16"])
    write_model(tmp_path / "base", state, 3, extra=EXTRA)
    publish(weight_v.WeightVWriter(tmp_path / "run", state), state, rng, 3)
    return tmp_path / "run", tmp_path / "base"


def test_a_hub_cache_of_symlinks_is_a_base(run_folder, tmp_path, mount):
    run, base = run_folder
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for path in [path for path in base.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(path.as_posix().encode()).hexdigest()
        shutil.copyfile(path, blob)
        link = snapshot / path.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    mounted = mount(run, base=snapshot)
    assert_mount_shows(mounted, folders)
    assert not any(path.is_symlink() for path in (mounted / "base").rglob("*"))


def test_the_base_is_found_in_source(run_folder, tmp_path, mount):
    run, base = run_folder
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    shutil.copytree(base, run / "base")
    assert_mount_shows(mount(run), folders)


def test_the_base_may_lie_beside_its_deltas(run_folder, tmp_path, mount):
    run, base = run_folder
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    shutil.copytree(base, run, dirs_exist_ok=True)
    assert_mount_shows(mount(run), folders)


def test_shards_in_an_order_of_their_own(tmp_path, mount):
    """Offsets need not follow names, headers need no padding, shard names are free."""
    rng = np.random.default_rng(36)
    state = random_state(rng, ["BF16"])
    shuffled = {name: state[name] for name in sorted(state, reverse=True)}
    base = tmp_path / "base"
    base.mkdir()
    weight_map = {}
    for letter, part in zip("zyx", split_by_size(shuffled, 3), strict=True):
        write_file(base / f"part-{letter}.safetensors", part, {"format": "pt", "note": "ä \" \\ "})
        weight_map.update(dict.fromkeys(part, f"part-{letter}.safetensors"))
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    # An odd header length moves every tensor to an odd offset of the file.
    odd = base / "part-x.safetensors"
    content = odd.read_bytes()
    length = int.from_bytes(content[:8], "little")
    odd.write_bytes((length + 3).to_bytes(8, "little") + content[8:8 + length] + b"   " + content[8 + length:])
    publish(weight_v.WeightVWriter(tmp_path / "run", state), state, rng, 3)
    folders = weight_v.decode(tmp_path / "run", base, tmp_path / "decoded")
    assert_mount_shows(mount(tmp_path / "run", base=base), folders)


def test_a_version_without_a_change(run_folder, tmp_path, mount):
    run, base = run_folder
    from reference.safetensors_io import ModelFolder

    writer = weight_v.WeightVWriter(tmp_path / "quiet", ModelFolder.open(base).state())
    for _ in range(2):
        writer.publish(writer.last)
    folders = weight_v.decode(tmp_path / "quiet", base, tmp_path / "decoded")
    assert len(folders) == 3
    assert_mount_shows(mount(tmp_path / "quiet", base=base), folders)
