# SPDX-License-Identifier: Apache-2.0
"""`weightfs mount --metrics`: what Prometheus' own parser finds, at a port and in a file, and that it is true."""

import json
import os
import re
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from conftest import BINARY, ROOT, run_weightfs
from following import RUNS, follow, make_run, run, wait_latest, wait_state, wait_until
from prometheus_client.parser import text_string_to_metric_families
from reference.safetensors_io import read_file, write_file
from supervised import supervise
from test_follow import changed_shard
from warming import drop_page_cache

NO_PASSTHROUGH = {"passthrough": "off"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Metrics:
    """One exposition: family name -> family, and samples by name and labels but `mount`."""

    def __init__(self, text: str):
        assert text.endswith("\n")
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {}
        for family in self.families.values():
            assert family.documentation and family.type in ("counter", "gauge", "histogram")
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name != "mount"}
                key = (sample.name, tuple(sorted(labels.items())))
                assert key not in self.samples, f"{key} stands twice"
                assert "mount" in sample.labels
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels) -> float:
        return self.samples["weightfs_" + name, tuple(sorted(labels.items()))]

    def get(self, name: str, default=0.0, **labels) -> float:
        return self.samples.get(("weightfs_" + name, tuple(sorted(labels.items()))), default)

    def label(self, name: str, label: str) -> list[str]:
        return [dict(labels)[label] for sample, labels in self.samples
                if sample == "weightfs_" + name and label in dict(labels)]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def sum_of(self, name: str) -> float:
        return sum(value for (sample, _), value in self.samples.items() if sample == "weightfs_" + name)


def scrape(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return answer.read().decode()


@pytest.fixture(params=["port", "file"])
def way(request, tmp_path):
    """(value of --metrics, how to get the Metrics now).  A file is as fresh as its last writing."""
    if request.param == "port":
        port = free_port()
        return f"127.0.0.1:{port}", lambda: Metrics(scrape(port))
    file = tmp_path / "textfile" / "weightfs.prom"
    file.parent.mkdir()
    return str(file), lambda: Metrics(file.read_text())


def at_port(mount, source, *options, base=None):
    port = free_port()
    return mount(source, "--metrics", f":{port}", *options, base=base), lambda: Metrics(scrape(port))


def published(tmp_path, kind="xor", count=2):
    trainer = make_run(kind, tmp_path)
    for _ in range(count):
        trainer.publish()
    return trainer


def read_whole(path) -> int:
    drop_page_cache(path.parent)
    return len(path.read_bytes())


# --- both ways ------------------------------------------------------------------------------------


def test_the_official_parser_reads_it(tmp_path, mount, way):
    trainer = published(tmp_path)
    target, metrics = way
    mounted = mount(trainer.source, "--metrics", target, base=trainer.mount_base())
    found = metrics()
    samples = [sample for family in found.families.values() for sample in family.samples]
    assert {sample.labels["mount"] for sample in samples} == {str(mounted.path)}
    assert found.label("build_info", "isa") == [mounted.status()["isa"]]
    assert found.label("build_info", "version") == [mounted.status()["version"]]
    assert 0 <= time.time() - found("start_time_seconds") < 300
    assert found("versions", state="shown") == 3
    assert found("latest_number") == 2
    assert found.label("latest_info", "version") == [trainer.names[-1]]
    assert "weightfs_latest_moved_timestamp_seconds" not in found.names(), "it does not follow"
    mounted.unmount()


def test_following_is_told_when_latest_moves(run, mount, way):
    target, metrics = way
    mounted = follow(mount, run, metrics=target, **NO_PASSTHROUGH)
    before = metrics()
    assert before("latest_number") == 0 and before("versions_admitted_total") == 0
    for number in (1, 2):
        name = run.publish()
        wait_latest(mounted, name)
        # A file is written every 15 s, but at a move at once.
        found = wait_until(lambda: (m := metrics()).label("latest_info", "version") == [name] and m, 10, "it is told")
        assert found("latest_number") == number
        assert found("versions_admitted_total") == number and found("versions", state="shown") == 1 + number
        assert found("check_seconds_count") == number and found("check_seconds_sum") > 0
        assert 0 <= time.time() - found("latest_moved_timestamp_seconds") < 60
        assert found("latest_moved_timestamp_seconds") > before("latest_moved_timestamp_seconds")
        assert found("follow_problem", code="") == 0 and found("pins") == 0
        before = found


def test_it_ends_with_the_mount(tmp_path, mount, way):
    trainer = published(tmp_path)
    target, metrics = way
    mounted = mount(trainer.source, "--metrics", target, base=trainer.mount_base())
    metrics()
    start = time.monotonic()
    mounted.unmount()
    assert time.monotonic() - start < 10
    with pytest.raises((urllib.error.URLError, FileNotFoundError)):
        metrics()
    assert not (tmp_path / "textfile").exists() or not list((tmp_path / "textfile").iterdir())


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RUNS)[:4])
def test_reads_count_by_way(tmp_path, mount, kind):
    trainer = published(tmp_path, kind)
    mounted, metrics = at_port(mount, trainer.source, "--passthrough=off", "--warm-on-open=off", "--read-ahead=0",
                               base=trainer.mount_base())
    name = trainer.names[-1]
    shard = changed_shard(trainer, name)
    before = metrics()
    assert before.sum_of("read_bytes_total") == before.sum_of("reads_total") == 0
    size = read_whole(mounted / "base" / shard)
    plain = metrics()
    assert plain("read_bytes_total", way="base") == size and plain("read_bytes_total", way="decode") == 0
    size += read_whole(mounted / name / shard)
    decoded = metrics()
    assert decoded("read_bytes_total", way="decode") > 0 and decoded("reads_total", way="decode") > 0
    assert decoded.sum_of("read_bytes_total") == size
    assert run_weightfs("warm", mounted.path, name).returncode == 0
    again = metrics()
    small = sum(path.stat().st_size for path in (mounted / name).rglob("*")
                if path.is_file() and path.suffix != ".safetensors")
    assert again("read_bytes_total", way="decode") == decoded("read_bytes_total", way="decode"), "warming is no reading"
    assert again.sum_of("read_bytes_total") <= size + small, "but what it puts into the page cache is"
    more = read_whole(mounted / name / shard)
    warm = metrics()
    assert warm("read_bytes_total", way="memory") == more and warm("reads_total", way="memory") > 0
    assert warm("memory_bytes", part="warm") > 0
    status = mounted.status()
    assert warm.sum_of("read_bytes_total") == status["counters"]["bytes_served"]
    assert warm.sum_of("reads_total") == status["counters"]["reads"]
    assert warm("memory_budget_bytes") == status["memory"]["budget"]
    assert warm("resident_memory_bytes") > 1 << 20


