# SPDX-License-Identifier: Apache-2.0
"""A model in training, committed step by step: what transformers loads is what the trainer had."""

import numpy as np
import pytest
from conftest import assert_same_tree, json_of, succeed
from reference import trl, weight_v
from reference.safetensors_io import ModelFolder
from stores import assert_holds, make_store, stored_bytes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS = 6


def make_training(folder, learning_rate, steps):
    """The training, and the checkpoint folder of every step."""
    from reference.trainer import train

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    result = train(folder, steps, learning_rate=learning_rate)
    model = ModelFolder.open(result.base)
    folders = {"base": result.base}
    for step in range(1, steps + 1):
        folders[f"step-{step:04d}"] = model.write_version(folder / f"step-{step:04d}", result.states[step])
    return result, folders


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return make_training(tmp_path_factory.mktemp("training"), 9e-7, STEPS)


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory):
    """A large learning rate: most elements change."""
    return make_training(tmp_path_factory.mktemp("fine-tune"), 3e-4, 2)


def assert_loads(folder, result, step):
    from reference.trainer import probe_logits

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for name, value in model.state_dict().items():
        bits = value.contiguous().view(torch.int16).numpy().view(np.uint16).reshape(-1)
        assert np.array_equal(bits, result.states[step][name].bits()), f"{folder}: {name}"
    assert torch.equal(probe_logits(model), result.logits[step]), f"{folder}: logits"


@pytest.mark.parametrize("full", [False, True], ids=["by-reference", "full"])
def test_every_step_loads_as_it_was_trained(training, tmp_path, mount, full):
    result, folders = training
    store = make_store(tmp_path / "store", folders, *["--full"] * full)
    mounted = mount(store)
    newest = list(folders)[-1]
    assert (mounted / "latest").readlink().name == newest
    assert_loads(mounted / newest, result, STEPS)  # before anything else is in memory
    for step, name in enumerate(folders):
        assert_loads(mounted / name, result, step)
    mounted.unmount()
    assert_holds(store, folders, tmp_path, mount)


def test_sparse_steps_are_small(training, tmp_path):
    _, folders = training
    store = make_store(tmp_path / "store", folders)
    model = stored_bytes(folders["base"])
    for name in list(folders)[1:]:
        assert stored_bytes(store / "versions" / name) < model / 30, "about 1 % of the elements changed"
    assert stored_bytes(store / "versions" / "base") < 1 << 16


def test_a_fine_tune_is_smaller_than_the_model(fine_tune, tmp_path, mount):
    result, folders = fine_tune
    store = make_store(tmp_path / "store", folders)
    assert stored_bytes(store / "versions" / "step-0001") < 0.8 * stored_bytes(folders["base"])
    assert_holds(store, folders, tmp_path, mount)
    assert_loads(mount(store) / "step-0002", result, 2)


def test_log_and_show_know_what_changed(training, tmp_path):
    result, folders = training
    store = make_store(tmp_path / "store", folders)
    listed = json_of("log", store)
    assert [entry["name"] for entry in listed] == list(folders)
    assert all(entry["state"] == "admitted" and entry["error"] is None for entry in listed)
    for step, entry in enumerate(listed[1:], start=1):
        assert entry["kind"] == "delta" and entry["parent"] == list(folders)[step - 1]
        changed = sum(int((tensor.bits() != result.states[step - 1][name].bits()).sum())
                      for name, tensor in result.states[step].items())
        assert entry["changed_elements"] == changed
        assert 0 < entry["delta_bytes"] <= stored_bytes(store / "versions" / entry["name"])
    shown = json_of("show", store, "step-0003")
    assert {tensor["name"] for tensor in shown["tensors"]} == set(result.states[3])
    assert shown["parent"] == "step-0002"


def test_the_message_is_kept(training, tmp_path):
    _, folders = training
    succeed("init", tmp_path / "store", "--base", folders["base"])
    succeed("commit", tmp_path / "store", folders["step-0001"], "--message", 'a "message" with äöü')
    assert json_of("log", tmp_path / "store")[1]["name"] == "v000001"
    assert json_of("show", tmp_path / "store", "v000001")["message"] == 'a "message" with äöü'


@pytest.mark.parametrize("publish", ["trl", "weight_v"])
def test_import_keeps_every_version_of_another_format(training, tmp_path, mount, publish):
    result, folders = training
    source = tmp_path / "source"
    if publish == "trl":
        writer = trl.TrlWriter(source, names=result.parameters, anchor_interval=3)
        for state in result.states:
            writer.publish(state)
        expected = trl.decode(source, result.base, tmp_path / "expected")
    else:
        writer = weight_v.WeightVWriter(source, result.states[0])
        for step, state in enumerate(result.states[1:], start=1):
            writer.publish(state, full=step == 4)
        expected = weight_v.decode(source, result.base, tmp_path / "expected")
    succeed("import", source, tmp_path / "store", "--base", result.base)
    assert_holds(tmp_path / "store", expected, tmp_path, mount)
    succeed("import", source, tmp_path / "store", "--base", result.base)  # nothing is left to do
    assert_holds(tmp_path / "store", expected, tmp_path)


def test_import_goes_on_with_a_source_that_has_grown(training, tmp_path):
    result, _ = training
    writer = weight_v.WeightVWriter(tmp_path / "source", result.states[0])
    for state in result.states[1:4]:
        writer.publish(state)
    succeed("import", tmp_path / "source", tmp_path / "store", "--base", result.base)
    for state in result.states[4:]:
        writer.publish(state)
    succeed("import", tmp_path / "source", tmp_path / "store", "--base", result.base)
    assert_holds(tmp_path / "store", weight_v.decode(tmp_path / "source", result.base, tmp_path / "expected"), tmp_path)


@pytest.mark.parametrize("kind", ["weight_v", "trl"])
def test_export_as_a_chain_of_another_format_mounts_to_the_same_bytes(training, tmp_path, mount, kind):
    _, folders = training
    store = make_store(tmp_path / "store", folders)
    newest = list(folders)[-1]
    succeed("export", store, newest, tmp_path / "chain", "--as", kind)
    decoder = {"weight_v": weight_v, "trl": trl}[kind]
    decoded = list(decoder.decode(tmp_path / "chain", folders["base"], tmp_path / "decoded").values())
    assert_same_tree(decoded[-1], folders[newest])
    mounted = mount(tmp_path / "chain", base=folders["base"])
    assert_same_tree(mounted / "latest", folders[newest])


def test_committing_what_is_mounted(training, tmp_path, mount):
    """A version of one store becomes a version of another without a copy on disk."""
    _, folders = training
    mounted = mount(make_store(tmp_path / "first", folders))
    succeed("init", tmp_path / "second", "--base", folders["base"])
    for name in ("step-0002", "step-0006"):
        succeed("commit", tmp_path / "second", mounted / name, "--name", name)
    mounted.unmount()
    chosen = {name: folders[name] for name in ("base", "step-0002", "step-0006")}
    assert_holds(tmp_path / "second", chosen, tmp_path, mount)
