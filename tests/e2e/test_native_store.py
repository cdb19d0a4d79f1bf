# SPDX-License-Identifier: Apache-2.0
"""Stores over time: nets, pruning, writers that meet and writers that die, damage."""

import json
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import BINARY, assert_same_tree, json_of, run_weightfs, succeed, tree
from reference import native
from reference.native_trees import History
from reference.native_writer import StoreWriter
from reference.safetensors_io import Tensor, write_model
from runs import make_state, next_state
from stores import assert_holds, leftovers, make_store, stored_bytes

STEPS = 9


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folders of a run, and a store that has them."""
    place, rng, state = tmp_path_factory.mktemp("chain"), np.random.default_rng(8), make_state()
    folders = {"base": write_model(place / "base", state, 2, {"model_type": "test", "step": 0})}
    for step in range(1, STEPS + 1):
        state = next_state(state, rng)
        config = {"model_type": "test", "step": step // 4}
        folders[f"step-{step}"] = write_model(place / f"step-{step}", state, 2, config)
    return folders, make_store(place / "store", folders)


@pytest.fixture
def store(chain, tmp_path):
    return shutil.copytree(chain[1], tmp_path / "store")


# --- nets -----------------------------------------------------------------------------------------


def test_squash_makes_a_net_and_changes_no_version(chain, store, tmp_path, mount):
    folders, original = chain
    succeed("squash", store, "step-1..step-7")
    assert [path.name for path in (store / "nets").iterdir()] == ["step-7.from.step-1"]
    assert_same_tree(store / "versions", original / "versions")
    steps = sum(stored_bytes(store / "versions" / f"step-{i}") for i in range(2, 8))
    assert stored_bytes(store / "nets" / "step-7.from.step-1") < steps
    assert_holds(store, folders, tmp_path, mount)


def test_a_ladder_of_nets(chain, store, tmp_path, mount):
    folders, _ = chain
    succeed("squash", store, "base..latest", "--every", "4")
    assert {path.name for path in (store / "nets").iterdir()} >= {"step-4.from.base", "step-8.from.step-4"}
    before = tree(store)
    succeed("squash", store, "base..latest", "--every", "4")
    assert tree(store) == before, "nets that are there are not made again"
    assert_holds(store, folders, tmp_path, mount)


def test_a_mount_reads_through_nets(chain, store, mount):
    """With the versions in between damaged, only the net leads to the newest."""
    folders, _ = chain
    succeed("squash", store, "base..step-9")
    mounted = mount(store)
    for name in ("step-3", "step-5"):
        payload = store / "versions" / name / "payload-00001.safetensors"
        payload.write_bytes(payload.read_bytes()[:-200] + bytes(200))
    assert_same_tree(mounted / "step-9", folders["step-9"])


# --- pruning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--keep", "3"], ["--before", "step-7"]])
def test_prune_keeps_what_it_says(chain, store, tmp_path, mount, arguments):
    folders, _ = chain
    before = stored_bytes(store)
    succeed("prune", store, *arguments)
    kept = {name: folders[name] for name in ("base", "step-7", "step-8", "step-9")}
    assert sorted(path.name for path in (store / "versions").iterdir()) == sorted(kept)
    assert stored_bytes(store) < before
    assert_holds(store, kept, tmp_path, mount)
    succeed("commit", store, folders["step-2"], "--name", "later")
    assert_holds(store, {**kept, "later": folders["step-2"]}, tmp_path, mount)
    succeed("prune", store, "--keep", "1")
    assert_holds(store, {"base": folders["base"], "later": folders["step-2"]}, tmp_path, mount)


def test_prune_after_squash(chain, store, tmp_path, mount):
    folders, _ = chain
    succeed("squash", store, "base..latest", "--every", "3")
    succeed("prune", store, "--keep", "2")
    assert_holds(store, {name: folders[name] for name in ("base", "step-8", "step-9")}, tmp_path, mount)


# --- several writers, dying writers ------------------------------------------------------------------


def start_commit(store, folder, name, *options):
    return subprocess.Popen([BINARY, "commit", store, folder, "--name", name, *options], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_commits_at_once(chain, tmp_path):
    folders, _ = chain
    succeed("init", tmp_path / "s", "--base", folders["base"])
    running = [start_commit(tmp_path / "s", folders[f"step-{i}"], f"step-{i}") for i in range(1, 6)]
    committed = {"base": folders["base"]}
    for i, process in enumerate(running, start=1):
        _, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            committed[f"step-{i}"] = folders[f"step-{i}"]
        else:
            assert "store." in errors, "a writer that must not write says which other one does"
    assert len(committed) > 1
    assert_holds(tmp_path / "s", committed, tmp_path)
    parents = [version.manifest["parent"]["name"] for version in native.Store(tmp_path / "s").versions.values()
               if version.manifest["parent"]]
    assert len(parents) == len(set(parents)), "each is on the one before"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two checkpoints that take a moment to commit."""
    place, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(9)
    names = [f"layer.{i}" for i in range(16)]
    first = {n: Tensor("BF16", (1000, 2000), rng.integers(0x3C00, 0x3E00, 2_000_000, dtype=np.uint16)) for n in names}
    second = next_state(first, rng, 0.05)
    return {"base": write_model(place / "base", first, 2, {}), "new": write_model(place / "new", second, 2, {})}


