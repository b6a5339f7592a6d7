"""The text of the sample language model: docstrings of Python's own standard library.

The sources are read, never imported. Whole modules are held out, so that nothing in the
evaluation text comes from a file the model was trained on.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

HELD_OUT = frozenset(
    {
        "bisect",
        "calendar",
        "cmd",
        "configparser",
        "fractions",
        "graphlib",
        "mailbox",
        "queue",
        "shelve",
        "textwrap",
        "zipfile",
    }
)
"""Top-level modules whose docstrings are only ever used for evaluation."""

SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "distutils", "ensurepip"}
)
"""Add-ons, tests, and the packaging modules that newer Python versions no longer bring."""

MINIMUM_LENGTH = 24
SEPARATOR = "\n\n"

_ADDRESS = re.compile(r"://|www\.|\w@\w+\.\w")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Corpus:
    """Docstrings in source order: one list to train on, one to measure with."""

    training: list[str]
    evaluation: list[str]


def collect() -> Corpus:
    """Read every standard library source file and split its docstrings by top-level module."""
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    training: list[str] = []
    evaluation: list[str] = []
    # Held-out modules come last: a docstring that training also has is then left out of evaluation.
    files = sorted(_source_files(root), key=lambda file: (_is_held_out(file), file.as_posix()))
    for file in files:
        target = evaluation if _is_held_out(file) else training
        for text in _docstrings(root / file):
            if text not in seen:
                seen.add(text)
                target.append(text)
    return Corpus(training, evaluation)


def excerpt(docstrings: list[str], size: int, seed: int) -> list[str]:
    """Draw docstrings at random until their joined text is about `size` bytes."""
    drawn: list[str] = []
    length = 0
    for text in Random(seed).sample(docstrings, len(docstrings)):
        length += len(text) + len(SEPARATOR)
        if length > size:
            break
        drawn.append(text)
    return drawn


def _source_files(root: Path) -> list[Path]:
    """Python files of the standard library, relative to `root`, without tests and add-ons."""
    relative = (file.relative_to(root) for file in root.rglob("*.py"))
    return [file for file in relative if SKIPPED_FOLDERS.isdisjoint(file.parts)]


def _is_held_out(file: Path) -> bool:
    return Path(file.parts[0]).stem in HELD_OUT


def _docstrings(path: Path) -> list[str]:
    """Docstrings of one file, top to bottom; none where the file does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return []
    nodes = [node for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (_normalise(ast.get_docstring(node) or "") for node in nodes)
    return [text for text in texts if _is_usable(text)]


def _is_usable(text: str) -> bool:
    """Keep plain ASCII text of some length that names no web or mail address."""
    return len(text) >= MINIMUM_LENGTH and text.isascii() and not _ADDRESS.search(text)


def _normalise(text: str) -> str:
    """Drop blank lines and trailing space, so that a blank line always separates two docstrings."""
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)
