"""``mono-quant``: the engine on the command line.

Exit codes: 0 done, 2 the user's mistake, 3 not certified, 130 cancelled, 1 a defect. With ``--json`` stdout carries exactly
one JSON document, whose keys are documented in the README; everything for people goes to stderr.
"""

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine import api, choices
from engine.allocator import keep_freed_memory
from engine.cli import comparing as cli_comparing
from engine.cli import runs as cli_runs
from engine.cli import searching as cli_searching
from engine.cli.documents import Document, error_document, inspect_document, plan_document, report_document, run_document
from engine.cli.running import (
    RUNS_CODE,
    add_data_flags,
    add_model_flags,
    calibration_text,
    data_of,
    evaluation_text,
    load_asked,
    outputs_text,
    size,
    wants_running,
)
from engine.cli.text import (
    Interruptible,
    Pausable,
    failure_text,
    inspect_text,
    needs_text,
    option_words,
    plan_text,
    run_text,
    table,
)
from engine.errors import Cancelled, DataError, EngineError, OutputError, Paused, RecipeError, lacks_memory, plain
from engine.history import runs_folder
from engine.pages import certificate as certificate_page
from engine.planning import budget, duration, recipes
from engine.records.certificate import Certificate
from engine.records.codec import to_data
from engine.records.plan import Plan
from engine.records.recipe import AlgorithmInfo, OptionInfo, Recipe
from engine.records.report import RunReport
from engine.version import VERSION
from engine.writers.whole import write_text

