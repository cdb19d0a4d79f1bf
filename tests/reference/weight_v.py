# SPDX-License-Identifier: Apache-2.0
"""weight_v runs (slime, miles, SGLang, stitch): a writer and a decoder.

A version is a folder weight_vNNNNNN of safetensors files and an index.  With `delta_encoding` in the
index's metadata it is a delta: each tensor is one zstd frame, the file's metadata holds a digest of
each tensor's new bytes.  Without it, the folder is a full checkpoint and restarts the chain.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
import zstandard

from .safetensors_io import (INDEX_NAME, FormatError, ModelFolder, State, Tensor, copy_state, read_file, split_by_size,
                             write_atomically, write_file, write_index, write_model)

FOLDER_NAME = re.compile(r"weight_v(\d{6,})")


def _blake3(data: bytes) -> str:
    import blake3  # only where the package is installed

    return blake3.blake3(data).hexdigest()


CHECKSUMS = {
    "xxh3-128": lambda data: xxhash.xxh3_128_hexdigest(data),
    "adler32": lambda data: f"{zlib.adler32(data, 1):08x}",
    "blake3": _blake3,
}


def xor_payload(old: Tensor, new: Tensor) -> bytes:
    return (old.data ^ new.data).tobytes()


def overwrite_payload(old: Tensor, new: Tensor) -> bytes:
    """u32 count, count x u32 byte positions, count new bytes."""
    if old.data.size >= 2**32:
        raise FormatError("32-bit byte positions would wrap")
    positions = np.flatnonzero(old.data != new.data).astype("<u4")
    return np.uint32(positions.size).astype("<u4").tobytes() + positions.tobytes() + new.data[positions].tobytes()


PAYLOADS = {"xor": xor_payload, "overwrite": overwrite_payload}


@dataclass
class WeightVWriter:
    """Publishes a run from its base state on, one publish() a version.

    layout       "plain": weight_v folders in `root`; "stitch": below root/updates with a pointer root/latest
    duplicate    a changed tensor of this name also goes into the first shard, as slime does for tied
                 embeddings; weight_map names the last one
    run_id       put in front of the version in stitch's pointer
    int_versions versions in the index as plain numbers, as a miles test writes them
    """

    root: Path
    last: State
    encoding: str = "xor"
    checksum: str = "xxh3-128"
    shards: int = 2
    layout: str = "plain"
    duplicate: str | None = None
    run_id: str | None = None
    int_versions: bool = False
    version: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = Path(self.root)
        self.last = copy_state(self.last)
        self.folder_root.mkdir(parents=True, exist_ok=True)

    @property
    def folder_root(self) -> Path:
        return self.root / "updates" if self.layout == "stitch" else self.root

    def publish(self, state: State, full: bool = False) -> Path:
        self.version += 1
        folder = self.folder_root / f"weight_v{self.version:06d}"
        folder.mkdir()
        if full:
            self._write_full(folder, state)
        else:
            self._write_delta(folder, state)
        self.last = copy_state(state)
        if self.layout == "stitch":
            pointer = f"{self.run_id}/{folder.name}" if self.run_id else folder.name
            write_atomically(self.root / "latest", lambda path: path.write_text(pointer))
        return folder

    def _write_full(self, folder: Path, state: State) -> None:
        shards = min(self.shards, len(state))
        write_model(folder, state, shards)
        if self.layout == "stitch" and shards > 1:  # its index needs a version even for full versions
            index = json.loads((folder / INDEX_NAME).read_text())
            write_index(folder, index["weight_map"], index["metadata"] | {"version": self._text(self.version)})

    def _text(self, version: int) -> str | int:
        return version if self.int_versions else f"{version:06d}"

    def _write_delta(self, folder: Path, state: State) -> None:
        if list(state) != list(self.last):
            raise FormatError("the set of tensors changed; only a full version may do that")
        compressor = zstandard.ZstdCompressor(level=1)
        frames: State = {}
        for name, new in state.items():
            if np.array_equal(new.data, self.last[name].data):
                continue
            frame = compressor.compress(PAYLOADS[self.encoding](self.last[name], new))
            frames[name] = Tensor("U8", (len(frame),), np.frombuffer(frame, np.uint8))
            self.digests[name] = CHECKSUMS[self.checksum](new.data.tobytes())
        parts = split_by_size(frames, min(self.shards, len(frames))) if frames else []
        self._duplicate(parts)
        weight_map: dict[str, str] = {}
        for number, part in enumerate(parts):
            file_name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            digests = {name: self.digests[name] for name in part}
            write_atomically(folder / file_name, lambda path: write_file(path, part, digests))
            weight_map.update(dict.fromkeys(part, file_name))
        metadata = {
            "version": self._text(self.version),
            "base_version": self._text(self.version - 1),
            "delta_encoding": self.encoding,
            "compression_format": "zstd",
            "checksum_format": self.checksum,
        }
        write_index(folder, weight_map, metadata)

    def _duplicate(self, parts: list[State]) -> None:
        if self.duplicate is None or len(parts) < 2:
            return
        holder = next((part for part in parts if self.duplicate in part), None)
        if holder is not None:
            parts[0][self.duplicate] = parts[-1][self.duplicate] = holder[self.duplicate]


# --- decoder ----------------------------------------------------------------------------------


def list_versions(root: str | Path) -> list[tuple[int, Path]]:
    root = Path(root)
    if (root / "updates").is_dir():
        root = root / "updates"
    found = [(int(match[1]), path) for path in root.iterdir() if (match := FOLDER_NAME.fullmatch(path.name))]
    return sorted(found)


def latest_pointer(root: str | Path) -> str | None:
    """The version that stitch's pointer file names."""
    pointer = Path(root) / "latest"
    return pointer.read_text().strip().rsplit("/", 1)[-1] if pointer.exists() else None


