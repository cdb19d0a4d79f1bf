# SPDX-License-Identifier: Apache-2.0
"""The read-path benchmark measures what it says: a smoke run on a tiny model.  Nothing here looks at a time."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import BINARY, ROOT, assert_same_tree, succeed
from reference.safetensors_io import ModelFolder

FOLDER = ROOT / "tests" / "bench" / "read_path"
READER = Path(os.environ.get("WEIGHTFS_READER") or
              ROOT / "build" / "release" / "tests" / "bench" / "read_path" / "weightfs_reader")
METHODS = ("pread", "direct", "mmap-touch", "mmap-copy")
sys.path.insert(0, str(FOLDER))
from samples import STATES, WITHOUT_DEPTH  # noqa: E402

sys.path.remove(str(FOLDER))  # another benchmark's modules have the same names
pytestmark = [pytest.mark.skipif(not READER.exists(), reason="no weightfs_reader (cmake -DWEIGHTFS_BENCH=ON)"),
              pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="no usable /dev/fuse here")]


def read(method: str, readers: int, *files, options=()) -> dict:
    done = subprocess.run([READER, "--method", method, "--readers", str(readers), "--sum", *options, *files], text=True,
                          capture_output=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[Path, dict]:
    """(the model's folder, read_path.json) of a run on 6 MB that is kept."""
    place = tmp_path_factory.mktemp("read-path-bench")
    command = [sys.executable, FOLDER / "run.py", "--layers", "3", "--hidden", "256", "--gigabytes", "0.01",
               "--depths", "1,3", "--readers", "1,3", "--runs", "1", "--keep", place / "data", "--out", place / "out"]
    done = subprocess.run(command, text=True, capture_output=True, timeout=280,
                          env=os.environ | {"WEIGHTFS_BIN": str(BINARY), "WEIGHTFS_READER": str(READER)})
    assert done.returncode == 0, done.stderr
    assert "| read by | readers | plain, cached |" in (place / "out" / "read_path.md").read_text()
    return place / "data" / "main", json.loads((place / "out" / "read_path.json").read_text())


@pytest.fixture(scope="module")
def can_warm() -> bool:
    return subprocess.run([BINARY, "warm", "-h"], capture_output=True).returncode == 0


def rows(report: dict, series: str) -> list[dict]:
    return [row for row in report["rows"] if row["series"] == series]


def refused(report: dict, series: str) -> set[tuple[str, int]]:
    """(method, readers) that a note leaves out: a tmpfs takes root, and O_DIRECT in it a newer Linux."""
    if series != "tmpfs":
        return set()
    return {(method, readers) for method in METHODS for readers in (1, 3) for note in report["notes"]
            if note.startswith("left out: tmpfs") or note.startswith("tmpfs") and f"by {method}:" in note}


def test_every_row_is_there(smoke, can_warm):
    report = smoke[1]
    places = {(method, readers) for method in METHODS for readers in (1, 3)}
    versions = {(source, depth) for source in ("native", "weight_v") for depth in (1, 3)}
    for series in {"plain"} | WITHOUT_DEPTH:
        assert {(row["method"], row["readers"]) for row in rows(report, series)} == places - refused(report, series)
    for series in STATES.keys() - WITHOUT_DEPTH - (set() if can_warm else {"waited", "page-cache", "memory"}):
        found = rows(report, series)
        assert {(row["source"], row["depth"]) for row in found} == versions
        assert {(row["method"], row["readers"]) for row in found} == places
        assert len(found) == len(places) * len(versions)
    for row in report["rows"]:
        assert row["samples"] >= 1 and row["seconds"] > 0
        if row["series"] in STATES:
            assert row["ratio"] > 0 and row["gb_per_s"] > 0


def test_other_series_are_there(smoke, can_warm):
    report = smoke[1]
    for series in ("fill", "recycle"):
        assert {row["what"] for row in rows(report, series)} == ({"memcpy", "warm"} if can_warm else set())
    assert {row["what"] for row in rows(report, "latency")} == {"4 KiB", "header"}
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in rows(report, "latency"))
    loaders = {"load_file", "safe_open_clone", "transformers"}
    assert loaders <= {row["method"] for row in rows(report, "loaders")}
    ways = {"plain", "cold", "warm-on-open=memory", "warm-on-open=wait"} | ({"memory"} if can_warm else set())
    assert {row["what"] for row in rows(report, "loaders")} == ways
    steps = {"apply", "apply + load", "mount + load"} | ({"mount + warm", "mount + warm + load"} if can_warm else set())
    assert {row["what"] for row in rows(report, "apply")} == steps


def test_all_methods_see_the_bytes_of_the_plain_files(smoke):
    folder, report = smoke
    shards = sorted((folder / "plain").glob("*.safetensors"))
    sums = {method: f"{read(method, 2, *shards)['sum']:016x}" for method in METHODS}
    assert sums["pread"] == sums["direct"] == sums["mmap-copy"] != sums["mmap-touch"]
    through_mount = [row for row in report["rows"] if row["series"] in STATES.keys() - WITHOUT_DEPTH]
    for row in through_mount + rows(report, "plain") + rows(report, "disk") + rows(report, "tmpfs"):
        if row["depth"] in {0, 3}:
            assert row["sum"] == sums[row["method"]], row
    assert {row["sum"] for row in through_mount if row["depth"] == 1}.isdisjoint(sums.values())
    for method in METHODS:
        of_base = {row["sum"] for series in ("untouched", "relayed") for row in rows(report, series)
                   if row["method"] == method}
        assert len(of_base) == 1 and of_base.isdisjoint(sums.values())


