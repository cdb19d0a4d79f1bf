# SPDX-License-Identifier: Apache-2.0
"""`weightfs mount --follow`: what a trainer publishes while mounted appears, complete, checked and byte for byte."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from conftest import assert_same_tree, json_of, succeed
from following import (KINDS, RUNS, Held, StoreRun, assert_exact, attribute, code_of, entries, follow, holds_for,
                       is_like, make_run, number_of, run, said_of, state_of, status, wait_latest, wait_state,
                       wait_until)
from reference import weight_v
from reference.safetensors_io import ModelFolder, read_file, write_atomically, write_file
from warming import needs_passthrough

FOREIGN = ["xor", "overwrite", "trl"]
CHECKED = ["xor", "overwrite"]


def publish_all(mounted, published, count):
    for _ in range(count):
        wait_latest(mounted, published.publish())


# --- versions appear ------------------------------------------------------------------------------


def test_a_new_version_appears_and_is_exact(run, mount):
    mounted = follow(mount, run)
    for _ in range(5):
        name = run.publish()
        wait_latest(mounted, name)
        assert_exact(mounted, run, name)
        assert mounted.versions() == sorted(run.folders)
    assert_exact(mounted, run)
    counters = mounted.counters()
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0


def test_an_empty_run_shows_the_base_and_then_what_comes(run, mount):
    mounted = follow(mount, run)
    assert mounted.versions() == ["base"]
    assert os.readlink(mounted / "latest") == "base"
    assert_exact(mounted, run, "base")
    publish_all(mounted, run, 1)
    assert_exact(mounted, run)


def test_what_was_there_before_the_mount_and_what_comes_after(run, mount):
    for _ in range(3):
        run.publish()
    mounted = follow(mount, run)
    wait_latest(mounted, run.names[-1])
    publish_all(mounted, run, 2)
    assert mounted.versions() == sorted(run.folders)
    assert_exact(mounted, run)


def test_a_backlog_of_twenty_appears_in_order(run, mount):
    for number in range(20):
        run.make(full=number == 9)
    mounted = follow(mount, run)
    for name in run.names:
        run.put(name)
    seen = []

    def all_there():
        seen.append(number_of(os.readlink(mounted / "latest")))
        return seen[-1] == 20

    wait_until(all_there, what=lambda: said_of(mounted, run.names[-1]))
    assert seen == sorted(seen), "latest went back"
    assert mounted.versions() == sorted(run.folders)
    assert_exact(mounted, run)


def test_changes_that_the_kernel_tells_of_wait_for_no_poll(run, mount):
    mounted = follow(mount, run, poll=600)
    if not status(mounted)["follow"]["inotify"]:
        pytest.skip("the kernel does not tell of changes here")
    publish_all(mounted, run, 3)
    assert_exact(mounted, run)


@pytest.mark.parametrize("run, folders", [("trl", ["anchors", "deltas"]), ("trl", ["bucket/anchors", "bucket/deltas"])],
                         indirect=["run"])
def test_folders_that_are_made_after_the_mount(run, folders, mount):
    """What was not there when the watching began is found by polling, or watched as soon as it is there."""
    mounted = follow(mount, run)
    names = [run.make() for _ in range(3)]
    for folder in folders:
        (run.source / folder).mkdir(parents=True)
    for name in names:
        kind = folders[0] if name in run.anchors else folders[1]
        os.rename(run.staged(name), run.source / kind / f"{name}.safetensors")
        wait_latest(mounted, name)
    assert_exact(mounted, run)


def test_updates_that_are_made_after_the_mount(tmp_path, mount):
    """stitch: updates/ and the pointer appear later; the pointer says what is published."""
    run = make_run("xor", tmp_path)
    mounted = follow(mount, run)
    names = [run.make() for _ in range(3)]
    (run.source / "updates").mkdir()

    def point_to(name):
        write_atomically(run.source / "latest", lambda path: path.write_text(name))

    point_to(names[0])
    for name in names[:2]:
        os.rename(run.staged(name), run.source / "updates" / name)
    wait_latest(mounted, names[0])
    wait_state(mounted, names[1], "waiting", "chain.unpublished")
    point_to(names[1])
    wait_latest(mounted, names[1])
    point_to(names[2])
    os.rename(run.staged(names[2]), run.source / "updates" / names[2])
    wait_latest(mounted, names[2])
    assert_exact(mounted, run)


def test_without_follow_nothing_moves(tmp_path, mount):
    run = make_run("xor", tmp_path)
    run.publish()
    mounted = mount(run.source, base=run.base)
    assert status(mounted)["follow"] is None
    run.publish()
    holds_for(lambda: mounted.versions() == ["base", run.names[0]], 1, "a mount that does not follow")


# --- order ----------------------------------------------------------------------------------------


def test_out_of_order_arrival(run, mount):
    names = [run.make() for _ in range(5)]
    mounted = follow(mount, run)
    run.put(names[0])
    wait_latest(mounted, names[0])
    run.put(names[2])
    wait_state(mounted, names[2], "waiting", "chain.missing", "chain.gap")
    assert os.readlink(mounted / "latest") == names[0]
    for number in (4, 1, 3):
        run.put(names[number])
    wait_latest(mounted, names[4])
    wait_until(lambda: mounted.versions() == sorted(run.folders), what=lambda: said_of(mounted, names[3]))
    # A step of TRL that came after others makes those anew.
    wait_until(lambda: all(is_like(mounted / name, run.folders[name]) for name in names), what="the right bytes")
    assert_exact(mounted, run)


@pytest.mark.parametrize("run", ["xor", "overwrite", "native"], indirect=True)
def test_a_parent_that_comes_last(run, mount):
    names = [run.make() for _ in range(4)]
    mounted = follow(mount, run)
    for name in names[1:]:
        run.put(name)
    for name in names[1:]:
        wait_state(mounted, name, "waiting", "chain.missing", "chain.parent_refused", "chain.no_start")
    assert mounted.versions() == ["base"] and os.readlink(mounted / "latest") == "base"
    run.put(names[0])
    wait_latest(mounted, names[-1])
    assert_exact(mounted, run)


def test_a_full_version_in_the_middle(run, mount):
    mounted = follow(mount, run)
    for number in range(1, 6):
        wait_latest(mounted, run.publish(full=number == 3))
    assert_exact(mounted, run)
    assert attribute(mounted / run.names[3], "parent") == run.names[2]


@pytest.mark.parametrize("run", FOREIGN, indirect=True)
def test_a_full_version_needs_nothing_before_it(run, mount):
    names = [run.make(full=number == 3) for number in range(1, 5)]
    mounted = follow(mount, run)
    wait_latest(mounted, run.put(names[0]))
    wait_latest(mounted, run.put(names[2]))
    wait_latest(mounted, run.put(names[3]))
    assert mounted.versions() == ["base", names[0], names[2], names[3]]
    assert_exact(mounted, run, "base", names[0], names[2], names[3])
    run.put(names[1])  # too late to be the newest
    holds_for(lambda: os.readlink(mounted / "latest") == names[3], 1, "latest went back")
    assert_exact(mounted, run, *[name for name in names if name in mounted.versions()])


# --- --keep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", ["latest", "none"])
def test_keep_three(run, mount, warm):
    mounted = follow(mount, run, keep=3, warm=warm)
    publish_all(mounted, run, 2)
    first, second = run.names
    with Held(mounted / first, run.folders[first]) as held, Held(mounted / "base", run.base) as base:
        publish_all(mounted, run, 4)
        listed = ["base", *run.names[-3:]]
        wait_until(lambda: mounted.versions() == sorted(listed), what=lambda: str(mounted.versions()))
        for name in (first, second):
            with pytest.raises(FileNotFoundError):
                os.stat(mounted / name)
        held.assert_files()
        held.assert_folder()
        base.assert_folder()
        publish_all(mounted, run, 3)
        held.assert_files()
        held.assert_folder()
    assert_exact(mounted, run, "base", *run.names[-3:])
    assert status(mounted)["follow"]["keep"] == 3


def test_a_pruned_version_leaves_the_listing(tmp_path, mount):
    run = StoreRun(tmp_path)
    mounted = follow(mount, run)
    publish_all(mounted, run, 5)
    first = run.names[0]
    with Held(mounted / first, run.folders[first]) as held:
        succeed("prune", run.source, "--keep", "2")
        wait_until(lambda: mounted.versions() == ["base", *run.names[-2:]], what=lambda: str(mounted.versions()))
        held.assert_files()
        publish_all(mounted, run, 2)
        held.assert_files()
    assert_exact(mounted, run, "base", *run.names[-4:])


def test_a_store_that_is_squashed_and_committed_to(tmp_path, mount):
    run = StoreRun(tmp_path)
    mounted = follow(mount, run)
    publish_all(mounted, run, 4)
    succeed("squash", run.source, f"{run.names[0]}..{run.names[3]}")
    publish_all(mounted, run, 2)
    assert mounted.versions() == sorted(run.folders)
    assert_exact(mounted, run)


# --- extended attributes --------------------------------------------------------------------------


DIGESTS = {"xor": "verified", "overwrite": "verified", "trl": "none", "native": "verified"}


@pytest.fixture
def kind(run):
    return next(kind for kind in KINDS if type(run) is RUNS[kind])


def changed_shard(run, name):
    """A shard that differs from the base's."""
    return next(path.name for path in sorted(run.folders[name].glob("*.safetensors"))
                if path.read_bytes() != (run.base / path.name).read_bytes())


