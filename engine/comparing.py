"""Runs, artifacts and float models side by side: layer by layer, in total, and how their recipes differ.

A run's figures come from the ledger, as they were measured. Artifacts are decoded and measured here, against the float model
among the sides, the one given, or the one that a run among the sides was made of.
"""

import contextlib
import difflib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine import api
from engine.decoding import decoded
from engine.errors import EngineError, InputError
from engine.history import Ledger, runs_folder
from engine.measure.tally import sqnr_db
from engine.readers.source import TensorFiles
from engine.records.calibration import Evaluation
from engine.records.codec import from_data
from engine.records.comparison import ComparedLayer, Comparison, LayerFigures, Side, Transition
from engine.records.dtypes import FLOATS
from engine.records.model import LayerInfo, ModelSummary
from engine.records.progress import Monitor, Progress
from engine.records.run import RunRecord

NO_WEIGHTS = ("norm", "bias", "other")
HALVES = {"F16": "fp16", "BF16": "bf16"}


@dataclass(slots=True)
class _Found:
    """A side with its layers by name, while it is being put together."""

    side: Side
    figures: dict[str, LayerFigures] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    summary: ModelSummary | None = None
    source: str = ""
    kept: frozenset[str] = frozenset()
    before: dict[str, int] = field(default_factory=dict)


def compare(
    *sides: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    monitor: Monitor | None = None,
) -> Comparison:
    """Two or more runs (ids, or the beginning of one), artifacts or float models (paths); the first is what others are told by.

    ``against``: the float model that artifacts are measured against. ``runs``: the ledger's folder (default ``runs_folder()``).
    SQNR in dB, sizes in bytes. Raises InputError where a side is not there, has no report, or fewer than two are given;
    Cancelled.
    """
    if len(sides) < 2:
        raise InputError("Name at least two runs, artifacts or models to compare.")
    found = list(_sides([os.fspath(side) for side in sides], Path(runs) if runs is not None else None))
    notes: list[str] = []
    reference = _reference(found, os.fspath(against) if against is not None else None, notes)
    _measure(found, reference, monitor or Monitor(), notes)
    _fill_kept(found)
    layers = tuple(_layers(found))
    if not layers:
        raise InputError("The sides have no quantized layer in common; nothing can be compared.")
    return Comparison(
        tuple(_totalled(one, index, layers) for index, one in enumerate(found)), layers, tuple(_transitions(layers, len(found))),
        tuple(_difference(found[0].side, one.side) for one in found), reference.path if reference else "", tuple(notes),
    )  # fmt: skip


# -- sides -------------------------------------------------------------------------------------------------------------


def _sides(names: Sequence[str], folder: Path | None) -> Iterator[_Found]:
    with contextlib.ExitStack() as stack:
        ledger: Ledger | None = None
        for name in names:
            if os.path.exists(os.path.expanduser(name)):
                yield _from_path(name)
                continue
            if not name.isalnum():
                raise InputError(f"{name} does not exist.")
            ledger = ledger or stack.enter_context(Ledger(folder or runs_folder()))
            try:
                record = ledger.named(name)
            except InputError:
                raise InputError(f"{name} is neither a file nor a run; `mono-quant runs list` shows all runs.") from None
            yield _from_run(ledger, record)


def _from_path(path: str) -> _Found:
    summary = api.open_model(path)
    if summary.quantized and not summary.quantized.readable:
        raise InputError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
    layers = [layer for layer in summary.layers if layer.kind not in NO_WEIGHTS]
    quantized = any(layer.scheme for layer in layers)
    nbytes = sum(file.nbytes for file in summary.files)
    side = Side(summary.name, "artifact" if quantized else "model", summary.path, nbytes=nbytes)
    figures = {
        layer.name: LayerFigures(layer.scheme or ("keep" if quantized else layer.dtype.lower()), nbytes=layer.nbytes)
        for layer in layers
    }
    return _Found(side, figures, {layer.name: layer.parameters for layer in layers}, summary)


