# SPDX-License-Identifier: Apache-2.0
"""Small runs that several test files publish."""

from pathlib import Path

import numpy as np
from reference import trl, weight_v
from reference.safetensors_io import State, Tensor, copy_state, write_model

SHAPES = {"a.weight": (600, 512), "b.weight": (900, 512), "c.norm": (512,), "d.weight": (300, 512)}


def make_state(seed: int = 41) -> State:
    rng = np.random.default_rng(seed)
    return {name: Tensor("BF16", shape, rng.integers(0, 120, int(np.prod(shape)) * 2, dtype=np.uint8))
            for name, shape in SHAPES.items()}


def next_state(state: State, rng: np.random.Generator, share: float = 0.01) -> State:
    result = copy_state(state)
    for tensor in result.values():
        tensor.bits()[rng.integers(0, tensor.elements, max(1, int(tensor.elements * share)))] ^= 1
    return result


def make_run(folder: Path, versions: int = 6, full_at: tuple[int, ...] = (), shards: int = 2, **options):
    """folder/base and folder/run in weight_v; returns (run, base, state of every version)."""
    rng = np.random.default_rng(42)
    states = [make_state()]
    write_model(folder / "base", states[0], shards, {"model_type": "test"})
    writer = weight_v.WeightVWriter(folder / "run", states[0], shards=shards, **options)
    for version in range(1, versions + 1):
        states.append(next_state(states[-1], rng))
        writer.publish(states[-1], full=version in full_at)
    return folder / "run", folder / "base", states


def make_bucket(folder: Path, versions: int = 6, anchor_interval: int = 100, **options):
    """folder/base and folder/bucket as TRL writes them; returns (bucket, base, states)."""
    rng = np.random.default_rng(43)
    states = [make_state()]
    write_model(folder / "base", states[0], 2, {"model_type": "test"})
    writer = trl.TrlWriter(folder / "bucket", anchor_interval=anchor_interval, **options)
    writer.publish(states[0])
    for _ in range(versions - 1):
        states.append(next_state(states[-1], rng))
        writer.publish(states[-1])
    return folder / "bucket", folder / "base", states
