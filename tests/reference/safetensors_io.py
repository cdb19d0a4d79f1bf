# SPDX-License-Identifier: Apache-2.0
"""safetensors files and Hugging Face style model folders, read and written by hand.

A file is: u64 little-endian header length H, H bytes of JSON, the data area.  The header maps a
tensor name to {"dtype", "shape", "data_offsets": [begin, end]}; offsets count from the data area.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# dtype -> bytes an element; sub-byte dtypes are left out, no format here publishes them.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}
UNSIGNED = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
MAX_HEADER_BYTES = 100_000_000
INDEX_NAME = "model.safetensors.index.json"


class FormatError(ValueError):
    """A file or folder breaks its format."""


@dataclass
class Tensor:
    """A tensor's dtype, shape and raw bytes (a flat uint8 array)."""

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    def __post_init__(self) -> None:
        self.shape = tuple(int(dim) for dim in self.shape)
        self.data = np.ascontiguousarray(self.data).reshape(-1).view(np.uint8)
        if self.data.size != self.elements * DTYPE_BYTES[self.dtype]:
            raise FormatError(f"{self.dtype}{list(self.shape)} does not take {self.data.size} bytes")

    @property
    def elements(self) -> int:
        count = 1
        for dim in self.shape:
            count *= dim
        return count

    def bits(self) -> np.ndarray:
        """The elements' bit patterns as unsigned integers (a view)."""
        return self.data.view(UNSIGNED[DTYPE_BYTES[self.dtype]])

    def copy(self) -> "Tensor":
        return Tensor(self.dtype, self.shape, self.data.copy())


# A model's weights: name -> tensor, in publishing order.
State = dict[str, Tensor]


def copy_state(state: State) -> State:
    return {name: tensor.copy() for name, tensor in state.items()}


@dataclass
class Header:
    """A parsed header; `raw` is the file's beginning up to the data area, verbatim."""

    raw: bytes
    metadata: dict[str, str]
    records: dict[str, tuple[str, tuple[int, ...], int, int]]  # name -> dtype, shape, begin, end
    data_bytes: int

    @property
    def data_start(self) -> int:
        return len(self.raw)


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise FormatError("a key stands twice")
    return result


def read_header(path: str | os.PathLike) -> Header:
    """Reads and checks a file's header: every byte of the data area belongs to exactly one tensor."""
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise FormatError(f"{path}: shorter than 8 bytes")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise FormatError(f"{path}: header length {length} in a file of {size} bytes")
        text = file.read(length)
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: header is not JSON: {error}") from error
    if not isinstance(parsed, dict) or not text.startswith(b"{"):
        raise FormatError(f"{path}: header is not a JSON object")
    metadata = parsed.pop("__metadata__", None) or {}
    if not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: __metadata__ holds something that is not text")
    records = {name: _check_record(path, name, record) for name, record in parsed.items()}
    _check_coverage(path, records, size - 8 - length)
    return Header(prefix + text, metadata, records, size - 8 - length)


def _check_record(path, name: str, record) -> tuple[str, tuple[int, ...], int, int]:
    try:
        dtype, shape, (begin, end) = record["dtype"], tuple(record["shape"]), record["data_offsets"]
        count = 1
        for dim in shape:
            if type(dim) is not int or dim < 0:
                raise ValueError("shape")
            count *= dim
        if count * DTYPE_BYTES[dtype] != end - begin or begin < 0:
            raise ValueError("data_offsets")
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: tensor {name!r}: bad record ({error})") from error
    return dtype, shape, begin, end


def _check_coverage(path, records, data_bytes: int) -> None:
    position = 0
    for _, _, begin, end in sorted(records.values(), key=lambda record: record[2:]):
        if begin != position:
            raise FormatError(f"{path}: hole or overlap at data byte {position}")
        position = end
    if position != data_bytes:
        raise FormatError(f"{path}: tensors end at data byte {position}, the file at {data_bytes}")


def read_file(path: str | os.PathLike) -> tuple[Header, State]:
    """All tensors of a file, in header order.  Their data are views of one buffer."""
    header = read_header(path)
    buffer = np.fromfile(path, dtype=np.uint8, offset=header.data_start)
    return header, {
        name: Tensor(dtype, shape, buffer[begin:end]) for name, (dtype, shape, begin, end) in header.records.items()
    }


