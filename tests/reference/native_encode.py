# SPDX-License-Identifier: Apache-2.0
"""Encoders of the native container's block codings, for tests: valid, not good.

Where docs/FORMAT.md leaves a choice, a random generator makes it, so that readers meet what a writer that wants
small files never writes: needless escapes, odd parameters, live words without a change.
"""

from __future__ import annotations

import random

import numpy as np
import zstandard

from .native_blocks import DENSE, GROW, PLANES, RAW, SPARSE, UNARY_LIMIT, WORD, Params, Set, key, largest_key
from .native_blocks import Dense as DenseParams
from .safetensors_io import UNSIGNED


def varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(result + bytes([value]))


def number(value: int, width: int) -> bytes:
    return value.to_bytes(width, "little")


class BitWriter:
    """Least significant bit first."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def field(self, value: int, width: int) -> None:
        self.bits += [value >> shift & 1 for shift in range(width)]

    def unary(self, value: int) -> None:
        self.bits += [0] * value + [1]

    def data(self) -> bytes:
        return np.packbits(np.array(self.bits, np.uint8), bitorder="little").tobytes()


# --- parameter records -----------------------------------------------------------------------------


def serialise(params: Params) -> bytes:
    first = params.classes | (params.hot - 1) << 3 | (32 if params.dense else 0)
    record = bytes([first, *params.thresholds])
    if params.dense is None:
        return record
    dense = params.dense
    record += bytes([dense.first_key])
    record += number(dense.cold | dense.escape << 6 | dense.growth << 10 | dense.shift << 12, 2)
    if params.width == 4:
        return record + bytes(dense.rice)
    padded = [*dense.rice, 0]
    return record + bytes(padded[i] | padded[i + 1] << 4 for i in range(0, len(dense.rice), 2))


def random_params(rng: random.Random, width: int, parents: np.ndarray) -> Params:
    """Parameters that fit the keys of `parents` sometimes; anything valid otherwise."""
    top = largest_key(width)
    keys = sorted({key(int(element), width) for element in parents[:512]} - {0}) or [1]
    if rng.random() < 0.3:
        keys = list(range(1, top + 1))
    classes = rng.randint(0, min(4, len(keys) + 1))
    thresholds = tuple(sorted(rng.sample(keys, max(classes - 1, 0))))
    params = Params(width, classes, rng.randint(1, max(classes, 1)), thresholds)
    if rng.random() < 0.7:
        cold = rng.randint(1, 32)
        limit = rng.choice((4, 6, 8 * width - 2)) if width > 1 else 6
        params.dense = DenseParams(rng.choice([0, keys[0], max(keys[-1] - 8, 0), top]), cold, rng.randint(1, 15),
                                   rng.randint(0, 3), rng.randint(0, 3),
                                   [rng.randint(0, limit) for _ in range(cold)])
    return params


# --- codings ----------------------------------------------------------------------------------------


def encode_block(rng: random.Random, params: Params, parent: bytes | None, result: bytes) -> tuple[int, bytes]:
    """A block in a random coding that can hold it."""
    codings = [RAW, PLANES]
    if parent is not None:
        codings += [SPARSE] * 4 * (params.classes > 0) + [DENSE] * 4 * (params.dense is not None)
    coding = rng.choice(codings)
    payload = encode_as(rng, params, coding, parent, result)
    return (coding, payload) if payload is not None and len(payload) <= len(result) else (RAW, result)


def encode_as(rng: random.Random, params: Params, coding: int, parent: bytes | None, result: bytes) -> bytes | None:
    """The payload in one coding; it may be longer than allowed.  None where there is nothing to code."""
    if coding == RAW:
        return result
    if coding == PLANES:
        return _planes(rng, params.width, result)
    old, new = (np.frombuffer(data, UNSIGNED[params.width]).tolist() for data in (parent, result))
    if coding == DENSE:
        return _dense(rng, params, old, new)
    return _sparse(rng, params, old, _differences(params.width, old, new))


def _differences(width: int, old: list[int], new: list[int]) -> dict[int, int]:
    """Position -> signed difference."""
    half, found = 1 << (8 * width - 1), {}
    for position, (a, b) in enumerate(zip(old, new, strict=True)):
        if a != b:
            found[position] = (b - a + half) % (2 * half) - half
    return found


def _planes(rng: random.Random, width: int, result: bytes) -> bytes:
    x = np.frombuffer(result, UNSIGNED[width]).astype(np.uint64)
    if width == 1:
        planes = [x]
    elif width == 2:
        planes = [x >> 7 & 0xFF, x & 0x7F | x >> 8 & 0x80]
    else:
        planes = [x >> 23 & 0xFF, x >> 16 & 0x7F | x >> 24 & 0x80, x >> 8 & 0xFF, x & 0xFF]
    head, body = b"", b""
    for plane in planes:
        content = plane.astype(np.uint8).tobytes()
        stored = zstandard.ZstdCompressor(level=rng.choice((-5, 1, 3, 19)), write_checksum=rng.random() < 0.3).compress(
            content)
        if len(stored) >= len(content):
            head, body = head + b"\0", body + content
        else:
            head, body = head + varint(len(stored)), body + stored
    return head + body


def _members(part: Set, members: list[int], lows: BitWriter, unaries: BitWriter, bitmaps: BitWriter) -> None:
    if part.is_bitmap:
        chosen = set(members)
        bitmaps.bits += [int(member in chosen) for member in range(part.limit)]
    elif part.is_rice:
        last = -1
        for member in members:
            gap = member - last - 1
            unaries.unary(gap >> part.rice)
            lows.field(gap, part.rice)
            last = member


def _magnitudes(values: list[int], rice: int, width: int, bits: BitWriter) -> None:
    for value in values:
        if value >> rice < UNARY_LIMIT:
            bits.unary(value >> rice)
            bits.field(value, rice)
        else:
            bits.field(0, UNARY_LIMIT)
            bits.field(value, 8 * width)


def _sparse(rng: random.Random, params: Params, old: list[int], differences: dict[int, int]) -> bytes | None:
    if not differences:
        return None
    width, hot, classes = params.width, params.hot, [[] for _ in range(params.classes)]
    changed = [[] for _ in classes]  # by class: (rank or position, difference)
    for position, element in enumerate(old):
        number_of = params.class_of(element)
        if position in differences:
            cold = number_of == params.classes - 1
            place = position if cold else len(classes[number_of])
            changed[number_of].append((place, differences[position]))
        classes[number_of].append(position)
    groups = [[d for part in changed[:hot] for _, d in part], [d for part in changed[hot:] for _, d in part]]
    flags = [[i for i, d in enumerate(group) if abs(d) > 1] for group in groups]
    top = 15 if width == 4 else 6 if width == 1 else 14
    m = [rng.randint(0, min(top, rng.choice((2, 6, 15)))) if flag else 0 for flag in flags]

    payload = b"".join(varint(len(part)) for part in changed)
    payload += b"".join(varint(len(flag)) for group, flag in zip(groups, flags, strict=True) if group)
    payload += bytes([m[0] | m[1] << 4]) if any(flags) else b""
    signs, lows, unaries, magnitudes, bitmaps = (BitWriter() for _ in range(5))
    signs.bits = [int(d < 0) for group in groups for d in group]
    for number_of, part in enumerate(changed):
        cold = number_of == params.classes - 1
        places = Set(len(old) if cold else len(classes[number_of]), len(part))
        _members(places, [place for place, _ in part], lows, unaries, bitmaps)
    for group, flag, parameter in zip(groups, flags, m, strict=True):
        _members(Set(len(group), len(flag)), flag, lows, unaries, bitmaps)
        _magnitudes([abs(group[i]) - 2 for i in flag], parameter * (2 if width == 4 else 1), width, magnitudes)
    everything = BitWriter()
    everything.bits = signs.bits + lows.bits + bitmaps.bits + unaries.bits + magnitudes.bits
    return payload + everything.data()


def _dense(rng: random.Random, params: Params, old: list[int], new: list[int]) -> bytes:
    width, dense = params.width, params.dense
    differences = _differences(width, old, new)
    words = (len(old) + WORD - 1) // WORD
    has_map, lazy = rng.random() < 0.5, rng.random() * 0.3
    live = [1] * words
    if has_map:  # a word without a change may be live, one with a few changes may not be
        weight = [0] * words
        for position in differences:
            weight[position // WORD] += 1
        live = [int(rng.random() < lazy or count > rng.randint(0, 2)) for count in weight]
    lows, unaries, cold, escapes = BitWriter(), BitWriter(), {}, b""
    for position, element in enumerate(old):
        bucket = dense.bucket(element, width)
        if not live[position // WORD] or bucket >= dense.cold:
            if position in differences:
                cold[position] = differences[position]
        elif not _code(rng, dense, bucket, width, differences.get(position, 0), lows, unaries):
            escapes += number(new[position], width)
    map_bits = BitWriter()
    map_bits.bits = live if has_map else []
    payload = varint(2 * len(unaries.bits) + has_map) + varint(len(lows.bits)) + varint(len(escapes) // width)
    payload += map_bits.data() + lows.data() + unaries.data() + escapes
    return payload + (_sparse(rng, Params(width, classes=1), old, cold) or b"")


def _code(rng: random.Random, dense: DenseParams, bucket: int, width: int, difference: int, lows: BitWriter,
          unaries: BitWriter) -> bool:
    """One difference of a live word; False when it is announced as an escape."""
    zigzag = (difference << 1) ^ (difference >> (8 * width - 1))
    rice, base = dense.rice[bucket], 0
    for q in range(0 if rng.random() > 0.001 else dense.escape, dense.escape):
        size = rice + GROW[dense.growth][q]
        if zigzag - (base << rice) < 1 << size:
            if size > 8 * width - 2:
                break
            unaries.unary(q)
            lows.field(zigzag - (base << rice), size)
            return True
        base += 1 << GROW[dense.growth][q]
    unaries.unary(dense.escape)
    return False
