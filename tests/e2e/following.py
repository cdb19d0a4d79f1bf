# SPDX-License-Identifier: Apache-2.0
"""What the tests of `weightfs mount --follow` share: trainers that publish, what is true, and ways to wait and look.

A Run makes each version in a workshop and puts it into the source on demand, so that a test decides when which file
arrives.  `folders` holds the true folder of every version, written from what the trainer had.
"""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Mount, assert_same_tree, succeed
from reference import trl, weight_v
from reference.safetensors_io import INDEX_NAME, ModelFolder, State, Tensor, copy_state, write_model
from warming import drop_page_cache

SHAPES = {"a.weight": (256, 128), "b.weight": (300, 129), "c.norm": (129,), "d.weight": (100, 128)}
KINDS = ["xor", "overwrite", "trl", "native"]
REPEAT = int(os.environ.get("WEIGHTFS_REPEAT", "1"))
LIMIT = 60  # seconds within which what must happen happens, on the busiest machine
ALWAYS = 10**9


# --- waiting --------------------------------------------------------------------------------------


def wait_until(condition, limit: float = LIMIT, what="", pause: float = 0.02):
    """The first true answer of condition(); `what` is said on failure, and may be a function that finds it out then."""
    deadline = time.monotonic() + limit
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(f"not within {limit} s: {what() if callable(what) else what}")
        time.sleep(pause)
    return answer


