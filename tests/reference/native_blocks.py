# SPDX-License-Identifier: Apache-2.0
"""Decoder of the native container's block codings, from docs/FORMAT.md, "Block codings".

Slow on purpose: one element at a time, bits in a list, every rule of the document checked where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import zstandard

from .safetensors_io import UNSIGNED, FormatError

RAW, PLANES, SPARSE, DENSE = range(4)
WORD = 64  # elements
UNARY_LIMIT = 20  # zero bits that announce an escaped magnitude
MAX_RECORD_BYTES = 64
MAX_VARINT = 1 << 32  # in a block
GROW = (
    (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8),
    (0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    (0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise FormatError(message)


class Reader:
    """Takes a byte string apart from its front."""

    def __init__(self, data: bytes):
        self.data, self.position = bytes(data), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        require(0 <= count <= self.left, f"{count} bytes wanted, {self.left} left")
        self.position += count
        return self.data[self.position - count:self.position]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def varint(self, largest: int = (1 << 64) - 1) -> int:
        value, shift = 0, 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        require(byte != 0 or shift == 0, "a varint is longer than it need be")
        require(value <= largest, f"varint {value} is above {largest}")
        return value

    def end(self, what: str) -> None:
        require(self.left == 0, f"{self.left} bytes behind the end of {what}")


class Bits:
    """Bits of a byte string, least significant first."""

    def __init__(self, data: bytes):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tolist()
        self.position = 0

    def take(self, count: int) -> list[int]:
        require(count <= len(self.bits) - self.position, "the bits end too early")
        self.position += count
        return self.bits[self.position - count:self.position]

    def field(self, width: int) -> int:
        return sum(bit << shift for shift, bit in enumerate(self.take(width)))

    def unary(self, limit: int | None = None) -> int:
        """Number of zeros before the next one, which is taken too; `limit` zeros end it without a one."""
        zeros = 0
        while zeros != limit:
            require(self.position < len(self.bits), "the bits end within a unary number")
            self.position += 1
            if self.bits[self.position - 1]:
                return zeros
            zeros += 1
        return zeros

    def end(self, what: str) -> None:
        """Nothing but zero bits up to the end of this byte, which is the last."""
        rest = self.bits[self.position:]
        require(len(rest) < 8 and not any(rest), f"{what}: not zero bits up to the end of the last byte")


# --- parameter record ----------------------------------------------------------------------------


def key(element: int, width: int) -> int:
    return element & 0x7F if width == 1 else (element >> (7 if width == 2 else 23)) & 0xFF


def largest_key(width: int) -> int:
    return 127 if width == 1 else 255


@dataclass
class Dense:
    first_key: int
    cold: int  # C: the first bucket that is not coded
    escape: int  # E
    growth: int  # g
    shift: int  # S
    rice: list[int]

    def bucket(self, element: int, width: int) -> int:
        return min(31, max(0, key(element, width) - self.first_key) >> self.shift)


@dataclass
class Params:
    """A parameter record, for elements of `width` bytes."""

    width: int
    classes: int = 0  # K
    hot: int = 1  # G
    thresholds: tuple[int, ...] = ()
    dense: Dense | None = None

    def class_of(self, element: int) -> int:
        return sum(threshold <= key(element, self.width) for threshold in self.thresholds)


def parse_params(record: bytes, width: int) -> Params:
    require(1 <= len(record) <= MAX_RECORD_BYTES, f"a parameter record of {len(record)} bytes")
    reader = Reader(record)
    first = reader.number(1)
    classes, hot = first & 7, (first >> 3 & 3) + 1
    require(first >> 6 == 0 and classes <= 4, "bad first byte of a parameter record")
    require(hot <= max(classes, 1), "more hot classes than classes")
    thresholds = tuple(reader.take(max(classes - 1, 0)))
    require(list(thresholds) == sorted(set(thresholds)), "thresholds do not rise")
    require(all(1 <= threshold <= largest_key(width) for threshold in thresholds), "a threshold is no key")
    dense = _parse_dense(reader, width) if first & 32 else None
    reader.end("a parameter record")
    return Params(width, classes, hot, thresholds, dense)


def _parse_dense(reader: Reader, width: int) -> Dense:
    first_key, fields = reader.number(1), reader.number(2)
    cold, escape, growth, shift = fields & 63, fields >> 6 & 15, fields >> 10 & 3, fields >> 12 & 3
    require(first_key <= largest_key(width), "the first key is none")
    require(1 <= cold <= 32 and escape >= 1 and fields >> 14 == 0, "bad dense parameters")
    if width == 4:
        rice = list(reader.take(cold))
    else:
        nibbles = [part for byte in reader.take((cold + 1) // 2) for part in (byte & 15, byte >> 4)]
        require(cold % 2 == 0 or nibbles[-1] == 0, "the last Rice nibble is not zero")
        rice = nibbles[:cold]
    require(max(rice) <= 8 * width - 2, "a Rice parameter is too large")
    return Dense(first_key, cold, escape, growth, shift, rice)


# --- codings ----------------------------------------------------------------------------------------


def decode_block(params: Params, coding: int, payload: bytes, parent: bytes | None, size: int) -> bytes:
    """The `size` bytes of a block; `parent` has as many, where the coding needs it."""
    width = params.width
    require(size > 0 and size % width == 0, f"a block of {size} bytes has no whole elements of {width}")
    if coding == RAW:
        require(len(payload) == size, "a raw payload has another length than its block")
        return payload
    require(len(payload) <= size, "a payload is longer than its block")
    if coding == PLANES:
        return _planes(payload, width, size // width)
    require(parent is not None and len(parent) == size, "a block needs a parent that is not there")
    elements = np.frombuffer(parent, UNSIGNED[width]).tolist()
    if coding == SPARSE:
        require(params.classes > 0, "sparse block, but its record has no sparse coding")
        result = list(elements)
        _add(result, _sparse(payload, params, elements), width)
    elif coding == DENSE:
        require(params.dense is not None, "dense block, but its record has no dense coding")
        result = _dense(payload, params, elements)
    else:
        raise FormatError(f"no coding {coding}")
    return np.array(result, UNSIGNED[width]).tobytes()


def _add(result: list[int], differences: list[tuple[int, int]], width: int) -> None:
    for position, difference in differences:
        result[position] = (result[position] + difference) % (1 << 8 * width)


def _planes(payload: bytes, width: int, count: int) -> bytes:
    reader = Reader(payload)
    lengths = [reader.varint(MAX_VARINT) for _ in range(width)]
    planes = []
    for length in lengths:
        plane = _unzstd(reader.take(length), count) if length else reader.take(count)
        planes.append(np.frombuffer(plane, np.uint8).astype(np.uint64))
    reader.end("the last plane")
    if width == 1:
        elements = planes[0]
    elif width == 2:
        elements = planes[0] << 7 | planes[1] & 0x7F | (planes[1] & 0x80) << 8
    else:
        elements = planes[0] << 23 | (planes[1] & 0x7F) << 16 | (planes[1] & 0x80) << 24 | planes[2] << 8 | planes[3]
    return elements.astype(UNSIGNED[width]).tobytes()


def _unzstd(frame: bytes, size: int) -> bytes:
    """The content of one zstd frame that says that it has `size` bytes."""
    try:
        parameters = zstandard.get_frame_parameters(frame)
        require(parameters.content_size == size, f"a zstd frame does not say that it holds {size} bytes")
        require(parameters.dict_id == 0, "a zstd frame wants a dictionary")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"bad zstd frame: {error}") from error
    require(len(content) == size, f"a zstd frame does not hold {size} bytes")
    return content


@dataclass
class Set:
    """`count` different numbers out of [0, limit)."""

    limit: int
    count: int
    members: list[int] | None = None

    def __post_init__(self) -> None:
        require(self.count <= self.limit, f"{self.count} members of {self.limit}")
        if self.count in (0, self.limit):
            self.members = list(range(self.count))

    @property
    def ratio(self) -> int:
        return (2 * self.limit - self.count) * 123 // (256 * self.count)

    @property
    def is_bitmap(self) -> bool:
        return self.members is None and self.ratio < 2

    @property
    def is_rice(self) -> bool:
        return self.members is None and self.ratio >= 2

    @property
    def rice(self) -> int:
        return self.ratio.bit_length() - 1


def _read_sets(bits: Bits, sets: list[Set]) -> None:
    coded = [part for part in sets if part.is_rice]
    lows = [[bits.field(part.rice) for _ in range(part.count)] for part in coded]
    for part in [part for part in sets if part.is_bitmap]:
        members = [number for number, bit in enumerate(bits.take(part.limit)) if bit]
        require(len(members) == part.count, "a bitmap has another number of ones than announced")
        part.members = members
    for part, low_parts in zip(coded, lows, strict=True):
        rice, members, last = part.rice, [], -1
        for low in low_parts:
            last += 1 + (bits.unary() << rice | low)
            require(last < part.limit, "a member lies beyond its set")
            members.append(last)
        part.members = members


def _magnitude(bits: Bits, rice: int, width: int) -> int:
    high = bits.unary(UNARY_LIMIT)
    value = bits.field(8 * width) if high == UNARY_LIMIT else high << rice | bits.field(rice)
    require(value + 2 <= 1 << (8 * width - 1), "a magnitude is too large")
    return value + 2


def _magnitude_parameters(reader: Reader, width: int, flagged: list[int]) -> list[int]:
    if sum(flagged) == 0:
        return [0, 0]
    both = reader.number(1)
    nibbles = [both & 15, both >> 4]
    require(all(f > 0 or m == 0 for f, m in zip(flagged, nibbles, strict=True)), "a parameter of no magnitudes")
    parameters = [2 * m if width == 4 else m for m in nibbles]
    require(max(parameters) <= 8 * width - 2, "a parameter of magnitudes is too large")
    return parameters


def _sparse(payload: bytes, params: Params, elements: list[int]) -> list[tuple[int, int]]:
    """(position, difference) of every change."""
    reader, width, hot = Reader(payload), params.width, params.hot
    classes: list[list[int]] = [[] for _ in range(params.classes)]
    for position, element in enumerate(elements):
        classes[params.class_of(element)].append(position)
    counts = [reader.varint(MAX_VARINT) for _ in classes]
    groups = [sum(counts[:hot]), sum(counts[hot:])]
    require(sum(counts) >= 1, "a sparse block without a change")
    flagged = [reader.varint(MAX_VARINT) if group else 0 for group in groups]
    rice = _magnitude_parameters(reader, width, flagged)

    places = [Set(len(members), count) for members, count in zip(classes[:-1], counts[:-1], strict=True)]
    places.append(Set(len(elements), counts[-1]))
    flags = [Set(group, count) for group, count in zip(groups, flagged, strict=True)]
    bits = Bits(reader.take(reader.left))
    signs = bits.take(sum(counts))
    _read_sets(bits, places + flags)
    magnitudes = [[_magnitude(bits, rice[q], width) for _ in range(flagged[q])] for q in (0, 1)]
    bits.end("a sparse block")

    sizes = [1] * sum(counts)
    for q in (0, 1):
        for number, magnitude in zip(flags[q].members, magnitudes[q], strict=True):
            sizes[number + q * groups[0]] = magnitude
    changed = [classes[c][rank] for c, part in enumerate(places[:-1]) for rank in part.members] + places[-1].members
    return [(position, -size if sign else size) for position, size, sign in zip(changed, sizes, signs, strict=True)]


def _dense(payload: bytes, params: Params, elements: list[int]) -> list[int]:
    dense, width, reader = params.dense, params.width, Reader(payload)
    unary_bits, has_map = divmod(reader.varint(MAX_VARINT), 2)
    low_bits, escape_count = reader.varint(MAX_VARINT), reader.varint(MAX_VARINT)
    words = (len(elements) + WORD - 1) // WORD
    require(escape_count <= len(elements), "more escapes than elements")
    live = _section(reader, words).take(words) if has_map else [1] * words
    lows, unaries = _section(reader, low_bits), _section(reader, unary_bits)
    escapes = np.frombuffer(reader.take(escape_count * width), UNSIGNED[width]).tolist()

    result, base = list(elements), [sum(1 << grow for grow in GROW[dense.growth][:q]) for q in range(15)]
    used = 0
    for position, element in enumerate(elements):
        bucket = dense.bucket(element, width)
        if not live[position // WORD] or bucket >= dense.cold:
            continue
        q = unaries.unary()
        require(q <= dense.escape, "a unary number is above the escape")
        if q == dense.escape:
            require(used < escape_count, "the escapes are used up")
            result[position] = escapes[used]
            used += 1
            continue
        size = dense.rice[bucket] + GROW[dense.growth][q]
        require(size <= 8 * width - 2, "a low part is too wide")
        zigzag = ((base[q] << dense.rice[bucket]) + lows.field(size)) % (1 << 8 * width)
        result[position] = (element + ((zigzag >> 1) ^ -(zigzag & 1))) % (1 << 8 * width)
    require(unaries.position == unary_bits and lows.position == low_bits and used == escape_count, "something is left")
    if reader.left:
        _add(result, _sparse(reader.take(reader.left), Params(width, classes=1), elements), width)
    return result


def _section(reader: Reader, count: int) -> Bits:
    """`count` bits from whole bytes; what is left of the last byte is zero."""
    bits = Bits(reader.take((count + 7) // 8))
    require(not any(bits.bits[count:]), "padding bits are not zero")
    bits.bits = bits.bits[:count]
    return bits
