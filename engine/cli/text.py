"""What the command line prints for people."""

import argparse
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from engine.errors import plain
from engine.planning.budget import Needs
from engine.planning.duration import Expected
from engine.planning.recipes import describe
from engine.records.model import ModelSummary
from engine.records.plan import Consumer, Plan
from engine.records.progress import Monitor, Progress
from engine.records.recipe import OptionInfo
from engine.records.report import LayerReport, RunReport

LONGEST_CELL = 200
ESTIMATED = "estimated: some rows of its layers were encoded just now"
RIGHT = {"shape", "max error", "clipped", "parameters"}
NUMBERS = {"bytes", "dB"}
"""Words in a head whose column holds numbers."""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; numbers to the right. Control characters from a file are shown, never obeyed."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells)) if cells else len(head) for i, head in enumerate(heads)]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if head in RIGHT else value.ljust(width)
            for head, value, width in zip(heads, values, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), line(["-" * width for width in widths]), *map(line, cells)])


def _cell(text: str) -> str:
    """One long name must not widen every row of a long table."""
    text = plain(str(text))
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL // 2]}…{text[-LONGEST_CELL // 2 :]}"


def megabytes(count: int) -> str:
    """Decimal units, as disks and hubs count."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def inspect_text(summary: ModelSummary) -> str:
    rows = [
        [
            layer.name,
            layer.kind + (" ?" if layer.guessed else ""),
            _shape(layer.shape),
            layer.scheme or layer.dtype,
            f"{layer.nbytes:,}",
        ]
        for layer in summary.layers
    ]
    total = f"{summary.name}: {summary.parameters:,} parameters in {len(rows)} tensors, {megabytes(summary.nbytes)}"
    notes = [f"quantized: {summary.quantized.method} {summary.quantized.detail}".strip()] if summary.quantized else []
    notes += summary.problems
    if any(layer.guessed for layer in summary.layers):
        notes.append("? marks a kind guessed from names and shapes.")
    return "\n".join([table(["name", "kind", "shape", "dtype", "bytes"], rows), "", plain(total), *map(plain, notes)])


def plan_text(plan: Plan, consumers: Sequence[Consumer]) -> str:
    rows = [[line.layer.name, line.scheme_name, f"{line.nbytes:,}", line.rule] for line in plan.layers]
    lines = [table(["name", "scheme", "bytes", "because"], rows), ""]
    if plan.files and not plan.errors:
        lines.append(
            f"{plan.format}: {plan.predicted_bytes:,} bytes ({megabytes(plan.predicted_bytes)}), "
            f"{plan.bits_per_weight:.3f} bits per quantized weight"
        )
        lines += [f"  {c.name}: {c.loads}" + (f" ({c.reason})" if c.reason else "") for c in consumers]
    if plan.calibration:
        what = " and ".join(
            [*plan.calibration.algorithms, *([plan.calibration.activations] if plan.calibration.activations else [])]
        )
        each = plan.calibration.vector_bytes * 1000
        waiting = f", and {megabytes(each)} for every 1,000 tokens" if each else ""
        memory = f"{megabytes(plan.calibration.nbytes)} beside the model{waiting}"
        lines.append(f"needs calibration: {what} ({plan.calibration.layers} layers, {memory})")
    lines += [f"{problem.severity}: {plain(problem.message)}" for problem in plan.problems]
    lines += [f"note: {words}." for words in idle_rules(plan)]
    return "\n".join(lines)


def needs_text(needs: Needs, time: Expected | None) -> str:
    """What a run will take."""
    said = f"takes {megabytes(needs.memory)} of memory and {megabytes(needs.disk)} of disk"
    if time is None:
        return f"{said}; how long is not known before a first run of this kind"
    how = f"as fast as {time.runs} earlier run{'s' * (time.runs > 1)} of this kind" if time.runs else ESTIMATED
    seconds = "less than 0.1" if time.seconds < 0.05 else f"about {time.seconds:{'.1f' if time.seconds < 10 else ',.0f'}}"
    return f"{said}, and {seconds} s ({how})"


def idle_rules(plan: Plan) -> list[str]:
    """The recipe's own rules that decide no layer, and why."""
    said = []
    for number, (rule, effect) in enumerate(zip(plan.recipe.rules, plan.rules, strict=False), 1):
        if not effect.matches:
            said.append(f"rule {number} ({plain(describe(rule))}) matches no layer")
        elif not effect.decides:
            earlier = f"rule{'s' * (len(effect.taken) > 1)} " + " and ".join(str(place + 1) for place, _ in effect.taken)
            said.append(f"rule {number} ({plain(describe(rule))}) decides nothing: {earlier} took what it matches")
    return said