NOT_CERTIFIED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 gets "?", not a traceback
    options = _parser().parse_args(arguments)
    try:
        document, text, code = options.command(options)
        print(_json(document) if options.json else text)
        sys.stdout.flush()
        return code
    except EngineError as error:
        if options.json:
            print(_json(error_document(error)))
        elif isinstance(error, DataError) and error.report:
            print(failure_text(error.report))
        hint = " `mono-quant runs list --state unfinished`, then `runs resume`." if isinstance(error, Paused) else ""
        print(f"mono-quant: {plain(str(error))}{hint}", file=sys.stderr)
        return 130 if isinstance(error, Cancelled) else 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(
            "mono-quant: The machine has not enough memory for this; close other programs or take a smaller model.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("mono-quant: cancelled.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _json(document: Any) -> str:
    """One line of valid JSON; a number that JSON cannot say (which costs a second look) becomes null."""
    try:
        return json.dumps(document, allow_nan=False)
    except ValueError:
        return json.dumps(to_data(document))


Answer = tuple[Document | list[Any], str, int]


def _inspect(options: argparse.Namespace) -> Answer:
    with _opened(options) as (summary, _):
        return inspect_document(summary), inspect_text(summary), 0


def _plan(options: argparse.Namespace) -> Answer:
    with _opened(options) as (summary, _):
        plan = _planned(options, summary)
        needs = budget.within(plan, options.memory_limit)
        time = duration.expected(plan, runs_folder())
        text = plan_text(plan, api.consumers(plan)) + f"\n{needs_text(needs, time)}"
        document = plan_document(plan) | {"needs": to_data(needs), "time": to_data(time) if time else None}
        return document, text, 2 if plan.errors else 0


def _quantize(options: argparse.Namespace) -> Answer:
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


def _calibrate(options: argparse.Namespace) -> Answer:
    data = data_of(options)
    assert data is not None
    with load_asked(options) as model, Interruptible(options) as monitor:
        report = api.calibrate(
            model, data, options.output, observers=tuple(options.observer or ("minmax",)), second=options.second,
            overwrite=options.overwrite, monitor=monitor,
        )  # fmt: skip
    return to_data(report), calibration_text(report), 0


def _evaluate(options: argparse.Namespace) -> Answer:
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


def _certify(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        data = data_of(options)
        if data is None:
            found = api.certify(options.path, options.against, forward=not options.no_forward, monitor=monitor)
        else:
            with load_asked(options, options.against) as source:
                found = api.certify(options.path, source, data=data, forward=not options.no_forward, monitor=monitor)
    return _certificate(options, found)


def _validate(options: argparse.Namespace) -> Answer:
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


def _export(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        report = api.export(
            options.path, options.output, format=options.format, shard_size=options.shard_size,
            overwrite=options.overwrite, monitor=monitor,
        )  # fmt: skip
    return report_document(report), f"Wrote {report.output} ({report.bytes_after:,} bytes).", 0


def _dequantize(options: argparse.Namespace) -> Answer:
    with Interruptible(options) as monitor:
        report = api.dequantize(
            options.path, options.output, shard_size=options.shard_size, overwrite=options.overwrite, monitor=monitor
        )
    return report_document(report), f"Wrote {report.output} ({report.bytes_after:,} bytes).", 0


def _schemes(options: argparse.Namespace) -> Answer:
    rows = [{"examples": f.examples, "title": f"{f.title}: {f.summary}"} for f in choices.scheme_choices()]
    algorithms = choices.algorithm_choices()
    text = table(["scheme", "what"], [[r["examples"], r["title"]] for r in rows])
    text += "\n\n" + table(["algorithm", "what"], [[a.name, a.summary] for a in algorithms])
    settings = [[f"{a.name}:{o.name}=", option_words(o)] for a in algorithms for o in a.options]
    text += "\n\n" + table(["option", "what"], settings)
    return {"schemes": rows, "algorithms": [to_data(a) for a in algorithms]}, text, 0


def _recipes(options: argparse.Namespace) -> Answer:
    if options.name:
        text = choices.recipe_to_text(choices.recipe(options.name))
        return {"name": options.name, "toml": text}, text.rstrip(), 0
    rows = [{"name": r.name, "scheme": choices.scheme_name(r.default), "activations": r.activations} for r in choices.presets()]
    builtin = [{"note": rule.note, "scheme": choices.scheme_name(rule.scheme)} for rule in choices.builtin_rules()]
    text = table(["recipe", "weights", "activations"], [list(row.values()) for row in rows])
    text += "\n\nBuilt-in rules, after a recipe's own: " + "; ".join(rule["note"] for rule in builtin) + "."
    return {"recipes": rows, "builtin_rules": builtin}, text, 0


def _planned(options: argparse.Namespace, summary: api.ModelSummary) -> Plan:
    recipe = _recipe(options.recipe) if options.recipe is not None else choices.recipe(options.scheme)
    algorithm = _algorithm(options)
    if algorithm:
        recipe = dataclasses.replace(recipe, algorithm=algorithm)
    changes = {"activations": options.activations, "observer": options.observer}
    recipe = dataclasses.replace(recipe, **{key: value for key, value in changes.items() if value is not None})
    if options.no_sequential:
        recipe = dataclasses.replace(recipe, sequential=False)
    return api.plan(
        summary, choices.recipe_from_text(choices.recipe_to_text(recipe)), format=options.format, shard_size=options.shard_size
    )


def _recipe(path: str) -> Recipe:
    """From a file, or from standard input for ``-``, so that one pasted command can hold it all."""
    return choices.recipe_from_text(sys.stdin.read(recipes.LONGEST + 1)) if path == "-" else choices.load_recipe(path)


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


class _Parser(argparse.ArgumentParser):
    """Usage errors, too, are one sentence; with ``--json`` also one document."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps({"error": message, "kind": "UsageError"}))
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mono-quant", description="Quantize PyTorch models, and see what it does to each layer.")
    parser.add_argument("--version", action="version", version=f"mono-quant {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], Answer], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(command=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        return sub

    inspect = command("inspect", _inspect, "Show what is in a model, from headers alone.")
    inspect.add_argument("path", metavar="PATH")
    planning = command("plan", _plan, "Show what a recipe would do, to the byte, without reading a weight.")
    quantize = command("quantize", _quantize, "Quantize a model and measure every layer.")
    for sub in (planning, quantize):
        sub.add_argument("path", metavar="PATH")
        what = sub.add_mutually_exclusive_group(required=sub is planning)
        what.add_argument("--scheme", metavar="S", default="W4A16" if sub is quantize else None, help="preset or scheme")
        what.add_argument("--recipe", metavar="FILE", help="a recipe in TOML, or - for standard input")
        _add_algorithms(sub)
        names = ", ".join(info.name for info in choices.activation_choices())
        sub.add_argument("--activations", metavar="A", help=names)
        sub.add_argument("--observer", metavar="O", help="how static activations get their range (default minmax)")
        sub.add_argument("--no-sequential", action="store_true", help="calibrate all layers on what the float model gives them")
    for sub in (inspect, planning, quantize):
        add_model_flags(sub)
    for sub in (planning, quantize):
        sub.add_argument(
            "--memory-limit", metavar="N", type=size, help="most memory of the run, e.g. 2GB (default: what is free)"
        )
    add_data_flags(quantize, required=False)
    quantize.add_argument("--stats", metavar="STATS", help="statistics of an earlier `calibrate`, instead of --data")
    quantize.add_argument(
        "--measure", type=int, default=16, metavar="N", help="samples on which outputs are measured (default 16)"
    )
    calibrate = command("calibrate", _calibrate, "Run the float model on data: ranges, convergence, layers never reached.")
    evaluate = command("evaluate", _evaluate, "How a model does on data, float beside quantized.")
    for sub, what in ((calibrate, "MODEL"), (evaluate, "MODEL|ARTIFACT")):
        sub.add_argument("path", metavar=what)
        add_model_flags(sub)
        add_data_flags(sub, required=True)
    calibrate.add_argument("-o", "--output", metavar="STATS", help="keep statistics for `quantize --stats`")
    calibrate.add_argument("--observer", action="append", metavar="O", help="ranges to keep; may be given several times")
    calibrate.add_argument("--overwrite", action="store_true", help="replace STATS if it exists")
    calibrate.add_argument("--second", action="store_true", help="also second moments, for gptq, awq and adaround")
    evaluate.add_argument("--float", metavar="MODEL", help="the float model of which ARTIFACT is made, to compare with")
    export = command("export", _export, "Repackage an artifact in another format; tensors stay the same.")
    export.add_argument("path", metavar="ARTIFACT")
    dequantize = command("dequantize", _dequantize, "Decode an artifact to ordinary float weights.")
    dequantize.add_argument("path", metavar="ARTIFACT")
    certify = command("certify", _certify, "Open an artifact again and compare it with its source; exit 3 if something is wrong.")
    validate = command("validate", _validate, "Check one artifact without its source; exit 3 if something is wrong.")
    for sub in (certify, validate):
        sub.add_argument("path", metavar="ARTIFACT")
        sub.add_argument("--page", metavar="FILE", help="also write the certificate as an HTML page that prints")
        sub.add_argument("--no-forward", action="store_true", help="do not load a model folder in transformers")
    certify.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint that it was made of")
    add_model_flags(certify)
    add_data_flags(certify, required=False)
    report = command("report", cli_runs.report, "Write a run as one HTML page with plots that opens offline.")
    report.add_argument("run", metavar="RUN|ARTIFACT", help="a run's id, or the beginning of it, or what a run wrote")
    report.add_argument("-o", "--output", metavar="FILE", required=True)
    report.add_argument("--certify", action="store_true", help="open the artifact again, compare it with its model, and say so")
    names = [form.name for form in choices.formats()]
    for sub in (planning, quantize, export):
        sub.add_argument("--format", choices=names, required=sub is export, help="output format")
    for sub in (planning, quantize, export, dequantize):
        sub.add_argument("--shard-size", metavar="N", type=size, help="largest file, e.g. 4GB (folders only)")
    for sub in (quantize, export, dequantize):
        sub.add_argument("-o", "--output", metavar="OUT", required=True)
        sub.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    quantize.add_argument("--resume", action="store_true", help="go on with what a killed or paused run to OUT left, if it did")
    quantize.add_argument("--reuse", metavar="RUN", help="take layers that did not change from this earlier run's artifact")
    quantize.add_argument("--no-record", action="store_true", help="keep no record of this run in the ledger (`mono-quant runs`)")
    quantize.add_argument("--report", metavar="FILE", help="also write the full report, histograms included, as JSON")
    cli_comparing.add_flags(
        command("compare", cli_comparing.compare, "Runs, artifacts and float models side by side, told by the first.")
    )
    cli_searching.add_flags(
        command(
            "sensitivity", cli_searching.sensitivity, "The error of every layer under every scheme, in one pass over each weight."
        ),
        command("search", cli_searching.search, "A scheme for every layer under a budget, as a recipe."),
    )
    runs = commands.add_parser("runs", help="List, show, repeat, export or delete the runs made so far.")
    cli_runs.add_commands(runs)
    command("schemes", _schemes, "List number formats and algorithms.")
    recipes = command("recipes", _recipes, "List presets, or print one as TOML.")
    recipes.add_argument("name", nargs="?", metavar="NAME")
    return parser


def _add_algorithms(parser: argparse.ArgumentParser) -> None:
    """One flag per algorithm's option."""
    group = parser.add_argument_group("algorithms", "how codes are chosen; a recipe's rules may say otherwise for their layers")
    group.add_argument("--algorithm", metavar="A", help=", ".join(a.name for a in choices.algorithm_choices()))
    for algorithm in choices.algorithm_choices():
        for option in algorithm.options:
            kinds = {"int": int, "float": float, "str": str}
            group.add_argument(
                f"--{algorithm.name}-{option.name}",
                type=kinds[option.type],
                choices=option.choices or None,
                metavar=None if option.choices else "N",
                help=option_words(option).replace("%", "%%"),
            )


def run() -> None:
    """The console command: one short-lived process, in which collecting cycles only costs time."""
    gc.disable()
    keep_freed_memory()
    sys.exit(main())
