# SPDX-License-Identifier: Apache-2.0
"""weightfs mount --cache: deep versions read the same bytes by folds, and whatever happens to the cache, readers do not
notice."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from conftest import assert_same_tree, run_weightfs
from following import KINDS, make_run, wait_until
from warming import drop_page_cache

DEPTH = 36  # a fold is worth it from 32 deltas on
DELAY = 2


@pytest.fixture(scope="module", params=KINDS)
def deep(request, tmp_path_factory):
    run = make_run(request.param, tmp_path_factory.mktemp(f"deep-{request.param}"))
    for _ in range(DEPTH):
        run.publish()
    return run


def cache_of(mounted) -> dict:
    return mounted.status()["cache"]


def mount_with(mount, run, cache, *options):
    return mount(run.source, "--cache", cache, *options, base=run.mount_base())


def wait_folded(mounted, count=1):
    wait_until(lambda: cache_of(mounted)["in_use"] >= count and not cache_of(mounted)["making"],
               what=lambda: str(cache_of(mounted)))


def payloads(cache):
    return sorted(path for path in (cache / "folds").rglob("*.safetensors"))


def read_latest(mounted, run):
    drop_page_cache(mounted.path)
    assert_same_tree(mounted / run.names[-1], run.folders[run.names[-1]])


def test_a_deep_chain_is_folded_once_and_read_by_it(deep, mount, tmp_path):
    cache = tmp_path / "cache"
    first = mount_with(mount, deep, cache)
    wait_folded(first)
    read_latest(first, deep)
    about = cache_of(first)
    assert about["made"] == 1 and about["folds"] == 1 and about["rejected"] == 0 and about["problem"] is None
    assert about["bytes"] == sum(path.stat().st_size for path in (cache / "folds").rglob("*") if path.is_file())
    first.unmount()

    second = mount_with(mount, deep, cache)
    wait_folded(second)
    read_latest(second, deep)
    assert cache_of(second)["made"] == 0
    if deep.mount_base() is not None:  # published formats: no delta was decoded
        assert second.counters()["segments_decoded"] == 0
    for name in deep.names[::7]:
        assert_same_tree(second / name, deep.folders[name])
    text = run_weightfs("status", second.path).stdout
    assert "1 folds in use" in text


def test_readers_do_not_notice_what_happens_to_the_cache(deep, mount, tmp_path):
    """Bits flip, files are cut short and deleted, folders vanish, all while others read."""
    cache = tmp_path / "cache"
    mounted = mount_with(mount, deep, cache, "--memory", "16M")
    wait_folded(mounted)
    stop, problems = threading.Event(), []

    def reader():
        try:
            while not stop.is_set():
                read_latest(mounted, deep)
        except BaseException as problem:  # told by the test's own thread
            problems.append(problem)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = random.Random(5)
    for turn in range(12):
        for path in payloads(cache):
            vandalise(path, turn, rng)
        time.sleep(0.15)
    stop.set()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    assert mounted.counters()["read_errors"] == 0


def vandalise(path, turn, rng):
    try:
        if turn % 4 == 0:
            with open(path, "r+b") as file:
                file.seek(rng.randrange(path.stat().st_size))
                file.write(b"\xff")
        elif turn % 4 == 1:
            os.truncate(path, path.stat().st_size // 2)
        elif turn % 4 == 2:
            path.unlink()
        else:
            shutil.rmtree(path.parent)
    except FileNotFoundError:
        pass  # the daemon was faster


def test_a_damaged_fold_is_replaced(deep, mount, tmp_path):
    cache = tmp_path / "cache"
    mount_and_fold(deep, mount, cache).unmount()
    for path in payloads(cache):
        os.truncate(path, path.stat().st_size - 1)
    mounted = mount_and_fold(deep, mount, cache)
    read_latest(mounted, deep)
    assert cache_of(mounted)["made"] == 1


def mount_and_fold(run, mount, cache):
    mounted = mount_with(mount, run, cache)
    wait_folded(mounted)
    return mounted


def test_killed_while_it_writes(deep, mount, tmp_path):
    """kill -9 at a random moment: what is left is never taken for a fold, and the next one cleans up."""
    cache = tmp_path / "cache"
    rng = random.Random(7)
    for _ in range(8):
        mounted = mount_with(mount, deep, cache)
        time.sleep(rng.uniform(0, 0.3))
        os.kill(mounted.status()["pid"], signal.SIGKILL)
        mounted.force_unmount()
        for folder in (cache / "folds").iterdir():
            assert folder.name.startswith(".tmp-") or (folder / "manifest.json").exists()
    mounted = mount_and_fold(deep, mount, cache)
    read_latest(mounted, deep)
    assert [folder for folder in (cache / "folds").iterdir() if folder.name.startswith(".tmp-")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_full_disk_costs_nothing_but_the_fold(deep, mount, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", disk], check=True)
    try:
        mounted = mount_with(mount, deep, disk / "cache")
        wait_until(lambda: cache_of(mounted)["problem"], what=lambda: str(cache_of(mounted)))
        assert "No space left" in cache_of(mounted)["problem"]
        read_latest(mounted, deep)
        assert [path for path in (disk / "cache" / "folds").iterdir()] == []
        mounted.unmount()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_mounts_share_one_cache(deep, mount, tmp_path):
    cache = tmp_path / "cache"
    both = [mount_with(mount, deep, cache) for _ in range(2)]
    for mounted in both:
        read_latest(mounted, deep)
    wait_until(lambda: sum(cache_of(mounted)["in_use"] for mounted in both) >= 1, what="a fold")
    wait_until(lambda: not any(cache_of(mounted)["making"] for mounted in both), what="an end")
    for mounted in both:
        read_latest(mounted, deep)
        assert mounted.counters()["read_errors"] == 0
    assert len(payloads(cache)) == 1


def test_what_follows_is_folded_as_it_goes_on(mount, tmp_path):
    run = make_run("xor", tmp_path)
    run.publish()
    follow = ["--follow", "--poll", "0.2", "--pin-grace", "0"]
    mounted = mount(run.source, *follow, "--cache", tmp_path / "cache", base=run.base)
    for _ in range(2 * 32 + DELAY):
        run.publish()
    wait_until(lambda: os.readlink(mounted / "latest") == run.names[-1], what="the last version")
    wait_folded(mounted)
    read_latest(mounted, run)
    assert mounted.counters()["digest_failures"] == 0


def test_the_limit_holds(mount, tmp_path, deep):
    cache = tmp_path / "cache"
    mounted = mount_with(mount, deep, cache, "--cache-size", "1000")
    wait_until(lambda: cache_of(mounted)["problem"], what=lambda: str(cache_of(mounted)))
    assert "more than --cache-size allows" in cache_of(mounted)["problem"]
    assert payloads(cache) == []


def test_a_folder_with_something_else_in_it_is_refused(deep, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    point = tmp_path / "mnt"
    point.mkdir()
    base = [] if deep.mount_base() is None else ["--base", deep.mount_base()]
    refused = run_weightfs("mount", *base, "--cache", mine, deep.source, point)
    assert refused.returncode == 3
    assert "not a cache of weightfs" in refused.stderr
    assert (mine / "thesis.txt").read_text() == "all of it"
    inside = run_weightfs("mount", *base, "--cache", point / "cache", deep.source, point)
    assert inside.returncode == 3 and "in the mount itself" in inside.stderr
