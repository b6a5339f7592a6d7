"""What the user wants, as pure data. Reading, checking and writing recipes is in ``engine/planning/recipes.py``."""

from dataclasses import dataclass

from engine.records.scheme import KEEP, Scheme


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a recipe: layers that match every given condition get ``scheme``.

    match      glob (``*.mlp.*``) or ``re:`` and a regular expression anchored at the start; on the layer's name
    kind       linear, conv2d, embedding, ...
    min_size, max_size   number of elements, inclusive
    """

    scheme: Scheme
    algorithm: str = "rtn"
    match: str | None = None
    kind: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ordered rules, first match wins, then the built-in rules (unless switched off), then the default.

    ``algorithm`` may carry options, as in ``mse:norm=2.4``. ``activations`` is "none" or names what a runtime does to
    activations, such as "int8:token"; it is written into the checkpoint's configuration and changes no weight. ``observer`` turns
    what calibration saw into the range of static activations. ``sequential``: algorithms that need data see each layer's inputs
    as the layers before it, already quantized, give them; else as the float model does.
    """

    default: Scheme = KEEP
    algorithm: str = "rtn"
    rules: tuple[Rule, ...] = ()
    builtin: bool = True
    activations: str = "none"
    name: str = ""
    observer: str = "minmax"
    sequential: bool = True


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One option of an algorithm: ``type`` is int, float or str; bounds are inclusive; ``choices`` for texts."""

    name: str
    type: str
    default: int | float | str
    help: str
    low: float | None = None
    high: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlgorithmInfo:
    """One algorithm as forms and command lines show it. ``stage``: transform, solver or correction; ``data``: needs
    calibration."""

    name: str
    title: str
    summary: str
    options: tuple[OptionInfo, ...] = ()
    stage: str = "solver"
    data: bool = False


@dataclass(frozen=True, slots=True)
class ActivationInfo:
    """One way of quantizing activations at run time: ``name`` in recipes. ``data``: whether its scales come from calibration."""

    name: str
    title: str
    summary: str
    data: bool = False
