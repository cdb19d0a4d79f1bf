# SPDX-License-Identifier: Apache-2.0
"""Random histories of checkpoint folders: every dtype width, odd shapes, files that come, go and move."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from .safetensors_io import DTYPE_BYTES, UNSIGNED, Tensor, write_file

State = dict[str, Tensor]
FLOATS = {"BF16", "F16", "F32", "F64"}


class History:
    """Folders FOLDER/0, FOLDER/1, ...: next() changes something and writes one more."""

    def __init__(self, folder: Path, seed: int, largest: int = 40_000):
        self.folder, self.rng, self.largest = Path(folder), random.Random(seed), largest
        self.numbers = np.random.default_rng(seed)
        self.count = 0
        self.files: dict[str, State] = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
        self.plain: dict[str, bytes] = {"config.json": b'{"model_type":"made"}\n', "empty": b"",
                                        "sub/notes.txt": b"notes\n" * 40, "broken.safetensors": b"no header in here"}
        self.empty_folders = ["nothing/below"]
        for dtype in sorted(DTYPE_BYTES):
            self._add(dtype)

    def next(self) -> Path:
        if self.count:
            for state in self.files.values():
                for tensor in state.values():
                    self._train(tensor)
            for change in self.rng.sample(CHANGES, self.rng.randint(0, 3)):
                change(self)
        target = self.folder / str(self.count)
        self.count += 1
        self._write(target)
        return target

    def _write(self, target: Path) -> None:
        target.mkdir(parents=True)
        for path, state in self.files.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            write_file(target / path, state, self.rng.choice((None, {"format": "pt"})))
        for path, content in self.plain.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_bytes(content)
        for path in self.empty_folders:
            (target / path).mkdir(parents=True)

    # --- tensors ----------------------------------------------------------------------------------

    def _values(self, dtype: str, count: int) -> np.ndarray:
        width = DTYPE_BYTES[dtype]
        kind = self.rng.random()
        if kind < 0.2 or dtype not in FLOATS:
            period = self.numbers.integers(0, 256, min(count * width, self.rng.choice((40, 4096, 1 << 20))) or 1)
            return np.resize(period.astype(np.uint8), count * width)
        values = self.numbers.standard_normal(count) * 0.02
        if width == 8:
            return values.view(np.uint8)
        bits = values.astype("<f4").view("<u4")
        return (bits if width == 4 else (bits >> 16).astype("<u2")).view(np.uint8)

    def _add(self, dtype: str | None = None) -> None:
        dtype = dtype or self.rng.choice(sorted(DTYPE_BYTES))
        shapes = ((), (0,), (1,), (7, 0, 3), (17, 5), (64, 64), (3, 11, 13), (self.largest,))
        shape = self.rng.choice([shape for shape in shapes if np.prod(shape) <= self.largest])
        count = int(np.prod(shape, dtype=int))
        state = self.files[self.rng.choice(sorted(self.files))]
        state[f"layer.{dtype}.{self.rng.randrange(1000)}"] = Tensor(dtype, shape, self._values(dtype, count))

    def _train(self, tensor: Tensor) -> None:
        bits = tensor.data.view(UNSIGNED[min(DTYPE_BYTES[tensor.dtype], 4)])
        share = self.rng.choice((0, 0, 0.001, 0.01, 0.1, 1))
        chosen = np.flatnonzero(self.numbers.random(bits.size) < share)
        size = self.rng.choice((1, 1, 3, 100, 1 << 30))
        steps = np.rint(self.numbers.standard_normal(chosen.size) * size).astype(np.int64)
        steps[steps == 0] = 1
        bits[chosen] = (bits[chosen].astype(np.int64) + steps).astype(bits.dtype)

    def _pick(self) -> tuple[State, str] | None:
        places = [(state, name) for state in self.files.values() for name in state]
        return self.rng.choice(places) if places else None

    # --- changes to the tree --------------------------------------------------------------------------

    def add_tensor(self) -> None:
        self._add()

    def remove_tensor(self) -> None:
        if place := self._pick():
            del place[0][place[1]]

    def rename_tensor(self) -> None:
        if place := self._pick():
            state, name = place
            state[f"renamed.{self.rng.randrange(1000)}"] = state.pop(name)

    def reshape_tensor(self) -> None:
        if place := self._pick():
            state, name = place
            tensor = state[name]
            state[name] = Tensor(tensor.dtype, (tensor.elements, 1), tensor.data)

    def grow_tensor(self) -> None:
        if place := self._pick():
            state, name = place
            tensor = state[name]
            more = Tensor(tensor.dtype, (5,), self._values(tensor.dtype, 5))
            state[name] = Tensor(tensor.dtype, (tensor.elements + 5,), np.concatenate((tensor.data, more.data)))

    def tie_tensor(self) -> None:
        if place := self._pick():
            self.rng.choice(list(self.files.values()))[f"tied.{self.rng.randrange(1000)}"] = place[0][place[1]].copy()

    def reshard(self) -> None:
        everything = {name: tensor for state in self.files.values() for name, tensor in state.items()}
        count = self.rng.randint(1, 4)
        self.files = {f"{'deep/' * (count == 4)}model-{i + 1:05d}-of-{count:05d}.safetensors": {} for i in range(count)}
        targets = list(self.files.values())
        for name, tensor in everything.items():
            self.rng.choice(targets)[name] = tensor

    def change_config(self) -> None:
        self.plain["config.json"] = json.dumps({"model_type": "made", "step": self.rng.random()}).encode()

    def change_plain_files(self) -> None:
        self.plain[f"sub/{self.rng.randrange(5)}.bin"] = self.rng.randbytes(self.rng.choice((0, 1, 300, min(70_000, self.largest))))
        self.plain.pop(f"sub/{self.rng.randrange(5)}.bin", None)
        self.plain["broken.safetensors"] = self.rng.randbytes(self.rng.choice((0, 5, 8, 30)))

    def change_empty_folders(self) -> None:
        self.empty_folders = [[], ["other"], ["nothing/below", "other"]][self.rng.randrange(3)]


CHANGES = [value for name, value in vars(History).items() if callable(value) and not name.startswith("_")
           and name != "next"]
