"""Four checks of a quantized module: what it lost, what it weighs, whether it survives a file, whether numbers are in range."""

from __future__ import annotations

import math
import os
import tempfile
import warnings as python_warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import torch

from engine.certifying import certificate as certifying
from engine.clipping import ROUNDING, clipped_share
from engine.errors import DataError, EngineError, InputError, ValidationError
from engine.in_memory.saving import save_model
from engine.models.base import call
from engine.models.inputs import describe_inputs
from engine.models.state import running
from engine.nn import QuantizedModule, blank_like, quantized_module
from engine.nn.halves import is_half
from engine.readers import open_path
from engine.records.quantization import LayerResult, OnFailure, Outcome, QuantizationInfo, ValidationResult

FEW_SAMPLES = 50
"""Calibration samples below which ranges may not have settled."""
PIECE = 1 << 20


def calculate_sqnr(original: Any, quantized: Any) -> float:
    """``10 log10(Σ a² / Σ (a - b)²)`` in dB of two tensors of one shape; +inf where they are equal, -inf where a is zero.

    Tensors of floats, torch's own quantized tensors, and quantized modules (their decoded weight). Raises InputError for unlike
    shapes, DataError for NaN or Inf.
    """
    a, b = _values(original), _values(quantized)
    if a.shape != b.shape:
        raise InputError(f"SQNR compares tensors of one shape, not {list(a.shape)} with {list(b.shape)}.")
    signal, noise = _sums(a, b)
    if not math.isfinite(signal + noise):
        raise DataError("SQNR cannot be had of NaN or Inf.")
    return _db(signal, noise)


def calculate_model_size(module: torch.nn.Module) -> tuple[float, int]:
    """(MB of 10⁶ bytes of everything a module holds, scales and zero points too; weights that this stands for).

    Tensors that share memory count once; buffers count in the size alone.
    """
    held = {t.untyped_storage().data_ptr() if t.numel() else id(t): t for t in (*module.parameters(), *module.buffers())}
    parts = [part for part in module.modules() if isinstance(part, QuantizedModule)]
    codes = {part.stored()["codes"].data_ptr(): part.shape.numel() for part in parts}
    count = sum(parameter.numel() for parameter in module.parameters()) + sum(codes.values())
    return sum(tensor.nbytes for tensor in held.values()) / 1e6, count


def validate_quantization(
    original: torch.nn.Module | Mapping[str, torch.Tensor],
    quantized: torch.nn.Module,
    on_failure: OnFailure = "error",
    *,
    inputs: Any = None,
    reported: Mapping[str, float] | None = None,
    compare: bool = True,
) -> ValidationResult:
    """Check a quantized module against the float one it was made of.

    inputs    a batch to run (tensor, tuple or mapping of arguments); else one is made where the module says what it takes, and
              where it does not, the forward is ``not run``
    reported  share of clipped weights by layer, as the algorithm reported; without it clipping is a warning
    compare   whether weights can be compared with the original's (not after transforms that move scale between layers)

    ``on_failure``: ``error`` raises ValidationError naming every failure, ``warn`` warns, ``ignore`` only returns.
    """
    check_choice("on_failure", on_failure)
    errors: list[str] = []
    said: list[str] = []
    rows, signal, noise = _compared(original, quantized, errors) if compare else ([], 0.0, 0.0)
    beyond = [row for row in rows if row.clipped > (reported or {}).get(row.name, 0.0) + ROUNDING]
    for row in beyond:
        told = "" if reported is None else f", {reported.get(row.name, 0.0):.2%} reported"
        (errors if reported is not None else said).append(f"{row.name}: {row.clipped:.2%} of its weights are clipped{told}.")
    trip = _RoundTrip(quantized, inputs)
    trip.run()
    before = _megabytes(original)
    after = calculate_model_size(quantized)[0]
    result = ValidationResult(
        _db(signal, noise) if rows else None, before, after, before / after if after else 0.0,
        False if trip.errors else True if trip.forward == "passed" else None,
        not (trip.out_of_range or (beyond and reported is not None)), (*errors, *trip.errors, *trip.out_of_range),
        (*said, *trip.warnings), trip.megabytes, trip.forward, tuple(rows),
    )  # fmt: skip
    fail(result.errors, on_failure, result)
    return result


