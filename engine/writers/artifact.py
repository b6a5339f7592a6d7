"""Writing an artifact so that it is either all there or not there at all.

free-space check -> private folder beside the target -> headers, then tensors at their places -> fsync -> reopen and
verify -> rename -> fsync of the folder. A folder of files is built there and renamed once. What a killed or paused writer left is
gone on with, layer by layer, or removed by the next writer in the same place (``workspace``, ``journal``).
"""

import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import DataError, InputError, OutputError
from engine.numerics import checksum
from engine.readers.header import read_header
from engine.records.model import ModelSummary
from engine.records.plan import FilePlan, LayerPlan
from engine.writers import layout
from engine.writers.journal import Finished, Journal
from engine.writers.workspace import Workspace, placed

FLUSH_EVERY = 64_000_000
"""Bytes after which the disk is asked to start writing, so that the final fsync has little left to do."""
READ = 1 << 22
"""Bytes that are read at once of what an earlier process wrote."""

_REPLACEABLE = re.compile(r"\.(safetensors|safetensors\.index\.json)$")


class Artifact:
    """A context manager around one output. Leave it without ``commit`` and nothing remains, unless its workspace is kept."""

    def __init__(
        self, target: str | os.PathLike[str], files: Sequence[FilePlan], *, overwrite: bool, workspace: Workspace
    ) -> None:
        """``workspace``: entered already, and left by whoever made it."""
        try:
            self.target = placed(target)
        except OSError as error:
            raise output_error(error, Path(target)) from None
        self._files = files
        self._overwrite = overwrite
        self._single = len(files) == 1 and files[0].path == ""
        self._places: dict[str, tuple[int, int, int]] = {}
        self._sums: dict[str, int] = {}
        self._adding = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._workspace, self._stack = workspace, contextlib.ExitStack()
        self._flusher: _Flusher | None = None
        self._journal: Journal | None = None
        self._open = False

    def __enter__(self) -> "Artifact":
        check_target(self.target, self._files, self._single, self._overwrite)
        try:
            space = self._workspace
            self._stack.callback(self._close)
            again = space.resumed and space.artifact.exists()
            _check_space(space.folder, sum(file.nbytes for file in self._files), self.target, space.artifact if again else None)
            if not self._single:
                space.artifact.mkdir(exist_ok=True)
            for file in self._files:
                self._create(file)
            self._journal = Journal(space.journal)
        except OSError as error:
            self._stack.close()
            raise output_error(error, self.target) from None
        except BaseException:
            self._stack.close()
            raise
        self._flusher = _Flusher(list(self._descriptors.values()))
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise output_error(error, self.target) from None

    def write(self, part: str, start: int, data: bytes | memoryview) -> None:
        """Put bytes at byte ``start`` of an output tensor, each byte once. Thread-safe. Raises OutputError."""
        if not self._open:
            raise OutputError(f"{self.target} is not being written any more.")
        descriptor, offset, _ = self._places[part]
        view = memoryview(data).cast("B")
        position = offset + start
        added = checksum.piece(start, view)
        with self._adding:
            self._sums[part] = (self._sums[part] + added) & checksum.MASK
        try:
            write_all(descriptor, view, position)
        except OSError as error:
            raise output_error(error, self.target) from None
        if self._flusher:
            self._flusher.wrote(len(memoryview(data).cast("B")))

    def checksum(self, part: str) -> int:
        """Of what was written of an output tensor so far."""
        return self._sums[part]

    def forget(self, line: LayerPlan) -> None:
        """A layer's parts are written again from the first byte."""
        self._sums.update({part.name: 0 for part in line.parts})

    # -- finished layers ---------------------------------------------------------------------------------------------------

    def finish(self, line: LayerPlan, report: Any, inputs: Mapping[str, int]) -> None:
        """Note that every part of a layer is written. ``report``: as JSON; ``inputs``: checksums of what was read for it."""
        if self._journal:
            self._journal.put(line.layer.name, {part.name: self._sums[part.name] for part in line.parts}, report, inputs)

    def finished(self, line: LayerPlan) -> Finished | None:
        """What an earlier process noted of a layer, if its bytes are there to the last one."""
        found = self._journal.finished.get(line.layer.name) if self._journal else None
        if found is None or found.sums.keys() != {part.name for part in line.parts}:
            return None
        try:
            if any(self._sum_on_disk(part) != value for part, value in found.sums.items()):
                return None
        except OSError:
            return None
        self._sums.update(found.sums)
        return found

    def _sum_on_disk(self, part: str) -> int:
        descriptor, offset, size = self._places[part]
        total, position = 0, 0
        while position < size:
            raw = _pread(descriptor, min(READ, size - position), offset + position)
            if not raw:
                return -1
            total, position = total + checksum.piece(position, raw), position + len(raw)
        return total & checksum.MASK

    # -- the end -----------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make everything durable and give it its name. Raises OutputError."""
        assert self._flusher
        try:
            self._flusher.stop()
            if self._flusher.error:
                raise self._flusher.error
            self._write_checksums()
            for path, descriptor in self._descriptors.items():
                os.fsync(descriptor)
                os.close(descriptor)
                self._descriptors[path] = -1
            self._verify()
            self._rename()
        except OSError as error:
            raise output_error(error, self.target) from None
        try:
            _sync_folder(self.target.absolute().parent)
        except OSError as error:
            what = f"{self.target} is written, but the disk did not confirm its name ({error.strerror})"
            raise OutputError(f"{what}; check it with `mono-quant validate`.", details=str(error)) from None

    def _path(self, file: FilePlan) -> Path:
        return self._workspace.artifact if self._single else self._workspace.artifact / file.path

    def _create(self, file: FilePlan) -> None:
        path = self._path(file)
        if file.source is not None:
            try:
                with open(file.source, "rb") as source:
                    source.read(1)
            except OSError as error:
                raise DataError(f"{file.source} cannot be read any more: {error.strerror}.") from None
            shutil.copyfile(file.source, path)
            with open(path, "rb+") as copied:
                os.fsync(copied.fileno())
            return
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
        self._descriptors[file.path] = descriptor
        os.truncate(descriptor, file.nbytes)
        write_all(descriptor, memoryview(file.head), 0)
        sizes = [*(offset for _, offset in file.offsets[1:]), file.nbytes]
        for (name, offset), end in zip(file.offsets, sizes, strict=False):
            self._places[name], self._sums[name] = (descriptor, offset, end - offset), 0

    def _write_checksums(self) -> None:
        for file in self._files:
            if file.source is None and file.offsets:
                text = "".join(f"{self._sums[name]:0{layout.DIGITS}x}" for name, _ in file.offsets)
                write_all(self._descriptors[file.path], memoryview(text.encode()), layout.checksums_at(file))

    def _verify(self) -> None:
        """The files on disk are what the plan said: sizes, and headers that read back."""
        for file in self._files:
            path, name = self._path(file), file.path or self.target.name
            if path.stat().st_size != file.nbytes:
                raise OutputError(f"{name} has {path.stat().st_size:,} bytes on disk instead of {file.nbytes:,}; try again.")
            if file.source is None and file.holds_tensors:
                try:
                    header = read_header(str(path))
                except InputError as error:
                    raise OutputError(f"What was written as {name} does not read back: {error}") from None
                if {tensor.name for tensor in header.tensors} != {name for name, _ in file.offsets}:
                    raise OutputError(f"What was written as {name} does not hold the planned tensors; try again.")

    def _rename(self) -> None:
        built, old, target = self._workspace.artifact, self._workspace.old, self.target
        if target.exists() and not self._overwrite and not (not self._single and _is_empty_folder(target)):
            raise OutputError(f"{target} came into being while the run went on; it is left as it is. Choose another name.")
        if self._single or not target.exists():
            os.replace(built, target)
        else:
            # A folder cannot be replaced in one step: the old one steps aside and comes back if that fails.
            os.rename(target, old)
            try:
                os.rename(built, target)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.rename(old, target)
                if not target.exists():
                    what = f"Cannot write {target}: {error.strerror}. What was there before is in {old}"
                    raise OutputError(f"{what}; move it back before anything else is written there.") from None
                raise
        self._open = False

    def _close(self) -> None:
        self._open = False
        if self._flusher:
            self._flusher.stop()
        if self._journal:
            self._journal.close()
        for path, descriptor in self._descriptors.items():
            if descriptor >= 0:
                os.close(descriptor)
                self._descriptors[path] = -1


