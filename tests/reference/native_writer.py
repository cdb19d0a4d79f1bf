# SPDX-License-Identifier: Apache-2.0
"""Writes native stores for tests, with random valid choices that the product's writer never makes.

Records and groups are cut at random, there are gaps between payloads, tensors in payload files stand in any order, parameters change from record to record, unchanged blocks are coded although they need not be, and objects
take their content from any parent object that has the right size.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
import zstandard

from . import native_index, native_layout
from .native import State, xxh3_128
from .native_blocks import Params
from .native_encode import encode_block, number, random_params, serialise, varint
from .native_layout import SAFETENSORS, Tree, read_folder, tree_of
from .safetensors_io import UNSIGNED, Tensor, write_file


def manifest_text(members: dict) -> tuple[bytes, str]:
    """The file's text, and its digest."""
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode("utf-8")[:-1]
    digest = xxh3_128(text)
    return text + b',"digest":"' + digest.encode() + b'"}\n', digest


def layout_content(tree: Tree, parents: list[int | None]) -> bytes:
    content = number(native_layout.MAGIC, 4) + varint(len(tree.files))
    for file in tree.files:
        path = os.fsencode(file.path)
        content += varint(len(path)) + path + varint(file.size) + bytes([file.kind])
        if file.kind == SAFETENSORS:
            content += varint(len(file.header)) + file.header
    content += varint(len(parents))
    last = -1
    for parent in parents:
        if parent is None:
            content += varint(0)
            continue
        step = parent - last - 1
        content += varint(1 + (2 * step if step >= 0 else -2 * step - 1))
        last = parent
    return content


@dataclass
class _Record:
    object: int
    payload: int
    changed: int
    params: bytes
    entries: list[tuple[int, int, int, int]]  # block, payload length, coding, digest


@dataclass
class _Payload:
    """The blocks address space while it grows: a list of files' "blocks" tensors."""

    files: list[bytearray] = field(default_factory=lambda: [bytearray()])

    @property
    def end(self) -> int:
        return sum(map(len, self.files))


