# SPDX-License-Identifier: Apache-2.0
"""`latest` while versions arrive: it only moves on, to what is complete, and stands still for a loader at work.

A pin belongs to a process tree.  All that pytest starts is one tree, so the tests of pins fork processes that are
nobody's children here, and this process looks at the status instead of at the link.
"""

import multiprocessing
import os
import threading
import time
import traceback

import pytest
from following import (FastRun, assert_exact, attribute, follow, make_run, number_in, number_of, said_of, status,
                       wait_admitted, wait_latest, wait_until)

FAST_VERSIONS = 40
NEVER = 600  # a grace that no test outlasts


# --- other process trees --------------------------------------------------------------------------


def read_latest(mounted):
    return os.readlink(os.path.join(mounted, "latest"))


def open_through_latest(mounted, file):
    """(version that the file says it is of, its bytes), opened by the path that a loader has."""
    descriptor = os.open(os.path.join(mounted, "latest", file), os.O_RDONLY)
    try:
        version = os.getxattr(descriptor, "user.weightfs.version").decode()
        return version, os.pread(descriptor, 1 << 30, 0)
    finally:
        os.close(descriptor)


def in_a_child(mounted):
    """What `latest` is for a child of this process, and for a child of that one."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        mine = read_latest(mounted)
        grandchild = os.fork()
        if grandchild == 0:
            send.send((mine, read_latest(mounted)))
            os._exit(0)
        os.waitpid(grandchild, 0)
        os._exit(0)
    os.waitpid(child, 0)
    return receive.recv()


def in_a_thread(mounted):
    found = []
    thread = threading.Thread(target=lambda: found.append(read_latest(mounted)))
    thread.start()
    thread.join()
    return found[0]


def serve(connection):
    """Does what it is asked for until nobody is there to ask."""
    try:
        while True:
            function, arguments = connection.recv()
            try:
                connection.send((True, function(*arguments)))
            except Exception:
                connection.send((False, traceback.format_exc()))
    except (EOFError, OSError):
        pass


class Tree:
    """A process whose parent is init, with a session of its own: its own tree."""

    def __init__(self):
        self._connection, theirs = multiprocessing.Pipe()
        middle = os.fork()
        if middle == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    self._connection.close()
                    serve(theirs)
            finally:
                os._exit(0)
        theirs.close()
        os.waitpid(middle, 0)
        self.pid = self.ask(os.getpid)
        if self.ask(os.getppid) != 1:
            self.close()
            pytest.skip("orphans do not become children of process 1 here")

    def ask(self, function, *arguments):
        self._connection.send((function, arguments))
        assert self._connection.poll(60), f"no answer from {function.__name__}"
        well, answer = self._connection.recv()
        assert well, answer
        return answer

    def latest(self, mounted):
        return self.ask(read_latest, str(mounted.path))

    def close(self):
        self._connection.close()


@pytest.fixture
def new_tree():
    trees = []

    def make():
        trees.append(Tree())
        return trees[-1]

    yield make
    for tree in trees:
        tree.close()
    for tree in trees:  # what they have open would keep the mount busy
        wait_until(lambda pid=tree.pid: not os.path.exists(f"/proc/{pid}"), what=f"end of process {tree.pid}")


@pytest.fixture
def published(tmp_path):
    """A run with one version."""
    run = make_run("xor", tmp_path)
    run.publish()
    return run


def publish_another(mounted, run):
    """Publishes, and waits without asking for `latest`."""
    name = run.publish()
    wait_admitted(mounted, name)
    return name


# --- pins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grace", [1, 3])
def test_who_polls_latest_moves_on_after_the_grace(published, grace, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=grace), new_tree()
    wait_admitted(mounted, published.names[0])
    began = time.monotonic()
    assert tree.latest(mounted) == published.names[0]
    name = publish_another(mounted, published)
    wait_until(lambda: tree.latest(mounted) == name, what=lambda: said_of(mounted, name))
    assert time.monotonic() - began >= grace - 0.1, "a pin ended early"


def test_without_grace_latest_is_the_newest_for_all(published, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=0), new_tree()
    wait_latest(mounted, published.names[0])
    for _ in range(3):
        assert tree.latest(mounted) == published.names[-1]
        publish_another(mounted, published)
        assert status(mounted)["follow"]["pins"] == 0
    assert tree.latest(mounted) == os.readlink(mounted / "latest") == published.names[-1]


def test_two_trees_are_pinned_for_themselves(published, mount, new_tree):
    mounted, early, late = follow(mount, published, pin_grace=NEVER), new_tree(), new_tree()
    wait_admitted(mounted, published.names[0])
    first = published.names[0]
    assert early.latest(mounted) == first
    second = publish_another(mounted, published)
    assert late.latest(mounted) == second
    third = publish_another(mounted, published)
    assert early.latest(mounted) == first and late.latest(mounted) == second
    assert new_tree().latest(mounted) == third
    assert status(mounted)["follow"]["pins"] == 3
    assert_exact(mounted, published)


def test_children_and_threads_see_what_their_tree_sees(published, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=NEVER), new_tree()
    wait_admitted(mounted, published.names[0])
    first = tree.latest(mounted)
    publish_another(mounted, published)
    assert tree.ask(in_a_child, str(mounted.path)) == (first, first)
    assert tree.ask(in_a_thread, str(mounted.path)) == first
    assert status(mounted)["follow"]["pins"] == 1


def test_a_child_that_comes_first_pins_its_tree(published, mount, new_tree):
    """Workers of a loader may look before the process that started them does."""
    mounted, tree = follow(mount, published, pin_grace=NEVER), new_tree()
    wait_admitted(mounted, published.names[0])
    first = published.names[0]
    assert tree.ask(in_a_child, str(mounted.path)) == (first, first)
    publish_another(mounted, published)
    assert tree.latest(mounted) == first


def test_a_tree_that_ended_leaves_no_pin(published, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=2), new_tree()
    wait_admitted(mounted, published.names[0])
    tree.latest(mounted)
    assert status(mounted)["follow"]["pins"] <= 1
    tree.close()
    wait_until(lambda: status(mounted)["follow"]["pins"] == 0, what=lambda: said_of(mounted, published.names[0]))


def load_slowly(tree, mounted, run, seconds, grace):
    """Opens file after file through `latest`; the versions seen, and whether we were ever too slow for the grace."""
    files = sorted(path.name for path in run.base.iterdir() if path.is_file())
    seen, slowest, last = [], 0.0, time.monotonic()
    deadline = last + seconds
    while time.monotonic() < deadline:
        version, content = tree.ask(open_through_latest, str(mounted.path), files[len(seen) % len(files)])
        assert content == (run.folders[version] / files[len(seen) % len(files)]).read_bytes()
        seen.append(version)
        slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
        time.sleep(0.2)
    return seen, slowest >= grace * 0.8


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["kernel", "copy"])
def test_a_loader_that_opens_shard_after_shard_never_mixes(published, options, mount, new_tree):
    grace = 3
    mounted, tree = follow(mount, published, pin_grace=grace, **options), new_tree()
    wait_admitted(mounted, published.names[0])
    assert tree.latest(mounted) == published.names[0]
    stop = threading.Event()
    publisher = threading.Thread(target=lambda: [published.publish() for _ in iter(lambda: stop.wait(0.5), True)])
    publisher.start()
    try:
        seen, too_slow = load_slowly(tree, mounted, published, 3 * grace, grace)
    finally:
        stop.set()
        publisher.join()
    if not too_slow:
        assert set(seen) == {published.names[0]}, "a loader saw two versions"
    newest = published.names[-1]
    wait_until(lambda: tree.latest(mounted) == newest, what=lambda: said_of(mounted, newest))


def test_a_version_that_somebody_is_pinned_to_stays_listed(published, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=NEVER, keep=1), new_tree()
    first = published.names[0]
    wait_admitted(mounted, first)
    assert tree.latest(mounted) == first
    second, third = publish_another(mounted, published), publish_another(mounted, published)
    wait_until(lambda: mounted.versions() == ["base", first, third], what=lambda: str(mounted.versions()))
    version, content = tree.ask(open_through_latest, str(mounted.path), "config.json")
    assert version == first and content == (published.base / "config.json").read_bytes()
    assert_exact(mounted, published, "base", first, third)
    assert second not in mounted.versions()


def test_a_pin_that_ended_holds_nothing(published, mount, new_tree):
    mounted, tree = follow(mount, published, pin_grace=2, keep=1), new_tree()
    wait_admitted(mounted, published.names[0])
    tree.latest(mounted)
    publish_another(mounted, published)
    third = publish_another(mounted, published)
    wait_until(lambda: mounted.versions() == ["base", third], what=lambda: str(mounted.versions()))
    assert tree.latest(mounted) == third


def test_a_pin_survives_the_trainers_restart(published, mount, new_tree):
    """The name is that of another version now; whoever was pinned goes on to the new run, and nobody sees a mixture."""
    mounted, tree = follow(mount, published, pin_grace=2), new_tree()
    wait_admitted(mounted, published.names[0])
    publish_another(mounted, published)
    tree.latest(mounted)
    other = published.fork(0)
    name = other.make()
    published.wipe()
    other.put(name)
    wait_admitted(mounted, name)
    wait_until(lambda: tree.latest(mounted) == name, what=lambda: said_of(mounted, name))
    version, content = tree.ask(open_through_latest, str(mounted.path), "model-00001-of-00002.safetensors")
    assert version == name and content == (other.folders[name] / "model-00001-of-00002.safetensors").read_bytes()


# --- latest under a fast publisher ----------------------------------------------------------------


def watch(mounted, run, last, problems):
    """Follows the link until it is at the last version; every step must be forwards and to something complete."""
    seen = 0
    try:
        deadline = time.monotonic() + 120
        while seen < last and time.monotonic() < deadline:
            name = os.readlink(mounted / "latest")
            assert number_of(name) >= seen, f"from {seen} back to {name}"
            seen = number_of(name)
            assert name in mounted.versions(), f"latest is {name}, which is not there"
            assert (mounted / name / "config.json").read_bytes() == run.config
            for shard in run.shards:
                assert number_in((mounted / name / shard).read_bytes()) == seen
            assert attribute(mounted / name, "version") == name
        assert seen == last, f"latest stays at {seen}"
    except BaseException:
        problems.append(traceback.format_exc())


@pytest.mark.timeout(240)
def test_latest_never_goes_back_and_is_always_complete(tmp_path, mount):
    run = FastRun(tmp_path)
    mounted = follow(mount, run)
    problems = []
    watchers = [threading.Thread(target=watch, args=(mounted, run, FAST_VERSIONS, problems)) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    for _ in range(FAST_VERSIONS):
        run.publish()
        time.sleep(0.02)
    for watcher in watchers:
        watcher.join()
    assert not problems, "\n".join(problems)
    assert status(mounted)["follow"]["admitted"] == FAST_VERSIONS
    assert mounted.log_file.read_text().count("latest.moved") >= 1


def test_latest_is_admitted_in_every_status(tmp_path, mount):
    """What one status document says fits together while versions arrive."""
    run = FastRun(tmp_path)
    mounted = follow(mount, run)
    publisher = threading.Thread(target=lambda: [run.publish() for _ in range(FAST_VERSIONS)])
    publisher.start()

    def at_the_end():
        found = status(mounted)
        states = {version["name"]: version["state"] for version in found["versions"]}
        assert states[found["latest"]] == "admitted"
        return number_of(found["latest"]) == FAST_VERSIONS

    try:
        wait_until(at_the_end, what=lambda: said_of(mounted, f"weight_v{FAST_VERSIONS:06d}"))
    finally:
        publisher.join()
