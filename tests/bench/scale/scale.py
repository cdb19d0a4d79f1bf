#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mounting and reading a store of a thousand versions of a model of 10^12 parameters.

    tests/bench/scale/scale.py [--out DIR] [--keep DIR] [--dense] [--every N]
                               [--tensors 70000 --shards 128 --versions 1000 --parameters 1e12]

Makes a bf16 model whose weights are holes in sparse files, and versions each of which touches every tensor, as
versions.py describes: thin (one block a tensor, about 2 MB a version) or --dense (every block of every tensor, as a
trained run; all versions together are two files and their hard links).  --every N adds a ladder of nets over N versions
each (odd with --dense).  Then it measures, with everything on disk in the page cache ("warm") and with nothing of it
there ("cold"), each on fresh mounts:

    mount        `weightfs mount` until it returns
    page         the first page of the newest version: open, and 4 KiB at a random place of a random tensor
    deep page    the same where the most deltas lie over each other: in block 0 of a tensor
    fault        the page at a random place by a page fault, which makes the kernel read ahead around it
    header       the header of a random shard of a random version
    memory       the daemon's resident memory after each of these, and after a page of each of 100 versions

Every page is compared with what it must be.  Writes scale.json and prints a table; it never fails on a figure.
WEIGHTFS_BIN names another binary.
"""

import argparse
import json
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
from bench.scale.model import BigModel, BigTensor  # noqa: E402
from bench.scale.mounts import PAGE, Mounted, percentile  # noqa: E402
from bench.scale.versions import BigStore, version_name  # noqa: E402

AIMS = {"mount": 1.0, "page": 0.02, "memory": 512 << 20}
SEED = 11


def make(folder: Path, model: BigModel, arguments) -> tuple[BigStore, float]:
    """Model and store in `folder`; how long that took."""
    start = time.perf_counter()
    base = model.write(folder / "model")
    store = BigStore(folder / "store", model, base, arguments.block_bytes, arguments.dense)
    store.init(arguments.versions)
    for version in range(1, arguments.versions + 1):
        store.commit()
        if arguments.every and version % arguments.every == 0:
            store.net(version - arguments.every)
            store.forget_before(version)
        elif not arguments.every:
            store.forget_before(version)
    return store, time.perf_counter() - start


def admitted(store: BigStore) -> int:
    listed = json.loads(mounts.weightfs("log", store.folder, "--json"))
    refused = [entry for entry in listed if entry["state"] != "admitted"]
    if refused or listed[0]["warnings"]:
        raise SystemExit(f"not a good store: {refused[:1] or listed[0]['warnings'][:1]}")
    return len(listed)


class Place:
    """A page inside a tensor."""

    def __init__(self, store: BigStore, tensor: BigTensor, version: int, at: int):
        header = len(store.model.headers[tensor.shard])
        self.store, self.tensor, self.version = store, tensor, version
        self.offset = (header + tensor.begin + at) // PAGE * PAGE  # pages count from the start of the file
        self.at = self.offset - header - tensor.begin
        if self.at < 0:
            self.offset, self.at = self.offset + PAGE, self.at + PAGE

    @staticmethod
    def random(store: BigStore, version: int, rng: random.Random, deep: bool = False) -> "Place":
        tensor = rng.choice([tensor for tensor in rng.choices(store.model.list, k=64) if not tensor.vector])
        end = min(store.block_bytes, tensor.bytes) if deep else tensor.bytes
        return Place(store, tensor, version, rng.randrange(max(1, end - 2 * PAGE)))

    def read(self, mounted: Mounted, read=mounts.read_page) -> float:
        path = mounted.point / version_name(self.version) / self.store.model.shard_name(self.tensor.shard)
        seconds, found = read(path, self.offset)
        if found != self.store.expected(self.version, self.tensor, self.at, PAGE):
            raise SystemExit(f"wrong bytes at {self.offset} of {path}")
        return seconds


def read_header(mounted: Mounted, store: BigStore, version: int, shard: int) -> float:
    path = mounted.point / version_name(version) / store.model.shard_name(shard)
    expected = store.model.headers[shard]
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
        while len(text) < length:
            text += file.read(length - len(text))
    seconds = time.perf_counter() - start
    if length != len(expected) - 8 or text != expected[8:]:
        raise SystemExit(f"wrong header of {path}")
    return seconds


def first_reads(folder: Path, store: BigStore, before, runs: int, rng: random.Random) -> dict:
    """Medians and worst of first reads, each by a daemon of its own."""
    newest, samples = store.versions, {"mount": []}
    for what, deep, read in (("page", False, mounts.read_page), ("deep_page", True, mounts.read_page),
                             ("fault", False, mounts.touch_page)):
        for _ in range(runs):
            before()
            with Mounted(store.folder, folder / "mnt") as mounted:
                samples["mount"].append(mounted.seconds)
                samples.setdefault(what, []).append(Place.random(store, newest, rng, deep).read(mounted, read))
    return {what: {"median": statistics.median(values), "worst": max(values)} for what, values in samples.items()}


def memory(folder: Path, store: BigStore, before, rng: random.Random) -> dict:
    """One daemon's memory and counters while it is asked for more and more, and times of headers."""
    newest, found, steps = store.versions, {}, {}

    def note(step: str) -> None:
        status = mounted.status()
        steps[step] = {"rss": status["memory"]["rss"], "used": status["memory"]["used"],
                       **{key: status["counters"][key] for key in
                          ("source_reads", "header_bytes_read", "tensor_bytes_read", "blocks_decoded")}}

    before()
    with Mounted(store.folder, folder / "mnt") as mounted:
        note("mount")
        Place.random(store, newest, rng).read(mounted)
        note("page")
        headers = [read_header(mounted, store, rng.randint(0, newest), rng.randrange(store.model.shards))
                   for _ in range(200)]
        note("headers")
        pages = [Place.random(store, version, rng).read(mounted)
                 for version in rng.sample(range(1, newest + 1), min(100, newest))]
        note("pages")
        found["peak_rss"] = mounts.peak_rss(mounted.status()["pid"])
    found |= {"steps": steps}
    for what, values in (("header", headers), ("page_of_any", pages)):
        found[what] = {"median": statistics.median(values), "p99": percentile(values, 0.99), "worst": max(values)}
    return found