def holds_for(condition, seconds: float, what: str, pause: float = 0.05) -> None:
    """For what must not happen, and leaves no trace when it does not: looks all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(pause)


# --- trainers -------------------------------------------------------------------------------------


def first_state(shapes: dict = SHAPES, seed: int = 81) -> State:
    rng = np.random.default_rng(seed)
    return {name: Tensor("BF16", shape, rng.integers(0, 120, int(np.prod(shape)) * 2, dtype=np.uint8))
            for name, shape in shapes.items()}


def train(state: State, rng: np.random.Generator, number: int) -> State:
    """About 2 % of the elements change; now and then a tensor does not."""
    result = copy_state(state)
    for name, tensor in result.items():
        if (name == "b.weight" and number % 2 == 0) or (name == "c.norm" and number % 3 != 0):
            continue
        tensor.bits()[rng.integers(0, tensor.elements, max(1, tensor.elements // 50))] ^= 1
    return result


class Run:
    """A trainer.  make() a version in the workshop, put() it into the source; publish() does both."""

    def __init__(self, place: Path, origin: "Run | None" = None, keep: int = 0):
        """With an origin: another run on the same base and source that shares its first `keep` versions."""
        self.place = place
        self.number = keep
        self.runs = [] if origin is None else origin.runs
        self.runs.append(self)
        self.title = f"run-{len(self.runs)}"
        self.workshop = place / f"{self.title}-workshop"
        self.source = place / "source"
        self.rng = np.random.default_rng(90 + len(self.runs))
        if origin is None:
            self.states = [first_state()]
            self.base = write_model(place / "base", self.states[0], 2, {"model_type": "test"}, {"notes/a.txt": b"n\n"})
            self.folders = {"base": self.base}
        else:
            self.states = origin.states[:keep + 1]
            self.base = origin.base
            self.folders = {name: origin.folders[name] for name in ["base", *origin.names[:keep]]}
        self.begin(origin)

    # What depends on the format:

    def begin(self, origin: "Run | None") -> None:
        """Prepares the workshop and an empty source."""
        raise NotImplementedError

    def name_of(self, number: int) -> str:
        raise NotImplementedError

    def write(self, state: State, full: bool) -> None:
        """Writes version self.number into the workshop."""
        raise NotImplementedError

    def where(self, name: str) -> Path:
        """A version's folder or file, relative to the source."""
        raise NotImplementedError

    def mount_base(self) -> Path | None:
        return self.base

    # What does not:

    @property
    def names(self) -> list[str]:
        """Versions but the base, oldest first."""
        return [name for name in self.folders if name != "base"]

    def fork(self, keep: int) -> "Run":
        """Another run into the same source: what a trainer that goes back to version `keep` would publish."""
        return type(self)(self.place, self, keep)

    def make(self, full: bool = False, state: State | None = None) -> str:
        self.number += 1
        name = self.name_of(self.number)
        self.states.append(state or train(self.states[-1], self.rng, self.number))
        folder = self.place / f"{self.title}-true" / name
        self.folders[name] = ModelFolder.open(self.base).write_version(folder, self.states[-1])
        self.write(self.states[-1], full)
        return name

    def files(self, name: str) -> list[Path]:
        """A version's files relative to the source, in the order of publishing: the last one completes it."""
        made = self.workshop / self.where(name)
        if made.is_file():
            return [self.where(name)]
        found = sorted(path.relative_to(self.workshop) for path in made.rglob("*") if path.is_file())
        return sorted(found, key=lambda path: path.name in (INDEX_NAME, "manifest.json"))

    def staged(self, name: str) -> Path:
        """A copy of a version beside the source, to be moved there or damaged before."""
        copy = self.place / "staging" / self.where(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        remove(copy)
        if (self.workshop / self.where(name)).is_dir():
            shutil.copytree(self.workshop / self.where(name), copy, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(self.workshop / self.where(name), copy)
        return copy

    def put(self, name: str, damage=None) -> str:
        """Moves a version into the source in one step, in place of one that is there; damage(path) comes before."""
        copy, target = self.staged(name), self.source / self.where(name)
        if damage is not None:
            damage(copy)
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy.is_dir() and target.exists():
            aside = self.place / "aside"
            remove(aside)
            os.rename(target, aside)
        os.rename(copy, target)
        return name

    def put_file(self, file: Path, share: float = 1.0) -> Path:
        """Writes one file of a version in place up to a share of it, as an upload does that goes on where it was."""
        content = (self.workshop / file).read_bytes()
        target = self.source / file
        target.parent.mkdir(parents=True, exist_ok=True)
        there = target.stat().st_size if target.exists() else 0
        with open(target, "ab") as out:
            out.write(content[there:int(len(content) * share)])
        return target

    def publish(self, full: bool = False) -> str:
        return self.put(self.make(full))

    def take_away(self, name: str) -> None:
        remove(self.source / self.where(name))

    def wipe(self) -> None:
        """Removes every version from the source, as a trainer does that starts anew."""
        for run in self.runs:
            for name in run.names:
                run.take_away(name)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class WeightVRun(Run):
    encoding = "xor"

    def begin(self, origin):
        self.source.mkdir(exist_ok=True)
        self.writer = weight_v.WeightVWriter(self.workshop, self.states[-1], encoding=self.encoding)
        self.writer.version = self.number

    def name_of(self, number):
        return f"weight_v{number:06d}"

    def write(self, state, full):
        self.writer.publish(state, full=full)

    def where(self, name):
        return Path(name)


class OverwriteRun(WeightVRun):
    encoding = "overwrite"


class TrlRun(Run):
    """Version 1 is an anchor; with full=True any other, too."""

    def begin(self, origin):
        self.source.mkdir(exist_ok=True)
        self.anchors = set()
        self.writer = trl.TrlWriter(self.workshop, anchor_interval=ALWAYS)
        self.writer.step = self.number
        self.writer.last = copy_state(self.states[-1]) if self.number else None

    def name_of(self, number):
        return f"step_{number:06d}"

    def write(self, state, full):
        self.writer.anchor_interval = self.number if full else ALWAYS
        if full or self.number == 1:
            self.anchors.add(self.name_of(self.number))
        self.writer.publish(state)

    def where(self, name):
        return Path("anchors" if name in self.anchors else "deltas") / f"{name}.safetensors"


class NativeRun(Run):
    """The source is a copy of the workshop's store without its versions."""

    def begin(self, origin):
        if origin is None:
            succeed("init", self.workshop, "--base", self.base)
            shutil.copytree(self.workshop, self.source)
            return
        shutil.copytree(origin.workshop, self.workshop)
        for name in origin.names[self.number:]:
            shutil.rmtree(self.workshop / self.where(name))

    def name_of(self, number):
        return f"v{number:06d}"

    def write(self, state, full):
        name = self.name_of(self.number)
        succeed("commit", self.workshop, self.folders[name], "--name", name, *(["--full"] if full else []))

    def where(self, name):
        return Path("versions") / name

    def mount_base(self):
        return None


class StoreRun(NativeRun):
    """Commits into the source itself, as `weightfs commit` is used."""

    def begin(self, origin):
        self.workshop = self.source
        succeed("init", self.source, "--base", self.base)

    def put(self, name, damage=None):
        assert damage is None
        return name


RUNS = {"xor": WeightVRun, "overwrite": OverwriteRun, "trl": TrlRun, "native": NativeRun, "store": StoreRun}


def make_run(kind: str, place: Path) -> Run:
    return RUNS[kind](place)


@pytest.fixture(params=KINDS)
def run(request, tmp_path) -> Run:
    """A run whose source is still empty; parametrise it indirectly to choose among KINDS."""
    return make_run(request.param, tmp_path)


@pytest.fixture(params=range(REPEAT))
def attempt(request) -> int:
    """WEIGHTFS_REPEAT runs a test several times; see `warmth`."""
    return request.param


@pytest.fixture
def warmth(attempt) -> str:
    """--warm: none, then all bytes are composed again after the cache was dropped; latest in every second attempt."""
    return "latest" if attempt % 2 else "none"


# --- a trainer in a hurry -------------------------------------------------------------------------


class FastRun:
    """weight_v versions that are quick to write and to check: every element of version N has the bits N.

    A full version from time to time, as trainers write, so that what is older can be deleted.
    """

    FULL_EVERY = 40
    LEAVE = 100

    def __init__(self, place: Path, shapes: dict | None = None, config: Path | None = None):
        self.shapes = shapes or {name: (128, 256) for name in ("a.weight", "b.weight", "c.weight", "d.weight")}
        self.source, self.workshop, self.base = place / "source", place / "workshop", place / "base"
        self.source.mkdir()
        write_model(self.base, self.state(0), 2, None if config else {"model_type": "test"})
        if config is not None:
            shutil.copyfile(config, self.base / "config.json")
        self.writer = weight_v.WeightVWriter(self.workshop, self.state(0))
        self.config = (self.base / "config.json").read_bytes()
        self.shards = sorted(path.name for path in self.base.glob("*.safetensors"))

    def state(self, number: int) -> State:
        return {name: Tensor("BF16", shape, np.full(int(np.prod(shape)), number, "<u2"))
                for name, shape in self.shapes.items()}

    @property
    def number(self) -> int:
        return self.writer.version

    def publish(self) -> str:
        number = self.number + 1
        folder = self.writer.publish(self.state(number), full=number % self.FULL_EVERY == 0)
        os.rename(folder, self.source / folder.name)
        outdated = self.source / f"weight_v{number - self.LEAVE:06d}"
        if number > self.LEAVE:
            shutil.rmtree(outdated)
        return folder.name

    def missing(self, versions: int, like: int) -> int:
        """How many to publish until there are so many, and as many since a full one as there were at number `like`."""
        least = max(versions - self.number, 0)
        return least + (like - self.number - least) % self.FULL_EVERY

    def mount_base(self) -> Path:
        return self.base


def number_of(name: str) -> int:
    """0 for the base, which is older than all."""
    return 0 if name == "base" else int(name.lstrip("abcdefghijklmnopqrstuvwxyz_"))


def number_in(content: bytes) -> int:
    """The version that a shard of a FastRun belongs to; fails when it is a mixture."""
    values = np.frombuffer(content, "<u2", offset=8 + int.from_bytes(content[:8], "little"))
    assert values.size > 0 and (values == values[0]).all(), f"a mixture of {sorted(set(values.tolist()))}"
    return int(values[0])


# --- following ------------------------------------------------------------------------------------


def follow(mount, run, **options) -> Mount:
    """Mounts a run's source with --follow; keep=3 is --keep 3.  Pinning is off unless it is asked for."""
    given = {"poll": "0.2", "pin_grace": "0"} | options
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return mount(run.source, "--follow", *words, base=run.mount_base())


def status(mounted: Mount) -> dict:
    """As `weightfs status --json`, without its process."""
    return json.loads((mounted.path / ".weightfs" / "status.json").read_text())


def entries(mounted: Mount, name: str) -> list[dict]:
    """What the status says about a version; two entries when its number was published twice."""
    return [version for version in status(mounted)["versions"] if version["name"] == name]


def state_of(mounted: Mount, name: str) -> str | None:
    found = entries(mounted, name)
    return found[-1]["state"] if found else None


def code_of(mounted: Mount, name: str) -> str:
    """The code of a version's error; "" when it has none."""
    codes = [version["error"]["code"] for version in entries(mounted, name) if version["error"] is not None]
    return codes[-1] if codes else ""


def said_of(mounted: Mount, name: str) -> str:
    """For messages of failed tests."""
    found = status(mounted)
    return f"{name}: {entries(mounted, name)}; latest {found['latest']}, follow {found['follow']}"


def wait_state(mounted: Mount, name: str, state: str, *codes: str, limit: float = LIMIT) -> dict:
    """Waits for a version's state; codes are beginnings, one of which its error must have."""
    def reached():
        for version in entries(mounted, name):
            code = (version["error"] or {}).get("code", "")
            if version["state"] == state and (not codes or code.startswith(codes)):
                return version
        return None

    return wait_until(reached, limit, lambda: f"{state} {codes}; {said_of(mounted, name)}")


def wait_latest(mounted: Mount, name: str, limit: float = LIMIT) -> None:
    """Waits until `latest` is a version.  Only for mounts without pinning: it reads the link again and again."""
    wait_until(lambda: os.readlink(mounted / "latest") == name, limit, lambda: f"latest; {said_of(mounted, name)}")


def wait_admitted(mounted: Mount, name: str, limit: float = LIMIT) -> None:
    """Waits until the newest version is this one, without reading the link."""
    wait_until(lambda: status(mounted)["latest"] == name, limit, lambda: said_of(mounted, name))


def advances(mounted: Mount) -> dict:
    """What the status says of --on-advance."""
    return status(mounted)["follow"]["on_advance"]


def wait_runs(mounted: Mount, count: int) -> dict:
    """Waits until so many commands have ended; what is said of them."""
    def ended():
        found = advances(mounted)
        return found if found["runs"] >= count and not found["running"] else None

    return wait_until(ended, what=lambda: str(advances(mounted)))


def assert_exact(mounted: Mount, run, *names: str) -> None:
    """Every file of these versions (all of the run, if none is named) after the page cache was dropped."""
    for name in names or run.folders:
        drop_page_cache(mounted / name)
        assert_same_tree(mounted / name, run.folders[name])


def assert_right_or_eio(found: Path, *expected: Path) -> None:
    """Every file of a version has its bytes in one of these folders, or gives EIO; never anything else."""
    for path in sorted(path for path in expected[0].rglob("*") if path.is_file()):
        name = path.relative_to(expected[0])
        drop_cache(found / name)
        try:
            content = (found / name).read_bytes()
        except OSError as error:
            assert error.errno == errno.EIO, f"{found / name}: {error}"
        else:
            assert content in [(folder / name).read_bytes() for folder in expected], f"{found / name}: other bytes"


def drop_cache(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        assert error.errno == errno.EIO, f"{path}: {error}"


def is_like(found: Path, expected: Path) -> bool:
    """Whether a folder has these bytes now; no while it is being replaced."""
    try:
        return all((found / path.relative_to(expected)).read_bytes() == path.read_bytes()
                   for path in expected.rglob("*") if path.is_file())
    except OSError:
        return False


class Held:
    """A version's folder and files, opened: what is promised to last however long they are held."""

    def __init__(self, folder: Path, expected: Path):
        self.expected = expected
        self.names = sorted(path.name for path in expected.iterdir() if path.is_file())
        self.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.files = {name: os.open(folder / name, os.O_RDONLY) for name in self.names}

    def assert_files(self) -> None:
        """Files that were open read to their last byte, also past the page cache."""
        for name, file in self.files.items():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file, 1 << 30, 0) == (self.expected / name).read_bytes(), f"open {name}"

    def assert_folder(self) -> None:
        """The folder's handle still lists and opens everything."""
        assert set(os.listdir(self.folder)) == {path.name for path in self.expected.iterdir()}
        for name in self.names:
            file = os.open(name, os.O_RDONLY, dir_fd=self.folder)
            try:
                assert os.pread(file, 1 << 30, 0) == (self.expected / name).read_bytes(), f"{name} by handle"
            finally:
                os.close(file)

    def close(self) -> None:
        for descriptor in [self.folder, *self.files.values()]:
            os.close(descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def attribute(path: Path, name: str) -> str:
    return os.getxattr(path, f"user.weightfs.{name}").decode()
