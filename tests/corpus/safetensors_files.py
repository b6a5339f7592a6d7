"""Hostile safetensors files, made byte by byte: https://github.com/huggingface/safetensors#format"""

import gzip
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.corpus.case import Case, written

NAME = "x.safetensors"


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of a header (JSON text or what becomes it) and data; ``length`` is what the file says of its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


PLAIN = entry("F32", [2, 2], 0, 16)
SOUND = packed({"a.weight": PLAIN, "b.weight": entry("BF16", [4], 16, 24)}, bytes(24))


def _headers() -> Iterator[tuple[str, bytes, str | None]]:
    """(name, whole file, words of the refusal)"""
    yield "length 0", packed(b"", b"", 0), "x.safetensors"
    yield "length 7", packed({"a": PLAIN}, bytes(16), 7), "x.safetensors"
    yield "length beyond the file", packed({"a": PLAIN}, bytes(16), 4096), "x.safetensors"
    yield "length 2^63", packed({"a": PLAIN}, bytes(16), 1 << 63), "not a safetensors file"
    yield "length 2^64 - 1", packed({"a": PLAIN}, bytes(16), (1 << 64) - 1), "not a safetensors file"
    yield "length of the data too", packed({"a": PLAIN}, bytes(16), len(json.dumps({"a": PLAIN})) + 16), "not valid JSON"
    yield "UTF-16", packed(json.dumps({"a": PLAIN}).encode("utf-16-le"), bytes(16)), "not"
    yield "UTF-16 with a mark", packed(json.dumps({"a": PLAIN}).encode("utf-16"), bytes(16)), "not a safetensors file"
    yield "UTF-8 with a mark", packed(b"\xef\xbb\xbf" + json.dumps({"a": PLAIN}).encode(), bytes(16)), "not a safetensors file"
    yield "bytes that are no text", packed(b'{"\xff\xfe\x80": 1}', bytes(16)), "not valid JSON"
    yield "lists nested 100,000 deep", packed(b'{"a":' + b"[" * 100_000, b""), "nested too deeply"
    yield "objects nested 100,000 deep", packed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deeply"
    yield "3,000,000 lists", packed(b'{"a":[' + b"[]," * 3_000_000 + b"0]}"), "much else"
    yield "lists nested 999 deep", packed(b'{"a":' + b"[" * 999 + b"]" * 999 + b"}"), "nested too deeply"
    yield "lists nested 99 deep", packed(b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"), "malformed"
    yield (
        "1,000,000 texts",
        packed(b'{"__metadata__":{' + b",".join(b'"%07x":""' % n for n in range(1_000_000)) + b"}}"),
        "much else",
    )
    yield "NUL padding", packed(json.dumps({"a": PLAIN}).encode() + bytes(64), bytes(16)), "not valid JSON"
    yield "padded with spaces", packed(json.dumps({"a": PLAIN}).encode() + b" " * 64, bytes(16)), None
    yield "a list", packed([PLAIN], bytes(16)), "not a safetensors file"
    yield "text after the header", packed(json.dumps({"a": PLAIN}).encode() + b"{}", bytes(16)), "not valid JSON"
    yield "NaN as a size", packed(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)), "lies about"
    yield (
        "Infinity as an offset",
        packed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}', bytes(4)),
        "lies about",
    )
    digits = b"9" * 6000
    yield (
        "a size of 6,000 digits",
        packed(b'{"a":{"dtype":"F32","shape":[' + digits + b'],"data_offsets":[0,4]}}', bytes(4)),
        "JSON",
    )
    yield "metadata that is no text", packed({"__metadata__": {"a": 1}, "a": PLAIN}, bytes(16)), "metadata"
    yield "metadata that is a list", packed({"__metadata__": ["a"], "a": PLAIN}, bytes(16)), "metadata"
    yield "no tensors", packed({}), None


