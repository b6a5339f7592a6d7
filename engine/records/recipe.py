"""What the user wants, as pure data. Reading, checking and writing recipes is in ``engine/recipes.py``."""

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

    ``activations`` is "none" or "int8-dynamic": the latter is written into the checkpoint's configuration so
    that a runtime quantizes activations per token; weights are not affected.
    """

    default: Scheme = KEEP
    algorithm: str = "rtn"
    rules: tuple[Rule, ...] = ()
    builtin: bool = True
    activations: str = "none"
    name: str = ""
