# SPDX-License-Identifier: Apache-2.0
"""Bad input: the version is hidden or the read fails with EIO; everything else keeps being served."""

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import assert_same_tree, json_of, run_weightfs, succeed
from reference import trl, weight_v
from reference.safetensors_io import INDEX_NAME, ModelFolder, Tensor, read_file, read_header, write_file
from runs import make_bucket, make_run


def states_of(listed):
    return {entry["name"]: (entry["error"] or {}).get("code", "admitted") for entry in listed}


def shard_of(folder, tensor="a.weight"):
    """(file, header) of the shard that holds a tensor of a version."""
    index = json.loads((folder / INDEX_NAME).read_text())
    path = folder / index["weight_map"][tensor]
    return path, read_header(path)


def flip_payload(folder, tensor="a.weight"):
    """Flips one bit in the middle of a tensor's frame."""
    path, header = shard_of(folder, tensor)
    _, _, begin, end = header.records[tensor]
    content = bytearray(path.read_bytes())
    content[header.data_start + (begin + end) // 2] ^= 0x10
    path.write_bytes(content)


def read_fails(path):
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    return caught.value.errno


def assert_alive(mounted):
    assert os.path.exists(f"/proc/{mounted.status()['pid']}")


# --- chains -----------------------------------------------------------------------------------


def test_a_missing_link_hides_descendants_up_to_the_next_full_version(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 9, full_at=(7,))
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    shutil.rmtree(run / "weight_v000004")
    found = states_of(json_of("log", "--base", base, run))
    assert "weight_v000004" not in found
    assert found["weight_v000005"] == "chain.missing_version"
    assert found["weight_v000006"] == "chain.parent_refused"
    served = ["base", *(f"weight_v{number:06d}" for number in (1, 2, 3, 7, 8, 9))]
    assert [name for name, state in found.items() if state == "admitted"] == served
    mounted = mount(run, base=base)
    assert mounted.versions() == served
    for name in served:
        assert_same_tree(mounted / name, folders[name])
    log = mounted.log_file.read_text()
    assert "weight_v000005" in log and "chain.missing_version" in log
    refused = {version["name"] for version in mounted.status()["versions"] if version["state"] == "refused"}
    assert refused == {"weight_v000005", "weight_v000006"}


def damage_index(folder, change):
    index = json.loads((folder / INDEX_NAME).read_text())
    change(index)
    (folder / INDEX_NAME).write_text(json.dumps(index))


def lose_tensor(folder):
    path, header = shard_of(folder)
    _, tensors = read_file(path)
    write_file(path, {name: tensor for name, tensor in tensors.items() if name != "a.weight"}, header.metadata)


def rename_tensor(folder):
    path, header = shard_of(folder)
    _, tensors = read_file(path)
    renamed = {name.replace("a.weight", "x.weight"): tensor for name, tensor in tensors.items()}
    write_file(path, renamed, {name.replace("a.weight", "x.weight"): text for name, text in header.metadata.items()})
    damage_index(folder, lambda index: index["weight_map"].update({"x.weight": index["weight_map"].pop("a.weight")}))


def truncate(folder):
    path, _ = shard_of(folder)
    os.truncate(path, path.stat().st_size - 1)


DAMAGE = {
    "shard-missing": (lambda folder: shard_of(folder)[0].unlink(), {"index.missing_file", "delta.missing_file"}),
    "shard-truncated": (truncate, {"safetensors.truncated"}),
    "tensor-missing": (lose_tensor, {"index.missing_tensor", "delta.missing_tensor", "delta.bad_metadata"}),
    "tensor-unknown": (rename_tensor, {"delta.unknown_tensor"}),
    "index-not-json": (lambda folder: (folder / INDEX_NAME).write_text("{"), {"index.invalid_json"}),
    "base_version": (lambda folder: damage_index(folder, lambda index: index["metadata"].update(base_version="000001")),
                     {"delta.parent_mismatch"}),
    "version": (lambda folder: damage_index(folder, lambda index: index["metadata"].update(version="000009")),
                {"delta.version_mismatch"}),
    "encoding": (lambda folder: damage_index(folder, lambda index: index["metadata"].update(delta_encoding="magic")),
                 {"delta.unsupported_encoding"}),
    "compression": (
        lambda folder: damage_index(folder, lambda index: index["metadata"].update(compression_format="lz4")),
        {"delta.unsupported_encoding"}),
    "checksum": (lambda folder: damage_index(folder, lambda index: index["metadata"].update(checksum_format="crc32")),
                 {"delta.unsupported_checksum"}),
    "escaping-file": (
        lambda folder: damage_index(folder, lambda index: index["weight_map"].update({"a.weight": "../x.safetensors"})),
        {"index.invalid_file_name"}),
}


@pytest.mark.parametrize("damage, codes", DAMAGE.values(), ids=DAMAGE)
def test_a_broken_link_hides_itself_and_its_descendants(tmp_path, mount, damage, codes):
    run, base, states = make_run(tmp_path, 5)
    damage(run / "weight_v000003")
    found = states_of(json_of("log", "--base", base, run))
    assert found["weight_v000003"] in codes
    assert found["weight_v000004"] == found["weight_v000005"] == "chain.parent_refused"
    mounted = mount(run, base=base)
    assert mounted.versions() == ["base", "weight_v000001", "weight_v000002"]
    assert os.readlink(mounted / "latest") == "weight_v000002"
    assert np.array_equal(ModelFolder.open(mounted / "latest").state()["a.weight"].data, states[2]["a.weight"].data)
    assert run_weightfs("verify", "--base", base, run).returncode == 1


@pytest.mark.parametrize("generation", ["T1", "T2"])
def test_a_broken_trl_file_hides_what_follows_up_to_the_next_anchor(tmp_path, mount, generation):
    bucket, base, _ = make_bucket(tmp_path, 10, anchor_interval=8, generation=generation)
    folders = trl.decode(bucket, base, tmp_path / "decoded")
    path = bucket / "deltas" / "step_000005.safetensors"
    os.truncate(path, path.stat().st_size - 10)
    found = states_of(json_of("log", "--base", base, bucket))
    assert found["step_000005"] == "safetensors.truncated"
    assert found["step_000006"] == found["step_000007"] == "chain.parent_refused"
    mounted = mount(bucket, base=base)
    served = ["base", *(f"step_{number:06d}" for number in (1, 2, 3, 4, 8, 9, 10))]
    assert mounted.versions() == served
    for name in served:
        assert_same_tree(mounted / name, folders[name])


def test_nvcomp_cascaded_is_refused_by_name(tmp_path):
    bucket, base, _ = make_bucket(tmp_path, 3)
    path = bucket / "deltas" / "step_000003.safetensors"
    header, tensors = read_file(path)
    packed = {name: Tensor("U8", (tensor.data.size,), tensor.data) if name.endswith(".idx") else tensor
              for name, tensor in tensors.items()}
    write_file(path, packed, header.metadata | {"encoding": "nvcomp_cascaded"})
    entry = json_of("log", "--base", base, bucket)[-1]
    assert entry["error"]["code"] == "delta.unsupported_encoding" and "nvcomp_cascaded" in entry["error"]["message"]


TRL_DAMAGE = {
    "not-ascending": (lambda index: index[[1, 0, *range(2, index.size)]], {"delta.index_not_ascending"}),
    "twice": (lambda index: index[[0, 0, *range(2, index.size)]], {"delta.index_not_ascending"}),
    "out-of-range": (lambda index: np.append(index[:-1], 600 * 512), {"delta.index_out_of_range"}),
    "wrapped": (lambda index: np.append(index[:-1], -1), {"delta.index_out_of_range", "delta.index_not_ascending"}),
}


def damage_positions(bucket, damage):
    path = bucket / "deltas" / "step_000003.safetensors"
    header, tensors = read_file(path)
    index = damage(tensors["a.weight.idx"].data.view("<i4").astype(np.int64))
    tensors["a.weight.idx"] = Tensor("I32", index.shape, index.astype("<i4"))
    write_file(path, tensors, header.metadata)


@pytest.mark.parametrize("damage, codes", TRL_DAMAGE.values(), ids=TRL_DAMAGE)
def test_bad_positions_of_trl_are_an_error_never_a_wrong_byte(tmp_path, mount, damage, codes):
    bucket, base, _ = make_bucket(tmp_path, 3, encoding="raw")
    damage_positions(bucket, damage)
    done = run_weightfs("verify", "--base", base, bucket)
    assert done.returncode == 1 and any(code in done.stdout + done.stderr for code in codes)
    mounted = mount(bucket, base=base)
    if "step_000003" in mounted.versions():
        shard = ModelFolder.open(base).place["a.weight"]
        assert read_fails(mounted / "step_000003" / shard) == errno.EIO
    assert (mounted / "step_000002" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert_alive(mounted)


# --- digests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [dict(), dict(checksum="adler32"), dict(encoding="overwrite")],
                         ids=["xor", "adler32", "overwrite"])
def test_a_flipped_bit_is_eio_on_that_tensor_only(tmp_path, mount, options):
    run, base, _ = make_run(tmp_path, 4, **options)
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    damaged, _ = shard_of(run / "weight_v000004")
    flip_payload(run / "weight_v000004")
    done = run_weightfs("verify", "--base", base, run)
    assert done.returncode == 1 and "a.weight" in done.stdout + done.stderr
    mounted = mount(run, base=base)
    if "weight_v000004" in mounted.versions():
        shard = ModelFolder.open(base).place["a.weight"]
        assert read_fails(mounted / "weight_v000004" / shard) == errno.EIO
        for file in set(ModelFolder.open(base).place.values()) - {shard}:
            assert (mounted / "weight_v000004" / file).read_bytes() == (folders["weight_v000004"] / file).read_bytes()
        counters = mounted.counters()
        assert counters["read_errors"] > 0
        # Which tensor it was, `verify` says; the log names the version, the file and the place in it.
        log = mounted.log_file.read_text()
        assert "weight_v000004" in log and damaged.name in log and ("a.weight" in log or "byte" in log)
    for name in ("base", "weight_v000001", "weight_v000003"):
        assert_same_tree(mounted / name, folders[name])
    assert_alive(mounted)


def test_a_wrong_digest_is_named_with_expected_and_found(tmp_path, mount):
    run, base, states = make_run(tmp_path, 2)
    path, header = shard_of(run / "weight_v000002")
    _, tensors = read_file(path)
    wrong = "0123456789abcdef" * 2
    write_file(path, tensors, header.metadata | {"a.weight": wrong})
    mounted = mount(run, base=base)
    shard = ModelFolder.open(base).place["a.weight"]
    assert read_fails(mounted / "weight_v000002" / shard) == errno.EIO
    assert read_fails(mounted / "weight_v000002" / shard) == errno.EIO, "it stays an error"
    log = mounted.log_file.read_text()
    assert "digest.mismatch" in log and wrong in log and header.metadata["a.weight"] in log
    assert mounted.counters()["digest_failures"] >= 1
    # Whoever switches checking off gets the composed bytes.
    unchecked = mount(run, "--verify=off", base=base)
    assert np.array_equal(ModelFolder.open(unchecked / "weight_v000002").state()["a.weight"].data,
                          states[2]["a.weight"].data)


def wrong_digest(folder):
    path, header = shard_of(folder)
    _, tensors = read_file(path)
    write_file(path, tensors, header.metadata | {"a.weight": "0123456789abcdef" * 2})


def events_of(mounted, name):
    """What the log says of it, without the time."""
    lines = (line.split(" ", 1)[1] for line in mounted.log_file.read_text().splitlines())
    return [line for line in lines if line.split(" ")[1] == name]


@pytest.mark.parametrize(("damage", "code"), [(wrong_digest, "digest.mismatch"), (flip_payload, None)],
                         ids=["digest", "structure"])
def test_bytes_that_do_not_verify_are_an_event_of_their_own(tmp_path, mount, damage, code):
    run, base, _ = make_run(tmp_path, 2)
    damage(run / "weight_v000002")
    mounted = mount(run, base=base)
    shard = ModelFolder.open(base).place["a.weight"]
    header = read_header(base / shard)
    at = header.data_start + header.records["a.weight"][2]
    with open(mounted / "weight_v000002" / shard, "rb", buffering=0) as file, pytest.raises(OSError) as caught:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 1, at)
    assert caught.value.errno == errno.EIO
    line, *_ = events_of(mounted, "page.verify_failed")
    assert line.startswith(f"error page.verify_failed weight_v000002/{shard} at byte {at // 4096 * 4096}: ")
    assert "tensor 'a.weight'" in line and shard_of(run / "weight_v000002")[0].name in line
    assert line.endswith(f"[{code}]") if code else re.search(r"\[(zstd|delta|digest)\.\w+\]$", line)
    assert not events_of(mounted, "read.failed")


