# SPDX-License-Identifier: Apache-2.0
"""Mounts by mount.weightfs, through mount(8) itself, in a mount namespace of our own.

mount(8) finds helpers in /sbin only, and users mount only where /dev/fuse and fuse.conf let them.  In a namespace that
nobody else sees, all of that can be had without changing the machine.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import BINARY, json_of

HELPER = BINARY.parent / "mount.weightfs"
MARKER = "NOT-MOUNTED.weightfs.txt"
NAMES = ("mount.weightfs", "mount.fuse.weightfs")
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def run(*command, timeout=60, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout, **options)


class Namespace:
    """This process in a mount namespace of its own, until leave()."""

    def __init__(self):
        self.former = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        call("unshare", CLONE_NEWNS)
        self.folder = Path(tempfile.mkdtemp(prefix="weightfs-helper-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        self._show_helper()
        self._open_fuse()

    def _show_helper(self):
        """/sbin as it is, and the helper in it."""
        sbin, old = Path("/sbin").resolve(), self.folder / "sbin"
        old.mkdir()
        subprocess.run(["mount", "--bind", sbin, old], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", sbin], check=True)
        for entry in old.iterdir():
            (sbin / entry.name).unlink(missing_ok=True)
            (sbin / entry.name).symlink_to(entry)
        for name in NAMES:
            (sbin / name).unlink(missing_ok=True)
            (sbin / name).symlink_to(HELPER)

    def _open_fuse(self):
        """As on most systems, and with user_allow_other."""
        self.users_may_mount = False
        try:
            place = self.folder / "dev"
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,dev", "none", place], check=True)
            os.mknod(place / "fuse", 0o20666, os.makedev(10, 229))
            (place / "fuse").chmod(0o666)
            os.close(os.open(place / "fuse", os.O_RDWR))
            subprocess.run(["mount", "--bind", place / "fuse", "/dev/fuse"], check=True)
            (place / "fuse.conf").write_text("user_allow_other\n")
            if Path("/etc/fuse.conf").exists():
                subprocess.run(["mount", "--bind", place / "fuse.conf", "/etc/fuse.conf"], check=True)
            self.users_may_mount = bool(shutil.which("fusermount3"))
        except (OSError, subprocess.CalledProcessError):
            pass  # no devices can be made here, so users have what there is

    def leave(self):
        for path in reversed(weightfs_mounts()):
            subprocess.run(["umount", "-l", path], check=False, capture_output=True)
        call("setns", self.former, CLONE_NEWNS)
        os.close(self.former)
        shutil.rmtree(self.folder, ignore_errors=True)


def skip_unless_possible():
    if os.geteuid() != 0:
        pytest.skip("takes root, for a mount namespace of its own")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/fuse here")
    if not HELPER.exists():
        pytest.skip(f"no {HELPER}; build mount.weightfs")


def mount_lines() -> list[list[str]]:
    """[device, mount point, options, type, source, super options], as text of /proc/self/mountinfo."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        front, back = line.split(" - ")
        fields = front.split()
        found.append([fields[2], fields[4].replace("\\040", " "), fields[5], *back.split()])
    return found


def weightfs_mounts() -> list[str]:
    return [line[1] for line in mount_lines() if line[3] == "fuse.weightfs"]


def is_mounted(path) -> bool:
    return str(path) in weightfs_mounts()


def wait_until(condition, seconds=15, what="it did not come true"):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what() if callable(what) else what
        time.sleep(0.02)


def stat_of(pid) -> list[str]:
    """Fields of /proc/PID/stat from the state on; [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(pid) -> bool:
    fields = stat_of(pid)
    return bool(fields) and fields[0] != "Z"


def processes_of(text) -> list[int]:
    """Living helpers and daemons with `text` in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if name in ("mount.weightfs", "weightfs") and any(str(text).encode() in word for word in words):
            if is_alive(folder.name):
                found.append(int(folder.name))
    return found


def status_fields(pid) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class HelperMount:
    """What mount(8) has mounted on a folder."""

    def __init__(self, path: Path):
        self.path = path

    def status(self) -> dict:
        return json_of("status", self.path)

    def daemon(self) -> int:
        return self.status()["pid"]

    def supervisor(self) -> int:
        return self.status()["supervisor"]["pid"]

    def kill_daemon(self) -> int:
        """SIGKILL, and returns when another one serves: reading its status waits for that."""
        former = self.daemon()
        os.kill(former, 9)
        wait_until(lambda: self.daemon() != former)
        return self.daemon()

    def read(self, name="latest") -> bytes:
        return b"".join(path.read_bytes() for path in sorted((self.path / name).iterdir()))

    def unmount(self):
        """By umount(8), and waits until nobody is left."""
        done = run("umount", self.path)
        assert done.returncode == 0, done.stderr
        self.wait_gone()

    def wait_gone(self):
        assert not is_mounted(self.path)
        wait_until(lambda: not processes_of(self.path), what=lambda: f"left: {processes_of(self.path)}")
        assert os.listdir(self.path) == []


@pytest.fixture(scope="module")
def namespace():
    skip_unless_possible()
    space = Namespace()
    yield space
    space.leave()


@pytest.fixture
def point(tmp_path):
    folder = tmp_path / "mnt"
    folder.mkdir()
    yield folder
    while os.path.ismount(folder) or is_mounted(folder):
        subprocess.run(["umount", "-l", folder], check=False)
