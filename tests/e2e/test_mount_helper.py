# SPDX-License-Identifier: Apache-2.0
"""`mount -t weightfs`: the command line, /etc/fstab, what is refused, races, and what is left over.

Everything goes through mount(8) and umount(8); see helper_mounts.py.
"""

import os
import signal
import subprocess
import threading

import pytest
from conftest import BINARY, json_of, run_weightfs, tree
from helper_mounts import (HELPER, MARKER, HelperMount, call, is_alive, is_mounted, mount_lines, namespace, point,
                           processes_of, run, wait_until, weightfs_mounts)
from runs import make_run

RACES = 20


pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(run, base, options to mount it with, bytes of the newest version)."""
    folder = tmp_path_factory.mktemp("helper")
    published, base, _ = make_run(folder, versions=3)
    exported = folder / "exported"
    assert run_weightfs("export", "--base", base, published, "weight_v000003", exported).returncode == 0
    content = b"".join(path.read_bytes() for path in sorted(exported.iterdir()))
    return published, base, f"base={base}", content


def mount(source, point, *options, kind="weightfs"):
    return run("mount", "-t", kind, source[0], point, "-o", ",".join([source[2], *options]))


def mounted(source, point, *options, **more) -> HelperMount:
    done = mount(source, point, *options, **more)
    assert done.returncode == 0, done.stderr
    return HelperMount(point)


def assert_nothing_left(point):
    assert not is_mounted(point)
    wait_until(lambda: not processes_of(point), what=lambda: f"left: {processes_of(point)}")
    assert os.listdir(point) == []


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weightfs", "fuse.weightfs"])
def test_mount_and_umount(source, point, kind):
    """The first read right behind mount(8) works; umount(8) leaves nothing."""
    done = mount(source, point, "follow", kind=kind)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    content = HelperMount(point).read()
    assert content == source[3]
    [line] = [line for line in mount_lines() if line[1] == str(point)]
    assert line[3:5] == ["fuse.weightfs", str(source[0])]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line[2].split(","))
    HelperMount(point).unmount()


def test_mount_says_what_it_did_when_asked(source, point):
    done = run("mount", "-v", "-t", "weightfs", source[0], point, "-o", source[2])
    assert done.returncode == 0
    assert f"mounted 4 versions of {source[0]} at {point}; latest is weight_v000003" in done.stderr
    HelperMount(point).unmount()


def test_a_mount_outlives_its_daemon(source, point):
    live = mounted(source, point)
    supervisor = live.supervisor()
    with open(point / "latest" / "config.json", "rb") as held:
        live.kill_daemon()
        assert held.read() == (point / "latest" / "config.json").read_bytes()
    assert live.read() == source[3]
    told = live.status()["supervisor"]
    assert (told["pid"], told["restarts"]) == (supervisor, 1)
    assert "SIGKILL" in told["last_end"]
    live.unmount()


def test_a_daemon_that_hangs_is_replaced(source, point):
    """SIGSTOP: nothing gets on, so another one takes over, whatever the daemon was just about to do.

    A request that is made at once may be taken by a thread that stops before it has written that down.
    """
    live = mounted(source, point, "hang=1", "restarts=100")
    for _ in range(8):
        stopped = live.daemon()
        os.kill(stopped, signal.SIGSTOP)
        done = run("timeout", "20", "cat", point / "latest" / "config.json", point / ".weightfs" / "status.json")
        # A control file of which the stopped one has given out a part is to be opened anew.
        assert done.returncode == 0 or done.stderr.endswith("status.json: Stale file handle\n"), done.stderr
        assert live.daemon() != stopped
        assert "hung" in live.status()["supervisor"]["last_end"]
    assert live.read() == source[3]
    live.unmount()


def test_another_program_takes_over(source, point):
    """`weightfs restart`, under a reader."""
    live = mounted(source, point)
    former = live.daemon()
    with open(point / "latest" / "model-00001-of-00002.safetensors", "rb", buffering=0) as held:
        first = held.read(5000)
        done = run_weightfs("restart", point)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"restarted: process {live.daemon()} serves; readers waited ")
        assert live.daemon() != former
        assert first + held.read() == (point / "weight_v000003" / "model-00001-of-00002.safetensors").read_bytes()
    live.unmount()


def test_mounting_again_at_once_works(source, point):
    """As systemctl restart does: the former helper may still be about to end."""
    for _ in range(10):
        mounted(source, point)
        assert run("umount", point).returncode == 0
    wait_until(lambda: not processes_of(point))
    assert_nothing_left(point)


def test_a_lazily_unmounted_folder_can_be_mounted_again(source, point):
    """Whoever reads on, reads on; its supervisor neither unmounts the new one nor takes its marker away."""
    first = mounted(source, point)
    supervisor = first.supervisor()
    with open(point / "latest" / "model-00001-of-00002.safetensors", "rb") as held:
        assert run("umount", "-l", point).returncode == 0
        again = mounted(source, point)
        assert held.read(1000)
        os.kill(supervisor, 15)
        wait_until(lambda: not is_alive(supervisor), 30)
    assert is_mounted(point) and again.read() == source[3]
    call("umount2", os.fsencode(point), 2)  # and below the second one lies its marker, for now
    wait_until(lambda: not processes_of(point))
    assert_nothing_left(point)


# --- fstab ----------------------------------------------------------------------------------------


def fstab(tmp_path, source, point, options="", kind="weightfs", name=None):
    file = tmp_path / "fstab"
    place = str(name or source[0]).replace(" ", "\\040")
    file.write_text(f"{place} {point} {kind} {source[2]}{options} 0 0\n")
    return file


BOOT = ",defaults,noatime,_netdev,nofail,x-systemd.requires=network-online.target,x-systemd.mount-timeout=5min"


@pytest.mark.parametrize("kind", ["weightfs", "fuse.weightfs"])
def test_fstab(source, point, tmp_path, kind):
    """`mount -a` mounts; a second one finds it mounted and says nothing; `mount DIR` takes the line."""
    file = fstab(tmp_path, source, point, BOOT, kind)
    for _ in range(2):
        done = run("mount", "-T", file, "-a")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert weightfs_mounts().count(str(point)) == 1
    HelperMount(point).unmount()
    assert run("mount", "-T", file, point).returncode == 0
    assert HelperMount(point).read() == source[3]
    HelperMount(point).unmount()


def test_fstab_noauto_is_left_to_whoever_asks(source, point, tmp_path):
    file = fstab(tmp_path, source, point, ",noauto,user")
    assert run("mount", "-T", file, "-a").returncode == 0
    assert not is_mounted(point)
    assert run("mount", "-T", file, point).returncode == 0
    HelperMount(point).unmount()


@pytest.mark.parametrize("spelling", ["link", "slashes", "space"])
def test_fstab_by_other_names_of_the_source(source, point, tmp_path, spelling):
    """What is mounted is found again, however the line names the folder."""
    name = {"link": tmp_path / "a link", "slashes": f"{source[0].parent}//./{source[0].name}/",
            "space": tmp_path / "two words, and more"}[spelling]
    if spelling != "slashes":
        name.symlink_to(source[0])
    file = fstab(tmp_path, source, point, name=name)
    for _ in range(2):
        done = run("mount", "-T", file, "-a")
        assert (done.returncode, done.stderr) == (0, "")
    HelperMount(point).unmount()


def test_values_with_commas_and_spaces(source, point, tmp_path):
    """In double quotes they get through mount(8), from the command line and from fstab."""
    log = tmp_path / "a log, and more"
    done = run("mount", "-t", "weightfs", source[0], point, "-o", f'ro,log-file="{log}",{source[2]},noatime')
    assert done.returncode == 0, done.stderr
    HelperMount(point).unmount()
    assert "mount.ready" in log.read_text()
    log.unlink()
    file = fstab(tmp_path, source, point, f',log-file="{log}",nofail'.replace(" ", "\\040"))
    assert run("mount", "-T", file, "-a").returncode == 0
    HelperMount(point).unmount()
    assert "mount.ready" in log.read_text()


def test_a_helper_that_is_called_directly_is_found_by_mount_a(source, point, tmp_path):
    done = run(HELPER, source[0].name, point, "-o", source[2], cwd=source[0].parent)
    assert done.returncode == 0, done.stderr
    done = run("mount", "-T", fstab(tmp_path, source, point), "-a")
    assert (done.returncode, done.stderr) == (0, "")
    HelperMount(point).unmount()


# --- what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "options", "status", "message"), [
    ("{source}", "base={source}/nowhere", 32, "nowhere is not a folder [base.not_found]"),
    ("{source}/nowhere", "base={base}", 32, "nowhere is not a folder [source.not_found]"),
    ("{base}", "base={base}", 32, "[source.unrecognised]"),
    ("{source}", "base={base},folow", 1, "did you mean follow? [usage]"),
    ("{source}", "base={base},poll=1", 1, "means nothing without follow"),
    ("{source}", "base={base},uid=0", 1, "chooses the owner and mode of what it shows"),
    ("{source}", "base={base},auto_unmount", 1, "after a crash it would show an empty folder"),
    ("{source}", "base={base},setuid=no-such-user-here", 1, "there is no such user"),
    ("{source}", "base={base},log-file=/nowhere/log", 32, "cannot open the log file"),
])
def test_what_fails_says_why_and_leaves_nothing(source, point, spec, options, status, message):
    names = {"source": source[0], "base": source[1]}
    done = run("mount", "-t", "weightfs", spec.format(**names), point, "-o", options.format(**names))
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(("weightfs", "mount.weightfs"))]
    assert len(said) == 1, "it is said once"
    assert_nothing_left(point)


def test_fake_and_sloppy(source, point):
    """-f checks all but mounts nothing; -s lets unknown options pass, refused ones not."""
    assert run("mount", "-f", "-t", "weightfs", source[0], point, "-o", source[2]).returncode == 0
    assert_nothing_left(point)
    assert run("mount", "-s", "-t", "weightfs", source[0], point, "-o", f"{source[2]},quuux").returncode == 0
    HelperMount(point).unmount()
    assert run("mount", "-s", "-t", "weightfs", source[0], point, "-o", f"{source[2]},uid=0").returncode == 1
    assert_nothing_left(point)


def test_remount_is_refused(source, point):
    live = mounted(source, point)
    done = run("mount", "-o", "remount,ro", point)
    assert done.returncode != 0
    assert "unmount it and mount it again" in done.stderr
    assert live.read() == source[3]
    live.unmount()


def test_what_is_mounted_on_already(source, point):
    live = mounted(source, point)
    again = mount(source, point)
    assert again.returncode == 32
    assert f"a weightfs is mounted on '{point}' already, showing '{source[0]}'" in again.stderr
    assert weightfs_mounts().count(str(point)) == 1
    live.unmount()
    assert run("mount", "-t", "tmpfs", "none", point).returncode == 0
    over = mount(source, point)
    assert over.returncode == 32
    assert "is a mount point already ('tmpfs'); choose an empty folder" in over.stderr
    assert run("umount", point).returncode == 0
    assert_nothing_left(point)


def test_source_and_mount_point_stay_apart(source, tmp_path):
    inside = source[0] / "mnt"
    inside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(source[0])
    for spec in (source[0], link):
        done = run("mount", "-t", "weightfs", spec, inside, "-o", source[2])
        assert done.returncode == 32 and f"it lies inside '{source[0]}'" in done.stderr
        assert run(HELPER, spec, inside, "-o", source[2]).returncode == 32
    assert_nothing_left(inside)
    inside.rmdir()
    done = run("mount", "-t", "weightfs", source[0], source[0].parent, "-o", source[2])
    assert done.returncode == 32 and f"it contains '{source[0]}'" in done.stderr
    assert MARKER not in os.listdir(source[0].parent)


def test_a_mount_point_behind_a_link(source, point, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(point)
    assert run("mount", "-t", "weightfs", source[0], link, "-o", source[2]).returncode == 0
    assert is_mounted(point)
    assert HelperMount(link).read() == source[3]
    assert run("umount", link).returncode == 0
    HelperMount(point).wait_gone()


def test_a_mount_point_that_is_no_folder(source, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, tmp_path / "nowhere"):
        assert mount(source, path).returncode == 32
    assert file.read_text() == "mine"


def test_two_at_once(source, point):
    """Exactly one wins; the other one says that it is mounted already."""
    for _ in range(RACES):
        done = []
        threads = [threading.Thread(target=lambda: done.append(mount(source, point))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(result.returncode for result in done) == [0, 32]
        [loser] = [result for result in done if result.returncode]
        assert "already, showing" in loser.stderr, loser.stderr
        assert weightfs_mounts().count(str(point)) == 1
        HelperMount(point).unmount()


def test_files_in_the_folder_below_are_kept(source, point):
    (point / "mine.txt").write_text("mine")
    before = tree(point)
    live = mounted(source, point)
    assert live.read() == source[3]
    assert run("umount", point).returncode == 0
    wait_until(lambda: not processes_of(point))
    assert tree(point) == before


def test_a_build_of_another_name_is_found(source, point):
    """The daemon is the weightfs beside the helper, whatever the link to the helper is called."""
    live = mounted(source, point)
    assert os.readlink(f"/proc/{live.daemon()}/exe") == str(BINARY.resolve())
    assert json_of("status", point)["supervisor"]["pid"] == live.supervisor()
    live.unmount()
