#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reading a version through the mount against reading the same bytes as a plain file.

    tests/bench/read_path.py [--out DIR] [--runs 5] [--layers 16 --hidden 1536] [--keep DIR]

Makes a Qwen3-shaped bf16 checkpoint and two runs of it with 20 deltas at about 1 % changed elements (weight_v xor and
TRL gap_delta), materialises nothing, and times, in one run on one host:

    mount          `weightfs mount` until it returns
    cold           the first read of a version by a fresh daemon (sources in the page cache)
    second         the same read again, now from the kernel's page cache
    warm           the fifth read
    untouched      the version `base` through the mount, which no delta touches: passthrough where the kernel has it
    fuse only      the same with --passthrough=off: FUSE without any decoding, the limit of this way of serving
    plain cached   the base's files on the same disk, in the page cache
    plain disk     the same after dropping them from the page cache

by `cat FILES > /dev/null`, by copying out of an mmap, and by safetensors' safe_open + clone of every tensor (when torch
and safetensors are importable), at depth 1 and 20.  Each figure is the median of RUNS; ratios are against "plain
cached" of the same method in the same run.  Writes read_path.json and prints a table.  It never fails on time.
"""

import argparse
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from reference.demo import initial_state, qwen3_config, train_step  # noqa: E402
from reference.safetensors_io import write_model  # noqa: E402
from reference.trl import TrlWriter  # noqa: E402
from reference.weight_v import WeightVWriter  # noqa: E402

BINARY = os.environ.get("WEIGHTFS_BIN") or str(ROOT / "build" / "release" / "weightfs")
DEPTHS = (1, 20)
BUFFER = np.zeros(16 << 20, np.uint8)  # copies end in memory that was touched before


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def read_cat(folder: Path) -> None:
    with open(os.devnull, "wb") as null:
        subprocess.run(["cat", *map(str, shards_of(folder))], stdout=null, check=True)


def read_mmap(folder: Path) -> None:
    for shard in shards_of(folder):
        with open(shard, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            view = np.frombuffer(mapping, np.uint8)
            for at in range(0, view.size, BUFFER.size):
                piece = view[at:at + BUFFER.size]
                BUFFER[:piece.size] = piece
            del view, piece


def read_safetensors(folder: Path) -> None:
    from safetensors import safe_open

    for shard in shards_of(folder):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                file.get_tensor(name).clone()


def methods() -> dict:
    found = {"cat": read_cat, "mmap": read_mmap}
    try:
        import safetensors.torch  # noqa: F401

        found["safetensors"] = read_safetensors
    except ImportError:
        print("safetensors or torch is not installed: its rows are left out", file=sys.stderr)
    return found


def seconds(action, *arguments) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def drop_from_page_cache(folder: Path) -> None:
    for shard in shards_of(folder):
        with open(shard, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Mounted:
    def __init__(self, base: Path, source: Path, point: Path, *options: str):
        self.point = point
        point.mkdir(exist_ok=True)
        self.mount_seconds = seconds(
            subprocess.run, [BINARY, "mount", "--base", str(base), *options, str(source), str(point)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([BINARY, "umount", str(self.point)], check=True)


def make_data(folder: Path, layers: int, hidden: int) -> dict:
    config = qwen3_config(layers, hidden, 32000)
    state = initial_state(config, 7)
    write_model(folder / "base", state, 2, config)
    weight_v, trl = WeightVWriter(folder / "weight_v", state), TrlWriter(folder / "trl", anchor_interval=10**6)
    trl.publish(state)
    rng = np.random.default_rng(8)
    elements = changed = 0
    for step in range(max(DEPTHS)):
        new = train_step(state, rng)
        if step == 0:
            elements = sum(tensor.elements for tensor in state.values())
            changed = sum(int(np.count_nonzero(new[name].bits() != state[name].bits())) for name in state)
        state = new
        weight_v.publish(state)
        trl.publish(state)
    return {"bytes": sum(shard.stat().st_size for shard in shards_of(folder / "base")), "changed_share": changed / elements,
            "tensors": len(state)}


def version_name(source: str, depth: int) -> str:
    return f"weight_v{depth:06d}" if source == "weight_v" else f"step_{depth + 1:06d}"


def note_reads(note, method: str, source: str, depth: int, read, version: Path) -> None:
    """The first, second and fifth read of a version of a fresh mount."""
    times = [seconds(read, version) for _ in range(5)]
    for what, index in (("cold", 0), ("second", 1), ("warm", 4)):
        note((method, f"{source} {what}", depth), times[index])


def measure(folder: Path, runs: int, found: dict) -> dict:
    samples: dict[tuple, list[float]] = {}

    def note(key, value):
        samples.setdefault(key, []).append(value)

    base = folder / "base"
    for run in range(-1, runs):  # run -1 warms memory and is thrown away
        for method, read in found.items():
            seconds(read, base)
            note((method, "plain cached", 0), seconds(read, base))
            for source in ("weight_v", "trl"):
                for depth in DEPTHS:
                    with Mounted(base, folder / source, folder / "mnt") as mounted:
                        version = mounted.point / version_name(source, depth)
                        note(("mount", source, 0), mounted.mount_seconds)
                        note_reads(note, method, source, depth, read, version)
            for what, options in (("untouched", ()), ("fuse only", ("--passthrough=off",))):
                with Mounted(base, folder / "weight_v", folder / "mnt", *options) as mounted:
                    note_reads(note, method, what, 0, read, mounted.point / "base")
            drop_from_page_cache(base)
            note((method, "plain disk", 0), seconds(read, base))
        if run == -1:
            samples.clear()
    return {key: statistics.median(values) for key, values in samples.items()}


def report(medians: dict, data: dict, found: dict) -> list[dict]:
    rows = []
    for (method, what, depth), value in sorted(medians.items()):
        if method == "mount":
            rows.append({"what": f"mount ({what}, {max(DEPTHS)} deltas)", "seconds": value})
            continue
        plain = medians[method, "plain cached", 0]
        rows.append({"what": what, "method": method, "depth": depth, "seconds": value,
                     "gb_per_s": data["bytes"] / value / 1e9, "ratio_to_plain_cached": plain / value})
    return rows


def print_table(rows: list[dict], data: dict, runs: int) -> None:
    print(f"model {data['bytes'] / 1e6:.0f} MB in {data['tensors']} tensors, {data['changed_share'] * 100:.2f} % of the "
          f"elements change per version; medians of {runs} runs on {os.cpu_count()} cores\n")
    print("| method | what | depth | GB/s | against plain cached |\n| --- | --- | ---: | ---: | ---: |")
    for row in rows:
        if "method" in row:
            depth = row["depth"] or ""
            print(f"| {row['method']} | {row['what']} | {depth} | {row['gb_per_s']:.2f} | "
                  f"{row['ratio_to_plain_cached']:.2f} |")
    for row in rows:
        if "method" not in row:
            print(f"\n{row['what']}: {row['seconds'] * 1000:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("."), help="where read_path.json goes")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--keep", type=Path, help="make the data here and keep it (or use what is there)")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="weightfs-bench-"))
    try:
        about = folder / "about.json"
        if not about.exists():
            folder.mkdir(parents=True, exist_ok=True)
            about.write_text(json.dumps(make_data(folder, arguments.layers, arguments.hidden)))
        data = json.loads(about.read_text())
        found = methods()
        rows = report(measure(folder, arguments.runs, found), data, found)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    host = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()}
    (arguments.out / "read_path.json").write_text(
        json.dumps({"host": host, "data": data, "runs": arguments.runs, "rows": rows}, indent=1) + "\n")
    print_table(rows, data, arguments.runs)


if __name__ == "__main__":
    main()
