# SPDX-License-Identifier: Apache-2.0
"""The memory budget holds: 16 readers over a model of 8 GiB do not make the daemon grow."""

import concurrent.futures
import json
import os
import random
import struct
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xxhash
import zstandard
from reference.safetensors_io import INDEX_NAME, Tensor, write_file

TENSORS = 64
ROWS, COLUMNS = 8192, 8192  # 128 MiB in BF16
TENSOR_BYTES = ROWS * COLUMNS * 2
BUDGET, ALLOWANCE = 256 << 20, 64 << 20
SECONDS = float(os.environ.get("WEIGHTFS_MEMORY_TEST_SECONDS", "40"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(run, base, true bytes of every tensor): a sparse base of zeros under one delta.

    All tensors change in the same way, so one frame and one digest serve them all.
    """
    folder = tmp_path_factory.mktemp("large")
    names = [f"model.layers.{layer}.weight" for layer in range(TENSORS)]
    header = {"__metadata__": {"format": "pt"}}
    for place, name in enumerate(names):
        header[name] = {"dtype": "BF16", "shape": [ROWS, COLUMNS],
                        "data_offsets": [place * TENSOR_BYTES, (place + 1) * TENSOR_BYTES]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "base").mkdir()
    with open(folder / "base" / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + TENSORS * TENSOR_BYTES)

    rng = np.random.default_rng(61)
    new = np.zeros(TENSOR_BYTES // 2, np.uint16)
    new[rng.integers(0, new.size, new.size // 300)] = rng.integers(1, 4, new.size // 300).astype(np.uint16)
    frame = np.frombuffer(zstandard.ZstdCompressor(level=1).compress(new.tobytes()), np.uint8)
    digest = xxhash.xxh3_128_hexdigest(new.tobytes())
    delta = folder / "run" / "weight_v000001"
    delta.mkdir(parents=True)
    shard = "model-00000-of-00001.safetensors"
    frames = {name: Tensor("U8", (frame.size,), frame) for name in names}
    write_file(delta / shard, frames, dict.fromkeys(names, digest))
    (delta / INDEX_NAME).write_text(json.dumps({
        "metadata": {"version": "000001", "base_version": "000000", "delta_encoding": "xor",
                     "compression_format": "zstd", "checksum_format": "xxh3-128"},
        "weight_map": dict.fromkeys(names, shard)}))
    return folder / "run", folder / "base", 8 + len(text), new.view(np.uint8)


def resident(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("verify", ["tensor", "off"])
def test_sixteen_readers_stay_in_the_budget(model, mount, verify):
    run, base, data_start, content = model
    mounted = mount(run, "--memory", "256M", f"--verify={verify}", base=base)
    pid = mounted.status()["pid"]
    path = mounted / "weight_v000001" / "model.safetensors"
    assert path.stat().st_size == data_start + TENSORS * TENSOR_BYTES
    deadline = time.monotonic() + SECONDS / 2

    def reader(seed: int) -> int:
        rng = random.Random(seed)
        done = 0
        with open(path, "rb") as file:
            while time.monotonic() < deadline:
                start = rng.randrange(TENSOR_BYTES - (4 << 20))
                length = rng.choice([4096, 256 << 10, 4 << 20])
                where = data_start + rng.randrange(TENSORS) * TENSOR_BYTES + start
                found = os.pread(file.fileno(), length, where)
                assert found == content[start:start + length].tobytes()
                os.posix_fadvise(file.fileno(), where, length, os.POSIX_FADV_DONTNEED)
                done += 1
        return done

    peak = 0
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        readers = [pool.submit(reader, seed) for seed in range(16)]
        while not all(future.done() for future in readers):
            peak = max(peak, resident(pid))
            time.sleep(0.02)
        counts = [future.result() for future in readers]
    status = mounted.status()
    print(f"verify={verify}: {sum(counts)} reads, {status['counters']['blocks_decoded']} blocks decoded, "
          f"peak {peak / (1 << 20):.0f} MiB resident, {status['memory']['evictions']} evictions")
    assert min(counts) > 0, "every reader got something"
    assert status["memory"]["evictions"] > 0, "the readers should want more than the budget holds"
    assert peak < BUDGET + ALLOWANCE, f"peak {peak >> 20} MiB after {sum(counts)} reads"
    assert status["memory"]["budget"] == BUDGET and status["memory"]["used"] <= BUDGET
    assert status["counters"]["read_errors"] == 0
    assert psutil.Process(pid).is_running()
