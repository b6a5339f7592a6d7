"""Commands about budgets: ``sensitivity`` and ``search``."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine import choices
from engine.cli.running import add_data_flags, add_model_flags, data_of, load_asked, wants_running
from engine.cli.text import Interruptible, megabytes, plain, table
from engine.errors import Cancelled, EngineError, InputError, OutputError, RecipeError
from engine.records.codec import to_data
from engine.records.search import (
    DEFAULT_MEASURES,
    MEASURES,
    METRICS,
    SCHEMES,
    TRIALS,
    Allocation,
    Attempt,
    Budget,
    CostEstimate,
    SearchSpace,
    Sensitivity,
    SensitivityRow,
    TrialLimits,
)
from engine.searching import calls as search_calls
from engine.searching.budgets import budget_of
from engine.searching.choosing import Chooser
from engine.writers.whole import write_text

Answer = tuple[dict[str, Any], str, int]
_FLAGS = {"budget": None, "size": "bytes", "compression": "ratio", "floor": "floor"}


def add_sensitivity_flags(parser: argparse.ArgumentParser) -> None:
    _add_measured(parser)
    parser.add_argument("--base", default="", metavar="S", help="with --data: also each layer left float, all others under S")
    parser.add_argument("-o", "--output", metavar="S.json", help="where the table goes")
    parser.add_argument("--overwrite", action="store_true", help="replace the output, whatever it is")


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    _add_measured(parser)
    _add_budgets(parser)
    parser.add_argument("-o", "--output", metavar="RECIPE.toml", help="where the recipe goes")
    parser.add_argument("--overwrite", action="store_true", help="replace the output, whatever it is")


def _add_measured(parser: argparse.ArgumentParser) -> None:
    """What is measured, of which model, on which data."""
    parser.add_argument("path", metavar="MODEL")
    _add_choices(parser)
    add_model_flags(parser)
    add_data_flags(parser, required=False)
    parser.add_argument(
        "--measure", action="append", choices=MEASURES[1:], metavar="M",
        help=f"with --data: {', '.join(MEASURES[1:])}; may be given several times (default {' and '.join(DEFAULT_MEASURES)})",
    )  # fmt: skip


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choices", "what every layer may be; to be kept float is always among them")
    group.add_argument(
        "--scheme",
        action="append",
        metavar="S",
        help=f"a number format; may be given several times (default {', '.join(SCHEMES)})",
    )
    group.add_argument(
        "--algorithm", metavar="A", help="how codes are chosen while errors are measured (default rtn; with --data also gptq)"
    )
    words = "what {} get: keep (default), search, or a scheme"
    group.add_argument("--embeddings", metavar="P", help=words.format("embeddings"))
    group.add_argument("--head", metavar="P", help=words.format("output heads"))
    group.add_argument("--loads", metavar="PROGRAM", help="a program that must load the result, such as vLLM")
    group.add_argument("--untied", action="store_true", help="layers that runtimes fuse (q/k/v, gate/up, experts) may differ")
    group.add_argument("--format", metavar="F", help="output format (default: the one that fits)")


def _add_budgets(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--budget", metavar="B", help="bits per weight over the layers searched, as 4.5bpw; or any of the others")
    what.add_argument("--size", metavar="B", help="of the tensor files, such as 700MB")
    what.add_argument("--compression", metavar="B", help="times smaller than the tensor files are, such as 4x")
    what.add_argument("--floor", metavar="B", help="least dB over all weights, such as 30dB; the smallest such model is chosen")
    what.add_argument("--tolerance", metavar="T", help="with --data: how much worse the metric may be, such as 1%% or 0.02")
    parser.add_argument("--metric", choices=METRICS, default="", help="what --tolerance is of (default: what the data can tell)")
    parser.add_argument("--start", metavar="B", default="", help="bits per weight from which --tolerance starts, as 3bpw")
    parser.add_argument("--sensitivity", metavar="S.json", help="a table measured before (default: measured now, or remembered)")
    parser.add_argument("--by", choices=MEASURES, default="", help="the error whose total is least (default: the best measured)")
    parser.add_argument(
        "--trials", type=int, metavar="N",
        help=f"with --data: passes over it to better the answer by measuring, 0 for none (default {TRIALS})",
    )  # fmt: skip
    parser.add_argument("--then", metavar="A", default="", help="algorithm that the recipe names, instead of the measured one")


def sensitivity(options: argparse.Namespace) -> Answer:
    """The table, in a file and on the screen. What a stopped pass found goes into the file."""
    _check_table_place(options)
    try:
        with _model(options) as (model, run), Interruptible(options) as monitor:
            found = search_calls.sensitivity(model, _space(options), run=run, monitor=monitor, listeners=_listeners(options))
    except Cancelled as stop:
        if isinstance(stop.partial, Sensitivity) and options.output:
            search_calls.save_sensitivity(stop.partial, options.output)
            raise Cancelled(f"Cancelled: {_known(stop.partial)} layers are in {options.output}; {_AGAIN}.") from None
        raise _stopped(stop) from None
    if options.output:
        search_calls.save_sensitivity(found, options.output)
    return to_data(found), table_text(found, options.output or ""), 0


def search(options: argparse.Namespace) -> Answer:
    """A recipe under a budget, in a file and on the screen."""
    if options.output and Path(options.output).exists() and not options.overwrite:
        raise OutputError(f"{options.output} exists; give --overwrite to replace it.")
    if options.tolerance is not None:
        return _within(options)
    budget, space = _budget(options), _space(options)
    trials = TRIALS if options.trials is None else options.trials
    if options.data is not None and trials > 0 and budget.kind != "floor":
        return _measured(options, budget, space, trials)
    given = any(vars(options)[key] for key in ("scheme", "algorithm", "embeddings", "head", "loads", "untied", "format"))
    try:
        with _model(options) as (model, run), Interruptible(options) as monitor:
            chooser = search_calls.chooser(
                model, options.sensitivity, space if given or not options.sensitivity else None, by=options.by,
                run=run, monitor=monitor, listeners=_listeners(options),
            )  # fmt: skip
    except Cancelled as stop:
        raise _stopped(stop) from None
    found = chooser.allocate(budget, algorithm=choices.algorithm_name(options.then) if options.then else "")
    if options.output:
        write_text(options.output, found.recipe)
    front = [{"bytes": p.nbytes, "bits": p.bits, "error": p.error} for p in chooser.points()]
    return (
        to_data(found) | {"schemes": dict(found.schemes), "front": front},
        allocation_text(chooser, found, options.output or ""),
        0,
    )


def _measured(options: argparse.Namespace, budget: Budget, space: SearchSpace, trials: int) -> Answer:
    """A budget's answer bettered by measuring; every trial is told as it ends."""
    if not options.json:
        print(f"Afterwards up to {trials} trials, each a pass over the data (--trials).", file=sys.stderr, flush=True)
    try:
        with _model(options) as (model, run), Interruptible(options) as monitor:
            assert run is not None
            found, attempts = search_calls.search_measured(
                model, budget, run, limits=TrialLimits(trials, options.metric), space=None if options.sensitivity else space,
                table=options.sensitivity, by=options.by, algorithm=choices.algorithm_name(options.then) if options.then else "",
                monitor=monitor, listeners=_listeners(options), on_attempt=_told(options),
            )  # fmt: skip
    except Cancelled as stop:
        raise _stopped(stop) from None
    return _after_trials(options, found, attempts)


