# SPDX-License-Identifier: Apache-2.0
"""show --since, against the real bytes of both versions: who loads again what is listed has the other version."""

import itertools
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import json_of, run_weightfs, succeed
from reference import trl, weight_v
from reference.native_trees import History
from reference.safetensors_io import State, copy_state, read_file, write_model
from runs import make_state
from stores import make_store

CHANGED = [{"a.weight"}, {"b.weight", "c.norm"}, {"a.weight", "d.weight"}, {"c.norm"}]


def changed_state(state: State, names: set[str], seed: int) -> State:
    rng = np.random.default_rng(seed)
    result = copy_state(state)
    for name in names:
        bits = result[name].bits()
        bits[rng.integers(0, bits.size, 20)] += 1 + seed  # never back to what it was
    return result


def make_states() -> list[State]:
    """A base and a version for each entry of CHANGED."""
    states = [make_state()]
    for number, names in enumerate(CHANGED):
        states.append(changed_state(states[-1], names, number))
    return states


def contents(folder: Path) -> tuple[dict, dict]:
    """Tensors (name -> type, shape, bytes, file) and other files (path -> bytes) of a checkpoint folder."""
    tensors, files = {}, {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder).as_posix()
        try:
            _, state = read_file(path) if path.suffix == ".safetensors" else (None, None)
        except (ValueError, struct.error):  # called so, but none
            state = None
        if state is None:
            files[name] = path.read_bytes()
            continue
        assert not state.keys() & tensors.keys(), "these tests tell tensors by name alone"
        for key, tensor in state.items():
            tensors[key] = (tensor.dtype, tensor.shape, tensor.data.tobytes(), name)
    return tensors, files


def differing(old: dict, new: dict) -> set[str]:
    """Names of tensors that are not the same on both sides, wherever they lie."""
    return {name for name in old.keys() | new.keys() if old.get(name, ())[:3] != new.get(name, ())[:3]}


def reload(old: dict, report: dict, new: dict) -> dict:
    """What an engine does: drops and loads what is listed, in that order, and keeps the rest."""
    held = {name: tensor[:3] for name, tensor in old.items()}
    for entry in report["tensors"]:
        if entry["what"] == "removed":
            del held[entry["name"]]
            continue
        loaded = new[entry["name"]]
        assert (entry["file"], entry["bytes"]) == (loaded[3], len(loaded[2]))
        before = held.get(entry["name"])
        assert (entry["what"] == "changed") == (before is not None and before[:2] == loaded[:2])
        held[entry["name"]] = loaded[:3]
    return held


def check(report: dict, old: Path, new: Path, exact: bool) -> None:
    """`exact`: nothing is listed that does not differ."""
    (old_tensors, old_files), (new_tensors, new_files) = contents(old), contents(new)
    assert reload(old_tensors, report, new_tensors) == {name: tensor[:3] for name, tensor in new_tensors.items()}
    listed = {entry["name"] for entry in report["tensors"]}
    really = differing(old_tensors, new_tensors)
    assert listed >= really
    files = {path for path in old_files.keys() | new_files.keys() if old_files.get(path) != new_files.get(path)}
    assert set(report["files"]) >= files and report["files"] == sorted(report["files"])
    if exact:
        assert listed == really and set(report["files"]) == files
    fresh = [entry for entry in report["tensors"] if entry["what"] != "removed"]
    assert report["changed_tensors"] == len(fresh)
    assert report["changed_bytes"] == sum(entry["bytes"] for entry in fresh)
    assert report["tensor_count"] == len(new_tensors)
    assert report["total_bytes"] == sum(len(tensor[2]) for tensor in new_tensors.values())
    assert [entry["name"] for entry in report["tensors"]] == sorted(entry["name"] for entry in report["tensors"])


def check_every_pair(source: Path, folders: dict[str, Path], *options, exact=lambda old, new: True) -> None:
    for old, new in itertools.product(folders, repeat=2):
        report = json_of("show", *options, source, new, "--since", old)
        assert (report["version"], report["since"]) == (new, old)
        check(report, folders[old], folders[new], exact(old, new))


def exported(source: Path, base: Path, place: Path) -> dict[str, Path]:
    """Every version of a published run as real files."""
    place.mkdir()
    folders = {}
    for version in json_of("log", "--base", base, source):
        folders[version["name"]] = place / version["name"]
        succeed("export", "--base", base, source, version["name"], folders[version["name"]])
    return folders


@pytest.mark.parametrize("encoding", ["xor", "overwrite"])
def test_changes_of_a_weight_v_run(tmp_path, encoding):
    states = make_states()
    base = write_model(tmp_path / "base", states[0], 2, {"model_type": "test"})
    writer = weight_v.WeightVWriter(tmp_path / "run", states[0], encoding=encoding)
    for state in states[1:]:
        writer.publish(state)
    folders = exported(tmp_path / "run", base, tmp_path / "out")
    assert len(folders) == len(states)
    check_every_pair(tmp_path / "run", folders, "--base", base)


