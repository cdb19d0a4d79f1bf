#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The native delta codec beside everything published: sizes and single-core speeds, same data, same run.

    cmake --preset release -DWEIGHTFS_BENCH=ON && cmake --build --preset release --target codec_bench weightfs
    tests/bench/codec/run.py [--chains DIR] [--out DIR] [--pairs NAME...] [--plots docs/img] [--quick]

Makes the chains that are missing (see make_chains.py), measures every pair with codec_bench (environment variable
CODEC_BENCH), ZipNN's package, `zstd --patch-from` and `xdelta3`, takes all-in sizes from the files that `weightfs
commit` writes (WEIGHTFS_BIN) and times it against slime's writer.  Writes codec.json, codec.md and, with matplotlib,
plots.  Every speed is the median of PASSES after a warm-up, from processor time of one thread (the commit: wall time).  --quick: one tiny simulated pair, for a check of the
benchmark itself.  It never fails on time, only on wrong bytes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))

import external  # noqa: E402
import figures  # noqa: E402
from chains import PAIRS, Pair, Simulation, default_root, missing  # noqa: E402

BUILD = ROOT / "build" / "release"
BENCH = Path(os.environ.get("CODEC_BENCH") or BUILD / "tests" / "bench" / "codec" / "codec_bench")
WEIGHTFS = Path(os.environ.get("WEIGHTFS_BIN") or BUILD / "weightfs")
QUICK_PAIR = Pair("quick", "sim-quick", 21, 22, "a tiny simulated step", "sparse")
TIMED_PAIR = "M grid 3e-6"  # of the commit


def codec_bench(old: Path, new: Path, *options) -> dict:
    done = subprocess.run([BENCH, old, new, *map(str, options)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{BENCH.name} failed on {new}")
    return json.loads(done.stdout)


def measure(pair: Pair, chains: Path, passes: int, tools: bool) -> dict:
    folders = pair.folders(chains)
    old, new = (folder / "model.safetensors" for folder in folders)
    result = {"pair": pair.name, "kind": pair.kind, "what": pair.what, **codec_bench(old, new, "--passes", passes)}
    if tools:
        result["external"] = external.zipnn_rows(old, new, passes) + external.tool_rows(old, new, min(passes, 3))
    if external.has_store_commands(WEIGHTFS):
        result["store"] = external.store_sizes(WEIGHTFS, *folders, full=pair.name in {TIMED_PAIR, QUICK_PAIR.name})
        if pair.name in {TIMED_PAIR, QUICK_PAIR.name}:
            result["commit"] = commit_against_slime(folders, passes)
    return result


def commit_against_slime(folders: tuple[Path, Path], passes: int) -> dict:
    """Both end with the bytes on disk (fsync), both use all cores and find both checkpoints in the page cache."""
    old, new = (folder / "model.safetensors" for folder in folders)
    threads = os.cpu_count()
    ours = external.commit_seconds(WEIGHTFS, *folders, passes)
    with tempfile.TemporaryDirectory() as folder:
        writer = codec_bench(old, new, "--writer-only", "--slime-writer", Path(folder) / "out", "--threads", threads,
                             "--passes", passes)["slime_writer"]
    return {"weightfs": statistics.median(ours), "slime": statistics.median(writer["seconds_durable"]),
            "slime_without_fsync": statistics.median(writer["seconds"]), "threads": threads, "runs": len(ours)}


def quick_chains(root: Path) -> None:
    import simulate_chain

    simulate_chain.simulate(root, Simulation("sim-quick", 1e-6, layers=2), shape=(256, 512))


def host() -> dict:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"processor": model, "cpus": os.cpu_count(), "system": platform.release(), "load": os.getloadavg()[0]}


def write_out(report: dict, out: Path, plots: Path | None) -> None:
    results = report["pairs"]
    out.mkdir(parents=True, exist_ok=True)
    report["goals"] = [goal.__dict__ | {"verdict": goal.verdict} for goal in figures.goals(results)]
    report["rows"] = {pair: figures.rows_of(result) for pair, result in results.items()}
    (out / "codec.json").write_text(json.dumps(report, indent=1) + "\n")
    text = "\n\n".join(["## Figures", figures.goal_table(results), "## Formats", figures.pair_table(results),
                        "## Our decoders", figures.level_table(results)]) + "\n"
    (out / "codec.md").write_text(text)
    print(text)
    try:
        import plots as drawing

        for draw, name in ((drawing.plot_sizes, "codec-size"), (drawing.plot_speeds, "codec-decode")):
            draw(results, (plots or out) / f"{name}.svg")
            draw(results, out / f"{name}.png")
    except ImportError as error:
        print(f"no plots: {error}")


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=Path, default=default_root(), help="folder of the chains (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=BUILD / "codec-bench", help="folder of the results")
    parser.add_argument("--plots", type=Path, help="folder of the plots (default: that of the results)")
    parser.add_argument("--pairs", nargs="+", choices=[pair.name for pair in PAIRS], metavar="NAME")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--no-make", action="store_true", help="leave out pairs whose chains are not there")
    parser.add_argument("--no-tools", action="store_true", help="leave out ZipNN, zstd --patch-from and xdelta3")
    parser.add_argument("--quick", action="store_true", help="one tiny pair, one pass")
    return parser.parse_args()


def pairs_of(arguments) -> list[Pair]:
    """The pairs to measure, after making what they need."""
    pairs = [pair for pair in PAIRS if not arguments.pairs or pair.name in arguments.pairs]
    absent = missing(arguments.chains, pairs)
    if absent and not arguments.no_make:
        import make_chains

        make_chains.make(arguments.chains, set(absent))
        absent = missing(arguments.chains, pairs)
    if absent:
        print(f"left out, not there: {', '.join(absent)}", file=sys.stderr)
    return [pair for pair in pairs if pair.chain not in absent]


def main() -> None:
    arguments = arguments_of()
    if not BENCH.exists():
        sys.exit(f"no {BENCH}; configure with -DWEIGHTFS_BENCH=ON and build the target codec_bench, or set CODEC_BENCH")
    report = {"host": host(), "passes": 1 if arguments.quick else arguments.passes, "pairs": {}}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.quick:
            arguments.chains, pairs = Path(scratch), [QUICK_PAIR]
            quick_chains(arguments.chains)
        else:
            pairs = pairs_of(arguments)
        for pair in pairs:
            print(f"measuring {pair.name}", file=sys.stderr, flush=True)
            report["pairs"][pair.name] = measure(pair, arguments.chains, report["passes"], not arguments.no_tools)
    report["host"]["load_after"] = os.getloadavg()[0]
    if report["pairs"]:
        write_out(report, arguments.out, arguments.plots)


if __name__ == "__main__":
    main()