def test_attributes_of_versions(run, kind, mount):
    mounted = follow(mount, run)
    publish_all(mounted, run, 3)
    first, second, third = run.names
    assert attribute(mounted.path, "latest") == third
    for name, parent in [("base", ""), (first, "" if kind == "trl" else "base"), (second, first), (third, second)]:
        assert attribute(mounted / name, "version") == name
        assert attribute(mounted / name, "parent") == parent
        assert 0 <= int(attribute(mounted / name, "warm")) <= 100
        for file in ("config.json", "notes/a.txt", changed_shard(run, third)):
            assert attribute(mounted / name / file, "version") == name
            assert attribute(mounted / name / file, "parent") == parent
    assert attribute(mounted / third, "digest") == DIGESTS[kind]
    assert attribute(mounted / "latest", "version") == third, "through the link"
    assert attribute(mounted / "latest" / "config.json", "version") == third


@pytest.mark.parametrize("warm", ["latest", "none"])
def test_attributes_say_how_a_file_is_served(run, kind, mount, warm):
    mounted = follow(mount, run, warm=warm)
    publish_all(mounted, run, 2)
    name = run.names[-1]
    untouched = "passthrough" if status(mounted)["kernel"]["passthrough"] == "on" else "base"
    # What a native version leaves alone only its index tells, so that its files are not passed through.
    plain = {untouched} if kind != "native" else {untouched, "memory", "decode"}
    for file in ("config.json", "notes/a.txt"):
        assert attribute(mounted / name / file, "served_by") in plain
    assert attribute(mounted / "base" / changed_shard(run, name), "served_by") == untouched
    shard = mounted / name / changed_shard(run, name)
    assert attribute(shard, "served_by") == ("memory" if warm == "latest" else "decode")
    if warm == "latest":
        assert attribute(mounted / name, "warm") == "100"


