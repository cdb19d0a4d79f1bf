#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`weightfs commit` against slime's writer on a model that is large enough to keep all cores busy.

    tests/bench/codec/commit_speed.py [--gib 2] [--shift 2.3e-7] [--passes 5] [--folder /dev/shm]

Makes two checkpoints of weights from N(0, 0.02) in bf16, the second with each fp32 master moved by 0.7 to 1.3 times
SHIFT in either direction, and times both writers in turn: all cores, checkpoints in the page cache, results synced.
Prints JSON; ratio above 1 means that weightfs is faster.  CODEC_BENCH and WEIGHTFS_BIN as in run.py.
"""

import argparse
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
from run import commit_against_slime, host
from simulate_chain import SIGMA, to_bf16

SHAPE = (4096, 4096)
TENSOR_BYTES = SHAPE[0] * SHAPE[1] * 2


def make_pair(folder: Path, tensors: int, shift: float) -> tuple[tuple[Path, Path], float]:
    """(the two checkpoint folders, share of changed weights); written tensor by tensor, so memory stays small."""
    random = np.random.default_rng(3)
    header = {f"layers.{i}.weight": {"dtype": "BF16", "shape": SHAPE, "data_offsets": [start, start + TENSOR_BYTES]}
              for i, start in enumerate(range(0, tensors * TENSOR_BYTES, TENSOR_BYTES))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folders = folder / "old", folder / "new"
    for made in folders:
        made.mkdir()
    changed = 0
    with open(folders[0] / "model.safetensors", "wb") as old, open(folders[1] / "model.safetensors", "wb") as new:
        for file in (old, new):
            file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(tensors):
            master = random.standard_normal(SHAPE, np.float32) * np.float32(SIGMA)
            move = random.uniform(0.7 * shift, 1.3 * shift, SHAPE).astype(np.float32)
            move = np.copysign(move, random.uniform(-1, 1, SHAPE)).astype(np.float32)
            before, after = to_bf16(master), to_bf16(master + move)
            changed += int(np.count_nonzero(before != after))
            old.write(before.tobytes())
            new.write(after.tobytes())
    return folders, changed / (tensors * SHAPE[0] * SHAPE[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--shift", type=float, default=2.3e-7)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are made (default: the temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tensors = max(1, round(arguments.gib * (1 << 30) / TENSOR_BYTES))
        folders, share = make_pair(Path(folder), tensors, arguments.shift)
        commit = commit_against_slime(folders, arguments.passes)
    report = {"host": host(), "bytes": tensors * TENSOR_BYTES, "changed_percent": 100 * share, "commit": commit,
              "ratio": commit["slime"] / commit["weightfs"]}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