def apply_payload(encoding: str, old: Tensor, payload: bytes) -> Tensor:
    if encoding == "xor":
        if len(payload) != old.data.size:
            raise FormatError(f"xor payload of {len(payload)} bytes over {old.data.size}")
        return Tensor(old.dtype, old.shape, old.data ^ np.frombuffer(payload, np.uint8))
    count = int(np.frombuffer(payload, "<u4", 1)[0])
    if len(payload) != 4 + 5 * count:
        raise FormatError(f"overwrite payload of {len(payload)} bytes for {count} positions")
    positions = np.frombuffer(payload, "<u4", count, 4).astype(np.int64)
    if count and (positions[-1] >= old.data.size or (np.diff(positions) <= 0).any()):
        raise FormatError("positions leave the tensor or do not ascend")
    new = old.copy()
    new.data[positions] = np.frombuffer(payload, np.uint8, count, 4 + 4 * count)
    return new


def apply_delta(state: State, folder: Path, index: dict, number: int) -> None:
    """Changes `state` into the version that `folder` holds; checks every digest."""
    metadata = index["metadata"]
    if int(metadata["version"]) != number or int(metadata["base_version"]) != number - 1:
        raise FormatError(f"{folder}: version {metadata['version']} on {metadata['base_version']}")
    if metadata["compression_format"] != "zstd":
        raise FormatError(f"{folder}: compression {metadata['compression_format']}")
    digest = CHECKSUMS[metadata["checksum_format"]]
    for file_name in sorted(set(index["weight_map"].values())):
        header, frames = read_file(folder / file_name)
        for name, frame in frames.items():
            if index["weight_map"].get(name) != file_name:
                continue  # a second copy of a tied tensor: weight_map says which one counts
            payload = zstandard.ZstdDecompressor().decompress(frame.data.tobytes())
            new = apply_payload(metadata["delta_encoding"], state[name], payload)
            if digest(new.data.tobytes()) != header.metadata[name]:
                raise FormatError(f"{folder}: {name}: digest mismatch")
            state[name] = new


def versions(root: str | Path, base: ModelFolder) -> Iterator[tuple[str, State]]:
    """(name, weights) of the base and of every version of a run, in order."""
    state = base.state()
    yield "base", dict(state)
    for number, folder in list_versions(root):
        index_path = folder / INDEX_NAME
        index = json.loads(index_path.read_text()) if index_path.exists() else {"metadata": {}}
        if "delta_encoding" in index["metadata"]:
            apply_delta(state, folder, index, number)
        else:
            published = ModelFolder.open(folder).state()
            if set(published) != set(state):
                raise FormatError(f"{folder}: a full version with other tensors than the base")
            state = {name: published[name] for name in state}
        yield folder.name, dict(state)


def decode(root: str | Path, base_folder: str | Path, out: str | Path, skip: tuple[str, ...] = ()) -> dict[str, Path]:
    """Writes every version of a run as a full folder below `out`; returns name -> folder."""
    base = ModelFolder.open(base_folder)
    return {name: base.write_version(Path(out) / name, state, skip) for name, state in versions(root, base)}
