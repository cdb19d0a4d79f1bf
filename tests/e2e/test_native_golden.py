# SPDX-License-Identifier: Apache-2.0
"""Golden stores: every version of every store of a published format version decodes to the same bytes for ever."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, succeed
from reference import native

GOLDEN = ROOT / "tests" / "golden" / "native-v1"
STORES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
LEVELS = ("scalar", "avx2", "avx512")
FLAGS = {"scalar": set(), "avx2": {"avx2", "bmi2"},
         "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vbmi", "avx512_vbmi2"}}


def expected(name: str) -> dict[str, str]:
    """VERSION/PATH -> SHA-256, or "folder"."""
    lines = (GOLDEN / f"{name}.sha256").read_text().splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def found(folder: Path) -> dict[str, str]:
    result = {}
    for root, folders, files in os.walk(folder):
        place = Path(root).relative_to(folder)
        result.update({(place / file).as_posix(): hashlib.sha256((Path(root) / file).read_bytes()).hexdigest()
                       for file in files})
        if not folders and not files:
            result[place.as_posix()] = "folder"
    return result


def has_level(level: str) -> bool:
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    return set(flags.split()) >= FLAGS[level]


@pytest.mark.parametrize("name", STORES)
def test_the_decoder_reads_it(name, tmp_path):
    native.decode(GOLDEN / name, tmp_path / "decoded")
    assert found(tmp_path / "decoded") == expected(name)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", STORES)
def test_the_mount_shows_it(name, level, tmp_path, mount, monkeypatch):
    if not has_level(level):
        pytest.skip(f"this processor has no {level}")
    monkeypatch.setenv("WEIGHTFS_ISA", level)
    mounted = mount(GOLDEN / name)
    shown = {}
    for version in mounted.versions():
        shown.update({f"{version}/{path}": digest for path, digest in found(mounted / version).items()})
    assert shown == expected(name)


@pytest.mark.parametrize("name", STORES)
def test_verify_and_export_agree(name, tmp_path):
    store = shutil.copytree(GOLDEN / name, tmp_path / "store")
    succeed("verify", store)
    wanted = expected(name)
    (tmp_path / "out").mkdir()
    for version in {path.split("/")[0] for path in wanted}:
        succeed("export", store, version, tmp_path / "out" / version)
    assert found(tmp_path / "out") == wanted


@pytest.mark.parametrize("name", STORES)
def test_it_is_small_enough_to_keep(name):
    assert sum(path.stat().st_size for path in (GOLDEN / name).rglob("*") if path.is_file()) <= 64 << 10


def test_every_coding_and_width_is_there():
    seen = set()
    for name in STORES:
        store = native.Store(GOLDEN / name)
        for version in [*store.versions.values(), *store.nets]:
            if version.kind == "reference" or version not in [way for n in store.versions for way in store.ways(n)]:
                continue
            parent = version.manifest["parent"]
            tree, _ = version.layout(store.state(parent["name"]).tree if parent and version.kind != "full" else None)
            blocks = version.index(tree).blocks.values()
            seen.update((block.coding, block.params.width) for block in blocks)
    assert seen == {(coding, width) for coding in range(4) for width in (1, 2, 4)}
