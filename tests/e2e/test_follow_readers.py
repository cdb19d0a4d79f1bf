# SPDX-License-Identifier: Apache-2.0
"""Many readers while a publisher is in a hurry: no mixture, no error, no way back, and nothing that piles up.

WEIGHTFS_FOLLOW_VERSIONS says how many versions are published: 100 here, 1000 in CI, 20000 in the long run.
"""

import mmap
import multiprocessing
import os
import threading
import time
import traceback

import pytest
from following import FastRun, follow, number_in, number_of, said_of, status, wait_latest, wait_until
from processes import Weight, descriptors
from reference.safetensors_io import DTYPE_BYTES, ModelFolder

VERSIONS = int(os.environ.get("WEIGHTFS_FOLLOW_VERSIONS", "100"))
PROCESSES, THREADS = 4, 8
KEEP = 8
INTERVAL = 0.05
AHEAD = 5  # the publisher waits for a mount that is slower than it, or --keep would say nothing
LOADS = 25


# --- readers --------------------------------------------------------------------------------------


def read_at(folder, name):
    descriptor = os.open(name, os.O_RDONLY, dir_fd=folder)
    try:
        return os.pread(descriptor, 1 << 30, 0)
    finally:
        os.close(descriptor)


def open_latest(mounted):
    """(number, handle) of the version that the link names; anew when --keep overtook us between the two."""
    while True:
        name = os.readlink(mounted / "latest")
        try:
            return number_of(name), os.open(mounted / name, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            newest = number_of(os.readlink(mounted / "latest"))
            assert newest - number_of(name) >= KEEP, f"{name} is gone while {newest} is the newest"


def read_one_version(mounted, run):
    """Everything relative to one handle: all of it is of the version that the handle was opened for."""
    number, folder = open_latest(mounted)
    try:
        assert os.getxattr(folder, "user.weightfs.version").decode().endswith(f"{number:06d}") or number == 0
        assert read_at(folder, "config.json") == run.config
        for shard in run.shards:
            assert number_in(read_at(folder, shard)) == number, f"{shard} by the handle of {number}"
    finally:
        os.close(folder)
    return number


def read_on(mounted, run, stop, results, problems):
    """One thread: reads `latest` until it is told to stop; numbers never decrease."""
    seen, rounds = 0, 0
    try:
        while not stop.is_set():
            number = read_one_version(mounted, run)
            assert number >= seen, f"from {seen} back to {number}"
            seen, rounds = number, rounds + 1
    except BaseException:
        problems.append(traceback.format_exc())
        stop.set()
    results.append((rounds, seen))


def reader_process(mounted, run, stop, reports):
    results, problems = [], []
    tasks = [threading.Thread(target=read_on, args=(mounted, run, stop, results, problems)) for _ in range(THREADS)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    reports.put((results, problems))


class Readers:
    """PROCESSES x THREADS readers, started when entered and asked for their results by finish()."""

    def __init__(self, mounted, run):
        context = multiprocessing.get_context("fork")
        self.stop, self.reports = context.Event(), context.Queue()
        self.processes = [context.Process(target=reader_process, args=(mounted, run, self.stop, self.reports))
                          for _ in range(PROCESSES)]

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def finish(self):
        self.stop.set()
        reports = [self.reports.get(timeout=120) for _ in self.processes]
        for process in self.processes:
            process.join(60)
        problems = [problem for _, found in reports for problem in found]
        assert not problems, "\n".join(problems[:3])
        results = [result for found, _ in reports for result in found]
        assert len(results) == PROCESSES * THREADS
        return results

    def __exit__(self, *_):
        self.stop.set()
        for process in self.processes:
            process.join(60)
            if process.is_alive():
                process.kill()


# --- publisher ------------------------------------------------------------------------------------


def publish_steadily(mounted, run, count, stop=None):
    """One version every INTERVAL; slower where the mount cannot follow."""
    due = time.monotonic()
    for _ in range(count):
        if stop is not None and stop.is_set():
            return
        name = run.publish()
        wait_until(lambda: run.number - number_of(os.readlink(mounted / "latest")) <= AHEAD,
                   what=lambda: said_of(mounted, name))
        due = max(due + INTERVAL, time.monotonic() - INTERVAL)
        time.sleep(max(0.0, due - time.monotonic()))


@pytest.mark.timeout(300 + 2 * VERSIONS)
@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}, {"warm": "none"}], ids=["warm", "copy", "decode"])
def test_readers_of_one_handle_see_one_version(tmp_path, mount, options):
    run = FastRun(tmp_path)
    mounted = follow(mount, run, keep=KEEP, memory="24M", **options)  # a cache that soon is as full as it will be
    pid = status(mounted)["pid"]
    early_at = min(100, VERSIONS // 2)
    with Readers(mounted, run) as readers:
        publish_steadily(mounted, run, early_at, readers.stop)
        early = Weight.at_rest(mounted, run, pid)
        publish_steadily(mounted, run, run.missing(VERSIONS, like=early_at), readers.stop)
        results = readers.finish()
    late = Weight.at_rest(mounted, run, pid)
    assert all(rounds > 0 for rounds, _ in results), "a reader never got to read"
    late.assert_not_above(early)
    counters = mounted.counters()
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0
    assert status(mounted)["follow"]["admitted"] == run.number and status(mounted)["follow"]["refusals"] == 0
    newest = [f"weight_v{number:06d}" for number in range(run.number - KEEP + 1, run.number + 1)]
    wait_until(lambda: mounted.versions() == ["base", *newest], what=lambda: str(mounted.versions()))
    mounted.unmount()


# --- holders --------------------------------------------------------------------------------------


def hold_file(folder, shard):
    descriptor = os.open(shard, os.O_RDONLY, dir_fd=folder)
    os.close(folder)
    return lambda: os.close(descriptor)


def hold_mapping(folder, shard):
    with open(os.open(shard, os.O_RDONLY, dir_fd=folder), "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    os.close(folder)
    return mapping.close


def hold_folder(folder, shard):
    def release():
        read_at(folder, shard)
        os.close(folder)
    return release


def hold_folder_and_list(folder, shard):
    def release():
        assert shard in [entry.name for entry in os.scandir(folder) if entry.stat().st_size > 0]
        os.close(folder)
    return release


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}, {"warm": "none"}], ids=["warm", "copy", "decode"])
@pytest.mark.parametrize("hold", [hold_file, hold_mapping, hold_folder, hold_folder_and_list])
def test_what_was_held_is_let_go_when_it_is_closed(tmp_path, mount, hold, options):
    """The kernel keeps what has a name for as long as it has memory to spare, and so would we keep the version."""
    run = FastRun(tmp_path)
    run.FULL_EVERY = 4  # what comes afterwards needs no file of what is held
    mounted = follow(mount, run, keep=2, **options)
    pid = status(mounted)["pid"]
    for _ in range(2):
        wait_latest(mounted, run.publish())
    release = hold(open_latest(mounted)[1], run.shards[0])
    for _ in range(4):
        wait_latest(mounted, run.publish())
    wait_until(lambda: status(mounted)["kernel"]["former_versions"] == 1, what=lambda: str(status(mounted)["kernel"]))
    files, warm = descriptors(pid), status(mounted)["memory"]["warm"]
    release()

    def is_let_go():
        now = status(mounted)
        less = now["memory"]["warm"] < warm or options == {"warm": "none"}
        return now["kernel"]["trees"] == 1 and less and descriptors(pid) < files

    wait_until(is_let_go, what=lambda: f"{files} files, {warm} B warm, then {descriptors(pid)}, {status(mounted)}")
    assert mounted.versions() == ["base", f"weight_v{run.number - 1:06d}", f"weight_v{run.number:06d}"]


