# SPDX-License-Identifier: Apache-2.0
"""Makes a small but real Qwen3 checkpoint and a run of published deltas, without torch.

    python3 -m reference.demo DIR [--format weight_v|trl] [--versions 40]

DIR/base is the checkpoint, DIR/run (weight_v) or DIR/bucket (TRL) what a trainer would publish: in
each version about 1 % of the elements move by one unit in the last place, small ones more often, as
they do under Adam at a small learning rate.  The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from .qwen3 import qwen3_config, qwen3_shapes
from .safetensors_io import State, Tensor, write_model
from .trl import TrlWriter, to_bf16
from .weight_v import WeightVWriter


def initial_state(config: dict, seed: int) -> State:
    rng = np.random.default_rng(seed)
    state: State = {}
    for name, shape in qwen3_shapes(config).items():
        if name.endswith("norm.weight"):
            values = np.ones(shape, np.float32)
        else:
            values = rng.standard_normal(shape, np.float32) * np.float32(config["initializer_range"])
        state[name] = to_bf16(Tensor("F32", shape, values))
    return state


def train_step(state: State, rng: np.random.Generator, share: float = 0.01) -> State:
    """The next state: about `share` of the elements step to a neighbouring BF16 value.

    An Adam step has about the same size everywhere, so an element's chance to reach the next BF16
    value halves with each power of two of its own size.
    """
    result: State = {}
    for name, tensor in state.items():
        new = tensor.copy()
        bits = new.bits()
        candidates = rng.integers(0, bits.size, max(1, int(bits.size * share * 4)))
        exponent = ((bits[candidates] >> 7) & 0xFF).astype(np.int64)
        typical = int(np.median(exponent)) if candidates.size else 0
        chance = np.minimum(1.0, 0.22 * np.exp2((typical - exponent).astype(np.float64)))
        chosen = np.unique(candidates[rng.random(candidates.size) < chance])
        up = (rng.random(chosen.size) < 0.5) | ((bits[chosen] & 0x7FFF) == 0)
        bits[chosen] = np.where(up, bits[chosen] + np.uint16(1), bits[chosen] - np.uint16(1))
        result[name] = new
    return result


def make_demo(folder: Path, source_format: str = "weight_v", versions: int = 40, layers: int = 8, hidden: int = 256,
              vocab: int = 32000, seed: int = 7) -> dict:
    """Makes the demo in `folder`; a finished one with the same parameters is left as it is."""
    about = {"format": source_format, "versions": versions, "layers": layers, "hidden": hidden, "vocab": vocab,
             "seed": seed}
    marker = folder / ".weightfs-demo"  # ours to rewrite; holds the parameters once all is written
    if marker.exists() and marker.read_text().strip() == json.dumps(about):
        return about
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SystemExit(f"{folder} is not empty and not a demo folder; name another one")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("unfinished\n")
    source = folder / ("run" if source_format == "weight_v" else "bucket")
    for name in ("base", "run", "bucket"):
        shutil.rmtree(folder / name, ignore_errors=True)

    config = qwen3_config(layers, hidden, vocab)
    state = initial_state(config, seed)
    write_model(folder / "base", state, 2, config, {
        "generation_config.json": b'{"bos_token_id": 0, "eos_token_id": 1}\n',
        "README.md": b"A toy Qwen3 checkpoint with random weights, made by weightfs's demo.\n",
    })
    rng = np.random.default_rng(seed + 1)
    if source_format == "weight_v":
        writer = WeightVWriter(source, state)
    else:
        writer = TrlWriter(source, anchor_interval=20)
        writer.publish(state)
    for _ in range(versions - (source_format == "trl")):
        state = train_step(state, rng)
        writer.publish(state)
    marker.write_text(json.dumps(about) + "\n")
    return about


def main() -> None:
    parser = argparse.ArgumentParser(prog="reference.demo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="folder to make the demo in")
    parser.add_argument("--format", choices=["weight_v", "trl"], default="weight_v", help="kind of deltas (weight_v)")
    parser.add_argument("--versions", type=int, default=40, help="number of published versions (40)")
    parser.add_argument("--layers", type=int, default=8, help="transformer layers (8)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size, a multiple of 128 (256)")
    parser.add_argument("--vocab", type=int, default=32000, help="vocabulary size (32000)")
    parser.add_argument("--seed", type=int, default=7, help="seed of everything random (7)")
    arguments = parser.parse_args()
    if arguments.hidden < 128 or arguments.hidden % 128 or arguments.layers < 1 or arguments.versions < 1:
        parser.error("--hidden must be a multiple of 128, --layers and --versions at least 1")
    make_demo(arguments.dir, arguments.format, arguments.versions, arguments.layers, arguments.hidden,
              arguments.vocab, arguments.seed)


if __name__ == "__main__":
    main()
