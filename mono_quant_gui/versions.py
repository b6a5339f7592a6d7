"""What this runs on: versions and licences, for the About page and for reports of defects. Nothing is imported to find out."""

import platform
from functools import cache
from importlib import metadata

from PySide6.QtCore import qVersion

from engine import __version__

PACKAGES = (
    "PySide6-Essentials", "torch", "numpy", "numba", "safetensors", "matplotlib", "pydantic", "transformers", "tokenizers",
)  # fmt: skip
"""Packages whose version decides what works; those that are not installed are left out."""


@cache
def versions() -> tuple[tuple[str, str, str], ...]:
    """(name, version, licence) of Mono Quant, Python, Qt and the packages in use."""
    own = ("Mono Quant", __version__, "MIT")
    python = ("Python", platform.python_version(), "PSF-2.0")
    qt = ("Qt", qVersion(), "LGPL-3.0-only")
    return (own, python, qt, *(found for name in PACKAGES if (found := _package(name))))


def system() -> str:
    """The operating system and processor in a few words."""
    return f"{platform.platform(terse=True)} {platform.machine()}".strip()


def text() -> str:
    """Every version, one a line, as it belongs below a report of a defect."""
    return "\n".join([*(f"{name} {version}" for name, version, _ in versions()), system()])


def _package(name: str) -> tuple[str, str, str] | None:
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    return name.removesuffix("-Essentials"), str(found["Version"]), _licence(found)


def _licence(found) -> str:
    """The licence in a word or two: packages say it in three places, some with its whole text."""
    expression = str(found.get("License-Expression") or "").strip()
    if expression:
        return expression
    classifiers = [
        line.rpartition("::")[2].strip() for line in found.get_all("Classifier") or () if line.startswith("License ::")
    ]
    said = str(found.get("License") or "").strip().splitlines()
    if said and len(said[0]) < 60:
        return said[0]
    return classifiers[-1] if classifiers else ""
