"""What quantizing in memory gives: a module or tensors, what is told of them, and saving and checking them."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import save_file

from engine import api
from engine.algorithms import chain
from engine.calibration.data import Data, open_data
from engine.certifying import certificate as certifying
from engine.errors import InputError
from engine.in_memory import saving
from engine.in_memory.validating import calculate_model_size, check_accuracy_warnings, check_choice, fail, validate_quantization
from engine.models import load_runnable
from engine.models.base import RunnableModel
from engine.nn import QuantizedModule, quantized_module
from engine.nn.halves import is_half
from engine.readers import open_path
from engine.records.calibration import DataSpec
from engine.records.model import ModelSummary
from engine.records.quantization import LayerResult, OnFailure, QuantizationConfig, QuantizationInfo, ValidationResult
from engine.records.recipe import Recipe
from engine.records.report import LayerReport, RunReport
from engine.records.scheme import Scheme
from engine.schemes import format_scheme
from engine.schemes.activations import STORED

_ARTIFACT = "artifact"


@dataclass(slots=True)
class QuantizationResult:
    """What ``quantize`` made. True where nothing failed.

    model     a module for a module; for a state dict or a path the stored tensors by name: codes, scales, and what was kept
    info      QuantizationInfo, None where it failed before there was anything to tell
    """

    model: torch.nn.Module | dict[str, torch.Tensor] | None = None
    info: QuantizationInfo | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _original: Any = field(default=None, repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Holds the artifact of a state dict or path, and goes with this record."""
    _artifact: str = field(default="", repr=False)

    @property
    def success(self) -> bool:
        return not self.errors and self.model is not None

    def __bool__(self) -> bool:
        return self.success

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> str:
        """Write it: ``.safetensors``, ``.pt`` or ``.pth``; a model folder to a folder. Returns the path. Raises InputError,
        OutputError."""
        if self.model is None:
            raise InputError("There is nothing to save: quantizing failed.")
        target = os.fspath(path)
        if isinstance(self.model, torch.nn.Module) and self._folder is None:
            return saving.save_model(self.model, target, overwrite=overwrite)
        if target.endswith(saving.TORCH):
            return saving.save_artifact(self._artifact, target, overwrite=overwrite)
        form = "safetensors" if target.endswith(".safetensors") else "compressed-tensors"
        api.export(self._artifact, target, format=form, overwrite=overwrite)
        return target

    def validate(self, on_failure: OnFailure = "ignore", *, inputs: Any = None) -> ValidationResult:
        """The four checks again; see ``validate_quantization``."""
        check_choice("on_failure", on_failure)
        if self.model is None or self.info is None or self.info.report is None:
            raise InputError("There is nothing to validate: quantizing failed.")
        if isinstance(self.model, torch.nn.Module) and isinstance(self._original, torch.nn.Module):
            found = validated(self._original, self.model, self.info.report, inputs)
        else:
            found = certified(self._artifact, self._original, self.info.report)
        fail(found.errors, on_failure, found)
        return found

    def of_module(self, model: torch.nn.Module, recipe: Recipe, data: Any, validate: bool) -> None:
        """Quantize a module."""
        with loaded(model) as running:
            run = carried_out(running, recipe, data, QuantizationConfig().num_calibration_samples)
            self.model, self._original = run.module, model
            validation = run.validated(model) if validate else None
            skipped = _left(running.summary, run.report)
        self._tell(run.info(model, validation, skipped, format_scheme(recipe.default), recipe.default))

    def of_tensors(self, given: Any, recipe: Recipe, data: Any, validate: bool) -> None:
        """Quantize a state dict, or what is at a path."""
        self._folder = folder = tempfile.TemporaryDirectory(prefix="mono-quant-")
        self._original = source = _written(given, folder.name)
        summary = open_path(source)
        form = "compressed-tensors" if summary.config is not None else "safetensors"
        self._artifact = os.path.join(folder.name, _ARTIFACT if form == "compressed-tensors" else f"{_ARTIFACT}.safetensors")
        samples = 0
        if data is None:
            report = api.quantize_to(summary, self._artifact, recipe, format=form, record=False)
        else:
            with load_runnable(source) as running:
                opened = _opened(data, running, QuantizationConfig().num_calibration_samples)
                plan = api.plan(running.summary, recipe, format=form)
                report = api.quantize_to(plan, self._artifact, runnable=running, data=opened, measure=0, record=False)
                samples = opened.count if plan.calibration else 0
        self.model = saving.stored_tensors(self._artifact)
        validation = certified(self._artifact, source, report) if validate else None
        sizes = report.bytes_before / 1e6, report.bytes_after / 1e6
        told = _info(report, recipe, validation, sizes, _left(summary, report), format_scheme(recipe.default), recipe.default)
        self._tell(replace(told, calibration_samples_used=samples))

    def _tell(self, info: QuantizationInfo) -> None:
        said = check_accuracy_warnings(info, "ignore")
        self.info = replace(info, warnings=(*info.warnings, *said))
        self.warnings += self.info.warnings
        self.errors += info.validation.errors if info.validation else ()


