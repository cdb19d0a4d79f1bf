# SPDX-License-Identifier: Apache-2.0
"""A model of any size that takes no disk: safetensors shards with real headers over data areas that are holes.

All weights are zero.  Names and the mix of tensors are those of a mixture of experts; every matrix has the same shape.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

EXPERTS = 384
COLUMNS = 2048
ELEMENT_BYTES = 2  # bf16
INDEX_NAME = "model.safetensors.index.json"


def _layer(number: int):
    """(name, is a vector) of the tensors of one layer."""
    prefix = f"model.layers.{number}."
    yield prefix + "input_layernorm.weight", True
    for part in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"):
        yield f"{prefix}self_attn.{part}.weight", False
    yield prefix + "post_attention_layernorm.weight", True
    yield prefix + "mlp.gate.weight", False
    for expert in range(EXPERTS):
        for part in ("down_proj", "gate_proj", "up_proj"):
            yield f"{prefix}mlp.experts.{expert}.{part}.weight", False


@dataclass(frozen=True)
class BigTensor:
    name: str
    vector: bool
    shape: tuple[int, ...]
    shard: int
    begin: int  # in the shard's data area

    @property
    def bytes(self) -> int:
        count = ELEMENT_BYTES
        for dim in self.shape:
            count *= dim
        return count


@dataclass(frozen=True)
class BigModel:
    tensors: int = 70_000
    shards: int = 128
    parameters: int = 10**12
    list: list[BigTensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "list", self._tensors())

    def _tensors(self) -> list[BigTensor]:
        names, layer = [], 0
        while len(names) < self.tensors:
            names += _layer(layer)
            layer += 1
        del names[self.tensors:]
        matrices = sum(not vector for _, vector in names)
        rows = max(1, round(self.parameters / matrices / COLUMNS))
        found, end, last = [], 0, -1
        for number, (name, vector) in enumerate(names):
            shard = number * self.shards // self.tensors
            begin = end if shard == last else 0
            tensor = BigTensor(name, vector, (COLUMNS,) if vector else (rows, COLUMNS), shard, begin)
            found.append(tensor)
            end, last = begin + tensor.bytes, shard
        return found

    @cached_property
    def by_shard(self) -> list[list[BigTensor]]:
        parts: list[list[BigTensor]] = [[] for _ in range(self.shards)]
        for tensor in self.list:
            parts[tensor.shard].append(tensor)
        return parts

    @cached_property
    def headers(self) -> list[bytes]:
        return [_header(part) for part in self.by_shard]

    @property
    def matrix_bytes(self) -> int:
        return next(tensor.bytes for tensor in self.list if not tensor.vector)

    @property
    def total_parameters(self) -> int:
        return sum(tensor.bytes for tensor in self.list) // ELEMENT_BYTES

    def shard_name(self, shard: int) -> str:
        return f"model-{shard + 1:05d}-of-{self.shards:05d}.safetensors"

    def shard_bytes(self, shard: int) -> int:
        last = self.by_shard[shard][-1]
        return len(self.headers[shard]) + last.begin + last.bytes

    @cached_property
    def plain_files(self) -> dict[str, bytes]:
        total = sum(tensor.bytes for tensor in self.list)
        weight_map = {tensor.name: self.shard_name(tensor.shard) for tensor in self.list}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        return {"config.json": b'{"model_type": "simulated", "torch_dtype": "bfloat16"}\n',
                INDEX_NAME: json.dumps(index, indent=2).encode() + b"\n"}

    def files(self) -> list[tuple[str, int]]:
        """Path and size of every file, in the order of the paths."""
        plain = [(path, len(content)) for path, content in self.plain_files.items()]
        return sorted(plain + [(self.shard_name(i), self.shard_bytes(i)) for i in range(self.shards)])

    @cached_property
    def first_object(self) -> int:
        """Number of the first tensor among the objects of the tree; the others follow it in order."""
        return sum(path < self.shard_name(0) for path in self.plain_files)

    def objects(self) -> int:
        return self.tensors + len(self.plain_files)

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for path, content in self.plain_files.items():
            (folder / path).write_bytes(content)
        for shard in range(self.shards):
            with open(folder / self.shard_name(shard), "wb") as file:
                file.write(self.headers[shard])
                file.truncate(self.shard_bytes(shard))
        return folder


def _header(tensors: list[BigTensor]) -> bytes:
    records: dict = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        records[tensor.name] = {"dtype": "BF16", "shape": tensor.shape,
                                "data_offsets": [tensor.begin, tensor.begin + tensor.bytes]}
    text = json.dumps(records, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