@pytest.mark.timeout(600)
def test_killed_commits_leave_nothing_that_is_seen(large, tmp_path):
    store, rng, killed = tmp_path / "store", random.Random(3), 0
    succeed("init", store, "--base", large["base"])
    start = time.monotonic()
    succeed("commit", store, large["new"], "--name", "whole", "--parent", "base")
    whole = time.monotonic() - start
    for round_ in range(12):
        process = start_commit(store, large["new"], f"round-{round_}", "--parent", "base")
        time.sleep(rng.random() * whole * 1.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        names = [entry["name"] for entry in json_of("log", store)]
        done = process.returncode == 0 or (store / "versions" / f"round-{round_}" / "manifest.json").exists()
        assert (f"round-{round_}" in names) == done
        native.Store(store)  # every manifest and payload header is whole
    assert killed > 3
    succeed("commit", store, large["new"], "--name", "last", "--parent", "base")
    assert not leftovers(store), "the next writer clears up"
    succeed("verify", store)
    manifests = [json.loads((store / "versions" / name / "manifest.json").read_text()) for name in ("whole", "last")]
    assert manifests[0]["files"] == manifests[1]["files"] and manifests[0]["index"] == manifests[1]["index"]


def test_an_interrupted_commit_clears_up_at_once(large, tmp_path):
    succeed("init", tmp_path / "store", "--base", large["base"])
    process = start_commit(tmp_path / "store", large["new"], "new")
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert not leftovers(tmp_path / "store") and not (tmp_path / "store" / "versions" / "new").exists()


# --- stores that another writer made ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_stores_of_the_python_writer(tmp_path, mount, seed):
    history, rng = History(tmp_path / "history", 200 + seed, largest=150_000), random.Random(seed)
    writer = StoreWriter(tmp_path / "store", seed)
    folders = {"base": history.next()}
    writer.init(folders["base"], full=seed % 2 == 0, block_bytes=rng.choice(native.BLOCK_BYTES))
    for step in range(1, 5):
        name, parent = f"step-{step}", rng.choice(list(folders)[-2:])
        folders[name] = history.next()
        writer.commit(name, folders[name], parent, full=seed % 5 == step, block_bytes=rng.choice(native.BLOCK_BYTES))
    writer.net("step-4", "base", rng.choice(native.BLOCK_BYTES))
    assert_holds(tmp_path / "store", folders, tmp_path, mount)
    folders["more"] = history.next()
    succeed("commit", tmp_path / "store", folders["more"], "--name", "more")
    assert_holds(tmp_path / "store", folders, tmp_path, mount)


# --- damage ----------------------------------------------------------------------------------------------


def small_store(folder):
    history, writer = History(folder / "history", 77, largest=3000), StoreWriter(folder / "store", 77)
    folders = {"base": history.next(), "one": history.next()}
    writer.init(folders["base"])
    writer.commit("one", folders["one"], "base")
    return folder / "store", folders


@pytest.mark.timeout(600)
def test_export_of_a_damaged_store_is_right_or_refused(tmp_path):
    """A sample of the flips; tests/unit/engine/golden_damage_test.cpp tries them all on a golden store."""
    store, folders = small_store(tmp_path)
    rng, refused, rounds = random.Random(5), 0, 150
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.stat().st_size]
    for _ in range(rounds):
        path = rng.choice(files)
        content = path.read_bytes()
        position = rng.randrange(len(content))
        if rng.random() < 0.3:
            path.write_bytes(content[:position])
        else:
            path.write_bytes(content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)])
                             + content[position + 1:])
        done = run_weightfs("export", store, "one", tmp_path / "out")
        if done.returncode == 0:
            assert_same_tree(tmp_path / "out", folders["one"])
            shutil.rmtree(tmp_path / "out")
        else:
            assert done.returncode in (1, 3) and done.stderr, done
            assert not (tmp_path / "out").exists()
            refused += 1
        path.write_bytes(content)
    assert refused > rounds / 2


