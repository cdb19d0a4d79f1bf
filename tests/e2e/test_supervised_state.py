# SPDX-License-Identifier: Apache-2.0
"""What a daemon hands on to the one that takes its place: one scenario a test, with a kill in its middle."""

import mmap
import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import succeed
from following import (FastRun, Held, assert_exact, code_of, holds_for, make_run, said_of, wait_admitted, wait_latest,
                       wait_runs, wait_state, wait_until)
from processes import descriptors
from supervised import MANY_RESTARTS, REPEAT, children, is_alive, supervise
from test_follow_advance import lines_of, lose_digests
from test_follow_latest import NEVER, new_tree, open_through_latest
from test_metrics import Metrics, free_port, scrape
from warming import needs_passthrough, version_of, warm

SHARD = "model-00001-of-00002.safetensors"
POLLS = 1.0  # seconds: several looks at the source


@pytest.fixture(params=["xor", "native"])
def run(request, tmp_path):
    """A run with two versions."""
    made = make_run(request.param, tmp_path)
    made.publish()
    made.publish()
    return made


def read_on(path, expected, mounted):
    """Reads a file to its last byte with one descriptor; the daemon dies half-way."""
    with open(path, "rb", buffering=0) as file:
        half = len(expected) // 2
        assert file.read(half) == expected[:half]
        mounted.kill()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        rest = b"".join(iter(lambda: file.read(1 << 20), b""))
        assert rest == expected[half:]


# --- what is open ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"warm": "latest"}, {"warm": "none"}, {"warm": "none", "passthrough": "off"}],
                         ids=["warm", "cold", "copy"])
def test_an_open_file_is_read_to_its_last_byte(run, options, supervise):
    mounted = supervise(run, **options)
    for count, name in enumerate(["base", *run.names, *run.names], start=1):
        expected = (run.folders[name] / SHARD).read_bytes()
        read_on(mounted / name / SHARD, expected, mounted)
        wait_until(lambda: mounted.restarts() == count, what="a restart")
    assert_exact(mounted, run)
    mounted.finish()


def test_handles_of_folders_go_on(run, supervise):
    mounted = supervise(run)
    with Held(mounted / run.names[0], run.folders[run.names[0]]) as held:
        listing = os.scandir(mounted.path)
        first = next(listing).name
        mounted.kill()
        names = {first, *(entry.name for entry in listing)}
        assert names == {"base", "latest", *run.names}
        held.assert_folder()
        held.assert_files()
    mounted.finish()


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE], ids=["shared", "private"])
def test_pages_that_nobody_touched_before(run, flags, supervise):
    mounted = supervise(run, warm="none")
    maps = []
    for name in ["base", *run.names]:
        with open(mounted / name / SHARD, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            maps.append((name, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ, flags=flags)))
    for _ in range(2):
        mounted.kill_and_wait()
    for name, mapped in maps:
        assert mapped[:] == (run.folders[name] / SHARD).read_bytes(), name
        mapped.close()
    mounted.finish()


def test_what_left_the_listing_stays_readable(run, supervise):
    mounted = supervise(run, keep=1)
    wait_latest(mounted, run.names[-1])
    name = run.names[-1]
    with Held(mounted / name, run.folders[name]) as held:
        wait_latest(mounted, run.publish())
        wait_until(lambda: name not in mounted.versions(), what=lambda: str(mounted.versions()))
        for _ in range(2):
            mounted.kill_and_wait()
            held.assert_files()
            held.assert_folder()
        assert mounted.versions() == ["base", run.names[-1]]
    mounted.finish()


def test_a_slow_read_is_not_blamed_for_kills_by_others(tmp_path, supervise):
    """It takes several times as long as any of these daemons lives."""
    run = FastRun(tmp_path, dict.fromkeys(("a.weight", "b.weight"), (64, 1 << 20)))
    name = run.publish()
    mounted = supervise(run, warm="none", passthrough="off")
    with open(mounted / name / run.shards[0], "rb", buffering=0) as file:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(os.pread, file.fileno(), 4096, 1 << 20)
            dead = 0
            for _ in range(8):
                pid = wait_until(lambda: (found := mounted.daemon()) != dead and found, what="a daemon", pause=0.001)
                time.sleep(0.08)
                os.kill(pid, 9)
                dead = pid
            assert reading.result(30) == b"\1\0" * 2048
    mounted.finish()


# --- latest ---------------------------------------------------------------------------------------


