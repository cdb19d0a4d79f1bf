# SPDX-License-Identifier: Apache-2.0
"""The model that the benchmark reads: a base, a chain of deltas in two formats, and the newest version as plain files.

Makes below one folder
    base/      a Qwen3-shaped bf16 checkpoint in 8 shards
    plain/     the newest version as ordinary files
    native/    a store of `weightfs init` and one `weightfs commit` a version
    weight_v/  the same versions as weight_v deltas, by tests/reference where zstandard and xxhash are importable, else
               by `weightfs export --as weight_v`
    about.json sizes, and sums of every shard of every version that is read, against which reads are checked

In each version the lowest mantissa bit of about 1 % of the elements flips, at random places.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reference.qwen3 import qwen3_config, qwen3_shapes
from reference.safetensors_io import State, Tensor, read_header, write_model
from tools import weightfs

SHARDS = 8
SHARE = 0.01
PAGE = 4096
POOL_ELEMENTS = 1 << 22
NET_EVERY = 50  # versions; commit reads the version before, which takes ever longer in a deep chain without nets
# (up to GB, hidden size, vocabulary) of a model; the number of layers brings it to its size
SHAPES = ((0.05, 256, 2048), (0.6, 1024, 16000), (2.5, 1536, 32000), (math.inf, 4096, 64000))
SOURCES = ("native", "weight_v")


@dataclass(frozen=True)
class Model:
    """A made model and what is known of it."""

    name: str
    folder: Path
    about: dict

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def plain(self) -> Path:
        return self.folder / "plain"

    @property
    def bytes(self) -> int:
        return self.about["bytes"]

    @property
    def depths(self) -> list[int]:
        return self.about["depths"]

    @property
    def deepest(self) -> int:
        return max(self.depths)

    def sums(self, depth: int) -> dict[str, list[int]]:
        """Sums of the shards at a depth: "words" (64-bit words) and "touched" (one byte a page), modulo 2^64."""
        return self.about["sums"][str(depth)]


def version_name(depth: int) -> str:
    """The version that `depth` deltas lead to; 0 is the base."""
    return f"weight_v{depth:06d}" if depth else "base"


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def config_for(gigabytes: float | None, layers: int | None, hidden: int | None) -> dict:
    """A Qwen3 config of about so many GB (10^9 bytes) in bf16, unless layers and hidden size are given."""
    width, vocabulary = next((width, words) for limit, width, words in SHAPES if (gigabytes or 1) <= limit)
    width = hidden or width
    if layers is None:
        one, two = (2 * sum(map(math.prod, qwen3_shapes(qwen3_config(count, width, vocabulary)).values()))
                    for count in (1, 2))
        layers = max(1, 1 + round(((gigabytes or 1) * 1e9 - one) / (two - one)))
    return qwen3_config(layers, width, vocabulary)


def initial_state(config: dict) -> State:
    """Weights from N(0, 0.02) in bf16: runs of one pool of values, so that making many GB takes seconds."""
    rng = np.random.default_rng(7)
    values = rng.standard_normal(POOL_ELEMENTS, np.float32) * np.float32(0.02)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)
    ones = np.uint16(0x3F80)
    state: State = {}
    for name, shape in qwen3_shapes(config).items():
        count = math.prod(shape)
        if name.endswith("norm.weight"):
            bits = np.full(count, ones)
        else:
            bits = np.resize(np.roll(pool, int(rng.integers(POOL_ELEMENTS))), count)
        state[name] = Tensor("BF16", shape, bits)
    return state


def mapped(folder: Path) -> list[np.ndarray]:
    """The shards of a checkpoint as arrays of bytes; writing to them writes the files."""
    return [np.memmap(shard, np.uint8, "r+") for shard in shards_of(folder)]


def state_of(folder: Path, shards: list[np.ndarray]) -> State:
    """The tensors of a checkpoint as views of its mapped shards."""
    state: State = {}
    for path, shard in zip(shards_of(folder), shards, strict=True):
        header = read_header(path)
        for name, (dtype, shape, begin, end) in header.records.items():
            state[name] = Tensor(dtype, shape, shard[header.data_start + begin:header.data_start + end])
    return state


def flip(state: State, rng: np.random.Generator) -> int:
    """Flips the lowest bit of about SHARE of the elements; returns how many."""
    changed = 0
    for tensor in state.values():
        bits = tensor.bits()
        places = np.unique(rng.integers(0, bits.size, max(1, int(bits.size * SHARE))))
        bits[places] ^= np.uint16(1)
        changed += places.size
    return changed


def sums_of(shards: list[np.ndarray]) -> dict[str, list[int]]:
    words, touched = [], []
    for shard in shards:
        whole = shard.size // 8 * 8
        rest = int.from_bytes(shard[whole:].tobytes(), "little")
        words.append((int(shard[:whole].view("<u8").sum(dtype=np.uint64)) + rest) % 2**64)
        touched.append(int(shard[::PAGE].sum(dtype=np.uint64)))
    return {"words": words, "touched": touched}


def weight_v_writer(folder: Path, state: State):
    """The reference writer, or None where its packages are not installed."""
    try:
        from reference.weight_v import WeightVWriter
    except ImportError as error:
        print(f"{error}: weight_v deltas are made by weightfs export", file=sys.stderr)
        return None
    return WeightVWriter(folder / "weight_v", state, shards=SHARDS)


def make(folder: Path, config: dict, depths: list[int]) -> dict:
    """Makes everything; returns what about.json holds."""
    write_model(folder / "base", initial_state(config), SHARDS, config, {
        "generation_config.json": b'{"bos_token_id": 0, "eos_token_id": 1}\n'})
    shutil.copytree(folder / "base", folder / "plain")
    shards = mapped(folder / "plain")
    state = state_of(folder / "plain", shards)
    writer = weight_v_writer(folder, state)
    weightfs("init", folder / "native", "--base", folder / "base")
    rng = np.random.default_rng(8)
    sums = {"0": sums_of(shards)}
    changed = 0
    for depth in range(1, max(depths) + 1):
        changed += flip(state, rng)
        weightfs("commit", folder / "native", folder / "plain", "--name", version_name(depth))
        if writer:
            writer.publish(state)
        if depth in depths:
            sums[str(depth)] = sums_of(shards)
        if depth % NET_EVERY == 0:
            weightfs("squash", folder / "native", f"base..{version_name(depth)}")
    shutil.rmtree(folder / "native" / "nets", ignore_errors=True)  # what is read has to go through every delta
    if not writer:
        weightfs("export", "--as", "weight_v", folder / "native", "latest", folder / "weight_v")
    elements = sum(tensor.elements for tensor in state.values())
    return {"bytes": sum(shard.size for shard in shards), "tensors": len(state), "shards": len(shards),
            "depths": depths, "changed_share": changed / elements / max(depths), "layers": config["num_hidden_layers"],
            "hidden": config["hidden_size"], "weight_v_by": "reference" if writer else "weightfs export", "sums": sums,
            "delta_bytes": {source: delta_bytes(folder / source) // max(depths) for source in SOURCES}}


def delta_bytes(folder: Path) -> int:
    """All bytes below a source that refers to its base."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def model_in(name: str, folder: Path, config: dict, depths: list[int]) -> Model:
    """The model in `folder`, which is made unless a finished one of this shape lies there."""
    wanted = {"layers": config["num_hidden_layers"], "hidden": config["hidden_size"], "depths": depths}
    marker = folder / "about.json"
    if not marker.exists():
        if folder.exists() and any(folder.iterdir()):
            raise SystemExit(f"{folder} is not empty and holds no finished model; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"making the model {name} in {folder}", file=sys.stderr, flush=True)
        marker.write_text(json.dumps(make(folder, config, depths)))
        os.sync()  # so that no writing goes on while something is timed
    about = json.loads(marker.read_text())
    if any(about[key] != value for key, value in wanted.items()):
        raise SystemExit(f"{folder} holds another model; name another folder")
    return Model(name, folder, about)
