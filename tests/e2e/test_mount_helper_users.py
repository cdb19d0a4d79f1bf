# SPDX-License-Identifier: Apache-2.0
"""mount.weightfs and whose rights: as root, for another user, and by a user alone through fusermount3."""

import os
import pwd
import stat
import subprocess

import pytest
from conftest import BINARY
from helper_mounts import (HELPER, HelperMount, is_mounted, mount_lines, namespace, processes_of, run, status_fields,
                           wait_until)
from runs import make_run

NOBODY = pwd.getpwnam("nobody").pw_uid
NOGROUP = pwd.getpwnam("nobody").pw_gid
DAC_READ_SEARCH, SYS_ADMIN, NET_ADMIN, SYS_PTRACE = 1 << 2, 1 << 21, 1 << 12, 1 << 19


@pytest.fixture(scope="module")
def source(namespace):
    """Where everybody can read it."""
    folder = namespace.folder / "model"
    folder.mkdir()
    return make_run(folder, versions=3)


@pytest.fixture
def point(namespace, request):
    folder = namespace.folder / f"of-{request.node.name.replace('[', '-').rstrip(']')}" / "mnt"
    folder.mkdir(parents=True)
    yield folder
    while is_mounted(folder):
        subprocess.run(["umount", "-l", folder], check=False)


def mounted(source, point, *options) -> HelperMount:
    done = run("mount", "-t", "weightfs", source[0], point, "-o", ",".join([f"base={source[1]}", *options]))
    assert done.returncode == 0, done.stderr
    return HelperMount(point)


def as_nobody(*command, **options):
    return run("setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups", *command, **options)


def sets_of(pid) -> dict[str, int]:
    return {name: int(value, 16) for name, value in status_fields(pid).items() if name.startswith("Cap")}


def assert_bounded(pid, capabilities):
    """None but these, and none to be had."""
    sets = sets_of(pid)
    assert sets["CapPrm"] == sets["CapEff"] == capabilities & sets["CapPrm"]
    assert sets["CapPrm"] == capabilities
    assert sets["CapInh"] == sets["CapAmb"] == 0
    assert sets["CapBnd"] == capabilities
    assert status_fields(pid)["NoNewPrivs"] == "1"


# --- as root --------------------------------------------------------------------------------------


def test_the_daemon_of_root_may_only_read(source, point):
    live = mounted(source, point)
    for _ in range(2):
        assert_bounded(live.daemon(), DAC_READ_SEARCH)
        live.kill_daemon()
    live.unmount()


def test_the_supervisor_keeps_only_what_it_needs(source, point):
    live = mounted(source, point)
    sets = sets_of(live.supervisor())
    assert sets["CapEff"] & SYS_ADMIN
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert not sets[name] & (NET_ADMIN | SYS_PTRACE), name
        assert sets[name].bit_count() <= 9, name
    live.unmount()


def test_others_look_only_where_they_may(source, point):
    live = mounted(source, point)
    assert as_nobody("ls", point).returncode != 0
    live.unmount()
    live = mounted(source, point, "allow_other")
    assert as_nobody("cat", point / "latest" / "config.json").returncode == 0
    live.unmount()


# --- setuid=USER ----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["nobody", f"{NOBODY}:{NOGROUP}", "nobody:nogroup"])
def test_a_daemon_of_another_user(source, point, user):
    live = mounted(source, point, f"setuid={user}", "follow", "allow_other")
    for _ in range(2):
        fields = status_fields(live.daemon())
        assert set(fields["Uid"].split()) == {str(NOBODY)}
        assert set(fields["Gid"].split()) == {str(NOGROUP)}
        assert set(fields["Groups"].split()) <= {str(NOGROUP)}
        assert_bounded(live.daemon(), 0)
        for path in (point, point / "latest", point / "latest" / "config.json"):
            assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, NOGROUP)
        live.kill_daemon()
    assert live.read() == b"".join(path.read_bytes() for path in sorted((point / "weight_v000003").iterdir()))
    live.unmount()


def test_whose_mount_it_is_with_setuid(source, point):
    """The user may look without allow_other; others may not, not even root."""
    live = mounted(source, point, "setuid=nobody")
    [line] = [line for line in mount_lines() if line[1] == str(point)]
    assert f"user_id={NOBODY}" in line[5] and f"group_id={NOGROUP}" in line[5]
    assert as_nobody("cat", point / "latest" / "config.json").returncode == 0
    assert run("cat", point / "latest" / "config.json").returncode != 0
    live.unmount()


