"""Hostile calibration data: arrays of objects, bombs, pictures that lie about their size, text that is none."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.corpus import pickles
from tests.corpus.case import Case, written
from tests.corpus.safetensors_files import entry, packed
from tests.corpus.special_files import SPECIAL


def npy(header: str | bytes, data: bytes = b"", version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    text += b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text) if length is None else length) + text + data


def _described(shape: str, dtype: str = "<f4", fortran: str = "False") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}}}"


def _arrays() -> Iterator[tuple[str, bytes, str | None]]:
    """(name, .npy file, words of the refusal)"""
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    yield "objects", objects.getvalue(), "array of object"
    payload = b"\x80\x02cos\nabort\n)R."
    yield "objects with a payload", npy(_described("(1,)", "|O"), payload), "array of object"
    yield "2^60 numbers", npy(_described("(1152921504606846976,)")), "cut short"
    yield "a shape that wraps", npy(_described("(4294967296, 4294967296)")), "cut short"
    yield "a negative size", npy(_described("(-1, 4)"), bytes(64)), "x.npy"
    yield "sizes that are fractions", npy(_described("(1.5, 4)"), bytes(64)), "x.npy"
    yield "rank 5000", npy(_described("(" + "1," * 5000 + ")"), bytes(64)), "x.npy"
    yield "texts", npy(_described("(1,)", "<U1000"), bytes(4000)), "only plain numbers"
    yield "structures", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)), "only plain numbers"
    yield "a header that calls", npy("__import__('os').system('x')"), "is not a NumPy array"
    yield "a header nested 50,000 deep", npy("(" * 50_000), "is not a NumPy array"
    yield "a header beyond the file", npy(_described("(1,)"), length=60_000), "is not a NumPy array"
    yield "version 99", npy(_described("(1,)"), bytes(4), b"\x63\x00"), "is not a NumPy array"
    yield "a wrong type", npy(_described("(1,)", "<f99"), bytes(4)), "is not a NumPy array"
    yield "another file", b"\x89PNG\r\n\x1a\n" + bytes(50), "is not a NumPy array"
    yield "nothing", b"", "is empty"
    yield "a single number", npy(_described("()"), bytes(4)), "single number"
    yield "no sample", npy(_described("(0, 64)")), "x.npy"
    yield "NaN", npy(_described("(2, 64)"), np.full(128, np.nan, "<f4").tobytes()), "NaN or Inf"


def _zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    return pickles.archive(records, compression, top="")


def _archives() -> Iterator[tuple[str, bytes, str | None]]:
    sound = npy(_described("(2, 64)"), bytes(512))
    yield "a bomb", _zipped({"x.npy": npy(_described("(40000000, 64)"), bytes(50_000_000))}, zipfile.ZIP_DEFLATED), "cut short"
    longer = npy(_described("(3, 64)"), bytes(768))
    yield "two arrays of different length", _zipped({"x.npy": sound, "y.npy": longer}), "samples"
    yield "a path upwards", _zipped({"../../x.npy": sound}), None
    yield "an object inside", _zipped({"x.npy": npy(_described("(1,)", "|O"), b"\x80\x02.")}), "array of object"
    yield "nothing inside", _zipped({}), "holds no arrays"
    yield "a text inside", _zipped({"x.npy": b"text"}), "is not a NumPy array"
    yield "no archive", b"PK\x03\x04" + bytes(40), "x.npz"
    damaged = bytearray(_zipped({"x.npy": sound}, zipfile.ZIP_DEFLATED))
    damaged[60:64] = b"\xff\xff\xff\xff"
    yield "a damaged record", bytes(damaged), "x.npz"


def picture(width: int, height: int, data: bytes | None = None) -> bytes:
    """A PNG that says that it has so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)) if data is None else data)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _pictures() -> Iterator[tuple[str, dict[str, bytes], str | None]]:
    """(name, files of a folder, words of the refusal)"""
    sound = picture(8, 8)
    yield "a bomb of 60,000 by 60,000", {"a.png": picture(60_000, 60_000, b"")}, "more pixels than are safe"
    yield "a size of 2^31", {"a.png": picture(0x7FFFFFFF, 0x7FFFFFFF, b"")}, "a.png"
    yield "no size", {"a.png": picture(0, 0, b"")}, "a.png"
    yield "cut short", {"a.png": sound[:45]}, "a.png"
    yield "a data bomb", {"a.png": picture(8, 8, bytes(100_000_000))}, None
    yield "a text", {"a.png": b"hello"}, "no image"
    yield "nothing", {"a.png": b""}, "no image"
    yield "an SVG that includes a file", {"a.png": b'<svg xmlns:xlink="x"><image xlink:href="/etc/passwd"/></svg>'}, "no image"
    yield "PostScript that deletes", {"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) deletefile\n"}, "no image"
    yield "a sound and a broken one", {"a.png": sound, "b.png": b"x"}, "b.png"
    yield "names with colours", {"\x1b[31m.png": sound}, None
    yield "of other sizes and colours", {"a.png": sound, "b.png": picture(300, 2), "c.png": picture(1, 1)}, None
    yield "one cut short among ten", {f"{n}.png": sound[:45] if n == 7 else sound for n in range(10)}, "7.png"
    yield "an empty folder", {}, "no images"
    yield "no pictures", {"a.txt": b"x", "b.exe": b"MZ"}, "no images"