class _Flusher:
    """Asks the disk to write while the work goes on."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors
        self._pending = 0
        self._wake = threading.Condition()
        self._stopped = False
        self.error: OSError | None = None
        """The first failure: the system tells it once, so that a later fsync may say that all is well."""
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def wrote(self, count: int) -> None:
        with self._wake:
            self._pending += count
            if self._pending >= FLUSH_EVERY:
                self._wake.notify()

    def stop(self) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopped or self._pending >= FLUSH_EVERY)
                if self._stopped:
                    return
                self._pending = 0
            for descriptor in self._descriptors:
                try:
                    getattr(os, "fdatasync", os.fsync)(descriptor)
                except OSError as error:
                    self.error = self.error or error


def check_not_input(target: str | os.PathLike[str], summary: ModelSummary) -> None:
    """The output must not be, contain, or lie inside what is being read. Raises OutputError."""
    output = Path(os.path.realpath(os.path.expanduser(os.fspath(target))))  # which does not stumble over loops of links
    opened = Path(summary.path).resolve()
    inputs = {opened, *(Path(file.path).resolve() for file in summary.files)}
    inside = summary.source == "folder" and opened in output.parents
    if output in inputs or inside or any(output in path.parents and output.exists() for path in inputs):
        raise OutputError(f"The output {target} is the input itself or overlaps it; choose another place.")


def check_target(target: Path, files: Sequence[FilePlan], single: bool, overwrite: bool) -> None:
    """Raise OutputError for a place where these files cannot go."""
    try:
        _check_target(target, files, single, overwrite)
    except OSError as error:  # a folder that may not be looked into
        raise output_error(error, target) from None


def _check_target(target: Path, files: Sequence[FilePlan], single: bool, overwrite: bool) -> None:
    parent = target.absolute().parent
    if not parent.is_dir():
        raise OutputError(f"The folder {parent} does not exist; create it first.")
    if single and target.is_dir():
        raise OutputError(f"{target} is a folder; this format is one file: name a .safetensors file.")
    if single and target.suffix != ".safetensors":
        raise OutputError(f"{target} could not be opened by that name; this format is one file: let it end in .safetensors.")
    if not single and target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; this format is a folder: name a folder.")
    if (target.exists() or target.is_symlink()) and not overwrite and not _is_empty_folder(target):
        raise OutputError(f"{target} already exists; choose another name or allow overwriting (--overwrite).")
    if not single and target.is_dir():
        foreign = _foreign(target, {file.path for file in files})
        if foreign:
            raise OutputError(f"{target} holds {foreign}, which overwriting would delete; choose another folder or move it.")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _foreign(folder: Path, planned: set[str]) -> str | None:
    """The first entry of a folder that is not one a model's export writes."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() or (entry.name not in planned and not _REPLACEABLE.search(entry.name)):
            return entry.name
    return None


