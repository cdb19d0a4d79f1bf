# SPDX-License-Identifier: Apache-2.0
"""Makes golden stores of the native container, and the list of what they must decode to.

    python3 -m reference.native_golden FOLDER [NAME...]    with WEIGHTFS_BIN naming the program

Stores in tests/golden/ are never made again: readers must read them for ever.  This is how they came to be, and how a
later format version gets its own.  FOLDER/NAME is the store; FOLDER/NAME.sha256 and NAME.xxh3 have a line for every file of every
version, from the folders that were committed and never from a reader.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import xxhash

from .native_trees import History
from .native_writer import StoreWriter
from .safetensors_io import Tensor, write_model

Folders = dict[str, Path]
CONFIG = {"model_type": "golden"}


def weightfs(*arguments) -> None:
    subprocess.run([os.environ["WEIGHTFS_BIN"], *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def commit_all(store: Path, folders: Folders, full: tuple[str, ...] = ()) -> None:
    for name, folder in folders.items():
        if name == "base":
            weightfs("init", store, "--base", folder, "--full")
        else:
            weightfs("commit", store, folder, "--name", name, *["--full"] * (name in full))


def floats(rng, count: int, dtype: str = "BF16") -> np.ndarray:
    bits = (rng.standard_normal(count) * 0.02).astype("<f4").view("<u4")
    return bits if dtype == "F32" else (bits >> 16).astype("<u2")


def nudged(rng, tensor: Tensor, share: float, size: int = 1) -> Tensor:
    result = tensor.copy()
    bits = result.data.view({1: "<u1", 2: "<u2"}.get(result.data.size // max(result.elements, 1), "<u4"))
    chosen = np.flatnonzero(rng.random(bits.size) < share)
    steps = rng.integers(1, size + 1, chosen.size) * rng.choice([-1, 1], chosen.size)
    bits[chosen] = (bits[chosen].astype(np.int64) + steps).astype(bits.dtype)
    return result


def history(place: Path, states: list[dict[str, Tensor]], **options) -> Folders:
    return {"base" if i == 0 else f"step-{i}": write_model(place / str(i), state, 1, CONFIG, **options)
            for i, state in enumerate(states)}


def tiny(store: Path, place: Path) -> Folders:
    """Small enough to try every bit: 300 weights, one sparse and one dense step."""
    rng = np.random.default_rng(1)
    first = {"w": Tensor("BF16", (20, 15), floats(rng, 300)), "s": Tensor("F32", (), floats(rng, 1, "F32"))}
    second = {name: nudged(rng, tensor, 0.02) for name, tensor in first.items()}
    third = {name: nudged(rng, tensor, 0.9, 3) for name, tensor in second.items()}
    folders = history(place, [first, second, third])
    commit_all(store, folders)
    return folders


def widths(store: Path, place: Path) -> Folders:
    """Elements of 1, 2 and 4 bytes in every dtype group, none and one of them; sparse, dense and new."""
    rng = np.random.default_rng(2)
    first = {
        "bf16": Tensor("BF16", (40, 50), floats(rng, 2000)), "f32": Tensor("F32", (1500,), floats(rng, 1500, "F32")),
        "f8": Tensor("F8_E4M3", (3000,), np.minimum(rng.integers(0, 256, 3000), rng.integers(0, 256, 3000)).astype("u1")),
        "i8": Tensor("I8", (2000,), rng.integers(-9, 9, 2000).astype("i1")), "i64": Tensor("I64", (200,), np.arange(200)),
        "bool": Tensor("BOOL", (300,), rng.integers(0, 2, 300).astype("u1")), "f16": Tensor("F16", (0, 3), np.empty(0, "u1")),
        "scalar": Tensor("F32", (), floats(rng, 1, "F32")),
    }
    states = [first]
    for share, size in ((0.01, 1), (0.1, 3), (0.95, 5), (1, 1 << 20)):
        states.append({name: nudged(rng, tensor, share, size) for name, tensor in states[-1].items()})
    folders = history(place, states)
    commit_all(store, folders, full=("step-2",))
    return folders


def blocks(store: Path, place: Path) -> Folders:
    """A tensor and a plain file of several blocks, of which some are touched; zero bytes compress well."""
    rng = np.random.default_rng(3)
    large = Tensor("BF16", (1_000_003,), np.resize(floats(rng, 300), 1_000_003))
    states, plain = [{"large": large}], np.resize(np.frombuffer(rng.bytes(100), "u1"), 600_001)
    folders = {"base": write_model(place / "0", states[0], 1, CONFIG, {"table.bin": plain.tobytes()})}
    for step, (begin, end, share) in enumerate(((5, 400, 0.2), (270_000, 420_000, 0.003), (999_000, 1_000_003, 1)), 1):
        state, plain = {"large": states[-1]["large"].copy()}, plain.copy()
        part = Tensor("BF16", (end - begin,), state["large"].bits()[begin:end].copy())
        state["large"].bits()[begin:end] = nudged(rng, part, share, 2).bits()
        plain[step * 150_000] ^= 1
        states.append(state)
        folders[f"step-{step}"] = write_model(place / str(step), state, 1, CONFIG, {"table.bin": plain.tobytes()})
    commit_all(store, folders)
    return folders


def layouts(store: Path, place: Path) -> Folders:
    """Tensors added, removed, renamed, reshaped, tied and moved to other shards; other files that come and go."""
    rng = np.random.default_rng(4)
    a, b, c = (Tensor("BF16", (30, 20), floats(rng, 600)) for _ in range(3))
    reshaped = Tensor("BF16", (20, 30), nudged(rng, a, 0.02).data)
    folders = {
        "base": write_model(place / "0", {"a": a, "b": b, "c": c}, 1, CONFIG, {"empty": b"", "sub/x.txt": b"one\n" * 50}),
        "moved": write_model(place / "1", {"c": c, "m.a": a, "m.b": b}, 2, CONFIG, {"sub/y.txt": b"one\n" * 50}),
        "reshaped": write_model(place / "2", {"m.a": reshaped, "m.b": b, "tied": b}, 3, {"model_type": "other"}),
        "grown": write_model(place / "3", {"m.b": nudged(rng, b, 0.1), "new": Tensor("F32", (70,), floats(rng, 70, "F32"))},
                             1, CONFIG, {"broken.safetensors": b"none", "deep/er/file": b"\0" * 3000}),
    }
    (folders["moved"] / "hollow").mkdir()
    commit_all(store, folders)
    return folders


def chain(store: Path, place: Path, steps: int = 8) -> Folders:
    rng = np.random.default_rng(5)
    states = [{"w": Tensor("BF16", (60, 50), floats(rng, 3000)), "v": Tensor("BF16", (50,), floats(rng, 50))}]
    for _ in range(steps):
        states.append({name: nudged(rng, tensor, 0.02) for name, tensor in states[-1].items()})
    folders = history(place, states)
    commit_all(store, folders)
    return folders


def nets(store: Path, place: Path) -> Folders:
    """A ladder of nets, and one net over all."""
    folders = chain(store, place)
    weightfs("squash", store, "base..step-8", "--every", "3")
    weightfs("squash", store, "base..step-8")
    return folders


def pruned(store: Path, place: Path) -> Folders:
    """What is left of a chain whose beginning is gone."""
    folders = chain(store, place)
    weightfs("prune", store, "--before", "step-6")
    return {name: folders[name] for name in ("base", "step-6", "step-7", "step-8")}


def _made_in_python(store: Path, place: Path, seed: int) -> Folders:
    made, writer = History(place, seed, largest=1000), StoreWriter(store, seed)
    folders = {"base": made.next()}
    writer.init(folders["base"])
    for step in range(1, 4):
        folders[f"step-{step}"] = made.next()
        writer.commit(f"step-{step}", folders[f"step-{step}"], list(folders)[-2])
    writer.net("step-3", "base")
    return folders


def python_a(store: Path, place: Path) -> Folders:
    """Random choices of the Python writer: odd parameters, gaps, split records, several payload files."""
    return _made_in_python(store, place, 40)


def python_b(store: Path, place: Path) -> Folders:
    """The same with other choices."""
    return _made_in_python(store, place, 41)


MAKERS = {"tiny": tiny, "widths": widths, "blocks": blocks, "layouts": layouts, "nets": nets, "pruned": pruned,
          "python-a": python_a, "python-b": python_b}


def listing(folders: Folders, digest=lambda data: hashlib.sha256(data).hexdigest()) -> str:
    """Lines like those of `sha256sum`; an empty folder has the word "folder" in place of a sum."""
    lines = []
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*")):
            shown = f"{name}/{path.relative_to(folder).as_posix()}"
            if path.is_file():
                lines.append(f"{digest(path.read_bytes())}  {shown}")
            elif not any(path.iterdir()):
                lines.append(f"folder  {shown}")
    return "\n".join(lines) + "\n"


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MAKERS:
        with tempfile.TemporaryDirectory() as place:
            store = Path(place) / "store"
            folders = MAKERS[name](store, Path(place) / "folders")
            shutil.copytree(store, target / name)  # fails where there is one already
            (target / f"{name}.sha256").write_text(listing(folders))
            (target / f"{name}.xxh3").write_text(listing(folders, xxhash.xxh3_128_hexdigest))
        size = sum(path.stat().st_size for path in (target / name).rglob("*") if path.is_file())
        print(f"{name}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