def test_requests_and_latencies_count(tmp_path, mount):
    trainer = published(tmp_path)
    mounted, metrics = at_port(mount, trainer.source, "--passthrough=off", base=trainer.mount_base())
    before = metrics()
    name = trainer.names[0]
    os.listdir(mounted.path)
    os.readlink(mounted / "latest")
    read_whole(mounted / name / changed_shard(trainer, name))
    with pytest.raises(FileNotFoundError):
        os.stat(mounted / "nothing")
    os.getxattr(mounted / name, "user.weightfs.version")
    os.statvfs(mounted.path)
    after = metrics()
    for operation in ("lookup", "open", "read", "readlink", "getxattr", "statfs"):
        assert after("requests_total", operation=operation) > before("requests_total", operation=operation), operation
    assert after("read_seconds_count") > before("read_seconds_count")
    assert after("read_seconds_count") == after("requests_total", operation="read")
    assert after("opens_total", way="requests") > before("opens_total", way="requests")
    bounds = [float(bound) for bound in after.label("read_seconds_bucket", "le")]
    assert bounds == sorted(bounds) and bounds[0] == 5e-05 and bounds[-2] == 10
    values = [value for (sample, _), value in after.samples.items() if sample == "weightfs_read_seconds_bucket"]
    assert values == sorted(values) and values[-1] == after("read_seconds_count")
    assert after("read_errors_total") == after("internal_errors_total") == 0