def check_accuracy_warnings(
    info: QuantizationInfo,
    accuracy_warning: OnFailure = "warn",
    sqnr_warning_threshold: float = 20.0,
    sqnr_error_threshold: float = 10.0,
) -> tuple[str, ...]:
    """Sentences about what may have cost accuracy: SQNR (dB) below the thresholds, every layer quantized, few samples.

    ``accuracy_warning``: ``warn`` warns in Python, ``ignore`` only returns them, ``error`` raises ValidationError where SQNR is
    below ``sqnr_error_threshold`` and warns of the rest.
    """
    check_choice("accuracy_warning", accuracy_warning)
    critical = []
    found = []
    if info.sqnr_db is not None and info.sqnr_db < sqnr_error_threshold:
        critical.append(f"Critical: SQNR is {info.sqnr_db:.1f} dB, below {sqnr_error_threshold:g} dB; use more bits.")
    elif info.sqnr_db is not None and info.sqnr_db < sqnr_warning_threshold:
        found.append(f"SQNR is {info.sqnr_db:.1f} dB, below {sqnr_warning_threshold:g} dB; outputs may suffer.")
    if info.selected_layers and not info.skipped_layers:
        found.append("All layers are quantized; keeping the first and the last one often helps.")
    if 0 < info.calibration_samples_used < FEW_SAMPLES:
        found.append(f"Only {info.calibration_samples_used} samples were used to calibrate; use {FEW_SAMPLES} or more.")
    if accuracy_warning == "error":
        fail(critical, "error", info)
    fail((*critical, *found), "ignore" if accuracy_warning == "ignore" else "warn", info)
    return (*critical, *found)


def check_choice(name: str, value: str) -> None:
    """Raise InputError for what is no way to deal with a failure."""
    if value not in get_args(OnFailure):
        raise InputError(f"{name} is 'error', 'warn' or 'ignore', not {value!r}.")


def fail(sentences: Sequence[str], on_failure: OnFailure, result: Any) -> None:
    """Raise ValidationError with all sentences, warn of each, or do nothing."""
    if sentences and on_failure == "error":
        error = ValidationError(" ".join(sentences))
        error.result = result
        raise error
    if on_failure == "warn":
        for sentence in sentences:
            python_warnings.warn(sentence, stacklevel=3)


# -- what was lost ---------------------------------------------------------------------------------------------------


def _values(given: Any) -> torch.Tensor:
    if isinstance(given, QuantizedModule):
        return given.weight
    if not isinstance(given, torch.Tensor):
        raise InputError(f"SQNR is of tensors, not of a {type(given).__name__}.")
    return given.dequantize() if given.is_quantized else given.detach()


