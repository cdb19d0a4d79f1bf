# SPDX-License-Identifier: Apache-2.0
"""Every way in which a program can read a file gives the same bytes, at random ranges."""

import concurrent.futures
import errno
import hashlib
import mmap
import os
import random

import numpy as np
import pytest
from conftest import sha256
from reference import trl, weight_v
from reference.safetensors_io import Tensor, copy_state, write_model

RANGES = 10_000
PAGE = 4096


def make_state(rng):
    shapes = {"a.weight": ("BF16", (700, 1024)), "b.weight": ("BF16", (513, 511)), "c.bias": ("BF16", (1021,)),
              "tail": ("U8", (4099,))}
    width = {"BF16": 2, "U8": 1}
    return {name: Tensor(dtype, shape, rng.integers(0, 256, int(np.prod(shape)) * width[dtype], dtype=np.uint8))
            for name, (dtype, shape) in shapes.items()}


METHODS = ["read", "pread", "mmap_shared", "mmap_private", "sendfile", "copy_file_range", "o_direct"]


@pytest.fixture(scope="module", params=["weight_v", "trl"])
def versions(request, tmp_path_factory, module_mount):
    """Method -> (mounted file, its true bytes); each method has a version of its own, so it reads cold."""
    folder = tmp_path_factory.mktemp("access")
    rng = np.random.default_rng(21)
    state = make_state(rng)
    if request.param == "trl":
        del state["tail"]  # TRL publishes nothing but BF16
        state["tail"] = Tensor("BF16", (4099,), rng.integers(0, 256, 8198, dtype=np.uint8))
    write_model(folder / "base", state, 1, extra={})
    module = weight_v if request.param == "weight_v" else trl
    source = folder / "source"
    writer = weight_v.WeightVWriter(source, state) if module is weight_v else trl.TrlWriter(source)
    for _ in METHODS:
        state = copy_state(state)
        for tensor in state.values():
            tensor.bits()[rng.integers(0, tensor.elements, tensor.elements // 50)] ^= 3
        writer.publish(state)
    decoded = module.decode(folder / "source", folder / "base", folder / "decoded")
    mounted = module_mount(folder / "source", base=folder / "base")
    names = [name for name in decoded if name != "base"]
    return {method: (mounted / name / "model.safetensors", (decoded[name] / "model.safetensors").read_bytes())
            for method, name in zip(METHODS, names, strict=True)}


def ranges(size, align=1):
    """Short and long ones, many at the end, some beyond it."""
    rng = random.Random(size * 31 + align)
    for _ in range(RANGES):
        length = rng.choice([rng.randrange(1, 64), rng.randrange(1, 5000), rng.randrange(1, 70_000)])
        start = rng.randrange(size) if rng.random() < 0.9 else max(0, size - rng.randrange(1, 9000))
        start -= start % align
        yield start, max(align, length - length % align)


def check(read, content, align=1):
    for start, length in ranges(len(content), align):
        found = read(start, length)
        assert found == content[start:start + length], f"{length} bytes at {start}"


def test_read(versions):
    path, content = versions["read"]
    with open(path, "rb", buffering=0) as file:
        def read(start, length):
            file.seek(start)
            return file.read(length)
        check(read, content)


def test_pread(versions):
    path, content = versions["pread"]
    with open(path, "rb") as file:
        check(lambda start, length: os.pread(file.fileno(), length, start), content)


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_mmap(versions, kind):
    path, content = versions[f"mmap_{kind}"]
    flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
    protection = mmap.PROT_READ if kind == "shared" else mmap.PROT_READ | mmap.PROT_WRITE
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags, prot=protection) as view:
        check(lambda start, length: view[start:start + length], content)
        if kind == "private":
            view[100:110] = b"0123456789"
            assert os.pread(file.fileno(), 10, 100) == content[100:110], "a private change stays private"
    assert path.read_bytes() == content


def test_sendfile(versions):
    path, content = versions["sendfile"]
    target = os.memfd_create("sendfile")
    with open(path, "rb") as file:
        def read(start, length):
            os.lseek(target, 0, os.SEEK_SET)
            done = 0
            while done < length:
                sent = os.sendfile(target, file.fileno(), start + done, length - done)
                if sent == 0:
                    break
                done += sent
            return os.pread(target, done, 0)
        check(read, content)
    os.close(target)


def test_copy_file_range(versions, tmp_path):
    """Kernels since 5.19 refuse it across file systems; then copying tools fall back to reading."""
    path, content = versions["copy_file_range"]
    with open(path, "rb") as file, open(tmp_path / "copy", "w+b", buffering=0) as copy:
        def read(start, length):
            done = 0
            while done < length:
                try:
                    copied = os.copy_file_range(file.fileno(), copy.fileno(), length - done, start + done, done)
                except OSError as error:
                    assert error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL), error
                    copied = os.pwrite(copy.fileno(), os.pread(file.fileno(), length - done, start + done), done)
                if copied == 0:
                    break
                done += copied
            return os.pread(copy.fileno(), done, 0)
        check(read, content)


def test_o_direct(versions):
    path, content = versions["o_direct"]
    assert len(content) % 512 != 0, "the file's tail should be odd"
    with mmap.mmap(-1, 1 << 20) as buffer:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            def read(start, length):
                count = os.preadv(descriptor, [memoryview(buffer)[:length]], start)
                return buffer[:count]
            check(read, content, align=PAGE)
            tail = len(content) - len(content) % PAGE
            assert read(tail, PAGE) == content[tail:]
            assert read(tail + PAGE, PAGE) == b""
        finally:
            os.close(descriptor)


def test_parallel_page_faults_on_one_mapping(versions, tmp_path_factory, module_mount):
    """What transformers does with a shard: several threads fault one mapping at once."""
    path, content = versions["mmap_shared"]
    source = path.parent.parent
    status = module_mount_status(source)
    fresh = module_mount(status["source"], base=status["base"])
    path = fresh / path.parent.name / path.name
    threads, piece = 8, 37 * PAGE
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        whole = memoryview(view)

        def digest(thread):
            result = hashlib.sha256()  # releases the interpreter's lock, so the faults really run at once
            for start in range(thread * piece, len(content), threads * piece):
                result.update(whole[start:start + piece])
            return result.hexdigest()

        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(digest, range(threads)))
        whole.release()
    for thread in range(threads):
        result = hashlib.sha256()
        for start in range(thread * piece, len(content), threads * piece):
            result.update(content[start:start + piece])
        assert found[thread] == result.hexdigest()
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def module_mount_status(point):
    from conftest import json_of

    return json_of("status", point)