def test_attributes_are_listed_and_unknown_ones_are_no_data(tmp_path, mount):
    run = make_run("xor", tmp_path)
    mounted = follow(mount, run)
    publish_all(mounted, run, 1)
    name = run.names[0]
    wanted = {mounted.path: {"latest"}, mounted / name: {"version", "parent", "digest", "warm"},
              mounted / name / "config.json": {"version", "parent", "served_by"}}
    for path, attributes in wanted.items():
        listed = set(os.listxattr(path))
        assert {f"user.weightfs.{attribute}" for attribute in attributes} <= listed
        for found in listed:
            os.getxattr(path, found)
        for unknown in ("user.weightfs.nothing", "user.other", "security.capability", "system.posix_acl_access"):
            with pytest.raises(OSError) as caught:
                os.getxattr(path, unknown)
            assert caught.value.errno in (errno.ENODATA, errno.EOPNOTSUPP)
            assert unknown not in listed
        with pytest.raises(OSError):
            os.setxattr(path, "user.weightfs.version", b"x")
    with pytest.raises(OSError) as caught:
        os.getxattr(mounted.path, "user.weightfs.version")
    assert caught.value.errno == errno.ENODATA, "the root is no version"


# --- what changed ---------------------------------------------------------------------------------


def changed_of(mounted, name):
    return json.loads((mounted / ".weightfs" / "versions" / name / "changed.json").read_text())


def changed_tensors(old, new):
    return {name for name in old if not np.array_equal(old[name].data, new[name].data)}


def test_what_changed_is_what_differs_from_the_parent(run, mount):
    mounted = follow(mount, run)
    publish_all(mounted, run, 4)
    place = ModelFolder.open(run.base).place
    assert any(len(changed_tensors(*run.states[n - 1:n + 1])) < len(run.states[0]) for n in range(2, 5)), "of any use"
    for number in range(2, 5):
        name, (old, new) = run.names[number - 1], run.states[number - 1:number + 1]
        wanted = changed_tensors(old, new)
        found = changed_of(mounted, name)
        assert found["version"] == name and found["since"] == run.names[number - 2]
        assert {tensor["name"] for tensor in found["tensors"]} == wanted
        assert found["changed_tensors"] == len(wanted) and found["tensor_count"] == len(old)
        for tensor in found["tensors"]:
            assert tensor["file"] == place[tensor["name"]]
            assert tensor["bytes"] == new[tensor["name"]].data.size
            assert isinstance(tensor["what"], str) and tensor["what"]
        assert found["changed_bytes"] == sum(new[name].data.size for name in wanted)
        assert found["total_bytes"] >= sum(tensor.data.size for tensor in new.values())
        assert isinstance(found["files"], list) and "config.json" not in json.dumps(found["files"])


