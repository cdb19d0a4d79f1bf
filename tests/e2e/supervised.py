# SPDX-License-Identifier: Apache-2.0
"""Mounts that mount.weightfs makes and keeps served: a supervisor, and a daemon that a test may kill.

What a test leaves behind is looked at: both processes have ended, and the folder is as it was.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BINARY, Mount, run_weightfs
from following import LIMIT, wait_until

HELPER = BINARY.parent / "mount.weightfs"
MARKER = "NOT-MOUNTED.weightfs.txt"
REPEAT = int(os.environ.get("WEIGHTFS_REPEAT", "2"))
again = pytest.mark.parametrize("attempt", range(REPEAT))
MANY_RESTARTS = "1000/1"
SOON = 10  # seconds, for what is to happen at once


# --- processes ------------------------------------------------------------------------------------


def is_alive(pid: int) -> bool:
    """Not so when it has ended and merely was not waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Children that live, oldest first."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [child for child in map(int, found) if is_alive(child)]


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_end(pid: int, limit: float = LIMIT) -> None:
    wait_until(lambda: not is_alive(pid), limit, f"end of process {pid}", pause=0.005)


def stop(pid: int) -> None:
    """SIGSTOP, and waits until it has stopped every thread: one of them may just have been given a request."""
    os.kill(pid, signal.SIGSTOP)
    states = [Path(f"/proc/{pid}/task/{thread}/stat") for thread in os.listdir(f"/proc/{pid}/task")]
    wait_until(lambda: all(state.read_text().rpartition(")")[2].split()[0] in "TZX" for state in states),
               what=f"process {pid} to stop", pause=0.001)


# --- options --------------------------------------------------------------------------------------


def option_text(options: dict) -> str:
    """{"follow": True, "keep": 3} -> "follow,keep=3"; False and None are left out."""
    words = []
    for name, value in options.items():
        name = name.replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            text = str(value)
            if any(special in text for special in ',"\\'):
                text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
            words.append(f"{name}={text}")
    return ",".join(words)


def helper_command(source: Path, point: Path, options: dict, *switches: str) -> list[str]:
    return [str(HELPER), str(source), str(point), *switches, "-o", option_text(options)]


# --- mounts ---------------------------------------------------------------------------------------


