# SPDX-License-Identifier: Apache-2.0
"""The process of mount.weightfs: what it is started with, whom it tells that it serves, and how it is ended."""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from helper_mounts import (HELPER, MARKER, HelperMount, is_alive, is_mounted, libc, namespace, point, processes_of, run,
                           stat_of, wait_until)
from runs import make_run


pytestmark = pytest.mark.usefixtures("namespace")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("process"), versions=2)


@pytest.fixture
def started():
    """Popen objects that are ended when the test is."""
    processes = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def words(source, point, *options):
    return [source[0], point, "-o", ",".join([f"base={source[1]}", *options])]


# --- what it is started with ----------------------------------------------------------------------


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_without_standard_streams(source, point, closed):
    """None of them becomes a file of the source; nothing is written into one."""
    def close():
        for number in closed:
            os.close(number)

    process = subprocess.Popen([HELPER, "-v", *words(source, point)], preexec_fn=close)
    assert process.wait(60) == 0
    live = HelperMount(point)
    for pid in (live.daemon(), live.supervisor()):
        assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
    live.kill_daemon()
    assert live.read()
    live.unmount()


def test_nothing_of_the_caller_is_held(source, point, tmp_path):
    """Its pipes end when it is mounted, its folder can go, and its signals and session are not ours."""
    folder = tmp_path / "here"
    folder.mkdir()
    done = subprocess.run([HELPER, "-v", *words(source, point)], cwd=folder, capture_output=True, timeout=60)
    assert done.returncode == 0
    live = HelperMount(point)
    for pid in (live.daemon(), live.supervisor()):
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert int(stat_of(pid)[3]) not in (os.getsid(0), 0), "a session of its own"
        assert int(stat_of(pid)[4]) == 0, "no terminal"
    live.unmount()


