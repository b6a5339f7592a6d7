"""What both samples share: seeding, versions, checksums and the metrics file."""

from __future__ import annotations

import hashlib
import json
import platform
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

METRICS_FILE = "metrics.json"
THREADS = 1
"""Fixed, because the order in which partial sums are added depends on it; the models are too
small to gain much from more, and several threads stall each other on a busy machine."""


def make_deterministic(seed: int) -> None:
    """Seed every generator and forbid operations whose result varies from run to run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)


def versions(*packages: str) -> dict[str, str]:
    """The Python version and those of the named packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` except the metrics themselves."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != METRICS_FILE)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics` with the checksums of the folder's files added."""
    text = json.dumps({**metrics, "sha256": checksums(folder)}, indent=2)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read what `write_metrics` wrote."""
    return json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))


def differences(folder: Path, measured: dict[str, float], tolerance: float) -> list[str]:
    """Say which files or figures no longer match the recorded metrics."""
    recorded = read_metrics(folder)
    found = checksums(folder)
    problems = [
        f"{folder.name}/{name}: checksum differs" for name in recorded["sha256"] if found.get(name) != recorded["sha256"][name]
    ]
    for name, value in measured.items():
        if abs(value - recorded[name]) > tolerance * abs(recorded[name]):
            problems.append(f"{folder.name}: {name} is {value:.6g}, recorded {recorded[name]:.6g}")
    return problems