def _told(options: argparse.Namespace) -> Callable[[Attempt], None]:
    def tell(attempt: Attempt) -> None:
        if not options.json:
            print(attempt_text(attempt), file=sys.stderr, flush=True)

    return tell


def _after_trials(options: argparse.Namespace, found: Allocation, attempts: Sequence[Attempt]) -> Answer:
    if options.output:
        write_text(options.output, found.recipe)
    text = f"{found.bits:.3f} bits per weight; {found.format}: {found.predicted_bytes:,} bytes; {len(attempts)} trials"
    text += f"\nWrote {plain(options.output)}" if options.output else f"\n\n{found.recipe.rstrip()}"
    return to_data(found) | {"schemes": dict(found.schemes), "attempts": to_data(tuple(attempts))}, text, 0


def _within(options: argparse.Namespace) -> Answer:
    """Layers are relaxed until a measured metric is within a tolerance; every trial is told as it ends."""
    tolerance = _tolerance(options.tolerance)
    if options.data is None:
        raise InputError("--tolerance measures the model: give --data.")
    data = data_of(options)
    assert data is not None

    try:
        with load_asked(options) as model, Interruptible(options) as monitor:
            found, attempts = search_calls.search_within(
                model, tolerance, data, metric=options.metric, start=options.start, space=_space(options),
                table=options.sensitivity, by=options.by, algorithm=options.then, monitor=monitor,
                listeners=_listeners(options), on_attempt=_told(options),
            )  # fmt: skip
    except Cancelled as stop:
        raise _stopped(stop) from None
    return _after_trials(options, found, attempts)


