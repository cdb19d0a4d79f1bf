#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What depth costs: reading version N of a chain of N deltas, for N = 1, 8, 100, 1000.

    tests/bench/scale/depth.py [--out DIR] [--keep DIR] [--depths 1 8 100 1000] [--every 100] [--runs 3]
                               [--layers 3 --hidden 512 --vocab 8000 --share 0.01]

Makes a Qwen3-shaped bf16 model of which about 1 % of the elements change per version, once as a native store (each
version as `weightfs commit` writes it) and once as weight_v (xor), and measures with the sources in the page cache:

    read         all shards of version N by a daemon that has read nothing yet: GB/s, and its time over that of depth 1
    page         4 KiB past the page cache, each in a block that nobody has read: median and p99
    bytes        what the daemon read beside the base, over what all deltas up to N hold: above 1, it read some twice

native without nets, then by folds (`weightfs mount --cache`, made before the measured mounts begin), then with the
ladders that `weightfs squash --every` adds: one of --every, then one of its square root besides.  weight_v by folds, too;
weight_v by the default memory budget, by one of 8 GiB (enough for everything), and by --small-memory.
Every byte is compared with the true version.  Writes depth.json and prints a table; it never fails on a figure.
"""

import argparse
import json
import math
import mmap
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.scale import mounts  # noqa: E402
from bench.scale.chains import Chain, make_chain, version_name  # noqa: E402
from bench.scale.mounts import PAGE, Mounted, percentile  # noqa: E402

UNIT = 256 << 10
PAGES = 64  # in blocks of their own
DEFAULT_DEPTHS = (1, 8, 100, 1000)
SEED = 31
SLOW = 20  # seconds
FOLDED_FROM = 32  # deltas


def read_version(mounted: Mounted, chain: Chain, depth: int) -> float:
    """Seconds to read all shards, 1 MiB at a time; wrong bytes end the program."""
    seconds = 0.0
    for shard in chain.shards():
        truth = (chain.truth(depth) / shard).read_bytes()
        with open(mounted.point / version_name(depth) / shard, "rb", buffering=0) as file:
            pieces = []
            start = time.perf_counter()
            while piece := file.read(1 << 20):
                pieces.append(piece)
            seconds += time.perf_counter() - start
        if b"".join(pieces) != truth:
            raise SystemExit(f"{shard} of {version_name(depth)} has wrong bytes")
    return seconds


def random_pages(mounted: Mounted, chain: Chain, depth: int, rng: random.Random) -> list[float]:
    """Times of pages of which no two lie in one block."""
    places = []
    for shard in chain.shards():
        units = (chain.base / shard).stat().st_size // UNIT
        places += [(shard, unit * UNIT + rng.randrange(UNIT // PAGE) * PAGE) for unit in range(units)]
    times = []
    with mmap.mmap(-1, PAGE) as buffer:
        for shard, offset in rng.sample(places, min(PAGES, len(places))):
            times.append(mounts.read_direct(mounted.point / version_name(depth) / shard, offset, buffer))
            with open(chain.truth(depth) / shard, "rb") as truth:
                if os.pread(truth.fileno(), PAGE, offset) != buffer[:]:
                    raise SystemExit(f"wrong bytes at {offset} of {shard} of {version_name(depth)}")
    return times


def measure_one(chain: Chain, source: Path, depth: int, stored: int, runs: int, options: list[str]) -> dict:
    point, seconds, shares, pages, first = chain.folder / "mnt", [], [], [], []
    rng = random.Random(SEED)
    counters: dict = {}
    for _ in range(runs):
        with Mounted(source, point, *options) as mounted:
            seconds.append(read_version(mounted, chain, depth))
            status = mounted.status()
            counters = status["counters"] | {"evictions": status["memory"]["evictions"]}
            shares.append((counters["tensor_bytes_read"] - chain.tensor_bytes()) / stored)
        if seconds[-1] > SLOW:
            break  # what takes so long is not measured twice, and pages would take as long
        with Mounted(source, point, *options) as mounted:
            times = random_pages(mounted, chain, depth, rng)
            first.append(times[0])
            pages += times
    print(f"depth {depth} of {source.name} {' '.join(options)}: {seconds[-1]:.1f} s", file=sys.stderr, flush=True)
    return {"depth": depth, "seconds": statistics.median(seconds), "stored_bytes": stored,
            "gb_per_s": chain.model_bytes() / statistics.median(seconds) / 1e9, "read_share": max(shares),
            "page_p50": percentile(pages, 0.5) if pages else None,
            "page_p99": percentile(pages, 0.99) if pages else None,
            "page_first": statistics.median(first) if first else None,
            **{key: counters[key] for key in ("source_reads", "tensor_bytes_read", "evictions", "blocks_decoded",
                                              "segments_decoded")}}


def measure_native(chain: Chain, what: str, depths: list[int], runs: int) -> list[dict]:
    mounts.warm_up(chain.native, chain.base)
    return [{"what": what, **measure_one(chain, chain.native, depth, chain.native_stored(depth), runs, [])}
            for depth in depths]


def measure_weight_v(chain: Chain, depths: list[int], runs: int, small: str) -> list[dict]:
    mounts.warm_up(chain.weight_v, chain.base)
    found = []
    for what, options in (("weight_v", []), ("weight_v, --memory 8G", ["--memory", "8G"]),
                          (f"weight_v, --memory {small}", ["--memory", small])):
        found += [{"what": what, **measure_one(chain, chain.weight_v, depth, chain.weight_v_stored(depth), runs,
                                               ["--base", str(chain.base), *options])} for depth in depths]
    return found


def fold(chain: Chain, source: Path, depths: list[int], options: list[str]) -> tuple[list[str], dict]:
    """Makes the folds that reading these versions asks for: (options of a mount that uses them, what they are)."""
    cache = chain.folder / f"cache-{source.name}"
    shutil.rmtree(cache, ignore_errors=True)
    options = [*options, "--cache", str(cache)]
    start = time.perf_counter()
    with Mounted(source, chain.folder / "mnt", *options) as mounted:
        for depth in [depth for depth in sorted(depths) if depth >= FOLDED_FROM]:
            made = mounted.status()["cache"]["in_use"]
            read_version(mounted, chain, depth)
            while mounted.status()["cache"]["in_use"] == made and depth < chain.about["depth"]:
                time.sleep(0.1)
        while mounted.status()["cache"]["making"] or not mounted.status()["cache"]["in_use"]:
            time.sleep(0.1)
        about = mounted.status()["cache"]
    print(f"{about['folds']} folds of {source.name}", file=sys.stderr, flush=True)
    return options, {"source": source.name, "seconds": time.perf_counter() - start, "folds": about["folds"],
                     "bytes": about["bytes"]}


def measure_folded(chain: Chain, source: Path, stored, depths: list[int], runs: int, options: list[str]):
    if max(depths) < FOLDED_FROM:
        return [], None
    options, about = fold(chain, source, depths, options)
    what = f"{source.name}, folded"
    return [{"what": what, **measure_one(chain, source, depth, stored(depth), runs, options)} for depth in depths], about


def ladders(chain: Chain, every: int) -> list[tuple[str, int, float]]:
    """Adds them one after the other: (name, steps of a net, seconds), by a generator so that each can be measured."""
    for step in (every, math.isqrt(every)):
        if 2 <= step <= chain.about["depth"]:
            start = time.perf_counter()
            mounts.weightfs("squash", chain.native, f"base..{version_name(chain.about['depth'])}", "--every", step)
            yield f"nets over {step}", step, time.perf_counter() - start


def measure(chain: Chain, arguments) -> dict:
    depths = sorted(arguments.depths)
    for net in (chain.native / "nets").glob("*"):
        shutil.rmtree(net)  # of an earlier run
    rows = measure_native(chain, "native", depths, arguments.runs)
    folded, about = measure_folded(chain, chain.native, chain.native_stored, depths, arguments.runs, [])
    rows += folded
    folds = [about]
    nets, made = [], "native"
    for name, step, seconds in ladders(chain, arguments.every):
        made += f" + {name}"
        folders = list((chain.native / "nets").iterdir())
        nets.append({"step": step, "seconds": seconds, "nets": len(folders),
                     "bytes": sum(path.stat().st_size for folder in folders for path in folder.iterdir())})
        rows += measure_native(chain, made, depths, arguments.runs)
    rows += measure_weight_v(chain, depths, arguments.runs, arguments.small_memory)
    folded, about = measure_folded(chain, chain.weight_v, chain.weight_v_stored, depths, arguments.runs,
                                   ["--base", str(chain.base)])
    rows += folded
    folds = [fold for fold in [*folds, about] if fold]
    first = {row["what"]: row["seconds"] for row in rows if row["depth"] == depths[0]}
    for row in rows:
        row["ratio"] = row["seconds"] / first[row["what"]]
    return {"rows": rows, "nets": nets, "folds": folds}


def print_table(chain: Chain, result: dict) -> None:
    about = chain.about
    print(f"{chain.model_bytes() / 1e6:.0f} MB in {about['tensors']} tensors, {about['changed_share'] * 100:.2f} % of "
          f"the elements change per version\n")
    print("| what | depth | GB/s | time / depth 1 | first page, ms | page p50, ms | p99, ms | bytes read / stored |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in result["rows"]:
        pages = ["-" if row[key] is None else f"{row[key] * 1e3:.2f}" for key in ("page_first", "page_p50", "page_p99")]
        print(f"| {row['what']} | {row['depth']} | {row['gb_per_s']:.4f} | {row['ratio']:.1f} | {' | '.join(pages)} "
              f"| {row['read_share']:.2f} |")
    for net in result["nets"]:
        print(f"\nladder of {net['step']}: made in {net['seconds']:.0f} s; {net['nets']} nets, "
              f"{net['bytes'] / 1e6:.1f} MB in all")
    for fold in result["folds"]:
        print(f"\n{fold['folds']} folds of {fold['source']}: made in {fold['seconds']:.0f} s, "
              f"{fold['bytes'] / 1e6:.1f} MB in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("."), help="where depth.json goes")
    parser.add_argument("--keep", type=Path, help="make the chains here and keep them (or use what is there)")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEFAULT_DEPTHS))
    parser.add_argument("--every", type=int, default=100, help="versions that a net of the first ladder leads over")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--small-memory", default="64M")
    return parser.parse_args(arguments)


def main(argv: list[str] | None = None) -> dict:
    arguments = parse(argv)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="weightfs-depth-"))
    try:
        chain = make_chain(folder, arguments.depths, arguments.layers, arguments.hidden, arguments.vocab,
                           arguments.share)
        result = measure(chain, arguments)
        host = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()}
        about = chain.about | {"bytes": chain.model_bytes()}
        (arguments.out / "depth.json").write_text(json.dumps({"host": host, "about": about, **result}, indent=1) + "\n")
        print_table(chain, result)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return result


if __name__ == "__main__":
    main()
