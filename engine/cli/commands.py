"""What each command does with its options: a document, its words for people, and an exit code."""

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import api, choices
from engine.cli.documents import Document, inspect_document, plan_document, report_document, run_document
from engine.cli.running import (
    RUNS_CODE,
    calibration_text,
    data_of,
    evaluation_text,
    load_asked,
    outputs_text,
    wants_running,
)
from engine.cli.text import (
    Interruptible,
    Pausable,
    inspect_text,
    needs_text,
    option_words,
    plan_text,
    run_text,
    table,
)
from engine.errors import OutputError, RecipeError
from engine.history import runs_folder
from engine.pages import certificate as certificate_page
from engine.planning import budget, duration
from engine.planning.recipe_files import LONGEST
from engine.records.certificate import Certificate
from engine.records.codec import to_data
from engine.records.plan import Plan
from engine.records.progress import Monitor
from engine.records.recipe import AlgorithmInfo, OptionInfo, Recipe
from engine.records.report import RunReport
from engine.writers.whole import write_text

NOT_CERTIFIED = 3


Answer = tuple[Document | list[Any], str, int]


def inspect(options: argparse.Namespace) -> Answer:
    with _opened(options) as (summary, _):
        return inspect_document(summary), inspect_text(summary), 0


def plan(options: argparse.Namespace) -> Answer:
    with _opened(options) as (summary, _):
        plan = _planned(options, summary)
        needs = budget.within(plan, options.memory_limit)
        time = duration.expected(plan, runs_folder()) or _timed(plan)
        text = plan_text(plan, api.consumers(plan)) + f"\n{needs_text(needs, time)}"
        document: Document = {}
        if options.json:  # of a giant it takes as long as the plan
            document = plan_document(plan) | {"needs": to_data(needs), "time": to_data(time) if time else None}
        return document, text, 2 if plan.errors else 0


def _timed(plan: Plan) -> duration.Expected | None:
    outline = duration.outline(plan)
    if outline is None:
        return None
    from engine.quantizing import timing  # brings the arithmetic

    return timing.timed(outline, Monitor())


def quantize(options: argparse.Namespace) -> Answer:
    with _opened(options) as (summary, runnable):
        plan = _planned(options, summary)
        if options.report:
            _check_report(Path(options.report), plan, Path(options.output))
        with Pausable(options) as monitor:
            report = api.quantize_to(
                plan, options.output, overwrite=options.overwrite, monitor=monitor, data=data_of(options),
                statistics=options.stats, runnable=runnable, measure=options.measure, record=not options.no_record,
                resume=options.resume, reuse=options.reuse,
                shard_size=options.shard_size, memory_limit=options.memory_limit,
            )  # fmt: skip
    if options.report:
        _write_report(Path(options.report), report)
    document = run_document(plan, report) | {"needs": to_data(budget.within(plan, options.memory_limit))}
    return document, run_text(plan, report) + outputs_text(report), 0


def calibrate(options: argparse.Namespace) -> Answer:
    data = data_of(options)
    assert data is not None
    with load_asked(options) as model, Interruptible(options) as monitor:
        report = api.calibrate(
            model, data, options.output, observers=tuple(options.observer or ("minmax",)), second=options.second,
            overwrite=options.overwrite, monitor=monitor,
        )  # fmt: skip
    return to_data(report), calibration_text(report), 0


def evaluate(options: argparse.Namespace) -> Answer:
    data = data_of(options)
    assert data is not None
    with Interruptible(options) as monitor:
        if options.float:
            with load_asked(options, options.float) as original:
                found = api.evaluate(options.path, data, original=original, monitor=monitor)
        elif options.path.lower().endswith(RUNS_CODE) or not api.open_model(options.path).quantized:
            with load_asked(options) as model:
                found = api.evaluate(model, data, monitor=monitor)
        else:
            found = api.evaluate(options.path, data, monitor=monitor)
    return to_data(found), evaluation_text(found), 0


