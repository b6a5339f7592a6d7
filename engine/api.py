"""The calls that the window, the command line and users make. Every one raises only ``EngineError``s on purpose."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from engine import choices
from engine.algorithms import chain
from engine.allocator import no_collection
from engine.decoding import stored_name
from engine.errors import InputError, PlanError, RecipeError
from engine.planning import planner
from engine.readers import open_path
from engine.records.calibration import CalibrationReport, DataPreview, DataSpec, Evaluation
from engine.records.certificate import Certificate
from engine.records.look import LayerDetail, Trial
from engine.records.model import LayerInfo, ModelSummary
from engine.records.plan import Consumer, Plan
from engine.records.progress import Monitor
from engine.records.recipe import Recipe
from engine.records.report import ChannelRanges, Histogram, LayerReport, RunReport
from engine.records.trust import Factory
from engine.schemes import parse_scheme
from engine.writers import format_named

if TYPE_CHECKING:
    import torch

    from engine.calibration.data import Data
    from engine.calibration.statistics import Statistics
    from engine.models.base import RunnableModel
    from engine.planning.budget import Needs

    Running = RunnableModel | torch.nn.Module | ModelSummary | str | os.PathLike[str]
    """A model to run: loaded, a module, or the path of what to load."""
    Source = Data | DataSpec | str | os.PathLike[str] | Iterable[Any]
    """Data: opened, a specification, a path, or an iterable of tensors, tuples or mappings of them."""

Path = str | os.PathLike[str]
Model = ModelSummary | Path
"""A summary, or the path of what to open."""


def open_model(path: Path) -> ModelSummary:
    """What is in a file or folder, from headers alone: a ``.safetensors``, a model folder (sharded or not), or a
    ``.pt``/``.pth``/``.bin`` state dict.

    Raises InputError: missing, empty, truncated, of another type, lying about itself, or unsafe to open.
    """
    return open_path(path)


def plan(model: Model, recipe: Recipe | str, *, format: str | None = None, shard_size: int | None = None) -> Plan:
    """Exact output tensors and bytes, and every problem, before a weight is read.

    ``recipe``: a Recipe, a preset's or a scheme's name. ``format``: see ``formats()``; by default compressed-tensors
    for a folder with a configuration, else one safetensors file. ``shard_size``: bytes of tensors per file.
    Problems are in ``plan.problems`` and do not raise. Raises InputError, RecipeError, PlanError.
    """
    return planner.plan(_opened(model), choices.recipe(recipe), format, shard_size)


def load_runnable(
    model: torch.nn.Module | Path,
    *,
    factory: Factory | str | None = None,
    trusted: Iterable[str] = (),
    fold_batch_norm: bool = False,
    example: Any = None,
) -> RunnableModel:
    """A model whose forward can be run: a Hugging Face folder, a state dict with a ``factory`` (``file.py:callable``), a pickled
    module, an exported program (``.pt2``), or a module, which is copied.

    ``trusted``: SHA-256 sums of files whose code may run; without one TrustNeeded tells path, sum and what would run.
    ``fold_batch_norm``: into the convolutions before them. Its ``close`` removes temporary files; use it in a ``with``.
    Raises InputError, TrustNeeded, OutputError.
    """
    from engine.models import load_runnable

    chosen = Factory.parse(factory) if isinstance(factory, str) else factory
    return load_runnable(model, factory=chosen, trusted=tuple(trusted), fold_batch_norm=fold_batch_norm, example=example)


@overload
def load_model(path: Model, *, into: None = None) -> dict[str, torch.Tensor]: ...


@overload
def load_model(path: Model, *, into: torch.nn.Module) -> torch.nn.Module: ...


def load_model(path: Any, *, into: torch.nn.Module | None = None) -> Any:
    """What a ``.safetensors``, ``.pt``, ``.pth`` or model folder holds: all tensors by name, quantized weights decoded to float.

    ``into``: a module of the artifact's architecture (it may lie on the meta device, and stays as it is). Then a copy of it comes
    back, an ordinary ``torch.nn.Module`` in which quantized layers hold their codes and run on them (``engine.nn``).
    Raises InputError (with ``into`` for the first tensor that either side lacks).
    """
    if into is None:
        return load_tensors(path)
    from engine.nn import quantized_module

    return quantized_module(into, _opened(path))


def open_data(source: Source, model: RunnableModel) -> Data:
    """Data as a model takes it: arrays, images, text, tables, synthetic, or any iterable. Raises InputError, DataError."""
    from engine.calibration.data import Data, open_data

    return source if isinstance(source, Data) else open_data(source, model.inputs)


def preview_data(model: RunnableModel, data: Source, *, forward: bool = True) -> DataPreview:
    """What data hold, and whether one forward of the first batch works. Raises InputError, DataError."""
    from engine.running import calls

    return calls.preview(model, open_data(data, model), forward=forward)


def calibrate(
    model: Running,
    data: Source,
    output: Path | None = None,
    *,
    observers: Sequence[str] = ("minmax",),
    second: bool = False,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> CalibrationReport:
    """Run the float model on data and see what its layers are given: ranges, convergence, layers never reached.

    ``output`` keeps statistics for ``quantize_to(statistics=...)``; ``second`` also the second moments that GPTQ, AWQ and
    AdaRound need. Raises InputError, DataError (layer and sample named), OutputError, Cancelled.
    """
    from engine.running import gathering

    with running_model(model) as loaded:
        target = os.fspath(output) if output is not None else None
        return gathering.calibrate(
            loaded, open_data(data, loaded), target, monitor or Monitor(), observers=observers, second=second, overwrite=overwrite
        )


def evaluate(model: Running, data: Source, *, original: Running | None = None, monitor: Monitor | None = None) -> Evaluation:
    """How a model does on data: accuracy where there are labels, perplexity where there is text.

    ``original``: the float model of which ``model`` is a quantized artifact; then also output SQNR (dB), agreement and KL
    divergence. Raises InputError, DataError, Cancelled.
    """
    from engine.running import calls

    monitor = monitor or Monitor()
    if original is not None:
        if not isinstance(model, (ModelSummary, str, os.PathLike)):
            raise InputError("To compare, give the quantized model as a file or folder, and the float one as original.")
        with running_model(original) as loaded:
            return calls.evaluate(loaded, _opened(model), open_data(data, loaded), monitor)
    if isinstance(model, (ModelSummary, str, os.PathLike)) and (summary := _opened(model)).quantized:
        with running_model(summary.path, decoded=summary) as loaded:
            return calls.evaluate(loaded, summary, open_data(data, loaded), monitor, compare=False)
    with running_model(model) as loaded:
        return calls.evaluate(loaded, None, open_data(data, loaded), monitor, compare=False)


def needs(plan: Plan) -> Needs:
    """Memory and disk that carrying out a plan in this process takes, before a weight is read."""
    from engine.planning import budget

    return budget.needs(plan)


def consumers(plan: Plan) -> tuple[Consumer, ...]:
    """Who loads what this plan writes, and why not."""
    return format_named(plan.format).consumers(plan.summary, plan.layers, plan.recipe.activations)


def quantize_to(
    model: Running | Plan,
    output: Path,
    recipe: Recipe | str | None = None,
    *,
    format: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
    data: Source | None = None,
    statistics: Path | None = None,
    runnable: RunnableModel | None = None,
    measure: int = 16,
    record: bool = True,
    resume: bool = False,
    reuse: Path | None = None,
    memory_limit: int | None = None,
) -> RunReport:
    """Quantize a model, or carry out a plan made before, and write the artifact at ``output``.

    ``data`` (or ``statistics`` of an earlier ``calibrate``) is what algorithms and static activations are calibrated on; with
    data the report also has output errors, layer by layer over ``measure`` samples and of the whole model. ``runnable`` is the
    running model of a plan made before; a model that is not on disk in this form comes from ``load_runnable``.

    Memory does not grow with the model. SQNR (dB) and errors (weight units) are measured on the values that a
    reader of the written file decodes. ``record``: keep the run in the user's ledger (``runs_folder()``); where that cannot be
    written, the report's warnings say so.

    ``resume``: go on with what a killed or paused run of the same model and recipe left of the same output, after its last
    finished layer; where there is nothing, begin. ``reuse``: id or folder of an earlier run; layers that did not change since are
    taken from its artifact. ``memory_limit``: bytes that this process may take (default: what is free); below it less is held and
    weights are read more often, and what cannot fit is refused. In any case the bytes are those of an ordinary run.

    Raises PlanError, DataError (NaN or Inf: tensor and index), OutputError, Cancelled; whatever is raised, nothing half-written
    stays behind, unless it is Paused.
    """
    from engine import recording
    from engine.quantizing import pipeline, reusing
    from engine.running import calls

    on_disk = isinstance(model, (Plan, ModelSummary, str, os.PathLike))
    with contextlib.ExitStack() as stack:
        loaded = None
        if data is not None or not on_disk:
            loaded = stack.enter_context(running_model(runnable or (model.summary.path if isinstance(model, Plan) else model)))
        if isinstance(model, Plan):
            made = model
        else:
            # What is not on disk was loaded above.
            made = plan(loaded.summary if loaded else model, recipe or "W4A16", format=format, shard_size=shard_size)  # pyright: ignore
        if data is None and statistics is None and made.calibration:
            raise PlanError(calls.needs_calibration(made))
        target = os.fspath(output)
        opened = open_data(data, loaded) if data is not None and loaded else None
        known = _statistics(statistics) if statistics is not None else None

        source = reusing.earlier(reuse, made) if reuse is not None else None

        def carry_out(watching: Monitor, folder: str = "") -> RunReport:
            how = pipeline.Continuing(resume, folder, source, memory_limit)
            if opened is None and known is None:
                return pipeline.run(made, target, overwrite=overwrite, monitor=watching, how=how)
            return calls.quantize(
                made, target, loaded, opened, known, overwrite=overwrite, monitor=watching, measure=measure, how=how
            )

        if not record:
            return carry_out(monitor or Monitor())
        planner.require_runnable(made)
        pipeline.check_output(made, target, overwrite=overwrite)  # what never begins is no run
        asked = {
            "shard_size": shard_size, "measure": measure, "how": loaded.how if loaded else {},
            "statistics": os.path.abspath(statistics) if statistics is not None else "", "overwrite": overwrite,
        }  # fmt: skip
        parent = source.run.id if source and not source.refusal else ""
        with recording.recorded(made, target, monitor or Monitor(), asked, data=opened, parent=parent, resume=resume) as run:
            run.report = carry_out(run, run.folder)
        assert run.report
        return run.report


def export(
    artifact: Model,
    output: Path,
    *,
    format: str,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> RunReport:
    """Repackage an artifact in another format; its tensors stay the same to the byte. Raises as ``quantize_to``."""
    from engine.quantizing import pipeline

    made = planner.plan_export(_opened(artifact), format, shard_size)
    return pipeline.run(made, os.fspath(output), overwrite=overwrite, monitor=monitor)


def dequantize(
    artifact: Model,
    output: Path,
    *,
    shard_size: int | None = None,
    overwrite: bool = False,
    monitor: Monitor | None = None,
) -> RunReport:
    """Decode every quantized layer to float and write an ordinary checkpoint. Raises as ``quantize_to``."""
    from engine.quantizing import pipeline

    made = planner.plan_dequantize(_opened(artifact), shard_size)
    return pipeline.run(made, os.fspath(output), overwrite=overwrite, monitor=monitor)


def certify(
    artifact: Path,
    against: Running | None = None,
    *,
    data: Source | None = None,
    forward: bool = True,
    monitor: Monitor | None = None,
) -> Certificate:
    """Open an artifact again and check it from the bytes on disk: configuration, checksums, ranges, a second reader.

    ``against``: the checkpoint it was made of; then tensors missing, added, retyped or changed, and SQNR (dB) of every layer.
    ``forward``: a model folder is also loaded by transformers with compressed-tensors, where both are installed, and must compute
    what the decoded weights do. ``data``: also a forward of artifact and source on it. What is wrong is in the certificate and
    does not raise, a damaged artifact included. Raises InputError for a source or data that cannot be used, Cancelled.
    """
    from engine.certifying import beside
    from engine.certifying import certificate as certifying
    from engine.models.base import RunnableModel

    source = against.summary.path if isinstance(against, RunnableModel) else against
    if not isinstance(source, (str, os.PathLike, ModelSummary, type(None))):
        raise InputError("A certificate compares files: give the path of the checkpoint that was quantized.")
    path = source.path if isinstance(source, ModelSummary) else source
    found = certifying.certify(os.fspath(artifact), os.fspath(path) if path is not None else None, monitor)
    if forward and found.certified:
        loads = next((consumer.loads for consumer in found.consumers if consumer.name == "transformers"), "untested")
        made = beside.check(open_path(artifact), loads, monitor or Monitor())
        found = replace(found, checks=(*found.checks, made))
    if data is None or not found.certified:
        return found
    if against is None:
        raise InputError("To run the artifact on data beside its source, name the source as well (--against).")
    return replace(found, evaluation=evaluate(artifact, data, original=against, monitor=monitor))


def load_tensors(model: Model, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Tensors by name, quantized weights decoded to float in their own shape, as a reader of the file sees them.

    ``names``: tensor names (``layers.0.q_proj.weight``) or layer names; all by default.
    Raises InputError for an unknown name or a format that cannot be decoded.
    """
    from engine.decoding import decoded
    from engine.readers.source import TensorFiles

    summary = _opened(model)
    if summary.quantized and not summary.quantized.readable:
        raise InputError(f"{summary.name} is {summary.quantized.method}, which cannot be decoded here.")
    with TensorFiles(summary) as files, no_collection():
        return {name: decoded(files, layer) for name, layer in _chosen(summary.layers, names)}


