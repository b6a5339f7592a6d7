"""The commands' words and flags."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import NoReturn

from engine import choices
from engine.cli import commands
from engine.cli import comparing as cli_comparing
from engine.cli import runs as cli_runs
from engine.cli import searching as cli_searching
from engine.cli.running import (
    add_data_flags,
    add_model_flags,
    size,
)
from engine.cli.text import (
    option_words,
)
from engine.version import VERSION


class _Parser(argparse.ArgumentParser):
    """Usage errors, too, are one sentence; with ``--json`` also one document."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps({"error": message, "kind": "UsageError"}))
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mono-quant", description="Quantize PyTorch models, and see what it does to each layer.")
    parser.add_argument("--version", action="version", version=f"mono-quant {VERSION}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], commands.Answer], words: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=words, description=words)
        sub.set_defaults(command=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        return sub

    inspect = command("inspect", commands.inspect, "Show what is in a model, from headers alone.")
    inspect.add_argument("path", metavar="PATH")
    planning = command("plan", commands.plan, "Show what a recipe would do, to the byte, without reading a weight.")
    quantize = command("quantize", commands.quantize, "Quantize a model and measure every layer.")
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
    calibrate = command("calibrate", commands.calibrate, "Run the float model on data: ranges, convergence, layers unreached.")
    evaluate = command("evaluate", commands.evaluate, "How a model does on data, float beside quantized.")
    for sub, what in ((calibrate, "MODEL"), (evaluate, "MODEL|ARTIFACT")):
        sub.add_argument("path", metavar=what)
        add_model_flags(sub)
        add_data_flags(sub, required=True)
    calibrate.add_argument("-o", "--output", metavar="STATS", help="keep statistics for `quantize --stats`")
    calibrate.add_argument("--observer", action="append", metavar="O", help="ranges to keep; may be given several times")
    calibrate.add_argument("--overwrite", action="store_true", help="replace STATS if it exists")
    calibrate.add_argument("--second", action="store_true", help="also second moments, for gptq, awq and adaround")
    evaluate.add_argument("--float", metavar="MODEL", help="the float model of which ARTIFACT is made, to compare with")
    export = command("export", commands.export, "Repackage an artifact in another format; tensors stay the same.")
    export.add_argument("path", metavar="ARTIFACT")
    dequantize = command("dequantize", commands.dequantize, "Decode an artifact to ordinary float weights.")
    dequantize.add_argument("path", metavar="ARTIFACT")
    certify = command("certify", commands.certify, "Open an artifact again beside its source; exit 3 if something is wrong.")
    validate = command("validate", commands.validate, "Check one artifact without its source; exit 3 if something is wrong.")
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
    runs = subparsers.add_parser("runs", help="List, show, repeat, export or delete the runs made so far.")
    cli_runs.add_commands(runs)
    command("schemes", commands.schemes, "List number formats and algorithms.")
    recipes = command("recipes", commands.recipes, "List presets, or print one as TOML.")
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
