"""Made-up samples, for a look at shapes and speed: random tokens and normal numbers say nothing about real activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.calibration.batches import words
from engine.calibration.samples import Raw, Reader, Samples, text_length
from engine.errors import InputError
from engine.records.calibration import DataSpec, InputInfo, ModelInputs
from engine.records.dtypes import FLOATS

if TYPE_CHECKING:
    import torch

COUNT = 128
PIXELS = 224
SIZE = 64
"""What stands for a size that may be any."""


class SyntheticSamples(Samples):
    """Tokens uniform in the vocabulary, masks of ones, everything else from N(0, 1). Each sample has a generator of its own."""

    noun, synthetic = "synthetic samples", True

    def __init__(self, spec: DataSpec, inputs: ModelInputs) -> None:
        count = spec.samples or COUNT
        super().__init__(count, range(count))
        self._seed = spec.seed
        self._shapes = {info: _shape(info, spec, inputs) for info in inputs.arguments if info.required}
        self.detail = ", ".join(f"{info.name} {words(shape)}" for info, shape in self._shapes.items())
        self.extra = repr(self._shapes)

    def load(self, indices: tuple[int, ...]) -> Raw:
        import torch

        rows: dict[str, list[torch.Tensor]] = {info.name: [] for info in self._shapes}
        for index in indices:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
            for info, shape in self._shapes.items():
                rows[info.name].append(_value(info, shape, generator))
        return Raw({name: torch.stack(values) for name, values in rows.items()})


def _value(info: InputInfo, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    if info.role == "mask":
        return torch.ones(shape, dtype=torch.int64)
    if _whole(info):
        return torch.randint(int(info.low or 0), int(info.high or 0) + 1, shape, generator=generator)
    drawn = torch.randn(shape, generator=generator)
    return drawn.clamp(info.low, info.high) if info.low is not None or info.high is not None else drawn


def _whole(info: InputInfo) -> bool:
    return info.role == "tokens" or info.dtype not in FLOATS


def _shape(info: InputInfo, spec: DataSpec, inputs: ModelInputs) -> tuple[int, ...]:
    if info.role != "mask" and _whole(info) and info.high is None:
        raise InputError(f"How large {info.name} may be is not known, so nothing can be made up for it; give a data file.")
    if info.role in ("tokens", "mask") and (info.shape is None or len(info.shape) == 1):
        return (text_length(spec, inputs, info),)
    if info.shape is None:
        raise InputError(f"The shape of {info.name} is not known, so nothing can be made up for it; give a data file.")
    free = PIXELS if info.role == "pixels" else spec.length or SIZE
    return tuple(free if size is None else size for size in info.shape)


READER = Reader("synthetic", "Synthetic", (), lambda path: False, SyntheticSamples)
