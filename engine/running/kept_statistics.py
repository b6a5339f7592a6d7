"""Statistics of earlier calibrations, kept so that a second recipe on the same data starts at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import platformdirs

from engine.algorithms import chain
from engine.errors import InputError, OutputError
from engine.identity import files as identity
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.running.gathering import calibrate
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.calibration.data import Data
    from engine.calibration.statistics import Statistics
    from engine.models.base import RunnableModel


CACHED = 1 << 30
"""Statistics up to this size are kept for later recipes; ``CACHE`` is what all of them may take."""


CACHE = 4 << 30


def source_of(plan: Plan, model: RunnableModel | None, data: Data | None, monitor: Monitor) -> RunnableModel | Statistics:
    """The running model; or statistics of the float model, where nothing depends on layers that are quantized already."""
    from engine.calibration import statistics
    from engine.schemes.grouping import Matrix

    assert model is not None and data is not None
    steps = [step.algorithm for line in plan.layers if line.algorithm for step in chain(line.algorithm).steps]
    if plan.recipe.sequential and any(algorithm.data and algorithm.stage != "transform" for algorithm in steps):
        return model
    second = any(algorithm.second for algorithm in steps)
    layers = [line.layer for line in plan.layers if not line.kept]
    if second and sum(4 * Matrix.of(layer).slices * Matrix.of(layer).cols ** 2 for layer in layers) > CACHED:
        return model
    words = f"{identity(model.summary)} {data.hash} {plan.recipe.observer} {second} {statistics.VERSION} {VERSION}"
    words += fingerprint(model, data)
    path = os.path.join(cache_folder(), f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.safetensors")
    if os.path.exists(path):
        with contextlib.suppress(InputError):
            os.utime(path)
            return statistics.load(path)
    try:
        os.makedirs(cache_folder(), exist_ok=True)
        calibrate(model, data, path, monitor, observers=(plan.recipe.observer,), second=second, overwrite=True)
        _prune(cache_folder())
        return statistics.load(path)
    except (OSError, OutputError):  # a cache that cannot be written is no reason to stop
        return model


def fingerprint(model: RunnableModel, data: Data) -> str:
    """What the forward makes of the first batch: code and configuration count as well as weights."""
    import torch

    from engine.calibration.units import call
    from engine.models.state import running

    found = hashlib.sha256()
    with running(model.module), torch.no_grad():
        for name, tensor in named_tensors(call(model, next(iter(data.batches())))):
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def cache_folder() -> str:
    """Where statistics of earlier calibrations are kept."""
    return os.path.join(platformdirs.user_cache_dir("mono-quant"), "statistics")


def _prune(folder: str) -> None:
    """Remove the statistics that were not used for longest, until the rest is small enough."""
    files = sorted((entry for entry in os.scandir(folder) if entry.is_file()), key=lambda entry: -entry.stat().st_mtime)
    total = 0
    for number, entry in enumerate(files):
        total += entry.stat().st_size
        if total > CACHE and number:
            with contextlib.suppress(OSError):  # another process may have been here first
                os.unlink(entry.path)


def named_tensors(output: Any) -> list[tuple[str, Any]]:
    import torch

    if isinstance(output, torch.Tensor):
        return [("output", output)]
    items = output.items() if hasattr(output, "items") else enumerate(output) if isinstance(output, (list, tuple)) else ()
    return [(str(name), value) for name, value in items if isinstance(value, torch.Tensor)]
