# SPDX-License-Identifier: Apache-2.0
"""Compares versions in a mount with what the reference decoder makes of the same source.

    python3 -m reference.check MOUNTPOINT SOURCE BASE [VERSION...]

Prints the SHA-256 over all tensors of each version, read through the mount and decoded in Python.
Without VERSION every version is compared.  Exit 1 if one differs.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from . import trl, weight_v
from .safetensors_io import ModelFolder, State


def digest(state: State) -> str:
    result = hashlib.sha256()
    for name in sorted(state):
        result.update(name.encode() + b"\0")
        result.update(state[name].data)
    return result.hexdigest()


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    mount, source, base = map(Path, sys.argv[1:4])
    wanted = set(sys.argv[4:])
    module = trl if (source / "anchors").is_dir() or (source / "deltas").is_dir() else weight_v
    differing, left = 0, set(wanted)
    for name, expected in module.versions(source, ModelFolder.open(base)):
        if wanted and name not in wanted:
            continue
        left.discard(name)
        start = time.monotonic()
        found = ModelFolder.open(mount / name).state()
        seconds = time.monotonic() - start
        parameters = sum(tensor.elements for tensor in found.values())
        same = digest(found) == digest(expected)
        differing += not same
        print(f"{name}: {len(found)} tensors, {parameters / 1e6:.1f} M parameters, read in {seconds:.2f} s")
        print(f"  mount   sha256 {digest(found)}")
        print(f"  decoder sha256 {digest(expected)}  {'identical' if same else 'DIFFERENT'}")
        if wanted and not left:
            break
    for name in sorted(left):
        print(f"{name}: the decoder finds no such version", file=sys.stderr)
    return 1 if differing or left else 0


if __name__ == "__main__":
    sys.exit(main())