def test_warm_and_passthrough_with_setuid(source, point):
    """The daemon may not ask the kernel for backing files; its supervisor does.  Every time, so it is tried often."""
    live = mounted(source, point, "setuid=nobody", "allow_other", "restarts=100")
    if live.status()["kernel"]["passthrough"] != "on":
        pytest.skip(f"no passthrough here: {live.status()['kernel']['passthrough']}")
    before = live.read()
    for _ in range(15):
        done = run(BINARY, "warm", point, "weight_v000003")
        assert done.returncode == 0, done.stderr
        for name in ("base", "latest"):
            with open(sorted((point / name).glob("*.safetensors"))[0], "rb") as held:
                assert os.getxattr(held.name, "user.weightfs.served_by") in (b"passthrough", b"memory")
                assert live.status()["kernel"]["passthrough_open"] >= 1
                assert held.read(4096)
        assert live.read() == before
        live.kill_daemon()
        states = {version["name"]: version["warm"] for version in live.status()["versions"]}
        assert states["weight_v000003"] == "warm", "what was warm is kept"
    assert live.status()["kernel"]["passthrough_refused"] == 0
    live.unmount()


def test_setuid_to_a_user_who_may_not_read(source, point, namespace):
    closed = namespace.folder / "closed"
    closed.mkdir(mode=0o700)
    run_folder, base, _ = make_run(closed, versions=1)
    done = run("mount", "-t", "weightfs", run_folder, point, "-o", f"base={base},setuid=nobody")
    assert done.returncode == 32
    assert done.stderr.startswith("weightfs mount: ")
    assert not is_mounted(point) and os.listdir(point) == []


# --- by a user alone ------------------------------------------------------------------------------


@pytest.fixture
def own_point(namespace, point):
    if not namespace.users_may_mount:
        pytest.skip("/dev/fuse is closed to users here, or there is no fusermount3")
    os.chown(point.parent, NOBODY, NOGROUP)
    os.chown(point, NOBODY, NOGROUP)
    return point


def by_nobody(source, point, *options):
    return as_nobody(HELPER, source[0], point, "-o", ",".join([f"base={source[1]}", "allow_other", *options]))


def test_a_user_alone(source, own_point):
    """Mount, crash, read on, unmount: nothing of it takes root."""
    done = by_nobody(source, own_point)
    assert done.returncode == 0, done.stderr
    live = HelperMount(own_point)
    before = live.read()
    supervisor = live.supervisor()
    for pid in (live.daemon(), supervisor):
        assert set(status_fields(pid)["Uid"].split()) == {str(NOBODY)}
        assert sets_of(pid)["CapEff"] == 0
    live.kill_daemon()
    assert live.read() == before
    assert live.supervisor() == supervisor
    done = as_nobody(BINARY, "umount", own_point)
    assert done.returncode == 0, done.stderr
    live.wait_gone()


def test_a_user_ends_the_supervisor(source, own_point):
    """Through fusermount3 it takes its mount away."""
    assert by_nobody(source, own_point).returncode == 0
    live = HelperMount(own_point)
    os.kill(live.supervisor(), 15)
    wait_until(lambda: not is_mounted(own_point))
    live.wait_gone()


def test_a_user_and_the_folders_of_others(source, point, namespace):
    done = by_nobody(source, point)
    assert done.returncode == 32
    assert "it belongs to user 0, and only root may mount on folders of others" in done.stderr
    sticky = namespace.folder / "sticky"
    sticky.mkdir(exist_ok=True)
    sticky.chmod(0o1777)
    (sticky / "mnt").mkdir(exist_ok=True)
    os.chown(sticky / "mnt", NOBODY, NOGROUP)
    done = by_nobody(source, sticky / "mnt")
    assert done.returncode == 32
    assert "it lies in a sticky folder of somebody else, as /tmp is" in done.stderr
    assert os.listdir(sticky / "mnt") == [] and not is_mounted(sticky / "mnt")


def test_a_user_and_a_line_in_fstab(source, own_point, namespace):
    """mount(8), a set-user-id program, drops its rights before it calls the helper."""
    if not os.stat("/bin/mount").st_mode & stat.S_ISUID:
        pytest.skip("mount(8) is no set-user-id program here")
    file = namespace.folder / "fstab"
    file.write_text(f"{source[0]} {own_point} weightfs base={source[1]},user,noauto 0 0\n")
    subprocess.run(["mount", "--bind", file, "/etc/fstab"], check=True)
    try:
        done = as_nobody("mount", own_point)
        assert done.returncode == 0, done.stderr
        live = HelperMount(own_point)
        [line] = [line for line in mount_lines() if line[1] == str(own_point)]
        assert f"user_id={NOBODY}" in line[5]
        [supervisor] = [pid for pid in processes_of(own_point) if status_fields(pid)["Name"] == "mount.weightfs"]
        assert set(status_fields(supervisor)["Uid"].split()) == {str(NOBODY)}
        done = as_nobody("umount", own_point)
        assert done.returncode == 0, done.stderr
        live.wait_gone()
    finally:
        subprocess.run(["umount", "/etc/fstab"], check=True)


def test_a_user_may_not_choose_another(source, own_point):
    done = by_nobody(source, own_point, "setuid=root")
    assert done.returncode == 1
    assert "only root may choose who runs the daemon" in done.stderr
    assert not is_mounted(own_point) and os.listdir(own_point) == []
    assert by_nobody(source, own_point, "setuid=nobody").returncode == 0, "that is who it is"
    assert as_nobody(BINARY, "umount", own_point).returncode == 0