def layer_histogram(model: Model, name: str) -> tuple[Histogram, ChannelRanges]:
    """Distribution of one float layer's weights: 256 bins over [-max, max], and the range of each channel."""
    from engine.quantizing import encoding
    from engine.records.dtypes import FLOATS

    (_, layer), *_rest = _chosen(_opened(model).layers, [name])
    if layer.scheme or layer.dtype not in FLOATS or not layer.parameters:
        raise InputError(f"{name} holds {layer.scheme or layer.dtype}, which has no histogram of float weights.")
    return encoding.histogram(_opened(model), layer)


def try_scheme(model: Model, name: str, scheme: str, algorithm: str = "rtn", *, activations: str = "none") -> Trial:
    """One scheme for one layer, in memory: SQNR (dB), bytes and histogram as a run would report them, and what a Gaussian weight
    of that shape would have.

    Why it cannot be applied is the trial's ``problem``. Raises InputError for an unknown layer, RecipeError for an unknown scheme
    or an algorithm that needs data.
    """
    from engine.looking.trying import Bench

    summary = _opened(model)
    (_, layer), *_rest = _chosen(summary.layers, [name])
    return Bench(summary).attempt(layer, parse_scheme(scheme), algorithm_without_data(algorithm), activations)


def algorithm_without_data(text: str) -> str:
    """The canonical name of an algorithm that needs weights alone. Raises RecipeError for others."""
    steps = chain(text)
    if needy := [str(step) for step in steps.steps if step.algorithm.data]:
        raise RecipeError(f"{needy[0]} needs calibration data: it is tried in a run, not on one layer.")
    return str(steps)


