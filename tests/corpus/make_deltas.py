#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus of delta sources (delta/), of zstd frames (zstd/) and the fuzzers' seeds for both.

A case's name says what must happen to it: accept__<what>, reject__<what>__<error code> (a version, or
the whole source, is refused) or eio__<what>__<error code> (admitted, but reading fails).  A delta case
is a folder with base/ and a source in one of the layouts; its expected.txt lists the XXH3-128 of the
shard files of every version that must be readable.  Needs numpy, xxhash and zstandard.
"""
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
import xxhash
import zstandard

HERE = pathlib.Path(__file__).resolve().parent
SEEDS = HERE.parent / "fuzz" / "corpus"
WIDTH = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I32": 4, "U16": 2, "U32": 4, "U8": 1, "I8": 1, "I64": 8}
INDEX = "model.safetensors.index.json"
SHARD = "model-00000-of-00001.safetensors"
cases = {}


def xxh3(data):
    return xxhash.xxh3_128(data).hexdigest()


def frame(data):
    return zstandard.ZstdCompressor(level=1).compress(data)


def safetensors(tensors, metadata=None, header=None):
    """tensors: (name, dtype, shape, bytes)."""
    entries, at = {}, 0
    if metadata is not None:
        entries["__metadata__"] = metadata
    for name, dtype, shape, data in tensors:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(entries, separators=(",", ":")).encode() if header is None else header
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t[3] for t in tensors)


def bits(dtype, seed, count):
    return np.random.default_rng(seed).integers(0, 256, count * WIDTH[dtype], np.uint8).tobytes()


class Case:
    """A base of three tensors and what is published on it."""

    def __init__(self, name, tensors=None, config="{}"):
        assert name not in cases, name
        cases[name] = self
        self.files, self.expected = {}, []
        self.base = tensors or [("m.a", "BF16", [4, 3], bits("BF16", 1, 12)), ("m.b", "F32", [5], bits("F32", 2, 5)),
                                ("m.e", "F32", [0], b"")]
        self.state = {name: data for name, _, _, data in self.base}
        self.files["base/config.json"] = config.encode()
        self.files["base/model.safetensors"] = safetensors(self.base, {"format": "pt"})
        self.shows("base")

    def shows(self, version):
        """The version must be readable, with the state of now."""
        whole = safetensors([(n, d, s, self.state[n]) for n, d, s, _ in self.base], {"format": "pt"})
        self.expected.append(f"{version}/model.safetensors {xxh3(whole)}")
        return self

    def put(self, path, data):
        self.files[path] = data.encode() if isinstance(data, str) else data
        return self

    def edit(self, path, change):
        self.files[path] = change(self.files[path])
        return self


def changed(data, places):
    out = bytearray(data)
    for at in places:
        out[at] ^= 0x5A
    return bytes(out)


# --- weight_v ---------------------------------------------------------------------------------------

def xor_payload(old, new):
    return bytes(a ^ b for a, b in zip(old, new))


def overwrite_payload(old, new):
    places = [i for i in range(len(old)) if old[i] != new[i]]
    return overwrite_raw(len(places), places, bytes(new[i] for i in places))


def overwrite_raw(count, places, values):
    return struct.pack("<I", count) + b"".join(struct.pack("<I", p) for p in places) + values


def metadata(version, base, encoding, checksum, more):
    result = {"version": f"{version:06d}", "base_version": f"{base:06d}", "delta_encoding": encoding,
              "compression_format": "zstd", "checksum_format": checksum}
    result.update(more)
    return {k: v for k, v in result.items() if v is not None}


def weight_v(case, version, base=None, encoding="xor", checksum="xxh3-128", bodies=None, digests=None, meta=None,
             tensors=("m.a", "m.b"), shows=True, root=""):
    """A delta that changes three bytes of each tensor; bodies and digests replace what would be right."""
    folder = f"{root}weight_v{version:06d}"
    stored, sums, weight_map = [], {}, {}
    for name in tensors:
        old = case.state[name]
        new = changed(old, [i for i in (0, 7 + version % 3, 17) if i < len(old)])
        payload = xor_payload(old, new) if encoding == "xor" else overwrite_payload(old, new)
        body = (bodies or {}).get(name, frame(payload))
        if body is not None:
            stored.append((name, "U8", [len(body)], body))
        sums[name] = f"{zlib.adler32(new):08x}" if checksum == "adler32" else xxh3(new)
        weight_map[name] = SHARD
        if shows:
            case.state[name] = new
    sums.update(digests or {})
    sums = {k: v for k, v in sums.items() if v is not None}
    case.put(f"{folder}/{SHARD}", safetensors(stored, sums))
    case.put(f"{folder}/{INDEX}",
             json.dumps({"metadata": metadata(version, version - 1 if base is None else base, encoding, checksum,
                                              meta or {}), "weight_map": weight_map}))
    if shows:
        case.shows(f"weight_v{version:06d}")
    return case


def full(case, version, change=None, shows=True):
    tensors = [(n, d, s, changed(case.state[n], [1] if case.state[n] else [])) for n, d, s, _ in case.base]
    if shows:
        case.state = {n: data for n, _, _, data in tensors}
        case.shows(f"weight_v{version:06d}")
    return case.put(f"weight_v{version:06d}/model.safetensors", safetensors(change(tensors) if change else tensors))


def accepted_weight_v():
    for encoding in ("xor", "overwrite"):
        for checksum in ("xxh3-128", "adler32"):
            case = Case(f"accept__weight_v_{encoding}_{checksum}")
            weight_v(case, 1, encoding=encoding, checksum=checksum)
            weight_v(case, 2, encoding=encoding, checksum=checksum, tensors=["m.b"])
    weight_v(full(weight_v(Case("accept__weight_v_full_restarts"), 1), 2), 3)
    weight_v(full(Case("accept__weight_v_pruned_before_full"), 5), 6)
    weight_v(weight_v(Case("accept__weight_v_no_change"), 1, tensors=[]), 2)
    weight_v(Case("accept__weight_v_in_updates"), 1, root="updates/")
    weight_v(Case("accept__weight_v_integer_versions"), 1, meta={"version": 1, "base_version": 0})
    case = weight_v(Case("accept__weight_v_unmapped_shard_ignored"), 1)
    case.put("weight_v000001/model-00001-of-00002.safetensors", b"garbage")
    weight_v(Case("accept__weight_v_overwrite_nothing"), 1, encoding="overwrite", shows=False, tensors=["m.a"],
             bodies={"m.a": frame(struct.pack("<I", 0))}, digests={"m.a": xxh3(bits("BF16", 1, 12))}).shows("weight_v000001")
    case = weight_v(Case("accept__weight_v_name_in_two_shards"), 1)
    case.put("weight_v000001/second.safetensors",
             safetensors([("m.a", "U8", [3], b"bad"), ("m.e", "U8", [9], frame(b""))],
                         {"m.a": xxh3(b""), "m.e": xxh3(b"")}))
    case.edit(f"weight_v000001/{INDEX}", lambda d: d.replace(b'"m.b": ', b'"m.e": "second.safetensors", "m.b": '))
    same = bits("BF16", 3, 8)
    tied = Case("accept__weight_v_tied", [("model.embed_tokens.weight", "BF16", [4, 2], same),
                                          ("lm_head.weight", "BF16", [4, 2], same)], '{"tie_word_embeddings": true}')
    weight_v(tied, 1, tensors=["model.embed_tokens.weight"], shows=False)
    tied.state = dict.fromkeys(tied.state, changed(same, [0, 8]))
    tied.shows("weight_v000001")
    case = weight_v(weight_v(Case("accept__weight_v_pointer_at_newest"), 1), 2)
    case.put("latest", "run-1/weight_v000002\n")


def rejected_weight_v():
    def index(name, code, old, new):
        case = weight_v(Case(f"reject__weight_v_{name}__{code}"), 1, shows=False)
        text = case.files[f"weight_v000001/{INDEX}"].decode()
        assert old in text, old
        case.put(f"weight_v000001/{INDEX}", text.replace(old, new))

    def shard(name, code, **arguments):
        weight_v(Case(f"reject__weight_v_{name}__{code}"), 1, shows=False, **arguments)

    index("encoding_add", "delta.unsupported_encoding", '"xor"', '"add"')
    index("compression_lz4", "delta.unsupported_encoding", '"zstd"', '"lz4"')
    index("checksum_md5", "delta.unsupported_checksum", "xxh3-128", "md5")
    index("version_text", "delta.bad_metadata", '"version": "000001"', '"version": "one"')
    index("version_negative", "delta.bad_metadata", '"base_version": "000000"', '"base_version": "-1"')
    index("version_huge", "delta.bad_metadata", '"version": "000001"', '"version": "18446744073709551617"')
    index("version_other", "delta.version_mismatch", '"version": "000001"', '"version": "000002"')
    index("base_version_missing", "delta.bad_metadata", '"base_version"', '"base"')
    index("compression_missing", "delta.bad_metadata", '"compression_format"', '"compression"')
    index("checksum_missing", "delta.bad_metadata", '"checksum_format"', '"checksum"')
    index("parent_is_itself", "delta.parent_mismatch", '"base_version": "000000"', '"base_version": "000001"')
    index("parent_is_later", "delta.parent_mismatch", '"base_version": "000000"', '"base_version": "000009"')
    index("index_cut", "index.invalid_json", "}}", "}")
    index("index_list", "index.invalid_json", '"weight_map": {', '"weight_map": [{')
    index("index_duplicate_name", "index.duplicate_name", '"m.a": ', f'"m.a": "{SHARD}", "m.a": ')
    index("shard_path_up", "index.invalid_file_name", SHARD, "../base/model.safetensors")
    index("shard_path_absolute", "index.invalid_file_name", SHARD, "/etc/passwd")
    index("shard_path_nul", "index.invalid_file_name", SHARD, "a\\u0000b")
    index("shard_missing", "delta.missing_file", SHARD, "other.safetensors")
    index("map_lacks_tensor", "delta.unexpected_tensor", f'"m.b": "{SHARD}"', f'"m.x": "{SHARD}"')
    shard("tensor_missing", "delta.missing_tensor", bodies={"m.a": None})
    shard("digest_missing", "delta.bad_metadata", digests={"m.a": None})
    shard("digest_short", "delta.bad_metadata", digests={"m.a": "0" * 31})
    shard("digest_upper_case", "delta.bad_metadata", digests={"m.a": "A" * 32})
    shard("digest_of_other_kind", "delta.bad_metadata", digests={"m.a": "0" * 8})
    case = weight_v(Case("reject__weight_v_unknown_tensor__delta.unknown_tensor"), 1, shows=False)
    for path in list(case.files):
        if path.startswith("weight_v"):
            case.edit(path, lambda d: d.replace(b"m.a", b"m.z"))
    case = weight_v(Case("reject__weight_v_payload_dtype__delta.unexpected_tensor"), 1, shows=False)
    case.edit(f"weight_v000001/{SHARD}", lambda d: d.replace(b'"U8"', b'"I8"', 1))
    case = weight_v(Case("reject__weight_v_shard_truncated__safetensors.truncated"), 1, shows=False)
    case.edit(f"weight_v000001/{SHARD}", lambda d: d[:-1])
    case = weight_v(Case("reject__weight_v_shard_has_tail__safetensors.trailing_bytes"), 1, shows=False)
    case.edit(f"weight_v000001/{SHARD}", lambda d: d + b"x")
    case = weight_v(Case("reject__weight_v_no_index__delta.incomplete"), 1, shows=False)
    case.files[f"weight_v000001/{INDEX}.tmp"] = case.files.pop(f"weight_v000001/{INDEX}")
    weight_v(weight_v(Case("reject__weight_v_gap__chain.missing_version"), 1), 3, shows=False)
    weight_v(Case("reject__weight_v_starts_late__chain.missing_version"), 4, shows=False)
    case = weight_v(weight_v(Case("reject__weight_v_fork__delta.parent_mismatch"), 1), 2)
    weight_v(case, 3, base=1, shows=False)
    case = weight_v(Case("reject__weight_v_two_of_one_number__chain.duplicate_version"), 1, shows=False)
    for path in list(case.files):
        if path.startswith("weight_v000001/"):
            case.put(path.replace("weight_v000001", "weight_v1"), case.files[path])
    case = weight_v(Case("reject__weight_v_child_of_broken__chain.parent_refused"), 1, shows=False)
    case.put(f"weight_v000001/{INDEX}", "{")
    weight_v(case, 2, shows=False)
    case = weight_v(weight_v(Case("reject__weight_v_beyond_pointer__chain.unpublished"), 1), 2, shows=False)
    case.put("latest", "weight_v000001")
    full(Case("reject__full_lacks_tensor__delta.missing_tensor"), 1, lambda t: t[:1], shows=False)
    full(Case("reject__full_has_more__delta.unknown_tensor"), 1, lambda t: [*t, ("m.x", "U8", [1], b"x")], shows=False)
    full(Case("reject__full_other_shape__delta.shape_mismatch"), 1,
         lambda t: [("m.a", "BF16", [3, 4], t[0][3]), *t[1:]], shows=False)
    full(Case("reject__full_other_dtype__delta.dtype_mismatch"), 1,
         lambda t: [("m.a", "F16", [4, 3], t[0][3]), *t[1:]], shows=False)


def unreadable_weight_v():
    def body(name, code, payload, encoding="xor", raw=False, **arguments):
        case = Case(f"eio__weight_v_{name}__{code}")
        weight_v(case, 1, encoding=encoding, bodies={"m.a": payload if raw else frame(payload)}, shows=False,
                 tensors=["m.a"], **arguments)

    good = bytes(24)
    body("xor_short", "delta.payload_size", good[:-1])
    body("xor_long", "delta.payload_size", good + b"x")
    body("xor_empty", "delta.payload_size", b"")
    body("xor_other_bytes", "digest.mismatch", good)
    body("digest_other", "digest.mismatch", good, digests={"m.a": "0" * 32})
    body("adler_other", "digest.mismatch", good, checksum="adler32", digests={"m.a": "00000001"})
    body("no_frame", "zstd.not_a_frame", b"hello, world", raw=True)
    body("empty_body", "zstd.not_a_frame", b"", raw=True)
    body("skippable", "zstd.not_a_frame", struct.pack("<II", 0x184D2A50, 4) + b"skip", raw=True)
    body("frame_cut", "zstd.corrupt", frame(bits("U8", 9, 24))[:-1], raw=True)
    body("frame_tail", "zstd.trailing_data", frame(good) + b"!", raw=True)
    body("two_frames", "zstd.trailing_data", frame(good) + frame(good), raw=True)
    body("no_content_size", "zstd.content_size",
         zstandard.ZstdCompressor(write_content_size=False).compress(good), raw=True)
    body("overwrite_empty", "delta.payload_size", b"", "overwrite")
    body("overwrite_count_high", "delta.count_mismatch", overwrite_raw(2, [1], b"x"), "overwrite")
    body("overwrite_count_low", "delta.count_mismatch", overwrite_raw(1, [1, 2], b"xy"), "overwrite")
    body("overwrite_count_wraps", "delta.count_mismatch", overwrite_raw(0xFFFFFFFF, [1], b"x"), "overwrite")
    body("overwrite_beyond", "delta.index_out_of_range", overwrite_raw(1, [24], b"x"), "overwrite")
    body("overwrite_far_beyond", "delta.index_out_of_range", overwrite_raw(2, [1, 0xFFFFFFFF], b"xy"), "overwrite")
    body("overwrite_descends", "delta.index_not_ascending", overwrite_raw(2, [5, 4], b"xy"), "overwrite")
    body("overwrite_twice", "delta.index_not_ascending", overwrite_raw(2, [5, 5], b"xy"), "overwrite")
    body("overwrite_other_bytes", "digest.mismatch", overwrite_raw(1, [5], b"x"), "overwrite")


# --- TRL --------------------------------------------------------------------------------------------

def trl_metadata(kind, number, sparse):
    result = {"format": "sparse_weight_patch", "version": "1", "model_version": str(number), "sparse": str(sparse)}
    if kind == "t0":
        result.pop("sparse")
        result["format"] = "sparse_weight_patch" if sparse else "anchor_checkpoint"
    if kind in ("raw", "gap_delta", "nvcomp_cascaded"):
        result["encoding"] = kind
    return result


def gaps(places):
    steps = [b - a - 1 for a, b in zip([-1, *places], places)]
    dtype = "U16" if all(s <= 0xFFFF for s in steps) else "U32"
    return dtype, np.array(steps, np.uint16 if dtype == "U16" else np.uint32).tobytes()


def pair(kind, name, places, values, dtype="BF16"):
    index, value = (".indices", ".values") if kind in ("t0", "t1") else (".idx", ".val")
    position_dtype, positions = gaps(places) if kind == "gap_delta" else ("I32", np.array(places, np.int32).tobytes())
    return [(name + index, position_dtype, [len(places)], positions),
            (name + value, dtype, [len(values) // WIDTH[dtype]], values)]


def anchor(case, kind, number, names=("m.a", "m.b"), shows=True):
    stored = []
    for name, dtype, shape, _ in case.base:
        if name in names:
            data = changed(case.state[name], [2])
            stored.append((name, dtype, shape, data))
            if shows:
                case.state[name] = data
    case.put(f"anchors/step_{number:06d}.safetensors", safetensors(stored, trl_metadata(kind, number, False)))
    if shows:
        case.shows(f"step_{number:06d}")
    return case


def step(case, kind, number, tensors=None, meta=None, shows=True):
    if tensors is None:
        tensors = pair(kind, "m.a", [0, 5, 11], b"AABBCC")
        if shows:
            data = bytearray(case.state["m.a"])
            for at, value in ((0, b"AA"), (5, b"BB"), (11, b"CC")):
                data[2 * at:2 * at + 2] = value
            case.state["m.a"] = bytes(data)
    more = dict(trl_metadata(kind, number, True))
    if kind in ("t0", "t1"):
        more["changed_params"] = json.dumps(sorted({t[0].rsplit(".", 1)[0] for t in tensors if t[0] != "__empty_delta__"}))
    more.update(meta or {})
    more = {k: v for k, v in more.items() if v is not None}
    case.put(f"deltas/step_{number:06d}.safetensors", safetensors(tensors, more))
    if shows:
        case.shows(f"step_{number:06d}")
    return case


def accepted_trl():
    for kind in ("t0", "t1", "raw", "gap_delta"):
        step(anchor(step(anchor(Case(f"accept__trl_{kind}"), kind, 1), kind, 2), kind, 3), kind, 4)
    step(step(anchor(Case("accept__trl_gap_in_numbers"), "gap_delta", 1), "gap_delta", 2), "gap_delta", 9)
    step(anchor(step(anchor(Case("accept__trl_partial_anchor"), "t1", 1), "t1", 2), "t1", 3, ["m.b"]), "t1", 4)
    step(anchor(Case("accept__trl_empty_draft_delta"), "t0", 1), "t0", 2, [("__empty_delta__", "I32", [1], bytes(4))])
    step(anchor(Case("accept__trl_empty_pair"), "raw", 1), "raw", 2, pair("raw", "m.a", [], b""))
    case = anchor(anchor(Case("accept__trl_dense_second_step"), "t1", 1), "t1", 2)
    case.files["deltas/step_000002.safetensors"] = case.files.pop("anchors/step_000002.safetensors")
    case = anchor(Case("accept__trl_widened_to_f32"), "gap_delta", 1)
    data = case.state["m.b"]
    case.state["m.b"] = data[:4] + b"\0\0\x80\x3f" + data[8:]
    step(case, "gap_delta", 2, pair("gap_delta", "m.b", [1], b"\x80\x3f"))
    case = anchor(Case("accept__trl_module_prefix"), "raw", 1)
    case.state["m.a"] = b"ZZ" + case.state["m.a"][2:]
    step(case, "raw", 2, pair("raw", "module.m.a", [0], b"ZZ"))
    anchor(Case("accept__trl_only_an_anchor"), "t1", 1)
    step(Case("accept__trl_second_step_on_the_base"), "raw", 2)


def rejected_trl():
    def delta(name, code, tensors=None, kind="raw", meta=None):
        step(anchor(Case(f"reject__trl_{name}__{code}"), kind, 1), kind, 2, tensors, meta, shows=False)

    one = np.array([0], np.int32).tobytes()
    delta("nvcomp", "delta.unsupported_encoding", [], "nvcomp_cascaded")
    delta("encoding_unknown", "delta.unsupported_encoding", [], meta={"encoding": "zip"})
    delta("format_unknown", "delta.unsupported_format", meta={"format": "something"})
    delta("format_missing", "delta.unsupported_format", meta={"format": None})
    delta("sparse_lower_case", "delta.bad_metadata", meta={"sparse": "true"})
    delta("number_inside", "delta.version_mismatch", meta={"model_version": "3"})
    delta("changed_params_no_list", "delta.bad_metadata", kind="t1", meta={"changed_params": "{}"})
    delta("changed_params_deep", "delta.bad_metadata", kind="t1", meta={"changed_params": "[" * 3000 + "]" * 3000})
    delta("changed_params_lies", "delta.missing_tensor", kind="t1", meta={"changed_params": '["m.x"]'})
    delta("values_missing", "delta.missing_tensor", [("m.a.idx", "I32", [1], one)])
    delta("positions_missing", "delta.missing_tensor", [("m.a.val", "BF16", [1], b"XX")])
    delta("odd_tensor", "delta.unexpected_tensor", [*pair("raw", "m.a", [1], b"XX"), ("odd", "U8", [1], b"x")])
    delta("unknown_tensor", "delta.unknown_tensor", pair("raw", "m.zz", [1], b"XX"))
    delta("two_names", "delta.ambiguous_name", [*pair("raw", "m.a", [1], b"XX"), *pair("raw", "a", [1], b"XX")])
    delta("counts_differ", "delta.count_mismatch",
          [("m.a.idx", "I32", [2], one + one), ("m.a.val", "BF16", [1], b"XX")])
    delta("more_than_elements", "delta.count_mismatch", pair("raw", "m.a", list(range(13)), b"XX" * 13))
    delta("rank_two", "delta.count_mismatch", [("m.a.idx", "I32", [1, 1], one), ("m.a.val", "BF16", [1, 1], b"XX")])
    delta("positions_u32", "delta.unexpected_tensor", [("m.a.idx", "U32", [1], one), ("m.a.val", "BF16", [1], b"XX")])
    delta("positions_i64", "delta.unexpected_tensor", [("m.a.idx", "I64", [1], bytes(8)), ("m.a.val", "BF16", [1], b"XX")])
    delta("gaps_i32", "delta.unexpected_tensor", [("m.a.idx", "I32", [1], one), ("m.a.val", "BF16", [1], b"XX")],
          "gap_delta")
    delta("narrows", "delta.dtype_mismatch", pair("raw", "m.a", [1], b"XXXX", "F32"))
    delta("f16_into_bf16", "delta.dtype_mismatch", pair("raw", "m.a", [1], b"XX", "F16"))

    def broken(name, code, change):
        case = step(anchor(Case(f"reject__trl_{name}__{code}"), "raw", 1), "raw", 2, shows=False)
        case.edit("deltas/step_000002.safetensors", change)

    broken("empty_file", "safetensors.header_too_small", lambda d: b"")
    broken("truncated", "safetensors.truncated", lambda d: d[:-1])
    broken("header_cut", "safetensors.invalid_header_length", lambda d: d[:40])
    broken("tail", "safetensors.trailing_bytes", lambda d: d + b"\0")
    broken("no_json", "safetensors.invalid_json", lambda d: d.replace(b"{", b"[", 1))
    case = anchor(Case("reject__trl_anchor_shape__delta.shape_mismatch"), "t1", 1, shows=False)
    case.edit("anchors/step_000001.safetensors", lambda d: d.replace(b"[4,3]", b"[3,4]"))
    case = anchor(Case("reject__trl_anchor_dtype__delta.dtype_mismatch"), "t1", 1, shows=False)
    case.edit("anchors/step_000001.safetensors", lambda d: d.replace(b'"BF16"', b'"F16" '))
    step(Case("reject__trl_starts_late__chain.no_start"), "raw", 3, shows=False)
    case = step(anchor(Case("reject__trl_two_of_one_number__chain.duplicate_version"), "t1", 1), "t1", 2, shows=False)
    anchor(case, "t1", 2, shows=False)
    case = step(anchor(Case("reject__trl_child_of_broken__chain.parent_refused"), "t1", 1), "t1", 2, shows=False)
    case.put("deltas/step_000002.safetensors", b"")
    step(case, "t1", 3, shows=False)


def unreadable_trl():
    def positions(name, code, dtype, values, kind="raw"):
        data = np.array(values).astype({"I32": np.int64, "U16": np.int64, "U32": np.int64}[dtype])
        raw = b"".join(struct.pack("<H" if dtype == "U16" else "<I", int(v) & (0xFFFF if dtype == "U16" else 0xFFFFFFFF))
                       for v in data)
        count = len(values)
        step(anchor(Case(f"eio__trl_{name}__{code}"), kind, 1), kind, 2,
             [("m.a.idx", dtype, [count], raw), ("m.a.val", "BF16", [count], b"XX" * count)], shows=False)

    positions("position_beyond", "delta.index_out_of_range", "I32", [0, 12])
    positions("position_negative", "delta.index_out_of_range", "I32", [0, -1])
    positions("position_wrapped", "delta.index_out_of_range", "I32", [-(2**31)])
    positions("positions_descend", "delta.index_not_ascending", "I32", [5, 4])
    positions("position_twice", "delta.index_not_ascending", "I32", [4, 4])
    positions("gap_beyond", "delta.index_out_of_range", "U16", [12], "gap_delta")
    positions("gaps_add_up_beyond", "delta.index_out_of_range", "U16", [5, 5, 5], "gap_delta")
    positions("wide_gap_beyond", "delta.index_out_of_range", "U32", [0xFFFFFFFF], "gap_delta")
    positions("wide_gaps_wrap_32_bits", "delta.index_out_of_range", "U32", [0, 0xFFFFFFFF, 0xFFFFFFFF], "gap_delta")


# --- Sources and formats that are not read ----------------------------------------------------------

def sources():
    case = weight_v(Case("reject__source_no_base__base.not_found"), 1, shows=False)
    case.files = {k: v for k, v in case.files.items() if not k.startswith("base/")}
    case = weight_v(Case("reject__source_empty_base__base.no_weights"), 1, shows=False)
    case.files.pop("base/model.safetensors")
    case = weight_v(Case("reject__source_broken_base__safetensors.truncated"), 1, shows=False)
    case.edit("base/model.safetensors", lambda d: d[:-1])
    case = weight_v(anchor(Case("reject__source_two_layouts__source.ambiguous"), "t1", 1, shows=False), 1, shows=False)

    def foreign(name, files):
        case = Case(f"reject__foreign_{name}__delta.unsupported_format")
        for path, data in files.items():
            case.put(f"weight_v000001/{path}", data)

    foreign("skyrl", {"manifest.json": '{"base_version": 0, "tensors": {}, "payload_files": []}'})
    foreign("miles_gpu", {"manifest.json": '{"protocol_version": 4, "codec": "x"}'})
    foreign("grail", {"delta_metadata.json": "{}", "delta_sparse.bin.zst": b""})
    foreign("prime_rl", {"sparse_update_manifest.json": "{}"})
    foreign("open_rl", {"metadata.json": '{"format": "sparse_delta"}', "delta.safetensors": b""})
    foreign("lora", {"adapter_config.json": '{"peft_type": "LORA"}'})
    foreign("slime_flush", {"rank0000_flush000000.safetensors": b""})
    body = frame(bytes(24))
    foreign("arc", {"model.safetensors": safetensors([("m.a", "U8", [len(body)], body)], {"m.a": "302318336"}),
                    "config.json": "{}", INDEX: json.dumps({"metadata": {}, "weight_map": {"m.a": "model.safetensors"}})})


# --- zstd frames ------------------------------------------------------------------------------------

def zstd_frames():
    noise, runs = bits("U8", 5, 700), bytes(2000)
    magic = struct.pack("<I", 0xFD2FB528)
    compressor = zstandard.ZstdCompressor
    result = {"accept__empty": frame(b""), "accept__one_byte": frame(b"x"), "accept__noise": frame(noise),
              "accept__zeros": frame(runs), "accept__mixed": frame(noise + runs + noise),
              "accept__checksum": compressor(write_checksum=True).compress(runs),
              "accept__level_19": compressor(level=19).compress(runs + noise),
              "accept__window_8_mib": magic + b"\x80\x68" + struct.pack("<I", 3) + b"\x19\0\0abc",
              "accept__raw_block": magic + b"\x20\x03\x19\0\0abc", "accept__rle_block": magic + b"\x20\x05\x2b\0\0z",
              "accept__empty_blocks_before": magic + b"\x20\x03\0\0\0\0\0\0\x19\0\0abc",
              "accept__eight_byte_size": magic + b"\xe0" + struct.pack("<Q", 3) + b"\x19\0\0abc",
              "accept__two_byte_size": magic + b"\x60" + struct.pack("<H", 44) + b"\x63\x09\0z"}

    def bad(name, code, data):
        result[f"reject__{name}__zstd.{code}"] = data

    for n in range(4):
        bad(f"file_of_{n}_bytes", "not_a_frame", magic[:n])
    bad("gzip", "not_a_frame", zlib.compress(runs))
    bad("magic_flipped", "not_a_frame", b"\x29" + frame(noise)[1:])
    bad("skippable", "not_a_frame", struct.pack("<II", 0x184D2A5F, 3) + b"abc")
    bad("skippable_first", "not_a_frame", struct.pack("<II", 0x184D2A50, 3) + b"abc" + frame(noise))
    bad("legacy_0_7", "not_a_frame", struct.pack("<I", 0xFD2FB527) + b"\x20\x03\x19\0\0abc")
    bad("magic_alone", "corrupt", magic)
    bad("header_cut", "corrupt", magic + b"\xe0\0\0")
    bad("reserved_bit", "corrupt", magic + b"\x28\x03\x19\0\0abc")
    bad("block_header_cut", "corrupt", magic + b"\x20\x03\x19\0")
    bad("block_cut", "corrupt", magic + b"\x20\x03\x19\0\0ab")
    bad("reserved_block", "corrupt", magic + b"\x20\x03\x1f\0\0abc")
    bad("last_byte_missing", "corrupt", frame(noise)[:-1])
    bad("half", "corrupt", frame(noise + runs)[:200])
    bad("no_last_block", "corrupt", magic + b"\x20\x03\x18\0\0abc")
    bad("checksum_missing", "corrupt", compressor(write_checksum=True).compress(runs)[:-4])
    bad("checksum_wrong", "corrupt", changed(compressor(write_checksum=True).compress(runs), [-1]))
    bad("block_over_128_kib", "corrupt", magic + b"\xa0" + struct.pack("<I", 200000) + struct.pack("<I", 200000 << 3 | 1)[:3] + b"z" * 40)
    bad("literals_garbled", "corrupt", magic + b"\x20\x40\x25\0\0\xff\xff\xff\xff")
    bad("size_too_small", "corrupt", magic + b"\x20\x02\x19\0\0abc")
    bad("size_too_large", "corrupt", magic + b"\x20\x04\x19\0\0abc")
    bad("size_zero", "corrupt", magic + b"\x20\x00\x19\0\0abc")
    bad("no_size", "content_size", compressor(write_content_size=False).compress(noise))
    bad("no_size_with_window", "content_size", magic + b"\x00\x00\x19\0\0abc")
    bad("size_2_to_63", "window_too_large", magic + b"\xe0" + struct.pack("<Q", 1 << 63) + b"\x19\0\0abc")
    bad("size_max", "window_too_large", magic + b"\xe0" + struct.pack("<Q", (1 << 64) - 1) + b"\x19\0\0abc")
    bad("window_9_mib", "window_too_large", magic + b"\x80\x69" + struct.pack("<I", 3) + b"\x19\0\0abc")
    bad("window_huge", "window_too_large", magic + b"\x80\xff" + struct.pack("<I", 3) + b"\x19\0\0abc")
    bad("dictionary_1_byte", "dictionary", magic + b"\x21\x07\x03\x19\0\0abc")
    bad("dictionary_4_bytes", "dictionary", magic + b"\x23\x07\0\0\0\x03\x19\0\0abc")
    bad("tail_byte", "trailing_data", frame(noise) + b"\0")
    bad("tail_frame", "trailing_data", frame(noise) + frame(noise))
    bad("tail_skippable", "trailing_data", frame(noise) + struct.pack("<II", 0x184D2A50, 0))
    bad("tail_of_empty", "trailing_data", frame(b"") + b"x")
    return result


def write_seeds(frames):
    """Seeds of the fuzzers: frames and TRL files as they are, weight_v as length of index, index, shard."""
    for name, data in frames.items():
        target = SEEDS / "fuzz_zstd" / name.split("__")[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    for name, case in cases.items():
        for path, data in case.files.items():
            folder = pathlib.PurePosixPath(path)
            if folder.name.startswith("step_") and len(data) < 2000:
                seed = f"fuzz_trl/{name.split('__')[1]}_{folder.stem}"
            elif folder.name == INDEX and path.startswith("weight_v000001/") and name.startswith(("accept", "eio")):
                shard = case.files.get(str(folder.parent / SHARD), b"")
                index = data.replace(SHARD.encode(), b"s")
                data = struct.pack("<H", len(index)) + index + shard
                seed = f"fuzz_weight_v/{name.split('__')[1]}"
            else:
                continue
            target = SEEDS / seed
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def main():
    for make in (accepted_weight_v, rejected_weight_v, unreadable_weight_v, accepted_trl, rejected_trl, unreadable_trl,
                 sources):
        make()
    for folder in (HERE / "delta", HERE / "zstd", SEEDS / "fuzz_trl", SEEDS / "fuzz_weight_v", SEEDS / "fuzz_zstd"):
        shutil.rmtree(folder, ignore_errors=True)
    for name, case in cases.items():
        case.put("expected.txt", "\n".join(case.expected) + "\n")
        for path, data in case.files.items():
            file = HERE / "delta" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    frames = zstd_frames()
    for name, data in frames.items():
        file = HERE / "zstd" / f"{name}.zst"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    write_seeds(frames)
    print(f"{len(cases)} delta cases, {len(frames)} zstd frames")


if __name__ == "__main__":
    main()
