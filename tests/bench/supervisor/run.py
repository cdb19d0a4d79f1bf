#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a supervisor costs readers, and what they notice when the daemon dies.

    cmake --preset release && cmake --build --preset release --target weightfs mount.weightfs
    tests/bench/supervisor/run.py [--megabytes 256] [--versions 8] [--kills 50] [--runs 5] [--out DIR]

    read, open        the same reads of a decoded version through `weightfs mount` and through mount.weightfs, in turn
    kill              kill -9 of the daemon while nothing is asked; then the first uncached read
    restart           `weightfs restart`; then the same

Everything is read with passthrough off, so that every byte asks the daemon.  Medians; writes supervisor.json and
supervisor.md.  WEIGHTFS_BIN names another program, beside which mount.weightfs lies.  It never fails on time, only on
wrong bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from reference import weight_v  # noqa: E402
from reference.safetensors_io import Tensor, copy_state, write_model  # noqa: E402

WEIGHTFS = os.environ.get("WEIGHTFS_BIN", str(ROOT / "build" / "release" / "weightfs"))
HELPER = str(Path(WEIGHTFS).parent / "mount.weightfs")
OPTIONS = {"memory": "4G", "passthrough": "off", "warm-on-open": "off", "read-ahead": "0"}
PAGE = 4096


def make_run(place: Path, megabytes: int, versions: int) -> tuple[Path, Path, str]:
    """A base, its versions, and the name of the newest."""
    rng = np.random.default_rng(7)
    rows = max(1, megabytes // 8)
    state = {f"layer.{i}.weight": Tensor("BF16", (rows, 1 << 19), rng.integers(0, 250, rows << 20, dtype=np.uint8))
             for i in range(8)}
    base, source = place / "base", place / "source"
    write_model(base, state, 1, {"model_type": "bench"})
    writer = weight_v.WeightVWriter(source, state)
    for _ in range(versions):
        state = copy_state(state)
        for tensor in state.values():
            tensor.bits()[rng.integers(0, tensor.elements, tensor.elements // 100)] ^= 1
        name = writer.publish(state).name
    return base, source, name


class Mounted:
    def __init__(self, supervised: bool, base: Path, source: Path, point: Path):
        point.mkdir(exist_ok=True)
        self.point = point
        if supervised:
            options = ",".join([f"base={base}", "restarts=1000/1", *(f"{key}={value}" for key, value in OPTIONS.items())])
            command = [HELPER, str(source), str(point), "-o", options]
        else:
            words = [word for key, value in OPTIONS.items() for word in (f"--{key}", value)]
            command = [WEIGHTFS, "mount", "--base", str(base), *words, str(source), str(point)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.seconds = time.perf_counter() - start

    def daemon(self) -> int:
        return json.loads((self.point / ".weightfs" / "status.json").read_text())["pid"]

    def unmount(self):
        subprocess.run([WEIGHTFS, "umount", str(self.point)], check=True)


def drop(file: int):
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def samples(path: Path, chance: random.Random) -> dict[str, float]:
    """Seconds for each way of reading; what the daemon answers is in its memory."""
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    places = [chance.randrange(size // PAGE) * PAGE for _ in range(2000)]
    drop(file)
    result = {"read 4 KiB, 2000 times": timed(lambda: [os.pread(file, PAGE, place) for place in places])}
    drop(file)
    result["read all, 1 MiB at a time"] = timed(lambda: [os.pread(file, 1 << 20, at) for at in range(0, size, 1 << 20)])
    os.close(file)
    result["open and close, 1000 times"] = timed(lambda: [os.close(os.open(path, os.O_RDONLY)) for _ in range(1000)])
    return result


def pauses(mounted: Mounted, path: Path, count: int, end) -> list[float]:
    """Seconds from the end of a daemon until an uncached page has been read, and is right."""
    file = os.open(path, os.O_RDONLY)
    expected, found = os.pread(file, PAGE, 0), []
    for _ in range(count):
        drop(file)
        daemon = mounted.daemon()
        start = time.perf_counter()
        end(daemon)
        if os.pread(file, PAGE, 0) != expected:
            sys.exit("wrong bytes after a restart")
        found.append(time.perf_counter() - start)
    os.close(file)
    return found


def measure(arguments, place: Path) -> dict:
    base, source, name = make_run(place, arguments.megabytes, arguments.versions)
    plain, watched = (Mounted(kind, base, source, place / f"mnt-{kind}") for kind in (False, True))
    shard = next(path.name for path in (plain.point / name).iterdir() if path.suffix == ".safetensors")
    paths = [mounted.point / name / shard for mounted in (plain, watched)]
    if paths[0].read_bytes() != paths[1].read_bytes():
        sys.exit("the two mounts differ")
    chance, runs = random.Random(3), {False: [], True: []}
    for number in range(2 * (arguments.runs + 1)):
        watch = bool(number % 2)
        found = samples(paths[watch], chance)
        if number >= 2:  # the first of each is to warm up
            runs[watch].append(found)
    medians = {watch: {what: statistics.median(run[what] for run in runs[watch]) for what in runs[watch][0]}
               for watch in runs}
    killed = pauses(watched, paths[1], arguments.kills, lambda daemon: os.kill(daemon, 9))
    restarted = pauses(watched, paths[1], arguments.kills // 5,
                       lambda _: subprocess.run([WEIGHTFS, "restart", str(watched.point)], check=True,
                                                stdout=subprocess.DEVNULL))
    for mounted in (plain, watched):
        mounted.unmount()
    return {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}",
            "megabytes": arguments.megabytes, "versions": arguments.versions,
            "mount seconds": {"weightfs mount": plain.seconds, "mount.weightfs": watched.seconds},
            "plain": medians[False], "supervised": medians[True],
            "kill": {"count": len(killed), "median": statistics.median(killed), "longest": max(killed)},
            "restart": {"count": len(restarted), "median": statistics.median(restarted), "longest": max(restarted)}}


def table(result: dict) -> str:
    lines = ["| | weightfs mount | mount.weightfs | ratio |", "| --- | ---: | ---: | ---: |"]
    for what, seconds in result["plain"].items():
        other = result["supervised"][what]
        lines.append(f"| {what} | {seconds * 1e3:.1f} ms | {other * 1e3:.1f} ms | {other / seconds:.2f} |")
    mounts = result["mount seconds"]
    lines.append("| mount | {:.0f} ms | {:.0f} ms | |".format(*(1e3 * mounts[key] for key in mounts)))
    for what in ("kill", "restart"):
        found = result[what]
        lines.append(f"| {what}, until the next page is read, {found['count']} times | | "
                     f"{found['median'] * 1e3:.0f} ms, longest {found['longest'] * 1e3:.0f} ms | |")
    return f"{result['machine']}; {result['megabytes']} MB, {result['versions']} versions.\n\n" + "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--versions", type=int, default=8)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        result = measure(arguments, Path(place))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "supervisor.json").write_text(json.dumps(result, indent=2) + "\n")
    (arguments.out / "supervisor.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
