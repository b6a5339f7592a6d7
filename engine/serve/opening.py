"""What a path is, as the window asks: whether it runs by itself, whether it changed, how much room its disk has."""

import os
import shutil

from engine import api
from engine.errors import EngineError, InputError, TrustNeeded
from engine.records.model import ModelSummary


def is_program(path: str) -> bool:
    return path.lower().endswith(".pt2")


def runs_by_itself(summary: ModelSummary, path: str) -> bool:
    """Whether a forward comes with the model: a configuration that names its class, or a program."""
    return bool(summary.config and summary.config.get("architectures")) or summary.source not in (
        "safetensors",
        "state_dict",
        "folder",
    )


def open_weights(path: str) -> ModelSummary:
    """The layers from the files alone. A pickled module is no state dict: what it would run is asked for (TrustNeeded)."""
    try:
        return api.open_model(path)
    except InputError:
        if path.lower().endswith((".pt", ".pth")):
            try:
                api.load_runnable(path).close()
            except TrustNeeded:
                raise
            except EngineError:
                pass
        raise


def stat(path: str) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def free(folder: str) -> int | None:
    """Free bytes on the disk that holds ``folder`` or its nearest existing parent."""
    folder = os.path.abspath(os.path.expanduser(folder))
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def stamp(summary: ModelSummary) -> tuple[int, ...]:
    """Changes when a weight file, the configuration or the listing of the folder does."""
    paths = [summary.path, os.path.join(summary.path, "config.json"), *(file.path for file in summary.files)]
    stamp: list[int] = []
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            stamp += [0, 0, 0]
        else:
            stamp += [stat.st_ino, stat.st_size, stat.st_mtime_ns]
    return tuple(stamp)
