# SPDX-License-Identifier: Apache-2.0
"""TRL delta buckets (anchors/ and deltas/), generations T1 and T2: a writer and a decoder.

Everything is BF16 and values are absolute: a sparse file says which elements have which new bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .safetensors_io import FormatError, ModelFolder, State, Tensor, copy_state, read_file, widen, write_file

FILE_NAME = re.compile(r"step_(\d{6,})\.safetensors")


def to_bf16(tensor: Tensor) -> Tensor:
    """Rounds F32 to BF16, to nearest, ties to even, as torch does."""
    if tensor.dtype == "BF16":
        return tensor
    if tensor.dtype != "F32":
        raise FormatError(f"no rule for {tensor.dtype}")
    bits = tensor.bits().astype(np.uint64)
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return Tensor("BF16", tensor.shape, np.where(is_nan, 0x7FC0, rounded).astype("<u2"))


def gaps_from_indices(indices: np.ndarray) -> np.ndarray:
    """GAP-1: idx[k] - idx[k-1] - 1 with a virtual idx[-1] = -1; u16 when the largest fits, else u32."""
    before = np.concatenate(([-1], indices[:-1])).astype(np.int64)
    gaps = indices.astype(np.int64) - before - 1
    return gaps.astype("<u2" if gaps.size == 0 or gaps.max() <= 0xFFFF else "<u4")


def indices_from_gaps(gaps: np.ndarray) -> np.ndarray:
    return np.cumsum(gaps.astype(np.int64) + 1) - 1


@dataclass
class TrlWriter:
    """Publishes a run, one publish() a sync.

    generation   "T1" or "T2"; encoding "raw" or "gap_delta" (T2 only)
    names        the parameters that are published (PyTorch yields a tied one once); None = all
    prefix       put in front of every name ("module." in wrapped models)
    quirk        T1 stores step 2 in deltas/ as full tensors with sparse=False
    partial      anchors hold only what changed in the last step (T1, early T2)
    """

    bucket: Path
    generation: str = "T2"
    encoding: str = "gap_delta"
    anchor_interval: int = 10
    names: list[str] | None = None
    prefix: str = ""
    quirk: bool = True
    partial: bool = False
    step: int = 0
    last: State | None = None

    def publish(self, state: State) -> Path | None:
        """Writes the next file; None when nothing changed (T1: the counter stands still)."""
        self.bucket = Path(self.bucket)
        state = {name: to_bf16(tensor) for name, tensor in state.items() if self.names is None or name in self.names}
        changed = [
            name for name in state if self.last is None or not np.array_equal(state[name].data, self.last[name].data)
        ]
        if not changed:
            self.step += self.generation == "T2"
            return None
        self.step += 1
        path = self._write(state, changed)
        self.last = copy_state(state)
        return path

    def _write(self, state: State, changed: list[str]) -> Path:
        if self.step == 1 or self.step % self.anchor_interval == 0:
            names = changed if self.partial and self.step > 1 else list(state)
            return self._write_dense("anchors", state, names)
        if self.generation == "T1" and self.step == 2 and self.quirk:
            return self._write_dense("deltas", state, list(state))
        return self._write_sparse(state, changed)

    def _path(self, folder: str) -> Path:
        path = self.bucket / folder / f"step_{self.step:06d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _metadata(self, sparse: bool, names: list[str], changed: int, total: int) -> dict[str, str]:
        metadata = {
            "format": "sparse_weight_patch",
            "version": "1",
            "sparse": str(sparse),
            "model_version": str(self.step),
            "num_changed_params": str(len(names)),
            "total_changed_elements": str(changed),
            "total_elements": str(total),
            "sparsity": repr(1.0 - changed / total) if sparse else "0.0",
        }
        if self.generation == "T1":
            metadata["changed_params"] = json.dumps([self.prefix + name for name in names])
        else:
            metadata["encoding"] = self.encoding
        return metadata

    def _write_dense(self, folder: str, state: State, names: list[str]) -> Path:
        total = sum(state[name].elements for name in names)
        path = self._path(folder)
        tensors = {self.prefix + name: state[name] for name in names}
        write_file(path, tensors, self._metadata(False, names, total, total))
        return path

    def _write_sparse(self, state: State, changed: list[str]) -> Path:
        tensors: State = {}
        count = 0
        for name in changed:
            new = state[name].bits()
            indices = np.flatnonzero(new != self.last[name].bits())
            if state[name].elements > 2**31:
                raise FormatError(f"{name}: 32-bit indices would wrap")
            count += indices.size
            index_key, value_key = (".indices", ".values") if self.generation == "T1" else (".idx", ".val")
            if self.generation == "T2" and self.encoding == "gap_delta":
                gaps = gaps_from_indices(indices)
                index = Tensor("U16" if gaps.itemsize == 2 else "U32", gaps.shape, gaps)
            else:
                index = Tensor("I32", indices.shape, indices.astype("<i4"))
            tensors[self.prefix + name + index_key] = index
            tensors[self.prefix + name + value_key] = Tensor("BF16", indices.shape, new[indices])
        total = sum(state[name].elements for name in changed)
        path = self._path("deltas")
        write_file(path, tensors, self._metadata(True, changed, count, total))
        return path


# --- decoder ----------------------------------------------------------------------------------


def list_files(bucket: str | Path) -> list[tuple[int, Path]]:
    """(number, file) of a bucket in publishing order."""
    found: dict[int, Path] = {}
    for folder in ("anchors", "deltas"):
        for path in sorted((Path(bucket) / folder).glob("*")):
            match = FILE_NAME.fullmatch(path.name)
            if match is None:
                continue
            if int(match[1]) in found:
                raise FormatError(f"two files carry number {int(match[1])}")
            found[int(match[1])] = path
    return sorted(found.items())


def match_name(published: str, names: set[str]) -> str:
    """The base's name for a published one: exact, then the mapping rules, each of which must be unique."""
    if published in names:
        return published
    bare = published.removeprefix("module.")
    for candidate in (bare, "model." + bare, bare.removeprefix("model.")):
        if candidate in names:
            return candidate
    endings = [name for name in names if name.endswith("." + bare) or bare.endswith("." + name)]
    if len(endings) != 1:
        raise FormatError(f"{published}: {len(endings)} tensors of the base could be meant")
    return endings[0]


