# SPDX-License-Identifier: Apache-2.0
"""The reference writers and decoders against published vectors and each other: no mount involved."""

import json

import numpy as np
import pytest
from reference import demo, safetensors_io, trl, weight_v
from reference.safetensors_io import FormatError, ModelFolder, Tensor, read_file, write_file, write_model

OLD = Tensor("BF16", (2, 3), np.frombuffer(bytes.fromhex("803f004000bf00000000803f"), np.uint8))
NEW = Tensor("BF16", (2, 3), np.frombuffer(bytes.fromhex("803f014000bf0000000081bf"), np.uint8))


def random_state(rng, dtype="BF16"):
    shapes = {"model.embed_tokens.weight": (300, 16), "model.norm.weight": (16,), "empty": (0, 4), "scalar": ()}
    width = safetensors_io.DTYPE_BYTES[dtype]
    return {
        name: Tensor(dtype, shape, rng.integers(0, 120, int(np.prod(shape)) * width).astype(np.uint8))
        for name, shape in shapes.items()
    }


def mutate(state, rng, share=0.05):
    result = safetensors_io.copy_state(state)
    for name, tensor in result.items():
        if tensor.elements > 1:
            tensor.bits()[rng.random(tensor.elements) < share] ^= 1
    return result


def assert_same_state(left, right):
    assert set(left) == set(right)
    for name in left:
        assert (left[name].dtype, left[name].shape) == (right[name].dtype, right[name].shape)
        assert np.array_equal(left[name].data, right[name].data), name


def test_gap_vectors():
    gaps = trl.gaps_from_indices(np.array([0, 1, 2, 5, 70000]))
    assert gaps.tobytes().hex() == "00000000" "00000000" "00000000" "02000000" "6a110100"
    assert trl.gaps_from_indices(np.array([3, 4, 65540, 65541])).tobytes().hex() == "03000000ffff0000"
    assert trl.gaps_from_indices(np.array([65535])).tobytes().hex() == "ffff"
    assert trl.gaps_from_indices(np.array([65536])).tobytes().hex() == "00000100"
    for indices in ([0], [0, 1, 2, 5, 70000], [7, 9]):
        assert trl.indices_from_gaps(trl.gaps_from_indices(np.array(indices))).tolist() == indices


def test_payload_vectors():
    assert weight_v.xor_payload(OLD, NEW).hex() == "000001000000000000000180"
    assert weight_v.overwrite_payload(OLD, NEW).hex() == "03000000" "02000000" "0a000000" "0b000000" "0181bf"
    for encoding, payload in weight_v.PAYLOADS.items():
        assert np.array_equal(weight_v.apply_payload(encoding, OLD, payload(OLD, NEW)).data, NEW.data)


def test_checksum_vectors():
    data = NEW.data.tobytes()
    assert weight_v.CHECKSUMS["xxh3-128"](data) == "ad7462e47b7670f56a38dfef02929ee8"
    assert weight_v.CHECKSUMS["adler32"](data) == "12050300"
    assert weight_v.CHECKSUMS["xxh3-128"](b"") == "99aa06d3014798d86001c324468d497f"
    assert weight_v.CHECKSUMS["adler32"](b"") == "00000001"


def test_blake3_vector():
    pytest.importorskip("blake3")
    expected = "6c058c4049282919245eb3aa72f7403393aebaef8a9f0a940e409e3da1f5a3a1"
    assert weight_v.CHECKSUMS["blake3"](NEW.data.tobytes()) == expected


