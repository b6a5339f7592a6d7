"""The commands' words and flags. Only what the asked command needs is loaded: all of it takes longer than many commands do."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from engine.version import VERSION


class _Parser(argparse.ArgumentParser):
    """Usage errors, too, are one sentence; with ``--json`` also one document."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            print(json.dumps({"error": message, "kind": "UsageError"}))
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser(arguments: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of these arguments (the process's own by default); of other commands than theirs it knows the names only."""
    parser = _Parser(prog="mono-quant", description="Quantize PyTorch models, and see what it does to each layer.")
    parser.add_argument("--version", action="version", version=f"mono-quant {VERSION}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    asked = next((word for word in (sys.argv[1:] if arguments is None else arguments) if not word.startswith("-")), "")
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.words, description=command.words)
        if name == asked:
            command.fill(sub)
    return parser


def _json_flag(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _inspect(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands, running

    _json_flag(sub)
    sub.set_defaults(command=commands.inspect)
    sub.add_argument("path", metavar="PATH")
    running.add_model_flags(sub)


def _plan(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.plan)
    _add_recipe(sub, scheme=None)
    _add_format(sub, required=False)
    _add_shard_size(sub)


def _quantize(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands, running

    _json_flag(sub)
    sub.set_defaults(command=commands.quantize)
    _add_recipe(sub, scheme="W4A16")
    running.add_data_flags(sub, required=False)
    sub.add_argument("--stats", metavar="STATS", help="statistics of an earlier `calibrate`, instead of --data")
    sub.add_argument("--measure", type=int, default=16, metavar="N", help="samples on which outputs are measured (default 16)")
    _add_format(sub, required=False)
    _add_shard_size(sub)
    _add_output(sub)
    sub.add_argument("--resume", action="store_true", help="go on with what a killed or paused run to OUT left, if it did")
    sub.add_argument("--reuse", metavar="RUN", help="take layers that did not change from this earlier run's artifact")
    sub.add_argument("--no-record", action="store_true", help="keep no record of this run in the ledger (`mono-quant runs`)")
    sub.add_argument("--report", metavar="FILE", help="also write the full report, histograms included, as JSON")


def _calibrate(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands, running

    _json_flag(sub)
    sub.set_defaults(command=commands.calibrate)
    sub.add_argument("path", metavar="MODEL")
    running.add_model_flags(sub)
    running.add_data_flags(sub, required=True)
    sub.add_argument("-o", "--output", metavar="STATS", help="keep statistics for `quantize --stats`")
    sub.add_argument("--observer", action="append", metavar="O", help="ranges to keep; may be given several times")
    sub.add_argument("--overwrite", action="store_true", help="replace STATS if it exists")
    sub.add_argument("--second", action="store_true", help="also second moments, for gptq, awq and adaround")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands, running

    _json_flag(sub)
    sub.set_defaults(command=commands.evaluate)
    sub.add_argument("path", metavar="MODEL|ARTIFACT")
    running.add_model_flags(sub)
    running.add_data_flags(sub, required=True)
    sub.add_argument("--float", metavar="MODEL", help="the float model of which ARTIFACT is made, to compare with")


def _export(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.export)
    sub.add_argument("path", metavar="ARTIFACT")
    _add_format(sub, required=True)
    _add_shard_size(sub)
    _add_output(sub)


def _dequantize(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.dequantize)
    sub.add_argument("path", metavar="ARTIFACT")
    _add_shard_size(sub)
    _add_output(sub)


def _certify(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands, running

    _json_flag(sub)
    sub.set_defaults(command=commands.certify)
    _add_checked(sub)
    sub.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint that it was made of")
    running.add_model_flags(sub)
    running.add_data_flags(sub, required=False)


def _validate(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.validate)
    _add_checked(sub)


def _report(sub: argparse.ArgumentParser) -> None:
    from engine.cli import runs

    _json_flag(sub)
    sub.set_defaults(command=runs.report)
    sub.add_argument("run", metavar="RUN|ARTIFACT", help="a run's id, or the beginning of it, or what a run wrote")
    sub.add_argument("-o", "--output", metavar="FILE", required=True)
    sub.add_argument("--certify", action="store_true", help="open the artifact again, compare it with its model, and say so")


def _compare(sub: argparse.ArgumentParser) -> None:
    from engine.cli import comparing

    _json_flag(sub)
    sub.set_defaults(command=comparing.compare)
    comparing.add_flags(sub)


def _sensitivity(sub: argparse.ArgumentParser) -> None:
    from engine.cli import searching

    _json_flag(sub)
    sub.set_defaults(command=searching.sensitivity)
    searching.add_sensitivity_flags(sub)


def _search(sub: argparse.ArgumentParser) -> None:
    from engine.cli import searching

    _json_flag(sub)
    sub.set_defaults(command=searching.search)
    searching.add_search_flags(sub)


def _runs(sub: argparse.ArgumentParser) -> None:
    from engine.cli import runs

    runs.add_commands(sub)


def _schemes(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.schemes)


def _recipes(sub: argparse.ArgumentParser) -> None:
    from engine.cli import commands

    _json_flag(sub)
    sub.set_defaults(command=commands.recipes)
    sub.add_argument("name", nargs="?", metavar="NAME")


class Command(NamedTuple):
    """``words``: what it is for; ``fill`` gives its parser the flags and what carries it out."""

    words: str
    fill: Callable[[argparse.ArgumentParser], None]


COMMANDS = {
    "inspect": Command("Show what is in a model, from headers alone.", _inspect),
    "plan": Command("Show what a recipe would do, to the byte, without reading a weight.", _plan),
    "quantize": Command("Quantize a model and measure every layer.", _quantize),
    "calibrate": Command("Run the float model on data: ranges, convergence, layers unreached.", _calibrate),
    "evaluate": Command("How a model does on data, float beside quantized.", _evaluate),
    "export": Command("Repackage an artifact in another format; tensors stay the same.", _export),
    "dequantize": Command("Decode an artifact to ordinary float weights.", _dequantize),
    "certify": Command("Open an artifact again beside its source; exit 3 if something is wrong.", _certify),
    "validate": Command("Check one artifact without its source; exit 3 if something is wrong.", _validate),
    "report": Command("Write a run as one HTML page with plots that opens offline.", _report),
    "compare": Command("Runs, artifacts and float models side by side, told by the first.", _compare),
    "sensitivity": Command("The error of every layer under every scheme, in one pass over each weight.", _sensitivity),
    "search": Command("A scheme for every layer under a budget, as a recipe.", _search),
    "runs": Command("List, show, repeat, export or delete the runs made so far.", _runs),
    "schemes": Command("List number formats and algorithms.", _schemes),
    "recipes": Command("List presets, or print one as TOML.", _recipes),
}


def _add_recipe(sub: argparse.ArgumentParser, *, scheme: str | None) -> None:
    """What is to be done to which model; ``scheme`` is taken where nothing is said, None where it must be."""
    from engine import choices
    from engine.cli import running

    sub.add_argument("path", metavar="PATH")
    what = sub.add_mutually_exclusive_group(required=scheme is None)
    what.add_argument("--scheme", metavar="S", default=scheme, help="preset or scheme")
    what.add_argument("--recipe", metavar="FILE", help="a recipe in TOML, or - for standard input")
    _add_algorithms(sub)
    names = ", ".join(info.name for info in choices.activation_choices())
    sub.add_argument("--activations", metavar="A", help=names)
    sub.add_argument("--observer", metavar="O", help="how static activations get their range (default minmax)")
    sub.add_argument("--no-sequential", action="store_true", help="calibrate all layers on what the float model gives them")
    running.add_model_flags(sub)
    sub.add_argument(
        "--memory-limit", metavar="N", type=running.size, help="most memory of the run, e.g. 2GB (default: what is free)"
    )


def _add_algorithms(sub: argparse.ArgumentParser) -> None:
    """One flag per algorithm's option."""
    from engine import choices
    from engine.cli.text import option_words

    group = sub.add_argument_group("algorithms", "how codes are chosen; a recipe's rules may say otherwise for their layers")
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


def _add_format(sub: argparse.ArgumentParser, *, required: bool) -> None:
    from engine import choices

    sub.add_argument("--format", choices=[form.name for form in choices.formats()], required=required, help="output format")


def _add_shard_size(sub: argparse.ArgumentParser) -> None:
    from engine.cli.running import size

    sub.add_argument("--shard-size", metavar="N", type=size, help="largest file, e.g. 4GB (folders only)")


def _add_output(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", metavar="OUT", required=True)
    sub.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_checked(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("path", metavar="ARTIFACT")
    sub.add_argument("--page", metavar="FILE", help="also write the certificate as an HTML page that prints")
    sub.add_argument("--no-forward", action="store_true", help="do not load a model folder in transformers")
