# SPDX-License-Identifier: Apache-2.0
"""Simulated chains: weights from N(0, 0.02), Adam 0.9 / 0.95 with an fp32 master, gradients of a small constant part
plus noise, rounded to bf16 at every step.  Positions are uniform given the weight's size, which real models are not:
the hard case for a codec that looks at positions, and free of untouched rows."""

from pathlib import Path

import numpy as np
from chains import Simulation, checkpoint
from reference.safetensors_io import Tensor, write_atomically, write_file

SIGMA, SIGNAL, WARM = 0.02, 0.05, 21
SHAPE = (2048, 1024)
EXPERT = (256, 1024)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Bit patterns, rounded to nearest even (no NaN here)."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def adam_steps(shape, rate: float, random: np.random.Generator):
    """Yields the bf16 bits after WARM steps and after one more."""
    weight = random.standard_normal(shape, np.float32) * np.float32(SIGMA)
    signal = random.standard_normal(shape, np.float32) * np.float32(SIGNAL)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, WARM + 2):
        gradient = signal + random.standard_normal(shape, np.float32)
        first += np.float32(0.1) * (gradient - first)
        second += np.float32(0.05) * (gradient * gradient - second)
        scale = np.float32(rate / (1 - 0.9**step)), np.float32(1 / (1 - 0.95**step))
        weight -= scale[0] * first / (np.sqrt(second * scale[1]) + np.float32(1e-8))
        if step >= WARM:
            yield to_bf16(weight)


def tensors_of(simulation: Simulation, shape):
    """(name, shape, whether it trains)"""
    for layer in range(simulation.layers):
        yield f"layers.{layer}.attention.weight", shape, True
        for expert in range(simulation.experts):
            trains = expert % (simulation.experts // simulation.touched) == layer
            for part in ("down", "gate", "up"):
                yield f"layers.{layer}.experts.{expert}.{part}.weight", EXPERT, trains


def simulate(root: Path, simulation: Simulation, shape=SHAPE) -> None:
    """Leaves the two checkpoints under root."""
    random = np.random.default_rng(42)
    old: dict[str, Tensor] = {}
    new: dict[str, Tensor] = {}
    for name, dims, trains in tensors_of(simulation, shape):
        if trains:
            before, after = adam_steps(dims, simulation.rate, random)
        else:
            before = after = to_bf16(random.standard_normal(dims, np.float32) * np.float32(SIGMA))
        old[name], new[name] = Tensor("BF16", dims, before), Tensor("BF16", dims, after)
    for step, tensors in ((WARM, old), (WARM + 1, new)):
        folder = checkpoint(root, simulation.name, step)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "model.safetensors", lambda path, content=tensors: write_file(path, content))
