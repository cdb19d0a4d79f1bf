# SPDX-License-Identifier: Apache-2.0
"""Checkpoint folders of every shape, committed and read back: the folder byte for byte."""

import os
import shutil

import numpy as np
import pytest
from conftest import assert_same_tree, run_weightfs, succeed
from reference.native_trees import History
from reference.safetensors_io import Tensor, write_file, write_model
from stores import assert_holds, make_store, stored_bytes

RNG = np.random.default_rng(17)


def weights(dtype="BF16", shape=(300, 1000)):
    count = int(np.prod(shape, dtype=int))
    bits = (RNG.standard_normal(count) * 0.02).astype("<f4").view("<u4")
    data = {"F32": bits, "BF16": (bits >> 16).astype("<u2")}.get(dtype)
    return Tensor(dtype, shape, data if data is not None else RNG.integers(0, 256, count, dtype=np.uint8))


def trained(tensor, share=0.01):
    result = tensor.copy()
    bits = result.bits()
    chosen = np.flatnonzero(RNG.random(bits.size) < share)
    bits[chosen] = bits[chosen] + RNG.choice([1, -1], chosen.size).astype(bits.dtype)
    return result


def make_pair(tmp_path, old, new, shards=(1, 1)):
    """Two checkpoint folders, a store with both."""
    folders = {"base": write_model(tmp_path / "old", old, shards[0], {"model_type": "test"}),
               "new": write_model(tmp_path / "new", new, shards[1], {"model_type": "test"})}
    return make_store(tmp_path / "store", folders), folders


@pytest.mark.parametrize("seed", range(8))
def test_random_histories(tmp_path, mount, seed):
    history = History(tmp_path / "history", 100 + seed, largest=200_000)
    folders = {"base": history.next()}
    for step in range(1, 6):
        folders[f"step-{step}"] = history.next()
    store = make_store(tmp_path / "store", folders, *["--full"] * (seed % 2))
    assert_holds(store, folders, tmp_path, mount)


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F8_E4M3", "I8"])
def test_element_widths(tmp_path, mount, dtype):
    old = {f"layer.{i}": weights(dtype) for i in range(3)}
    new = {name: trained(tensor) for name, tensor in old.items()}
    store, folders = make_pair(tmp_path, old, new)
    assert stored_bytes(store / "versions" / "new") < stored_bytes(folders["new"]) / 10
    assert_holds(store, folders, tmp_path, mount)


def test_values_that_are_no_numbers(tmp_path, mount):
    """Every pattern of 16 bits, and differences that wrap around."""
    old = {"all": Tensor("BF16", (65536,), np.arange(65536, dtype="<u2")),
           "zeros": Tensor("BF16", (65536,), np.zeros(65536, "<u2"))}
    new = {"all": Tensor("BF16", (65536,), np.arange(65536, dtype="<u2") ^ 0x8000),
           "zeros": Tensor("BF16", (65536,), np.arange(65536, dtype="<u2"))}
    store, folders = make_pair(tmp_path, old, new)
    assert_holds(store, folders, tmp_path, mount)


def test_renamed_and_moved_tensors_cost_nothing(tmp_path, mount):
    old = {f"layer.{i}": weights() for i in range(6)}
    new = {f"model.layer.{i}": old[f"layer.{i}"] for i in (3, 1, 5, 0, 2, 4)}
    store, folders = make_pair(tmp_path, old, new, shards=(1, 3))
    assert stored_bytes(store / "versions" / "new") < 16_384
    assert_holds(store, folders, tmp_path, mount)


def test_reshaped_and_trained_at_once(tmp_path, mount):
    old = {f"layer.{i}": weights() for i in range(4)}
    new = {name: Tensor("BF16", (1000, 300), trained(tensor).data) for name, tensor in old.items()}
    store, folders = make_pair(tmp_path, old, new, shards=(2, 1))
    assert stored_bytes(store / "versions" / "new") < stored_bytes(folders["new"]) / 10
    assert_holds(store, folders, tmp_path, mount)


def test_added_and_removed_tensors(tmp_path, mount):
    kept = weights()
    old = {"kept": kept, "removed": weights(), "grown": weights(shape=(100,))}
    new = {"kept": trained(kept), "added": weights(shape=(7, 70_001)), "grown": weights(shape=(101,)),
           "empty": Tensor("F32", (0, 4), np.empty(0, np.uint8)), "scalar": weights("F32", ())}
    store, folders = make_pair(tmp_path, old, new)
    assert_holds(store, folders, tmp_path, mount)


def test_tied_weights_are_kept_once(tmp_path, mount):
    tied = weights(shape=(500, 1000))
    new = {"embed": tied, "head": tied, "norm": weights(shape=(8,))}
    store, folders = make_pair(tmp_path, {"norm": new["norm"]}, new)
    assert_holds(store, folders, tmp_path, mount)


def test_untouched_experts_cost_nothing(tmp_path, mount):
    old = {f"expert.{i}": weights(shape=(64, 1024)) for i in range(40)}
    new = {name: trained(t) if name.endswith(("3", "7")) else t for name, t in old.items()}
    store, folders = make_pair(tmp_path, old, new, shards=(2, 2))
    assert stored_bytes(store / "versions" / "new") < 40_000
    assert_holds(store, folders, tmp_path, mount)