def option_words(option: OptionInfo) -> str:
    """An option's help, bounds, unit and default."""
    default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    limits = ", ".join(option.choices) or f"{option.low:g} to {option.high:g}{option.unit and ' ' + option.unit}"
    return f"{option.help} ({limits}; default {default})"


def layers_table(layers: Sequence[LayerReport]) -> str:
    rows = [
        [
            layer.name,
            layer.scheme,
            layer.algorithm,
            "exact" if layer.sqnr_db is None else f"{layer.sqnr_db:.2f}",
            f"{layer.max_error:.3g}",
            f"{100 * layer.clipped:.3f} %",
            f"{layer.bytes_after:,}",
        ]
        for layer in layers
    ]
    text = table(["name", "scheme", "algorithm", "dB", "max error", "clipped", "bytes"], rows)
    words = [f"{layer.name}: {what}." for layer in layers for what in (layer.reason, layer.note) if what]
    return "\n".join([text, *(["", *map(plain, words)] if words else [])])


def failure_text(report: RunReport) -> str:
    """What was measured before a run failed."""
    return layers_table(report.layers) + "\n\nNothing was written." if report.layers else "Nothing was written."


def run_text(plan: Plan, report: RunReport) -> str:
    text = layers_table(report.layers)
    sqnr = "exact" if report.sqnr_db is None else f"{report.sqnr_db:.2f} dB"
    worst = f", worst {report.worst_sqnr_db:.2f} dB ({report.worst_layer})" if report.worst_sqnr_db is not None else ""
    totals = [
        "",
        f"{len(report.layers)} layers quantized, {len(report.kept)} kept; SQNR {sqnr}{plain(worst)}",
        f"{megabytes(report.bytes_before)} → {megabytes(report.bytes_after)} ({report.compression:.2f}×), "
        f"{report.bits_per_weight:.3f} bits per quantized weight",
        f"{report.seconds:.2f} s, peak memory {megabytes(report.peak_memory_bytes)}",
        f"Wrote {plain(report.output)}" + (f" (run {report.run})" if report.run else ""),
    ]
    warnings = [] if report.data else [f"warning: {plain(words)}" for words in report.warnings]
    warnings += [f"{problem.severity}: {plain(problem.message)}" for problem in plan.problems]
    return "\n".join([text, *totals, *warnings])


class ProgressBar:
    """One line on a terminal, redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, progress: Progress) -> None:
        share = min(progress.done / progress.total, 1.0) if progress.total else 1.0
        left = f"{progress.seconds_left:.0f} s left" if progress.seconds_left is not None else ""
        text = f"{'█' * int(30 * share):░<30} {100 * share:3.0f} %  {left:<12} {plain(progress.layer)}"
        self._stream.write("\r" + text[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        self._stream.write("\r\x1b[K")
        self._stream.flush()


class Interruptible(Monitor):
    """Ctrl+C asks the engine to stop cleanly; a progress bar shows on a terminal."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._bar = ProgressBar(sys.stderr) if sys.stderr.isatty() and not options.json else None
        self._asked = False

    def __enter__(self) -> "Interruptible":
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._bar:
            self._bar.clear()

    def _interrupt(self, *_: object) -> None:
        self._asked = True

    def cancelled(self) -> bool:
        return self._asked

    def progress(self, progress: Progress) -> None:
        if self._bar:
            self._bar.show(progress)


class Pausable(Interruptible):
    """SIGTERM, too, ends a run: at the end of the layer, to be gone on with later. A second one stops it like Ctrl+C."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self._pausing = False

    def __enter__(self) -> "Pausable":
        super().__enter__()
        self._term = signal.signal(signal.SIGTERM, self._pause)
        return self

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._term)
        super().__exit__(*exc)

    def _pause(self, *_: object) -> None:
        self._asked = self._pausing
        self._pausing = True

    def paused(self) -> bool:
        return self._pausing
