# SPDX-License-Identifier: Apache-2.0
"""Native versions of a BigModel, written by the thousand; docs/FORMAT.md says what the bytes mean.

Every version touches every tensor.  What it does to a tensor depends on the version and on the length of the block
alone, so one record and one payload serve all tensors of a kind and an index of 70 000 records is put together in
milliseconds.

thin    Each version changes one element of one block of every tensor: the even ones of block 0, which so has a depth
        of half the versions, the odd ones of the other blocks in turn.
dense   Each version changes one element of every block of every tensor, forth and back: odd versions all have the same
        bytes apart from their manifest, and so have even ones.  They are hard links to two payload files.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from reference import native_index
from reference.native import xxh3_128
from reference.native_encode import number, varint
from reference.native_writer import manifest_text

from bench.scale.model import ELEMENT_BYTES, BigModel, BigTensor

PAYLOAD = "payload-00001.safetensors"
ONE_CLASS = b"\x01"  # parameter record: sparse coding with a single class
SPARSE = 2
GROUP_BYTES = 8 << 10  # as the product's writer closes groups
STEP = 7919  # between changed elements; prime, so that a thousand of them in a block are all different
MADE_UP_ABOVE = 8 << 30  # bytes of all versions up to which the digests of files are computed


def version_name(number: int) -> str:
    return f"v{number:06d}" if number else "base"


def encode_changes(positions: list[int], sign: int, elements: int) -> bytes:
    """Coding 2 with one class: each element at a position, in ascending order, moves by `sign` (1 or -1)."""
    count = len(positions)
    ratio = (2 * elements - count) * 123 // (256 * count)
    assert 0 < count < elements and ratio >= 2, "a bitmap, or nothing to say"
    rice = ratio.bit_length() - 1
    bits = ((1 << count) - 1) if sign < 0 else 0
    at, last = count, -1
    gaps = []
    for position in positions:
        gaps.append(position - last - 1)
        last = position
    for gap in gaps:
        bits |= (gap & ((1 << rice) - 1)) << at
        at += rice
    for gap in gaps:
        at += gap >> rice
        bits |= 1 << at
        at += 1
    return varint(count) + varint(0) + bits.to_bytes((at + 7) // 8, "little")


@dataclass
class Touched:
    """One block of a kind of tensor."""

    block: int
    changed: int
    payload: bytes
    digest: int


@dataclass
class Kind:
    """Tensors of one length: their blocks, and what they hold at the version that was written last."""

    bytes: int
    block_bytes: int
    dense: bool
    changes: dict[int, list[int]] = field(default_factory=dict)  # block -> elements that are 1, not 0

    @property
    def blocks(self) -> int:
        return -(-self.bytes // self.block_bytes)

    def elements(self, block: int) -> int:
        return min(self.block_bytes, self.bytes - block * self.block_bytes) // ELEMENT_BYTES

    def touched_by(self, version: int) -> list[int]:
        if self.dense:
            return list(range(self.blocks))
        if version % 2 == 0 or self.blocks == 1:
            return [0]
        return [1 + version // 2 % (self.blocks - 1)]

    def apply(self, version: int) -> None:
        for block in self.touched_by(version):
            if self.dense:
                self.changes[block] = [STEP % self.elements(block)] if version % 2 else []
            else:
                self.changes.setdefault(block, []).append(version * STEP % self.elements(block))

    def content(self, block: int) -> np.ndarray:
        content = np.zeros(self.elements(block), np.uint16)
        np.add.at(content, self.changes.get(block, []), 1)
        return content

    def touched(self, before: dict[int, list[int]]) -> list[Touched]:
        """Blocks that are not as in `before`, an earlier state of `changes`."""
        found = []
        digests: dict[tuple, int] = {}
        for block in sorted(self.changes):
            old, new = set(before.get(block, [])), set(self.changes[block])
            if old == new:
                continue
            sign = 1 if old < new else -1
            payload = encode_changes(sorted(old ^ new), sign, self.elements(block))
            key = (self.elements(block), tuple(self.changes[block]))
            if key not in digests:
                digests[key] = xxhash.xxh3_64_intdigest(self.content(block))
            found.append(Touched(block, len(old ^ new), payload, digests[key]))
        return found


@dataclass
class BigStore:
    """A store with a reference to a BigModel on disk."""

    folder: Path
    model: BigModel
    model_folder: Path
    block_bytes: int = 1 << 18
    dense: bool = False
    versions: int = 0
    links: dict[int, dict] = field(default_factory=dict)
    kinds: list[Kind] = field(init=False)  # matrices, vectors
    _history: dict[int, list[dict]] = field(default_factory=dict)  # version -> changes of each kind; for nets
    _grouped: tuple[list[int], list] = ((), [])  # lengths of records, and the groups that they make
    _twins: dict[int, tuple[Path, dict]] = field(default_factory=dict)  # dense: payload files by the parent's parity

    def __post_init__(self) -> None:
        sizes = {tensor.vector: tensor.bytes for tensor in self.model.list}
        self.kinds = [Kind(sizes[vector], self.block_bytes, self.dense) for vector in sorted(sizes)]
        assert all(kind.blocks <= native_index.MAX_ENTRIES for kind in self.kinds), "one record a tensor"
        self._kind_of = bytes(tensor.vector for tensor in self.model.list)
        self._sizes = self.model.files()
        self._places = [{"path": path, "bytes": size} for path, size in self._sizes]

    # --- what is written ---------------------------------------------------------------------------

    def init(self, versions: int) -> None:
        """The store with its base.  `versions`: how many will follow, which says whether digests are computed."""
        for sub in ("versions", "nets"):
            (self.folder / sub).mkdir(parents=True)
        (self.folder / "lock").touch()
        (self.folder / "store.json").write_text(f'{{"format":"weightfs-store","version":1,"id":"{1:032x}"}}\n')
        self.real_digests = sum(size for _, size in self._sizes) * (versions + 1) <= MADE_UP_ABOVE
        self._remember()
        self._finish(self.folder / "versions" / "base", 0, {
            **self._head("reference", 0, None), "path": str(self.model_folder.resolve()), **self._times(0),
            "files": self._files(0)})

    def commit(self) -> None:
        """The next version."""
        self.versions += 1
        for kind in self.kinds:
            kind.apply(self.versions)
        self._remember()
        self._write("delta", self.folder / "versions" / version_name(self.versions), self.versions - 1)

    def net(self, start: int) -> None:
        """A net from an earlier version to the newest one."""
        assert not self.dense or (self.versions - start) % 2, "an even number of steps forth and back leads nowhere"
        name = f"{version_name(self.versions)}.from.{version_name(start)}"
        self._write("net", self.folder / "nets" / name, start)

    def _remember(self) -> None:
        self._history[self.versions] = [{block: list(found) for block, found in kind.changes.items()}
                                        for kind in self.kinds]

    def forget_before(self, version: int) -> None:
        """No net will start before this version."""
        for old in [known for known in self._history if known < version]:
            del self._history[old]

    def _write(self, kind: str, folder: Path, parent: int) -> None:
        folder.mkdir()
        members = self._head(kind, self.versions, parent)
        if kind == "net":
            members["result"] = self.links[self.versions]
        self._finish(folder, None if kind == "net" else self.versions, {
            **members, **self._times(self.versions), "block_bytes": self.block_bytes,
            **self._payload(folder / PAYLOAD, parent), "files": self._files(self.versions)})

    def _payload(self, path: Path, parent: int) -> dict:
        """Writes the payload file, or links to one that says the same; what the manifest tells about it."""
        twin = self._twins.get(parent % 2) if self.dense else None
        if twin is not None:
            os.link(twin[0], path)
            return twin[1]
        touched = [kind.touched(before) for kind, before in zip(self.kinds, self._history[parent], strict=True)]
        changed = sum(self._kind_of.count(which) * sum(block.changed for block in blocks)
                      for which, blocks in enumerate(touched))
        index, head, blocks = self._coded(touched, changed)
        ends = len(blocks), len(blocks) + len(index)
        text = json.dumps({"blocks": {"dtype": "U8", "shape": [ends[0]], "data_offsets": [0, ends[0]]},
                           "index": {"dtype": "U8", "shape": [len(index)], "data_offsets": list(ends)}},
                          separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        path.write_bytes(b"".join([number(len(text), 8), text, blocks, index]))
        members = {
            "changed": changed, "layout": None,
            "index": {"at": start + ends[0], "bytes": len(index), "head": head,
                      "digest": xxhash.xxh3_64_hexdigest(index[:head])},
            "payload": [{"file": PAYLOAD, "bytes": start + ends[1], "at": start, "blocks": len(blocks)}]}
        self._twins[parent % 2] = path, members
        return members

    def _coded(self, touched: list[list[Touched]], changed: int) -> tuple[bytes, int, bytes]:
        """Index, length of its head, and the blocks."""
        bodies = [_record_body(blocks) for blocks in touched]
        payloads = [b"".join(t.payload for t in blocks) for blocks in touched]
        records = [number(1, 1) + first + b"\0" + rest(b"") for first, rest in bodies]
        groups = self._groups([len(record) for record in records])
        contents, addresses, address = [], [], 0
        for begin, end in groups:
            kinds = self._kind_of[begin:end]
            first, rest = bodies[kinds[0]]
            contents.append(b"\0" + first + varint(address) + rest(ONE_CLASS)
                            + b"".join(map(records.__getitem__, kinds[1:])))
            addresses.append(address)
            address += sum(len(payloads[kind]) * kinds.count(kind) for kind in range(len(payloads)))
        head = native_index.HEADER_BYTES + native_index.ENTRY_BYTES * len(groups)
        directory, at = [], head
        for (begin, _), content in zip(groups, contents, strict=True):
            block = touched[self._kind_of[begin]][0].block
            directory.append(number(self.model.first_object + begin, 4) + number(block, 4) + number(at, 4)
                             + number(len(content), 4) + number(xxhash.xxh3_64_intdigest(content), 8))
            at += len(content)
        header = number(native_index.MAGIC, 4) + number(len(groups), 4) + number(self.model.objects(), 4)
        header += number(self.model.tensors, 4) + number(changed, 8)
        blocks = b"".join(map(payloads.__getitem__, self._kind_of))
        return b"".join([header, *directory, *contents]), head, blocks

    def _groups(self, lengths: list[int]) -> list[tuple[int, int]]:
        """Runs of tensors whose records make a group: closed when it has reached GROUP_BYTES."""
        if self._grouped[0] != lengths:
            ends = np.cumsum(np.array(lengths)[np.frombuffer(self._kind_of, np.uint8)])
            groups, begin = [], 0
            while begin < len(ends):
                before = int(ends[begin - 1]) if begin else 0
                end = min(int(np.searchsorted(ends, before + GROUP_BYTES)) + 1, len(ends))
                groups.append((begin, end))
                begin = end
            self._grouped = (lengths, groups)
        return self._grouped[1]

    # --- manifests -----------------------------------------------------------------------------------

    def _head(self, kind: str, version: int, parent: int | None) -> dict:
        link = None if parent is None else self.links[parent]
        return {"format": "weightfs-delta", "version": 1, "features": [], "optional": [], "kind": kind,
                "name": version_name(version), "parent": link, "root": "" if link is None else self.links[0]["digest"]}

    @staticmethod
    def _times(version: int) -> dict:
        created = np.datetime64("2026-11-25T00:00:00") + np.timedelta64(version, "s")
        return {"created": f"{created}Z", "tool": "tests/bench/scale", "message": ""}

    def _finish(self, folder: Path, version: int | None, members: dict) -> None:
        folder.mkdir(exist_ok=True)
        text, digest = manifest_text(members)
        (folder / "manifest.json").write_bytes(text)
        if version is not None:
            self.links[version] = {"name": version_name(version), "digest": digest}

    def _files(self, version: int) -> list[dict]:
        """Digests of files are made up where it would take hours to compute them; nothing but `verify` looks."""
        if not self.real_digests:
            return [{**place, "digest": xxh3_128(f"{version} {place['path']}".encode())} for place in self._places]
        contents = self.model.plain_files | {self.model.shard_name(shard): self.shard_content(shard)
                                             for shard in range(self.model.shards)}
        return [{**place, "digest": xxh3_128(contents[place["path"]])} for place in self._places]

    # --- what a reader must get ------------------------------------------------------------------------

    def shard_content(self, shard: int) -> bytes:
        """A whole shard of the newest version; for small models."""
        parts = [self.model.headers[shard]]
        for tensor in self.model.by_shard[shard]:
            kind = self.kinds[tensor.vector]
            parts += [kind.content(block).tobytes() for block in range(kind.blocks)]
        return b"".join(parts)

    def expected(self, version: int, tensor: BigTensor, offset: int, count: int) -> bytes:
        """Bytes of a tensor in any version, computed from nothing but what a version does to a block."""
        kind = Kind(tensor.bytes, self.block_bytes, self.dense)
        first, last = offset // self.block_bytes, (offset + count - 1) // self.block_bytes
        for step in range(max(1, version - 1) if self.dense else 1, version + 1):
            kind.apply(step)
        content = b"".join(kind.content(block).tobytes() for block in range(first, last + 1))
        return content[offset - first * self.block_bytes:][:count]


def _record_body(touched: list[Touched]) -> tuple[bytes, object]:
    """(what stands before the payload's address, function from the parameters to what stands after it)."""
    changed = sum(block.changed for block in touched)
    runs: list[list[Touched]] = []
    for block in touched:
        if not runs or runs[-1][-1].block + 1 != block.block:
            runs.append([])
        runs[-1].append(block)
    text, position = varint(len(runs)), touched[0].block
    for run in runs:
        text += varint(run[0].block - position) + varint(len(run))
        text += b"".join(varint(len(block.payload) << 2 | SPARSE) + number(block.digest, 8) for block in run)
        position = run[-1].block + 1
    return varint(touched[0].block), lambda params: varint(changed) + varint(len(params)) + params + text
