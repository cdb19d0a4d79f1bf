# SPDX-License-Identifier: Apache-2.0
"""Decoder of native stores: rebuilds any version's folder, checking every digest on the way.

    python tests/reference/native.py STORE                 the versions and nets of a store
    python tests/reference/native.py STORE VERSION OUT     writes the version's folder to OUT

Written from docs/FORMAT.md alone.  Whole versions are held in memory: for tests, not for models.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a file: find the package that it belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "reference"

import xxhash

from .native_blocks import decode_block, require
from .native_index import Index, parse_index
from .native_layout import Tree, check_parents, is_plain_path, parse_layout, read_folder, strict_json, tree_of
from .safetensors_io import FormatError, read_header

KINDS = ("reference", "full", "delta", "net")
BLOCK_BYTES = (1 << 16, 1 << 18, 1 << 20)
DIGEST = re.compile(r"[0-9a-f]{32}")
COMMON = {"format", "version", "features", "optional", "kind", "name", "parent", "root", "created", "tool", "message",
          "files", "digest"}
CODED = {"block_bytes", "changed", "layout", "index", "payload"}
LAST_MEMBER = b',"digest":"'
BASE = "base"


def xxh3_128(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def parse_manifest(text: bytes) -> dict:
    """The members of a manifest, checked."""
    manifest = strict_json(text)
    require(isinstance(manifest, dict) and manifest.get("format") == "weightfs-delta", "no manifest")
    require(manifest.get("version") == 1, f"format version {manifest.get('version')}")
    require(manifest.get("features") == [], f"unknown features {manifest.get('features')}")
    kind = manifest.get("kind")
    require(kind in KINDS, f"unknown kind {kind!r}")
    wanted = COMMON | ({"path"} if kind == "reference" else CODED) | ({"result"} if kind == "net" else set())
    require(wanted <= manifest.keys(), f"missing: {sorted(wanted - manifest.keys())}")
    foreign = ({"path", "result"} | CODED) & (manifest.keys() - wanted)
    require(not foreign, f"a {kind} has no {sorted(foreign)}")
    require((manifest["parent"] is None) <= (kind in ("reference", "full")), f"a {kind} without a parent")
    require((manifest["parent"] is None) == (manifest["root"] == ""), "parent and root")
    require(kind != "full" or manifest["layout"] is not None, "a full version without a layout")
    end = text.rfind(LAST_MEMBER)
    require(end >= 0 and text[end:] == LAST_MEMBER + manifest["digest"].encode() + b'"}\n', "the digest is not last")
    require(xxh3_128(text[:end]) == manifest["digest"], "the manifest does not have its digest")
    if kind != "reference":
        require(manifest["block_bytes"] in BLOCK_BYTES, f"blocks of {manifest['block_bytes']} bytes")
    paths = [file["path"] for file in manifest["files"]]
    require(all(map(is_plain_path, paths)), "bad path in files")
    require([p.encode() for p in paths] == sorted({p.encode() for p in paths}), "files do not ascend")
    return manifest


@dataclass
class Version:
    """A folder of a store, opened."""

    folder: Path
    manifest: dict = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> "Version":
        try:
            return Version(folder, parse_manifest((folder / "manifest.json").read_bytes()))
        except (FormatError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{folder}: {error!r}") from error

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def link(self) -> dict:
        return {"name": self.manifest["name"], "digest": self.manifest["digest"]}

    def check_payload_files(self) -> None:
        """They are ordinary safetensors files, and the manifest's offsets are those of their headers."""
        for number, file in enumerate(self.manifest.get("payload", [])):
            require(file["file"] != "manifest.json" and "/" not in file["file"], f"payload file {file['file']}")
            header = read_header(self.folder / file["file"])
            require((self.folder / file["file"]).stat().st_size == file["bytes"], f"{file['file']}: size")
            places = {name: (header.data_start + begin, end - begin)
                      for name, (dtype, shape, begin, end) in header.records.items()
                      if dtype == "U8" and len(shape) == 1}
            require(places.get("blocks") == (file["at"], file["blocks"]), f"{file['file']}: blocks")
            for name in ("index", "layout"):
                member = self.manifest[name] if number == 0 else None
                place = (member["at"], member["bytes"]) if member else None
                require(places.get(name) == place, f"{file['file']}: {name}")

    def _section(self, name: str) -> bytes:
        place = self.manifest[name]
        with open(self.folder / self.manifest["payload"][0]["file"], "rb") as file:
            file.seek(place["at"])
            data = file.read(place["bytes"])
        require(len(data) == place["bytes"], f"{self.folder}: {name} ends too early")
        hashed = data[:place["head"]] if name == "index" else data
        require(xxhash.xxh3_64_hexdigest(hashed) == place["digest"], f"{self.folder}: {name} is damaged")
        return data

    def layout(self, parent: Tree | None) -> tuple[Tree, list[int | None]]:
        if self.manifest["layout"] is not None:
            tree, parents = parse_layout(self._section("layout"))
            check_parents(tree, parents, parent)
        else:
            require(parent is not None, f"{self.folder}: no layout and no parent")
            tree, parents = parent, list(range(len(parent.objects)))
        named = {file["path"]: file["bytes"] for file in self.manifest["files"]}
        require(named == {file.path: file.size for file in tree.files if file.kind != 2}, "layout and files disagree")
        return tree, parents

    def index(self, tree: Tree) -> Index:
        blocks = sum(file["blocks"] for file in self.manifest["payload"])
        index = parse_index(self._section("index"), self.manifest["index"]["head"], tree, self.manifest["block_bytes"],
                            blocks)
        require(index.changed == self.manifest["changed"], f"{self.folder}: index and manifest count changes apart")
        return index

    def payload(self, offset: int, length: int) -> bytes:
        """A stretch of the blocks address space; blocks do not straddle files."""
        for file in self.manifest["payload"]:
            if offset + length <= file["blocks"]:
                with open(self.folder / file["file"], "rb") as stream:
                    stream.seek(file["at"] + offset)
                    return stream.read(length)
            require(offset >= file["blocks"], "a block straddles two files")
            offset -= file["blocks"]
        raise FormatError("a block lies behind the last payload file")

    def check_files(self, contents: dict[str, bytes]) -> None:
        found = [{"path": path, "bytes": len(content), "digest": xxh3_128(content)}
                 for path, content in contents.items()]
        wanted = [{key: file[key] for key in ("path", "bytes", "digest")} for file in self.manifest["files"]]
        require(sorted(found, key=lambda file: file["path"].encode()) == wanted, f"{self.folder}: not the files it names")


