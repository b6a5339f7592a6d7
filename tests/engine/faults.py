"""What tests of faults share: a small model, and a disk whose calls fail one after the other."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import engine

SOAK = os.environ.get("MONO_QUANT_SOAK") == "1"
"""Whether the full counts are asked for (``make soak``)."""
CALLS = ("pwrite", "fsync", "fdatasync", "replace", "rename", "mkdir", "truncate", "write", "unlink", "rmdir", "stat", "open")
"""Calls of the system by which something is written or cleared away. ``open`` and ``stat`` of files that are built."""


def make_model(folder: Path, layers: int = 3) -> Path:
    """A folder with weights of a few layers, a norm, a configuration and a carried file."""
    folder.mkdir()
    random = torch.Generator().manual_seed(3)
    tensors = {f"layers.{n}.mlp.up_proj.weight": torch.randn(64, 128, generator=random).bfloat16() for n in range(layers)}
    tensors |= {"norm.weight": torch.ones(128).bfloat16()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "generation_config.json").write_text("{}")
    return folder


class Disk:
    """Counts calls that touch a folder; the ``fails``-th raises, and where ``onward`` is set all later ones as well."""

    def __init__(self, folder: Path, names: tuple[str, ...] = CALLS) -> None:
        self.folder, self.names = str(folder), names
        self.count, self.fails, self.onward, self.code = 0, 0, False, errno.EIO
        self.seen: list[str] = []
        self._held: set[int] = set()

    @contextmanager
    def failing(self, fails: int = 0, code: int = errno.EIO, onward: bool = False) -> Iterator["Disk"]:
        self.count, self.fails, self.code, self.onward, self.seen = 0, fails, code, onward, []
        real = {name: getattr(os, name) for name in self.names}
        try:
            for name, function in real.items():
                setattr(os, name, self._wrapped(name, function))
            yield self
        finally:
            for name, function in real.items():
                setattr(os, name, function)

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *more: Any, **named: Any) -> Any:
            if not self._is_ours(name, first, more):
                return function(first, *more, **named)
            self.count += 1
            self.seen.append(name)
            if self.count == self.fails or (self.onward and self.fails and self.count > self.fails):
                raise OSError(self.code, os.strerror(self.code))
            found = function(first, *more, **named)
            if name == "open":
                self._held.add(found)
            return found

        return call

    def _is_ours(self, name: str, first: Any, more: tuple[Any, ...]) -> bool:
        if isinstance(first, int):
            return first in self._held
        if name == "open" and not (more and more[0] & (os.O_WRONLY | os.O_RDWR)):
            return False
        return os.fspath(first).startswith(self.folder)


def contents(artifact: Path) -> dict[str, bytes] | None:
    """Files of an artifact by name; None where there is none."""
    if not artifact.exists():
        return None
    return {path.name: path.read_bytes() for path in ([artifact] if artifact.is_file() else sorted(artifact.iterdir()))}


def hidden(folder: Path) -> list[str]:
    """Temporary names in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def sentence(error: Exception) -> None:
    """One line for people, of the engine's own."""
    assert isinstance(error, engine.EngineError)
    assert "\n" not in str(error) and 10 < len(str(error)) < 500 and "Traceback" not in str(error)
