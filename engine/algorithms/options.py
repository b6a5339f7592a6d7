"""Options of algorithms: declared once, and from that read, written, bounded and shown.

An algorithm and its options are one text, as recipes hold it: ``mse``, ``mse:norm=2.4:steps=50``. Several, joined by ``+``,
follow each other: transforms, one solver, corrections, as in ``smoothquant+gptq+bias``.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.algorithms.base import Algorithm
from engine.errors import RecipeError
from engine.records.recipe import OptionInfo


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, unit: str = "", choices: Sequence[str] = ()
) -> Any:
    """A field of an Options record: its default, inclusive bounds or choices, unit, and one line of help."""
    facts = {"help": help, "low": low, "high": high, "unit": unit, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=facts)


class Optioned(Protocol):
    """Anything with a name and an Options record: algorithms, observers."""

    @property
    def name(self) -> str: ...
    @property
    def options(self) -> type: ...


def describe(algorithm: Optioned) -> tuple[OptionInfo, ...]:
    """What a form or a command line must know of an algorithm's options."""
    defaults = algorithm.options()
    return tuple(
        OptionInfo(field.name, type(value).__name__, value, **field.metadata)
        for field in dataclasses.fields(algorithm.options)
        for value in [getattr(defaults, field.name)]
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """An algorithm with its options."""

    algorithm: Algorithm
    options: Any

    def __str__(self) -> str:
        """The canonical text: only what differs from the defaults."""
        values = ((f, getattr(self.options, f.name)) for f in dataclasses.fields(self.options))
        return ":".join([self.algorithm.name, *(f"{f.name}={_text(value)}" for f, value in values if value != f.default)])


@dataclass(frozen=True, slots=True)
class Chain:
    """What is done to a layer: transforms, then one solver, then corrections."""

    transforms: tuple[Chosen, ...]
    solver: Chosen
    corrections: tuple[Chosen, ...]

    def __str__(self) -> str:
        """The canonical text; round to nearest goes without saying beside others."""
        others = len(self.transforms) + len(self.corrections)
        solver = [] if others and str(self.solver) == "rtn" else [self.solver]
        return "+".join(map(str, [*self.transforms, *solver, *self.corrections]))

    @property
    def steps(self) -> tuple[Chosen, ...]:
        return (*self.transforms, self.solver, *self.corrections)

    @property
    def data(self) -> bool:
        """Whether any step needs calibration."""
        return any(step.algorithm.data for step in self.steps)


def parse_chain(text: str, algorithms: Iterable[Algorithm]) -> Chain:
    """The steps that a text names, in the order of their stages. Raises RecipeError."""
    known = list(algorithms)
    steps = [parse(word, known) for word in text.split("+")]
    order = ("transform", "solver", "correction")
    places = [order.index(step.algorithm.stage) for step in steps]
    if places != sorted(places):
        late = next(step for step, here, after in zip(steps[1:], places, places[1:], strict=False) if after < here)
        raise RecipeError(f"{text!r}: {late.algorithm.name} is a {late.algorithm.stage} and comes earlier; the order is "
                          "transforms, solver, corrections.")  # fmt: skip
    by_stage = [tuple(step for step in steps if step.algorithm.stage == stage) for stage in order]
    names = [step.algorithm.name for step in steps]
    if len(by_stage[1]) > 1 or len(set(names)) < len(names):
        raise RecipeError(f"{text!r}: name one solver, and each transform and correction once.")
    solver = by_stage[1][0] if by_stage[1] else parse("rtn", known)
    return Chain(by_stage[0], solver, by_stage[2])


def parse(text: str, algorithms: Iterable[Algorithm]) -> Chosen:
    """The algorithm and options that a text names. Raises RecipeError naming what is wrong and what would do."""
    name, *words = text.strip().lower().split(":")
    known = {algorithm.name: algorithm for algorithm in algorithms}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise RecipeError(f"{text!r} is not an algorithm; {hint}")
    infos = {info.name: info for info in describe(known[name])}
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in infos:
            near = difflib.get_close_matches(key, infos, 1)
            has = f"did you mean {near[0]}?" if near else f"it has {', '.join(infos)}" if infos else "it has no options"
            raise RecipeError(f"{text!r}: {name} has no option {key!r}; {has}.")
        if not equals or key in values:
            raise RecipeError(f"{text!r}: give {key} once, as {key}=<value>.")
        values[key] = _value(infos[key], value, text)
    return Chosen(known[name], known[name].options(**values))


def _value(info: OptionInfo, text: str, where: str) -> Any:
    if info.choices:
        if text not in info.choices:
            raise RecipeError(f"{where!r}: {info.name} is one of {', '.join(info.choices)}, not {text!r}.")
        return text
    try:
        value = int(text) if info.type == "int" else float(text)
    except ValueError:
        raise RecipeError(f"{where!r}: {info.name} is a {'whole ' * (info.type == 'int')}number, not {text!r}.") from None
    if not (info.low is None or value >= info.low) or not (info.high is None or value <= info.high):
        raise RecipeError(f"{where!r}: {info.name} is between {info.low:g} and {info.high:g}, not {text}.")
    return value


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)
