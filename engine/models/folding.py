"""Batch norms folded into the convolutions and linear layers before them, and proved by a forward before and after.

``w' = w · g / √(v + ε)``, ``b' = (b − m) · g / √(v + ε) + β`` (Jacob et al. 2018, "Quantization and training of neural networks",
3.2), computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.models.base import call
from engine.models.pairs import find_pairs, tensors_in
from engine.models.state import running
from engine.records.calibration import ModelInputs

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-5
"""Largest difference of outputs, relative to the largest output."""
SIZES = (224, 32, 64, 28, 16, 8, 128, 256)
"""Tried for sizes of inputs that are not known, when there is no data to run on."""


@dataclass(frozen=True, slots=True)
class Folding:
    """``pairs``: names of (layer, norm) that are folded now. ``difference``: largest difference of outputs that it made."""

    pairs: tuple[tuple[str, str], ...]
    difference: float = 0.0
    notes: tuple[str, ...] = ()


def fold_batch_norm(module: torch.nn.Module, batch: Any) -> Folding:
    """Fold what can be folded, in place; norms become Identity.

    batch   a mapping of arguments, a tuple, or a tensor that the forward runs on

    Pairs whose weights would not be finite are left as they are. Where outputs then differ by more than ``TOLERANCE``
    everything is put back.
    """
    pairs, before = find_pairs(module, batch)
    notes: list[str] = []
    done: list[tuple[str, str, Any]] = []
    for layer, norm in pairs:
        undo = _fold(module, layer, norm)
        if undo is None:
            notes.append(f"{norm} is not folded into {layer}: the weights would not be finite.")
        else:
            done.append((layer, norm, undo))
    difference, problem = _compare(module, batch, before) if done else (0.0, "")
    if problem:
        for _layer, _norm, undo in reversed(done):
            undo()
        notes.append(f"No batch norm is folded: {problem}.")
        return Folding((), difference, tuple(notes))
    if not pairs:
        notes.append("No batch norm follows a convolution or linear layer in a way that could be folded.")
    return Folding(tuple((layer, norm) for layer, norm, _undo in done), difference, tuple(notes))


def fold_into(module: torch.nn.Module, inputs: ModelInputs, example: Any, notes: list[str]) -> tuple[tuple[str, str], ...]:
    """Fold on an example, or on random numbers of known shapes; what happened goes to ``notes``. Raises InputError."""
    found = fold_batch_norm(module, example if example is not None else _synthetic(module, inputs))
    notes.extend(found.notes)
    if found.pairs:
        notes.append(f"{len(found.pairs)} batch norms were folded; outputs differ by {found.difference:.2g} at most.")
    return found.pairs


def _fold(module: torch.nn.Module, layer: str, norm: str) -> Any:
    """Fold one pair. Returns what puts it back, or None when it cannot be folded."""
    import torch
    from torch import nn

    part: Any = module.get_submodule(layer)
    batch_norm: Any = module.get_submodule(norm)
    with torch.no_grad():
        folded = _folded(part, batch_norm)
    if folded is None:
        return None
    weight, bias = part.weight, part.bias
    homes = [
        (parent, key) for parent in module.modules() for key, child in parent.named_children() if child is batch_norm
    ]  # fmt: skip
    part.weight = nn.Parameter(folded[0], requires_grad=weight.requires_grad)
    part.bias = nn.Parameter(folded[1], requires_grad=weight.requires_grad)
    for parent, key in homes:
        setattr(parent, key, nn.Identity())

    def undo() -> None:
        part.weight, part.bias = weight, bias
        for parent, key in homes:
            setattr(parent, key, batch_norm)

    return undo


def _folded(part: Any, norm: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Weight and bias with the norm in them, in the weight's dtype; None where they would not be finite."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

    transposed = bool(getattr(part, "transposed", False))
    if (transposed and part.groups != 1) or bool((norm.running_var.double() + norm.eps <= 0).any()):
        return None
    old, shift_before = part.weight.detach().double(), None if part.bias is None else part.bias.detach().double()
    statistics = (norm.running_mean.double(), norm.running_var.double(), norm.eps)
    affine = [None if value is None else value.detach().double() for value in (norm.weight, norm.bias)]
    if isinstance(part, torch.nn.Linear):
        ones, zeros = torch.ones_like(statistics[0]), torch.zeros_like(statistics[0])
        gain, shift = (ones if affine[0] is None else affine[0]), (zeros if affine[1] is None else affine[1])
        weight, bias = fuse_linear_bn_weights(old, shift_before, *statistics, gain, shift)
    else:
        weight, bias = fuse_conv_bn_weights(old, shift_before, *statistics, *affine, transpose=transposed)
    weight, bias = weight.detach().to(part.weight.dtype), bias.detach().to(part.weight.dtype)
    return (weight, bias) if bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()) else None


def _compare(module: torch.nn.Module, batch: Any, before: list[torch.Tensor]) -> tuple[float, str]:
    """The largest difference of outputs, and what is wrong with it, if anything."""
    import torch

    try:
        with running(module):
            after = [value for value in tensors_in(call(module, batch)) if isinstance(value, torch.Tensor)]
    except Exception as error:  # the forward looks into a norm that is gone
        return 0.0, f"the model does not run without them ({type(error).__name__})"
    if [value.shape for value in before] != [value.shape for value in after]:
        return 0.0, "outputs have other shapes then"
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point() or not old.numel():
            continue
        difference, largest = float((old.double() - new.double()).abs().max()), float(old.double().abs().max())
        worst = max(worst, difference)
        if not difference <= TOLERANCE * largest:  # NaN too
            return difference, f"outputs would differ by {difference:.2g}, where the largest is {largest:.2g}"
    return worst, ""


def _synthetic(module: torch.nn.Module, inputs: ModelInputs) -> Any:
    """A batch of two random samples on which the forward runs. Raises InputError."""
    wanted = [argument for argument in inputs.arguments if argument.required]
    if not wanted or any(argument.shape is None for argument in wanted):
        raise InputError("Folding batch norms needs a batch to run, because the model's inputs are not known; choose data first.")
    unknown = any(size is None for argument in wanted for size in argument.shape or ())
    failure: Exception | None = None
    for size in SIZES if unknown else (0,):
        batch = {argument.name: _random(argument, size) for argument in wanted}
        try:
            with running(module):
                call(module, batch)
            return batch
        except Exception as error:
            failure = error
    raise InputError(
        "Folding batch norms needs a batch to run the model on, and it runs on none that was guessed; choose data first.",
        details=str(failure),
    )


def _random(argument: Any, size: int) -> torch.Tensor:
    import torch

    shape = (2, *(size if given is None else given for given in argument.shape))
    generator = torch.Generator().manual_seed(0)
    if argument.role == "tokens":
        return torch.randint(0, int(argument.high or 1) + 1, shape, generator=generator)
    if argument.role == "mask":
        return torch.ones(shape, dtype=torch.int64)
    types = {"F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
    return torch.randn(shape, generator=generator).to(types.get(argument.dtype, torch.float32))
