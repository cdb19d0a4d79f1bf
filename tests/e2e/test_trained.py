# SPDX-License-Identifier: Apache-2.0
"""A model in training, published in every format: what transformers loads is what the trainer had."""

import numpy as np
import pytest
from conftest import assert_same_tree, json_of, succeed
from reference import trl, weight_v
from reference.safetensors_io import ModelFolder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS = 13


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    from reference.trainer import changed_share, train

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    result = train(tmp_path_factory.mktemp("training"), STEPS)
    shares = [changed_share(old, new) for old, new in zip(result.states, result.states[1:], strict=False)]
    assert 0.002 < np.mean(shares) < 0.03, "about 1 % of the elements should change in a step"
    return result


def publish_trl(training, root, **options):
    """Step k of a bucket is the state after k - 1 optimizer steps."""
    writer = trl.TrlWriter(root, names=training.parameters, anchor_interval=5, **options)
    names = {"base": 0}
    for step, state in enumerate(training.states):
        assert writer.publish(state) is not None
        names[f"step_{writer.step:06d}"] = step
    return names


def publish_weight_v(training, root, full_at=(), **options):
    writer = weight_v.WeightVWriter(root, training.states[0], **options)
    names = {"base": 0}
    for step, state in enumerate(training.states[1:], start=1):
        names[writer.publish(state, full=step in full_at).name] = step
    return names


EMBEDDING = "model.embed_tokens.weight"
KINDS = {
    "trl-t1": (trl, lambda t, root: publish_trl(t, root, generation="T1")),
    "trl-t1-partial-anchors": (trl, lambda t, root: publish_trl(t, root, generation="T1", partial=True)),
    "trl-t1-module-prefix": (trl, lambda t, root: publish_trl(t, root, generation="T1", prefix="module.")),
    "trl-t2-raw": (trl, lambda t, root: publish_trl(t, root, encoding="raw")),
    "trl-t2-gap_delta": (trl, lambda t, root: publish_trl(t, root, encoding="gap_delta")),
    "weight_v-xor-xxh3": (weight_v, lambda t, root: publish_weight_v(t, root)),
    "weight_v-xor-adler32": (weight_v, lambda t, root: publish_weight_v(t, root, checksum="adler32")),
    "weight_v-overwrite": (weight_v, lambda t, root: publish_weight_v(t, root, encoding="overwrite")),
    "weight_v-full-in-the-middle": (weight_v, lambda t, root: publish_weight_v(t, root, full_at=(6, 12))),
    "weight_v-one-full-file": (weight_v, lambda t, root: publish_weight_v(t, root, full_at=(4,), shards=1)),
    "weight_v-stitch": (weight_v, lambda t, root: publish_weight_v(t, root, layout="stitch", run_id="run-7")),
    "weight_v-stitch-full": (weight_v, lambda t, root: publish_weight_v(t, root, layout="stitch", full_at=(7,))),
    "weight_v-tied-name-twice": (weight_v, lambda t, root: publish_weight_v(t, root, duplicate=EMBEDDING)),
    "weight_v-versions-as-numbers": (weight_v, lambda t, root: publish_weight_v(t, root, int_versions=True, shards=1)),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def published(request, training, tmp_path):
    """(source folder, version name -> training step, folders made by the independent decoder)"""
    decoder, publish = request.param
    names = publish(training, tmp_path / "source")
    folders = decoder.decode(tmp_path / "source", training.base, tmp_path / "decoded")
    assert list(folders) == list(names) and len(names) >= 13
    return tmp_path / "source", names, folders


def assert_loads_as_trained(folder, training, step):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    expected = training.states[step]
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16
        bits = value.contiguous().view(torch.int16).numpy().view(np.uint16).reshape(-1)
        assert np.array_equal(bits, expected[name].bits()), f"{folder}: {name}"
    from reference.trainer import probe_logits

    assert torch.equal(probe_logits(model), training.logits[step]), f"{folder}: logits"


def test_every_version_is_what_the_trainer_had(published, training, mount):
    source, names, folders = published
    mounted = mount(source, base=training.base)
    assert mounted.versions() == sorted(names)
    for name, step in names.items():
        assert_same_tree(mounted / name, folders[name])
        # The files hold both names of the tied weights, whatever the loader makes of them.
        files = ModelFolder.open(mounted / name).state()
        assert np.array_equal(files["lm_head.weight"].data, training.states[step][EMBEDDING].data)
        assert_loads_as_trained(mounted / name, training, step)
    newest = list(names)[-1]
    assert (mounted / "latest").readlink().name == newest
    assert_loads_as_trained(mounted / "latest", training, names[newest])
    counters = mounted.counters()
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0


def test_first_read_of_the_newest_version_needs_no_other(published, training, mount):
    source, names, folders = published
    mounted = mount(source, base=training.base)
    newest = list(names)[-1]
    assert_same_tree(mounted / newest, folders[newest])


def test_verify_and_export_agree_with_the_decoder(published, training, tmp_path):
    source, names, folders = published
    succeed("verify", "--base", training.base, source)
    listed = json_of("log", "--base", training.base, source)
    assert [entry["name"] for entry in listed] == list(names)
    assert all(entry["state"] == "admitted" and entry["error"] is None for entry in listed)
    (tmp_path / "exported").mkdir()
    for name in (list(names)[7], list(names)[-1]):
        succeed("export", "--base", training.base, source, name, tmp_path / "exported" / name)
        assert_same_tree(tmp_path / "exported" / name, folders[name])