def test_verify_finds_what_the_decoder_finds(chain, store):
    rng = random.Random(6)
    for _ in range(20):
        path = store / "versions" / f"step-{rng.randint(1, STEPS)}" / "payload-00001.safetensors"
        content = path.read_bytes()
        position = rng.randrange(len(content))
        path.write_bytes(content[:position] + bytes([content[position] ^ 8]) + content[position + 1:])
        print(f"byte {position} of {path}")
        if run_weightfs("verify", store).returncode == 0:
            decoded = native.Store(store)  # slow, and raises where it finds a fault
            for name in decoded.versions:
                decoded.state(name)
        path.write_bytes(content)
    succeed("verify", store)


@pytest.mark.parametrize("change", [
    lambda text: text.replace('"features":[]', '"features":["what-comes-later"]'),
    lambda text: text.replace('"kind":"delta"', '"kind":"other"'),
    lambda text: text.replace('"version":1', '"version":2'),
    lambda text: text.replace('"message":', '"message":"","message":'),
    lambda text: text.replace('"name":"step-5"', '"name":"step-6"')], ids=["feature", "kind", "version", "twice", "name"])
def test_manifests_that_are_not_understood(chain, store, change):
    """With a right digest: it is the content that is refused."""
    path = store / "versions" / "step-5" / "manifest.json"
    text = change(path.read_text())
    body = text[:text.rindex(',"digest":"')]
    path.write_text(f'{body},"digest":"{native.xxh3_128(body.encode())}"}}\n')
    done = run_weightfs("export", store, "step-5", store / "out")
    assert done.returncode in (1, 3) and "native." in done.stderr and not (store / "out").exists()
    listed = {entry["name"]: entry for entry in json_of("log", store)}
    assert listed["step-4"]["state"] == "admitted", "what comes before is not harmed"


def test_a_parent_of_another_chain_is_refused(chain, store):
    folders, _ = chain
    shutil.rmtree(store / "versions" / "step-4")
    succeed("init", store.parent / "other", "--base", folders["base"])
    succeed("commit", store.parent / "other", folders["step-3"], "--name", "step-4")
    shutil.copytree(store.parent / "other" / "versions" / "step-4", store / "versions" / "step-4")
    done = run_weightfs("export", store, "step-5", store.parent / "out")
    assert done.returncode in (1, 3) and not (store.parent / "out").exists()
