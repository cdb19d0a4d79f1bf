# SPDX-License-Identifier: Apache-2.0
"""export --as: chains decoded by the independent readers in tests/reference, and mounted again."""

import json
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import BINARY, assert_same_tree, json_of, run_weightfs, succeed
from reference import trl, weight_v
from reference.safetensors_io import INDEX_NAME, Tensor, copy_state, read_file, read_header, write_model
from runs import make_bucket, make_run


def source_of(kind: str, folder):
    """(source, base, names of the versions, their folders as the reference decodes them)"""
    if kind == "trl":
        source, base, _ = make_bucket(folder, 5)
        folders = trl.decode(source, base, folder / "decoded")
    else:
        source, base, _ = make_run(folder, 4, encoding="overwrite", full_at=(3,))
        folders = weight_v.decode(source, base, folder / "decoded")
    names = [name for name in folders if name != "base"]
    return source, base, names, folders


@pytest.mark.parametrize("kind", ["weight_v", "trl"])
def test_weight_v_decodes_to_the_versions(tmp_path, mount, kind):
    source, base, names, folders = source_of(kind, tmp_path)
    succeed("export", "--as", "weight_v", "--base", base, source, "latest", tmp_path / "out")
    decoded = weight_v.decode(tmp_path / "out", base, tmp_path / "again")
    assert len(decoded) == len(names) + 1
    mounted = mount(tmp_path / "out", base=base)
    for number, name in enumerate(names, start=1):
        exported = f"weight_v{number:06d}"
        assert_same_tree(decoded[exported], folders[name])
        assert_same_tree(mounted / exported, folders[name])


@pytest.mark.parametrize("kind", ["weight_v", "trl"])
def test_trl_decodes_to_the_versions(tmp_path, mount, kind):
    source, base, names, folders = source_of(kind, tmp_path)
    succeed("export", "--as", "trl", "--base", base, source, "latest", tmp_path / "out")
    decoded = trl.decode(tmp_path / "out", base, tmp_path / "again")
    mounted = mount(tmp_path / "out", base=base)
    assert_same_tree(decoded["step_000001"], folders["base"])
    for number, name in enumerate(names, start=2):
        exported = f"step_{number:06d}"
        if kind == "trl" and number == 2:  # its first version is the base: nothing to publish
            assert exported not in decoded and not (mounted / exported).exists()
            continue
        assert_same_tree(decoded[exported], folders[name])
        assert_same_tree(mounted / exported, folders[name])


def test_weight_v_files_are_as_slime_writes_them(tmp_path):
    run, base, states = make_run(tmp_path, 2, shards=1)
    succeed("export", "--as", "weight_v", "--base", base, run, "latest", tmp_path / "out")
    for number in (1, 2):
        ours, theirs = (root / f"weight_v{number:06d}" for root in (tmp_path / "out", run))
        assert json.loads((ours / INDEX_NAME).read_text()) == json.loads((theirs / INDEX_NAME).read_text())
        header, frames = read_file(ours / "model-00000-of-00001.safetensors")
        expected, _ = read_file(theirs / "model-00000-of-00001.safetensors")
        assert header.metadata == expected.metadata
        assert all(tensor.dtype == "U8" and len(tensor.shape) == 1 for tensor in frames.values())
        assert header.data_start % 8 == 0
        for name, frame in frames.items():
            assert frame.data[4] & 0x27 == 0x20 or frame.data[4] & 0xc0, "content size, no checksum, no dictionary"
            assert frame.data[4] & 0x07 == 0 and name in states[number]
        assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())


def test_trl_files_are_as_trl_writes_them(tmp_path):
    bucket, base, states = make_bucket(tmp_path, 4)
    succeed("export", "--as", "trl", "--base", base, "--from", "step_000001", bucket, "latest", tmp_path / "out")
    for folder, number in (("anchors", 1), ("deltas", 2), ("deltas", 3), ("deltas", 4)):
        name = f"{folder}/step_{number:06d}.safetensors"
        ours, our_tensors = read_file(tmp_path / "out" / name)
        theirs, their_tensors = read_file(bucket / name)
        assert ours.metadata == theirs.metadata, name
        assert list(our_tensors) == list(their_tensors)
        for key, tensor in our_tensors.items():
            other = their_tensors[key]
            assert (tensor.dtype, tensor.shape, tensor.data.tobytes()) == (
                other.dtype, other.shape, other.data.tobytes()), key


def test_exported_trl_exported_again_is_the_same(tmp_path):
    run, base, _ = make_run(tmp_path, 3)
    succeed("export", "--as", "trl", "--base", base, run, "latest", tmp_path / "first")
    succeed("export", "--as", "trl", "--base", base, "--from", "step_000001", tmp_path / "first", "latest",
            tmp_path / "second")
    assert_same_tree(tmp_path / "second", tmp_path / "first")


