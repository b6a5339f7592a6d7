"""Files dropped on the window: models, recipes and data, told apart by their names and, for folders, by what lies in them."""

import os
from collections.abc import Sequence
from pathlib import Path

RECIPES = (".toml",)
MODELS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt2", ".safetensors.index.json", ".bin.index.json")
DATA = (
    ".npy", ".npz", ".txt", ".jsonl", ".json", ".csv", ".tsv", ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif",
)  # fmt: skip
LOOKED_AT = 500
"""Entries of a folder that are looked at; a folder of a million images must not hold the window up."""


def kind_of(path: str) -> str:
    """``model``, ``recipe``, ``data`` or nothing: where a file or folder belongs."""
    if os.path.isdir(path):
        return _folder(path)
    name = path.lower()
    for kind, endings in (("recipe", RECIPES), ("model", MODELS), ("data", DATA)):
        if name.endswith(endings):
            return kind
    return ""


def sort(paths: Sequence[str]) -> dict[str, str]:
    """One path by kind; more than one of the same kind, or one of no kind, and nothing is taken."""
    found: dict[str, str] = {}
    for path in paths:
        kind = kind_of(path)
        if not kind or kind in found:
            return {}
        found[kind] = path
    return found


def _folder(path: str) -> str:
    """A folder is a model unless it holds data and no weights."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                names.append(entry.name.lower())
                if len(names) == LOOKED_AT:
                    break
    except OSError:
        return "model"  # opening it says why it cannot be read
    if "config.json" in names or any(name.endswith(MODELS) for name in names):
        return "model"
    holds_data = any(name.endswith(DATA) for name in names) or (names and all(Path(path, name).is_dir() for name in names[:20]))
    return "data" if holds_data else "model"