@dataclass(frozen=True, slots=True)
class Run:
    """A module that was quantized: loaded from what the run wrote. ``batch``: some of the data, to validate on; ``samples``: how
    many of them calibrated it."""

    module: torch.nn.Module
    report: RunReport
    recipe: Recipe
    batch: Any = None
    samples: int = 0

    def validated(self, original: torch.nn.Module) -> ValidationResult:
        """The four checks, without raising."""
        return validated(original, self.module, self.report, self.batch)

    def info(
        self, original: torch.nn.Module, validation: ValidationResult | None, skipped: tuple[str, ...], dtype: Any, scheme: Scheme
    ) -> QuantizationInfo:
        sizes = calculate_model_size(original)[0], calculate_model_size(self.module)[0]
        calibrated = tuple(
            name
            for name, part in self.module.named_modules()
            if isinstance(part, QuantizedModule) and STORED.get(part.activations)
        )
        found = _info(self.report, self.recipe, validation, sizes, skipped, dtype, scheme)
        return replace(found, calibrated=calibrated, calibration_samples_used=self.samples)


@contextlib.contextmanager
def loaded(model: torch.nn.Module) -> Iterator[RunnableModel]:
    """A module ready to run. Raises InputError where it is quantized already."""
    if any(isinstance(part, QuantizedModule) or is_half(part) for part in model.modules()):
        raise InputError(f"{type(model).__name__} is quantized already; dequantize_model gives the float one.")
    with load_runnable(model) as running:
        yield running


def carried_out(running: RunnableModel, recipe: Recipe, data: Any, samples: int) -> Run:
    """Plan, run and load. Raises PlanError, DataError."""
    opened = batch = None
    if data is not None:
        opened = _opened(data, running, samples)
        first = next(iter(opened.batches()))
        batch = dict(first.keywords) if first.keywords else tuple(first.arguments)
    plan = api.plan(running.summary, recipe, format="safetensors")
    with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder:
        out = os.path.join(folder, f"{_ARTIFACT}.safetensors")
        report = api.quantize_to(plan, out, data=opened, runnable=running, measure=0, record=False)
        module = quantized_module(running.module, open_path(out))
    return Run(module, report, recipe, batch, opened.count if opened and plan.calibration else 0)


def _opened(data: Any, running: RunnableModel, samples: int) -> Data:
    if isinstance(data, (Data, DataSpec)):
        return api.open_data(data, running)
    if isinstance(data, (str, os.PathLike)):
        return open_data(DataSpec(path=os.fspath(data), samples=samples), running.inputs)
    return open_data(data, running.inputs, DataSpec(samples=samples))


def validated(original: Any, module: torch.nn.Module, report: RunReport, batch: Any) -> ValidationResult:
    """The four checks of a module that a run made, without raising."""
    moved = any(found.transforms or found.corrections for found in (chain(layer.algorithm) for layer in report.layers))
    reported = {layer.name: layer.clipped for layer in report.layers}
    return validate_quantization(original, module, "ignore", inputs=batch, reported=reported, compare=not moved)


def certified(artifact: str, source: str, report: RunReport) -> ValidationResult:
    """The same of an artifact without a module: no forward is run."""
    found = certifying.certify(artifact, source)
    wrong = next((check.failures for check in found.checks if check.name == "numbers"), ())
    rows = tuple(_row(layer) for layer in report.layers)
    before, after = (n / 1e6 for n in (found.bytes_before or report.bytes_before, found.bytes_after))
    lossless = math.inf if found.layers and all(proof.compared for proof in found.layers) else None
    return ValidationResult(
        lossless if found.sqnr_db is None else found.sqnr_db, before, after, before / after if after else 0.0,
        None if found.certified else False, not wrong, found.failures,
        ("The forward was not run: there is no module.",), report.bytes_after / 1e6, "not run", rows,
    )  # fmt: skip


def _left(summary: ModelSummary, report: RunReport) -> tuple[str, ...]:
    """Weights that could have been quantized and were not."""
    kept = set(report.kept)
    return tuple(layer.name for layer in summary.layers if layer.name in kept and len(layer.shape) > 1)


def _row(layer: LayerReport) -> LayerResult:
    lossless = math.inf if layer.signal else None
    return LayerResult(
        layer.name, layer.scheme, lossless if layer.sqnr_db is None else layer.sqnr_db, layer.parameters, layer.bytes_before,
        layer.bytes_after, layer.clipped,
    )  # fmt: skip


def _info(
    report: RunReport,
    recipe: Recipe,
    validation: ValidationResult | None,
    sizes: tuple[float, float],
    skipped: tuple[str, ...],
    dtype: Any,
    scheme: Scheme,
) -> QuantizationInfo:
    rows = validation.layers if validation and validation.layers else tuple(_row(layer) for layer in report.layers)
    lossless = math.inf if report.layers else None
    sqnr = report.sqnr_db if report.sqnr_db is not None else lossless
    if validation and validation.sqnr_db is not None:
        sqnr = validation.sqnr_db
    return QuantizationInfo(
        tuple(layer.name for layer in report.layers), skipped, 0, dtype, scheme.symmetric, sqnr, *sizes,
        sizes[0] / sizes[1] if sizes[1] else 0.0, (*report.warnings, *(validation.warnings if validation else ())), rows,
        format_scheme(scheme), recipe.activations, (), validation, report,
    )  # fmt: skip


def _written(given: Any, folder: str) -> str:
    """A state dict on disk; a path as it is."""
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    if not isinstance(given, Mapping):
        raise InputError(f"A module, a state dict or a path is quantized, not a {type(given).__name__}.")
    wrong = next((name for name, value in given.items() if not isinstance(value, torch.Tensor)), None)
    if wrong is not None:
        raise InputError(f"The state dict's {wrong} is a {type(given[wrong]).__name__}, not a tensor.")
    path = os.path.join(folder, "source.safetensors")
    save_file({str(name): value.detach().cpu().contiguous().clone() for name, value in given.items()}, path)
    return path
