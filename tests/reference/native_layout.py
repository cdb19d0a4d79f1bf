# SPDX-License-Identifier: Apache-2.0
"""Trees of the native container: which files a version has and how they are cut into objects."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import zstandard

from .native_blocks import Reader, require
from .safetensors_io import MAX_HEADER_BYTES, FormatError

PLAIN, SAFETENSORS, EMPTY_FOLDER = range(3)
MAGIC = 0x314C4657  # "WFL1"
MAX_LAYOUT_BYTES = 1 << 30
MAX_WINDOW = 8 << 20
SUFFIX = ".safetensors"

# dtype -> bits an element: all of safetensors 0.8.
DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}


def element_bytes_of(dtype: str) -> int:
    bits = DTYPE_BITS[dtype]
    return 4 if bits >= 32 else 2 if bits == 16 else 1


@dataclass
class Object:
    """A tensor, or a whole plain file."""

    file: int
    offset: int  # in the file
    size: int
    width: int  # bytes an element
    name: str = ""


@dataclass
class File:
    path: str
    kind: int
    size: int
    header: bytes = b""


@dataclass
class Tree:
    """Files by path (bytewise) and their objects, in order."""

    files: list[File]
    objects: list[Object] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_paths(self.files)
        for number, file in enumerate(self.files):
            if file.kind == SAFETENSORS:
                require(file.path.endswith(SUFFIX), f"{file.path}: not the name of a safetensors file")
                for name, (dtype, _, begin, end) in sorted_records(parse_header(file.header, file.size)):
                    self.objects.append(
                        Object(number, len(file.header) + begin, end - begin, element_bytes_of(dtype), name))
            elif file.kind == PLAIN:
                self.objects.append(Object(number, 0, file.size, 1))
            else:
                require(file.size == 0, f"{file.path}: an empty folder of {file.size} bytes")

    def contents(self, objects: list[bytes]) -> dict[str, bytes]:
        """Path -> content of every file that is not a folder."""
        parts: list[list[bytes]] = [[file.header] for file in self.files]
        for place, content in zip(self.objects, objects, strict=True):
            parts[place.file].append(content)
        joined = [b"".join(part) for part in parts]
        assert all(len(content) == file.size for content, file in zip(joined, self.files, strict=True))
        return {f.path: content for f, content in zip(self.files, joined, strict=True) if f.kind != EMPTY_FOLDER}

    def split(self, contents: dict[str, bytes]) -> list[bytes]:
        """The objects' bytes."""
        return [contents[self.files[o.file].path][o.offset:o.offset + o.size] for o in self.objects]


def is_plain_path(path: str) -> bool:
    parts = path.split("/")
    if "\0" in path or len(os.fsencode(path)) > 4096 or len(parts) > 64:
        return False
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) <= 255 for part in parts)


def check_paths(files: Iterable[File]) -> None:
    last = None
    folders, paths = set(), set()
    for file in files:
        require(is_plain_path(file.path), f"bad path {file.path!r}")
        raw = os.fsencode(file.path)
        require(last is None or raw > last, f"{file.path!r} does not come after {last!r}")
        last = raw
        paths.add(file.path)
        parts = file.path.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    require(not folders & paths, f"files that are also folders: {sorted(folders & paths)}")


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict:
    require(len(dict(pairs)) == len(pairs), "a key stands twice")
    return dict(pairs)


def strict_json(text: bytes):
    def refuse(constant: str):
        raise FormatError(f"{constant} is not JSON")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=refuse)
    except ValueError as error:  # FormatError is one too
        raise FormatError(f"bad JSON: {error}") from error


Record = tuple[str, tuple[int, ...], int, int]  # dtype, shape, begin, end


def parse_header(raw: bytes, file_size: int) -> dict[str, Record]:
    """The tensors of a safetensors file that begins with `raw`, in the order of the header's text."""
    require(len(raw) >= 8, "shorter than 8 bytes")
    length = int.from_bytes(raw[:8], "little")
    require(length <= MAX_HEADER_BYTES and 8 + length == len(raw) <= file_size, f"header length {length}")
    require(raw[8:9] == b"{", "the header does not start with {")
    parsed = strict_json(raw[8:])
    metadata = parsed.pop("__metadata__", None) or {}
    require(isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()), "__metadata__")
    records = {name: _record(name, record) for name, record in parsed.items()}
    position = 0
    for name, (_, _, begin, end) in sorted_records(records):
        require(begin == position, f"{name!r} begins at {begin}, the tensor before it ends at {position}")
        position = end
    require(position == file_size - len(raw), f"the tensors end at {position}, the data area does not")
    return records


