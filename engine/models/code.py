"""Python files that build networks: nothing of them runs before the user has agreed to these very bytes."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import psutil

from engine.errors import EngineError, InputError, TrustNeeded
from engine.readers.text import read_whole

_lock = threading.Lock()


MAX_CODE = 10_000_000
"""Bytes of one Python file."""


def read_bytes(path: str, most: int | None = None) -> bytes:
    """The whole of a regular file of at most ``most`` bytes (by default: of the memory that is free). Raises InputError."""
    most = psutil.virtual_memory().available // 2 if most is None else most
    return read_whole(path, most)


def require_trust(sha256: str, trusted: Collection[str], *, path: str, what: str) -> None:
    """Raises TrustNeeded unless this very hash was agreed to on this very call."""
    if sha256 not in {str(item).lower() for item in trusted}:
        raise TrustNeeded(
            f"Opening {path} runs code from it ({what}); agree to that first (SHA-256 {sha256[:12]}…).",
            path=path, sha256=sha256, what=what,
        )  # fmt: skip


class Code:
    """Python files read once: what is hashed is what runs, whatever happens to the files in between.

    ``files``: path below ``folder`` with ``/`` to the bytes. ``sha256`` covers them one after the other, sorted by path; with
    several files the paths and sizes are hashed too, so that bytes cannot move from one file to the next.
    """

    def __init__(self, folder: str, files: Mapping[str, bytes]) -> None:
        self.folder, self.files = folder, dict(sorted(files.items()))
        digest = hashlib.sha256()
        for name, data in self.files.items():
            if len(self.files) > 1:
                digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        self.sha256 = digest.hexdigest()

    @classmethod
    def of_file(cls, path: str) -> Code:
        """One file. Raises InputError."""
        folder, name = os.path.split(path)
        return cls(folder, {name: read_bytes(path, MAX_CODE)})

    @classmethod
    def of_folder(cls, folder: str) -> Code:
        """All Python files in and under a folder. Raises InputError."""
        files = {}
        for where, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(where, name)
                    files[os.path.relpath(path, folder).replace(os.sep, "/")] = read_bytes(path, MAX_CODE)
        return cls(folder, files)

    def load(self, name: str) -> ModuleType:
        """Run one file as a module of a package that has all the others, for its relative imports. The caller checked the trust.

        Raises InputError for whatever goes wrong in it.
        """
        package = f"_mono_quant_trusted_{self.sha256[:32]}"
        with _lock:
            if package not in sys.modules:
                finder = _Finder(package, self)
                sys.meta_path.insert(0, finder)
        dotted = name.removesuffix(".py").replace("/", ".")
        path = os.path.join(self.folder, name)
        try:
            return importlib.import_module(f"{package}.{dotted}")
        except EngineError:
            raise
        except ModuleNotFoundError as error:
            raise InputError(f"{path} imports {error.name}, which is not installed and not in the file.") from error
        except (Exception, SystemExit) as error:
            raise InputError(f"{path} cannot be run: {type(error).__name__}: {first_line(error)}") from error


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves modules of one synthetic package from memory."""

    def __init__(self, package: str, code: Code) -> None:
        self._package, self._code = package, code

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        name = self._file(fullname)
        if name is None:
            return None
        is_package = not name.endswith(".py") or name.endswith("__init__.py")
        origin = os.path.join(self._code.folder, name) if name else self._code.folder
        spec = importlib.util.spec_from_loader(fullname, self, origin=origin, is_package=is_package)
        if spec is not None and name.endswith(".py"):
            spec.has_location = True  # gives the module its __file__, which transformers looks for
        return spec

    def exec_module(self, module: ModuleType) -> None:
        name = self._file(module.__name__)
        if name and name.endswith(".py"):
            source = compile(self._code.files[name], os.path.join(self._code.folder, name), "exec", dont_inherit=True)
            exec(source, module.__dict__)  # bytes that were hashed and agreed to

    def _file(self, fullname: str) -> str | None:
        """The file of a module; "" or a folder for a package without code; None where there is none."""
        if fullname == self._package:
            return ""
        if not fullname.startswith(f"{self._package}."):
            return None
        inner = fullname[len(self._package) + 1 :].replace(".", "/")
        for name in (f"{inner}.py", f"{inner}/__init__.py"):
            if name in self._code.files:
                return name
        return inner if any(name.startswith(f"{inner}/") for name in self._code.files) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, with a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0].rstrip('.')}." if lines else "no reason given."