def test_a_pin_outlives_the_daemon(run, supervise, new_tree):
    mounted, tree = supervise(run, pin_grace=NEVER), new_tree()
    pinned = run.names[-1]
    assert tree.latest(mounted) == pinned
    with mounted.kill_unnoticed():
        newest = run.publish()
    wait_admitted(mounted, newest)
    version, content = tree.ask(open_through_latest, str(mounted.path), SHARD)
    assert version == pinned and content == (run.folders[pinned] / SHARD).read_bytes()
    assert tree.latest(mounted) == pinned
    assert new_tree().latest(mounted) == newest
    tree.close()
    assert_exact(mounted, run)


def test_a_pin_ends_when_it_would_have(run, supervise, new_tree):
    mounted, tree = supervise(run, pin_grace=2), new_tree()
    assert tree.latest(mounted) == run.names[-1]
    mounted.kill_and_wait()
    newest = run.publish()
    wait_admitted(mounted, newest)
    wait_until(lambda: tree.latest(mounted) == newest, 10, lambda: said_of(mounted, newest))


# --- what is new ----------------------------------------------------------------------------------


def test_what_was_published_meanwhile_is_checked_first(run, supervise):
    mounted = supervise(run)
    latest = run.names[-1]
    with mounted.kill_unnoticed():
        damaged = run.put(run.make(), lose_digests) if run.mount_base() else run.put(run.make(), flip_a_byte)
    assert os.readlink(mounted / "latest") == latest
    wait_state(mounted, damaged, "refused")
    assert damaged not in mounted.versions() and os.readlink(mounted / "latest") == latest
    with mounted.kill_unnoticed():
        run.put(damaged)
    assert os.readlink(mounted / "latest") in (latest, damaged)
    wait_latest(mounted, damaged)
    assert_exact(mounted, run)
    mounted.finish()