def _tolerance(text: str) -> float:
    """1% or 0.01."""
    try:
        value = float(text.rstrip("% ")) / (100 if text.rstrip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RecipeError(f"{text!r} is no tolerance; write for example 1% or 0.01.")
    return value


def attempt_text(attempt: Attempt) -> str:
    """One trial in a line."""
    scores = [("perplexity", attempt.scores.perplexity), ("accuracy", attempt.scores.accuracy), ("KL", attempt.divergence)]
    words = ", ".join(f"{name} {value:.4g}" for name, value in scores if value is not None)
    words += "" if attempt.loss == attempt.divergence else f"; {100 * attempt.loss:+.2f} %"
    end = "within" if attempt.within else "not within"
    return f"{attempt.bits:.3f} bits per weight, {len(attempt.relaxed)} layers unlike the first trial: {words}; {end}"


@contextlib.contextmanager
def _model(options: argparse.Namespace) -> Iterator[tuple[Any, search_calls.Run | None]]:
    """The model as files, or running where there are data or code to run."""
    data = data_of(options)
    if not wants_running(options):
        yield options.path, None
        return
    with load_asked(options) as loaded:
        base = getattr(options, "base", "")
        yield loaded, search_calls.Run(data, tuple(options.measure or DEFAULT_MEASURES), base) if data else None


_AGAIN = "the same command goes on from there"


def _known(found: Sensitivity) -> str:
    known = sum(any(cell.noise is not None for cell in row.cells if cell.scheme != "keep") for row in found.rows)
    return f"{known} of {len(found.rows)}"


def _stopped(stop: Cancelled) -> Cancelled:
    if not isinstance(stop.partial, Sensitivity):
        return stop
    return Cancelled(f"Cancelled: {_known(stop.partial)} layers are measured and remembered; {_AGAIN}.")


def _listeners(options: argparse.Namespace) -> search_calls.Listeners:
    return search_calls.Listeners(cost=None if options.json else lambda cost: print(cost_text(cost), file=sys.stderr, flush=True))


def _check_table_place(options: argparse.Namespace) -> None:
    """Known before the pass, not after it: only a table gives way to a table."""
    if not options.output or not Path(options.output).exists() or options.overwrite:
        return
    try:
        search_calls.load_sensitivity(options.output)
    except EngineError:
        raise OutputError(f"{options.output} exists and is no sensitivity table; give --overwrite to replace it.") from None


def _space(options: argparse.Namespace) -> SearchSpace:
    policies = {key: getattr(options, key) for key in ("embeddings", "head", "algorithm", "loads", "format")}
    named = {key: value for key, value in policies.items() if value}
    return SearchSpace(tuple(options.scheme or SCHEMES), tied=not options.untied, **named)


def _budget(options: argparse.Namespace) -> Budget:
    flag = next(name for name in _FLAGS if getattr(options, name) is not None)
    return budget_of(getattr(options, flag), _FLAGS[flag])


def cost_text(cost: CostEstimate) -> str:
    """What a pass will take, before it starts."""
    if not cost.cells:
        return f"{cost.layers} layers: all {cost.cached:,} errors are known from before."
    words = f"{cost.layers} layers, {cost.cells:,} errors to measure"
    words += f" ({cost.cached:,} known from before)" if cost.cached else ""
    words += f", {cost.forwards:,} passes over the data" if cost.forwards else ""
    return words + (f": about {_time(cost.seconds)}." if cost.seconds is not None else ".")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def table_text(found: Sensitivity, written: str) -> str:
    """dB of every layer under every scheme."""
    schemes = [cell.scheme for cell in found.rows[0].cells if cell.scheme != "keep"]
    rows = [[row.layer, *(_db(row, scheme) for scheme in schemes)] for row in found.rows]
    words = [f"{row.layer}: {plain(why)}" for row in found.rows for why in dict.fromkeys(c.problem for c in row.cells) if why]
    text = [table(["layer", *schemes], rows), "", *words]
    text.append(f"SQNR of the weights in dB; {found.measured:,} errors measured, {found.cached:,} known, {found.seconds:.1f} s.")
    return "\n".join([*text, *([f"Wrote {plain(written)}"] if written else [])])


def _db(row: SensitivityRow, scheme: str) -> str:
    cell = row.cell(scheme)
    if cell is None or cell.noise is None or not row.signal:
        return "–"
    return f"{10 * math.log10(row.signal / cell.noise):.1f}" if cell.noise else "exact"


def allocation_text(chooser: Chooser, found: Allocation, written: str) -> str:
    """The schemes chosen, what they cost, and how near the best they are."""
    lines = chooser.found.lines
    rows = [[name, scheme, f"{lines[name][scheme].nbytes:,}"] for name, scheme in found.schemes]
    gap = 0.0 if found.error <= found.bound or not found.bound else found.error / found.bound - 1
    proof = "proven best" if found.exact else "not proven best"
    text = [table(["layer", "scheme", "bytes"], rows), ""]
    text.append(
        f"{found.bits:.3f} bits per weight over {len(rows)} layers; {found.format}: {found.predicted_bytes:,} bytes "
        f"({megabytes(found.predicted_bytes)})" + (f", {found.db:.2f} dB" if found.db is not None else "")
    )
    text.append(f"{proof}; the linear program's bound is {100 * gap:.3g} % away")
    text += [f"{scheme} is left out: {plain(why)}" for scheme, why in chooser.found.dropped.items()]
    text += [f"Wrote {plain(written)}"] if written else ["", found.recipe.rstrip()]
    return "\n".join(text)
