"""A batch of samples as a model takes it, and the checks that every batch passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.calibration.samples import Raw
from engine.errors import DataError
from engine.records.calibration import InputInfo, ModelInputs

if TYPE_CHECKING:
    import torch

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(slots=True)
class Batch:
    """Samples for one forward. ``indices`` are those of the samples in the data; ``labels`` is (samples, ...)."""

    arguments: tuple[torch.Tensor, ...] = ()
    keywords: dict[str, torch.Tensor] = field(default_factory=dict)
    labels: torch.Tensor | None = None
    indices: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many samples it holds."""
        return len(self.indices)

    def __call__(self, module: torch.nn.Module) -> Any:
        """One forward of the module; whatever it returns."""
        return module(*self.arguments, **self.keywords)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a torch type as safetensors spells it."""
    name = str(dtype).removeprefix("torch.")
    return next((short for short, long in _TORCH.items() if long == name), name.upper())


def make_batch(raw: Raw, indices: tuple[int, ...], inputs: ModelInputs) -> Batch:
    """Match values to arguments, by name where names agree, else by position; then check and cast them. Raises DataError."""
    _check_length(raw, indices, inputs)
    named = _by_name(raw, inputs)
    labels = None if raw.labels is None else _checked_labels(raw.labels, indices)
    if named is not None:
        known = {info.name: info for info in inputs.arguments}
        keywords = {name: checked(value, name, indices, known.get(name)) for name, value in named.items()}
        return Batch((), keywords, labels, indices)
    values = _by_position(raw, inputs)
    return Batch(tuple(checked(value, name, indices, info) for name, value, info in values), {}, labels, indices)


def _check_length(raw: Raw, indices: tuple[int, ...], inputs: ModelInputs) -> None:
    """Token ids beyond the positions that a model knows."""
    first = inputs.arguments[0] if inputs.arguments else None
    values = raw.values if isinstance(raw.values, tuple) else tuple(raw.values.values())
    if first is None or first.role != "tokens" or not inputs.max_length or not values or values[0].ndim != 2:
        return
    if values[0].shape[1] > inputs.max_length:
        raise DataError(
            f"Sample {indices[0]} has {values[0].shape[1]:,} token ids, the model takes {inputs.max_length:,} at most."
        )


def _by_name(raw: Raw, inputs: ModelInputs) -> dict[str, torch.Tensor] | None:
    """Values under the arguments' names; None when names do not agree. Names that nothing is known of are passed on."""
    if isinstance(raw.values, tuple):
        return None
    values = dict(raw.values)
    if not values.keys() & {info.name for info in inputs.arguments}:
        return None
    missing = [info.name for info in inputs.arguments if info.required and info.name not in values]
    if missing:
        raise DataError(
            f"The data has {', '.join(values)}, but the model also needs {', '.join(missing)}; add it under that name."
        )
    return values


def _by_position(raw: Raw, inputs: ModelInputs) -> list[tuple[str, torch.Tensor, InputInfo | None]]:
    values = raw.values if isinstance(raw.values, tuple) else tuple(raw.values.values())
    names = [""] * len(values) if isinstance(raw.values, tuple) else list(raw.values)
    known = inputs.arguments
    required = sum(info.required for info in known)
    if inputs.known and known and not required <= len(values) <= len(known):
        theirs = ", ".join(info.name for info in known if info.required or len(values) > required)
        ours = f" ({', '.join(names)})" if all(names) else ""
        raise DataError(f"The data has {_inputs(len(values))}{ours}, but the model takes {_inputs(required)} ({theirs}).")
    padded = [*known, *[None] * len(values)][: len(values)]
    return [
        (name or (info.name if info else f"input {number}"), value, info)
        for number, (name, value, info) in enumerate(zip(names, values, padded, strict=True))
    ]


def _inputs(count: int) -> str:
    return f"{count} input{'s' if count != 1 else ''}"


def checked(value: torch.Tensor, name: str, indices: tuple[int, ...], info: InputInfo | None) -> torch.Tensor:
    """The value in the argument's type: shape, finite, in range.

    value  (samples, ...). Raises DataError naming the first sample that is wrong.
    """
    if info is not None:
        _check_shape(value, name, indices, info)
    _check_finite(value, name, indices)
    if info is None:
        return value
    cast = _cast(value, name, indices, info)
    _check_limits(cast, name, indices, info)
    return cast