def test_changes_over_a_full_version_are_everything(tmp_path):
    states = make_states()
    base = write_model(tmp_path / "base", states[0], 2, {"model_type": "test"})
    writer = weight_v.WeightVWriter(tmp_path / "run", states[0])
    for number, state in enumerate(states[1:]):
        writer.publish(state, full=number == 1)
    folders = exported(tmp_path / "run", base, tmp_path / "out")
    over = lambda a, b: min(a, b) < "weight_v000002" <= max(a, b)  # noqa: E731
    check_every_pair(tmp_path / "run", folders, "--base", base, exact=lambda old, new: not over(old, new))
    report = json_of("show", "--base", base, tmp_path / "run", "latest", "--since", "base")
    assert report["changed_tensors"] == report["tensor_count"] == len(states[0])


@pytest.mark.parametrize("options", [{"generation": "T1"}, {}, {"anchor_interval": 3, "partial": True}])
def test_changes_of_a_trl_bucket(tmp_path, options):
    states = make_states()
    base = write_model(tmp_path / "base", states[0], 2, {"model_type": "test"})
    writer = trl.TrlWriter(tmp_path / "bucket", quirk=False, **options)
    for state in states:
        writer.publish(state)
    folders = exported(tmp_path / "bucket", base, tmp_path / "out")
    assert len(folders) == len(states) + 1
    # The first anchor holds every tensor once more, as it is in the base.
    check_every_pair(tmp_path / "bucket", folders, "--base", base, exact=lambda old, new: "base" not in (old, new))


def test_changes_of_a_native_store_with_branches(tmp_path):
    states = make_states()
    states.append(changed_state(states[2], {"d.weight"}, 11))
    folders = {"base": write_model(tmp_path / "0", states[0], 2, {"step": 0})}
    parents = {1: "base", 2: "v1", 3: "v2", 4: "v3", 5: "v2"}
    succeed("init", tmp_path / "store", "--base", folders["base"])
    for number, parent in parents.items():
        name = f"v{number}"
        folders[name] = write_model(tmp_path / str(number), states[number], 2, {"step": number})
        succeed("commit", tmp_path / "store", folders[name], "--name", name, "--parent", parent)
    check_every_pair(tmp_path / "store", folders)
    # With the parents gone there are nets from the base alone.
    succeed("prune", tmp_path / "store", "--keep", "2")
    kept = {version["name"]: folders[version["name"]] for version in json_of("log", tmp_path / "store")}
    assert len(kept) == 3
    check_every_pair(tmp_path / "store", kept, exact=lambda old, new: "base" in (old, new))


@pytest.mark.parametrize("seed", range(6))
def test_changes_of_random_histories(tmp_path, seed):
    """Tensors and files that come, go, move, change their names and shapes."""
    history = History(tmp_path / "history", 500 + seed)
    folders = {"base": history.next()}
    for step in range(1, 7):
        folders[f"step-{step}"] = history.next()
    store = make_store(tmp_path / "store", folders, *["--full"] * (seed % 2))
    check_every_pair(store, folders, exact=lambda old, new: False)
    succeed("squash", store, "step-1..step-5")
    check(json_of("show", store, "latest", "--since", "step-1"), folders["step-1"], folders["step-6"], False)


def test_changes_of_a_mount_are_those_of_its_source(tmp_path, mount):
    states = make_states()
    base = write_model(tmp_path / "base", states[0], 2, {"model_type": "test"})
    writer = weight_v.WeightVWriter(tmp_path / "run", states[0])
    for state in states[1:-1]:
        writer.publish(state)
    mounted = mount(tmp_path / "run", base=base)
    writer.publish(states[-1])  # not in the mount
    report = json_of("show", mounted.path, "latest", "--since", "weight_v000001")
    assert report == json_of("show", "--base", base, tmp_path / "run", "weight_v000003", "--since", "weight_v000001")
    check(report, mounted / "weight_v000001", mounted / "latest", True)
    check(json_of("show", mounted.path, "base", "--since", "latest"), mounted / "latest", mounted / "base", True)
    unknown = run_weightfs("show", mounted.path, "latest", "--since", "weight_v000004")
    assert unknown.returncode == 3 and "version.not_found" in unknown.stderr


def test_changes_as_text(tmp_path):
    states = make_states()
    base = write_model(tmp_path / "base", states[0], 2, {"model_type": "test"})
    writer = weight_v.WeightVWriter(tmp_path / "run", states[0])
    for state in states[1:]:
        writer.publish(state)
    text = succeed("show", "--base", base, tmp_path / "run", "latest", "--since", "weight_v000003")
    assert "c.norm" in text and "a.weight" not in text
    assert text.splitlines()[-1].startswith(f"1 of {len(states[0])} tensors, 1 KiB of ")
    shutil.rmtree(tmp_path / "run" / "weight_v000003")
    gone = run_weightfs("show", "--base", base, tmp_path / "run", "base", "--since", "weight_v000003")
    assert gone.returncode == 3 and "version.not_found" in gone.stderr
