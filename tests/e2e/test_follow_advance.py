# SPDX-License-Identifier: Apache-2.0
"""--on-advance: what is run after `latest` moved."""

import json
import os
import shlex
import signal
from pathlib import Path

import pytest
from following import (LIMIT, advances, assert_exact, follow, make_run, said_of, status, wait_latest, wait_runs,
                       wait_state, wait_until)
from reference.safetensors_io import read_file, write_file

WORDS = ("VERSION", "PATH", "MOUNTPOINT", "PREVIOUS", "CHANGED")


@pytest.fixture
def published(tmp_path):
    return make_run("xor", tmp_path)


def script(path: Path, text: str) -> str:
    """A command line that runs these lines with the shell."""
    path.write_text(text)
    return f"/bin/sh {shlex.quote(str(path))}"


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


# --- what it gets ---------------------------------------------------------------------------------


def test_the_environment_says_what_is_new(published, mount, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = script(tmp_path / "hook", f"""
        cd {shlex.quote(str(out))}
        env | grep ^WEIGHTFS_ > environment.tmp
        readlink "$WEIGHTFS_MOUNTPOINT/latest" > latest.tmp
        cat "$WEIGHTFS_PATH"/*.safetensors > bytes.tmp
        cat "$WEIGHTFS_CHANGED" > changed.tmp
        mkdir "$WEIGHTFS_VERSION.tmp"
        mv environment.tmp latest.tmp bytes.tmp changed.tmp "$WEIGHTFS_VERSION.tmp"
        mv "$WEIGHTFS_VERSION.tmp" "$WEIGHTFS_VERSION"
        """)
    mounted = follow(mount, published, on_advance=command)
    previous = "base"
    for count in range(1, 4):
        name = published.publish()
        wait_until((out / name).exists, what=lambda: said_of(mounted, name))
        found = dict(line.split("=", 1) for line in lines_of(out / name / "environment.tmp"))
        point = str(mounted.path)
        assert {word: found[f"WEIGHTFS_{word}"] for word in WORDS[:-1]} == {
            "VERSION": name, "PATH": f"{point}/{name}", "MOUNTPOINT": point, "PREVIOUS": previous}
        assert lines_of(out / name / "latest.tmp") == [name], "latest has moved before"
        wanted = b"".join(path.read_bytes() for path in sorted(published.folders[name].glob("*.safetensors")))
        assert (out / name / "bytes.tmp").read_bytes() == wanted, "a command can read the mount"
        assert json.loads((out / name / "changed.tmp").read_text())["version"] == name
        assert os.path.exists(found["WEIGHTFS_CHANGED"])
        found = wait_runs(mounted, count)
        assert found["command"] == command and found["failures"] == found["timeouts"] == 0
        assert found["last"]["version"] == name and found["last"]["exit_status"] == 0
        assert found["last"]["timed_out"] is False and found["last"]["seconds"] >= 0
        previous = name
    assert_exact(mounted, published)


def lose_digests(folder):
    for shard in folder.glob("*.safetensors"):
        header, tensors = read_file(shard)
        write_file(shard, tensors, dict.fromkeys(header.metadata, "00" * 16))


def test_nothing_is_run_for_what_was_there_or_was_refused(published, mount, tmp_path):
    """It tells of news; the versions that the mount began with are none, or one at most, and a refusal is none."""
    log = tmp_path / "log"
    published.publish()
    published.publish()
    mounted = follow(mount, published, on_advance=f'echo "$WEIGHTFS_VERSION" >> {shlex.quote(str(log))}')
    wait_latest(mounted, published.names[-1])
    name = published.put(published.make(), lose_digests)
    wait_state(mounted, name, "refused")
    assert name not in lines_of(log)
    published.put(name)
    wait_latest(mounted, name)
    wait_until(lambda: name in lines_of(log), what=lambda: str(advances(mounted)))
    assert lines_of(log).count(name) == 1
    assert lines_of(log)[:-1] in ([], [published.names[1]])


def test_a_command_with_quotes_and_blanks(published, mount, tmp_path):
    place = tmp_path / "a place with 'quotes'"
    place.mkdir()
    mounted = follow(mount, published, on_advance=f"printf '%s|' \"$WEIGHTFS_VERSION\" 'a  b' > "
                                                  f"{shlex.quote(str(place / 'out'))}")
    name = published.publish()
    wait_runs(mounted, 1)
    assert (place / "out").read_text() == f"{name}|a  b|"


# --- one at a time --------------------------------------------------------------------------------


def test_one_at_a_time_and_the_newest_wins(published, mount, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    command = script(tmp_path / "hook", f"""
        echo "start $WEIGHTFS_VERSION $WEIGHTFS_PREVIOUS" >> {shlex.quote(str(log))}
        while ! [ -e {shlex.quote(str(gate))} ]; do sleep 0.05; done
        echo "end $WEIGHTFS_VERSION" >> {shlex.quote(str(log))}
        """)
    mounted = follow(mount, published, on_advance=command)
    first = published.publish()
    wait_until(lambda: lines_of(log), what=lambda: said_of(mounted, first))
    assert advances(mounted)["running"]
    for _ in range(3):
        wait_latest(mounted, published.publish())
    assert len(lines_of(log)) == 1, "two commands at a time"
    gate.touch()
    newest = published.names[-1]
    wait_until(lambda: len(lines_of(log)) == 4, what=lambda: str(lines_of(log)))
    found = wait_runs(mounted, 2)
    words = [line.split() for line in lines_of(log)]
    assert [word[:2] for word in words] == [["start", first], ["end", first], ["start", newest], ["end", newest]]
    assert words[2][2] in (first, published.names[-2]), "the one before: that it was told of, or that `latest` was"
    assert found["runs"] == 2 and found["skipped"] == 2
    assert found["last"]["version"] == newest


def test_following_does_not_wait_for_the_command(published, mount, tmp_path):
    mounted = follow(mount, published, on_advance="sleep 300", advance_limit=250)
    for _ in range(4):
        wait_latest(mounted, published.publish())
    assert_exact(mounted, published)
    assert advances(mounted)["running"]
    mounted.unmount()


# --- commands that fail ---------------------------------------------------------------------------


def test_a_failing_command_is_reported_and_the_next_one_runs(published, mount, tmp_path):
    command = script(tmp_path / "hook", '[ "$WEIGHTFS_VERSION" = weight_v000002 ] || exit 3\n')
    mounted = follow(mount, published, on_advance=command)
    first = published.publish()
    found = wait_runs(mounted, 1)
    assert found["failures"] == 1 and found["timeouts"] == 0
    assert found["last"]["version"] == first and found["last"]["exit_status"] == 3 and not found["last"]["timed_out"]
    second = published.publish()
    found = wait_runs(mounted, 2)
    assert found["failures"] == 1
    assert found["last"]["version"] == second and found["last"]["exit_status"] == 0
    assert_exact(mounted, published)


@pytest.mark.parametrize("command", ["/nowhere/to/be/found", "kill -9 $$", "if"])
def test_a_command_that_cannot_be_run_or_is_killed(published, command, mount):
    mounted = follow(mount, published, on_advance=command)
    wait_latest(mounted, published.publish())
    found = wait_runs(mounted, 1)
    assert found["failures"] == 1 and found["last"]["exit_status"] != 0
    wait_latest(mounted, published.publish())
    assert wait_runs(mounted, 2)["failures"] == 2


@pytest.mark.parametrize("prelude", ["", "trap '' TERM\n"], ids=["obedient", "stubborn"])
def test_a_command_that_takes_too_long_is_ended_with_its_children(published, prelude, mount, tmp_path):
    children = tmp_path / "children"
    command = script(tmp_path / "hook", f"""{prelude}
        [ "$WEIGHTFS_VERSION" = weight_v000001 ] || exit 0
        sleep 299 & echo $! >> {shlex.quote(str(children))}
        while :; do sleep 298; done
        """)
    mounted = follow(mount, published, on_advance=command, advance_limit=1)
    first = published.publish()
    wait_until(lambda: lines_of(children), what=lambda: said_of(mounted, first))
    found = wait_runs(mounted, 1)
    assert found["timeouts"] == 1 and found["last"]["timed_out"] is True and found["last"]["version"] == first
    assert 0.9 <= found["last"]["seconds"] < LIMIT
    child = int(lines_of(children)[0])
    wait_until(lambda: not is_sleeping(child), what="its children live on")
    second = published.publish()
    found = wait_runs(mounted, 2)
    assert found["last"]["version"] == second and found["last"]["exit_status"] == 0 and found["timeouts"] == 1


def is_sleeping(pid):
    """Whether this is still our `sleep`, and no zombie that nobody has asked for yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_unmounting_ends_the_command(published, mount, tmp_path):
    children = tmp_path / "children"
    command = script(tmp_path / "hook", f"echo $$ >> {shlex.quote(str(children))}\nexec sleep 299\n")
    mounted = follow(mount, published, on_advance=command)
    wait_latest(mounted, published.publish())
    wait_until(lambda: lines_of(children), what=lambda: str(advances(mounted)))
    child = int(lines_of(children)[0])
    try:
        mounted.unmount()
        wait_until(lambda: not is_sleeping(child), what="a command outlives the mount")
    finally:
        if is_sleeping(child):
            os.kill(child, signal.SIGKILL)


def children_of(pid):
    """Zombies, too; a process is the child of the thread that started it."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def test_a_daemon_leaves_no_zombies(published, mount):
    mounted = follow(mount, published, on_advance="true")
    for count in range(1, 6):
        wait_latest(mounted, published.publish())
        wait_runs(mounted, count)
    pid = status(mounted)["pid"]
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        pytest.skip("the kernel does not list children here")
    wait_until(lambda: children_of(pid) == [], what=lambda: str(children_of(pid)))