def test_a_changed_plain_file_of_a_store_is_named(tmp_path, mount):
    run = StoreRun(tmp_path)
    mounted = follow(mount, run)
    publish_all(mounted, run, 1)
    folder = shutil.copytree(run.folders[run.names[0]], tmp_path / "edited")
    (folder / "config.json").write_text('{"model_type": "edited"}\n')
    succeed("commit", run.source, folder, "--name", "edited")
    wait_latest(mounted, "edited")
    assert_same_tree(mounted / "edited", folder)
    found = changed_of(mounted, "edited")
    assert found["since"] == run.names[0] and found["tensors"] == []
    assert "config.json" in json.dumps(found["files"])


# --- status and log -------------------------------------------------------------------------------


FOLLOW_KEYS = {"poll_seconds", "keep", "warm", "inotify", "problem", "admitted", "refusals", "seconds_since_latest",
               "pins", "on_advance"}


def test_status_says_how_following_goes(run, mount):
    mounted = follow(mount, run, poll="0.25", warm="none")
    before = status(mounted)["follow"]
    assert set(before) >= FOLLOW_KEYS
    assert before["poll_seconds"] == 0.25 and before["keep"] is None and before["warm"] == "none"
    assert isinstance(before["inotify"], bool)
    assert before["problem"] is None and before["on_advance"] is None
    assert before["admitted"] == before["refusals"] == before["pins"] == 0
    publish_all(mounted, run, 3)
    after = status(mounted)["follow"]
    assert after["admitted"] == 3 and after["refusals"] == 0
    assert 0 <= after["seconds_since_latest"] < 60
    assert set(json_of("status", mounted.path)["follow"]) == set(after)
    assert [version["state"] for version in status(mounted)["versions"]] == ["admitted"] * 4
    for name in run.names:
        assert code_of(mounted, name) == ""


@pytest.mark.parametrize("run", CHECKED, indirect=True)
def test_refusals_are_counted_and_the_log_names_events(run, mount):
    mounted = follow(mount, run)
    publish_all(mounted, run, 1)

    def wrong_digest(folder):
        shard = sorted(folder.glob("*.safetensors"))[0]
        header, tensors = read_file(shard)
        write_file(shard, tensors, dict.fromkeys(header.metadata, "0123456789abcdef" * 2))

    name = run.put(run.make(), wrong_digest)
    wait_state(mounted, name, "refused", "digest.mismatch")
    assert status(mounted)["follow"]["refusals"] == 1
    run.put(name)
    wait_latest(mounted, name)
    assert_exact(mounted, run)
    log = mounted.log_file.read_text()
    for event in ("version.admitted", "version.refused", "latest.moved"):
        assert event in log
    assert run.names[0] in log and "digest.mismatch" in log


def test_log_and_status_commands_list_what_is_followed(run, mount):
    mounted = follow(mount, run)
    publish_all(mounted, run, 2)
    listed = json_of("log", mounted.path)
    assert [version["name"] for version in listed] == ["base", *run.names]
    assert [version["name"] for version in status(mounted)["versions"]] == ["base", *run.names]
    assert status(mounted)["latest"] == run.names[-1]
    assert state_of(mounted, run.names[0]) == "admitted" and len(entries(mounted, run.names[0])) == 1


# --- warm -----------------------------------------------------------------------------------------


def test_reading_a_warm_latest_asks_the_daemon_nothing(run, mount):
    mounted = follow(mount, run)
    needs_passthrough(mounted)
    for _ in range(3):
        name = run.publish()
        wait_latest(mounted, name)
        shard = changed_shard(run, name)
        assert attribute(mounted / name / shard, "served_by") == "memory", "decoded before it is shown"
        before = mounted.counters()["reads"]
        for path in sorted(run.folders[name].rglob("*")):
            if path.is_file():
                relative = path.relative_to(run.folders[name])
                assert (mounted / name / relative).read_bytes() == path.read_bytes()
        assert mounted.counters()["reads"] == before


def test_a_budget_that_is_too_small_for_warmth_hinders_nothing(tmp_path, mount):
    run = make_run("xor", tmp_path)
    mounted = follow(mount, run, memory="16M")
    publish_all(mounted, run, 6)
    assert_exact(mounted, run)
    memory = mounted.status()["memory"]
    assert memory["used"] <= memory["budget"]


def test_the_versions_agree_with_the_reference_decoder(tmp_path, mount):
    """The other tests compare with what the trainer had; here a decoder reads what it published."""
    run = make_run("xor", tmp_path)
    mounted = follow(mount, run)
    publish_all(mounted, run, 3)
    for name, folder in weight_v.decode(run.source, run.base, tmp_path / "decoded").items():
        assert_same_tree(mounted / name, folder)
