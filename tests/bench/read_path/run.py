#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reading a version through a mount against reading the same bytes as plain files: one command, one host, one run.

    cmake --preset release -DWEIGHTFS_BENCH=ON && cmake --build --preset release --target weightfs weightfs_reader
    tests/bench/read_path/run.py [--gigabytes 1] [--depths 1,8] [--series plain,cold,...] [--runs 5] [--out DIR]
    tests/bench/read_path/run.py --deep-depths 100,1000 --depth-gigabytes 0.1      # and a smaller model, deeper

Makes the models (data.py), then takes one sample of every row a run (series.py, loaders.py, apply.py), so that what is
compared was measured in the same minute; what a first run takes is thrown away, and in it all bytes are checked against
sums.  Figures are medians, ratios are against plain files in the page cache, read by the same method and readers.
Writes read_path.json and read_path.md after every run, and with matplotlib read_path.svg (plot.py).  WEIGHTFS_BIN and
WEIGHTFS_READER name other programs.  It never fails on time, only on wrong bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import apply  # noqa: E402
import loaders  # noqa: E402
import report  # noqa: E402
import series  # noqa: E402
from data import SOURCES, Model, config_for, model_in  # noqa: E402
from samples import Samples, rows_of  # noqa: E402
from tools import READER, WEIGHTFS, can_warm  # noqa: E402

ALL = ("plain", "disk", "tmpfs", "cold", "waited", "second", "page-cache", "memory", "untouched", "relayed", "fill",
       "recycle", "latency", "loaders", "apply")
NEED_WARM = {"waited", "page-cache", "memory", "fill", "recycle"}
OF_DEPTH = {"plain", "cold", "waited", "second", "page-cache", "memory", "fill", "latency"}  # what a deep chain changes


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    values = sorted({int(word) for word in words(text)})
    if any(value < 1 for value in values):
        raise ValueError
    return values


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1, help="size of the model, 10^9 bytes (default: 1)")
    parser.add_argument("--layers", type=int, help="layers, in place of what --gigabytes asks for")
    parser.add_argument("--hidden", type=int, help="hidden size, a multiple of 128, likewise")
    parser.add_argument("--depths", type=numbers, default=[1, 8], help="deltas below the versions read (default: 1,8)")
    parser.add_argument("--deep-depths", type=numbers, default=[], help="depths of a second, smaller model")
    parser.add_argument("--depth-gigabytes", type=float, default=0.1, help="size of that model (default: 0.1)")
    parser.add_argument("--series", type=words, default=list(ALL), help=f"some of {','.join(ALL)} (default: all)")
    parser.add_argument("--methods", type=words, default=list(series.METHODS), help=f"of {','.join(series.METHODS)}")
    parser.add_argument("--readers", type=numbers, default=[1, 4, 16], help="numbers of threads (default: 1,4,16)")
    parser.add_argument("--sources", type=words, default=list(SOURCES), help=f"of {','.join(SOURCES)}")
    parser.add_argument("--files", choices=["one", "all"], default="all", help="read the first shard, or all")
    parser.add_argument("--by-file", action="store_true", help="each reader takes whole shards, as loaders do")
    parser.add_argument("--open-late", action="store_true", help="shards are opened when a reader comes to them, as "
                        "loaders do that open one after the other, not all before the first byte is read")
    parser.add_argument("--runs", type=int, default=5, help="samples of each row (default: 5)")
    parser.add_argument("--keep", type=Path, help="make the models in this folder and keep them, or use those there")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the results (default: this one)")
    arguments = parser.parse_args()
    for chosen, every in ((arguments.series, ALL), (arguments.methods, series.METHODS), (arguments.sources, SOURCES)):
        if not chosen or not set(chosen) <= set(every):
            parser.error(f"{','.join(chosen)}: not some of {','.join(every)}")
    return arguments


def host() -> dict:
    processor = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": processor, "cpus": os.cpu_count(), "memory_bytes": memory, "system": platform.release(),
            "load": os.getloadavg()[0]}