def test_other_files_come_change_and_go(tmp_path, mount):
    model = {"w": weights()}
    folders = {}
    extras = {
        "base": {"tokenizer.json": b"{}" * 9000, "empty": b"", "sub/a/b.txt": b"text", "gone.md": b"bye"},
        "one": {"tokenizer.json": b"{}" * 9001, "empty": b"", "sub/a/b.txt": b"text", "sub/new.bin": bytes(300_000)},
        "two": {"tokenizer.json": b"", "empty": b"no more", "renamed/b.txt": b"text", "sub/new.bin": bytes(300_001)},
    }
    for name, extra in extras.items():
        folders[name] = write_model(tmp_path / name, model, 1, {"model_type": "test", "step": name}, extra)
    (folders["one"] / "hollow" / "folder").mkdir(parents=True)
    assert_holds(make_store(tmp_path / "store", folders), folders, tmp_path, mount)


def test_a_safetensors_file_that_is_none_is_an_ordinary_file(tmp_path, mount):
    folders = {}
    for name, text in (("base", b"nothing"), ("one", b"else"), ("two", b"\x10" + bytes(7) + b'{"a":1}         ')):
        folders[name] = write_model(tmp_path / name, {"w": weights(shape=(10,))}, 1, {"model_type": "test"},
                                    {"broken.safetensors": text})
    write_file(folders["two"] / "second.safetensors", {"w": weights(shape=(10,))})
    assert_holds(make_store(tmp_path / "store", folders), folders, tmp_path, mount)


def test_a_version_without_a_change(tmp_path, mount):
    state = {"w": weights()}
    store, folders = make_pair(tmp_path, state, state)
    assert stored_bytes(store / "versions" / "new") < 4096
    assert_holds(store, folders, tmp_path, mount)


def link_like_a_hub_cache(folder, cache):
    """The folder's files move to cache/blobs; cache/snapshots/abc holds symlinks to them."""
    (cache / "blobs").mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if path.is_file():
            link = cache / "snapshots" / "abc" / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, cache / "blobs" / str(number))
            link.symlink_to(os.path.relpath(cache / "blobs" / str(number), link.parent))
    return cache / "snapshots" / "abc"


def test_checkpoints_of_symlinks(tmp_path, mount):
    old = {"w": weights()}
    plain = {"base": write_model(tmp_path / "old", old, 1, {"model_type": "test"}, {"sub/file": b"x"}),
             "new": write_model(tmp_path / "new", {"w": trained(old["w"])}, 1, {"model_type": "test"}, {"sub/file": b"y"})}
    links = {name: link_like_a_hub_cache(folder, tmp_path / f"cache-{name}") for name, folder in plain.items()}
    assert_holds(make_store(tmp_path / "store", links), plain, tmp_path, mount)


def test_full_versions_need_no_other(tmp_path, mount):
    old = {"w": weights()}
    folders = {"base": write_model(tmp_path / "base", old, 1, {"model_type": "test"}),
               "one": write_model(tmp_path / "one", {"w": trained(old["w"])}, 1, {"model_type": "test"}),
               "two": write_model(tmp_path / "two", {"w": trained(old["w"])}, 1, {"model_type": "test"})}
    succeed("init", tmp_path / "store", "--base", folders["base"])
    succeed("commit", tmp_path / "store", folders["one"], "--name", "one", "--full")
    succeed("commit", tmp_path / "store", folders["two"], "--name", "two")
    assert_holds(tmp_path / "store", folders, tmp_path, mount)
    size = stored_bytes(tmp_path / "store" / "versions" / "one")
    assert 0.5 * stored_bytes(folders["one"]) < size < 0.8 * stored_bytes(folders["one"])


def test_parents_can_be_chosen(tmp_path, mount):
    state = {"w": weights()}
    folders = {"base": write_model(tmp_path / "base", state, 1, {"model_type": "test"})}
    succeed("init", tmp_path / "store", "--base", folders["base"], "--full")
    for name, parent in (("a", "base"), ("b", "a"), ("c", "base"), ("d", "latest")):
        state = {"w": trained(state["w"])}
        folders[name] = write_model(tmp_path / name, state, 1, {"model_type": "test"})
        succeed("commit", tmp_path / "store", folders[name], "--name", name, "--parent", parent)
    assert_holds(tmp_path / "store", folders, tmp_path, mount)


def test_output_does_not_depend_on_the_number_of_cores(tmp_path):
    old = {f"layer.{i}": weights() for i in range(5)}
    folders = {"base": write_model(tmp_path / "old", old, 2, {"model_type": "test"}),
               "new": write_model(tmp_path / "new", {n: trained(t) for n, t in old.items()}, 2, {"model_type": "test"})}
    make_store(tmp_path / "many", folders, "--full")
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        make_store(tmp_path / "one", folders, "--full")
    finally:
        os.sched_setaffinity(0, affinity)
    for payload in sorted((tmp_path / "one").rglob("payload-*.safetensors")):
        assert payload.read_bytes() == (tmp_path / "many" / payload.relative_to(tmp_path / "one")).read_bytes()


def test_what_cannot_be_done_is_refused_and_changes_nothing(tmp_path):
    store, folders = make_pair(tmp_path, {"w": weights()}, {"w": weights()})
    shutil.copytree(store, tmp_path / "before")
    for arguments in (["init", store, "--base", folders["base"]],
                      ["commit", store, tmp_path / "none"],
                      ["commit", store, folders["new"], "--name", "new"],
                      ["commit", store, folders["new"], "--name", "../evil"],
                      ["commit", store, folders["new"], "--name", ".hidden"],
                      ["commit", store, folders["new"], "--parent", "none"],
                      ["commit", tmp_path / "none", folders["new"]],
                      ["squash", store, "new..base"], ["squash", store, "base..none"],
                      ["prune", store, "--before", "none"], ["import", tmp_path / "none", store]):
        done = run_weightfs(*arguments)
        assert done.returncode in (1, 2, 3) and done.stderr, arguments
    assert_same_tree(store, tmp_path / "before")
    assert not (tmp_path / "none").exists() and not (tmp_path / "evil").exists()
