"""The header of a safetensors file: eight length bytes, JSON, tensors. Nothing in it is believed unchecked.

Format: https://github.com/huggingface/safetensors#format
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from engine.readers.source import file_info
from engine.readers.text import parse_json
from engine.records.dtypes import BITS, overflows
from engine.records.model import FileInfo, TensorInfo

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_HEADER = 100_000_000
"""The reference implementation's own limit."""
MUCH = 2_000_000
"""Brackets and quotes that metadata may have."""
MAX_NAME = 4096
"""Characters of a tensor's name: every name stands in tables and messages."""
MAX_RANK = 64
"""Dimensions that NumPy and torch can hold."""


@dataclass(frozen=True, slots=True)
class Header:
    file: FileInfo
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def read_header(path: str, file_number: int = 0) -> Header:
    """Tensors and metadata of one safetensors file. Raises InputError saying what is wrong with it."""
    info = file_info(path)
    raw = _header_bytes(info)
    _check_plausible(path, raw)
    try:
        entries: dict[str, Any] = parse_json(raw)  # it begins with a brace
        if _may_repeat(raw, entries):
            parse_json(raw, _no_duplicates)  # three times slower
    except ValueError as error:
        raise InputError(f"{path}: the header is not valid JSON ({error}); the file is damaged.") from None
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError(f"{path}: the header's metadata must map names to text.")
    check_names(path, entries)
    base = 8 + len(raw)
    tensors = tuple(_tensor(path, name, entry, base, file_number) for name, entry in entries.items())
    _check_layout(path, tensors, base, info.nbytes)
    return Header(info, tensors, metadata)


def check_names(path: str, names: Iterable[str]) -> None:
    """Raises InputError for what no table or message could show."""
    names = list(names)
    longest = max(map(len, names), default=0)
    if longest > MAX_NAME:
        raise InputError(f"{path}: a tensor's name has {longest:,} characters; at most {MAX_NAME:,} are read.")
    if _SURROGATE.search("".join(names)):
        raise InputError(f"{path}: a tensor's name is not valid text; the file is damaged.")


def check_rank(path: str, name: str, rank: int) -> None:
    """Raises InputError for more dimensions than arithmetic has."""
    if rank > MAX_RANK:
        raise InputError(f"{path}: tensor {name!r} has {rank:,} dimensions, and {MAX_RANK} are the most there can be.")


def _header_bytes(info: FileInfo) -> bytes:
    if info.nbytes == 0:
        raise InputError(f"{info.path} is empty (0 bytes).")
    with open(info.path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(info.nbytes - 8, MAX_HEADER):
            raise InputError(_what_it_is(info.path) or _too_long(info, length))
        raw = file.read(length)
    if not raw.lstrip()[:1] == b"{":
        raise InputError(_what_it_is(info.path) or f"{info.path}: not a safetensors file.")
    return raw


def _too_long(info: FileInfo, length: int) -> str:
    if info.nbytes < 8 or length > MAX_HEADER:
        return f"{info.path}: not a safetensors file."
    return f"{info.path} is cut short: its header claims {length:,} bytes and the file has {info.nbytes:,}."


def _what_it_is(path: str) -> str | None:
    kind = identify(path)
    return f"{path} is not a safetensors file: it looks like {kind}." if kind else None


SIGNATURES = (
    (b"PK\x03\x04", "a zip archive (PyTorch's .pt format?)"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras?)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer; the real file was not downloaded (git lfs pull)"),
    (b"<?xml", "an XML text, as servers send for an error"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"\x08", "an ONNX model or other protobuf file"),
    (b"\x80", "a Python pickle"),
    (b"{", "a JSON text"),
)


def identify(path: str) -> str | None:
    """What a file looks like by its first bytes, in words; None when it is not recognized."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page"
    if start[257:262] == b"ustar":
        return "a tar archive"
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return kind
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return "a text file" if text.isprintable() or "\n" in text else None


def _check_plausible(path: str, raw: bytes) -> None:
    """Many small things in 100 MB of JSON would take gigabytes: a tensor has three brackets and ten quotes, metadata a few."""
    tensors = raw.count(b'"shape"')
    if raw.count(b"[") + raw.count(b"{") > 3 * tensors + MUCH or raw.count(b'"') > 10 * tensors + MUCH:
        raise InputError(f"{path}: the header holds much else than tensors; the file is damaged.")


def _may_repeat(raw: bytes, entries: dict[str, Any]) -> bool:
    """Whether a key may stand in the header twice: its count is off."""
    tensors = len(entries) - ("__metadata__" in entries)
    keys = (b'"data_offsets"', b'"dtype"', b'"shape"')
    return any(raw.count(key) != tensors for key in keys) or raw.count(b'"__metadata__"') > 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        (twice, _), *_rest = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:80]!r} appears twice")
    return entries


def _tensor(path: str, name: str, entry: Any, base: int, file_number: int) -> TensorInfo:
    dtype: Any = None
    shape: Any = None
    begin: Any = None
    end: Any = None
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        shape = None
    if not isinstance(shape, list):
        raise InputError(f"{path}: the header's entry for {name!r} is malformed; the file is damaged.") from None
    if len(shape) > MAX_RANK:
        check_rank(path, name, len(shape))
    shape = tuple(shape)
    whole, count = type(begin) is int and type(end) is int and 0 <= begin <= end, 1
    for size in shape:
        if type(size) is not int or size < 0:
            whole = False
            break
        count *= size
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise InputError(f"{path}: tensor {name!r} has the unknown type {str(dtype)[:40]!r}.")
    if not whole or end - begin != (count * bits + 7) // 8:
        said = f"shape {str(list(shape))[:80]} of {dtype} does not fill bytes {str(begin)[:20]} to {str(end)[:20]}"
        raise InputError(f"{path}: the header lies about {name!r}: {said}.")
    if begin == end and overflows(dtype, shape):
        raise InputError(f"{path}: the header lies about {name!r}: without its 0 its shape is too large for any machine.")
    return TensorInfo(name, dtype, shape, end - begin, file_number, base + begin)


def _check_layout(path: str, tensors: tuple[TensorInfo, ...], base: int, size: int) -> None:
    """Tensors must follow each other without a gap or overlap and end with the file."""
    position = base
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != position:
            raise InputError(f"{path}: the header lies: {tensor.name!r} overlaps another tensor or leaves a gap.")
        position += tensor.nbytes
    if position > size:
        raise InputError(f"{path} is cut short: its tensors need {position:,} bytes and the file has {size:,}.")
    if position < size:
        raise InputError(f"{path}: {size - position:,} bytes follow the last tensor; the file is damaged.")


def inside(folder: str, name: str) -> str:
    """The path of a file that an index names; it must be a plain relative path that stays in the folder."""
    unsafe = os.path.isabs(name) or "\\" in name or ":" in name or ".." in name.split("/") or not name
    if unsafe:
        raise InputError(f"{folder}: the index names {name!r}, which is outside the folder.")
    return os.path.join(folder, name)
