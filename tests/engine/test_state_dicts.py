"""What torch.save wrote, or what pretends to: pickles byte by byte, archives record by record."""

import errno
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import engine
from engine import readers
from engine.readers import archive
from tests.engine.test_prequantized import group, packed
from tests.engine.test_readers import refusal


def pickled(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("x/data.pkl", data)
        out.writestr("x/version", "3")
    return path


DEEP = b"K\x01" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(18)) + b"q\x20"
"""A tuple of a tuple twice, eighteen times: 2 ** 19 - 1 values in 110 bytes."""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x02\x8c\x01a.", "protocol above 2"),  # SHORT_BINUNICODE
        (b"\x80\x02]K\x01e.", "its pickle is damaged"),  # APPENDS without a mark
        (b"\x80\x02}" + DEEP + b"K\x01sh\x20K\x01s.", "keys nested without end"),
        (b"\x80\x02F1.5\n.", "its pickle is damaged"),  # a number as text, which torch does not read
        (b"\x80\x02cos\nsystem\n.", "is a pickled object (os.system)"),
        (b"\x80\x02cdecimal\nDecimal\n.", "is a pickled object (decimal.Decimal)"),
        (b"\x80\x02K\x01.", "holds a int, not a dictionary of tensors"),
    ],
)
def test_pickles_that_are_no_weights(data: bytes, words: str, tmp_path: Path) -> None:
    message = refusal(pickled(tmp_path / "x.pt", data))
    assert words in message and str(tmp_path / "x.pt") in message and "weights_only" not in message


def test_a_single_tensor_is_called_by_its_file(tmp_path: Path) -> None:
    torch.save(torch.arange(6.0).reshape(2, 3), tmp_path / "head.pt")
    (loaded,) = engine.load_tensors(tmp_path / "head.pt").items()
    assert loaded[0] == "head" and torch.equal(loaded[1], torch.arange(6.0).reshape(2, 3))


def test_a_tensor_without_data_is_told(tmp_path: Path) -> None:
    torch.save({"w.weight": torch.zeros(2, 2, device="meta")}, tmp_path / "x.pt")
    assert "does not say where w.weight lies" in refusal(tmp_path / "x.pt")


def test_quantized_modules_saved_by_torch_say_what_they_are(tmp_path: Path) -> None:
    """Codes of 0 are the least level, -8, under a scale of 1."""
    import json

    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": group(["Linear"])}}
    torch.save(packed(4) | {"mono_quant.metadata": {"quantization_config": json.dumps(config)}}, tmp_path / "x.pt")
    model = engine.open_model(tmp_path / "x.pt")
    assert [layer.scheme for layer in model.layers] == ["int4:channel"]
    assert torch.equal(engine.load_tensors(model)["l.weight"], torch.full((64, 128), -8.0))


def wide(path: Path, directory: int | None = None) -> Path:
    """An archive whose end is written in 64 bits, as of more than 4 GB; ``directory``: what it says of its list's size."""
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.arange(4.0).reshape(2, 2)}, buffer)
    found = zipfile.ZipFile(buffer)
    limit, zipfile.ZIP_FILECOUNT_LIMIT = zipfile.ZIP_FILECOUNT_LIMIT, 0
    try:
        with zipfile.ZipFile(path, "w") as out:
            for record in found.infolist():
                out.writestr(zipfile.ZipInfo(record.filename), found.read(record))
    finally:
        zipfile.ZIP_FILECOUNT_LIMIT = limit
    raw = bytearray(path.read_bytes())
    end, wider = raw.rfind(b"PK\5\6"), raw.rfind(b"PK\6\6")
    raw[end + 12 : end + 16] = b"\xff" * 4  # the size is in the other form
    if directory is not None:
        raw[wider + 40 : wider + 48] = directory.to_bytes(8, "little")
    path.write_bytes(raw)
    return path


def test_archives_of_the_wide_form(tmp_path: Path) -> None:
    loaded = engine.load_tensors(wide(tmp_path / "x.pt"))
    assert torch.equal(loaded["a.weight"], torch.arange(4.0).reshape(2, 2))
    assert "more than 300,000 records" in refusal(wide(tmp_path / "y.pt", 46 * 300_001))


def test_an_archive_that_cannot_be_read_any_more(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(archive, "_content", fail)
    assert "Cannot read" in (message := refusal(digits / "model.pt")) and "Input/output error" in message


def test_a_file_that_goes_away_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.unknown").write_bytes(b"text\n")
    look = readers.identify

    def gone(path: str) -> str | None:
        os.unlink(path)
        return look(path)

    monkeypatch.setattr(readers, "identify", gone)
    assert "x.unknown: No such file or directory" in refusal(tmp_path / "x.unknown")


@pytest.mark.parametrize(
    ("content", "words"), [(b"text\n", "it looks like a text file"), (b"\xff\xfe", "its name has none of the known endings")]
)
def test_a_file_of_no_known_name_is_told_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.unknown").write_bytes(content)
    assert words in (message := refusal(tmp_path / "x.unknown")) and ".safetensors, .pt" in message


def damaged(path: Path, change: Callable[[bytearray, int, int], None]) -> Path:
    """A saved tensor, changed: given its bytes, where the list of records begins, and where its second record stands there."""
    torch.save({"a.weight": torch.zeros(4, 4)}, path)
    raw = bytearray(path.read_bytes())
    first = raw.find(b"PK\1\2")
    change(raw, first, raw.rfind(b"PK\1\2", 0, raw.find(b"/data/0", first)))
    path.write_bytes(raw)
    return path


def list_is_none(raw: bytearray, first: int, _: int) -> None:
    raw[first : first + 4] = b"none"


def pickle_differs(raw: bytearray, _first: int, _: int) -> None:
    place = raw.find(b"a.weight")
    raw[place : place + 1] = b"b"


def storage_is_elsewhere(raw: bytearray, _first: int, storage: int) -> None:
    raw[storage + 42 : storage + 46] = (1).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (list_is_none, "is damaged: Bad magic number"), (pickle_differs, "is damaged: Bad CRC-32"),
        (storage_is_elsewhere, "lies elsewhere than it says"),
    ],
)  # fmt: skip
def test_archives_that_contradict_themselves(change: Callable, words: str, tmp_path: Path) -> None:
    assert words in refusal(damaged(tmp_path / "x.pt", change))