def tied_names(base: ModelFolder, state: State) -> dict[str, str]:
    """name -> other name of the same weights, where the base stores both of a tied pair."""
    if not base.ties_word_embeddings():
        return {}
    pair = [name for name in state if name.endswith("embed_tokens.weight") or name == "lm_head.weight"]
    if len(pair) != 2 or not np.array_equal(state[pair[0]].data, state[pair[1]].data):
        return {}
    return {pair[0]: pair[1], pair[1]: pair[0]}


def read_changes(path: Path) -> dict[str, tuple[np.ndarray | None, Tensor]]:
    """Published name -> (flat element indices, or None for a whole tensor; values)."""
    header, tensors = read_file(path)
    metadata = header.metadata
    if metadata.get("format") != "sparse_weight_patch":
        raise FormatError(f"{path}: not a TRL file")
    if metadata.get("sparse", "True") != "True":
        return {name: (None, tensor) for name, tensor in tensors.items()}
    if "encoding" not in metadata:
        names = json.loads(metadata["changed_params"])
        return {name: (_absolute(tensors[name + ".indices"]), tensors[name + ".values"]) for name in names}
    names = [key.removesuffix(".val") for key in tensors if key.endswith(".val")]
    decode = {"raw": _absolute, "gap_delta": lambda tensor: indices_from_gaps(tensor.bits())}[metadata["encoding"]]
    return {name: (decode(tensors[name + ".idx"]), tensors[name + ".val"]) for name in names}


def _absolute(tensor: Tensor) -> np.ndarray:
    return tensor.data.view("<i4").astype(np.int64)


def apply_change(old: Tensor, indices: np.ndarray | None, values: Tensor) -> Tensor:
    if indices is None:
        if values.shape != old.shape:
            raise FormatError(f"shape {values.shape} over {old.shape}")
        return widen(values, old.dtype)
    if indices.size != values.elements:
        raise FormatError("indices and values differ in number")
    if indices.size and (indices[0] < 0 or indices[-1] >= old.elements or (np.diff(indices) <= 0).any()):
        raise FormatError("indices leave the tensor or do not ascend")
    new = old.copy()
    new.bits()[indices] = widen(values, old.dtype).bits()
    return new


def versions(bucket: str | Path, base: ModelFolder) -> Iterator[tuple[str, State]]:
    """(name, weights) of the base and of every version of a bucket, in order."""
    state = base.state()
    tied = tied_names(base, state)
    yield "base", dict(state)
    for number, path in list_files(bucket):
        changes = {match_name(name, set(state)): change for name, change in read_changes(path).items()}
        for name, change in changes.items():
            state[name] = apply_change(state[name], *change)
            if name in tied and tied[name] not in changes:
                state[tied[name]] = apply_change(state[tied[name]], *change)
        yield f"step_{number:06d}", dict(state)


def decode(bucket: str | Path, base_folder: str | Path, out: str | Path, skip: tuple[str, ...] = ()) -> dict[str, Path]:
    """Writes every version of a bucket as a full folder below `out`; returns name -> folder."""
    base = ModelFolder.open(base_folder)
    return {name: base.write_version(Path(out) / name, state, skip) for name, state in versions(bucket, base)}