def look_at_layer(model: Model, name: str, artifact: Model | None = None, report: LayerReport | None = None) -> LayerDetail:
    """Where a layer's error lies: by channel, as an image, at its largest weights, below half a step.

    ``artifact`` and ``report``: what a run wrote, and its report of this layer; without them, of the float weights alone.
    Raises InputError, DataError.
    """
    from engine.looking.trying import Bench, look

    summary = _opened(model)
    (_, layer), *_rest = _chosen(summary.layers, [name])
    return look(Bench(summary), layer, Monitor(), _opened(artifact) if artifact is not None else None, report)[0]


@contextlib.contextmanager
def running_model(model: Any, decoded: ModelSummary | None = None) -> Iterator[RunnableModel]:
    """A model to run, closed afterwards if it was loaded here. ``decoded``: take the weights from this quantized checkpoint."""
    from engine.models import load_runnable
    from engine.models.base import RunnableModel

    if isinstance(model, RunnableModel):
        yield model
        return
    weights = load_tensors(decoded) if decoded else None
    with load_runnable(model.path if isinstance(model, ModelSummary) else model, weights=weights) as loaded:
        yield loaded


def _statistics(path: Path) -> Statistics:
    from engine.calibration.statistics import load

    if not os.path.exists(path):
        raise InputError(f"{os.fspath(path)} does not exist.")
    return load(os.fspath(path))


def _opened(model: Model) -> ModelSummary:
    return model if isinstance(model, ModelSummary) else open_path(model)


def _chosen(layers: Sequence[LayerInfo], names: Iterable[str] | None) -> list[tuple[str, LayerInfo]]:
    by_tensor = {stored_name(layer): layer for layer in layers}
    if names is None:
        return list(by_tensor.items())
    by_layer = {layer.name: tensor for tensor, layer in by_tensor.items()}
    chosen = []
    for name in names:
        tensor = name if name in by_tensor else by_layer.get(name)
        if tensor is None:
            raise InputError(f"There is no tensor or layer called {name!r}.")
        chosen.append((tensor, by_tensor[tensor]))
    return chosen