def write_file(path: str | os.PathLike, tensors: State, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors in the given order; the header is padded with spaces to a multiple of 8."""
    header: dict = {}
    if metadata is not None:
        header["__metadata__"] = metadata
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.data.size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data.tobytes())


def write_atomically(path: Path, write) -> None:
    """write(temporary path), then rename: the way the trainers publish."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


# --- model folders ----------------------------------------------------------------------------


def split_by_size(tensors: State, shards: int) -> list[State]:
    """Cuts a state, in order, into `shards` parts of about equal size; none is empty."""
    if not 1 <= shards <= len(tensors):
        raise ValueError(f"{len(tensors)} tensors cannot fill {shards} shards")
    total = sum(tensor.data.size for tensor in tensors.values()) or 1
    parts: list[State] = [{}]
    written, left = 0, len(tensors)
    for name, tensor in tensors.items():
        full = written >= total * len(parts) / shards
        if parts[-1] and len(parts) < shards and (full or left <= shards - len(parts)):
            parts.append({})
        parts[-1][name] = tensor
        written += tensor.data.size
        left -= 1
    return parts


def write_index(folder: Path, weight_map: dict[str, str], metadata: dict) -> None:
    text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"
    write_atomically(folder / INDEX_NAME, lambda path: path.write_text(text))


def write_model(folder: str | os.PathLike, tensors: State, shards: int = 1, config: dict | None = None,
                extra: dict[str, bytes] | None = None) -> Path:
    """A Hugging Face style folder: `model.safetensors`, or 1-based shards with an index."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        write_file(folder / "model.safetensors", tensors, {"format": "pt"})
    else:
        weight_map: dict[str, str] = {}
        for number, part in enumerate(split_by_size(tensors, shards), start=1):
            name = f"model-{number:05d}-of-{shards:05d}.safetensors"
            write_file(folder / name, part, {"format": "pt"})
            weight_map.update(dict.fromkeys(part, name))
        total = sum(tensor.data.size for tensor in tensors.values())
        write_index(folder, weight_map, {"total_size": total})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, content in (extra or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@dataclass
class ModelFolder:
    """A model folder: its shards and where each tensor lies."""

    path: Path
    shards: list[str]
    headers: dict[str, Header]
    place: dict[str, str] = field(default_factory=dict)  # tensor -> shard
    config: dict = field(default_factory=dict)

    @staticmethod
    def open(path: str | os.PathLike) -> "ModelFolder":
        path = Path(path)
        if (path / INDEX_NAME).exists():
            weight_map = json.loads((path / INDEX_NAME).read_text())["weight_map"]
            shards = sorted(set(weight_map.values()))
        elif (path / "model.safetensors").exists():
            shards, weight_map = ["model.safetensors"], None
        else:
            raise FormatError(f"{path}: neither {INDEX_NAME} nor model.safetensors")
        headers = {shard: read_header(path / shard) for shard in shards}
        place: dict[str, str] = {}
        for shard in shards:
            for name in headers[shard].records:
                if name in place:
                    raise FormatError(f"{path}: {name} stands in {place[name]} and {shard}")
                place[name] = shard
        if weight_map is not None and weight_map != place:
            raise FormatError(f"{path}: weight_map and shards disagree")
        config = path / "config.json"
        return ModelFolder(path, shards, headers, place, json.loads(config.read_text()) if config.exists() else {})

    def state(self) -> State:
        result: State = {}
        for shard in self.shards:
            result.update(read_file(self.path / shard)[1])
        return result

    def ties_word_embeddings(self) -> bool:
        parts = (self.config, self.config.get("text_config", {}))
        return any(part.get("tie_word_embeddings") is True for part in parts)

    def write_version(self, folder: str | os.PathLike, state: State, skip: tuple[str, ...] = ()) -> Path:
        """A folder with the same files as this one, header bytes included, and the state's data.

        `skip` names entries of the root that are not part of the model.
        """
        folder = Path(folder)
        folder.mkdir(parents=True)
        for entry in sorted(self.path.iterdir()):
            if entry.name in skip or entry.name in self.shards:
                continue
            if entry.is_dir():
                shutil.copytree(entry, folder / entry.name)
            else:
                shutil.copyfile(entry, folder / entry.name)
        for shard in self.shards:
            header = self.headers[shard]
            with open(folder / shard, "wb") as file:
                file.write(header.raw)
                for name, (dtype, shape, begin, _) in sorted(header.records.items(), key=lambda item: item[1][2:]):
                    tensor = state[name]
                    assert (tensor.dtype, tensor.shape) == (dtype, shape), name
                    assert file.tell() == header.data_start + begin
                    file.write(tensor.data.tobytes())
        return folder


def widen(tensor: Tensor, dtype: str) -> Tensor:
    """The tensor in another dtype that holds every value of its own exactly."""
    if tensor.dtype == dtype:
        return tensor
    if (tensor.dtype, dtype) == ("BF16", "F32"):
        return Tensor("F32", tensor.shape, tensor.bits().astype("<u4") << np.uint32(16))
    raise FormatError(f"{tensor.dtype} does not widen exactly to {dtype}")