def test_a_run_leaves_no_tmpfs(smoke):
    assert not (smoke[0] / "tmpfs").exists()


def test_the_report_says_how_files_were_opened(smoke, tmp_path):
    folder, report = smoke
    assert report["reading"] == {"files": "all", "by_file": False, "open_late": False}
    command = [sys.executable, FOLDER / "run.py", "--layers", "3", "--hidden", "256", "--gigabytes", "0.01", "--depths",
               "1,3", "--readers", "3", "--runs", "1", "--series", "plain,cold,relayed", "--open-late", "--by-file",
               "--keep", folder.parent, "--out", tmp_path]
    done = subprocess.run(command, text=True, capture_output=True, timeout=120,
                          env=os.environ | {"WEIGHTFS_BIN": str(BINARY), "WEIGHTFS_READER": str(READER)})
    assert done.returncode == 0, done.stderr
    late = json.loads((tmp_path / "read_path.json").read_text())
    assert late["reading"] == {"files": "all", "by_file": True, "open_late": True}
    assert "shards are opened when a reader comes to them" in (tmp_path / "read_path.md").read_text()
    early = {(row["series"], row.get("source"), row["depth"], row["method"]): row["sum"]
             for row in report["rows"] if "sum" in row}
    assert all(row["sum"] == early[row["series"], row.get("source"), row["depth"], row["method"]]
               for row in late["rows"] if "sum" in row)
    assert {row["series"] for row in late["rows"] if "sum" in row} == {"plain", "cold", "relayed"}


def test_the_chains_end_in_the_plain_files(smoke, tmp_path):
    folder, report = smoke
    succeed("export", folder / "native", "latest", tmp_path / "native")
    succeed("export", folder / "weight_v", "latest", tmp_path / "weight_v", "--base", folder / "base")
    for exported in ("native", "weight_v"):
        assert_same_tree(tmp_path / exported, folder / "plain")
    assert_same_tree(folder / "local", folder / "plain")  # the apply series ends where it began
    base, new = (ModelFolder.open(folder / name).state() for name in ("base", "plain"))
    changed = sum(int(np.count_nonzero(base[name].bits() != new[name].bits())) for name in base)
    share = changed / sum(tensor.elements for tensor in base.values())
    assert 0.025 < share < 0.031 and 0.009 < report["models"]["main"]["changed_share"] < 0.0101


@pytest.mark.parametrize("options", [(), ("--by-file",), ("--open-late",), ("--by-file", "--open-late")],
                         ids=["extents", "by-file", "late", "by-file-late"])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_the_reader_reads_every_byte_once(tmp_path, readers, options):
    rng = np.random.default_rng(1)
    files, words, touched = [], 0, 0
    for number, size in enumerate((0, 1, 4095, 4096, 5 << 20, (17 << 20) + 13)):
        data = rng.integers(0, 256, size, np.uint8)
        files.append(tmp_path / str(number))
        data.tofile(files[-1])
        words += int(np.frombuffer(data.tobytes() + bytes(-size % 8), "<u8").sum(dtype=np.uint64))
        touched += int(data[::4096].sum(dtype=np.uint64))
    for method in METHODS if "--open-late" in options else (*METHODS, "fill-memcpy"):
        expected = touched if method == "mmap-touch" else words % 2**64
        done = read(method, readers, *files, options=options)
        assert (done["method"], done["readers"], done["sum"]) == (method, readers, expected)
        assert done["bytes"] == sum(path.stat().st_size for path in files)
        assert done["gb_per_s"] == pytest.approx(done["bytes"] / done["seconds"] / 1e9, rel=0.01)
        alone = read(method, readers, files[-1], *files, options=["--files", "one", *options])
        assert alone["sum"] == read(method, 1, files[-1])["sum"]
    assert read("fill-memcpy", readers, *files, options=["--refill"])["sum"] == words % 2**64


def test_late_a_file_is_opened_for_an_extent_of_it_only(tmp_path):
    """A socket has a size, of no bytes, but cannot be opened."""
    (tmp_path / "file").write_bytes(bytes(5000))
    with socket.socket(socket.AF_UNIX) as unopenable:
        unopenable.bind(str(tmp_path / "socket"))
        command = [READER, "--method", "pread", "--readers", "2", tmp_path / "file", tmp_path / "socket"]
        assert subprocess.run(command, capture_output=True).returncode == 1
        done = subprocess.run([*command, "--open-late"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["bytes"] == 5000


def test_memory_is_not_filled_from_files_opened_late(tmp_path):
    (tmp_path / "file").write_bytes(bytes(5000))
    command = [READER, "--method", "fill-memcpy", "--readers", "1", "--open-late", tmp_path / "file"]
    assert subprocess.run(command, capture_output=True).returncode == 2
