# SPDX-License-Identifier: Apache-2.0
"""weightfs diff against numpy: counts, distances, differences; every kind of difference; exit statuses."""

import json

import numpy as np
import pytest
from conftest import run_weightfs
from reference.safetensors_io import DTYPE_BYTES, Tensor, copy_state, write_file, write_model
from runs import make_run, make_state, next_state


def diff_of(*arguments, status=1) -> dict:
    done = run_weightfs("diff", "--json", *arguments)
    assert done.returncode == status, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def by_name(report: dict) -> dict:
    return {tensor["name"]: tensor for tensor in report["tensors"]}


def values_of(tensor: Tensor) -> np.ndarray | None:
    """The elements as doubles; None for types that are no floats or that numpy lacks."""
    if tensor.dtype == "BF16":
        return (tensor.bits().astype("<u4") << np.uint32(16)).view("<f4").astype(np.float64)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if tensor.dtype not in kinds:
        return None
    with np.errstate(invalid="ignore"):  # widening a signalling NaN
        return tensor.data.view(kinds[tensor.dtype]).astype(np.float64)


def expected_change(old: Tensor, new: Tensor) -> dict:
    width = 8 * DTYPE_BYTES[new.dtype]
    before, after = old.bits(), new.bits()
    changed = before != after
    up = [(int(b) - int(a)) % 2**width for a, b in zip(before[changed], after[changed])]
    distances = [min(d, 2**width - d) for d in up]
    result = {
        "elements": before.size,
        "changed_elements": len(up),
        "changed_share": len(up) / before.size if before.size else 0.0,
        "one_ulp_elements": distances.count(1),
        "one_ulp_share": distances.count(1) / len(up) if up else 0.0,
        "max_distance": max(distances, default=0),
        "max_difference": None,
        "not_finite": None,
    }
    if (x := values_of(old)) is not None:
        x, y = x[changed], values_of(new)[changed]
        finite = np.isfinite(x) & np.isfinite(y)
        result["max_difference"] = float(np.abs(y[finite] - x[finite]).max(initial=0.0))
        result["not_finite"] = int((~finite).sum())
    return result


def test_numbers_agree_with_numpy_for_every_width(tmp_path):
    rng = np.random.default_rng(3)
    state, other = {}, {}
    for dtype in ("BF16", "F16", "F32", "F64", "I8", "U16", "I32", "I64", "BOOL", "C64", "F8_E4M3"):
        width = DTYPE_BYTES[dtype]
        old = Tensor(dtype, (61, 7), rng.integers(0, 256, 61 * 7 * width, dtype=np.uint8))
        new = old.copy()
        where = rng.integers(0, old.elements, 60)
        new.bits()[where[:40]] += np.array(1, new.bits().dtype)
        new.bits()[where[40:]] ^= np.array(5, new.bits().dtype)
        state[dtype], other[dtype] = old, new
    write_model(tmp_path / "old", state)
    write_model(tmp_path / "new", other)
    report = diff_of(tmp_path / "old", tmp_path / "new")
    tensors = by_name(report)
    for name in state:
        expected = expected_change(state[name], other[name])
        found = tensors[name]["change"]
        if name == "F8_E4M3":  # numpy has no such type: its values are tested in C++
            expected["max_difference"], expected["not_finite"] = found["max_difference"], found["not_finite"]
        assert found == expected, name
        assert tensors[name]["status"] == "changed"
    total = sum(tensor["change"]["changed_elements"] for tensor in report["tensors"])
    assert report["summary"]["changed_elements"] == total
    assert report["summary"]["changed"] == len(state) and report["summary"]["same"] == 0


