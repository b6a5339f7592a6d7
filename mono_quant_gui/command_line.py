"""The command line that does what the window would do."""

import json
import shlex

import engine
from engine.records.calibration import DataSpec
from engine.records.recipe import Recipe
from mono_quant_gui.state import How

END = "RECIPE"
"""The line that ends a recipe within a command; no line of a recipe is this word alone."""


def is_plain(recipe: Recipe) -> bool:
    """Whether flags can say it all."""
    return not recipe.rules and recipe.builtin == engine.recipe(engine.scheme_name(recipe.default)).builtin


def quantize(path: str, recipe: Recipe, data: DataSpec | None, how: How, file: str = "") -> str:
    """``mono-quant quantize …`` for a shell.

    What flags cannot say of the recipe is read from ``file``, which holds it; without one it follows within the command.
    """
    plain = is_plain(recipe)
    chosen = _flags(recipe) if plain else ["--recipe", file or "-"]
    command = shlex.join(["mono-quant", "quantize", path, *chosen, *_model(how), *(_data(data) if data else []), "-o", "OUT"])
    return command if plain or file else f"{command} <<'{END}'\n{engine.recipe_to_text(recipe).rstrip()}\n{END}\n"


def _flags(recipe: Recipe) -> list[str]:
    scheme = engine.scheme_name(recipe.default)
    words = ["--scheme", scheme]
    for flag, value, usual in (
        ("--algorithm", recipe.algorithm, "rtn"),
        ("--activations", recipe.activations, engine.recipe(scheme).activations),
        ("--observer", recipe.observer, "minmax"),
    ):
        words += [flag, value] if value != usual else []
    return words + ([] if recipe.sequential else ["--no-sequential"])


def _model(how: How) -> list[str]:
    words: list[str] = []
    if how.factory:
        words += ["--factory", f"{how.factory.path}:{how.factory.name}"]
        words += ["--factory-arguments", json.dumps(how.factory.arguments)] if how.factory.arguments else []
    return words + ["--trust"] * bool(how.factory or how.trusted) + ["--fold-batch-norm"] * how.fold


def _data(spec: DataSpec) -> list[str]:
    usual = DataSpec()
    words = ["--data", spec.path or "synthetic"]
    values = (
        ("--data-kind", spec.kind if spec.path else "", ""),
        ("--samples", spec.samples, usual.samples),
        ("--seed", spec.seed, usual.seed),
        ("--batch", spec.batch, usual.batch),
        ("--length", spec.length, None),
        ("--column", spec.column, ""),
        ("--labels", spec.labels, ""),
    )
    for flag, value, default in values:
        words += [flag, str(value)] if value != default else []
    switches = (("--no-packing", not spec.packed), ("--chat", spec.chat), ("--skip-bad", spec.skip_bad))
    return words + [flag for flag, on in switches if on]