def _texts() -> Iterator[tuple[str, str, bytes, str | None]]:
    """(name, file, content, words of the refusal)"""
    yield "a bad line 7", "x.jsonl", b'{"text": "abc"}\n' * 6 + b"{bad\n" + b'{"text": "abc"}\n', "line 7"
    yield "a line nested 100,000 deep", "x.jsonl", b"[" * 100_000 + b"\n", "line 1"
    yield "a lone surrogate", "x.jsonl", b'{"text": "\\ud800"}\n', "surrogate"
    yield "bytes that are no text", "x.txt", b"\xff\xfe\x80" * 50, "not UTF-8"
    yield "NUL characters", "x.txt", b"a\0b" * 50, "NUL"
    yield "a number of 6,000 digits", "x.jsonl", b'{"text": ' + b"9" * 6000 + b"}\n", "line 1"
    yield "a list nested 100,000 deep", "x.json", b"[" * 100_000, "not valid JSON"
    yield "a list of numbers", "x.json", b"[1, 2, 3]", "record 0"
    yield "a text that is a list", "x.json", json.dumps([{"text": ["a"]}]).encode(), "record 0"
    yield "nothing", "x.txt", b"", "is empty"
    yield "blank lines", "x.txt", b"\n" * 1000, "x.txt"
    yield "a bad line 9 among texts", "x.jsonl", b'{"text": "abc"}\n' * 8 + b'{"text": 5}\n', "line 9"
    yield "a lone surrogate in record 1", "x.json", b'[{"text": "a"}, {"text": "\\udfff"}]', "record 1"
    yield "a JSON line of 30 MB", "x.jsonl", b'{"text": "' + b"word " * 6_000_000 + b'"}\n', None
    yield "colours as keys", "x.jsonl", b'{"\\u001b[31m": 1}\n', "line 1"
    yield "a line of 30 MB", "x.txt", b"word " * 6_000_000, None


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _ids() -> Iterator[tuple[str, bytes, str | None]]:
    """(name, .npy file of token ids, words of the refusal); the model has 2,048 tokens and takes 64 at once."""
    yield "2048 of 2048", saved(np.full((2, 8), 2048)), "holds the token id 2048"
    yield "-1", saved(np.full((2, 8), -1)), "holds the token id -1"
    yield "2^62", saved(np.full((2, 8), 1 << 62)), "holds the token id 4611686018427387904"
    yield "2^64 - 1", saved(np.full((2, 8), (1 << 64) - 1, dtype=np.uint64)), "an array of uint64"
    yield "one bad among good ones", saved(np.concatenate([np.ones((5, 8), np.int64), np.full((1, 8), 9999)])), "Sample 5"
    yield "fractions", saved(np.full((2, 8), 0.5)), "the model takes integers"
    yield "rank 3", saved(np.ones((2, 8, 3), np.int64)), "in one row a sample"
    yield "a million in a row", saved(np.ones((1, 1_000_000), np.int64)), "the model takes 64"


def _tables() -> Iterator[tuple[str, bytes, str | None]]:
    """(name, .csv file, words of the refusal); the model takes two numbers."""
    yield "bytes that are no text", b"a,b\n\xff\xfe,1\n", "is not a table of text"
    yield "a field less in line 3", b"a,b\n1,2\n3\n", "line 3"
    yield "a word in line 3", b"a,b\n1,2\n3,x\n", "line 3"
    yield "a quotation of 30 MB", b'a,b\n"' + b"9" * 30_000_000 + b"\n", "after line 2"
    yield "infinity", b"a,b\n1e999,1\n", "line 2"
    yield "NaN", b"a,b\n1,nan\n", "line 2"
    yield "NUL characters", b"a,b\n1,\0\n", "x.csv"
    yield "a number of 6,000 digits", b"a,b\n1," + b"9" * 6000 + b"\n", "line 2"
    yield "a formula", b"a,b\n1,=cmd|' /C calc'!A0\n", "line 2"
    yield "colours in the heads", b"\x1b[31ma,b\n1,x\n", "line 2"
    yield "100,000 columns", b",".join(b"c%d" % n for n in range(100_000)) + b"\n", "x.csv"
    yield "nothing", b"", "is empty"


def _folder(files: dict[str, bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = folder / "pictures"
        made.mkdir()
        for name, data in files.items():
            (made / name).write_bytes(data)
        return made

    return make


def cases() -> Iterator[Case]:
    for name, data, says in _arrays():
        yield Case(f"array: {name}", written("x.npy", data), says, "data")
    for name, data, says in _archives():
        yield Case(f"archive of arrays: {name}", written("x.npz", data), says, "data")
    tokens = packed({"x": entry("I64", [1, 4], 0, 32)}, b"\xff" * 32)
    yield Case(
        "safetensors data: overlapping",
        written("x.safetensors", packed({"a": entry("F32", [4], 4, 20)}, bytes(20))),
        "gap",
        "data",
    )
    yield Case("safetensors data: ids of -1", written("x.safetensors", tokens), "the model takes 64", "data")
    for what, make in pickles.opcodes():
        yield Case(f"saved data: {what}", make, "x.pt", "data")
    for name, files, says in _pictures():
        yield Case(f"pictures: {name}", _folder(files), says, "data")
    for name, file, data, says in _texts():
        yield Case(f"text: {name}", written(file, data), says, "data")
    for name, data, says in _ids():
        yield Case(f"token ids: {name}", written("ids.npy", data), says, "data")
    for name, data, says in _tables():
        yield Case(f"table: {name}", written("x.csv", data), says, "data")
    for what, make in SPECIAL.items():
        for name in ("x.npy", "x.npz", "x.jsonl", "x.txt", "x.json", "x.csv", "x.png"):
            yield Case(f"data: {what}, called {name}", lambda folder, make=make, name=name: make(folder, name), name, "data")