def certify(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        data = data_of(options)
        if data is None:
            found = api.certify(options.path, options.against, forward=not options.no_forward, monitor=monitor)
        else:
            with load_asked(options, options.against) as source:
                found = api.certify(options.path, source, data=data, forward=not options.no_forward, monitor=monitor)
    return _certificate(options, found)


def validate(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        found = api.certify(options.path, forward=not options.no_forward, monitor=monitor)
    return _certificate(options, found)


def _certificate(options: argparse.Namespace, found: Certificate) -> Answer:
    if options.page:
        _write_page(Path(options.page), certificate_page.page(found), {options.path, getattr(options, "against", None)})
    return to_data(found) | {"certified": found.certified}, certificate_page.text(found), 0 if found.certified else NOT_CERTIFIED


def _write_page(path: Path, text: str, models: set[str | None]) -> None:
    taken = {Path(model).resolve() for model in models if model}
    if path.resolve() in taken or path.is_dir():
        raise OutputError(f"The page {path} would overwrite the model; name another file.")
    write_text(path, text)


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[tuple[api.ModelSummary, Any]]:
    """The model's layers, and the running model where one is needed."""
    if not wants_running(options):
        yield api.open_model(options.path), None
        return
    with load_asked(options) as model:
        yield model.summary, model


def export(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        report = api.export(
            options.path, options.output, format=options.format, shard_size=options.shard_size,
            overwrite=options.overwrite, monitor=monitor,
        )  # fmt: skip
    return report_document(report), f"Wrote {report.output} ({report.bytes_after:,} bytes).", 0


def dequantize(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        report = api.dequantize(
            options.path, options.output, shard_size=options.shard_size, overwrite=options.overwrite, monitor=monitor
        )
    return report_document(report), f"Wrote {report.output} ({report.bytes_after:,} bytes).", 0


def schemes(options: argparse.Namespace) -> Answer:
    rows = [{"examples": f.examples, "title": f"{f.title}: {f.summary}"} for f in choices.scheme_choices()]
    algorithms = choices.algorithm_choices()
    text = table(["scheme", "what"], [[r["examples"], r["title"]] for r in rows])
    text += "\n\n" + table(["algorithm", "what"], [[a.name, a.summary] for a in algorithms])
    settings = [[f"{a.name}:{o.name}=", option_words(o)] for a in algorithms for o in a.options]
    text += "\n\n" + table(["option", "what"], settings)
    return {"schemes": rows, "algorithms": [to_data(a) for a in algorithms]}, text, 0


def recipes(options: argparse.Namespace) -> Answer:
    if options.name:
        text = choices.recipe_to_text(choices.recipe(options.name))
        return {"name": options.name, "toml": text}, text.rstrip(), 0
    rows = [{"name": r.name, "scheme": choices.scheme_name(r.default), "activations": r.activations} for r in choices.presets()]
    builtin = [{"note": rule.note, "scheme": choices.scheme_name(rule.scheme)} for rule in choices.builtin_rules()]
    text = table(["recipe", "weights", "activations"], [list(row.values()) for row in rows])
    text += "\n\nBuilt-in rules, after a recipe's own: " + "; ".join(rule["note"] for rule in builtin) + "."
    return {"recipes": rows, "builtin_rules": builtin}, text, 0


def _planned(options: argparse.Namespace, summary: api.ModelSummary) -> Plan:
    recipe = given = _recipe(options.recipe) if options.recipe is not None else choices.recipe(options.scheme)
    algorithm = _algorithm(options)
    if algorithm:
        recipe = dataclasses.replace(recipe, algorithm=algorithm)
    changes = {"activations": options.activations, "observer": options.observer}
    recipe = dataclasses.replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    if options.no_sequential:
        recipe = dataclasses.replace(recipe, sequential=False)
    if recipe != given:  # what flags changed is checked as a file is
        recipe = choices.recipe_from_text(choices.recipe_to_text(recipe))
    return api.plan(summary, recipe, format=options.format, shard_size=options.shard_size)


def _recipe(path: str) -> Recipe:
    """From a file, or from standard input for ``-``, so that one pasted command can hold it all."""
    return choices.recipe_from_text(sys.stdin.read(LONGEST + 1)) if path == "-" else choices.load_recipe(path)


def _algorithm(options: argparse.Namespace) -> str:
    """``--algorithm`` and the flags of its options as one text; empty when none was given."""
    given = vars(options)
    every = [(a, o, given.get(_flag(a, o))) for a in choices.algorithm_choices() for o in a.options]
    found = [(algorithm, option, value) for algorithm, option, value in every if value is not None]
    name = options.algorithm or (found[0][0].name if found else "")
    steps = name.split("+")
    for algorithm, option, value in found:
        place = next((n for n, step in enumerate(steps) if step.split(":")[0] == algorithm.name), None)
        if place is None:
            raise RecipeError(f"--{algorithm.name}-{option.name} belongs to {algorithm.name}, but the algorithm is {name}.")
        steps[place] += f":{option.name}={value}"
    return choices.algorithm_name("+".join(steps)) if name else ""


def _flag(algorithm: AlgorithmInfo, option: OptionInfo) -> str:
    return f"{algorithm.name}_{option.name}"


def _check_report(path: Path, plan: Plan, output: Path) -> None:
    """The report must not take the place of the model, before or after; known before the run, not after it."""
    taken = {Path(file.path).resolve() for file in plan.summary.files} | {output.resolve()}
    if path.resolve() in taken or output.resolve() in path.resolve().parents:
        raise OutputError(f"The report {path} would overwrite the model; name another file.")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise OutputError(f"The report {path} cannot be written: its folder does not exist, or it is a folder itself.")


def _write_report(path: Path, report: RunReport) -> None:
    try:
        write_text(path, json.dumps(to_data(report)))
    except OutputError as error:
        raise OutputError(f"The model was written, but not the report: {error}") from None