@dataclass
class StoreWriter:
    """A store in the making.  `store` must not exist; the same seed gives the same bytes."""

    store: Path
    seed: int = 0
    sharding: float = 0.1  # how often a payload file is closed after a record
    states: dict[str, State] = field(default_factory=dict)
    links: dict[str, dict] = field(default_factory=dict)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.store, self.rng = Path(self.store), random.Random(self.seed)
        (self.store / "versions").mkdir(parents=True)
        (self.store / "lock").write_bytes(b"")
        identity = {"format": "weightfs-store", "version": 1, "id": f"{self.rng.getrandbits(128):032x}"}
        (self.store / "store.json").write_text(json.dumps(identity, separators=(",", ":")) + "\n")

    # --- versions ---------------------------------------------------------------------------------

    def init(self, folder: Path, full: bool = True, block_bytes: int = 1 << 16) -> None:
        if full:
            self._add("base", "full", _state_of(folder), None, block_bytes)
            return
        contents, empty = read_folder(folder)
        tree = tree_of(contents, empty)
        self._finish(self.store / "versions" / "base", "base", {
            **self._head("reference", "base", None), "path": str(folder.resolve()), **_times(), "files": _files(contents)})
        self.states["base"] = State(tree, tree.split(contents))

    def commit(self, name: str, folder: Path, parent: str, full: bool = False, block_bytes: int = 1 << 16) -> None:
        self._add(name, "full" if full else "delta", _state_of(folder), parent, block_bytes)

    def net(self, name: str, start: str, block_bytes: int = 1 << 16) -> None:
        """A delta that leads from `start` to `name` at once."""
        self._add(name, "net", self.states[name], start, block_bytes)

    def _add(self, name: str, kind: str, state: State, parent: str | None, block_bytes: int) -> None:
        net = kind == "net"
        folder = self.store / ("nets" if net else "versions") / (f"{name}.from.{parent}" if net else name)
        folder.mkdir(parents=True)
        start = self.states[parent] if parent and kind != "full" else None
        same = start is not None and start.tree == state.tree
        parents = self._parents(state, start, same and self.rng.random() < 0.7)
        own_layout = not same or parents != list(range(len(parents)))
        payload, records = self._records(state, start, parents, block_bytes)
        changed = None if kind == "full" else sum(record.changed for record in records)
        index, head = self._index(records, len(parents), changed)
        sections = {"index": index}
        if own_layout:
            compressor = zstandard.ZstdCompressor(level=self.rng.choice((1, 3, 19)))
            sections["layout"] = compressor.compress(layout_content(state.tree, parents))
        places = self._write_payload(folder, payload, sections)
        members = self._head(kind, name, parent)
        if net:
            members["result"] = self.links[name]
        index_place = {**places["index"], "head": head, "digest": xxhash.xxh3_64_hexdigest(index[:head])}
        layout_place = None
        if own_layout:
            layout_place = {**places["layout"], "digest": xxhash.xxh3_64_hexdigest(sections["layout"])}
        self._finish(folder, None if net else name, {
            **members, **_times(), "block_bytes": block_bytes, "changed": changed, "layout": layout_place,
            "index": index_place, "payload": places["payload"], "files": _files(state.contents())})
        self.states[name] = state

    def _head(self, kind: str, name: str, parent: str | None) -> dict:
        optional = [["made-up"], []][self.rng.randrange(2)]
        return {"format": "weightfs-delta", "version": 1, "features": [], "optional": optional, "kind": kind,
                "name": name, "parent": self.links[parent] if parent else None,
                "root": self.links["base"]["digest"] if parent else ""}

    def _finish(self, folder: Path, name: str | None, members: dict) -> None:
        folder.mkdir(exist_ok=True)
        text, digest = manifest_text(members)
        (folder / "manifest.json").write_bytes(text)
        if name is not None:
            self.links[name] = {"name": name, "digest": digest}

    # --- blocks -------------------------------------------------------------------------------------

    def _parents(self, state: State, start: State | None, identity: bool) -> list[int | None]:
        if start is None:
            return [None] * len(state.objects)
        if identity:
            return list(range(len(state.objects)))
        names = {self._identity(start.tree, i): i for i in range(len(start.objects))}
        result = []
        for i, place in enumerate(state.tree.objects):
            fitting = [j for j, other in enumerate(start.tree.objects)
                       if (other.size, other.width) == (place.size, place.width)]
            chosen = names.get(self._identity(state.tree, i))
            if chosen not in fitting or self.rng.random() < 0.1:
                chosen = self.rng.choice([*fitting, None])
            result.append(chosen)
        return result

    @staticmethod
    def _identity(tree: Tree, i: int) -> tuple[str, str]:
        return tree.files[tree.objects[i].file].path, tree.objects[i].name

    def _records(self, state: State, start: State | None, parents: list[int | None],
                 block_bytes: int) -> tuple[_Payload, list[_Record]]:
        payload, records = _Payload(), []
        for i in range(len(parents)):
            old = start.objects[parents[i]] if parents[i] is not None else None
            records += self._object(payload, i, state.tree.objects[i].width, old, state.objects[i], block_bytes)
        return payload, records

    def _object(self, payload: _Payload, i: int, width: int, old: bytes | None, new: bytes,
                block_bytes: int) -> list[_Record]:
        rng, records, pending = self.rng, [], []
        params = random_params(rng, width, np.frombuffer(old or b"", UNSIGNED[width]))
        for block, begin in enumerate(range(0, len(new), block_bytes)):
            before, after = old[begin:begin + block_bytes] if old is not None else None, new[begin:begin + block_bytes]
            if before == after and rng.random() < 0.95:
                continue
            coding, data = encode_block(rng, params, before, after)
            pending.append((block, coding, data, xxhash.xxh3_64_intdigest(after), _changes(width, before, after)))
            if rng.random() < 0.2 or len(pending) == native_index.MAX_ENTRIES:
                records.append(self._record(payload, i, params, pending))
                pending = []
                if rng.random() < 0.5:
                    params = random_params(rng, width, np.frombuffer(old or b"", UNSIGNED[width]))
        if pending:
            records.append(self._record(payload, i, params, pending))
        return records

    def _record(self, payload: _Payload, i: int, params: Params, blocks: list[tuple]) -> _Record:
        rng = self.rng
        if rng.random() < self.sharding:
            payload.files.append(bytearray())
        if rng.random() < 0.2:
            payload.files[-1] += rng.randbytes(rng.randint(1, 20))  # nobody's bytes
        start = payload.end
        for _, _, data, _, _ in blocks:
            payload.files[-1] += data
        entries = [(block, len(data), coding, digest) for block, coding, data, digest, _ in blocks]
        return _Record(i, start, sum(block[4] for block in blocks), serialise(params), entries)

    # --- index ----------------------------------------------------------------------------------------

    def _index(self, records: list[_Record], objects: int, changed: int | None) -> tuple[bytes, int]:
        groups: list[list[_Record]] = []
        for record in records:
            if not groups or self.rng.random() < 0.2 or sum(len(r.entries) for r in groups[-1]) > 3000:
                groups.append([])
            groups[-1].append(record)
        head = native_index.HEADER_BYTES + native_index.ENTRY_BYTES * len(groups)
        directory, body = b"", b""
        for group in groups:
            content = self._group(group)
            directory += number(group[0].object, 4) + number(group[0].entries[0][0], 4) + number(head + len(body), 4)
            directory += number(len(content), 4) + number(xxhash.xxh3_64_intdigest(content), 8)
            body += content
        header = number(native_index.MAGIC, 4) + number(len(groups), 4) + number(objects, 4)
        header += number(len({record.object for record in records}), 4)
        header += number(native_index.UNKNOWN if changed is None else changed, 8)
        return header + directory + body, head

    def _group(self, group: list[_Record]) -> bytes:
        content, last_object, payload_end, params = b"", group[0].object, 0, b""
        for record in group:
            own = b"" if record.params == params and self.rng.random() < 0.8 else record.params
            content += varint(record.object - last_object) + varint(record.entries[0][0])
            content += varint(record.payload - payload_end) + varint(record.changed) + varint(len(own)) + own
            runs: list[list[tuple]] = []
            position = None
            for entry in record.entries:
                if entry[0] != position:
                    runs.append([])
                runs[-1].append(entry)
                position = entry[0] + 1
            content += varint(len(runs))
            position = record.entries[0][0]
            for run in runs:
                content += varint(run[0][0] - position) + varint(len(run))
                content += b"".join(varint(length << 2 | coding) + number(digest, 8) for _, length, coding, digest in run)
                position = run[-1][0] + 1
            last_object, params = record.object, record.params
            payload_end = record.payload + sum(length for _, length, _, _ in record.entries)
        return content

    def _write_payload(self, folder: Path, payload: _Payload, sections: dict[str, bytes]) -> dict:
        places: dict = {"payload": []}
        for count, blocks in enumerate(payload.files, start=1):
            tensors = {"blocks": bytes(blocks), **(sections if count == 1 else {})}
            names = list(tensors)
            self.rng.shuffle(names)
            path = folder / f"payload-{count:05d}.safetensors"
            state = {name: Tensor("U8", (len(tensors[name]),), np.frombuffer(tensors[name], np.uint8)) for name in names}
            write_file(path, state, self.rng.choice((None, {"made_by": "a test"})))
            at = path.stat().st_size - sum(map(len, tensors.values()))
            for name in names:
                if name != "blocks":
                    places[name] = {"at": at, "bytes": len(tensors[name])}
                else:
                    places["payload"].append({"file": path.name, "bytes": path.stat().st_size, "at": at,
                                              "blocks": len(blocks)})
                at += len(tensors[name])
        return places


def _state_of(folder: Path) -> State:
    contents, empty = read_folder(folder)
    tree = tree_of(contents, empty)
    return State(tree, tree.split(contents))


def _times() -> dict:
    return {"created": "2026-11-25T06:46:28Z", "tool": "native_writer 1", "message": "made by tests/reference"}


def _files(contents: dict[str, bytes]) -> list[dict]:
    return [{"path": path, "bytes": len(content), "digest": xxh3_128(content)}
            for path, content in sorted(contents.items(), key=lambda item: os.fsencode(item[0]))]


def _changes(width: int, before: bytes | None, after: bytes) -> int:
    if before is None:
        return len(after) // width
    return int(np.count_nonzero(np.frombuffer(before, UNSIGNED[width]) != np.frombuffer(after, UNSIGNED[width])))

