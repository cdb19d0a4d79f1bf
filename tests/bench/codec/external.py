# SPDX-License-Identifier: Apache-2.0
"""What has no C++ library to link: ZipNN's package, `zstd --patch-from` and `xdelta3`; and the store of weightfs
itself, all files counted.  Whatever is not installed is left out of the results, and said so."""

import importlib.util
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from reference.safetensors_io import read_header

ZIPNN_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn"}


def processor_seconds() -> float:
    """Processor time of this process and of children that have ended: as codec_bench, free of what others run."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def median_seconds(passes: int, call) -> float:
    call()
    seconds = []
    for _ in range(passes):
        began = processor_seconds()
        call()
        seconds.append(processor_seconds() - began)
    return statistics.median(seconds)


def data_of(file: Path) -> tuple[str, np.ndarray]:
    """The most frequent dtype of a file, by bytes, and all bytes of its tensors."""
    header = read_header(file)
    weight: dict[str, int] = {}
    for dtype, _, begin, end in header.records.values():
        weight[dtype] = weight.get(dtype, 0) + end - begin
    return max(weight, key=weight.get), np.fromfile(file, np.uint8, offset=header.data_start)


def _zipnn_row(name: str, dtype: str, data: np.ndarray, passes: int) -> dict:
    from zipnn import ZipNN

    raw = data.tobytes()
    # It reorders bits of what it is given, so each call gets a copy, made outside of the timing.
    copy = bytearray(raw)
    began = processor_seconds()
    packed = ZipNN(bytearray_dtype=dtype, input_format="byte", threads=1).compress(copy)
    encode = processor_seconds() - began
    reader = ZipNN(bytearray_dtype=dtype, input_format="byte", threads=1)
    if bytes(reader.decompress(packed)) != raw:
        raise SystemExit(f"{name} does not give the bytes back")
    decode = median_seconds(passes, lambda: reader.decompress(packed))
    return {"name": name, "bytes": len(packed), "encode_gbps": len(raw) / encode / 1e9,
            "decode_gbps": {"pass": len(raw) / decode / 1e9}}


def zipnn_rows(old: Path, new: Path, passes: int) -> list[dict]:
    """The new file alone, and its xor with the old one (the xor itself is not in the times: in ZipNN's favour)."""
    if importlib.util.find_spec("zipnn") is None:
        return []
    dtype, after = data_of(new)
    _, before = data_of(old)
    if dtype not in ZIPNN_DTYPES or before.size != after.size:
        return []
    return [_zipnn_row("ZipNN of the new file", ZIPNN_DTYPES[dtype], after, passes),
            _zipnn_row("ZipNN of the xor", ZIPNN_DTYPES[dtype], before ^ after, passes)]


def _tool_row(name: str, old: Path, new: Path, encode, decode, passes: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        patch, out = Path(folder) / "patch", Path(folder) / "out"
        began = processor_seconds()
        subprocess.run(encode(old, new, patch), check=True, capture_output=True)
        seconds = processor_seconds() - began
        size = new.stat().st_size
        reading = median_seconds(passes, lambda: subprocess.run(decode(old, patch, out), check=True, capture_output=True))
        if out.read_bytes() != new.read_bytes():
            raise SystemExit(f"{name} does not give the bytes back")
        return {"name": name, "bytes": patch.stat().st_size, "encode_gbps": size / seconds / 1e9,
                "decode_gbps": {"pass": size / reading / 1e9}}


def tool_rows(old: Path, new: Path, passes: int) -> list[dict]:
    """Whole files through command line tools: their times hold the start of a process and file access."""
    window = max(old.stat().st_size, new.stat().st_size)
    log = max(20, window.bit_length())
    rows = []
    if shutil.which("zstd"):
        rows.append(_tool_row(
            "zstd --patch-from", old, new,
            lambda a, b, patch: ["zstd", "-q", "-f", "-3", "-T1", f"--long={log}", f"--patch-from={a}", b, "-o", patch],
            lambda a, patch, out: ["zstd", "-q", "-f", "-d", f"--long={log}", f"--patch-from={a}", patch, "-o", out],
            passes))
    if shutil.which("xdelta3"):
        rows.append(_tool_row(
            "xdelta3", old, new,
            lambda a, b, patch: ["xdelta3", "-f", "-e", "-B", str(1 << log), "-s", a, b, patch],
            lambda a, patch, out: ["xdelta3", "-f", "-d", "-B", str(1 << log), "-s", a, patch, out], passes))
    return rows


# --- the real commands ------------------------------------------------------------------------------


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def has_store_commands(weightfs: Path) -> bool:
    return weightfs.exists() and subprocess.run([weightfs, "commit", "--help"], capture_output=True).returncode == 0


def _run(weightfs: Path, *arguments) -> float:
    began = time.perf_counter()
    done = subprocess.run([weightfs, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"weightfs {arguments[0]}: {done.stderr}")
    return time.perf_counter() - began


def store_sizes(weightfs: Path, old: Path, new: Path, full: bool) -> dict:
    """All bytes of the version's folder: manifest, index, framing, digests, payload."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        _run(weightfs, "init", store, "--base", old)
        for size in ("256K", "auto"):
            _run(weightfs, "commit", store, new, "--parent", "base", "--name", f"new-{size}", "--block-size", size)
            result[size] = folder_bytes(store / "versions" / f"new-{size}")
        if full:
            _run(weightfs, "init", Path(folder) / "full", "--base", new, "--full")
            result["full"] = folder_bytes(Path(folder) / "full" / "versions" / "base")
    return result


def commit_seconds(weightfs: Path, old: Path, new: Path, passes: int) -> list[float]:
    """Wall time of `weightfs commit`: a process that starts, reads both checkpoints, writes and syncs a version."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        _run(weightfs, "init", store, "--base", old)
        for number in range(passes + 1):
            taken = _run(weightfs, "commit", store, new, "--parent", "base", "--name", f"new-{number}")
            if number > 0:
                seconds.append(taken)
    return seconds
