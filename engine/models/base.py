"""A model that runs: the module, what its forward takes, and where its weights are on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.records.calibration import ModelInputs
from engine.records.model import Kind, ModelSummary, Source
from engine.records.trust import Factory

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stored tensor is in the running module: rows of a parameter seen as a matrix.

    parameter   name in ``module.named_parameters()`` or buffers
    first, rows rows of the matrix (``parameter`` reshaped to ``(-1, columns)``) that hold it; ``columns`` are the stored
                tensor's elements per entry of its first axis (of its last axis where it has three and is experts)
    transposed  whether the stored tensor's last two axes are swapped in the parameter: the rows are those of
                ``parameter.transpose(-1, -2)``
    """

    parameter: str
    first: int = 0
    rows: int = 0
    transposed: bool = False
    columns: int = 1


@dataclass(slots=True)
class RunnableModel:
    """``summary`` is of the files on disk, whose names are those that are written; ``places`` leads from them into the module.

    Keys of ``places`` are stored tensors' names (``layers.0.q_proj.weight``). ``unmatched`` are weights that were not found in
    the module, which therefore cannot be calibrated. ``snapshot`` is a temporary folder, removed by ``close``, of a model
    whose weights were not on disk in this form.
    """

    module: torch.nn.Module
    summary: ModelSummary
    inputs: ModelInputs
    places: dict[str, Place]
    unmatched: tuple[str, ...] = ()
    snapshot: str = ""
    notes: tuple[str, ...] = field(default=())
    how: dict[str, Any] = field(default_factory=dict)
    """What ``load_runnable`` was told besides the path, as JSON; consent to code is not part of it."""

    @property
    def cached(self) -> bool:
        """Whether the forward takes ``use_cache``."""
        import inspect

        return "use_cache" in inspect.signature(self.module.forward).parameters

    def parameter(self, name: str) -> torch.Tensor:
        """The parameter or buffer of that name."""
        found: Any = self.module
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def weight(self, name: str) -> torch.Tensor:
        """The stored tensor of that name as it is in the module now: (rows, columns), a view where the layout allows it."""
        place = self.places[name]
        found = self.parameter(place.parameter)
        found = found.transpose(-1, -2) if place.transposed else found
        return found.reshape(-1, place.columns)[place.first : place.first + place.rows]

    def put(self, name: str, value: torch.Tensor) -> None:
        """Give the stored tensor of that name other values in the module."""
        place = self.places[name]
        parameter = self.parameter(place.parameter)
        rows = slice(place.first, place.first + place.rows)
        value = value.reshape(-1, place.columns).to(parameter.dtype)
        if not place.transposed:
            parameter.data.view(-1, place.columns)[rows] = value
            return
        turned = parameter.data.transpose(-1, -2)
        matrix = turned.reshape(-1, place.columns)
        matrix[rows] = value
        turned.copy_(matrix.view(turned.shape))

    def close(self) -> None:
        """Remove what was written for this model alone."""
        import shutil

        if self.snapshot:
            shutil.rmtree(self.snapshot, ignore_errors=True)

    def __enter__(self) -> RunnableModel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Request:
    """What ``load_runnable`` was asked for. ``source`` is an absolute or relative path, or a module."""

    source: str | torch.nn.Module
    factory: Factory | None = None
    trusted: Collection[str] = ()
    weights: Mapping[str, torch.Tensor] | None = None


@dataclass(slots=True)
class Loaded:
    """What a loader made of it.

    summary   of the files on disk; None when the weights must be written to a snapshot
    kinds     what is known of parameters beyond the types of modules: kind and output axis, by name
    filled    whether the request's ``weights`` are in the module already
    inputs    what the forward takes, where the file says so
    """

    module: torch.nn.Module
    title: str
    source: Source
    summary: ModelSummary | None = None
    config: Any = None
    folder: str = ""
    inputs: ModelInputs | None = None
    kinds: dict[str, tuple[Kind, int]] = field(default_factory=dict)
    filled: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loader:
    """One kind of runnable model. ``accepts`` looks at names alone; ``load`` raises InputError, or TrustNeeded for code."""

    name: str
    accepts: Callable[[Request], bool]
    load: Callable[[Request], Loaded]


def call(module: torch.nn.Module, batch: Any) -> Any:
    """Run a forward on a batch: a mapping of arguments, a tuple of them, or the only one."""
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)
