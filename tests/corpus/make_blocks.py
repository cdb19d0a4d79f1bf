#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes blocks/blocks.bin: coded blocks of native deltas, made by the encoders in tests/reference.

    python3 tests/corpus/make_blocks.py [OUT SEED COUNT]

The file is a row of cases, numbers little-endian: u8 element width, u8 coding, u8 1 if there is a parent; u32
lengths of record, payload and block; record, payload, parent (if any), result.  Needs numpy and zstandard.
"""

import pathlib
import random
import struct
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from reference.native_blocks import DENSE, PLANES, RAW, SPARSE, decode_block  # noqa: E402
from reference.native_encode import encode_as, random_params, serialise  # noqa: E402
from reference.safetensors_io import UNSIGNED  # noqa: E402

LENGTHS = (1, 2, 3, 7, 31, 63, 64, 65, 100, 127, 128, 129, 200)


def random_pair(rng: random.Random, width: int, count: int) -> tuple[bytes, bytes]:
    numbers = np.random.default_rng(rng.getrandbits(32))
    old = numbers.integers(0, 1 << 8 * width, count, dtype=np.uint64)
    if rng.random() < 0.7:
        old = (numbers.standard_normal(count) * 0.02).astype("<f4").view("<u4").astype(np.uint64) >> (32 - 8 * width)
    steps = np.rint(numbers.standard_normal(count) * rng.choice((0.7, 1, 3, 40, 1e5, 1e9))).astype(np.int64)
    steps[numbers.random(count) > rng.choice((0.01, 0.1, 0.5, 1))] = 0
    new = (old.astype(np.int64) + steps) % (1 << 8 * width)
    return tuple(values.astype(UNSIGNED[width]).tobytes() for values in (old, new))


def cases(rng: random.Random, count: int, lengths=LENGTHS):
    while count > 0:
        width, coding = rng.choice((1, 2, 4)), rng.choice((RAW, PLANES, SPARSE, SPARSE, SPARSE, DENSE, DENSE, DENSE))
        old, new = random_pair(rng, width, rng.choice(lengths))
        params = random_params(rng, width, np.frombuffer(old, UNSIGNED[width]))
        if (coding == SPARSE and not params.classes) or (coding == DENSE and params.dense is None):
            continue
        payload = encode_as(rng, params, coding, old, new)
        if payload is None or len(payload) > len(new):
            continue
        assert decode_block(params, coding, payload, old, len(new)) == new
        record = serialise(params)
        has_parent = coding >= SPARSE
        yield (struct.pack("<BBBIII", width, coding, has_parent, len(record), len(payload), len(new)) + record + payload
               + old * has_parent + new)
        count -= 1


def main() -> None:
    out, seed, count = sys.argv[1:] or (HERE / "blocks" / "blocks.bin", 1, 400)
    out = pathlib.Path(out)
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(b"".join(cases(random.Random(int(seed)), int(count))))


if __name__ == "__main__":
    main()