def test_positions_that_do_not_verify_are_the_same_event(tmp_path, mount):
    bucket, base, _ = make_bucket(tmp_path, 3, encoding="raw")
    damage_positions(bucket, TRL_DAMAGE["twice"][0])
    mounted = mount(bucket, base=base)
    shard = ModelFolder.open(base).place["a.weight"]
    assert read_fails(mounted / "step_000003" / shard) == errno.EIO
    lines = events_of(mounted, "page.verify_failed")
    assert lines and all("tensor 'a.weight'" in line and "[delta.index_not_ascending]" in line for line in lines)
    assert not events_of(mounted, "read.failed")


def test_trouble_with_files_is_another_event(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 2)
    mounted = mount(run, base=base)
    os.truncate(shard_of(run / "weight_v000002")[0], 100)
    shard = ModelFolder.open(base).place["a.weight"]
    assert read_fails(mounted / "weight_v000002" / shard) == errno.EIO
    assert events_of(mounted, "read.failed") and not events_of(mounted, "page.verify_failed")


def test_blake3_is_checked_or_refused(tmp_path, mount):
    pytest.importorskip("blake3")
    run, base, _ = make_run(tmp_path, 2, checksum="blake3")
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    entry = json_of("log", "--base", base, run)[-1]
    options = []
    if entry["state"] == "refused":
        assert json_of("log", "--base", base, run)[1]["error"]["code"] == "delta.unsupported_checksum"
        assert "--verify=off" in json_of("log", "--base", base, run)[1]["error"]["message"]
        options = ["--verify=off"]
    mounted = mount(run, *options, base=base)
    for name, folder in folders.items():
        assert_same_tree(mounted / name, folder)


