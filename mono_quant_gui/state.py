"""What the window knows of the open model and of the plan for it: data only."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LayerRow:
    """One line of the model as the window knows it."""

    name: str
    kind: str
    guessed: bool
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    parameters: int
    plain: bool


@dataclass(slots=True)
class Model:
    """What is open."""

    path: str
    name: str
    layers: list[LayerRow]
    parameters: int
    nbytes: int
    quantized: dict[str, Any] | None
    problems: list[str]
    has_config: bool
    index: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class PlanState:
    """The plan of the recipe being edited: a column per layer, and totals."""

    schemes: list[str] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    predicted: int | None = None
    bits_per_weight: float = 0.0
    quantized: int = 0
    is_folder: bool = False
    problems: list[dict[str, Any]] = field(default_factory=list)
    problem_of: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [p for p in self.problems if p["severity"] == "error"]