class Supervised(Mount):
    """A mount with a supervisor, in the background unless `foreground` is its process."""

    def __init__(self, path: Path, log: Path, foreground: subprocess.Popen | None = None):
        super().__init__(path, log)
        self.foreground = foreground
        self.before = sorted(os.listdir(path))
        self.supervisor = self.first = 0
        self.watched: set[int] = set()

    def find_processes(self) -> None:
        found = self.now()
        self.supervisor, self.first = found["supervisor"]["pid"], found["pid"]
        self.watched = {self.supervisor, self.first}

    def now(self) -> dict:
        """The status without a process to ask for it; waits for a daemon, as every reader does."""
        while True:
            try:
                return json.loads((self.path / ".weightfs" / "status.json").read_text())
            except OSError as error:
                if error.errno != errno.ESTALE:  # a text that was begun before a kill cannot be read on
                    raise

    def daemon(self) -> int:
        """Whoever serves, asked for without the mount: none while the next one is only about to start."""
        found = children(self.supervisor)
        self.watched.update(found)
        return found[0] if found else 0

    def restarts(self) -> int:
        return self.now()["supervisor"]["restarts"]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Kills the daemon; returns at once."""
        pid = wait_until(self.daemon, what="a daemon", pause=0.002)
        os.kill(pid, number)
        return pid

    def kill_and_wait(self, number: int = signal.SIGKILL) -> float:
        """Kills the daemon and waits for the next one; how long a reader waited."""
        before = self.restarts()
        began = time.monotonic()
        self.kill(number)
        wait_until(lambda: self.restarts() > before, what="another daemon", pause=0.001)
        paused = time.monotonic() - began
        assert self.restarts() == before + 1
        self.daemon()
        return paused

    def kill_unnoticed(self):
        """Between entering and leaving there is no daemon, and the supervisor does not know."""
        return Unnoticed(self)

    def count(self, event: str) -> int:
        """How often the daemons' log tells of an event."""
        return self.log_file.read_text().count(event) if self.log_file.exists() else 0

    def entries_below(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def finish(self) -> None:
        """Unmounts; both processes end, and the folder is as it was."""
        self.daemon()
        self.unmount()
        self.assert_nothing_left()

    def assert_nothing_left(self, limit: float = LIMIT) -> None:
        assert not self.is_mounted()
        if self.foreground is not None:
            self.foreground.wait(limit)
        for pid in self.watched:
            wait_end(pid, limit)
        assert self.entries_below() == self.before

    def clean_up(self) -> None:
        """However the test ended."""
        self.daemon()
        for pid in self.watched:
            send(pid, signal.SIGCONT)
        for _ in range(3):
            if self.is_mounted():
                subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)
        deadline = time.monotonic() + 3
        while any(map(is_alive, self.watched)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in sorted(self.watched, key=lambda pid: pid != self.supervisor):
            if is_alive(pid) and self.is_ours(pid):
                send(pid, signal.SIGKILL)
        if self.foreground is not None:
            self.foreground.kill()
            self.foreground.wait()

    def is_ours(self, pid: int) -> bool:
        """Its number may be another's by now."""
        try:
            return str(self.path) in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return False


class Unnoticed:
    def __init__(self, mounted: Supervised):
        self.mounted = mounted

    def __enter__(self):
        os.kill(self.mounted.supervisor, signal.SIGSTOP)
        wait_end(self.mounted.kill())
        return self

    def __exit__(self, *_):
        os.kill(self.mounted.supervisor, signal.SIGCONT)


def needs_supervised_mounts() -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/fuse here")
    if os.geteuid() != 0:
        pytest.skip("only root can do what mount(8) does")
    if not HELPER.exists():
        pytest.exit(f"no {HELPER}; it belongs beside {BINARY}", returncode=3)


@pytest.fixture
def supervise(tmp_path):
    """supervise(RUN, **OPTIONS) -> Supervised; an option's value of None leaves a default out."""
    needs_supervised_mounts()
    mounts: list[Supervised] = []

    def make(run, *, point=None, foreground=False, before=(), helper=HELPER, **options) -> Supervised:
        """`before`: a command line that runs the helper's, as `prlimit` does."""
        place = point or tmp_path / f"mnt{len(mounts)}"
        place.mkdir(exist_ok=True)
        log = tmp_path / f"log{len(mounts)}"
        given = {"base": run.mount_base(), "follow": True, "poll": "0.2", "pin_grace": 0, "restarts": MANY_RESTARTS,
                 "log_file": log} | options
        if not given["follow"]:
            given = {name: value for name, value in given.items() if name not in ("poll", "pin_grace")}
        mounted = Supervised(place, log)
        mounts.append(mounted)
        command = helper_command(run.source, place, given, *(["--foreground"] if foreground else []))
        command[0] = str(helper)
        if foreground:
            mounted.foreground = subprocess.Popen([*before, *command], stdin=subprocess.DEVNULL,
                                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            wait_until(mounted.is_mounted, what="the mount")
        else:
            done = subprocess.run([*before, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=LIMIT)
            assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr}"
        assert mounted.is_mounted()
        mounted.find_processes()
        return mounted

    yield make
    for mounted in mounts:
        mounted.clean_up()


@pytest.fixture
def own_binaries(tmp_path) -> Path:
    """A folder with copies of both programs, which a test may replace."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in (BINARY, HELPER):
        shutil.copy2(program, folder / program.name)
    return folder


def replace_program(folder: Path, content: bytes) -> None:
    """As packages do: the name leads to another file."""
    fresh = folder / "weightfs.new"
    fresh.write_bytes(content)
    fresh.chmod(0o755)
    fresh.rename(folder / "weightfs")


def restart(mounted: Mount) -> subprocess.CompletedProcess:
    return run_weightfs("restart", mounted.path)