def _from_run(ledger: Ledger, record: RunRecord) -> _Found:
    if record.totals is None:
        raise InputError(f"Run {record.number} ({record.id}) is {record.state}: it has no report to compare.")
    totals = record.totals
    title = f"{record.name or Path(record.model_path).name} ({record.number})"
    evaluation = from_data(Evaluation, totals["evaluation"]) if totals.get("evaluation") else None
    side = Side(
        title, "run", record.artifact, record.id, record.recipe, record.data, totals["bytes_after"], None, totals["sqnr_db"],
        True, totals["worst_layer"] or "", totals["worst_sqnr_db"], evaluation, record.seconds,
    )  # fmt: skip
    reports = ledger.layers(record.id)
    figures = {
        r.name: LayerFigures(
            r.scheme, r.algorithm, r.bytes_after, r.sqnr_db, True,
            r.output.accumulated_db if r.output and r.output.accumulated_db is not None else r.output and r.output.alone_db,
        )
        for r in reports
    }  # fmt: skip
    return _Found(
        side, figures, {r.name: r.parameters for r in reports}, source=record.model_path, kept=frozenset(totals["kept"]),
        before={r.name: r.bytes_before for r in reports},
    )  # fmt: skip


# -- measuring what lies on disk ---------------------------------------------------------------------------------------


def _reference(found: Iterable[_Found], against: str | None, notes: list[str]) -> ModelSummary | None:
    """The float model to measure artifacts against: the one given, among the sides, or a run's."""
    if against is not None:
        return api.open_model(against)
    found = list(found)
    if all(one.summary is None for one in found):
        return None
    floats = [one.summary for one in found if one.side.kind == "model"]
    if floats:
        return floats[0]
    for one in found:
        if one.source and os.path.exists(one.source):
            with contextlib.suppress(EngineError):
                return api.open_model(one.source)
    notes.append("Errors of artifacts are not measured: no float model is among the sides; name it with --against.")
    return None


def _measure(found: list[_Found], reference: ModelSummary | None, monitor: Monitor, notes: list[str]) -> None:
    """Errors of every layer that lies on disk, decoded, against the reference."""
    if reference is None:
        return
    originals = {layer.name: layer for layer in reference.layers}
    chosen = [one for one in found if one.summary is not None and one.summary is not reference]
    total = sum(one.summary.nbytes for one in chosen if one.summary)
    done, started = 0, time.perf_counter()
    with TensorFiles(reference) as floats:
        for one in found:
            if one.summary is reference:
                one.figures = {name: replace(known, measured=True) for name, known in one.figures.items()}
        for one in chosen:
            assert one.summary
            signal, noise, strange = 0.0, 0.0, []
            with TensorFiles(one.summary) as files:
                for layer in one.summary.layers:
                    monitor.check()
                    monitor.progress(Progress("comparing", layer.name, done, total, time.perf_counter() - started, None))
                    done += layer.nbytes
                    original = originals.get(layer.name)
                    if layer.name not in one.figures:
                        continue
                    if original is None or original.shape != layer.shape or original.dtype not in FLOATS:
                        strange.append(layer.name)
                        continue
                    sums = _sums(floats, original, files, layer)
                    if layer.scheme or one.side.kind == "model":  # as runs count it
                        signal, noise = signal + sums[0], noise + sums[1]
                    known = one.figures[layer.name]
                    halved = HALVES.get(layer.dtype) if known.scheme == "keep" and original.dtype != layer.dtype else None
                    one.figures[layer.name] = replace(known, scheme=halved or known.scheme, sqnr_db=sqnr_db(*sums), measured=True)
            if strange:
                more = f" and {len(strange) - 1:,} more" if len(strange) > 1 else ""
                notes.append(f"{one.side.title}: {strange[0]}{more} not measured: {reference.name} has no such weight.")
            one.side = replace(one.side, sqnr_db=sqnr_db(signal, noise), measured=signal > 0)


