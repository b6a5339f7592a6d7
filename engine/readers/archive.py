"""The zip archive that torch.save writes: what may be in it is known before any of it is read."""

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import IO

from engine.errors import InputError
from engine.readers.header import identify

MAX_RECORDS = 300_000
"""Records whose names are listed; a model has about one a tensor."""
MAX_PICKLE = 64 << 20
"""Bytes of the pickle that names the tensors: some hundred a tensor."""


def records(path: str, file: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """The records of an archive of weights or of a pickled module, by name without the folder that all lie in.

    Raises InputError for whatever else the file is: cut short, a program, compressed, or saying something twice.
    """
    if not zipfile.is_zipfile(file):
        raise InputError(_no_archive(path, file))
    if _counted(file) > MAX_RECORDS:
        raise InputError(f"{path} has more than {MAX_RECORDS:,} records; it is refused.")
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, OSError) as error:
        # NotImplementedError: a zip feature unknown to zipfile
        raise InputError(f"{path} is damaged: {_reason(error)}.") from None
    if any(record.header_offset < 0 for record in listed):
        raise InputError(f"{path} is damaged: its list of records is no list.")
    found = {record.filename.partition("/")[2]: record for record in listed}
    _check_kind(path, found)
    if len(found) != len(listed) or len({record.filename.partition("/")[0] for record in listed}) != 1:
        raise InputError(f"{path} has two records of one name, or in two folders, which torch.save never writes; it is refused.")
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in listed):
        raise InputError(f"{path} has compressed records, which torch.save never writes; it is refused.")
    if any(".." in name.split("/") or name.startswith(("/", "\\")) for name in found):
        raise InputError(f"{path} has a record that lies outside its folder, which torch.save never writes; it is refused.")
    if found["data.pkl"].file_size > MAX_PICKLE:
        raise InputError(f"{path} has a pickle of {found['data.pkl'].file_size:,} bytes; at most {MAX_PICKLE:,} are read.")
    return found


@dataclass(frozen=True, slots=True)
class Storage:
    """Where the bytes of one storage lie in the file."""

    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The pickle of an archive, and its storages by the names of their records."""

    pickle: bytes
    storages: dict[str, Storage]

    def stand_in(self) -> tuple[bytes, dict[int, Storage]]:
        """A small archive of the same pickle and empty storages, and which storage is meant by the place of each.

        torch unpickles this one. So it sees the bytes that were looked at, and its guess where storages lie (as in its archives,
        one behind the other) is not believed.
        """
        buffer, places = io.BytesIO(), {}
        with zipfile.ZipFile(buffer, "w") as out:
            for name, data in (("data.pkl", self.pickle), ("version", b"3"), ("byteorder", b"little")):
                out.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
            for name, storage in self.storages.items():
                record = zipfile.ZipInfo(f"archive/{name}")
                out.writestr(record, b"")
                places[record.header_offset + _LOCAL.size + len(record.filename.encode())] = storage
        return buffer.getvalue(), places


def open_archive(path: str) -> Archive:
    """What weights need of an archive. Raises InputError."""
    try:
        with open(path, "rb") as file:
            found = records(path, file)
            order = _content(file, found["byteorder"]) if "byteorder" in found else b"little"
            storages = {name: _storage(path, file, record) for name, record in found.items() if name.startswith("data/")}
            pickle = _content(file, found["data.pkl"])
    except (zipfile.BadZipFile, ValueError, struct.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {_reason(error)}.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    if order != b"little":
        raise InputError(f"{path} was saved on a machine of another byte order, which is not read; save it again on this one.")
    return Archive(pickle, storages)


def _content(file: IO[bytes], record: zipfile.ZipInfo) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(record)


_LOCAL = struct.Struct("<4s5H3L2H")
"""What stands before a record: the last two numbers are the lengths of its name and of what follows that."""


def _storage(path: str, file: IO[bytes], record: zipfile.ZipInfo) -> Storage:
    file.seek(record.header_offset)
    mark, *_rest, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    start = record.header_offset + _LOCAL.size + name + extra
    if mark != b"PK\3\4" or start + record.file_size > os.fstat(file.fileno()).st_size:
        raise InputError(f"{path} is damaged: its record {record.filename} lies elsewhere than it says.")
    return Storage(start, record.file_size)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or "its list of records is no list"


def _check_kind(path: str, names: dict[str, zipfile.ZipInfo]) -> None:
    if any(name.startswith("code/") for name in names):
        raise InputError(f"{path} is a TorchScript program, which runs code when loaded; save its state_dict() instead.")
    if any(name.startswith(("models/", "serialized_exported_program")) for name in names):
        raise InputError(f"{path} is an exported program (.pt2), which runs code when loaded; save its state_dict instead.")
    if "data.pkl" not in names:
        raise InputError(f"{path} is a zip archive, but not one that torch.save wrote.")


def _no_archive(path: str, file: IO[bytes]) -> str:
    file.seek(0)
    start = file.read(4)
    if start[:2] == b"PK":
        return f"{path} is cut short: the zip archive has no directory at its end."
    if start[:1] == b"\x80":
        return f"{path} is in PyTorch's format from before 1.6; load it with torch and torch.save it again."
    return f"{path} is not a PyTorch file: it looks like {identify(path) or 'something unknown'}."


def _counted(file: IO[bytes]) -> int:
    """How many records the end of an archive claims, before they are listed; the larger of its two forms."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 42))
    end = file.read()
    place = end.rfind(b"PK\5\6")
    count = int.from_bytes(end[place + 10 : place + 12], "little") if place >= 0 else 0
    # The directory's size bounds what zipfile would list, whatever the count says: each record takes 46 bytes and its name.
    directory = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
    wide = end.rfind(b"PK\6\6")
    if directory == 0xFFFFFFFF and wide >= 0:
        directory = int.from_bytes(end[wide + 40 : wide + 48], "little")
    return max(count if count < 0xFFFF else 0, directory // 46)
