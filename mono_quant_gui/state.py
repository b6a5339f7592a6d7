"""What the window knows of the open model and of the plan for it: data only."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from engine.records.calibration import Activity, DataSpec
from engine.records.codec import to_data
from engine.records.plan import RuleEffect
from engine.records.recipe import Recipe
from engine.records.trust import Factory


@dataclass(frozen=True, slots=True)
class How:
    """How a model comes to run: the factory of its network, the SHA-256 sums of code agreed to, batch norms folded or not."""

    factory: Factory | None = None
    trusted: tuple[str, ...] = ()
    fold: bool = False

    def params(self) -> dict[str, Any]:
        """What every call to the engine takes along; nothing where the files alone will do."""
        if self == How():
            return {}
        factory = to_data(self.factory) if self.factory else None
        return {"how": {"factory": factory, "trusted": list(self.trusted), "fold_batch_norm": self.fold}}

    def trusting(self, sha256: str) -> "How":
        return replace(self, trusted=(*self.trusted, sha256))


@dataclass(frozen=True, slots=True)
class Trust:
    """Code that would run and that nobody agreed to; exactly one of ``accept`` and ``decline`` is to be called."""

    path: str
    sha256: str
    what: str
    accept: Callable[[], None]
    decline: Callable[[], None]


@dataclass(slots=True)
class Calibration:
    """One pass of the float model over data. ``state`` is running, done, failed or cancelled."""

    model_path: str
    data: DataSpec
    state: str = "running"
    call: int | None = None
    progress: dict[str, Any] | None = None
    activities: dict[str, Activity] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @property
    def unreached(self) -> list[str]:
        """Layers that no sample reached."""
        return [activity.name for activity in self.activities.values() if not activity.samples]


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
    runs: bool = False
    how: How = How()

    @property
    def dtype(self) -> str:
        """That of most of its bytes."""
        held: dict[str, int] = {}
        for row in self.layers:
            held[row.dtype] = held.get(row.dtype, 0) + row.nbytes
        return max(held, key=held.__getitem__, default="")


@dataclass(slots=True)
class PlanState:
    """The plan of the recipe being edited: a column per layer, and totals."""

    schemes: list[str] = field(default_factory=list)
    algorithms: list[str] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    decided_by: list[int] = field(default_factory=list)
    """For each layer, the place among ``effects`` of what decided its scheme."""
    recipe: Recipe | None = None
    effects: list[RuleEffect] = field(default_factory=list)
    """What the rules of ``recipe``, the built-in ones and the default come to, in that order."""
    predicted: int | None = None
    bits_per_weight: float = 0.0
    quantized: int = 0
    is_folder: bool = False
    problems: list[dict[str, Any]] = field(default_factory=list)
    problem_of: dict[str, dict[str, Any]] = field(default_factory=dict)
    consumers: list[dict[str, Any]] = field(default_factory=list)
    """Who loads what it would write, and why not."""
    error: str = ""
    calibration: dict[str, Any] | None = None
    takes: dict[str, Any] | None = None
    """Bytes of memory and disk, and seconds of the run, by so many earlier runs (0: estimated, see ``plan_time``)."""
    needs: str = ""
    """What cannot be done without data, in words; empty when nothing."""

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [p for p in self.problems if p["severity"] == "error"]
