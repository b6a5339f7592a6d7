"""Python that does what the window would do."""

import engine
from engine.records.calibration import DataSpec
from engine.records.recipe import Recipe
from mono_quant_gui.state import How


def quantize(path: str, recipe: Recipe, data: DataSpec | None, how: How) -> str:
    """A script around ``engine.quantize_to``. Code that the window was allowed to run is named by its SHA-256 sums."""
    lines = ["import engine", "", f"recipe = {_recipe(recipe)}"]
    if data is None and how == How():
        lines += [f"plan = engine.plan({path!r}, recipe)", 'report = engine.quantize_to(plan, "OUT")']
    else:
        given = f"data={_record(data)}, " if data else ""
        lines += [
            f"with engine.load_runnable({', '.join([repr(path), *_how(how)])}) as model:",
            "    plan = engine.plan(model.summary, recipe)",
            f'    report = engine.quantize_to(plan, "OUT", {given}runnable=model)',
        ]
    return "\n".join([*lines, "print(report.sqnr_db, report.worst_layer)", ""])


def _recipe(recipe: Recipe) -> str:
    """A preset by its name, anything else as its text."""
    if recipe in engine.presets():
        return f'engine.recipe("{recipe.name}")'
    text = engine.recipe_to_text(recipe)
    # As a raw string, so that patterns stand there as they are in a file; where that cannot be, escaped.
    literal = f'r"""\n{text}"""' if '"""' not in text else repr(text)
    return f"engine.recipe_from_text({literal})"


def _how(how: How) -> list[str]:
    words = [f"factory={_record(how.factory)}"] if how.factory else []
    words += [f"trusted={list(how.trusted)!r}"] if how.trusted else []
    return words + ["fold_batch_norm=True"] * how.fold


def _record(record: object) -> str:
    """A record of the engine as an expression."""
    return f"engine.{record!r}"