def _layouts() -> Iterator[tuple[str, bytes, str | None]]:
    yield "overlap", packed({"a": PLAIN, "b": entry("F32", [2, 2], 8, 24)}, bytes(24)), "overlaps"
    yield "a hole", packed({"a": PLAIN, "b": entry("F32", [1], 20, 24)}, bytes(24)), "leaves a gap"
    yield "a hole at the start", packed({"a": entry("F32", [2, 2], 4, 20)}, bytes(20)), "leaves a gap"
    yield "reversed", packed({"a": entry("F32", [2, 2], 16, 0)}, bytes(16)), "lies about"
    yield "negative", packed({"a": entry("F32", [2, 2], -16, 0)}, bytes(16)), "lies about"
    yield "wrapping", packed({"a": entry("F32", [2, 2], (1 << 64) - 8, 8)}, bytes(16)), "lies about"
    yield "fractions", packed({"a": entry("F32", [2, 2], 0.0, 16.0)}, bytes(16)), "lies about"
    yield "texts", packed({"a": entry("F32", [2, 2], "0", "16")}, bytes(16)), "lies about"
    yield "booleans", packed({"a": entry("U8", [True], False, True)}, bytes(1)), "lies about"
    yield "three offsets", packed({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}, bytes(16)), "malformed"
    yield "20,000 names on the same bytes", packed({f"n{n}": PLAIN for n in range(20_000)}, bytes(16)), "overlaps"
    yield "20,000 empty tensors", packed({f"n{n}": entry("F32", [0], 0, 0) for n in range(20_000)}), None
    yield "bytes behind the last", packed({"a": PLAIN}, bytes(17)), "follow the last tensor"


