# SPDX-License-Identifier: Apache-2.0
"""Long chains of one small model, in two formats: a native store with what `weightfs commit` writes, and weight_v.

A commit reads its parent through the chain, so a thousand of them would take as long as reading depths one to a
thousand.  But a delta says nothing about what lies below its parent: each step is committed by itself, in a store whose
base is the folder before, and its files go into the chain with another manifest.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from reference.demo import initial_state, qwen3_config, train_step
from reference.native_writer import manifest_text
from reference.safetensors_io import State, read_header, write_model
from reference.weight_v import WeightVWriter

from bench.scale.mounts import weightfs

SEED = 21


def version_name(number: int) -> str:
    return f"weight_v{number:06d}" if number else "base"


@dataclass
class Chain:
    """`folder` has base, native (a store), weight_v and, at the depths that are kept, the states as folders."""

    folder: Path
    about: dict

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def native(self) -> Path:
        return self.folder / "native"

    @property
    def weight_v(self) -> Path:
        return self.folder / "weight_v"

    def truth(self, depth: int) -> Path:
        return self.folder / "truth" / version_name(depth)

    def shards(self) -> list[str]:
        return sorted(path.name for path in self.base.glob("*.safetensors"))

    def model_bytes(self) -> int:
        return sum((self.base / shard).stat().st_size for shard in self.shards())

    def tensor_bytes(self) -> int:
        return sum(read_header(self.base / shard).data_bytes for shard in self.shards())

    def weight_v_stored(self, depth: int) -> int:
        """Bytes of all frames up to a depth."""
        paths = (path for number in range(1, depth + 1)
                 for path in (self.weight_v / version_name(number)).glob("*.safetensors"))
        return sum(path.stat().st_size - read_header(path).data_start for path in paths)

    def native_stored(self, depth: int) -> int:
        """Bytes of all payload files up to a depth, their indices included; without nets."""
        return sum(path.stat().st_size for number in range(1, depth + 1)
                   for path in (self.native / "versions" / version_name(number)).glob("*.safetensors"))


class NativeChainWriter:
    """Strings single commits together to one store."""

    def __init__(self, store: Path, base: Path):
        self.store, self.scratch, self.count = store, store.with_name("one-step"), 0
        weightfs("init", store, "--base", base)
        manifest = json.loads((store / "versions" / "base" / "manifest.json").read_text())
        self.root = manifest["digest"]
        self.last = {"name": "base", "digest": self.root}

    def add(self, before: Path, after: Path) -> None:
        self.count += 1
        name = version_name(self.count)
        weightfs("init", self.scratch, "--base", before)
        weightfs("commit", self.scratch, after, "--name", name)
        folder = self.store / "versions" / name
        shutil.move(self.scratch / "versions" / name, folder)
        shutil.rmtree(self.scratch)
        members = json.loads((folder / "manifest.json").read_text())
        del members["digest"]
        created = np.datetime64("2026-11-25T00:00:00") + np.timedelta64(self.count, "s")
        members |= {"parent": self.last, "root": self.root, "created": f"{created}Z"}
        text, digest = manifest_text(members)
        (folder / "manifest.json").write_bytes(text)
        self.last = {"name": name, "digest": digest}


def make_chain(folder: Path, depths: list[int], layers: int, hidden: int, vocab: int, share: float) -> Chain:
    """Both chains as deep as the deepest of `depths`; one that is there already is taken as it is."""
    about_file = folder / "about.json"
    if about_file.exists():
        return Chain(folder, json.loads(about_file.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    state = initial_state(qwen3_config(layers, hidden, vocab), SEED)
    config, shards, rng = {"model_type": "qwen3"}, 2, np.random.default_rng(SEED)
    now, after = write_model(folder / "base", state, shards, config), folder / "after"
    native, published = NativeChainWriter(folder / "native", folder / "base"), WeightVWriter(folder / "weight_v", state)
    changed = 0
    for depth in range(1, max(depths) + 1):
        new = train_step(state, rng, share)
        changed += _changed(state, new)
        state = new
        write_model(after, state, shards, config)
        native.add(now, after)
        published.publish(state)
        if depth in depths:
            shutil.copytree(after, folder / "truth" / version_name(depth))
        if now.name != "base":
            shutil.rmtree(now)
        now, after = after.rename(folder / "now"), after
    shutil.rmtree(now)
    elements = sum(tensor.elements for tensor in state.values())
    about = {"elements": elements, "tensors": len(state), "depth": max(depths),
             "changed_share": changed / elements / max(depths)}
    about_file.write_text(json.dumps(about))
    return Chain(folder, about)


def _changed(old: State, new: State) -> int:
    return sum(int(np.count_nonzero(old[name].bits() != new[name].bits())) for name in new)