def measure(folder: Path, store: BigStore, runs: int, gently: bool) -> dict:
    rng = random.Random(SEED)
    mounts.warm_up(store.folder, store.model_folder)
    result, how = {}, "nothing"

    def cool() -> None:
        nonlocal how
        how = mounts.drop_caches(store.folder, store.model_folder, gently=gently)

    for name, before in (("warm", lambda: None), ("cold", cool)):
        result[name] = {"first": first_reads(folder, store, before, runs, rng),
                        **memory(folder, store, before, rng)}
    return {**result, "cooled_by": how}


def disk_bytes(folder: Path) -> int:
    seen = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def rows(result: dict) -> list[tuple[str, str, str, str]]:
    def times(part: str, key: str) -> str:
        values = result[part]["first"][key]
        return f"{values['median'] * 1e3:.1f} ({values['worst'] * 1e3:.1f})"

    def spread(part: str, key: str) -> str:
        values = result[part][key]
        return f"{values['median'] * 1e3:.2f} ({values['p99'] * 1e3:.2f})"

    def size(part: str, step: str) -> str:
        value = result[part]["peak_rss"] if step == "peak" else result[part]["steps"][step]["rss"]
        return f"{value / 2**20:.0f}"

    both = ("warm", "cold")
    table = [("mount, ms: median (worst)", *(times(part, "mount") for part in both), "1000"),
             ("first page, ms", *(times(part, "page") for part in both), "20"),
             ("first deep page, ms", *(times(part, "deep_page") for part in both), "20"),
             ("first page by fault, ms", *(times(part, "fault") for part in both), ""),
             ("header, ms: median (p99)", *(spread(part, "header") for part in both), ""),
             ("a page of any version, ms", *(spread(part, "page_of_any") for part in both), "")]
    for step, what in (("mount", "mounting"), ("page", "the first page"), ("headers", "200 headers"),
                       ("pages", "a page of each of 100 versions"), ("peak", "")):
        label = f"memory after {what}, MiB" if what else "memory at its peak, MiB"
        table.append((label, *(size(part, step) for part in both), "512"))
    return table


def print_table(result: dict) -> None:
    about = result["about"]
    print(f"{about['parameters']:.3g} parameters in {about['tensors']} tensors and {about['shards']} shards, "
          f"{about['versions']} {'dense' if about['dense'] else 'thin'} versions, nets over {about['every'] or '-'}; "
          f"{about['disk_bytes'] / 1e9:.2f} GB on disk, made in {about['made_in']:.0f} s\n")
    print("| | warm | cold | aim |\n| --- | ---: | ---: | ---: |")
    for row in rows(result):
        print("| " + " | ".join(row) + " |")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("."), help="where scale.json goes")
    parser.add_argument("--keep", type=Path, help="make the data here and keep it")
    parser.add_argument("--tensors", type=int, default=70_000)
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--versions", type=int, default=1000)
    parser.add_argument("--parameters", type=float, default=1e12)
    parser.add_argument("--block-bytes", type=int, default=1 << 18, choices=(1 << 16, 1 << 18, 1 << 20))
    parser.add_argument("--dense", action="store_true", help="versions that touch every block")
    parser.add_argument("--every", type=int, default=0, help="nets over so many versions; 0: none")
    parser.add_argument("--runs", type=int, default=5, help="mounts for each figure of a first read")
    parser.add_argument("--fadvise", action="store_true", help="cold without dropping all of the machine's caches")
    return parser.parse_args(arguments)


def main(argv: list[str] | None = None) -> dict:
    arguments = parse(argv)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="weightfs-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    model = BigModel(arguments.tensors, arguments.shards, int(arguments.parameters))
    try:
        store, made_in = make(folder, model, arguments)
        about = {"tensors": model.tensors, "shards": model.shards, "parameters": model.total_parameters,
                 "versions": admitted(store) - 1, "dense": arguments.dense, "every": arguments.every,
                 "block_bytes": arguments.block_bytes, "made_in": made_in, "disk_bytes": disk_bytes(folder)}
        result = {"about": about, "aims": AIMS, **measure(folder, store, arguments.runs, arguments.fadvise)}
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    host = {"cores": os.cpu_count(), "machine": platform.machine(), "kernel": platform.release()}
    (arguments.out / "scale.json").write_text(json.dumps({"host": host, **result}, indent=1) + "\n")
    print_table(result)
    return result


if __name__ == "__main__":
    main()
