#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzzers of native manifests, indices and layouts, from docs/FORMAT.md alone.

With --example it prints the files of that document's worked example instead.  Needs xxhash.
"""
import json
import pathlib
import struct
import sys

import xxhash

SEEDS = pathlib.Path(__file__).resolve().parent.parent / "fuzz" / "corpus"
BLOCK = 65536


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def xxh64(data):
    return struct.pack("<Q", xxhash.xxh3_64_intdigest(data))


def closed(body):
    """A manifest's text from everything before its digest."""
    return body + b',"digest":"' + xxhash.xxh3_128_hexdigest(body).encode() + b'"}\n'


def manifest(kind, name, parent, root, files, created="2026-11-25T06:46:28Z", **members):
    """The text, and its digest."""
    document = {"format": "weightfs-delta", "version": 1, "features": [], "optional": [], "kind": kind, "name": name,
                "parent": parent, "root": root}
    for member in ("result", "path"):
        if member in members:
            document[member] = members.pop(member)
    document |= {"created": created, "tool": "weightfs 0.1.0", "message": ""} | members
    document["files"] = [{"path": path, "bytes": len(data), "digest": xxhash.xxh3_128_hexdigest(data)}
                         for path, data in sorted(files.items())]
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False)[:-1].encode()
    return closed(body), xxhash.xxh3_128_hexdigest(body)


def safetensors(tensors):
    """tensors: (name, dtype, shape, bytes)."""
    entries, at = {}, 0
    for name, dtype, shape, data in tensors:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = json.dumps(entries, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header)) + header + b"".join(data for *_, data in tensors)


def record(step, block, gap, changed, params, runs):
    """runs: (skipped, [(length, coding, result)])."""
    out = varint(step) + varint(block) + varint(gap) + varint(changed) + varint(len(params)) + params + varint(len(runs))
    for skipped, entries in runs:
        out += varint(skipped) + varint(len(entries))
        out += b"".join(varint(length << 2 | coding) + xxh64(result) for length, coding, result in entries)
    return out


def index(objects, touched, changed, groups):
    """groups: (object, block, bytes).  The index and the length of its head."""
    head = struct.pack("<4sIIIQ", b"WFX1", len(groups), objects, touched, changed)
    offset = 24 + 24 * len(groups)
    for item, block, data in groups:
        head += struct.pack("<IIII", item, block, offset, len(data)) + xxh64(data)
        offset += len(data)
    return head + b"".join(data for *_, data in groups), len(head)


def layout(files, objects):
    """files: (path, size, kind, header); objects: the numbers as they are stored."""
    out = b"WFL1" + varint(len(files))
    for path, size, kind, header in files:
        out += varint(len(path)) + path + varint(size) + bytes([kind])
        if kind == 1:
            out += varint(len(header)) + header
    return out + varint(len(objects)) + b"".join(varint(number) for number in objects)


# --- the worked example -------------------------------------------------------------------------

def example():
    """The files of the store in docs/FORMAT.md, "Worked example"."""
    def model(values):
        return safetensors([("w", "BF16", [4], struct.pack("<4H", *values))])

    before = {"config.json": b"{}", "model.safetensors": model([0x3F80, 0x3F80, 0xBF80, 0])}
    after = before | {"model.safetensors": model([0x3F80, 0x3F81, 0xBF80, 0])}
    base, root = manifest("reference", "base", None, "", before, path="/models/tiny")
    result = after["model.safetensors"][-8:]
    content, head = index(2, 1, 1, [(1, 0, record(0, 0, 0, 1, b"\0", [(0, [(len(result), 0, result)])]))])
    payload = safetensors([("blocks", "U8", [len(result)], result), ("index", "U8", [len(content)], content)])
    at = len(payload) - len(content) - len(result)
    step, _ = manifest(
        "delta", "step-1", {"name": "base", "digest": root}, root, after, created="2026-11-25T07:00:00Z",
        block_bytes=262144, changed=1, layout=None,
        index={"at": at + len(result), "bytes": len(content), "head": head,
               "digest": xxhash.xxh3_64_hexdigest(content[:head])},
        payload=[{"file": "payload-00001.safetensors", "bytes": len(payload), "at": at, "blocks": len(result)}])
    return {"versions/base/manifest.json": base, "versions/step-1/manifest.json": step,
            "versions/step-1/payload-00001.safetensors": payload}