@pytest.mark.parametrize("name", ["", "-x", "../../tmp/mount.evil", "mount.fuse.weightfs", "weightfs", "mount.\n"])
def test_its_own_name_decides_nothing(source, point, name):
    done = subprocess.run([name, *words(source, point)], executable=HELPER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    live = HelperMount(point)
    assert live.read()
    assert len(processes_of(point)) == 2
    live.unmount()


def test_no_arguments_at_all(source):
    """argv may even be empty."""
    done = subprocess.run([], executable=HELPER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("mount.weightfs: SOURCE and MOUNTPOINT are needed")


ODD = {"LD_LIBRARY_PATH": "/nowhere", "LD_AUDIT": "", "IFS": "/", "ENV": "/nowhere", "BASH_ENV": "/nowhere", "PATH": "",
       "TMPDIR": "/var/tmp", "LANG": "C.UTF-8", "GCONV_PATH": "/nowhere", "PYTHONPATH": "/nowhere", "SECRET": "42",
       "_FUSE_COMMFD": "77", "WEIGHTFS_VERSION": "of somebody else"}
KEPT = {"HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "PATH"}


def environment_of(pid):
    with open(f"/proc/{pid}/environ", encoding="utf-8") as file:
        return dict(entry.partition("=")[::2] for entry in file.read().split("\0") if entry)


def test_the_environment_of_the_daemon_and_of_hooks(source, point, tmp_path):
    """Nothing that changes what code they run gets through."""
    out = tmp_path / "hook"
    hook = f'on-advance="/usr/bin/env > {out}.tmp; /bin/mv {out}.tmp {out}"'
    folder, _, _ = make_run(tmp_path / "grows", versions=2)
    later = tmp_path / "weight_v000002"
    (folder / "weight_v000002").rename(later)
    done = run(HELPER, folder, point, "-o", f"base={tmp_path / 'grows' / 'base'},follow,poll=0.1,{hook}", env=ODD)
    assert done.returncode == 0, done.stderr
    live = HelperMount(point)
    for _ in range(2):
        environment = environment_of(live.daemon())
        assert set(environment) <= KEPT
        assert environment["PATH"] == "/usr/sbin:/usr/bin:/sbin:/bin"
        assert environment["LANG"] == "C.UTF-8"
        live.kill_daemon()
    later.rename(folder / "weight_v000002")
    wait_until(out.exists)
    hooked = dict(line.partition("=")[::2] for line in out.read_text().splitlines())
    told = {name for name in hooked if name.startswith("WEIGHTFS_")}
    assert set(hooked) - told <= KEPT | {"PWD", "_", "SHLVL", "OLDPWD"}
    assert hooked["WEIGHTFS_VERSION"] == "weight_v000002"
    live.unmount()


def test_preloaded_code_stays_out_of_the_daemon(source, point):
    library = next((f"/lib/x86_64-linux-gnu/{name}" for name in ("libSegFault.so", "libutil.so.1", "libm.so.6")
                    if os.path.exists(f"/lib/x86_64-linux-gnu/{name}")), None)
    if library is None:
        pytest.skip("no library to preload")
    done = run(HELPER, *words(source, point), env={"LD_PRELOAD": library, "LD_DEBUG": "", "PATH": "/bin"})
    assert done.returncode == 0, done.stderr
    live = HelperMount(point)
    assert "LD_PRELOAD" not in environment_of(live.daemon())
    live.unmount()


# --- a descriptor of /dev/fuse --------------------------------------------------------------------


def test_a_descriptor_instead_of_a_folder(source, point, started):
    """Whoever has mounted already hands over the connection: a container's runtime, for instance."""
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=1048576"
    flags = 1 | 2 | 4 | 8  # ro, nosuid, nodev, noexec
    assert libc.mount(b"mine", os.fsencode(point), b"fuse.weightfs", flags, data.encode()) == 0, ctypes.get_errno()
    process = subprocess.Popen([HELPER, "--foreground", *words(source, f"/dev/fd/{device}")], pass_fds=[device],
                               stderr=subprocess.DEVNULL)
    started.append(process)
    os.close(device)
    live = HelperMount(point)
    before = live.read()
    assert live.supervisor() == process.pid
    for pid in (live.daemon(), live.kill_daemon()):
        if is_alive(pid):
            devices = [fd for fd in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/fuse"]
            assert len(devices) == 1, "the connection, and no other way to it"
    assert live.read() == before
    assert run("umount", point).returncode == 0
    assert process.wait(30) == 0
    assert os.listdir(point) == [], "whoever mounted it cares for the folder; there is no marker"


def test_a_descriptor_is_left_mounted(source, point, started):
    """At SIGTERM the mount is for whoever made it to take away; nobody serves it any more."""
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    assert libc.mount(b"mine", os.fsencode(point), b"fuse.weightfs", 15, data.encode()) == 0
    process = subprocess.Popen([HELPER, "--foreground", *words(source, f"/dev/fd/{device}")], pass_fds=[device],
                               stderr=subprocess.DEVNULL)
    started.append(process)
    os.close(device)
    assert HelperMount(point).read()
    process.terminate()
    assert process.wait(30) == 0
    assert is_mounted(point)
    with pytest.raises(OSError, match="not connected"):
        (point / ".weightfs" / "status.json").read_bytes()


@pytest.mark.parametrize("path", ["/dev/fd/199", "/dev/fd/x", "/dev/fd/", "/dev/fd/99999999999", "/dev/fd/1"])
def test_a_descriptor_that_is_none(source, path):
    done = run(HELPER, *words(source, path))
    assert done.returncode == 32, done.stderr
    assert done.stderr.startswith("mount.weightfs: ")


# --- systemd --------------------------------------------------------------------------------------


class Listener:
    """A NOTIFY_SOCKET."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(20)

    def wait_for(self, text) -> float:
        """Seconds until it came."""
        begin = time.monotonic()
        while text not in self.socket.recv(4096).decode().split("\n"):
            pass
        return time.monotonic() - begin


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications(source, point, tmp_path, started, abstract):
    """READY=1 when it serves, WATCHDOG=1 as often as that is wanted, STOPPING=1 at the end."""
    name = f"weightfs-{os.getpid()}" if abstract else str(tmp_path / "notify")
    listener = Listener("\0" + name if abstract else name)
    environment = {"NOTIFY_SOCKET": "@" + name if abstract else name, "WATCHDOG_USEC": "500000"}
    process = subprocess.Popen([HELPER, "--foreground", *words(source, point)], env=environment,
                               stderr=subprocess.DEVNULL)
    started.append(process)
    listener.wait_for("READY=1")
    live = HelperMount(point)
    assert live.read()
    for _ in range(6):
        assert listener.wait_for("WATCHDOG=1") < 0.4
    live.kill_daemon()
    for _ in range(3):
        assert listener.wait_for("WATCHDOG=1") < 0.4
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(environment_of(live.daemon()))
    process.terminate()
    listener.wait_for("STOPPING=1")
    assert process.wait(30) == 0
    live.wait_gone()


def test_no_notification_before_it_serves(source, point, tmp_path, started):
    listener = Listener(str(tmp_path / "notify"))
    listener.socket.settimeout(1)
    process = subprocess.Popen([HELPER, "--foreground", *words(source, point, "verify=nonsense")],
                               env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, stderr=subprocess.DEVNULL)
    started.append(process)
    assert process.wait(30) == 1
    with pytest.raises(TimeoutError):
        listener.wait_for("READY=1")


def test_giving_up_is_told(source, point, tmp_path, started):
    """systemd shows the reason, and the status lets Restart=on-failure do its work."""
    listener = Listener(str(tmp_path / "notify"))
    process = subprocess.Popen([HELPER, "--foreground", *words(source, point, "restarts=1")],
                               env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, stderr=subprocess.PIPE, text=True)
    started.append(process)
    listener.wait_for("READY=1")
    live = HelperMount(point)
    os.kill(live.kill_daemon(), signal.SIGKILL)
    listener.wait_for("STATUS=the daemon was ended by signal 9 (SIGKILL); that is once more than restarts=1/60 "
                      "allows; nothing is served any more")
    assert process.wait(30) == 32
    assert is_mounted(point)


UNIT = HELPER.parent / "weightfs@.service"
OWN_MOUNTS = {"PrivateMounts", "PrivateTmp", "PrivateDevices", "ProtectSystem", "ProtectHome", "ProtectKernelTunables",
              "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectHostname", "ProtectProc",
              "ProcSubset", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths",
              "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths", "RootDirectory", "RootImage", "MountImages",
              "MountFlags", "DynamicUser", "PrivateUsers", "PrivateIPC", "StateDirectory", "User"}


def test_the_unit(tmp_path):
    """systemd understands it, and nothing in it gives the service mounts that others do not see."""
    if not UNIT.exists():
        pytest.skip("the unit was not made in this build folder")
    lines = [line for line in UNIT.read_text().splitlines() if not line.startswith("#")]
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert not names & OWN_MOUNTS
    assert {"Type=notify", "NotifyAccess=main", "KillMode=mixed", "OOMPolicy=continue"} <= set(lines)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    text = UNIT.read_text()
    for line in lines:
        program = line.partition("=")[2].split(" ")[0]
        if line.startswith(("ExecStart=", "ExecReload=")):
            text = text.replace(program, str(HELPER.parent / os.path.basename(program)))
    (tmp_path / "weightfs@test.service").write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / "weightfs@test.service")
    assert (done.returncode, done.stderr) == (0, "")


def stop_post(point) -> int:
    """What systemd runs when the service has ended, as it would."""
    text = UNIT.read_text().replace("\\\n", " ")
    [command] = [line.partition("-/bin/sh -c ")[2] for line in text.splitlines() if line.startswith("ExecStopPost=")]
    script = command.strip("'").replace("$$", "$")
    return run("/bin/sh", "-c", script, env={**os.environ, "MOUNTPOINT": str(point)}).returncode


def test_what_the_unit_cleans_up(source, point, started):
    """A dead weightfs, and nothing else; the marker stays."""
    if not UNIT.exists():
        pytest.skip("the unit was not made in this build folder")
    assert stop_post(point) != 0
    assert run(HELPER, *words(source, point, "restarts=0")).returncode == 0
    live = HelperMount(point)
    stop_post(point)
    assert live.read(), "one that lives is left alone"
    os.kill(live.daemon(), signal.SIGKILL)
    wait_until(lambda: not processes_of(point))
    assert run("mount", "-t", "tmpfs", "none", point).returncode == 0
    stop_post(point)
    assert os.path.ismount(point), "what somebody else has mounted is too"
    assert run("umount", point).returncode == 0
    assert stop_post(point) == 0
    assert not is_mounted(point) and os.listdir(point) == [MARKER]


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(source, point, started, number):
    process = subprocess.Popen([HELPER, "--foreground", *words(source, point)], stderr=subprocess.DEVNULL)
    started.append(process)
    wait_until(lambda: is_mounted(point))
    live = HelperMount(point)
    assert live.read()
    process.send_signal(number)
    assert process.wait(30) == 0
    live.wait_gone()


def test_umount_ends_a_helper_in_the_foreground(source, point, started):
    process = subprocess.Popen([HELPER, "--foreground", *words(source, point)], stderr=subprocess.DEVNULL)
    started.append(process)
    wait_until(lambda: is_mounted(point))
    assert run("umount", point).returncode == 0
    assert process.wait(30) == 0


def test_a_caller_that_gives_up(source, point):
    """Ended before it is mounted: nothing stays behind."""
    held = os.open(point, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)  # as another helper would, for which this one waits
    process = subprocess.Popen([HELPER, *words(source, point)], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(processes_of(point)) == 2)
    process.kill()
    process.wait()
    os.close(held)
    wait_until(lambda: not processes_of(point))
    assert not is_mounted(point)
    assert os.listdir(point) == []
