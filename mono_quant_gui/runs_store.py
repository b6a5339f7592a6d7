"""Runs on disk: each has a folder with its artifact, its totals and its layers, until it is exported or deleted."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.records.calibration import Activity
from engine.records.codec import from_data, to_data
from engine.records.report import LayerReport

OWNER = "owner.pid"
"""In a run's folder: the process that works on it."""
ACTIVITIES = "activities.json"


@dataclass(slots=True)
class Run:
    """One run. ``state`` is running, done, failed or cancelled; ``failures`` say why layers could not be quantized.

    ``data`` is what it was calibrated and measured on, in two words; ``activities`` are then what its layers were given.
    """

    number: int
    name: str
    model_path: str
    folder: Path
    artifact: Path
    recipe: str
    state: str = "running"
    call: int | None = None
    progress: dict[str, Any] | None = None
    reports: dict[str, LayerReport] = field(default_factory=dict)
    totals: dict[str, Any] | None = None
    message: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    data: str = ""
    activities: dict[str, Activity] = field(default_factory=dict)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """How the whole model does, where data were used; older runs have no such thing."""
        return self.totals.get("evaluation") if self.totals else None

    @property
    def warnings(self) -> list[str]:
        return list(self.totals.get("warnings") or []) if self.totals else []

    @property
    def has_outputs(self) -> bool:
        return any(report.output for report in self.reports.values())


def new_folder(root: Path, stem: str) -> Path:
    """A folder of its own for a run, also when two windows start one in the same second. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}-", dir=root))
    (folder / OWNER).write_text(str(os.getpid()))
    return folder


def save_run(run: Run) -> None:
    """Totals beside the artifact for the list of runs, and the layers in a file of their own. Raises OSError."""
    layers = json.dumps([to_data(report) for report in run.reports.values()])
    (run.folder / "layers.json").write_text(layers, encoding="utf-8")
    if run.activities:
        activities = json.dumps([to_data(activity) for activity in run.activities.values()])
        (run.folder / ACTIVITIES).write_text(activities, encoding="utf-8")
    summary = {
        "number": run.number, "name": run.name, "model_path": run.model_path, "artifact": run.artifact.name,
        "recipe": run.recipe, "totals": run.totals, "data": run.data,
    }  # fmt: skip
    (run.folder / "run.json").write_text(json.dumps(summary), encoding="utf-8")


def earlier_runs(root: Path, model_path: str) -> list[Run]:
    """Finished runs of a model that are still on disk, newest first, measurements not yet read."""
    found = []
    for file in root.glob("*/run.json"):
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            artifact = file.parent / data["artifact"]
            run = Run(data["number"], data["name"], data["model_path"], file.parent, artifact, data["recipe"])
            run.state, run.totals, run.data = "done", data["totals"], data.get("data", "")
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half-written by a crash, or by another version
        if run.model_path == model_path and run.artifact.exists():
            found.append(run)
    return sorted(found, key=lambda run: -run.number)


def load_run(run: Run) -> None:
    """Read the measurements of a run on disk. Raises OSError, ValueError or EngineError."""
    data = json.loads((run.folder / "layers.json").read_text(encoding="utf-8"))
    seen = run.folder / ACTIVITIES
    activities = json.loads(seen.read_text(encoding="utf-8")) if seen.exists() else []
    run.reports = {item["name"]: from_data(LayerReport, item) for item in data}
    run.activities = {item["name"]: from_data(Activity, item) for item in activities}


def clear_unfinished(root: Path) -> None:
    """Remove folders that a session which is gone left without a result."""
    for folder in root.glob("*/"):
        with contextlib.suppress(OSError, ValueError):
            owner = int((folder / OWNER).read_text())
            if not (folder / "run.json").exists() and not psutil.pid_exists(owner):
                shutil.rmtree(folder, ignore_errors=True)
