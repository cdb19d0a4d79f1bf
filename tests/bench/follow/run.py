#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A delta is complete on disk: how long until its version can be read at full speed?

    cmake --preset release && cmake --build --preset release --target weightfs
    tests/bench/follow/run.py [--gigabytes 4.3] [--runs 5] [--sources native,weight_v] [--out DIR] [--keep DIR]

    follow, warm      `mount --follow`: from the rename that completes the delta until `latest` names its version,
                      which has been checked and lies in memory then
    follow, read      the same where every version is mapped and read before the next one comes: memory that the kernel
                      was given is not written over, so the next version needs fresh memory
    follow, checked   the same with --warm none: checked, and decoded again when it is read
    apply             XOR the weight_v delta into a local checkpoint in place and check its digests, as SGLang's receiver
                      does (tests/bench/read_path/apply.py); the checkpoint is in the page cache
    copy              copy the new checkpoint's files, which are in the page cache, to the same disk

Each way of following is taken by itself, with a sample of apply and copy in every run, so that what is compared was
measured in the same minute.  The first three runs are thrown away (memory is touched for the first time in them); in the
first the bytes of the version are compared with sums.  Medians, and ratios against apply.  Writes
follow.json and follow.md.  WEIGHTFS_BIN names another program.  It never fails on time, only on wrong bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "read_path")]

import numpy as np  # noqa: E402
from apply import apply_delta, seconds  # noqa: E402
from data import config_for, mapped, model_in, shards_of, sums_of, version_name  # noqa: E402
from tools import WEIGHTFS, weightfs  # noqa: E402

LIMIT = 600  # seconds that one version may take
KINDS = {"warm": "latest", "read": "latest", "checked": "none"}
WARMING = 3  # runs


class Followed:
    """A mount that follows an empty run, and the versions that will be published."""

    def __init__(self, model, source: str, kind: str, place: Path):
        self.model, self.kind = model, kind
        self.name = f"{source}, {kind}"
        self.source, self.mount_point = place / f"{source}-{kind}", place / f"{source}-{kind}-mnt"
        self.staged = model.folder / source
        self.folders = Path("versions") if source == "native" else Path()
        self.mount_point.mkdir()
        shutil.copytree(self.staged, self.source, ignore=lambda folder, names: [
            name for name in names if name.startswith("weight_v")])
        self.published = 0

    def mount(self) -> None:
        base = [] if (self.source / "store.json").exists() else ["--base", self.model.base]
        memory = 2 * self.model.bytes // 2**20 * 8 // 7 + 512
        weightfs("mount", *base, "--follow", "--pin-grace", 0, "--keep", 2, "--warm", KINDS[self.kind], "--memory",
                 f"{memory}M", self.source, self.mount_point)

    def publish(self) -> float:
        """Seconds from the delta's being complete to `latest`."""
        self.published += 1
        name = version_name(self.published)
        copy = self.source / f"{name}.tmp"
        shutil.copytree(self.staged / self.folders / name, copy)
        start = time.perf_counter()
        os.rename(copy, self.source / self.folders / name)
        while os.readlink(self.mount_point / "latest") != name:
            time.sleep(0.0005)
            if time.perf_counter() - start > LIMIT:
                raise SystemExit(f"{self.name}: {name} has not come:\n{weightfs('status', self.mount_point)}")
        return time.perf_counter() - start

    def check(self) -> None:
        folder = self.mount_point / version_name(self.published)
        shards = [np.memmap(shard, np.uint8, "r") for shard in shards_of(folder)]
        if sums_of(shards) != self.model.sums(self.published):
            raise SystemExit(f"{self.name}: wrong bytes in {folder}")

    def served(self) -> str:
        status = json.loads(weightfs("status", "--json", self.mount_point))
        return next(v["served_by"] for v in status["versions"] if v["name"] == version_name(self.published))


def copy_seconds(checkpoint: Path, target: Path) -> float:
    shutil.rmtree(target, ignore_errors=True)
    start = time.perf_counter()
    shutil.copytree(checkpoint, target)
    return time.perf_counter() - start


def one_run(model, mount: Followed, place: Path) -> dict[str, float]:
    local = place / "local"
    took = {f"follow, {mount.name}": mount.publish()}
    if mount.published == 1 or mount.kind == "read":
        mount.check()
    if mount.kind != "checked" and mount.served() not in ("memory", "passthrough"):
        print(f"remark: {mount.name} is served by {mount.served()}", flush=True)
    took["apply"] = seconds(apply_delta, local, model.folder / "weight_v" / version_name(mount.published))
    took["copy"] = copy_seconds(local, place / "copied")
    return took


def table(rows: dict[str, list[float]], model) -> str:
    apply = statistics.median(rows["apply"])
    lines = ["| way | seconds | GB/s | of apply |", "| --- | ---: | ---: | ---: |"]
    for name, samples in rows.items():
        middle = statistics.median(samples)
        lines.append(f"| {name} | {middle:.3f} | {model.bytes / middle / 1e9:.2f} | {middle / apply:.2f} |")
    return "\n".join(lines) + "\n"


def measure(arguments, model, place: Path, mount: Followed, rows: dict[str, list[float]]) -> None:
    shutil.rmtree(place / "local", ignore_errors=True)
    shutil.copytree(model.base, place / "local")
    mount.mount()
    try:
        for run in range(WARMING + arguments.runs):
            took = one_run(model, mount, place)
            print(f"run {run}: " + ", ".join(f"{name} {value:.3f} s" for name, value in took.items()), flush=True)
            if run >= WARMING:
                for name, value in took.items():
                    rows.setdefault(name, []).append(value)
    finally:
        weightfs("umount", mount.mount_point)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=4.3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sources", default="native,weight_v")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--keep", type=Path, help="folder of the model, which is made there unless it is there")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weightfs-follow-")))
        depths = list(range(1, WARMING + arguments.runs + 1))
        model = model_in("follow", arguments.keep or place / "model", config_for(arguments.gigabytes, None, None), depths)
        rows: dict[str, list[float]] = {}
        for source in arguments.sources.split(","):
            for kind in KINDS:
                measure(arguments, model, place, Followed(model, source, kind, place), rows)
    report = {"host": {"cpus": os.cpu_count(), "kernel": platform.release()}, "weightfs": weightfs("--version").strip(),
              "program": WEIGHTFS.name, "model_bytes": model.bytes, "delta_bytes": model.about["delta_bytes"],
              "seconds": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "follow.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "follow.md").write_text(table(rows, model))
    print(table(rows, model), end="")


if __name__ == "__main__":
    main()
