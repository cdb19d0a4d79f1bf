# SPDX-License-Identifier: Apache-2.0
"""Trainers that misbehave: what was admitted stays right, what is wrong is named, and following goes on.

WEIGHTFS_REPEAT=20 runs everything twenty times, every second time with warm versions.
"""

import json
import os
import shutil
import struct
import time

import numpy as np
import pytest
from following import (Held, assert_exact, assert_right_or_eio, attempt, code_of, entries, follow, holds_for, is_like,
                       number_of, run, said_of, state_of, status, wait_latest, wait_state, wait_until, warmth)
from processes import cpu_seconds, resident_bytes
from reference import trl
from reference.safetensors_io import INDEX_NAME, read_file, read_header, write_file


def kinds(*names):
    return pytest.mark.parametrize("run", names, indirect=True)


def start(mount, run, warmth, count=2, **options):
    """A mount of a run with some versions, all of them admitted."""
    mounted = follow(mount, run, warm=warmth, **options)
    for _ in range(count):
        wait_latest(mounted, run.publish())
    return mounted


def assert_goes_on(mounted, run, full=False):
    """A good version that follows is admitted, and all that the run has is right."""
    name = run.publish(full)
    wait_latest(mounted, name)
    assert_exact(mounted, run, *[known for known in run.folders if known in mounted.versions()])
    assert_alive(mounted)


def assert_old_ones_serve(mounted, run, *names):
    """The versions that were admitted: listed, newest is `latest`, every byte right without the page cache."""
    listed = names or run.names
    assert mounted.versions() == sorted(["base", *listed])
    assert os.readlink(mounted / "latest") == listed[-1]
    assert_exact(mounted, run, "base", *listed)


def wait_not_admitted(mounted, name):
    """Where the spec leaves open whether it is a fault or may still come right: it is listed, with a reason."""
    wait_until(lambda: state_of(mounted, name) in ("waiting", "refused") and code_of(mounted, name),
               what=lambda: said_of(mounted, name))


def wait_like(mounted, run, name):
    """Waits until a name has the bytes that this run published under it."""
    wait_until(lambda: is_like(mounted / name, run.folders[name]), what=lambda: said_of(mounted, name))


def assert_alive(mounted):
    assert os.path.exists(f"/proc/{status(mounted)['pid']}")


def shards_of(folder):
    return sorted(path for path in folder.glob("*.safetensors"))


