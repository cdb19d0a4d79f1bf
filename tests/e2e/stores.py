# SPDX-License-Identifier: Apache-2.0
"""Native stores that several test files make, and what must hold for every one of them."""

import shutil
from pathlib import Path

from conftest import assert_same_tree, json_of, succeed
from reference import native


def make_store(store: Path, folders: dict[str, Path], *options) -> Path:
    """init with the first folder, commit of the others, each on the one before."""
    for number, (name, folder) in enumerate(folders.items()):
        if number == 0:
            assert name == "base"
            succeed("init", store, "--base", folder, *options)
        else:
            succeed("commit", store, folder, "--name", name)
    return store


def assert_holds(store: Path, folders: dict[str, Path], place: Path, mount=None) -> None:
    """Decoder, verify, export and (unless None) a mount all say that the store has exactly these folders."""
    decoded = native.decode(store, place / "decoded")
    assert sorted(decoded) == sorted(folders)
    for name, folder in folders.items():
        assert_same_tree(decoded[name], folder)
    shutil.rmtree(place / "decoded")
    succeed("verify", store)
    assert [entry["name"] for entry in json_of("log", store)][0] == "base"
    for name, folder in folders.items():
        succeed("export", store, name, place / "exported")
        assert_same_tree(place / "exported", folder)
        shutil.rmtree(place / "exported")
    if mount is None:
        return
    mounted = mount(store)
    assert mounted.versions() == sorted(folders)
    for name in sorted(folders, reverse=True):
        assert_same_tree(mounted / name, folders[name])
    counters = mounted.counters()
    assert counters["read_errors"] == counters["digest_failures"] == counters["block_failures"] == 0
    mounted.unmount()


def leftovers(store: Path) -> list[Path]:
    """Unfinished folders that a writer left."""
    return [path for kind in ("versions", "nets") for path in (store / kind).glob(".tmp-*")]


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
