# SPDX-License-Identifier: Apache-2.0
"""What is left when a mount has ended badly, and what each program says of it."""

import os
import subprocess

import pytest
from conftest import run_weightfs
from helper_mounts import (HELPER, MARKER, HelperMount, is_mounted, namespace, point, processes_of, run, wait_until)
from runs import make_run


pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("stale"), versions=2)


def mounted(source, point, *options) -> HelperMount:
    done = run("mount", "-t", "weightfs", source[0], point, "-o", ",".join([f"base={source[1]}", *options]))
    assert done.returncode == 0, done.stderr
    return HelperMount(point)


@pytest.fixture
def dead(source, point):
    """A mount whose daemon was not started again."""
    live = mounted(source, point, "restarts=0")
    os.kill(live.daemon(), 9)
    wait_until(lambda: not processes_of(point))
    return live


def failing(command, path, status=3) -> str:
    done = run_weightfs(command, path)
    assert done.returncode == status, done.stderr
    return done.stderr


def test_a_dead_mount_shows_no_empty_folder(dead):
    assert is_mounted(dead.path)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(dead.path)


def test_status_of_a_dead_mount(dead):
    assert f"run 'weightfs umount {dead.path}' and mount again" in failing("status", dead.path)


def test_mounting_on_a_dead_mount(dead, source):
    done = run("mount", "-t", "weightfs", source[0], dead.path, "-o", f"base={source[1]}")
    assert done.returncode == 32
    assert f"if it has died, clean up first: weightfs umount '{dead.path}'" in done.stderr


def test_umount_of_a_dead_mount_by_us(dead, source):
    """Nothing is left, the marker neither: nothing is wanted there."""
    done = run_weightfs("umount", dead.path)
    assert (done.returncode, done.stderr) == (0, f"the weightfs on '{dead.path}' had died; its mount is removed\n")
    assert os.listdir(dead.path) == []
    mounted(source, dead.path).unmount()


def test_umount_of_a_dead_mount_by_others(dead, source):
    """umount(8) brings the marker to light, which says what belongs there."""
    assert run("umount", dead.path).returncode == 0
    assert os.listdir(dead.path) == [MARKER]
    text = (dead.path / MARKER).read_text()
    assert text.startswith("This folder is a mount point of weightfs, and nothing is mounted on it now.\n")
    assert f"mount -t weightfs '{source[0]}' '{dead.path}'" in text


@pytest.fixture
def marked(dead):
    """A folder with a marker only."""
    assert run("umount", dead.path).returncode == 0
    return dead.path


def test_status_of_a_folder_with_a_marker(marked):
    for command in ("status", "restart"):
        said = failing(command, marked)
        assert f"nothing is mounted on '{marked}', although a weightfs belongs there" in said
        assert f"{MARKER} in it says how to mount it again" in said


def test_umount_of_a_folder_with_a_marker(marked):
    done = run_weightfs("umount", marked)
    assert (done.returncode, done.stderr) == (0, f"nothing was mounted on '{marked}'; {MARKER} in it is removed\n")
    assert os.listdir(marked) == []
    assert "nothing is mounted on" in failing("umount", marked)


def test_umount_leaves_what_only_has_the_name_of_a_marker(point):
    (point / MARKER).write_text("mine")
    assert "nothing is mounted on" in failing("umount", point)
    assert "is not a mount point of weightfs" in failing("status", point)
    assert (point / MARKER).read_text() == "mine"


def test_mounting_on_a_folder_with_a_marker(marked, source):
    live = mounted(source, marked)
    assert MARKER not in os.listdir(marked)
    live.unmount()


def test_a_mount_below_something_else(source, point):
    """It is left alone, and said to be there; so is what lies over it when the supervisor is told to end."""
    live = mounted(source, point)
    supervisor = live.supervisor()
    assert run("mount", "-t", "tmpfs", "none", point).returncode == 0
    for command in ("status", "umount", "restart"):
        assert (f"a weightfs is mounted on '{point}', but 'tmpfs' is mounted over it; unmount that first: "
                f"umount '{point}'") in failing(command, point)
    os.kill(supervisor, 15)
    wait_until(lambda: not processes_of(point), 30)
    assert run("umount", point).returncode == 0, "the tmpfs is still there"
    assert is_mounted(point), "the dead one below too"
    assert run_weightfs("umount", point).returncode == 0
    assert os.listdir(point) == []


def test_status_of_other_mounts(point):
    assert run("mount", "-t", "tmpfs", "none", point).returncode == 0
    assert "is not a mount point of weightfs" in failing("status", point)
    assert "is no weightfs but 'tmpfs'; use umount(8)" in failing("umount", point)
    assert run("umount", point).returncode == 0


def test_umount_by_us_waits_for_the_supervisor(source, point):
    for name in ("mount.weightfs", "mount.fuse.weightfs"):
        done = run(f"/sbin/{name}", source[0], point, "-o", f"base={source[1]}")
        assert done.returncode == 0, done.stderr
        assert run_weightfs("umount", point).returncode == 0
        assert processes_of(point) == [] and os.listdir(point) == []


def test_a_supervisor_that_was_killed(source, point):
    """The daemon goes on; only nobody starts another one."""
    live = mounted(source, point)
    supervisor, daemon = live.supervisor(), live.daemon()
    os.kill(supervisor, 9)
    wait_until(lambda: supervisor not in processes_of(point))
    assert live.daemon() == daemon and live.read()
    assert run_weightfs("umount", point).returncode == 0
    wait_until(lambda: not processes_of(point))
    assert os.listdir(point) in ([], [MARKER])


def test_a_setuid_helper_is_refused(source, point, namespace):
    """Its daemon would read with the rights of root what its caller names."""
    copy = namespace.folder / "mount.weightfs"
    copy.write_bytes(HELPER.read_bytes())
    os.chmod(copy, 0o4755)
    if os.statvfs(copy).f_flag & os.ST_NOSUID:
        pytest.skip("set-user-id files do nothing on this file system")
    done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", copy, source[0], point, "-o",
               f"base={source[1]}")
    assert done.returncode == 1
    assert "must not be setuid or setgid" in done.stderr
    assert not is_mounted(point)
