"""Where runs are kept, and what lies in the folder of one."""

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_data_path

from engine.errors import EngineError, InputError, OutputError
from engine.records.calibration import Activity
from engine.records.codec import from_data, to_data
from engine.records.report import LayerReport
from engine.records.run import RunRecord

RECORD = "run.json"
"""The record once more beside what it describes, from which a lost ledger is made again."""
LAYERS = "layers.json"
ACTIVITIES = "activities.json"


def runs_folder() -> Path:
    """The user's runs: ``MONO_QUANT_RUNS`` if it is set, else in the user's data folder."""
    chosen = os.environ.get("MONO_QUANT_RUNS")
    return Path(chosen) if chosen else user_data_path("mono-quant", appauthor=False) / "runs"


def new_folder(root: Path, model_path: str) -> Path:
    """A folder of its own for a run, also when two processes start one in the same second. Raises OSError."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model_path).stem)[:80] or "model"
    return Path(tempfile.mkdtemp(prefix=f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}-", dir=root))


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_measurements(folder: Path, layers: list[LayerReport], activities: list[Activity]) -> None:
    """What was measured of each layer, and what its inputs were. Raises OutputError."""
    try:
        write_json(folder / LAYERS, [to_data(report) for report in layers])
        if activities:
            write_json(folder / ACTIVITIES, [to_data(activity) for activity in activities])
    except OSError as error:
        raise OutputError(f"The measurements of a run cannot be written to {folder}: {error.strerror}.") from None


def read_measurements(folder: Path) -> tuple[list[Any], list[Any]]:
    """Layers and activities as JSON; nothing of a run that measured nothing. Raises InputError."""
    return tuple(_read_list(folder / name) if (folder / name).exists() else [] for name in (LAYERS, ACTIVITIES))  # type: ignore[return-value]


def read_layers(folder: Path) -> list[LayerReport]:
    """Raises InputError."""
    return [from_data(LayerReport, item) for item in _read_list(folder / LAYERS)]


def read_activities(folder: Path) -> list[Activity]:
    """Empty where no data were used. Raises InputError."""
    path = folder / ACTIVITIES
    return [from_data(Activity, item) for item in _read_list(path)] if path.exists() else []


def _read_list(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The measurements in {path} cannot be read: {error}.") from None
    if not isinstance(found, list):
        raise InputError(f"{path} does not hold the measurements of a run.")
    return found


def save_record(record: RunRecord) -> None:
    """Beside its artifact. The ledger has it as well, so that a full disk is no reason to stop."""
    folder = Path(record.folder)
    data = to_data(record) | {"folder": folder.name, "artifact": relative(record.artifact, folder)}
    with contextlib.suppress(OSError):
        write_json(folder / RECORD, data)


def read_record(folder: Path) -> RunRecord | None:
    """The run that a folder holds, also as the window once wrote it (without an id); None where it holds none."""
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if "id" not in data:
            data = _from_window(data)
        data |= {"folder": str(folder), "artifact": str(folder / data["artifact"])}
        return from_data(RunRecord, data)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, EngineError):
        return None  # half-written by a crash, or of a later version


def _from_window(data: dict[str, Any]) -> dict[str, Any]:
    totals = data["totals"] or {}
    started, seconds = float(totals.get("started") or 0), float(totals.get("seconds") or 0)
    known = {key: data[key] for key in ("number", "name", "model_path", "artifact", "recipe", "totals")}
    return known | {
        "id": "", "state": "done", "data": data.get("data", ""), "created": started, "started": started, "seconds": seconds,
        "model_hash": totals.get("input_hash", ""), "versions": {"mono-quant": totals.get("engine_version", "")},
    }  # fmt: skip


def relative(path: str, folder: str | Path) -> str:
    """Inside the folder by name, so that all runs can be moved together; elsewhere as it is."""
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def bytes_in(folder: Path) -> int:
    """Sizes of all files below a folder; links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def clear_half_written(folder: Path) -> None:
    """Files and folders of a writer, by the name they have until they are whole; see ``writers.artifact``."""
    for left in folder.glob(".*.mono-quant-*.tmp"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def clear_abandoned(root: Path) -> None:
    """Remove folders that windows from before there was a ledger left without a result."""
    for mark in root.glob("*/owner.pid"):
        with contextlib.suppress(OSError, ValueError):
            if not (mark.parent / RECORD).exists() and not psutil.pid_exists(int(mark.read_text())):
                shutil.rmtree(mark.parent, ignore_errors=True)