def _sums(floats: TensorFiles, original: LayerInfo, files: TensorFiles, layer: LayerInfo) -> tuple[float, float]:
    """Sums of squares of the float weights, and of the differences from them."""
    import torch

    weight = decoded(floats, original).reshape(-1)
    other = decoded(files, layer).reshape(-1)
    signal = noise = 0.0
    for first, second in zip(weight.split(1 << 22), other.split(1 << 22), strict=True):
        wide = first.to(torch.float64)
        signal += float(wide.square().sum())
        noise += float((wide - second.to(torch.float64)).square().sum())
    return signal, noise


# -- putting it together -----------------------------------------------------------------------------------------------


def _fill_kept(found: list[_Found]) -> None:
    """A layer that a run kept and another side quantized is exact there, and as large as it was."""
    sizes: dict[str, int] = {}
    for one in found:
        plain = {name: known.nbytes for name, known in one.figures.items() if known.nbytes and not _quantized(one, name)}
        sizes |= plain | one.before
    parameters = {name: count for one in found for name, count in one.parameters.items()}
    for one in found:
        for name in one.kept & parameters.keys():
            one.figures[name] = LayerFigures("keep", nbytes=sizes.get(name), measured=True)
            one.parameters[name] = parameters[name]


def _quantized(one: _Found, name: str) -> bool:
    return one.side.kind == "run" or one.figures[name].scheme not in ("keep", *(dtype.lower() for dtype in FLOATS))


def _layers(found: list[_Found]) -> Iterator[ComparedLayer]:
    """Layers that are quantized on one side at least, in the order of the sides; float models all have weights to compare."""
    names = list(dict.fromkeys(name for one in found for name in one.figures))
    plain = all(one.side.kind == "model" for one in found)
    wanted = {name for one in found if plain or one.side.kind != "model" for name in one.figures}
    for name in (name for name in names if name in wanted):
        parameters = next(one.parameters[name] for one in found if name in one.parameters)
        yield ComparedLayer(name, parameters, tuple(one.figures.get(name) for one in found))


def _totalled(one: _Found, index: int, layers: Sequence[ComparedLayer]) -> Side:
    known = [(layer, figures) for layer in layers if (figures := layer.figures[index]) is not None]
    sizes = [(figures.nbytes, layer.parameters) for layer, figures in known if figures.nbytes is not None]
    weights = sum(count for _, count in sizes)
    side = replace(one.side, bits_per_weight=8 * sum(size for size, _ in sizes) / weights if weights else None)
    lossy = [(figures.sqnr_db, layer.name) for layer, figures in known if figures.sqnr_db is not None]
    if side.worst_layer or not lossy:
        return side
    worst, name = min(lossy)
    return replace(side, worst_layer=name, worst_db=worst)


def _transitions(layers: Iterable[ComparedLayer], sides: int) -> Iterator[Transition]:
    """Which schemes became which, most layers first."""
    layers = list(layers)
    for side in range(1, sides):
        count: Counter[tuple[str, str]] = Counter()
        weights: Counter[tuple[str, str]] = Counter()
        for layer in layers:
            first, other = layer.figures[0], layer.figures[side]
            key = (first.scheme if first else "", other.scheme if other else "")
            count[key] += 1
            weights[key] += layer.parameters
        for key, number in sorted(count.items(), key=lambda item: (-item[1], item[0])):
            yield Transition(side, *key, number, weights[key])


def _difference(first: Side, other: Side) -> str:
    """Unified difference of two recipes; empty where they are equal or one is not known."""
    if not first.recipe or not other.recipe or first.recipe == other.recipe:
        return ""
    lines = difflib.unified_diff(first.recipe.splitlines(), other.recipe.splitlines(), first.title, other.title, lineterm="", n=1)
    return "\n".join(lines)
