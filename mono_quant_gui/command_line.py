"""The command line that does what the window would do."""

import json
import shlex

import engine
from engine.records.calibration import DataSpec
from engine.records.recipe import Recipe
from mono_quant_gui.state import How


def is_plain(recipe: Recipe) -> bool:
    """Whether flags can say it all; a recipe with rules goes in a file of its own."""
    return not recipe.rules and recipe.builtin == engine.recipe(engine.scheme_name(recipe.default)).builtin


def quantize(path: str, recipe: Recipe, data: DataSpec | None, how: How) -> str:
    """``mono-quant quantize …``; a recipe that flags cannot say is named recipe.toml."""
    words = ["mono-quant", "quantize", path, *_recipe(recipe), *_model(how), *(_data(data) if data else []), "-o", "OUT"]
    return shlex.join(words)


def _recipe(recipe: Recipe) -> list[str]:
    if not is_plain(recipe):
        return ["--recipe", "recipe.toml"]
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
