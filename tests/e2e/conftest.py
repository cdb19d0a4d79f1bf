# SPDX-License-Identifier: Apache-2.0
"""Fixtures: the binary under test and mounts that are always taken down again."""

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = Path(os.environ.get("WEIGHTFS_BIN") or ROOT / "build" / "release" / "weightfs").absolute()
# One thread: results of matrix products must not depend on how the work was cut.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell ignores SIGINT in what it runs in the background, and that is inherited by the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def run_weightfs(*arguments, timeout=120) -> subprocess.CompletedProcess:
    """Runs a command without a terminal and without stdin; the caller judges the exit status."""
    if not BINARY.exists():
        pytest.exit(f"no {BINARY}; build it first (cmake --preset release; cmake --build --preset release), "
                    "or set WEIGHTFS_BIN", returncode=3)
    return subprocess.run([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout)


def succeed(*arguments, timeout=120) -> str:
    done = run_weightfs(*arguments, timeout=timeout)
    command = " ".join(map(str, arguments))
    assert done.returncode == 0, f"weightfs {command}: {done.returncode}\n{done.stderr}{done.stdout}"
    return done.stdout


def json_of(*arguments):
    return json.loads(succeed(*arguments, "--json"))


class Mount:
    """A mounted source."""

    def __init__(self, path: Path, log: Path):
        self.path = path
        self.log_file = log

    def __truediv__(self, name) -> Path:
        return self.path / name

    def versions(self) -> list[str]:
        """Names of the version folders, as `ls` shows them."""
        return sorted(entry.name for entry in self.path.iterdir() if not entry.is_symlink())

    def status(self) -> dict:
        return json_of("status", self.path)

    def counters(self) -> dict:
        return self.status()["counters"]

    def is_mounted(self) -> bool:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return any(line.split()[1].replace("\\040", " ") == str(self.path) for line in mounts)

    def unmount(self) -> None:
        if self.is_mounted():
            succeed("umount", self.path)
        assert not self.is_mounted()

    def force_unmount(self) -> None:
        for _ in range(3):
            if not self.is_mounted():
                return
            if run_weightfs("umount", self.path).returncode != 0:
                subprocess.run(["fusermount3", "-u", "-z", self.path], check=False, capture_output=True)


def _mount_factory(folder: Path):
    mounts: list[Mount] = []

    def make(source, *options, base=None) -> Mount:
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            pytest.skip("no usable /dev/fuse here")
        point = folder / f"mnt{len(mounts)}"
        point.mkdir()
        mount = Mount(point, folder / f"log{len(mounts)}")
        mounts.append(mount)
        named = ["--base", base] if base is not None else []
        succeed("mount", *named, *options, "--log-file", mount.log_file, source, point)
        assert mount.is_mounted()
        return mount

    return make, mounts


@pytest.fixture
def mount(tmp_path):
    """mount(SOURCE, *OPTIONS, base=None) -> Mount; unmounted when the test ends, however it ends."""
    make, mounts = _mount_factory(tmp_path)
    yield make
    for mounted in mounts:
        mounted.force_unmount()


@pytest.fixture(scope="module")
def module_mount(tmp_path_factory):
    """Like `mount`, for mounts that the tests of a module share."""
    make, mounts = _mount_factory(tmp_path_factory.mktemp("mounts"))
    yield make
    for mounted in mounts:
        mounted.force_unmount()


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of a file, or "folder"."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[path.relative_to(folder).as_posix()] = "folder" if path.is_dir() else sha256(path)
    return found


def assert_same_tree(found: Path, expected: Path) -> None:
    """The same files with the same bytes, sizes and names."""
    left, right = tree(found), tree(expected)
    assert sorted(left) == sorted(right)
    assert left == right
    for name, digest in left.items():
        if digest != "folder":
            assert (found / name).stat().st_size == (expected / name).stat().st_size