def test_refusals_count_by_reason(tmp_path, mount):
    trainer = make_run("xor", tmp_path)
    port = free_port()
    host = "[::1]" if has_ipv6() else "127.0.0.1"
    mounted = follow(mount, trainer, metrics=f"{host}:{port}")
    wait_latest(mounted, trainer.publish())

    def wrong_digest(folder):
        shard = sorted(folder.glob("*.safetensors"))[0]
        header, tensors = read_file(shard)
        write_file(shard, tensors, dict.fromkeys(header.metadata, "0123456789abcdef" * 2))

    name = trainer.put(trainer.make(), wrong_digest)
    wait_state(mounted, name, "refused", "digest.mismatch")
    found = Metrics(scrape(port, host=host))
    assert found("versions_refused_total", code="digest.mismatch") == 1
    assert found("versions", state="refused") == 1 and found("versions", state="waiting") == 0
    assert found("check_seconds_count") == 2
    later = trainer.put(trainer.make())
    wait_state(mounted, later, "waiting")
    found = Metrics(scrape(port, host=host))
    assert found("versions", state="waiting") == 1
    assert found.sum_of("versions_refused_total") == 1, "waiting is not being refused"
    trainer.put(name)
    wait_latest(mounted, later)
    found = Metrics(scrape(port, host=host))
    assert found("versions", state="refused") == found("versions", state="waiting") == 0
    assert found("versions_refused_total", code="digest.mismatch") == 1 and found("versions_admitted_total") == 3


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_the_hook_counts(tmp_path, mount):
    trainer = make_run("xor", tmp_path)
    port = free_port()
    mounted = follow(mount, trainer, metrics=f":{port}", on_advance="exit 3")
    assert Metrics(scrape(port))("hook_runs_total") == 0
    wait_latest(mounted, trainer.publish())
    found = wait_until(lambda: (m := Metrics(scrape(port)))("hook_runs_total") == 1 and m, what="the hook has run")
    assert found("hook_failures_total") == 1 and found("hook_timeouts_total") == 0