def models_in(folder: Path, arguments: argparse.Namespace) -> list[Model]:
    config = config_for(arguments.gigabytes, arguments.layers, arguments.hidden)
    models = [model_in("main", folder / "main", config, arguments.depths)]
    if arguments.deep_depths:
        deep = config_for(arguments.depth_gigabytes, None, None)
        models.append(model_in("deep", folder / "deep", deep, arguments.deep_depths))
    return models


def chosen_series(arguments: argparse.Namespace, model: Model, samples: Samples, warm: bool) -> list[str]:
    chosen = [name for name in arguments.series if model.name == "main" or name in OF_DEPTH]
    absent = [name for name in chosen if name in NEED_WARM and not warm]
    if absent:
        samples.note(f"left out, as {WEIGHTFS.name} has no command warm: {', '.join(absent)}")
    return [name for name in chosen if name not in absent]


def measure(bench: series.Bench, chosen: list[str], worker, runs: int, warm: bool, save) -> None:
    """All samples of one model; `save` is called after every run."""
    for run in range(-1, runs):
        bench.samples.warming = run < 0
        for name, function in series.functions(chosen).items():
            start = time.perf_counter()
            function(bench)
            took = time.perf_counter() - start
            print(f"{bench.model.name}, run {run}: {name} took {took:.1f} s", file=sys.stderr, flush=True)
        if worker and "loaders" in chosen:
            loaders.measure(bench, worker, warm)
        if "apply" in chosen:
            apply.measure(bench, worker, warm)
        if run >= 0:
            save(run + 1)


class Output:
    """Writes the results of all models measured so far."""

    def __init__(self, arguments: argparse.Namespace):
        self.out = arguments.out
        reading = {name: getattr(arguments, name) for name in ("files", "by_file", "open_late")}
        self.report: dict = {"host": host(), "reading": reading, "runs": 0, "models": {}, "rows": [], "notes": []}

    def save(self, model: Model, samples: Samples, runs: int) -> None:
        """Replaces the rows of a model; `runs` are those that were taken of it."""
        self.report["runs"] = runs
        self.report["host"]["load_after"] = os.getloadavg()[0]
        self.report["models"][model.name] = {key: value for key, value in model.about.items() if key != "sums"}
        others = [row for row in self.report["rows"] if row["model"] != model.name]
        self.report["rows"] = others + rows_of(samples)
        self.report["notes"] = list(dict.fromkeys(self.report["notes"] + samples.notes))
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "read_path.json").write_text(json.dumps(self.report, indent=1) + "\n")
        (self.out / "read_path.md").write_text(report.markdown(self.report))


def benchmark(folder: Path, arguments: argparse.Namespace) -> None:
    output, warm = Output(arguments), can_warm()
    point = folder / "mnt"
    point.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(loaders.Worker()) if {"loaders", "apply"} & set(arguments.series) else None
        for model in models_in(folder, arguments):
            samples = Samples(model.name)
            chosen = chosen_series(arguments, model, samples, warm)
            bench = series.Bench(model, samples, point, arguments.methods, arguments.readers, arguments.files,
                                 tuple(arguments.sources), by_file=arguments.by_file, open_late=arguments.open_late)
            measure(bench, chosen, worker, arguments.runs, warm,
                    lambda runs, model=model, samples=samples: output.save(model, samples, runs))
    print(report.markdown(output.report))


def main() -> None:
    arguments = arguments_of()
    for program in (WEIGHTFS, READER):
        if not program.exists():
            sys.exit(f"no {program}; configure with -DWEIGHTFS_BENCH=ON and build the targets weightfs and "
                     "weightfs_reader, or set WEIGHTFS_BIN and WEIGHTFS_READER")
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="weightfs-bench-"))
    try:
        benchmark(folder, arguments)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        import plot

        plot.draw(arguments.out / "read_path.json", arguments.out / "read_path.svg")
    except ImportError as error:
        print(f"no plot: {error}; tests/bench/read_path/plot.py read_path.json makes it elsewhere")


if __name__ == "__main__":
    main()
