# SPDX-License-Identifier: Apache-2.0
"""The commands: what they print, the keys of their JSON, their exit statuses."""

import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import BINARY, assert_same_tree, json_of, run_weightfs, succeed
from reference import weight_v
from runs import make_bucket, make_run

COMMANDS = ["mount", "umount", "status", "log", "show", "verify", "export", "diff"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    text = succeed(command, "-h")
    assert f"weightfs {command} " in text and "xample" in text


def test_wrong_usage_is_status_2():
    for arguments in (["nonsense"], ["mount"], ["log", "--no-such-option", "x"],
                      ["mount", "--memory", "lots", "a", "b"], ["mount", "--verify=perhaps", "a", "b"]):
        done = run_weightfs(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr and not done.stdout


def test_log_has_the_documented_keys(tmp_path):
    run, base, _ = make_run(tmp_path, 4, full_at=(3,))
    listed = json_of("log", "--base", base, run)
    keys = {"name", "kind", "format", "state", "error", "parent", "delta_bytes", "changed_elements"}
    assert all(keys <= set(entry) for entry in listed)
    assert [entry["name"] for entry in listed] == ["base"] + [f"weight_v{number:06d}" for number in range(1, 5)]
    assert [entry["kind"] for entry in listed] == ["base", "delta", "delta", "full", "delta"]
    assert {entry["state"] for entry in listed} == {"admitted"}
    assert listed[2]["parent"] == "weight_v000001" and listed[4]["parent"] == "weight_v000003"
    assert listed[1]["parent"] == "base" and listed[3]["parent"] is None
    size = sum(path.stat().st_size for path in (run / "weight_v000002").iterdir())
    assert 0 < listed[2]["delta_bytes"] <= size
    text = succeed("log", "--base", base, run)
    assert all(entry["name"] in text for entry in listed)


def test_log_counts_changed_elements_of_trl(tmp_path):
    bucket, base, states = make_bucket(tmp_path, 3)
    listed = json_of("log", "--base", base, bucket)
    expected = sum(int((states[1][name].bits() != states[2][name].bits()).sum()) for name in states[1])
    assert listed[3]["changed_elements"] == expected
    assert [entry["kind"] for entry in listed] == ["base", "full", "delta", "delta"]


def test_log_and_show_of_a_mount_agree_with_those_of_the_source(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 3)
    mounted = mount(run, base=base)
    assert json_of("log", mounted.path) == json_of("log", "--base", base, run)
    version = "weight_v000002"
    assert json_of("show", mounted.path, version) == json_of("show", "--base", base, run, version)


def test_show_lists_tensors(tmp_path):
    run, base, states = make_run(tmp_path, 2)
    shown = json_of("show", "--base", base, run, "weight_v000001")
    assert shown["name"] == "weight_v000001"
    tensors = {tensor["name"]: tensor for tensor in shown["tensors"]}
    assert set(tensors) == set(states[0])
    entry = tensors["a.weight"]
    assert entry["dtype"] == "BF16" and entry["shape"] == [600, 512] and entry["changed"] is True
    assert entry["shard"].startswith("model-0000") and entry["bytes"] == 600 * 512 * 2
    for name in states[0]:
        assert name in succeed("show", "--base", base, run, "weight_v000001")
    assert "xxh3-128" in succeed("show", "--base", base, run, "weight_v000001")


def test_show_says_that_trl_has_no_digests(tmp_path):
    bucket, base, _ = make_bucket(tmp_path, 2)
    assert "not verifiable" in succeed("show", "--base", base, bucket, "step_000002")


def test_unknown_version(tmp_path):
    run, base, _ = make_run(tmp_path, 1)
    for arguments in (["show", "--base", base, run, "weight_v000009"], ["verify", "--base", base, run, "nope"],
                      ["export", "--base", base, run, "nope", tmp_path / "out"]):
        done = run_weightfs(*arguments)
        assert done.returncode in (1, 3) and "version.not_found" in done.stderr
    assert not (tmp_path / "out").exists()


def test_status_has_the_documented_keys(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 2)
    mounted = mount(run, "--memory", "128M", base=base)
    status = mounted.status()
    assert {"pid", "source", "base", "mount_point", "versions", "latest", "counters", "memory", "kernel"} <= set(status)
    assert os.path.realpath(f"/proc/{status['pid']}/exe") == os.path.realpath(BINARY)
    assert status["source"] == str(run) and status["base"] == str(base) and status["mount_point"] == str(mounted.path)
    assert status["latest"] == "weight_v000002"
    assert status["memory"]["budget"] == 128 << 20
    assert {"used", "blocks", "patches"} <= set(status["memory"])
    for version in status["versions"]:
        assert {"name", "kind", "format", "state", "error", "served_by"} <= set(version)
    assert "weight_v000002" in succeed("status", mounted.path)


def test_the_control_folder_is_hidden_but_there(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 2)
    mounted = mount(run, base=base)
    assert ".weightfs" not in os.listdir(mounted.path)
    assert sorted(os.listdir(mounted.path)) == ["base", "latest", "weight_v000001", "weight_v000002"]
    status = json.loads((mounted / ".weightfs" / "status.json").read_text())
    assert status["latest"] == "weight_v000002"
    info = json.loads((mounted / ".weightfs" / "versions" / "weight_v000001" / "info.json").read_text())
    assert info["name"] == "weight_v000001" and info["parent"] == "base"


def test_the_mount_is_read_only_and_its_times_stand_still(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 1)
    mounted = mount(run, base=base)
    file = mounted / "weight_v000001" / "config.json"
    for attempt in (lambda: open(file, "w"), lambda: os.remove(file), lambda: os.mkdir(mounted / "x"),
                    lambda: os.rename(file, mounted / "y"), lambda: os.chmod(file, 0o777)):
        with pytest.raises(OSError):
            attempt()
    before = os.stat(file)
    time.sleep(0.05)
    after = os.stat(file)
    assert (before.st_ino, before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (
        after.st_ino, after.st_mtime_ns, after.st_ctime_ns, after.st_size)
    line = next(line for line in open("/proc/self/mounts") if f" {mounted.path} " in line)
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[3].split(","))
    assert line.split()[2] == "fuse.weightfs" and line.split()[0] != "hf-mount"


def test_latest_is_a_relative_link_to_the_newest_version(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 3)
    mounted = mount(run, base=base)
    assert os.readlink(mounted / "latest") == "weight_v000003"
    assert_same_tree(mounted / "latest", mounted / "weight_v000003")


def test_stitch_pointer_decides_what_is_latest(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 4, layout="stitch", run_id="run-9")
    (run / "latest").write_text("run-9/weight_v000002\n")
    mounted = mount(run, base=base)
    assert os.readlink(mounted / "latest") == "weight_v000002"
    for entry in json_of("log", "--base", base, run)[3:]:
        assert entry["state"] == "admitted" or entry["error"]["code"] == "chain.unpublished"


def test_without_deltas_the_base_is_shown(tmp_path, mount):
    _, base, _ = make_run(tmp_path, 1)
    (tmp_path / "nothing").mkdir()
    mounted = mount(tmp_path / "nothing", base=base)
    assert mounted.versions() == ["base"] and os.readlink(mounted / "latest") == "base"


def test_verify_counts_and_reports(tmp_path):
    run, base, _ = make_run(tmp_path, 4)
    succeed("verify", "--base", base, run)
    succeed("verify", "--base", base, run, "weight_v000002", "latest")
    report = json.loads(succeed("verify", "--base", base, run, "--json"))
    assert report


def test_export_never_overwrites(tmp_path):
    run, base, _ = make_run(tmp_path, 2)
    folders = weight_v.decode(run, base, tmp_path / "decoded")
    succeed("export", "--base", base, run, "latest", tmp_path / "out")
    assert_same_tree(tmp_path / "out", folders["weight_v000002"])
    before = (tmp_path / "out").stat().st_mtime_ns
    done = run_weightfs("export", "--base", base, run, "weight_v000001", tmp_path / "out")
    assert done.returncode == 3 and "export.exists" in done.stderr
    assert (tmp_path / "out").stat().st_mtime_ns == before
    assert_same_tree(tmp_path / "out", folders["weight_v000002"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "decoded", "out", "run"], "no temporary left"


def mount_fails(*arguments) -> str:
    done = run_weightfs("mount", *arguments)
    assert done.returncode == 3, (done.returncode, done.stderr)
    return done.stderr


def test_mount_says_why_it_cannot(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 1)
    point = tmp_path / "point"
    point.mkdir()
    assert "source.not_found" in mount_fails("--base", base, tmp_path / "none", point)
    message = mount_fails(run, point)
    assert "base.not_found" in message and str(run) in message
    assert "base.not_found" in mount_fails("--base", tmp_path / "none", run, point)
    assert "base.no_weights" in mount_fails("--base", point, run, point)
    assert "mount.bad_mount_point" in mount_fails("--base", base, run, tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "mount.bad_mount_point" in mount_fails("--base", base, run, tmp_path / "file")
    (run / "inside").mkdir()
    assert "mount.bad_mount_point" in mount_fails("--base", base, run, run / "inside")
    assert "mount.bad_mount_point" in mount_fails("--base", base, run, tmp_path)
    shutil.rmtree(run / "inside")
    mounted = mount(run, base=base)
    assert "mount.busy" in mount_fails("--base", base, run, mounted.path)
    assert mounted.versions() == ["base", "weight_v000001"]


def test_umount_of_what_is_not_mounted(tmp_path):
    done = run_weightfs("umount", tmp_path)
    assert done.returncode == 3 and "mount.not_weightfs" in done.stderr
    done = run_weightfs("status", tmp_path)
    assert done.returncode == 3 and "mount.not_weightfs" in done.stderr


def has_ended(pid: int) -> bool:
    """Gone, or a zombie: when init collects it is not the daemon's business."""
    try:
        stat = open(f"/proc/{pid}/stat").read()
    except FileNotFoundError:
        return True
    return stat.rsplit(")", 1)[1].split()[0] in "ZX"


def test_umount_waits_for_the_daemon_and_mounting_again_works(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 1)
    mounted = mount(run, base=base)
    pid = mounted.status()["pid"]
    mounted.unmount()
    assert has_ended(pid), "umount returns when the daemon has ended"
    again = mount(run, base=base)
    assert again.versions() == ["base", "weight_v000001"]


def test_foreground_serves_until_it_is_unmounted(tmp_path, mount):
    run, base, _ = make_run(tmp_path, 1)
    mount(run, base=base).unmount()  # skips where FUSE is missing
    point = tmp_path / "front"
    point.mkdir()
    daemon = subprocess.Popen([BINARY, "mount", "--foreground", "--base", base, run, point], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(point) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sorted(os.listdir(point)) == ["base", "latest", "weight_v000001"]
        succeed("umount", point)
        assert daemon.wait(20) == 0
    finally:
        if os.path.ismount(point):
            subprocess.run(["fusermount3", "-u", "-z", point], check=False)
        daemon.kill()
        daemon.wait()
        daemon.stderr.close()
