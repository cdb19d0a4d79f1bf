# SPDX-License-Identifier: Apache-2.0
"""The chains of checkpoints that the codec benchmark measures, and where they are kept."""

import os
from dataclasses import dataclass
from pathlib import Path

STEPS = range(14, 23)  # of a chain whose steps are squashed


@dataclass(frozen=True)
class Training:
    """One run of the trainer.  `views` says which folders it writes: {folder: (dtype, steps)}."""

    name: str
    start: str  # where the weights start: "grid" (fp32 master on the bf16 values), "fp32", "bf16" (no master)
    rate: float
    steps: int
    views: dict[str, tuple[str, tuple[int, ...]]]
    batch: int = 16


@dataclass(frozen=True)
class Simulation:
    """Adam on N(0, 0.02) weights; `touched` of `experts` experts a layer train (0: a dense model)."""

    name: str
    rate: float
    layers: int = 4
    experts: int = 0
    touched: int = 0


@dataclass(frozen=True)
class Pair:
    """One measured step: two checkpoint folders of a chain."""

    name: str
    chain: str
    old: int
    new: int
    what: str
    kind: str  # "sparse", "dense", "squash", "f8", "f32", "moe": which rows and figures it belongs to

    def folders(self, root: Path) -> tuple[Path, Path]:
        return checkpoint(root, self.chain, self.old), checkpoint(root, self.chain, self.new)


TRAININGS = (
    Training("m-grid-3e-6", "grid", 3e-6, 22, {"m-grid-3e-6": ("bf16", tuple(STEPS))}),
    Training("m-grid-1e-6", "grid", 1e-6, 22, {"m-grid-1e-6": ("bf16", (21, 22))}),
    Training("m-fp32-3e-6", "fp32", 3e-6, 22, {"m-fp32-3e-6": ("bf16", (21, 22)), "m-f32-3e-6": ("f32", (21, 22)),
                                               "m-f8-3e-6": ("f8", (14, 21, 22))}),
    Training("m-bf16-3e-6", "bf16", 3e-6, 22, {"m-bf16-3e-6": ("bf16", (20, 21, 22))}),
    Training("m-dense-2e-5", "grid", 2e-5, 200, {"m-dense-2e-5": ("bf16", (0, 200)), "m-f8-dense": ("f8", (0, 200))},
             batch=8),
    Training("m-dense-1e-4", "grid", 1e-4, 200, {"m-dense-1e-4": ("bf16", (0, 200))}, batch=8),
)

SIMULATIONS = (
    Simulation("sim-0.2", 1.65e-7),
    Simulation("sim-1", 1e-6),
    Simulation("sim-2.7", 3.2e-6),
    Simulation("sim-7", 1.04e-5),
    Simulation("sim-moe", 1e-6, layers=2, experts=20, touched=2),
)

PAIRS = (
    Pair("M grid 1e-6", "m-grid-1e-6", 21, 22, "one step, fp32 master on the bf16 grid", "sparse"),
    Pair("M grid 3e-6", "m-grid-3e-6", 21, 22, "one step, fp32 master on the bf16 grid", "sparse"),
    Pair("M fp32 3e-6", "m-fp32-3e-6", 21, 22, "one step, fp32 master anywhere in the cell", "sparse"),
    Pair("M bf16 3e-6", "m-bf16-3e-6", 21, 22, "one step, no fp32 master", "sparse"),
    Pair("M grid 3e-6, 8 steps", "m-grid-3e-6", 14, 22, "eight steps squashed", "squash"),
    Pair("M dense 2e-5", "m-dense-2e-5", 0, 200, "fine-tune, 200 steps", "dense"),
    Pair("M dense 1e-4", "m-dense-1e-4", 0, 200, "fine-tune, 200 steps", "dense"),
    Pair("sim 0.2 %", "sim-0.2", 21, 22, "simulated step", "sparse"),
    Pair("sim 1 %", "sim-1", 21, 22, "simulated step", "sparse"),
    Pair("sim 2.7 %", "sim-2.7", 21, 22, "simulated step", "sparse"),
    Pair("sim 7 %", "sim-7", 21, 22, "simulated step", "sparse"),
    Pair("M FP8 3e-6", "m-f8-3e-6", 21, 22, "E4M3 of the master, one step", "f8"),
    Pair("M FP8 3e-6, 8 steps", "m-f8-3e-6", 14, 22, "E4M3 of the master, eight steps", "f8"),
    Pair("M FP8 dense 2e-5", "m-f8-dense", 0, 200, "E4M3, fine-tune of 200 steps", "f8"),
    Pair("M F32 3e-6", "m-f32-3e-6", 21, 22, "the fp32 master itself, one step", "f32"),
    Pair("MoE 2 of 20", "sim-moe", 21, 22, "simulated step, 90 % of the experts untouched", "moe"),
)


def default_root() -> Path:
    """Where chains are kept between runs: never in the repository."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "weightfs-bench"


def checkpoint(root: Path, chain: str, step: int) -> Path:
    return root / chain / f"step-{step:04d}"


def missing(root: Path, pairs=PAIRS) -> list[str]:
    """Chains of `pairs` of which a checkpoint is not there."""
    return sorted({pair.chain for pair in pairs for folder in pair.folders(root)
                   if not (folder / "model.safetensors").is_file()})