def _sums(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Signal and noise, float64, piece by piece."""
    signal = noise = 0.0
    for one, other in zip(a.reshape(-1).split(PIECE), b.reshape(-1).split(PIECE), strict=True):
        wide = one.double()
        signal += float(wide.square().sum())
        noise += float(wide.sub_(other.double()).square_().sum())
    return signal, noise


def _db(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _layers(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers whose weight is stored otherwise than before, by name."""
    for name, part in module.named_modules():
        if isinstance(part, QuantizedModule) or is_half(part):
            yield name, part


def _compared(original: Any, quantized: torch.nn.Module, errors: list[str]) -> tuple[list[LayerResult], float, float]:
    """Every quantized layer beside its original, and total signal and noise."""
    rows, signal, noise = [], 0.0, 0.0
    for name, part in _layers(quantized):
        weight = _original(original, name)
        if weight is None or tuple(weight.shape) != tuple(part.weight.shape):
            errors.append(f"{name or 'The module'} is not in the original, or has another shape there.")
            continue
        decoded = part.weight.detach()
        power, error = _sums(weight, decoded)
        if not math.isfinite(power + error):
            errors.append(f"{name}: its weights are not finite.")
            continue
        signal, noise = signal + power, noise + error
        whole = isinstance(part, QuantizedModule)
        scheme = part.scheme if whole else {"float16": "fp16", "bfloat16": "bf16"}[str(decoded.dtype).removeprefix("torch.")]
        stored = sum(value.nbytes for value in part.stored().values()) if whole else decoded.nbytes
        clipped = clipped_share(part.layer, part.stored_bytes(), weight) if whole else 0.0
        rows.append(LayerResult(name, scheme or "", _db(power, error), weight.numel(), weight.nbytes, stored, clipped))
    return rows, signal, noise


def _original(original: Any, name: str) -> torch.Tensor | None:
    key = f"{name}.weight" if name else "weight"
    if isinstance(original, Mapping):
        return original.get(key)
    try:
        found = getattr(original.get_submodule(name), "weight", None)  # parametrized weights too
    except AttributeError:
        return None
    return found.detach() if isinstance(found, torch.Tensor) else None


# -- whether it survives a file --------------------------------------------------------------------------------------


class _RoundTrip:
    """Saved to a temporary file, loaded into a blank module, compared tensor by tensor and output by output."""

    def __init__(self, module: torch.nn.Module, inputs: Any) -> None:
        self.module, self.inputs = module, inputs
        self.errors: list[str] = []
        self.out_of_range: list[str] = []
        self.warnings: list[str] = []
        self.forward: Outcome = "not run"
        self.megabytes = 0.0

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mono-quant-") as folder:
            path = os.path.join(folder, "model.safetensors")
            try:
                save_model(self.module, path)
                self.megabytes = os.path.getsize(path) / 1e6
                self._check_file(path)
                again = quantized_module(blank_like(self.module), open_path(path))
            except EngineError as error:
                self.errors.append(f"The module does not survive a file: {error}")
                return
        self._compare(again)
        self._run(again)

    def _check_file(self, path: str) -> None:
        """Checksums, configuration, a second reader; and the range of every number."""
        for check in certifying.certify(path).checks:
            (self.out_of_range if check.name == "numbers" else self.errors).extend(check.failures)

    def _compare(self, again: torch.nn.Module) -> None:
        before, after = self.module.state_dict(), again.state_dict()
        for name in sorted(before.keys() ^ after.keys()):
            self.errors.append(f"{name} is {'lost' if name in before else 'new'} after saving and loading.")
        for name in before.keys() & after.keys():
            if isinstance(before[name], torch.Tensor) and not _same(before[name], after[name]):
                self.errors.append(f"{name} changes when it is saved and loaded.")

    def _run(self, again: torch.nn.Module) -> None:
        batch = self.inputs if self.inputs is not None else _specified(self.module)
        if batch is None:
            self.warnings.append("The forward was not run: what the module takes is not known; give inputs.")
            return
        try:
            outputs = _output(self.module, batch)
        except Exception as error:  # whatever a user's forward raises
            what = f"the forward of the quantized module fails ({type(error).__name__}: {error})"
            if self.inputs is not None:
                self.forward = "failed"
                self.errors.append(f"On the inputs that were given, {what}.")
            else:
                self.warnings.append(f"The forward was not run: on inputs that were guessed, {what}; give inputs.")
            return
        try:
            others = _output(again, batch)
        except Exception as error:
            self.forward = "failed"
            self.errors.append(f"After loading, the forward fails ({type(error).__name__}: {error}).")
            return
        equal = len(outputs) == len(others) and all(map(_same, outputs, others))
        self.forward = "passed" if equal else "failed"
        if not equal:
            self.errors.append("After loading, the module computes something else.")


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    one, other = (t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(one, other)


def _output(module: torch.nn.Module, batch: Any) -> list[torch.Tensor]:
    with running(module), torch.no_grad():
        return list(_tensors(call(module, batch)))


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)


def _specified(module: torch.nn.Module) -> Any:
    """A batch as the module says it takes one; None where it does not say."""
    from engine.calibration.data import Data, open_data
    from engine.records.calibration import DataSpec

    try:
        inputs = describe_inputs(module, getattr(module, "config", None), "")
        if not inputs.known:
            return None
        data: Data = open_data(DataSpec(kind="synthetic", samples=2, batch=2), inputs)
        batch = next(iter(data.batches()))
    except EngineError:
        return None
    return dict(batch.keywords) if batch.keywords else tuple(batch.arguments)


def _megabytes(original: Any) -> float:
    if isinstance(original, torch.nn.Module):
        return calculate_model_size(original)[0]
    held = {t.untyped_storage().data_ptr() if t.numel() else id(t): t for t in original.values() if isinstance(t, torch.Tensor)}
    return sum(tensor.nbytes for tensor in held.values()) / 1e6