@dataclass
class State:
    """A version's tree and the bytes of its objects."""

    tree: Tree
    objects: list[bytes]

    def contents(self) -> dict[str, bytes]:
        return self.tree.contents(self.objects)


def apply(version: Version, parent: State | None) -> State:
    """What a version, full or on top of its parent, or a net on top of the version that it starts from, holds."""
    tree, parents = version.layout(parent.tree if parent else None)
    index, size = version.index(tree), version.manifest["block_bytes"]
    objects = []
    for number, (place, source) in enumerate(zip(tree.objects, parents, strict=True)):
        require(parent is not None or source is None, f"object {number} of a full version has a parent object")
        old = parent.objects[source] if source is not None else None
        parts = []
        for begin in range(0, place.size, size):
            end = min(begin + size, place.size)
            block = index.blocks.get((number, begin // size))
            before = old[begin:end] if old is not None else None
            if block is None:
                require(before is not None, f"object {number} has neither a parent nor block {begin // size}")
                parts.append(before)
                continue
            payload = version.payload(block.offset, block.length)
            part = decode_block(block.params, block.coding, payload, before, end - begin)
            require(xxhash.xxh3_64_intdigest(part) == block.digest, f"block {begin // size} of object {number}: digest")
            parts.append(part)
        objects.append(b"".join(parts))
    state = State(tree, objects)
    version.check_files(state.contents())
    return state


class Store:
    """A store, opened: every folder in it is read and every link checked."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        described = strict_json((self.path / "store.json").read_bytes())
        require((described.get("format"), described.get("version")) == ("weightfs-store", 1), f"{path}: no store")
        require(DIGEST.fullmatch(described["id"]) is not None, f"{path}: bad id")
        self.versions = {version.manifest["name"]: version for version in self._open("versions")}
        self.nets = self._open("nets")
        self._states: dict[str, State] = {}
        require(BASE in self.versions, f"{path}: no base")
        root = self.versions[BASE]
        require(root.kind in ("reference", "full") and root.manifest["parent"] is None, "the base has a parent")
        require(root.manifest["root"] == "", "the base has a root")
        for version in [*self.versions.values(), *self.nets]:
            self._check_links(version)
            if self._is_whole(version):
                version.check_payload_files()

    def _is_whole(self, version: Version) -> bool:
        """False for what is left of a version whose parent was pruned: a manifest, to which nets lead."""
        return version.kind in ("reference", "full") or version.manifest["parent"]["name"] in self.versions

    def _open(self, kind: str) -> list[Version]:
        folder, opened = self.path / kind, []
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if entry.name.startswith(".tmp-") or not (entry / "manifest.json").exists():
                continue  # unfinished
            version = Version.open(entry)
            manifest = version.manifest
            name = manifest["name"]
            if kind == "nets":
                name = f"{manifest['result']['name']}.from.{manifest['parent']['name']}"
            require(entry.name == name and (version.kind == "net") == (kind == "nets"), f"{entry}: holds {name}")
            opened.append(version)
        return opened

    def _check_links(self, version: Version) -> None:
        if version is not self.versions[BASE]:
            require(version.manifest["root"] == self.versions[BASE].manifest["digest"], f"{version.folder}: other root")
        for link in (version.manifest["parent"], version.manifest.get("result")):
            if link and link["name"] in self.versions:
                digest = self.versions[link["name"]].manifest["digest"]
                require(link["digest"] == digest, f"{version.folder}: {link['name']} is another one")

    def ways(self, name: str) -> list[Version]:
        """What leads to a version: its own folder unless the parent is gone, and nets."""
        version = self.versions[name]
        nets = [net for net in self.nets if net.manifest["result"] == version.link]
        return [way for way in [version, *nets] if self._is_whole(way)]

    def state(self, name: str) -> State:
        if name not in self.versions:
            raise FormatError(f"there is no version {name}")
        if name not in self._states:
            ways = self.ways(name)
            require(ways != [], f"{name}: its parent is gone and no net leads to it")
            self._states[name] = self.follow(ways[0])
        return self._states[name]

    def follow(self, version: Version) -> State:
        """The state to which a version's folder, or a net, leads."""
        if version.kind == "reference":
            return _reference(version)
        if version.kind == "full":
            return apply(version, None)
        state = apply(version, self.state(version.manifest["parent"]["name"]))
        if version.kind == "net":
            self.versions[version.manifest["result"]["name"]].check_files(state.contents())
        return state

    def write(self, name: str, folder: str | Path) -> Path:
        """A version's folder, byte for byte."""
        folder, state = Path(folder), self.state(name)
        folder.mkdir(parents=True)
        for file in state.tree.files:
            (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            if file.kind == 2:
                (folder / file.path).mkdir()
        for path, content in state.contents().items():
            (folder / path).write_bytes(content)
        return folder


def _reference(version: Version) -> State:
    """The files that the manifest names, and the folder's empty folders."""
    contents, empty = read_folder(Path(version.manifest["path"]))
    contents = {file["path"]: contents.get(file["path"], b"") for file in version.manifest["files"]}
    version.check_files(contents)
    tree = tree_of(contents, empty)
    return State(tree, tree.split(contents))


def decode(store: str | Path, folder: str | Path) -> dict[str, Path]:
    """Every version's folder below `folder`; every net is followed too."""
    opened = Store(store)
    folders = {name: opened.write(name, Path(folder) / name) for name in opened.versions}
    for name in opened.versions:
        for way in opened.ways(name):
            require(opened.follow(way).contents() == opened.state(name).contents(), f"{way.folder} leads elsewhere")
    return folders


def main() -> int:
    if len(sys.argv) not in (2, 4):
        print(__doc__, file=sys.stderr)
        return 2
    store = Store(sys.argv[1])
    if len(sys.argv) == 4:
        store.write(sys.argv[2], sys.argv[3])
        return 0
    for version in [*store.versions.values(), *store.nets]:
        parent = version.manifest["parent"]
        print(f"{version.folder.name}  {version.kind}  on {parent['name'] if parent else 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