def test_versions_are_compared_like_folders(tmp_path, mount):
    run, base, states = make_run(tmp_path, 4)
    expected = {name: expected_change(states[1][name], states[3][name]) for name in states[1]}
    names = ("weight_v000001", "weight_v000003")
    of_source = diff_of("--base", base, *[f"{run}@{name}" for name in names])
    assert {name: tensor["change"] for name, tensor in by_name(of_source).items()} == expected
    mounted = mount(run, base=base)
    for arguments in ([mounted / name for name in names], [f"{mounted.path}@{name}" for name in names]):
        of_mount = diff_of(*arguments)
        assert of_mount["tensors"] == of_source["tensors"] and of_mount["files"] == []
    assert diff_of(mounted / "latest", f"{run}@weight_v000004", "--base", base, status=0)["equal"] is True
    assert diff_of(base, mounted / "base", status=0)["equal"] is True


def test_resharded_moved_renamed_reshaped(tmp_path):
    state = make_state()
    write_model(tmp_path / "old", state, 3, {"model_type": "test"})
    other = copy_state(state)
    other["model.a.weight"] = other.pop("a.weight")
    other["b.weight"] = Tensor("BF16", (512, 900), other["b.weight"].data)
    other["d.weight"] = Tensor("BF16", (300, 513), np.zeros(300 * 513 * 2, np.uint8))
    other["e.new"] = Tensor("F32", (2,), np.zeros(8, np.uint8))
    write_model(tmp_path / "new", other, 1, {"model_type": "other"}, {"extra/notes.txt": b"hello"})
    report = diff_of(tmp_path / "old", tmp_path / "new")
    tensors = by_name(report)
    assert tensors["model.a.weight"]["status"] == "renamed"
    assert tensors["model.a.weight"]["old"]["name"] == "a.weight" and tensors["model.a.weight"]["change"] is None
    assert tensors["b.weight"]["status"] == "reshaped" and tensors["b.weight"]["change"]["changed_elements"] == 0
    assert tensors["d.weight"]["status"] == "reshaped" and tensors["d.weight"]["change"] is None
    assert tensors["c.norm"]["status"] == "same" and tensors["c.norm"]["moved"] is True
    assert tensors["e.new"]["status"] == "added" and tensors["e.new"]["old"] is None
    files = {file["path"]: file["status"] for file in report["files"]}
    assert files["config.json"] == "changed" and files["extra/notes.txt"] == "added"
    assert files["model.safetensors"] == "added" and files["model-00001-of-00003.safetensors"] == "removed"
    summary = report["summary"]
    assert (summary["renamed"], summary["reshaped"], summary["added"], summary["same"]) == (1, 2, 1, 1)
    text = run_weightfs("diff", tmp_path / "old", tmp_path / "new").stdout
    assert "was a.weight" in text and "config.json" in text


def test_writes_nothing(tmp_path):
    state = make_state()
    write_model(tmp_path / "old", state)
    write_model(tmp_path / "new", next_state(state, np.random.default_rng(1)))
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert run_weightfs("diff", tmp_path / "old", tmp_path / "new").returncode == 1
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", ["short", "header", "offsets"])
def test_broken_headers_are_told(tmp_path, damage):
    state = make_state()
    write_model(tmp_path / "old", state)
    write_model(tmp_path / "new", state)
    path = tmp_path / "new" / "model.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "short":
        del content[-1:]
    elif damage == "header":
        content[9] = 0
    else:
        at = content.index(b"data_offsets\":[0,") + len(b"data_offsets\":[0")
        content[at - 1:at] = b"2"
    path.write_bytes(bytes(content))
    done = run_weightfs("diff", tmp_path / "old", tmp_path / "new")
    assert done.returncode == 3 and "[safetensors." in done.stderr and "model.safetensors" in done.stderr
    assert done.stdout == ""


def test_an_adapter_folder_is_a_checkpoint_too(tmp_path):
    for side, value in (("old", 1), ("new", 2)):
        (tmp_path / side).mkdir()
        tensor = Tensor("F32", (4,), np.full(4, value, "<f4"))
        write_file(tmp_path / side / "adapter_model.safetensors", {"lora_A": tensor})
    change = by_name(diff_of(tmp_path / "old", tmp_path / "new"))["lora_A"]["change"]
    assert change["changed_elements"] == 4 and change["max_difference"] == 1.0