def sorted_records(records: dict[str, Record]) -> list[tuple[str, Record]]:
    """By data_offsets; tensors of no bytes at the same place stand as in the header's text."""
    return sorted(records.items(), key=lambda item: item[1][2:])


def _record(name: str, record) -> Record:
    try:
        dtype, shape, (begin, end) = record["dtype"], tuple(record["shape"]), record["data_offsets"]
        bits = DTYPE_BITS[dtype] * prod(shape)
        numbers = (*shape, begin, end)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"tensor {name!r}: bad record ({error})") from error
    require(all(type(number) is int and number >= 0 for number in numbers), f"{name!r}: bad number")
    require(bits % 8 == 0 and bits // 8 == end - begin, f"{name!r}: shape and data_offsets disagree")
    return dtype, shape, begin, end


def describe_file(path: str, content: bytes) -> File:
    """A file of a tree; a *.safetensors file whose header does not parse is a plain one."""
    if path.endswith(SUFFIX) and len(content) >= 8:
        header = content[:8 + int.from_bytes(content[:8], "little")]
        try:
            parse_header(header, len(content))
            return File(path, SAFETENSORS, len(content), header)
        except FormatError:
            pass
    return File(path, PLAIN, len(content))


def tree_of(contents: dict[str, bytes], empty_folders: Iterable[str] = ()) -> Tree:
    files = [describe_file(path, content) for path, content in contents.items()]
    files += [File(path, EMPTY_FOLDER, 0) for path in empty_folders]
    return Tree(sorted(files, key=lambda file: os.fsencode(file.path)))


def read_folder(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Contents by path, and the folders in which there is nothing.  Symlinks are followed."""
    contents, empty = {}, []
    for root, folders, names in os.walk(folder, followlinks=True):
        relative = Path(root).relative_to(folder)
        for name in names:
            contents[(relative / name).as_posix()] = (Path(root) / name).read_bytes()
        if not folders and not names and root != str(folder):
            empty.append(relative.as_posix())
    return contents, sorted(empty)


def parse_layout(frame: bytes) -> tuple[Tree, list[int | None]]:
    """A version's own tree, and by object its parent object."""
    reader = Reader(_content(frame))
    require(reader.number(4) == MAGIC, "no layout magic")
    files = []
    for _ in range(reader.varint()):
        try:
            path = reader.take(reader.varint()).decode("utf-8")
        except ValueError as error:
            raise FormatError(f"bad path: {error}") from error
        size, kind = reader.varint(), reader.number(1)
        require(kind <= EMPTY_FOLDER, f"{path}: no kind {kind}")
        files.append(File(path, kind, size, reader.take(reader.varint()) if kind == SAFETENSORS else b""))
    tree = Tree(files)
    require(reader.varint() == len(tree.objects), "the layout counts its objects differently")
    parents: list[int | None] = []
    last = -1
    for _ in tree.objects:
        code = reader.varint()
        if code == 0:
            parents.append(None)
            continue
        zigzag = code - 1
        last += 1 + ((zigzag >> 1) ^ -(zigzag & 1))
        require(last >= 0, "a parent object below 0")
        parents.append(last)
    reader.end("the layout")
    return tree, parents


def _content(frame: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        require(size <= MAX_LAYOUT_BYTES, "the layout does not say its size, or is too large")
        require(zstandard.get_frame_parameters(frame).window_size <= MAX_WINDOW, "the layout's window is too large")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"bad layout frame: {error}") from error
    require(len(content) == size, "the layout has another size than it says")
    return content


def check_parents(tree: Tree, parents: list[int | None], parent_tree: Tree | None) -> None:
    for number, (place, parent) in enumerate(zip(tree.objects, parents, strict=True)):
        if parent is None:
            continue
        require(parent_tree is not None and parent < len(parent_tree.objects), f"object {number}: no object {parent}")
        other = parent_tree.objects[parent]
        require((place.size, place.width) == (other.size, other.width), f"object {number} does not fit {parent}")