def a_payload(path):
    """The file with the delta's bytes in a version's folder, or the version's only file."""
    return path if path.is_file() else shards_of(path)[0]


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def flip_payload(path):
    """One bit in the middle of the largest tensor of a file."""
    header = read_header(a_payload(path))
    _, _, begin, end = max(header.records.values(), key=lambda record: record[3] - record[2])
    flip(a_payload(path), header.data_start + (begin + end) // 2)


def edit_index(folder, **metadata):
    index = json.loads((folder / INDEX_NAME).read_text())
    index["metadata"].update(metadata)
    (folder / INDEX_NAME).write_text(json.dumps(index))


# --- incomplete -----------------------------------------------------------------------------------


@kinds("xor", "overwrite", "trl", "native")
def test_a_half_written_version_that_completes(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    name = run.make()
    files = run.files(name)
    run.put_file(files[0], 0.5)
    if len(files) > 1:
        holds_for(lambda: name not in mounted.versions(), 0.6, "shown before its index is there")
    else:
        wait_not_admitted(mounted, name)
    assert_old_ones_serve(mounted, run, *good)
    for file in files:
        assert name not in mounted.versions()
        run.put_file(file)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("xor", "trl", "native")
def test_a_version_that_is_written_byte_by_byte(run, mount, warmth):
    """However it is cut, it is shown when it is whole."""
    mounted = start(mount, run, warmth, 1)
    name = run.make()
    files = run.files(name)
    for file in files:
        for share in (0.01, 0.3, 0.6, 0.9, 0.99):
            run.put_file(file, share)
            holds_for(lambda: name not in mounted.versions(), 0.25, f"shown with {share} of {file}")
        run.put_file(file)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("xor", "trl", "native")
def test_a_half_written_version_that_stays_costs_nothing(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    name = run.make()
    files = run.files(name)
    run.put_file(files[0], 0.5)
    if len(files) > 1 and files[-1].name == INDEX_NAME:
        wait_state(mounted, name, "waiting", "delta.incomplete", "delta.missing_file")
    elif len(files) == 1:
        wait_not_admitted(mounted, name)
    pid = status(mounted)["pid"]
    before = cpu_seconds(pid)
    holds_for(lambda: name not in mounted.versions(), 2, "half a version is shown", pause=0.5)
    assert cpu_seconds(pid) - before < 0.5, "looking at it again and again"
    assert_old_ones_serve(mounted, run, *good)
    run.put(name)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite")
def test_an_index_before_its_shards(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    name = run.make()
    *shards, index = run.files(name)
    run.put_file(index)
    wait_state(mounted, name, "waiting", "delta.missing_file", "delta.incomplete")
    run.put_file(shards[0])
    holds_for(lambda: state_of(mounted, name) == "waiting", 0.6, "one shard is missing")
    assert_old_ones_serve(mounted, run, *good)
    for shard in shards[1:]:
        run.put_file(shard)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("native")
def test_a_manifest_before_its_payload(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    name = run.make()
    *payload, manifest = run.files(name)
    run.put_file(manifest)
    wait_not_admitted(mounted, name)
    assert_old_ones_serve(mounted, run, *good)
    for file in payload:
        run.put_file(file)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


def test_a_clock_that_is_set_back(run, mount, warmth):
    """Newer versions with older times: the order is that of the numbers and parents."""
    mounted = follow(mount, run, warm=warmth)
    for age in range(4):
        name = run.make()

        def make_old(path, moment=1_600_000_000 - 86_400 * age if age else 1_500_000_000):
            for part in [path, *path.rglob("*")]:
                os.utime(part, (moment, moment))

        run.put(name, make_old)
        wait_latest(mounted, name)
    assert_old_ones_serve(mounted, run)
    assert_goes_on(mounted, run)


def times_of(path):
    """By name, of a file or of the files of a folder."""
    return {file.name: file.stat().st_mtime_ns for file in ([path] if path.is_file() else path.iterdir())}


def give_times(path, times):
    for file in [path] if path.is_file() else path.iterdir():
        os.utime(file, ns=(times[file.name], times[file.name]))


# --- written anew ---------------------------------------------------------------------------------


def test_a_number_that_is_rewritten_under_its_successors(run, mount, warmth):
    mounted = start(mount, run, warmth, 4)
    other = run.fork(1)
    times = times_of(run.source / run.where(run.names[1]))
    name = other.publish()
    assert name == run.names[1]
    wait_state(mounted, name, "refused", "chain.rewritten")
    assert_old_ones_serve(mounted, run)
    run.put(name)
    give_times(run.source / run.where(name), times)  # as rsync and tar do: a file is known by size and time
    wait_until(lambda: {entry["state"] for entry in entries(mounted, name)} == {"admitted"},
               what=lambda: said_of(mounted, name))
    assert_old_ones_serve(mounted, run)
    assert_goes_on(mounted, run)


def test_the_newest_number_is_written_anew(run, mount, warmth):
    mounted = start(mount, run, warmth, 3)
    name = run.names[-1]
    other = run.fork(2)
    with Held(mounted / name, run.folders[name]) as held:
        assert other.publish() == name
        wait_like(mounted, other, name)
        held.assert_files()
        assert_old_ones_serve(mounted, other)
        assert_goes_on(mounted, other)
        held.assert_files()


def test_a_run_that_is_wiped_and_started_again(run, mount, warmth):
    mounted = start(mount, run, warmth, 3)
    newest = run.names[-1]
    with Held(mounted / newest, run.folders[newest]) as held:
        other = run.fork(0)
        names = [other.make() for _ in range(2)]
        run.wipe()
        other.put(names[0])
        wait_latest(mounted, names[0])
        wait_like(mounted, other, names[0])
        assert_exact(mounted, other, "base", names[0])
        held.assert_files()
        other.put(names[1])
        wait_latest(mounted, names[1])
        wait_like(mounted, other, names[1])
        assert_exact(mounted, other)
        held.assert_files()
        for name in mounted.versions():  # what else may still be listed is whole
            folders = [known.folders[name] for known in (run, other) if name in known.folders]
            assert any(is_like(mounted / name, folder) for folder in folders), f"{name} is a mixture"
        for _ in range(2):
            wait_latest(mounted, other.publish())
        wait_like(mounted, other, newest)
        assert_exact(mounted, other)
        held.assert_files()


def test_a_run_that_is_wiped(run, mount, warmth):
    """Nothing that was admitted leaves; files that the daemon has open still have their bytes."""
    mounted = start(mount, run, warmth, 3)
    run.wipe()
    holds_for(lambda: mounted.versions() == sorted(run.folders), 1.5, "versions left")
    assert_old_ones_serve(mounted, run)
    for name in run.names:
        run.put(name)
    assert_goes_on(mounted, run)


def test_old_versions_that_the_trainer_deletes(run, mount, warmth):
    mounted = start(mount, run, warmth, 4)
    for name in run.names[:2]:
        run.take_away(name)
    assert_goes_on(mounted, run)
    assert_goes_on(mounted, run)
    assert mounted.versions() == sorted(run.folders)


# --- numbers and parents --------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["weight_v{}", "weight_v{:07d}"])
@kinds("xor", "overwrite")
def test_one_number_in_two_spellings(run, spelling, mount, warmth):
    mounted = start(mount, run, warmth, 2)
    other = run.fork(1)
    double = other.make()
    twin = spelling.format(number_of(double))
    os.rename(other.staged(double), run.source / twin)
    wait_until(lambda: any(entry["state"] == "refused" and entry["error"]["code"].startswith("chain.duplicate")
                           for entry in status(mounted)["versions"]), what=lambda: said_of(mounted, twin))
    assert_old_ones_serve(mounted, run)
    assert_goes_on(mounted, run)
    assert twin not in mounted.versions()


@kinds("trl")
def test_an_anchor_and_a_delta_of_one_number(run, mount, warmth):
    mounted = start(mount, run, warmth, 3)
    other = run.fork(2)
    double = other.make(full=True)
    assert double == run.names[-1] and run.where(double) != other.where(double)
    other.put(double)
    wait_until(lambda: any(entry["state"] == "refused" and entry["error"]["code"].startswith("chain.duplicate")
                           for entry in entries(mounted, double)), what=lambda: said_of(mounted, double))
    assert_old_ones_serve(mounted, run)
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite", "native")
def test_a_gap_keeps_what_follows_waiting(run, mount, warmth):
    mounted = start(mount, run, warmth, 1)
    names = [run.make() for _ in range(3)]
    for name in names[1:]:
        run.put(name)
    wait_state(mounted, names[1], "waiting", "chain.missing")
    wait_state(mounted, names[2], "waiting", "chain.missing", "chain.parent_refused")
    assert_old_ones_serve(mounted, run, run.names[0])
    run.put(names[0])
    wait_latest(mounted, names[2])
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite")
def test_a_gap_ends_with_a_full_version(run, mount, warmth):
    mounted = start(mount, run, warmth, 1)
    lost, late = run.make(), run.make()
    run.put(late)
    wait_state(mounted, late, "waiting", "chain.missing")
    assert_goes_on(mounted, run, full=True)
    assert lost not in mounted.versions() and late not in mounted.versions()
    assert_goes_on(mounted, run)


@kinds("trl")
def test_a_gap_in_a_bucket_is_waited_for_and_then_a_warning(run, mount, warmth, tmp_path):
    """Steps without changes leave no file, so a gap may be none; a file that comes late puts it right."""
    mounted = start(mount, run, warmth, 2)
    missed, late = run.make(), run.make()
    began = time.monotonic()
    run.put(late)
    wait_state(mounted, late, "waiting", "chain.gap")
    wait_latest(mounted, late)
    assert time.monotonic() - began > 9, "a gap is waited for"
    assert entries(mounted, late)[-1]["warnings"]
    without = trl.decode(run.source, run.base, tmp_path / "without")
    assert is_like(mounted / late, without[late]), "absolute values over the last one that is there"
    run.put(missed)
    wait_like(mounted, run, late)
    wait_until(lambda: mounted.versions() == sorted(run.folders), what=lambda: said_of(mounted, missed))
    assert_old_ones_serve(mounted, run)
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite")
def test_a_wrong_parent(run, mount, warmth):
    mounted = start(mount, run, warmth, 3)
    good = list(run.names)
    name = run.put(run.make(), lambda folder: edit_index(folder, base_version="000001"))
    wait_state(mounted, name, "refused", "delta.parent_mismatch")
    assert_old_ones_serve(mounted, run, *good)
    child = run.publish()
    wait_state(mounted, child, "waiting", "chain.parent_refused")
    run.put(name)
    wait_latest(mounted, child)
    assert_goes_on(mounted, run)


@kinds("native")
def test_a_version_of_another_history(run, mount, warmth):
    """Its parent has the right name and another digest."""
    mounted = start(mount, run, warmth, 2)
    good = list(run.names)
    other = run.fork(1)
    other.make()
    stranger = other.put(other.make())
    wait_not_admitted(mounted, stranger)
    assert_old_ones_serve(mounted, run, *good)
    assert run.make() == stranger
    run.put(stranger)
    wait_latest(mounted, stranger)
    assert_goes_on(mounted, run)


# --- damage ---------------------------------------------------------------------------------------


def assert_refused_until_mended(mounted, run, damage, *codes):
    """A damaged upload is refused with its reason, what builds on it waits, and the right one takes its place."""
    good = list(run.names)
    refusals = status(mounted)["follow"]["refusals"]
    name = run.put(run.make(), damage)
    wait_state(mounted, name, "refused", *codes)
    assert status(mounted)["follow"]["refusals"] > refusals
    assert_old_ones_serve(mounted, run, *good)
    child = run.publish()
    wait_state(mounted, child, "waiting", "chain.parent_refused")
    assert_old_ones_serve(mounted, run, *good)
    run.put(name)
    wait_latest(mounted, child)
    assert "version.refused" in mounted.log_file.read_text()
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite", "native")
def test_a_flipped_bit_that_is_mended(run, mount, warmth):
    mounted = start(mount, run, warmth)
    assert_refused_until_mended(mounted, run, flip_payload)


@kinds("xor", "overwrite")
def test_a_wrong_digest(run, mount, warmth):
    mounted = start(mount, run, warmth)

    def other_digest(folder):
        shard = shards_of(folder)[-1]
        header, tensors = read_file(shard)
        name = next(iter(header.metadata))
        write_file(shard, tensors, header.metadata | {name: "0123456789abcdef" * 2})

    assert_refused_until_mended(mounted, run, other_digest, "digest.mismatch")


def scribble_positions(path):
    """Positions that do not ascend, whichever width the gaps have: the largest ones everywhere."""
    header, tensors = read_file(path)
    name = next(key for key in tensors if key.endswith(".idx"))
    tensors[name].data[:] = 0xFF
    write_file(path, tensors, header.metadata)


@kinds("trl")
def test_positions_that_leave_the_tensor(run, mount, warmth):
    mounted = start(mount, run, warmth)
    assert_refused_until_mended(mounted, run, scribble_positions, "delta.")


@pytest.mark.parametrize("length", [1 << 61, (1 << 64) - 1, 99_999_999])
@kinds("xor", "trl")
def test_a_huge_header(run, length, mount, warmth):
    """The last one is allowed, and more than there is: perhaps the rest is on its way."""
    mounted = start(mount, run, warmth)
    good = list(run.names)
    pid = status(mounted)["pid"]
    before = resident_bytes(pid)

    def claim_much(path):
        with open(a_payload(path), "r+b") as file:
            file.write(struct.pack("<Q", length))

    name = run.put(run.make(), claim_much)
    wait_not_admitted(mounted, name)
    assert resident_bytes(pid) < before + (256 << 20)
    assert_old_ones_serve(mounted, run, *good)
    run.put(name)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("xor", "trl")
def test_a_folder_where_a_file_should_be(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)

    def become_a_folder(path):
        payload = a_payload(path)
        payload.unlink()
        payload.mkdir()

    name = run.make()
    copy = run.staged(name)
    become_a_folder(copy)
    os.rename(copy, run.source / run.where(name))
    holds_for(lambda: name not in mounted.versions(), 1, "a folder is no delta")
    assert_old_ones_serve(mounted, run, *good)
    run.take_away(name)
    run.put(name)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


@kinds("xor", "overwrite")
def test_a_folder_where_an_index_should_be(run, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)

    def become_a_folder(folder):
        (folder / INDEX_NAME).unlink()
        (folder / INDEX_NAME).mkdir()

    name = run.put(run.make(), become_a_folder)
    wait_not_admitted(mounted, name)
    assert_old_ones_serve(mounted, run, *good)
    run.put(name)
    wait_latest(mounted, name)
    assert_goes_on(mounted, run)


JUNK = [".weight_v000003", "weight_v000003.tmp", "weight_v", "weight_vx", "weight_v-3", "weight_v3x", "WEIGHT_V000003",
        "weight_v99999999999999999999999", "step_000003.safetensors.tmp", ".step_000003.safetensors",
        "step_.safetensors", "step_00000x.safetensors", ".nfs000000001", "two\nlines", "a" * 255, "\udcff\udcfe",
        "lost+found", ".tmp-v000003", "README", "..."]


def scatter_junk(folder, turn):
    """Files and folders, and what is neither."""
    for number, name in enumerate(JUNK):
        if number % 2 == turn % 2:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(os.urandom(40))
    (folder / "nowhere").symlink_to("missing")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(folder / "weight_v000009")  # opening one for reading waits forever


@pytest.mark.parametrize("turn", [0, 1])
def test_names_that_mean_nothing(run, turn, mount, warmth):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    for folder in {run.source, (run.source / run.where(good[-1])).parent}:
        scatter_junk(folder, turn)
    holds_for(lambda: mounted.versions() == sorted(["base", *good]), 1, "junk is shown")
    assert_old_ones_serve(mounted, run, *good)
    assert_goes_on(mounted, run)
    admitted = {version["name"] for version in status(mounted)["versions"] if version["state"] == "admitted"}
    assert admitted == set(run.folders)


@kinds("xor", "overwrite", "trl")
def test_an_admitted_file_that_is_truncated(run, mount, warmth):
    """Bytes that are gone give EIO, or were kept; others are right, and a full version starts anew."""
    mounted = start(mount, run, warmth, 3)
    first = run.source / run.where(run.names[0])
    os.truncate(a_payload(first), a_payload(first).stat().st_size // 2)
    for _ in range(2):
        for name, folder in run.folders.items():
            assert_right_or_eio(mounted / name, folder)
    assert_exact(mounted, run, "base")
    full = run.publish(full=True)
    wait_latest(mounted, full)
    assert_exact(mounted, run, full)
    for name in mounted.versions():
        assert_right_or_eio(mounted / name, run.folders[name])
    assert_alive(mounted)


# --- the base -------------------------------------------------------------------------------------


def touch(base):
    os.utime(next(base.glob("*.safetensors")), ns=(1_700_000_000 * 10**9, 1_700_000_000 * 10**9))


def edit(base):
    path = next(base.glob("*.safetensors"))
    flip(path, path.stat().st_size - 100)


def replace(base):
    path = next(base.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-100] ^= 0x10
    (base / "new").write_bytes(content)
    os.replace(base / "new", path)


def lose(base):
    next(base.glob("*.safetensors")).unlink()


@pytest.mark.parametrize("change", [touch, edit, replace, lose])
@kinds("xor", "trl")
def test_a_base_that_changes_stops_the_following(run, change, mount, warmth, tmp_path):
    mounted = start(mount, run, warmth)
    good = list(run.names)
    kept = shutil.copytree(run.base, tmp_path / "kept")
    expected = run.folders | {"base": kept}
    name = run.make()
    change(run.base)
    wait_until(lambda: status(mounted)["follow"]["problem"], what=lambda: said_of(mounted, name))
    run.put(name)
    holds_for(lambda: name not in mounted.versions(), 1.5, "admitted on another base")
    assert os.readlink(mounted / "latest") == good[-1]
    for version in ["base", *good]:
        assert_right_or_eio(mounted / version, expected[version])
    problem = status(mounted)["follow"]["problem"]
    assert problem["code"] and problem["message"]
    assert_alive(mounted)


# --- the source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["moved", "copied"])
def test_a_source_that_vanishes_and_returns(run, again, mount, warmth):
    mounted = start(mount, run, warmth)
    away = run.place / "away"
    os.rename(run.source, away)
    holds_for(lambda: mounted.versions() == sorted(run.folders), 1, "versions left with the source")
    assert_old_ones_serve(mounted, run)
    if again == "moved":
        os.rename(away, run.source)
    else:
        shutil.copytree(away, run.source)
    assert_goes_on(mounted, run)
    wait_until(lambda: status(mounted)["follow"]["problem"] is None, what=lambda: said_of(mounted, run.names[-1]))


@kinds("trl")
def test_deltas_that_vanish_and_return(run, mount, warmth):
    mounted = start(mount, run, warmth, 3)
    os.rename(run.source / "deltas", run.place / "away")
    holds_for(lambda: mounted.versions() == sorted(run.folders), 1, "versions left with their folder")
    assert_old_ones_serve(mounted, run)
    os.rename(run.place / "away", run.source / "deltas")
    assert_goes_on(mounted, run)


def test_a_source_that_may_not_be_read_for_a_while(run, mount, warmth):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    mounted = start(mount, run, warmth)
    run.source.chmod(0)
    try:
        holds_for(lambda: mounted.versions() == sorted(run.folders), 1, "versions left")
    finally:
        run.source.chmod(0o755)
    assert_goes_on(mounted, run)


# --- everything at once ---------------------------------------------------------------------------


@kinds("xor", "native")
def test_uploads_in_random_order_with_random_damage(run, mount, warmth, attempt):
    """Whatever arrives when, what is shown is right, and in the end everything is there."""
    rng = np.random.default_rng(500 + attempt)
    mounted = start(mount, run, warmth)
    names = [run.make() for _ in range(6)]
    for name in rng.permutation(names):
        if rng.random() < 0.5:
            run.put(name, flip_payload)
        else:
            run.put_file(run.files(name)[0], float(rng.random()))
        for shown in mounted.versions():
            assert is_like(mounted / shown, run.folders[shown]), f"{shown}: other bytes"
    for name in rng.permutation(names):
        run.put(name)
    wait_latest(mounted, names[-1])
    assert mounted.versions() == sorted(run.folders)
    assert_goes_on(mounted, run)
