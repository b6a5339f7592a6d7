"""Quantizing and checking modules in memory: what is asked for, and what was found."""

from dataclasses import dataclass, field
from typing import Any, Literal

from engine.records.report import RunReport

OnFailure = Literal["error", "warn", "ignore"]
Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """Options of ``dynamic_quantize`` and ``static_quantize`` as one record; see there. An argument of a call that differs from
    its default goes before.

    dtype    a torch type (``qint8``, ``quint4x2``, ``float16``, ``float8_e4m3fn``, ...), or a scheme's name such as ``int4:g64``
    """

    dtype: Any = None
    symmetric: bool = False
    per_channel: bool = True
    group_size: int | None = 128
    layer_types: tuple[Any, ...] | None = None
    skip_types: tuple[Any, ...] = ()
    layer_names: tuple[str, ...] | None = None
    skip_names: tuple[str, ...] = ()
    modules_to_not_convert: tuple[str, ...] = ()
    skip_layer_types: tuple[Any, ...] = ()
    skip_layer_names: tuple[str, ...] = ()
    skip_param_threshold: int = 0
    num_calibration_samples: int = 150
    on_failure: OnFailure = "error"
    run_validation: bool = True
    accuracy_warning: OnFailure = "warn"
    sqnr_warning_threshold: float = 20.0
    sqnr_error_threshold: float = 10.0
    algorithm: str = "rtn"
    observer: str = "minmax"


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One quantized layer. ``sqnr_db`` is of the decoded codes, +inf where they lose nothing and None where the layer was not
    compared; ``clipped`` is the share of weights beyond the codes' range, 0 to 1; bytes are those stored."""

    name: str
    scheme: str
    sqnr_db: float | None
    parameters: int
    bytes_before: int
    bytes_after: int
    clipped: float = 0.0


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What four checks found: SQNR, size, round trip, range.

    sqnr_db             total signal over total noise of the quantized layers, in dB; +inf where nothing is lost, None where
                        nothing could be compared
    sizes               MB (10⁶ bytes) of everything held in memory, scales and zero points too; ``file_size_mb`` of the file
                        that was written and read again
    load_test_passed    whether every tensor came back bit for bit and a forward gave the same output; None where no forward
                        was run, which is not a pass
    forward             what became of that forward
    weight_range_valid  values finite, codes in range, scales positive, nothing clipped beyond what was reported
    """

    sqnr_db: float | None
    original_size_mb: float
    quantized_size_mb: float
    compression_ratio: float
    load_test_passed: bool | None
    weight_range_valid: bool
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    file_size_mb: float = 0.0
    forward: Outcome = "not run"
    layers: tuple[LayerResult, ...] = ()

    def __bool__(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True)
class QuantizationInfo:
    """What was quantized, how, and what it lost. Sizes are MB of 10⁶ bytes, SQNR is in dB (None: nothing was compared).

    ``activations``: what is done to layers' inputs, and ``calibrated`` the layers whose ranges come from data. ``validation`` is
    None where it was switched off.
    """

    selected_layers: tuple[str, ...]
    skipped_layers: tuple[str, ...]
    calibration_samples_used: int
    dtype: Any
    symmetric: bool
    sqnr_db: float | None
    original_size_mb: float
    quantized_size_mb: float
    compression_ratio: float
    warnings: tuple[str, ...] = ()
    layers: tuple[LayerResult, ...] = ()
    scheme: str = ""
    activations: str = "none"
    calibrated: tuple[str, ...] = ()
    validation: ValidationResult | None = None
    report: RunReport | None = field(default=None, repr=False)