def test_scraped_while_eight_threads_read(tmp_path, mount):
    trainer = published(tmp_path, count=3)
    port = free_port()
    mounted = follow(mount, trainer, metrics=f":{port}", **NO_PASSTHROUGH)
    wait_latest(mounted, trainer.names[-1])
    wanted = {name: {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
              for name, folder in trainer.folders.items()}
    ended, problems = threading.Event(), []

    def reads(number):
        names = list(wanted)
        while not ended.is_set():
            name = names[number % len(names)]
            number += 1
            drop_page_cache(mounted / name)
            for file, content in wanted[name].items():
                if (mounted / name / file).read_bytes() != content:
                    problems.append(f"{name}/{file}")

    threads = [threading.Thread(target=reads, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    try:
        before = Metrics(scrape(port))
        for round in range(60):
            if round % 20 == 10:
                trainer.publish()
            found = Metrics(scrape(port))
            for (name, labels), value in before.samples.items():
                if name.endswith(("_total", "_bucket", "_count", "_sum")):
                    assert found.samples[name, labels] >= value, f"{name} {labels} ran backwards"
            before = found
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert before.sum_of("read_bytes_total") > 0


# --- what goes wrong ------------------------------------------------------------------------------


def refused_mount(tmp_path, source, *options):
    point = tmp_path / "refused"
    point.mkdir(exist_ok=True)
    done = run_weightfs("mount", *options, source, point)
    assert not os.path.ismount(point)
    return done


def test_a_port_in_use_is_an_error_and_nothing_is_mounted(tmp_path, mount):
    trainer = published(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = refused_mount(tmp_path, trainer.source, "--base", trainer.base, "--metrics", f":{port}")
    assert done.returncode == 3
    assert f"127.0.0.1:{port}" in done.stderr and "[mount.failed]" in done.stderr and "in use" in done.stderr
    mounted = mount(trainer.source, "--metrics", f":{port}", base=trainer.mount_base())
    Metrics(scrape(port))
    assert refused_mount(tmp_path, trainer.source, "--base", trainer.base, "--metrics", f":{port}").returncode == 3
    mounted.unmount()
    again = mount(trainer.source, "--metrics", f":{port}", base=trainer.mount_base())
    Metrics(scrape(port))
    assert again.is_mounted()


def test_a_file_that_cannot_be_is_an_error(tmp_path):
    trainer = published(tmp_path)
    (tmp_path / "folder.prom").mkdir()
    for target, status in [(tmp_path / "none" / "a.prom", 3), (tmp_path / "folder.prom", 3),
                           (tmp_path / "refused" / "a.prom", 3), ("9567", 2), ("host:1", 2), ("", 2)]:
        done = refused_mount(tmp_path, trainer.source, "--base", trainer.base, f"--metrics={target}")
        assert done.returncode == status, (target, done.stderr)
    assert not list((tmp_path / "refused").iterdir())


def test_only_get_metrics_is_answered(tmp_path, mount):
    trainer = published(tmp_path)
    port = free_port()
    mount(trainer.source, "--metrics", f":{port}", base=trainer.mount_base())
    for path in ("/", "/metrics/x", "/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            scrape(port, path)
        assert caught.value.code == 404
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", data=b"x" * 1000, timeout=30)
    assert caught.value.code == 404
    head = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method="HEAD")
    with urllib.request.urlopen(head, timeout=30) as answer:
        assert answer.status == 200 and answer.read() == b"" and int(answer.headers["Content-Length"]) > 1000


def test_silent_connections_delay_no_unmount(tmp_path, mount):
    trainer = published(tmp_path)
    port = free_port()
    mounted = mount(trainer.source, "--metrics", f":{port}", base=trainer.mount_base())
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    silent[0].sendall(b"GET /metrics HT")
    Metrics(scrape(port))
    start = time.monotonic()
    mounted.unmount()
    assert time.monotonic() - start < 4
    for connection in silent:
        connection.close()


def test_the_file_is_whole_readable_and_relative_to_where_the_command_ran(tmp_path):
    trainer = published(tmp_path)
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/fuse here")
    point, folder = tmp_path / "point", tmp_path / "here"
    point.mkdir()
    folder.mkdir()
    subprocess.run([BINARY, "mount", "--base", trainer.base, "--metrics", "w.prom", "--log-file", tmp_path / "log",
                    trainer.source, point], cwd=folder, umask=0o077, check=True, capture_output=True, timeout=60)
    try:
        file = folder / "w.prom"
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert [path.name for path in folder.iterdir()] == ["w.prom"]
        first = Metrics(file.read_text())
        read_whole(point / "base" / changed_shard(trainer, trainer.names[0]))
        wait_until(lambda: Metrics(file.read_text()).sum_of("requests_total") > first.sum_of("requests_total"), 40,
                   "written by the clock", pause=0.2)
    finally:
        assert run_weightfs("umount", point).returncode == 0
    assert not list(folder.iterdir())


# --- the documents --------------------------------------------------------------------------------


@pytest.fixture
def everything(tmp_path, supervise):
    """Metrics of a mount that has all of them."""
    trainer = make_run("xor", tmp_path)
    port = free_port()
    mounted = supervise(trainer, metrics=f":{port}", on_advance="true", cache=tmp_path / "cache")
    wait_latest(mounted, trainer.publish())
    name = trainer.put(trainer.make(), lambda folder: sorted(folder.glob("*.safetensors"))[0].write_bytes(b"x" * 100))
    wait_until(lambda: Metrics(scrape(port)).sum_of("versions_refused_total") > 0, what=f"{name} is refused")
    return Metrics(scrape(port))


def queries(node):
    """Every expression and variable of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            else:
                yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


def test_the_dashboard_asks_for_what_there_is(everything):
    dashboard = json.loads((ROOT / "docs" / "grafana-weightfs.json").read_text())
    assert dashboard["schemaVersion"] >= 36 and dashboard["title"] == "weightfs"
    assert any(variable["type"] == "datasource" for variable in dashboard["templating"]["list"])
    asked = list(queries(dashboard))
    assert len(asked) > 20
    for query in asked:
        names = re.findall(r"weightfs_\w+", query)
        assert names and query.count("(") == query.count(")"), query
        for name in names:
            assert name in everything.names(), f"{name} in {query}"
        for by in re.findall(r"by \((\w+)\)", query):
            assert any(by in dict(labels) for name, labels in everything.samples if name in names), f"{by} in {query}"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"


def test_manual_and_guide_name_the_metrics(everything):
    manual = (ROOT / "docs" / "weightfs.1").read_text()
    listed = set(re.findall(r"weightfs_\w+", manual))
    families = {family.name + ("_total" if family.type == "counter" else "") for family in everything.families.values()}
    assert listed == families
    guide = (ROOT / "docs" / "MONITORING.md").read_text()
    for name in re.findall(r"weightfs_\w+", guide):
        assert name in everything.names(), name
