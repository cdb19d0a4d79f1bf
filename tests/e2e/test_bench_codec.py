# SPDX-License-Identifier: Apache-2.0
"""The codec benchmark measures what it says: a smoke run on a tiny pair.  Nothing here looks at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import BINARY, ROOT
from reference.safetensors_io import read_file

CODEC = ROOT / "tests" / "bench" / "codec"
BENCH = Path(os.environ.get("CODEC_BENCH") or ROOT / "build" / "release" / "tests" / "bench" / "codec" / "codec_bench")
pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="codec_bench is not built (cmake -DWEIGHTFS_BENCH=ON)")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("codec-bench")
    done = subprocess.run([sys.executable, CODEC / "run.py", "--quick", "--out", out], text=True, capture_output=True,
                          env=os.environ | {"WEIGHTFS_BIN": str(BINARY), "CODEC_BENCH": str(BENCH)}, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "| quick |" in (out / "codec.md").read_text()
    return json.loads((out / "codec.json").read_text())


@pytest.fixture(scope="module")
def chain_tools():
    sys.path.insert(0, str(CODEC))
    yield
    sys.path.remove(str(CODEC))


@pytest.fixture(scope="module")
def pair(tmp_path_factory, chain_tools) -> tuple[Path, Path]:
    """The same pair that --quick makes."""
    import run

    root = tmp_path_factory.mktemp("chains")
    run.quick_chains(root)
    return tuple(folder / "model.safetensors" for folder in run.QUICK_PAIR.folders(root))


def changed_positions(pair) -> list[np.ndarray]:
    old, new = (read_file(file)[1] for file in pair)
    return [np.flatnonzero(old[name].bits() != new[name].bits()) for name in new]


def test_every_figure_is_there(report):
    result = report["pairs"]["quick"]
    assert {"model_bytes", "elements", "changed", "memcpy_gbps", "published", "native", "level"} <= result.keys()
    assert [run["block_bytes"] for run in result["native"]["blocks"]] == [65536, 262144, 1048576]
    for run in [*result["native"]["blocks"], result["native"]["single_class"], result["native"]["without_parent"]]:
        assert {"blocks", "payload_bytes", "index_bytes", "codings", "decode_gbps"} <= run.keys()
        assert "scalar" in run["decode_gbps"] and result["level"] in run["decode_gbps"]
        assert all(speed[kind] > 0 for speed in run["decode_gbps"].values() for kind in ("pass", "hot"))
    for row in report["rows"]["quick"]:
        assert {"format", "bytes", "bits_per_changed", "share", "decode_gbps", "of_memcpy", "encode_gbps"} <= row.keys()
    assert {"what", "value", "reach", "moonshot", "less", "unit", "verdict"} == report["goals"][0].keys()


def test_the_pair_is_counted_right(report, pair):
    result = report["pairs"]["quick"]
    positions = changed_positions(pair)
    state = read_file(pair[1])[1]
    assert result["changed"] == sum(map(len, positions))
    assert result["elements"] == sum(tensor.elements for tensor in state.values())
    assert result["model_bytes"] == sum(tensor.data.size for tensor in state.values())


def test_published_sizes_follow_from_their_layouts(report, pair):
    """What can be computed without a compressor: 6 bytes a change, 2 or 4 for a gap, and a byte that says which."""
    sizes = {row["name"]: row["bytes"] for row in report["pairs"]["quick"]["published"]}
    positions = changed_positions(pair)
    gaps = [np.diff(found, prepend=-1) - 1 for found in positions]
    assert sizes["TRL raw"] == 6 * sum(map(len, positions))
    assert sizes["TRL gap_delta"] == sum(1 + len(gap) * (6 if gap.max() > 65535 else 4) for gap in gaps)
    raw = report["pairs"]["quick"]["model_bytes"]
    assert all(0 < sizes[name] < raw / 8 for name in ("slime xor zstd-1", "PULSE v3.1", "BitX zstd-3"))


def test_native_sizes_are_sane(report):
    result = report["pairs"]["quick"]
    smallest = min(row["bytes"] for row in result["published"])
    for run in result["native"]["blocks"]:
        assert run["payload_bytes"] + run["index_bytes"] < 0.7 * smallest
        assert run["codings"]["sparse"] == run["blocks"]
        assert 5 * result["changed"] < 8 * run["payload_bytes"] < 10 * result["changed"]
    alone = result["native"]["without_parent"]
    assert 0.6 * result["model_bytes"] < alone["payload_bytes"] < 0.7 * result["model_bytes"]


def test_a_store_holds_little_more_than_payload_and_index(report):
    result = report["pairs"]["quick"]
    if "store" not in result:
        pytest.skip(f"{BINARY} has no command commit")
    run = result["native"]["blocks"][1]
    assert 0 < result["store"]["256K"] - run["payload_bytes"] < 4096
    assert result["commit"]["runs"] >= 1 and result["commit"]["slime"] > 0


def test_goals_compare_in_the_right_direction(chain_tools):
    from figures import Goal

    assert [Goal("size", value, 7, 6, True).verdict for value in (6, 7, 7.1, None)] == \
        ["moonshot", "reached", "missed", "not measured"]
    assert [Goal("speed", value, 2, 4, False).verdict for value in (4, 2, 1.9)] == ["moonshot", "reached", "missed"]


@pytest.mark.parametrize("name, dtype", [("sim-1", "BF16"), ("sim-moe", "BF16")])
def test_simulated_chains_have_the_density_they_name(tmp_path, chain_tools, name, dtype):
    import chains
    import simulate_chain

    simulation = next(one for one in chains.SIMULATIONS if one.name == name)
    simulate_chain.simulate(tmp_path, simulation, shape=(256, 1024))
    old, new = (read_file(chains.checkpoint(tmp_path, name, step) / "model.safetensors")[1] for step in (21, 22))
    shares = {key: float(np.mean(old[key].bits() != new[key].bits())) for key in new}
    assert {tensor.dtype for tensor in new.values()} == {dtype}
    trained = {key: share for key, share in shares.items() if share > 0}
    assert all(0.005 < share < 0.02 for share in trained.values())
    experts = [key for key in shares if "experts" in key]
    assert len([key for key in experts if key in trained]) * 10 == len(experts)


def test_the_commit_benchmark_times_both_writers(tmp_path):
    command = [sys.executable, CODEC / "commit_speed.py", "--gib", "0.03", "--passes", "1", "--folder", tmp_path]
    done = subprocess.run(command, text=True, capture_output=True, timeout=600,
                          env=os.environ | {"WEIGHTFS_BIN": str(BINARY), "CODEC_BENCH": str(BENCH)})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bytes"] == 32 << 20 and 0.5 < result["changed_percent"] < 3
    assert result["ratio"] == pytest.approx(result["commit"]["slime"] / result["commit"]["weightfs"])
    assert not list(tmp_path.iterdir()), "the checkpoints are gone"