def _check_shape(value: torch.Tensor, name: str, indices: tuple[int, ...], info: InputInfo) -> None:
    if info.shape is None:
        return
    shape, wanted = tuple(value.shape[1:]), info.shape
    if _fits(shape, wanted):
        return
    if info.role == "tokens":
        raise DataError(
            f"Sample {indices[0]}: {name} has the shape {words(shape)}, but the model takes token ids, in one row a sample."
        )
    hint = ""
    if len(shape) == len(wanted) - 1:
        missing = _fits(shape, wanted[1:]) and wanted[0] in (1, None)
        hint = "; give every sample a first axis of 1" if missing else "; the data's first axis must count samples: add it"
    elif len(shape) == len(wanted) + 1 and _fits(shape[1:], wanted):
        hint = "; there is one axis too many: only the first may count samples"
    raise DataError(f"Sample {indices[0]}: {name} has the shape {words(shape)}, but the model takes {words(wanted)}{hint}.")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(need in (None, size) for size, need in zip(shape, wanted, strict=True))


def words(shape: tuple[int | None, ...]) -> str:
    """A shape for people: 3×224×224; "?" where any size will do."""
    return "×".join("?" if size is None else str(size) for size in shape) or "a single number"


def _check_finite(value: torch.Tensor, name: str, indices: tuple[int, ...]) -> None:
    if value.is_floating_point():
        at = _first(~value.isfinite(), indices)
        if at is not None:
            raise DataError(f"Sample {at}: {name} holds NaN or Inf; mend or remove that sample.")


def _first(wrong: torch.Tensor, indices: tuple[int, ...]) -> int | None:
    """The sample of the first row with something wrong."""
    if not bool(wrong.any()):
        return None
    return indices[int(wrong.reshape(len(indices), -1).any(1).nonzero()[0])]


def _cast(value: torch.Tensor, name: str, indices: tuple[int, ...], info: InputInfo) -> torch.Tensor:
    import torch

    target = getattr(torch, _TORCH.get(info.dtype, ""), None)
    if target is None or value.dtype == target:
        return value
    if value.is_floating_point():
        if not target.is_floating_point:
            wants = "integers (token ids)" if info.role == "tokens" else f"integers ({info.dtype})"
            raise DataError(f"{name} holds {dtype_name(value.dtype)} numbers, but the model takes {wants} there.")
        cast = value.to(target)
        at = _first(~cast.isfinite(), indices)
        if at is not None:
            raise DataError(f"Sample {at}: {name} holds values that are too large for the model's {info.dtype}.")
        return cast
    if target.is_floating_point and info.role == "tensor" and info.shape is None:
        return value  # nothing but the name is known: these may well be ids
    cast = value.to(target)
    at = _first(cast.to(value.dtype) != value, indices)
    if at is not None:
        raise DataError(f"Sample {at}: {name} holds {dtype_name(value.dtype)} values that the model's {info.dtype} cannot hold.")
    return cast


def _check_limits(value: torch.Tensor, name: str, indices: tuple[int, ...], info: InputInfo) -> None:
    low, high = info.low, info.high
    wrong = None
    for limit, beyond in ((low, value.lt), (high, value.gt)):
        if limit is not None:
            wrong = beyond(limit) if wrong is None else wrong | beyond(limit)
    at = None if wrong is None else _first(wrong, indices)
    if at is None or wrong is None:
        return
    number = value[indices.index(at)][wrong[indices.index(at)]].reshape(-1)[0].item()
    if info.role == "tokens" and high is not None:
        raise DataError(
            f"Sample {at}: {name} holds the token id {number}, but the model's vocabulary has {int(high) + 1:,} tokens "
            f"(0 to {int(high):,}); make it with the model's own tokenizer."
        )
    limits = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
    raise DataError(f"Sample {at}: {name} holds {number:g}, which is outside the model's limits ({limits}).")


def _checked_labels(labels: torch.Tensor, indices: tuple[int, ...]) -> torch.Tensor:
    import torch

    _check_finite(labels, "the labels", indices)
    whole = labels.dtype != torch.bool and not labels.is_floating_point()
    return labels.long() if whole else labels