def print_example():
    for name, data in example().items():
        print(f"`{name}`, {len(data)} bytes:\n")
        if name.endswith(".json"):
            print("    " + data.decode())
            continue
        for at in range(0, len(data), 16):
            row = data[at:at + 16]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
            print(f"    {at:04x}  {row.hex(' '):47}  {text}")


# --- seeds --------------------------------------------------------------------------------------

def manifest_seeds():
    files = {"config.json": b"{}", "a/b \"c\".txt": b""}
    link, root = {"name": "step-1", "digest": "a" * 32}, "b" * 32
    coded = {"block_bytes": BLOCK, "changed": 7,
             "layout": {"at": 300, "bytes": 20, "digest": "0" * 16},
             "index": {"at": 200, "bytes": 100, "head": 48, "digest": "f" * 16},
             "payload": [{"file": "payload-00001.safetensors", "bytes": 320, "at": 100, "blocks": 100}]}
    yield "reference", manifest("reference", "base", None, "", files, path="/m")[0]
    yield "full", manifest("full", "base", None, "", files, **coded | {"changed": None})[0]
    yield "delta", manifest("delta", "step-2", link, root, files, **coded | {"layout": None})[0]
    yield "net", manifest("net", "step-2.from.step-1", link, root, files, result=link, **coded)[0]
    text = manifest("delta", "step-2", link, root, files, **coded)[0]
    yield "feature", closed(text.split(b',"digest":"' + text[-35:-3])[0].replace(b'"features":[]', b'"features":["x"]'))
    yield "unknown", closed(text.rsplit(b',"digest":"', 1)[0].replace(b'"optional":[]', b'"optional":["y"],"z":[{"a":null}]'))
    yield "cut", text[:-40]


def index_seed(log, groups):
    out = bytes([log, len(groups)])
    for item, block, data in groups:
        out += struct.pack("<IIH", item, block, len(data))
    return out + b"".join(data for *_, data in groups)


def index_seeds():
    first = record(0, 0, 100, 7, b"\0", [(0, [(50, 2, b"a"), (60, 3, b"b")]), (2, [(10, 0, b"c")])])
    other = record(2, 0, 5, 1, b"", [(0, [(9, 1, b"d")])])
    many = record(0, 0, 0, 0, b"\1", [(0, [(5, 2, b"e")] * 60), (7, [(0, 1, b"f")] * 10)])
    dense = bytes([0x22, 120]) + bytes([100]) + struct.pack("<H", 4 | 12 << 6) + bytes([0x33, 0x33])
    yield "one_group", index_seed(10, [(0, 0, first + other)])
    yield "two_groups", index_seed(10, [(0, 0, first), (2, 0, record(0, 0, 220, 1, b"\0", [(0, [(9, 1, b"d")])]))])
    yield "many_blocks", index_seed(20, [(4, 0, many)])
    yield "parameters", index_seed(20, [(5, 3, record(0, 3, 9, 4, dense, [(0, [(100, 3, b"g")])]))])
    yield "beyond", index_seed(3, [(0, 0, first)])
    yield "overlapping_groups", index_seed(10, [(0, 0, first), (0, 1, first)])
    yield "empty", index_seed(0, [])


def layout_seeds():
    model = safetensors([("a", "BF16", [3], b"aabbcc"), ("b", "U8", [0], b"")])
    header = model[:-6]
    files = [(b"a", 3, 0, b""), (b"d/e", 0, 2, b""), (b"x.safetensors", len(model), 1, header), (b"z", 2, 0, b"")]
    yield "files", layout(files, [1 + 6, 0, 0, 1 + 3])
    yield "no_parents", layout(files, [0, 0, 0, 0])
    yield "nothing", layout([], [])
    yield "descending", layout(files[::-1], [0] * 4)
    yield "file_and_folder", layout([(b"a", 3, 0, b""), (b"a/b", 3, 0, b"")], [0, 0])


def main():
    if sys.argv[1:] == ["--example"]:
        return print_example()
    for folder, seeds in (("manifest", manifest_seeds()), ("native_index", index_seeds()), ("layout", layout_seeds())):
        (SEEDS / folder).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (SEEDS / folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
