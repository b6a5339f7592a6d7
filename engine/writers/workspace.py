"""The private folder beside a target in which an artifact is built, and what is known of it when its process was killed.

    .NAME.mono-quant-PID-HEX.tmp/
        artifact         the file or folder that will get the name
        journal          which layers of it are finished: one line each
        calibrated/      what calibration found, layer by layer
        key              what is built: another model, recipe or version cannot go on with it
        run              folder of the run in the ledger; while that is there, only a run to the same target clears this away
        old              the folder that is being replaced, between two renames

The process id in the name (0 of a paused run) and a lock say whether its process lives. What belongs to none is gone on with, or
removed, by the next writer in the same place.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from engine.errors import Paused

_NAME = re.compile(r"^\.(?P<name>.*)\.mono-quant-(?P<pid>\d+)-[0-9a-f]+(?P<old>\.old)?\.tmp$")

NOBODY = 0
"""The process id in the name of a workspace that was left on purpose."""


def _name(target: Path, pid: int) -> str:
    return f".{target.name}.mono-quant-{pid}-{secrets.token_hex(4)}.tmp"


def placed(output: str | os.PathLike[str]) -> Path:
    """Where an output is written: beside what a link points to, so that renaming stays within one disk. Raises OSError."""
    target = Path(os.path.expanduser(os.fspath(output)))
    try:
        return target.resolve() if target.is_symlink() else target
    except RuntimeError:  # a loop of links, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def _lives(found: re.Match[str]) -> bool:
    """Whether the process that a workspace belongs to is at it."""
    pid = int(found["pid"])
    if pid == os.getpid():
        return found.string in _OPEN
    return pid != NOBODY and psutil.pid_exists(pid)


_OPEN: set[str] = set()
"""Names of workspaces in use in this process: others with its number are what could not be removed, or of an earlier process."""


class Workspace:
    """A context manager around one such folder; it is removed in the end, unless by ``Paused``. Raises OSError."""

    def __init__(self, target: Path, *, key: str = "", resume: bool = False, run: str = "") -> None:
        """``target``: see ``placed``. ``resume``: go on with what was left of it under the same key, if anything was."""
        self.target, self.resumed = target, False
        self._key, self._resume, self._run = key, resume, run
        self._lock: int | None = None
        self.folder = target.absolute().parent / _name(target, os.getpid())

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def old(self) -> Path:
        return self.folder / "old"

    @property
    def calibrated(self) -> Path:
        """Made when it is first asked for."""
        made = self.folder / "calibrated"
        made.mkdir(mode=0o700, exist_ok=True)
        return made

    def __enter__(self) -> "Workspace":
        _OPEN.add(self.folder.name)
        clear(self.target.absolute().parent, self.target.name, self._adopt if self._resume else None)
        try:
            if not self.resumed:
                self.folder.mkdir(mode=0o700)
                self._lock = _lock(self.folder)
                (self.folder / "key").write_text(self._key, encoding="utf-8")
            if self._run:
                (self.folder / "run").write_text(self._run, encoding="utf-8")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            if isinstance(error, Paused):
                os.rename(self.folder, self.folder.with_name(_name(self.target, NOBODY)))
            else:
                _put_back(self.folder, self.target)
                # First, so that whoever finds the rest knows that nobody wants it.
                (self.folder / "run").unlink(missing_ok=True)
                shutil.rmtree(self.folder, ignore_errors=True)
        _OPEN.discard(self.folder.name)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _adopt(self, left: Path) -> bool:
        """Take over what was left, if it is of the same work; its lock is ours already."""
        with contextlib.suppress(OSError, ValueError):
            if not self.resumed and (left / "key").read_text(encoding="utf-8") == self._key:
                os.rename(left, self.folder)
                self._lock = _lock(self.folder)
                self.resumed = True
        return self.resumed and not left.exists()


def clear(folder: Path, name: str = "", adopt: Callable[[Path], bool] | None = None) -> None:
    """Clear away what writers left whose process is gone.

    ``name``: of the target that is going to be written; of others, only what no run in a ledger answers for. ``adopt`` is offered
    each of them first.
    """
    for entry in os.listdir(folder):
        found = _NAME.match(entry)
        if not found or _lives(found):
            continue
        left = folder / entry
        with contextlib.suppress(OSError):
            lock = _lock(left)
            try:
                if left.is_dir():
                    _put_back(left, folder / found["name"])
                if found["old"] and not (folder / found["name"]).exists():  # as earlier versions called it
                    os.rename(left, folder / found["name"])
                    continue
                if found["name"] != name and _is_of_a_run(left):
                    continue
                if lock is not None:
                    os.close(lock)
                    lock = None
                if not (found["name"] == name and adopt and adopt(left)):
                    remove(left)
            finally:
                if lock is not None:
                    os.close(lock)


def discard(target: Path) -> None:
    """Remove what was left of one target whose process is gone: its run is not wanted any more."""
    folder = target.absolute().parent
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            found = _NAME.match(entry)
            if found and found["name"] == target.name and not _lives(found):
                _put_back(folder / entry, folder / target.name)
                remove(folder / entry)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _put_back(left: Path, target: Path) -> None:
    """Ended between the two renames: the folder that was to be replaced comes back. After them it is not wanted any more."""
    if not (left / "old").exists():
        return
    if target.exists():
        shutil.rmtree(left / "old", ignore_errors=True)
    else:
        os.rename(left / "old", target)


def _is_of_a_run(left: Path) -> bool:
    try:
        return os.path.isdir((left / "run").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def _lock(path: Path) -> int | None:
    """Hold a path as long as the descriptor is open; raises OSError if another process holds it, on any machine."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be removed anyway
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks: the process id alone must do
        pass
    return descriptor