def test_bf16_rounding_agrees_with_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    bits = np.concatenate([rng.integers(0, 2**32, 50000, dtype=np.uint32),
                           np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x00000001], np.uint32)])
    floats = bits.view(np.float32)
    floats = floats[~np.isnan(floats)]
    ours = trl.to_bf16(Tensor("F32", floats.shape, floats)).bits()
    theirs = torch.from_numpy(floats.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(ours, theirs)


def test_files_round_trip_and_agree_with_the_safetensors_package(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = random_state(np.random.default_rng(2), "F32")
    write_file(tmp_path / "a.safetensors", state, {"format": "pt"})
    header, again = read_file(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt"} and header.data_start % 8 == 0
    assert_same_state(state, again)
    theirs = safetensors.load_file(tmp_path / "a.safetensors")
    for name, tensor in state.items():
        assert theirs[name].shape == tensor.shape and theirs[name].tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize("damage", ["truncated", "trailing", "duplicate", "hole"])
def test_reader_refuses_damage(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_file(path, random_state(np.random.default_rng(3)))
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "trailing":
        path.write_bytes(content + b"\0")
    else:
        record = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
        other = record if damage == "duplicate" else record.replace("a", "b", 1).replace("[0,1]", "[2,3]")
        text = f"{{{record},{other}}}"
        path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0" * (1 if damage == "duplicate" else 3))
    with pytest.raises(FormatError):
        read_file(path)


RUNS = {
    "xor": dict(encoding="xor"),
    "overwrite": dict(encoding="overwrite"),
    "adler32": dict(checksum="adler32"),
    "stitch": dict(layout="stitch", run_id="run-1"),
    "integers": dict(int_versions=True, shards=1),
    "duplicate": dict(duplicate="model.norm.weight"),
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_weight_v_writer_and_decoder_agree(tmp_path, options):
    rng = np.random.default_rng(4)
    state = random_state(rng, "F8_E4M3")
    write_model(tmp_path / "base", state, 2, extra={"sub/notes.txt": b"hello"})
    writer = weight_v.WeightVWriter(tmp_path / "run", state, **options)
    states = {"base": state}
    for step in range(1, 6):
        if step != 4:  # version 4 changes nothing
            state = mutate(state, rng)
        writer.publish(state, full=step == 3)
        states[f"weight_v{step:06d}"] = state
    folders = weight_v.decode(tmp_path / "run", tmp_path / "base", tmp_path / "out")
    assert list(folders) == list(states)
    for name, folder in folders.items():
        assert_same_state(ModelFolder.open(folder).state(), states[name])
        assert (folder / "sub/notes.txt").read_bytes() == b"hello"
    if options.get("layout") == "stitch":
        assert weight_v.latest_pointer(tmp_path / "run") == "weight_v000005"


def test_weight_v_decoder_checks_digests(tmp_path):
    rng = np.random.default_rng(5)
    state = random_state(rng)
    write_model(tmp_path / "base", state)
    writer = weight_v.WeightVWriter(tmp_path / "run", state)
    writer.last = mutate(state, rng)  # a publisher whose idea of the base is wrong
    writer.publish(mutate(writer.last, rng))
    with pytest.raises(FormatError, match="digest mismatch"):
        weight_v.decode(tmp_path / "run", tmp_path / "base", tmp_path / "out")


BUCKETS = {
    "T1": dict(generation="T1"),
    "T1 partial": dict(generation="T1", partial=True, prefix="module."),
    "T2 raw": dict(encoding="raw"),
    "T2 gap_delta": dict(),
}


@pytest.mark.parametrize("base_dtype", ["BF16", "F32"])
@pytest.mark.parametrize("options", BUCKETS.values(), ids=BUCKETS)
def test_trl_writer_and_decoder_agree(tmp_path, options, base_dtype):
    rng = np.random.default_rng(6)
    state = random_state(rng)
    if base_dtype == "F32":
        write_model(tmp_path / "base", {name: safetensors_io.widen(tensor, "F32") for name, tensor in state.items()}, 2)
    else:
        write_model(tmp_path / "base", state, 2)
    writer = trl.TrlWriter(tmp_path / "bucket", anchor_interval=5, **options)
    states = {}
    for step in range(1, 13):
        if step not in (1, 4):
            state = mutate(state, rng)
        if writer.publish(state) is not None:
            states[f"step_{writer.step:06d}"] = state
    # Step 4 changed nothing: T2 leaves a gap in the numbers, T1 does not.
    assert ("step_000004" in states) == (options.get("generation") == "T1")
    folders = trl.decode(tmp_path / "bucket", tmp_path / "base", tmp_path / "out")
    assert list(folders)[1:] == list(states)
    for name, expected in states.items():
        widened = {key: safetensors_io.widen(tensor, base_dtype) for key, tensor in expected.items()}
        assert_same_state(ModelFolder.open(folders[name]).state(), widened)


def test_t1_quirk_stores_step_2_whole_in_deltas(tmp_path):
    rng = np.random.default_rng(7)
    state = random_state(rng)
    writer = trl.TrlWriter(tmp_path, generation="T1")
    writer.publish(state)
    path = writer.publish(mutate(state, rng))
    header, tensors = read_file(path)
    assert path.parent.name == "deltas" and header.metadata["sparse"] == "False" and set(tensors) == set(state)
    assert json.loads(header.metadata["changed_params"]) == list(state)


@pytest.mark.parametrize("published, expected", [
    ("a.weight", "a.weight"), ("module.a.weight", "a.weight"), ("b.weight", "model.b.weight"),
    ("model.a.weight", "a.weight"), ("module.b.weight", "model.b.weight"), ("d.weight", "x.c.d.weight"),
])
def test_name_rules(published, expected):
    assert trl.match_name(published, {"a.weight", "model.b.weight", "x.c.d.weight"}) == expected


def test_name_rules_never_guess():
    for names in ({"x.a", "y.a"}, {"b"}):
        with pytest.raises(FormatError):
            trl.match_name("a", names)


@pytest.mark.parametrize("source_format", ["weight_v", "trl"])
def test_demo_is_deterministic_and_decodes(tmp_path, source_format):
    arguments = dict(source_format=source_format, versions=3, layers=1, hidden=128, vocab=500)
    for name in ("one", "two"):
        demo.make_demo(tmp_path / name, **arguments)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    module, source = (weight_v, "run") if source_format == "weight_v" else (trl, "bucket")
    folders = module.decode(tmp_path / "one" / source, tmp_path / "one" / "base", tmp_path / "out")
    assert len(folders) == 4
    *_, before, last = [ModelFolder.open(folder).state() for folder in folders.values()]
    changed = sum(int((before[name].bits() != last[name].bits()).sum()) for name in last)
    assert 0.004 < changed / sum(tensor.elements for tensor in last.values()) < 0.02


def test_demo_leaves_foreign_folders_alone(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "precious").write_text("x")
    with pytest.raises(SystemExit):
        demo.make_demo(tmp_path, versions=1, layers=1, hidden=128, vocab=100)
    assert (tmp_path / "base" / "precious").exists()