def flip_a_byte(folder):
    """The largest file of a version is damaged in its middle."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0x55
    path.write_bytes(content)


def test_what_was_refused_stays_refused(run, supervise):
    mounted = supervise(run)
    latest = run.names[-1]
    damaged = run.put(run.make(), lose_digests) if run.mount_base() else run.put(run.make(), flip_a_byte)
    wait_state(mounted, damaged, "refused")
    code = code_of(mounted, damaged)
    for _ in range(3):
        mounted.kill_and_wait()
        assert os.readlink(mounted / "latest") == latest and damaged not in mounted.versions()
        wait_state(mounted, damaged, "refused")
        assert code_of(mounted, damaged) == code
    mounted.finish()


def test_a_mount_that_does_not_follow_shows_what_it_showed(run, supervise):
    mounted = supervise(run, follow=None)
    shown = mounted.versions()
    with mounted.kill_unnoticed():
        run.publish()
    assert mounted.restarts() == 1
    holds_for(lambda: mounted.versions() == shown and os.readlink(mounted / "latest") == shown[-1], POLLS,
              "something new is shown")
    assert_exact(mounted, run, *shown)
    mounted.finish()


# --- warm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [True, None], ids=["follow", "still"])
def test_warm_memory_goes_on(run, follow, supervise):
    mounted = supervise(run, follow=follow, **({"warm": "none"} if follow else {}))
    needs_passthrough(mounted)
    name = run.names[-1]
    warm(mounted, name)
    before = mounted.now()["memory"]["warm"]
    assert before > 0
    with Held(mounted / name, run.folders[name]) as held, Held(mounted / "base", run.base) as base:
        for _ in range(2):
            mounted.kill_and_wait()
            found = mounted.now()
            assert version_of(mounted, name)["warm"] == "warm" and found["memory"]["warm"] == before
            for files in (held, base):
                files.assert_files()
                files.assert_folder()  # opens them once more, while they are open
        held_open = mounted.now()["kernel"]["passthrough_open"]
        assert held_open > 0
    wait_until(lambda: mounted.now()["kernel"]["passthrough_open"] == 0, what="no open file")
    assert_exact(mounted, run, "base", name)
    assert mounted.now()["counters"]["blocks_decoded"] == 0, "it was decoded before"
    with Held(mounted / name, run.folders[name]) as held:
        held.assert_files()
        mounted.kill_and_wait()
        held.assert_files()
    mounted.finish()


def test_memory_is_given_back_after_a_restart(run, supervise):
    mounted = supervise(run, warm="none")
    needs_passthrough(mounted)
    name = run.names[-1]
    assert_exact(mounted, run)
    cold = descriptors(mounted.supervisor)
    warm(mounted, name)
    held = wait_until(lambda: (found := descriptors(mounted.supervisor)) > cold and found, 5, "descriptors of memory")
    mounted.kill_and_wait()
    assert mounted.now()["memory"]["warm"] > 0
    warm(mounted, name, "--drop")
    assert mounted.now()["memory"]["warm"] == 0
    wait_until(lambda: descriptors(mounted.supervisor) == cold, 5,
               lambda: f"{cold} descriptors cold, {held} warm, {descriptors(mounted.supervisor)} after --drop")
    mounted.kill_and_wait()
    assert version_of(mounted, name)["warm"] == "cold"
    assert_exact(mounted, run)
    mounted.finish()


# --- hooks, metrics, status -----------------------------------------------------------------------


def test_a_hook_is_run_once_a_version(run, tmp_path, supervise):
    log = tmp_path / "hook.log"
    mounted = supervise(run, on_advance=f'echo "$WEIGHTFS_VERSION" >> {shlex.quote(str(log))}')
    for _ in range(4):
        name = run.publish()
        wait_until(lambda: name in lines_of(log), what=lambda: said_of(mounted, name))
        wait_runs(mounted, 0)
        mounted.kill_and_wait()
        time.sleep(0.3)
        assert lines_of(log).count(name) == 1, lines_of(log)
    assert lines_of(log) == run.names[2:]
    mounted.finish()


def test_a_hook_is_not_forgotten(run, tmp_path, supervise):
    """A daemon that dies when it has just shown a version, or is about to tell of it: none is lost."""
    log = tmp_path / "hook.log"
    mounted = supervise(run, on_advance=f'echo "$WEIGHTFS_VERSION" >> {shlex.quote(str(log))}', restarts=MANY_RESTARTS)
    for round in range(6 * REPEAT):
        name = run.publish()
        wait_until(lambda: os.readlink(mounted / "latest") == name, what=lambda: said_of(mounted, name), pause=0.0005)
        time.sleep(round % 6 * 0.002)
        mounted.kill()
        wait_until(lambda: name in lines_of(log), what=lambda: f"{lines_of(log)}, {mounted.now()['follow']}")
    wait_runs(mounted, 0)
    found = lines_of(log)
    assert [name for name in dict.fromkeys(found)] == run.names[2:], found
    mounted.finish()


def test_a_hook_that_was_running_is_ended_and_run_again(run, tmp_path, supervise):
    """The daemon is killed while the command runs: whether it would have come to its end nobody can know."""
    log, go = tmp_path / "hook.log", tmp_path / "go"
    mounted = supervise(run, on_advance=f'echo "begins $WEIGHTFS_VERSION $$" >> {log}; '
                                        f'until test -e {go}; do sleep 0.01; done; '
                                        f'echo "ends $WEIGHTFS_VERSION $$" >> {log}')
    name = run.publish()
    wait_until(lambda: len(lines_of(log)) == 1, what=lambda: said_of(mounted, name))
    first = int(lines_of(log)[0].split()[2])
    mounted.kill_and_wait()
    wait_until(lambda: len(lines_of(log)) == 2, what=lambda: said_of(mounted, name))
    second = int(lines_of(log)[1].split()[2])
    assert not is_alive(first)  # before the second one began
    go.touch()
    wait_runs(mounted, 1)
    assert lines_of(log) == [f"begins {name} {first}", f"begins {name} {second}", f"ends {name} {second}"]
    mounted.kill_and_wait()  # it was told to the end
    time.sleep(0.5)
    assert len(lines_of(log)) == 3
    mounted.finish()


def test_metrics_come_back(run, supervise):
    port = free_port()
    mounted = supervise(run, metrics=f"127.0.0.1:{port}")
    assert Metrics(scrape(port)).names()
    for _ in range(3):
        mounted.kill_and_wait()
        wait_until(lambda: is_scraped(port), 5, "metrics")
    mounted.finish()


def is_scraped(port):
    try:
        return bool(Metrics(scrape(port)).names())
    except OSError:
        return False


def test_status_tells_of_restarts(run, supervise):
    mounted = supervise(run)
    assert mounted.now()["supervisor"] == {"pid": mounted.supervisor, "alive": True, "restarts": 0,
                                          "last_end": ""}
    before = mounted.first
    for number, name in [(9, "SIGKILL"), (6, "SIGABRT"), (11, "SIGSEGV")]:
        mounted.kill_and_wait(number)
        found = mounted.now()
        assert name in found["supervisor"]["last_end"], found["supervisor"]
        assert found["pid"] != before and found["pid"] in children(mounted.supervisor)
        before = found["pid"]
    assert found["supervisor"]["restarts"] == 3
    assert "has restarted the daemon 3 times" in succeed("status", mounted.path)
    mounted.finish()