# --- loaders --------------------------------------------------------------------------------------


class Publisher:
    """Publishes in a thread while a test loads."""

    def __init__(self, mounted, run):
        self.problems, self.stop = [], threading.Event()
        self._thread = threading.Thread(target=self._work, args=(mounted, run))

    def _work(self, mounted, run):
        try:
            while not self.stop.is_set():
                publish_steadily(mounted, run, 1)
        except BaseException:
            self.problems.append(traceback.format_exc())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self._thread.join()
        assert not self.problems, "\n".join(self.problems)


def only_number(bits):
    """The one number that all these bit patterns are."""
    values = {int(value) for tensor in bits for value in tensor.unique()}
    assert len(values) == 1, f"a mixture of {sorted(values)}"
    return values.pop()


def bits_of(tensor):
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.int16)


@pytest.mark.timeout(300)
def test_load_file_gives_one_version(tmp_path, mount):
    """safetensors maps the files; its tensors stay right while later versions come."""
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    run = FastRun(tmp_path)
    mounted = follow(mount, run)
    wait_latest(mounted, run.publish())
    loaded = []
    with Publisher(mounted, run):
        for _ in range(LOADS):
            name = os.readlink(mounted / "latest")
            tensors = {key: value for shard in run.shards for key, value in load_file(mounted / name / shard).items()}
            assert set(tensors) == set(run.shapes)
            assert only_number(map(bits_of, tensors.values())) == number_of(name)
            loaded.append((number_of(name), tensors))
    for number, tensors in loaded:
        assert only_number(map(bits_of, tensors.values())) == number, "changed after it was loaded"
    assert loaded[-1][0] > loaded[0][0], "nothing was published meanwhile"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("grace", [0, 60])
def test_transformers_loads_one_version(tmp_path, mount, grace):
    """With a pin, also by the path through `latest`, which transformers resolves for each of its files."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from reference.trainer import tiny_qwen3, to_tensor

    model = tiny_qwen3(torch.bfloat16)
    model.config.save_pretrained(tmp_path / "config")
    shapes = {name: to_tensor(value).shape for name, value in model.state_dict().items()}
    assert all(DTYPE_BYTES[to_tensor(value).dtype] == 2 for value in model.state_dict().values())
    run = FastRun(tmp_path, shapes, tmp_path / "config" / "config.json")
    run.publish()
    mounted = follow(mount, run, pin_grace=grace)
    wait_until(lambda: status(mounted)["latest"] != "base", what=lambda: said_of(mounted, "base"))
    assert set(ModelFolder.open(mounted / "latest").place) == set(shapes)
    loads = LOADS if grace == 0 else 5
    numbers = []
    with Publisher(mounted, run) if grace == 0 else PinnedPublisher(mounted, run):
        for _ in range(loads):
            folder = mounted / os.readlink(mounted / "latest") if grace == 0 else mounted / "latest"
            loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
            numbers.append(only_number(map(bits_of, loaded.state_dict().values())))
    assert numbers == sorted(numbers)
    if grace == 0:
        assert numbers[-1] > numbers[0], "nothing was published meanwhile"
    else:
        assert len(set(numbers)) == 1, "who is pinned sees one version"


class PinnedPublisher(Publisher):
    """Waits by the status: the link stands still for all that pytest starts."""

    def _work(self, mounted, run):
        try:
            while not self.stop.is_set():
                run.publish()
                wait_until(lambda: run.number - number_of(status(mounted)["latest"]) <= AHEAD,
                           what=lambda: said_of(mounted, "base"))
                self.stop.wait(INTERVAL)
        except BaseException:
            self.problems.append(traceback.format_exc())