def _check_space(folder: Path, needed: int, target: Path, begun: Path | None) -> None:
    """``begun``: what is there already of it."""
    free = shutil.disk_usage(folder).free
    if begun:
        written = [begun, *begun.iterdir()] if begun.is_dir() else [begun]
        needed -= sum(512 * getattr(path.stat(), "st_blocks", 0) for path in written)
    if free < needed:
        raise OutputError(f"{target} needs {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free.")


def write_all(descriptor: int, view: memoryview, position: int) -> None:
    """Every byte: the system may take fewer at once. Raises OSError."""
    while len(view):
        count = _pwrite(descriptor, view, position)
        view, position = view[count:], position + count


def _pwrite(descriptor: int, view: memoryview, position: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, view, position)
    with _SEEK:  # Windows has no positioned write
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, view)


def _pread(descriptor: int, size: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, position)
    with _SEEK:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)


_SEEK = threading.Lock()


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_error(error: OSError, target: Path) -> OutputError:
    reasons = {
        errno.ENOSPC: "the disk is full; free some space and try again",
        errno.EDQUOT: "your disk quota is used up",
        errno.EACCES: "you may not write there",
        errno.EPERM: "you may not write there",
        errno.EROFS: "the disk is read-only",
        errno.EFBIG: "the file system does not allow a file that large",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"Cannot write {target}: {reason}. Nothing was left behind.", details=str(error))
