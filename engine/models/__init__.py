"""Models that run. To add a kind: a file here with its ``LOADER`` and its line in ``LOADERS``."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models import exported, factory, hugging_face, module_object, pickled
from engine.models.base import Loaded, Loader, Request, RunnableModel
from engine.records.dtypes import nbytes
from engine.records.model import ModelSummary, TensorInfo
from engine.records.trust import Factory

if TYPE_CHECKING:
    import torch

LOADERS: tuple[Loader, ...] = (module_object.LOADER, factory.LOADER, hugging_face.LOADER, exported.LOADER, pickled.LOADER)


def load_runnable(
    source: str | os.PathLike[str] | torch.nn.Module,
    *,
    factory: Factory | None = None,
    trusted: Collection[str] = (),
    fold_batch_norm: bool = False,
    device: str = "cpu",
    weights: Mapping[str, torch.Tensor] | None = None,
    example: Any = None,
) -> RunnableModel:
    """A model whose forward can be run, in evaluation mode; ``close`` it afterwards.

    source           Hugging Face folder, .safetensors or state dict with a ``factory``, pickled module, .pt2, or a module,
                     which is copied and never changed
    trusted          SHA-256 sums of code that the caller agreed to on this very call
    fold_batch_norm  batch norms go into the convolutions before them; one forward on ``example`` (a batch) finds the pairs, or on
                     random numbers where the shapes are known
    weights          tensors by stored name to use instead of those on disk: decoded ones of a quantized model

    Raises TrustNeeded where code would run that is not in ``trusted``, InputError for whatever cannot be loaded, OutputError when
    there is no room for a snapshot of weights.
    """
    source = os.path.expanduser(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
    request = Request(source, factory, trusted, weights)
    if isinstance(source, str) and not os.path.exists(source):
        raise InputError(f"{source} does not exist.")
    loader = next((loader for loader in LOADERS if loader.accepts(request)), None)
    if loader is None:
        raise InputError(
            f"{source} holds weights but no network; open a Hugging Face folder, or name the factory (file.py:function) for it."
        )
    made = _runnable(loader.load(request), request, fold_batch_norm, device, example)
    made.how = ({"factory": asdict(factory)} if factory else {}) | ({"fold_batch_norm": True} if fold_batch_norm else {})
    return made


def _runnable(loaded: Loaded, request: Request, fold: bool, device: str, example: Any) -> RunnableModel:
    from engine.models import folding, kinds, parametrizations, snapshot
    from engine.models.inputs import describe_inputs
    from engine.models.matching import match

    module = loaded.module
    for part in module.modules():
        part.training = False  # eval() of an exported program raises
    loaded.config = loaded.config or hugging_face.config_of(module)
    resolved = parametrizations.resolve(module)
    if resolved:
        loaded.notes.append(f"{len(resolved)} parametrized weights were resolved into plain ones ({resolved[0]}, ...).")
    inputs = loaded.inputs or describe_inputs(module, loaded.config, loaded.folder, example)
    folded = folding.fold_into(module, inputs, example, loaded.notes) if fold else []
    summary, folder = loaded.summary, ""
    if summary is not None and summary.quantized and request.weights is not None:
        summary = _as_float(summary)
    if summary is None or resolved or folded:
        config = summary.config if summary else None
        summary, folder = snapshot.take(module, loaded.title, "module" if loaded.summary else loaded.source, loaded.kinds, config)
    elif summary.source != "folder":
        summary = replace(summary, layers=kinds.corrected(summary.layers, kinds.exact_kinds(module)))
    model = RunnableModel(module, summary, inputs, {}, (), folder, ())
    try:
        if request.weights is not None and not loaded.filled:
            _fill(model, request.weights)
        model.places, model.unmatched = match(module, summary, _values(loaded, request, bool(folder)))
        module.to(device)
    except BaseException:
        model.close()
        raise
    model.notes = tuple(loaded.notes)
    return model


def _fill(model: RunnableModel, weights: Mapping[str, torch.Tensor]) -> None:
    from engine.models.tensors import fill

    fill(model.module, weights, f"What replaces the weights of {model.summary.name}", strict=False)


def _as_float(summary: ModelSummary) -> ModelSummary:
    """A quantized checkpoint as the float one that it decodes to: its running module has ordinary weights, under their names."""
    layers = []
    for layer in summary.layers:
        if layer.scheme:
            size = nbytes(layer.dtype, layer.shape)
            weight = TensorInfo(layer.parts[0].name.removesuffix("_packed"), layer.dtype, layer.shape, size, 0, 0)
            layer = replace(layer, parts=(weight,), scheme=None)
        layers.append(layer)
    return replace(summary, layers=tuple(layers), quantized=None)


def _values(loaded: Loaded, request: Request, snapshot: bool) -> Mapping[str, torch.Tensor] | None:
    """The tensors that are in the module by their stored names, where these are not the ones on disk."""
    if request.weights is None:
        return None
    return None if snapshot and loaded.filled else request.weights
