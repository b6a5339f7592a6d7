"""Summary and recipe resolved: one line per layer with its exact output tensors, before a weight is read."""

from dataclasses import dataclass
from typing import Literal

from engine.records.model import LayerInfo, ModelSummary
from engine.records.recipe import Recipe
from engine.records.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Problem:
    """Something found at plan time. An ``error`` stops a run; a ``warning`` does not."""

    severity: Literal["error", "warning"]
    message: str
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class PartPlan:
    """One output tensor. ``role``: copy, decoded, codes, scale, zero_point, shape, global_scale, scale_scale, scale_mean, or
    given (known after calibration: an input's scale).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    role: str


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What a rule comes to in a plan; ``source`` is own, builtin or default.

    ``decides``: layers whose scheme it chose. ``matches``: layers that its conditions match; of those, ``taken`` were decided by
    earlier rules, as (place of the rule among the plan's ``rules``, layers). Built-in rules and the default see only what is left
    to them.
    """

    source: Literal["own", "builtin", "default"]
    decides: int
    matches: int
    taken: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What becomes of one layer.

    ``rule`` says in words what decided its scheme, ``decided_by`` is its place among the plan's ``rules``. ``fused`` names layers
    that a runtime joins with this one, where the scheme has them share a scale.
    """

    layer: LayerInfo
    scheme: Scheme
    scheme_name: str
    algorithm: str
    rule: str
    parts: tuple[PartPlan, ...]
    fused: tuple[str, ...] = ()
    decided_by: int | None = None

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def encoded(self) -> bool:
        """Whether codes are written in place of its values."""
        return any(part.role == "codes" for part in self.parts)

    @property
    def kept(self) -> bool:
        return self.scheme.family == "keep"


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One output file, to the byte.

    ``path`` is relative to the artifact ("" when the artifact is this one file). A tensor file has ``head`` (the
    eight length bytes and the padded header) and ``offsets`` of its parts; a text file has only ``head``; a
    carried file has ``source``, from which it is copied unchanged.
    """

    path: str
    nbytes: int
    head: bytes = b""
    offsets: tuple[tuple[str, int], ...] = ()
    source: str | None = None

    @property
    def holds_tensors(self) -> bool:
        return bool(self.offsets) or self.path.endswith(".safetensors") or self.path == ""


@dataclass(frozen=True, slots=True)
class Consumer:
    """One program that may load an artifact, and whether it does."""

    name: str
    loads: Literal["yes", "no", "untested"]
    reason: str


@dataclass(frozen=True, slots=True)
class CalibrationNeed:
    """Why a plan cannot be carried out without data: ``algorithms`` (canonical names) for so many layers, ``activations`` if
    static.

    ``nbytes``: memory for the statistics of the neediest part of the model and for what works on them, without the model itself.
    ``vector_bytes``: of each vector of the data (a token's, say) that waits between two blocks, for a model that has blocks.
    """

    algorithms: tuple[str, ...]
    layers: int
    activations: str = ""
    nbytes: int = 0
    vector_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run will write. ``predicted_bytes`` counts the tensor files, headers included.

    ``rules``: what each of the recipe's own rules, the built-in ones and the default comes to, in that order.
    """

    summary: ModelSummary
    recipe: Recipe
    format: str
    layers: tuple[LayerPlan, ...]
    files: tuple[FilePlan, ...]
    problems: tuple[Problem, ...]
    calibration: CalibrationNeed | None = None
    rules: tuple[RuleEffect, ...] = ()

    @property
    def predicted_bytes(self) -> int:
        return sum(file.nbytes for file in self.files if file.holds_tensors)

    @property
    def total_bytes(self) -> int:
        """Every file of the artifact, carried ones too: what the disk must hold."""
        return sum(file.nbytes for file in self.files)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of the quantized layers, scales included, per weight; of all layers when none is."""
        chosen = [line for line in self.layers if not line.kept] or self.layers
        weights = sum(line.layer.parameters for line in chosen)
        return 8 * sum(line.nbytes for line in chosen) / weights if weights else 0.0

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")