def _shapes() -> Iterator[tuple[str, bytes, str | None]]:
    yield "a product over 2^64", packed({"a": entry("F32", [1 << 32, 1 << 32], 0, 0)}), "lies about"
    yield "a product that wraps to 16", packed({"a": entry("F32", [1 << 62, 1 << 62, 4], 0, 16)}, bytes(16)), "lies about"
    yield "rank 4096", packed({"a": entry("F32", [1] * 4096, 0, 4)}, bytes(4)), "dimensions"
    yield "rank 4096 of large sizes", packed({"a": entry("F32", [10**4000] * 4096, 0, 4)}, bytes(4)), "dimensions"
    yield "2^62 by 0", packed({"a.weight": entry("F32", [1 << 62, 0], 0, 0)}), "too large"
    yield "0 by 2^62", packed({"a.weight": entry("F32", [0, 1 << 62], 0, 0)}), "too large"
    yield "0 by 10^4000", packed({"a.weight": entry("F32", [0, 10**4000], 0, 0)}), "too large"
    yield "a shape that is text", packed({"a": {"dtype": "U8", "shape": "22", "data_offsets": [0, 4]}}, bytes(4)), "malformed"
    yield "a shape that is an object", packed({"a": {"dtype": "U8", "shape": {}, "data_offsets": [0, 1]}}, bytes(1)), "malformed"
    yield (
        "a type that is a list",
        packed({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "unknown type",
    )
    yield (
        "twice a shape",
        packed(b'{"a":{"dtype":"U8","shape":[4],"shape":[2,2],"data_offsets":[0,4]}}', bytes(4)),
        "appears twice",
    )
    yield "a type with colours", packed({"a": entry("\x1b[31mF32", [1], 0, 4)}, bytes(4)), "unknown type"
    yield "an entry that is a text", packed({"a": "dtype"}), "malformed"
    yield "an entry that is null", packed({"a": None}), "malformed"
    yield "4-bit floats that fill no byte", packed({"a": entry("F4", [3], 0, 1)}, bytes(1)), "lies about"
    for dtype, count, size in (
        ("F4", 4, 2), ("F6_E2M3", 4, 3), ("F6_E3M2", 4, 3), ("F8_E8M0", 2, 2), ("C64", 1, 8), ("C128", 1, 16), ("BOOL", 3, 3),
    ):  # fmt: skip
        yield f"the type {dtype}", packed({"a.weight": entry(dtype, [count, 1], 0, size)}, bytes(size)), None
    yield "booleans that are 255", packed({"a": entry("BOOL", [3], 0, 3)}, b"\xff" * 3), None


NAMES = {
    "a path upwards": "../../etc/passwd", "an absolute path": "/etc/passwd", "NUL": "a\0b", "colours": "\x1b[31mred\x1b[0m",
    "a title of the terminal": "\x1b]0;owned\x07", "right to left": "\u202egnp.exe\u202c", "HTML": "<img src=x onerror=alert(1)>",
    "a line break": "a\r\nb", "nothing": "", "a space": " ", "dots": "....", "an odd plane": "\U0010ffff",
    "a metadata look-alike": "__metadata__ ", "a format": "%s{0}{__class__}", "a clear screen": "\x9b2J",
}  # fmt: skip


def _names() -> Iterator[tuple[str, bytes, str | None]]:
    for what, name in NAMES.items():
        yield f"named {what}", packed({f"{name}.weight": PLAIN, name: entry("F32", [2], 16, 24)}, bytes(24)), None
    yield "a name of 1 MB", packed({"n" * 1_000_000: PLAIN}, bytes(16)), "characters"
    yield (
        "a lone surrogate",
        packed(b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4)),
        "not valid text",
    )
    yield "twice the same name", packed(b'{"a": {}, "a": {}}'), "appears twice"
    twice = json.dumps({"a": PLAIN})[1:-1]
    yield "twice the same tensor", packed(f"{{{twice},{twice}}}".encode(), bytes(16)), "appears twice"
    yield "twice the metadata", packed(b'{"__metadata__":{},"__metadata__":{"a":"b"}}'), "appears twice"
    many = ",".join(f'"n{n % 50_000}":{json.dumps(entry("U8", [0], 0, 0))}' for n in range(100_000))
    yield "50,000 names twice", packed(f"{{{many}}}".encode()), "appears twice"


def _foreign() -> Iterator[tuple[str, bytes, str | None]]:
    """Other files under this name."""
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    yield "a Git LFS pointer", lfs, "Git LFS pointer"
    yield "a web page", b"<!DOCTYPE html><html><head><title>404</title></head></html>", "web page"
    yield "a web page in small letters", b"<!doctype html>\n<html>Sign in</html>", "web page"
    yield "a web page after blank lines", b"\n\n  <HTML><body>Rate limit</body></HTML>", "web page"
    yield "an XML error", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"
    yield "a GGUF file", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60), "GGUF"
    yield "an ONNX file", b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x00" + bytes(32), "ONNX"
    yield "gzip", gzip.compress(SOUND, mtime=0), "gzip"
    yield "a JSON error", b'{"error": "Repository not found"}', "JSON"
    yield "a Python pickle", b"\x80\x04cos\nmkdir\n.", "pickle"
    yield "a 7-Zip archive", b"7z\xbc\xaf\x27\x1c" + bytes(40), "7-Zip"
    yield "a tar archive", b"model/".ljust(257, b"\0") + b"ustar\x0000" + bytes(249), "tar"
    yield "zeros", bytes(4096), "x.safetensors"
    yield "ones", b"\xff" * 4096, "not a safetensors file"


def _truncated(keep: int) -> Callable[[Path], Path]:
    return written(NAME, SOUND[:keep])


def cases() -> Iterator[Case]:
    for group in (_headers, _layouts, _shapes, _names, _foreign):
        for name, content, says in group():
            yield Case(f"safetensors: {name}", written(NAME, content), says)
    for keep in range(len(SOUND)):
        yield Case(f"safetensors: cut at byte {keep}", _truncated(keep), NAME)
    yield Case("safetensors: whole", written(NAME, SOUND), None)