# --- changes under a mount --------------------------------------------------------------------


def in_place(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    with open(path, "r+b") as file:
        file.write(content)


def replaced(path):
    content = path.read_bytes()
    path.with_name("new").write_bytes(content[:-1] + b"\0")
    os.replace(path.with_name("new"), path)


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [in_place, truncated])
@pytest.mark.parametrize("source_format", ["weight_v", "trl"])
def test_a_delta_that_changes_while_mounted_is_eio(tmp_path, mount, source_format, change):
    if source_format == "weight_v":
        source, base, _ = make_run(tmp_path, 3)
        name, path = "weight_v000003", shard_of(source / "weight_v000003")[0]
    else:
        source, base, _ = make_bucket(tmp_path, 3)
        name, path = "step_000003", source / "deltas" / "step_000003.safetensors"
    module = weight_v if source_format == "weight_v" else trl
    folders = module.decode(source, base, tmp_path / "decoded")
    mounted = mount(source, base=base)
    previous = list(folders)[-2]
    change(path)
    shard = ModelFolder.open(base).place["a.weight"]
    assert read_fails(mounted / name / shard) == errno.EIO
    assert_same_tree(mounted / previous, folders[previous])
    assert (mounted / name / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert_alive(mounted)
    assert mounted.counters()["read_errors"] > 0
    assert path.name in mounted.log_file.read_text()


def test_a_delta_that_is_replaced_while_mounted_is_still_the_admitted_one(tmp_path, mount):
    source, base, _ = make_run(tmp_path, 3)
    folders = weight_v.decode(source, base, tmp_path / "decoded")
    mounted = mount(source, base=base)
    replaced(shard_of(source / "weight_v000003")[0])
    assert_same_tree(mounted / "weight_v000003", folders["weight_v000003"])


@pytest.mark.parametrize("change", [in_place, truncated])
def test_a_base_that_changes_while_mounted_is_eio(tmp_path, mount, change):
    source, base, _ = make_run(tmp_path, 2)
    mounted = mount(source, base=base)
    shard = ModelFolder.open(base).place["a.weight"]
    change(base / shard)
    assert read_fails(mounted / "weight_v000002" / shard) == errno.EIO
    assert_alive(mounted)


def test_a_base_that_is_replaced_while_mounted_never_mixes(tmp_path, mount):
    """The file that was opened still holds the right bytes; the one that took its name must not be read."""
    source, base, _ = make_run(tmp_path, 2)
    folders = weight_v.decode(source, base, tmp_path / "decoded")
    mounted = mount(source, base=base)
    shard = ModelFolder.open(base).place["a.weight"]
    replaced(base / shard)
    for name, folder in folders.items():
        try:
            found = (mounted / name / shard).read_bytes()
        except OSError as error:
            assert error.errno == errno.EIO
        else:
            assert found == (folder / shard).read_bytes()
    assert_alive(mounted)


def test_files_that_disappear_cost_at_most_an_error(tmp_path, mount):
    source, base, _ = make_run(tmp_path, 3)
    folders = weight_v.decode(source, base, tmp_path / "decoded")
    mounted = mount(source, base=base)
    shutil.rmtree(source)
    for name, folder in folders.items():
        for file in folder.glob("*.safetensors"):
            try:
                found = (mounted / name / file.name).read_bytes()
            except OSError as error:
                assert error.errno == errno.EIO
            else:
                assert found == file.read_bytes()
    assert_alive(mounted)


# --- other formats ----------------------------------------------------------------------------


def u8(data: bytes) -> Tensor:
    return Tensor("U8", (len(data),), np.frombuffer(data, np.uint8))


def skyrl(folder):
    folder = folder / "delta-00000001"
    folder.mkdir(parents=True)
    write_file(folder / "delta-rank00000-file000000.safetensors", {"a.weight": u8(b"x" * 20)})
    manifest = {"version": 1, "base_version": 0, "tensors": [], "payload_files": [
        "delta-rank00000-file000000.safetensors"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def grail(folder):
    folder = folder / "checkpoint-300" / "DELTA"
    folder.mkdir(parents=True)
    (folder / "delta_metadata.json").write_text('{"format": "sparse_codec_v3.1"}')
    (folder / "delta_sparse.bin.zst").write_bytes(bytes.fromhex("28b52ffd2000010000"))


def prime_rl(folder):
    folder = folder / "step_1"
    folder.mkdir(parents=True)
    (folder / "sparse_update_manifest.json").write_text('{"format": "prime-rl-sparse-update", "version": 1}')


def open_rl(folder):
    folder = folder / "delta_1"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text('{"format": "sparse_delta"}')
    write_file(folder / "delta.safetensors", {"a.indices": u8(b"1234")})


def miles_gpu(folder):
    folder = folder / "weight_v000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"protocol_version": 4, "codec": "snappy-zstd", "files": []}')
    (folder / "owner-00000.bin").write_bytes(b"x" * 64)


def slime_flush(folder):
    folder = folder / "weight_v000001"
    folder.mkdir(parents=True)
    write_file(folder / "rank0000_flush000000.safetensors",
               {"__positions__": u8(b"\0\0\0\0"), "__values__": Tensor("BF16", (1,), np.zeros(2, np.uint8))},
               {"encoding": "indices", "params": "[]", "current_version": "1", "checksum": "0"})


def lora(folder):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    write_file(folder / "adapter_model.safetensors", {"base_model.model.a.lora_A.weight": u8(b"1234")})


def arc(folder):
    """Looks like a full checkpoint: the base's index and config, the base's file names."""
    folder = folder / "weight_v000001"
    folder.mkdir(parents=True)
    names = ["a.weight", "b.weight"]
    frame = bytes.fromhex("28b52ffd200c610000000001000000000000000180")
    write_file(folder / "model-00001-of-00001.safetensors", {name: u8(frame) for name in names},
               dict.fromkeys(names, "302318336"))
    weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")


FOREIGN = {"SkyRL": skyrl, "grail": grail, "prime-rl": prime_rl, "open-rl": open_rl, "miles GPU delta": miles_gpu,
           "slime": slime_flush, "LoRA": lora, "ARC": arc}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused_by_name(tmp_path, mount, name):
    _, base, _ = make_run(tmp_path, 1)
    source = tmp_path / "foreign"
    FOREIGN[name](source)
    done = run_weightfs("log", "--base", base, source)
    text = done.stdout + done.stderr
    assert name.lower() in text.lower() and "delta.unsupported_format" in text
    if done.returncode == 0:  # listed as refused: only the base may be served
        assert mount(source, base=base).versions() == ["base"]
    else:
        point = tmp_path / "point"
        point.mkdir()
        refused = run_weightfs("mount", "--base", base, source, point)
        assert refused.returncode == 3 and "delta.unsupported_format" in refused.stderr


def test_an_arc_folder_in_a_run_is_not_taken_for_a_full_version(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 3)
    shutil.rmtree(run / "weight_v000002")
    arc(tmp_path / "foreign")
    shutil.copytree(tmp_path / "foreign" / "weight_v000001", run / "weight_v000002")
    found = states_of(json_of("log", "--base", base, run))
    assert found["weight_v000002"] == "delta.unsupported_format"
    assert found["weight_v000003"] == "chain.parent_refused"
    assert mount(run, base=base).versions() == ["base", "weight_v000001"]


def test_two_runs_in_one_bucket(tmp_path, mount):
    """A restarted trainer overwrites the low numbers; the high ones of the former run are left over."""
    bucket, base, _ = make_bucket(tmp_path, 6)
    former = [bucket / "deltas" / f"step_{number:06d}.safetensors" for number in (4, 5, 6)]
    for path in former:
        os.utime(path, ns=(10**18, 10**18))
    found = states_of(json_of("log", "--base", base, bucket))
    assert [found[path.stem] for path in former] == ["chain.other_run"] * 3
    assert mount(bucket, base=base).versions() == ["base", "step_000001", "step_000002", "step_000003"]


def test_one_number_twice(tmp_path):
    bucket, base, _ = make_bucket(tmp_path, 3)
    shutil.copy2(bucket / "deltas" / "step_000003.safetensors", bucket / "anchors" / "step_000003.safetensors")
    found = [entry for entry in json_of("log", "--base", base, bucket) if entry["name"] == "step_000003"]
    assert found and all(entry["error"]["code"] == "chain.duplicate_version" for entry in found)


def test_unfinished_uploads_are_ignored(tmp_path):
    run, base, _ = make_run(tmp_path, 2)
    shutil.copytree(run / "weight_v000002", run / "weight_v000003.tmp")
    shutil.copytree(run / "weight_v000002", run / ".weight_v000004")
    assert [entry["name"] for entry in json_of("log", "--base", base, run)] == [
        "base", "weight_v000001", "weight_v000002"]
    # Delta shards without their index: not complete, and no full version either.
    (run / "weight_v000003").mkdir()
    shutil.copy(shard_of(run / "weight_v000002")[0], run / "weight_v000003")
    entry = json_of("log", "--base", base, run)[-1]
    assert entry["name"] == "weight_v000003" and entry["state"] == "refused"
    succeed("log", "--base", base, run)