def test_gaps_over_16_bits(tmp_path):
    state = {"w": Tensor("BF16", (300_000,), np.zeros(600_000, np.uint8))}
    write_model(tmp_path / "base", state, 1, {})
    writer = weight_v.WeightVWriter(tmp_path / "run", state, shards=1)
    for positions in ([0, 65_536, 131_072], [65_536], [1, 2, 299_999]):
        state = copy_state(state)
        state["w"].bits()[positions] += 1
        writer.publish(state)
    succeed("export", "--as", "trl", "--base", tmp_path / "base", tmp_path / "run", "latest", tmp_path / "out")
    types = [read_header(tmp_path / "out" / "deltas" / f"step_{number:06d}.safetensors").records["w.idx"][0]
             for number in (2, 3, 4)]
    assert types == ["U16", "U32", "U32"], "65535 is the largest gap of 16 bits"
    folders = weight_v.decode(tmp_path / "run", tmp_path / "base", tmp_path / "versions")
    decoded = trl.decode(tmp_path / "out", tmp_path / "base", tmp_path / "decoded")
    for number in (1, 2, 3):
        assert_same_tree(decoded[f"step_{number + 1:06d}"], folders[f"weight_v{number:06d}"])


def test_other_types_keep_their_bits(tmp_path, mount):
    rng = np.random.default_rng(8)
    state = {name: Tensor(dtype, shape, rng.integers(0, 256, int(np.prod(shape)) * width, dtype=np.uint8))
             for name, dtype, shape, width in (("f32", "F32", (100, 3), 4), ("bf16", "BF16", (50, 7), 2),
                                               ("fp8", "F8_E4M3", (999,), 1), ("i64", "I64", (17,), 8))}
    write_model(tmp_path / "base", state, 1, {})
    other = copy_state(state)
    for tensor in other.values():
        tensor.data[:: tensor.data.size // 5] ^= 1
    weight_v.WeightVWriter(tmp_path / "run", state, shards=1).publish(other)
    for kind, reader, name in (("weight_v", weight_v, "weight_v000001"), ("trl", trl, "step_000002")):
        out = tmp_path / kind
        succeed("export", "--as", kind, "--base", tmp_path / "base", tmp_path / "run", "latest", out)
        decoded = dict(reader.versions(out, reader.ModelFolder.open(tmp_path / "base")))[name]
        assert all(decoded[key].data.tobytes() == other[key].data.tobytes() for key in other)
        mounted = mount(out, base=tmp_path / "base")
        _, shown = read_file(mounted / name / "model.safetensors")
        assert all(shown[key].data.tobytes() == other[key].data.tobytes() for key in other)


def test_several_shards_of_the_base_and_verify(tmp_path):
    run, base, _ = make_run(tmp_path, 3, shards=3)
    succeed("export", "--as", "weight_v", "--base", base, run, "weight_v000002", tmp_path / "out")
    report = json_of("verify", "--base", base, tmp_path / "out")
    assert report["ok"] and len(report["versions"]) == 2
    assert all(version["digests_checked"] == version["tensors"] > 0 for version in report["versions"])


def test_interrupted_it_leaves_nothing(tmp_path):
    rng = np.random.default_rng(5)
    state = {f"w{i}": Tensor("BF16", (4 << 20,), rng.integers(0, 256, 8 << 20, dtype=np.uint8)) for i in range(12)}
    write_model(tmp_path / "base", state, 1, {})
    other = copy_state(state)
    for tensor in other.values():
        tensor.data[:] = rng.integers(0, 256, tensor.data.size, dtype=np.uint8)
    weight_v.WeightVWriter(tmp_path / "run", state, shards=1).publish(other)
    before = sorted(path.name for path in tmp_path.iterdir())
    for kind in ("weight_v", "trl"):
        process = subprocess.Popen([BINARY, "export", "--as", kind, "--base", tmp_path / "base", tmp_path / "run",
                                    "latest", tmp_path / "out"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while process.poll() is None and not list(tmp_path.glob("out.weightfs-tmp-*")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        assert status in (-signal.SIGTERM, 0)
        if status == 0:  # it was done before the signal came
            assert (tmp_path / "out").is_dir()
            subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_usage(tmp_path):
    run, base, _ = make_run(tmp_path, 2)
    done = run_weightfs("export", "--as", "weight_v", "--base", base, run, "base", tmp_path / "out")
    assert done.returncode == 3 and "[usage]" in done.stderr
    done = run_weightfs("export", "--as", "trl", "--from", "weight_v000002", "--base", base, run, "weight_v000001",
                        tmp_path / "out")
    assert done.returncode == 3 and "[version.not_found]" in done.stderr
    assert run_weightfs("export", "--as", "zip", "--base", base, run, "latest", tmp_path / "out").returncode == 2
    assert not (tmp_path / "out").exists()
