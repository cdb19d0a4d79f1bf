# SPDX-License-Identifier: Apache-2.0
"""Many readers check bytes while versions are warmed, stopped and dropped in a budget for one of them."""

import multiprocessing
import os
import random
import threading
import time
import traceback

import pytest
from warming import CANCEL, DROP, START, Mapping, assert_no_errors, assert_reads, make_chain, tell, warm

READERS = 24
SECONDS = float(os.environ.get("WEIGHTFS_WARM_TEST_SECONDS", "12"))
PAGE = 4096


def check_ranges(rng, read, content, count):
    for _ in range(count):
        start = rng.randrange(len(content))
        length = rng.choice([1, 100, PAGE, 70_000, 600_000])
        assert read(start, length) == content[start:start + length], f"{length} bytes at {start}"


def read_once(rng, path, content):
    way = rng.choice(["pread", "mmap", "mmap", "fork-like"])
    if way == "pread":
        with open(path, "rb", buffering=0) as file:
            check_ranges(rng, lambda start, length: os.pread(file.fileno(), length, start), content, 6)
        return
    with Mapping(path) as mapping:
        check_ranges(rng, lambda start, length: bytes(mapping.view[start:start + length]), content, 6)
        if way == "fork-like":  # hold it while others go on
            time.sleep(rng.random() * 0.1)
            check_ranges(rng, lambda start, length: bytes(mapping.view[start:start + length]), content, 6)


def reader(seed, files, deadline, reports):
    rng, done = random.Random(seed), 0
    try:
        while time.monotonic() < deadline:
            path, content = rng.choice(files)
            read_once(rng, path, content)
            done += 1
        reports.put((done, None))
    except BaseException as error:
        reports.put((done, f"{path}: {traceback.format_exc(limit=-2)}{error}"))


def command(mounted, names, deadline, problems):
    rng = random.Random(91)
    try:
        while time.monotonic() < deadline:
            name = rng.choice(names)
            tell(mounted, name, START)
            time.sleep(rng.choice([0, 0.002, 0.01, 0.05]))
            tell(mounted, rng.choice([name, rng.choice(names)]), rng.choice([START, CANCEL, CANCEL, DROP]))
    except BaseException as error:
        problems.append(f"commands: {error!r}")


def press(deadline):
    """Takes clean pages from the whole system, where we may."""
    while time.monotonic() < deadline:
        try:
            with open("/proc/sys/vm/drop_caches", "w") as file:
                file.write("1")
        except OSError:
            return
        time.sleep(0.05)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind, options", [("weight_v", []), ("native", []), ("trl", ["--passthrough=off"])],
                         ids=["weight_v", "native", "trl-copy"])
def test_no_reader_ever_sees_a_wrong_byte(kind, options, tmp_path, mount):
    chain = make_chain(kind, tmp_path)
    mounted = chain.mount(mount, "--memory", chain.memory_for(1), *options)
    files = [(mounted / name / shard, (chain.folders[name] / shard).read_bytes())
             for name in chain.names for shard in chain.shards(name)]
    deadline = time.monotonic() + SECONDS / 3
    context = multiprocessing.get_context("fork")
    reports, problems = context.Queue(), []
    readers = [context.Process(target=reader, args=(seed, files, deadline, reports)) for seed in range(READERS)]
    for process in readers:
        process.start()
    others = [threading.Thread(target=command, args=(mounted, chain.names, deadline, problems)),
              threading.Thread(target=press, args=(deadline,))]
    for thread in others:
        thread.start()
    found = [reports.get(timeout=SECONDS + 60) for _ in readers]
    for task in others + readers:
        task.join(60)
    assert not problems
    assert [problem for _, problem in found if problem] == []
    assert all(done > 0 for done, _ in found) and all(process.exitcode == 0 for process in readers)
    assert mounted.log_file.read_text().count("warm.done") > 3, "versions should have come and gone meanwhile"
    memory = mounted.status()["memory"]
    assert memory["warm"] <= memory["budget"]
    for name in chain.names:
        warm(mounted, name)
        assert_reads(mounted / name, chain.folders[name])
    assert_no_errors(mounted)
    mounted.unmount()
