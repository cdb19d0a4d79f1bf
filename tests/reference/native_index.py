# SPDX-License-Identifier: Apache-2.0
"""The index of a native version: which blocks of which objects it touches, and where their payloads lie."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import xxhash

from .native_blocks import RAW, Params, Reader, parse_params, require
from .native_layout import Tree

MAGIC = 0x31584657  # "WFX1"
HEADER_BYTES = 24
ENTRY_BYTES = 24  # of the directory
MAX_ENTRIES = 1024  # of a record
MAX_GROUP_BYTES = 1 << 16
UNKNOWN = (1 << 64) - 1


@dataclass
class Block:
    """One touched block."""

    offset: int  # of its payload, in the blocks address space
    length: int
    coding: int
    digest: int  # XXH3-64 of the result
    params: Params


@dataclass
class Index:
    blocks: dict[tuple[int, int], Block]  # (object, block number)
    changed: int | None


@dataclass
class Group:
    """An entry of the directory."""

    object: int
    first_block: int
    offset: int
    length: int
    digest: int


def parse_index(data: bytes, head: int, tree: Tree, block_bytes: int, blocks_bytes: int) -> Index:
    reader = Reader(data)
    require(reader.number(4) == MAGIC, "no index magic")
    count, objects, touched = (reader.number(4) for _ in range(3))
    changed = reader.number(8)
    require(head == HEADER_BYTES + count * ENTRY_BYTES, f"a head of {head} bytes for {count} groups")
    require(objects == len(tree.objects), f"the index is of {objects} objects, the tree of {len(tree.objects)}")
    groups = [Group(*(reader.number(width) for width in (4, 4, 4, 4, 8))) for _ in range(count)]
    require(all((a.object, a.first_block) < (b.object, b.first_block) for a, b in pairwise(groups)),
            "the directory does not ascend")
    index, total = Index({}, None if changed == UNKNOWN else changed), 0
    for number, group in enumerate(groups):
        require(group.offset == reader.position, f"group {number} does not begin where the last one ends")
        require(1 <= group.length <= MAX_GROUP_BYTES, f"group {number} has {group.length} bytes")
        content = reader.take(group.length)
        require(xxhash.xxh3_64_intdigest(content) == group.digest, f"group {number} is damaged")
        total += _GroupParser(content, group, tree, block_bytes, index).run()
        if number + 1 < count:
            after = (groups[number + 1].object, groups[number + 1].first_block)
            require(next(reversed(index.blocks)) < after, f"group {number} reaches into the next one")
    reader.end("the index")
    _check_payloads(index, blocks_bytes)
    require(touched == len({object for object, _ in index.blocks}), "the number of touched objects is wrong")
    require(index.changed is None or index.changed == total, "the number of changed elements is wrong")
    return index


def _check_payloads(index: Index, blocks_bytes: int) -> None:
    end = 0
    for block in index.blocks.values():
        require(block.offset >= end, "payloads overlap or do not ascend")
        end = block.offset + block.length
    require(end <= blocks_bytes, "a payload lies outside the blocks")


class _GroupParser:
    def __init__(self, content: bytes, group: Group, tree: Tree, block_bytes: int, index: Index):
        self.reader, self.group, self.tree = Reader(content), group, tree
        self.block_bytes, self.index = block_bytes, index
        self.object, self.payload_end, self.record = group.object, 0, b""
        self.first: tuple[int, int] | None = None

    def run(self) -> int:
        """Adds the group's blocks to the index; returns how many elements they change."""
        require(self.reader.left > 0, "an empty group")
        changed = 0
        while self.reader.left:
            changed += self._record()
        require(self.first == (self.group.object, self.group.first_block), "the directory names another block")
        return changed

    def _record(self) -> int:
        reader = self.reader
        self.object += reader.varint()
        require(self.object < len(self.tree.objects), f"there is no object {self.object}")
        place = self.tree.objects[self.object]
        block = reader.varint()
        if self.first is None:
            self.first = (self.object, block)
        payload = self.payload_end + reader.varint()
        changed = reader.varint()
        self.record = reader.take(reader.varint()) or self.record
        params = parse_params(self.record, place.width)
        entries, touched = 0, 0
        runs = reader.varint()
        require(1 <= runs <= MAX_ENTRIES, f"{runs} runs")
        for run in range(runs):
            skipped, count = reader.varint(), reader.varint()
            require((skipped == 0) == (run == 0), "runs are not cut as they should be")
            require(1 <= count and entries + count <= MAX_ENTRIES, f"a run of {count} blocks")
            block += skipped
            for number in range(block, block + count):
                payload += self._entry(number, payload, params)
                touched += self._size(number)
            block += count
            entries += count
        require(changed * place.width <= touched, f"object {self.object}: more changes than elements")
        self.payload_end = payload
        return changed

    def _size(self, block: int) -> int:
        return min(self.block_bytes, self.tree.objects[self.object].size - block * self.block_bytes)

    def _entry(self, block: int, payload: int, params: Params) -> int:
        place = (self.object, block)
        require(block * self.block_bytes < self.tree.objects[self.object].size, f"{place} lies outside its object")
        require(not self.index.blocks or place > next(reversed(self.index.blocks)), f"{place} does not ascend")
        value = self.reader.varint()
        length, coding, size = value >> 2, value & 3, self._size(block)
        require(length == size if coding == RAW else length <= size, f"{place}: a payload of {length} bytes")
        self.index.blocks[place] = Block(payload, length, coding, self.reader.number(8), params)
        return length
