"""Hostile PyTorch files: pickles of every operation that can call something, archives that lie, programs with payloads.

Payloads would create the marker folder beside the file; pickles are put together from their operations, so that nothing is run to
make them.
"""

import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.corpus.case import MARKER, Case, written

NAME = "x.pt"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def archive(records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED, top: str = "x/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        for name, data in records.items():
            out.writestr(zipfile.ZipInfo(top + name), data, compression)
    return buffer.getvalue()


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {name.partition("/")[2]: found.read(name) for name in found.namelist()}


SOUND = saved({"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)})


def with_pickle(data: bytes) -> bytes:
    """A sound archive with another pickle in it."""
    return archive(records_of(SOUND) | {"data.pkl": data})


def payloads(folder: Path) -> dict[str, bytes]:
    """A pickle for every operation that can call a function, which here would make the marker folder."""
    target = text(str(folder / MARKER))
    raw = str(folder / MARKER).encode()
    mkdir = b"cposix\nmkdir\n"
    return {
        "REDUCE": b"\x80\x02" + mkdir + target + b"\x85R.",
        "REDUCE of os": b"\x80\x02cos\nmkdir\n" + target + b"\x85R.",
        "REDUCE behind weights": b"\x80\x02}" + text("a") + mkdir + target + b"\x85Rs.",
        "INST": b"\x80\x02(" + target + b"iposix\nmkdir\n.",
        "INST of protocol 0": b"(S'" + raw + b"'\niposix\nmkdir\n.",
        "OBJ": b"\x80\x02(" + mkdir + target + b"o.",
        "NEWOBJ": b"\x80\x02" + mkdir + target + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + mkdir + target + b"\x85}\x92.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93" + target + b"\x85R.",
        "BUILD": b"\x80\x02ctorch\nTensor\n)\x81}" + text("__setstate__") + mkdir + b"s" + b"b" + target + b"b.",
        "EXT1": b"\x80\x02\x82\x01" + target + b"\x85R.",
        "EXT2": b"\x80\x02\x83\x01\x00" + target + b"\x85R.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00" + target + b"\x85R.",
        "PERSID": b"Pstorage\n.",
        "BINPERSID": b"\x80\x02" + mkdir + target + b"\x85RQ.",
        "eval": b"\x80\x02c__builtin__\neval\n" + text(f"__import__('os').mkdir({str(folder / MARKER)!r})") + b"\x85R.",
        "getattr": b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n" + text("__call__") + b"\x86R.",
        "a dotted name": b"\x80\x02ctorch\nserialization.os.mkdir\n" + target + b"\x85R.",
        "torch.load in torch.load": b"\x80\x02ctorch.serialization\nload\n" + target + b"\x85R.",
        "torch.hub": b"\x80\x02ctorch.hub\nload\n" + target + text("x") + b"\x86R.",
        "a rebuild function of another module": b"\x80\x02ctorch._utils\n_import_dotted_name\n" + text("os.mkdir") + b"\x85R"
        + target + b"\x85R.",
    }  # fmt: skip


def _payload(what: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return written(NAME, with_pickle(payloads(folder)[what]))(folder)

    return make


def _bare(what: str) -> Callable[[Path], Path]:
    """The same pickle without an archive, as before PyTorch 1.6."""

    def make(folder: Path) -> Path:
        return written(NAME, payloads(folder)[what])(folder)

    return make


def _laughs(levels: int, width: int = 10, end: bytes = b"NsK") -> bytes:
    """A tuple of tuples of tuples, each shared: width ** levels values in a few bytes, as the key of a dictionary."""
    data = b"\x80\x02}K\x01q\x00"
    for level in range(levels):
        data += b"(" + b"h" + bytes([level]) + (b"h" + bytes([level])) * (width - 1) + b"t" + b"q" + bytes([level + 1])
    return data + b"Ns."


class _Rebuilt:
    """Pickled as a tensor with any offset, shape and strides."""

    def __init__(self, storage: torch.Tensor, *shape: Any) -> None:
        self.arguments = (storage._typed_storage(), *shape, False, OrderedDict())

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


def tensor(offset: Any, size: Any, stride: Any) -> bytes:
    return saved({"w.weight": _Rebuilt(torch.zeros(4), offset, size, stride)})


def _growing() -> Iterator[tuple[str, bytes, str | None]]:
    """(name, pickle, words): a few bytes that ask for much."""
    yield (
        "a bytearray of 2^40",
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
        "bytearray",
    )
    encode = b"c_codecs\nencode\n"
    hexed = b"\x80\x02" + encode + text("a" * 1000) + text("latin1") + b"\x86Rq\x00"
    hexed += b"".join(encode + b"h\x00" + text("hex") + b"\x86Rq\x00" for _ in range(30))
    yield "a text encoded thirty times", hexed + b".", "encoded"
    yield "a billion laughs", _laughs(30), "without end"
    yield "a text of 4 GB", b"\x80\x02X\xff\xff\xff\xffabc.", "damaged"
    yield "a list of itself", b"\x80\x02]q\x00h\x00a.", "not a dictionary"
    yield "a dictionary of itself", b"\x80\x02}q\x00" + text("a") + b"h\x00s.", "no tensors"
    yield "a key of itself", b"\x80\x02}q\x00h\x00Ns.", "damaged"
    yield "tuples nested 100,000 deep", b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.", "without end"
    yield "lists nested 100,000 deep", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "not a dictionary"
    yield "a million nothings", b"\x80\x02" + b"N" * 500_000 + b"}.", "far more"
    yield "a place of 2^31", b"\x80\x02}r\xff\xff\xff\x7f.", "no tensors"
    yield (
        "a legacy tensor of 2^40",
        b"\x80\x02ctorch\nFloatTensor\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.",
        "Tensor",
    )


def _broken() -> Iterator[tuple[str, bytes, str | None]]:
    yield "nothing", b"", "damaged"
    yield "only a stop", b".", "damaged"
    yield "no stop", b"\x80\x02}", "damaged"
    yield "pop from nothing", b"\x80\x02000.", "POP"
    yield "items of nothing", b"\x80\x02aaa.", "damaged"
    yield "a mark that was never set", b"\x80\x02t.", "damaged"
    yield "get of what was never put", b"\x80\x02h\x07.", "damaged"
    yield "protocol 4", b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00}.", "protocol 4"
    yield "protocol 255", b"\x80\xff}.", "protocol 255"
    yield "a number of 6,000 digits", b"I" + b"9" * 6000 + b"\n.", "damaged"
    yield "a bad text", b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "damaged"
    yield "a float", b"\x80\x02G\x7f\xf0\x00\x00\x00\x00\x00\x00.", "float"
    yield "an operation that is none", b"\x80\x02\xfe.", "damaged"
    yield "a storage that is missing", _storage("99"), "damaged"
    yield "a storage above", _storage("../../x"), "damaged"
    yield "a storage called like an option", _storage("-1"), "damaged"


def _storage(key: str) -> bytes:
    """A tensor whose bytes lie in a record of that name."""
    persistent = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + b"K\x04tQ"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + b"K\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text("a") + rebuild + b"s."


def _shapes() -> Iterator[tuple[str, bytes, str | None]]:
    yield "a stride of 0 over 2^40", tensor(0, (1 << 20, 1 << 20), (0, 0)), "repeats its elements"
    yield "a negative stride", tensor(3, (4,), (-1,)), "x.pt"
    yield "a negative size", tensor(0, (-4,), (1,)), "damaged"
    yield "a negative offset", tensor(-4, (4,), (1,)), "damaged"
    yield "beyond the storage", tensor(0, (5,), (1,)), "reaches beyond"
    yield "an offset beyond the storage", tensor(1, (4,), (1,)), "reaches beyond"
    yield "an offset that wraps", tensor((1 << 62) - 1, (4,), (1,)), "x.pt"
    yield "a shape that wraps", tensor(0, (1 << 33, 1 << 33), (1 << 33, 1)), "x.pt"
    yield "2^62 by 0", tensor(0, (1 << 62, 0), (1, 1)), None
    yield "rank 5000", tensor(0, (1,) * 5000, (1,) * 5000), "x.pt"
    yield "fractions", tensor(0.5, (4,), (1,)), "damaged"
    yield "strides that overlap", tensor(0, (3, 2), (1, 1)), "x.pt"
    yield "a scalar", tensor(0, (), ()), None
    yield "a sparse tensor", saved({"a": torch.eye(3).to_sparse()}), "not supported"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that these go away
        yield "a quantized tensor", saved({"a": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}), "x.pt"
    yield "complex numbers", saved({"a": torch.zeros(2, dtype=torch.complex64)}), None
    yield "names that are numbers", saved({1: torch.zeros(2), (2, 3): torch.zeros(2), None: torch.zeros(1)}), None
    yield "two names that read the same", saved({1: torch.zeros(2), "1": torch.ones(2)}), "twice"
    yield "a name of 1 MB", saved({"n" * 1_000_000: torch.zeros(2)}), "characters"
    yield "a name with colours", saved({"\x1b[31mred.weight": torch.zeros(2, 2)}), None
    surrogate = records_of(saved({"@@@": torch.zeros(2)}))
    surrogate["data.pkl"] = surrogate["data.pkl"].replace(b"@@@", b"\xed\xa0\x80")
    yield "a lone surrogate as a name", archive(surrogate), "not valid text"
    yield "one tensor under 2,000 names", saved(dict.fromkeys(map(str, range(2_000)), torch.zeros(2))), None


def _archives() -> Iterator[tuple[str, bytes, str | None]]:
    good = records_of(SOUND)
    yield "records above the folder", archive(good | {"../../evil": b"x"}), "outside its folder"
    yield "a record at the root of the disk", archive(good | {"/etc/x": b"x"}), "outside its folder"
    yield "records laid out in another way", archive(good), None
    yield "big end first", archive(good | {"byteorder": b"big"}), "byte order"
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in [*good.items(), ("data.pkl", b"\x80\x02}.")]:
            out.writestr(zipfile.ZipInfo(f"x/{name}"), data)
    yield "two pickles", twice.getvalue(), "two records"
    elsewhere = io.BytesIO()
    with zipfile.ZipFile(elsewhere, "w") as out:
        for name, data in good.items():
            out.writestr(zipfile.ZipInfo(f"x/{name}"), data)
        out.writestr(zipfile.ZipInfo("y/data.pkl"), b"\x80\x02}.")
    yield "a pickle in another folder", elsewhere.getvalue(), "two records"
    yield "deflated", archive(good, zipfile.ZIP_DEFLATED), "compressed records"
    yield "a deflated bomb", archive(good | {"data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED), "compressed records"
    yield "bzip2", archive(good, zipfile.ZIP_BZIP2), "compressed records"
    yield "a pickle of 65 MB", archive(good | {"data.pkl": b"\x80\x02}." + bytes(65 << 20)}), "at most"
    yield "no pickle", archive({"readme.txt": b"x"}), "not one that torch.save wrote"
    yield "no record", archive({}), "not one that torch.save wrote"
    yield "a million records claimed", SOUND[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 1 << 30, 0, 0), "refused"
    yield "an offset beyond the end", _other_end(archive(good)), "damaged"
    yield "encrypted", _flagged(SOUND), "x.pt"
    yield (
        "a TorchScript program",
        archive({"code/__torch__.py": b"import os", "data.pkl": b"\x80\x02}.", "constants.pkl": b""}),
        ("TorchScript"),
    )
    yield "an exported program", archive({"models/model.json": b"{}", "archive_format": b"pt2"}), "exported program"
    yield "an older exported program", archive({"serialized_exported_program.json": b"{}"}), "exported program"
    yield "a spreadsheet", archive({"[Content_Types].xml": b"<x/>"}, top=""), "not one that torch.save wrote"
    yield "a Python archive", b"#!/usr/bin/env python\n" + archive({"__main__.py": b"import os"}, top=""), "torch.save wrote"


def _other_end(data: bytes) -> bytes:
    """A directory said to lie beyond the end."""
    return data[:-6] + b"\xff\xff\xff\x7f" + data[-2:]


def _flagged(data: bytes) -> bytes:
    """Every record marked as encrypted."""
    found = bytearray(data)
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        start = found.find(mark)
        while start >= 0:
            found[start + place] |= 1
            start = found.find(mark, start + 4)
    return bytes(found)


def _foreign() -> Iterator[tuple[str, bytes, str | None]]:
    yield "an old pickle", pickle.dumps({"a": 1}, 2), "before 1.6"
    yield "a web page", b"<!DOCTYPE html><html>", "web page"
    yield "a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"
    yield "a GGUF file", b"GGUF" + bytes(20), "GGUF"
    yield "an ONNX file", b"\x08\x07\x12\x07pytorch", "ONNX"
    yield "gzip", b"\x1f\x8b\x08" + bytes(20), "gzip"
    yield "zeros", bytes(1000), "not a PyTorch file"


def opcodes() -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Makers of one archive per way of calling something."""
    for what in payloads(Path("/")):
        yield what, _payload(what)


def cases() -> Iterator[Case]:
    for what in payloads(Path("/")):
        yield Case(f"pickle: {what}", _payload(what), "x.pt")
        yield Case(f"pickle: {what} without an archive", _bare(what), "x.pt")
    for name, data, says in (*_growing(), *_broken()):
        yield Case(f"pickle: {name}", written(NAME, with_pickle(data)), says)
    for name, data, says in (*_shapes(), *_archives(), *_foreign()):
        yield Case(f"PyTorch: {name}", written(NAME, data), says)
    step = max(1, len(SOUND) // 60)
    for keep in (*range(0, len(SOUND), step), len(SOUND) - 22, len(SOUND) - 1):
        yield Case(f"PyTorch: cut at byte {keep}", written(NAME, SOUND[:keep]), NAME)
    yield Case("PyTorch: whole", written(NAME, SOUND), None)
