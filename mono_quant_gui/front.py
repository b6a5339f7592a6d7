"""The size–error front on arrays: what every budget gives every layer, fast enough for a slider that moves."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Front:
    """Points from the cheapest upwards: ``nbytes`` rise and ``errors`` fall. ``layers`` are those searched, group by group.

    ``uniform``: (scheme, bits per weight, error) of one scheme for all.
    """

    def __init__(self, start: dict[str, Any], steps: Sequence[Sequence[Any]]) -> None:
        """``start`` and ``steps`` as the engine's call ``front`` gives them."""
        self.parameters, self.other_bytes = int(start["parameters"]), int(start["other_bytes"])
        self.names = sorted({*start["start"], *(step[1] for step in steps)})
        code = {name: place for place, name in enumerate(self.names)}
        groups = start["groups"]
        self.layers = [layer for group in groups for layer in group]
        self._group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._start = np.fromiter((code[name] for name in start["start"]), np.int64, len(groups))
        self._groups = np.fromiter((step[0] for step in steps), np.int64, len(steps))
        self._codes = np.fromiter((code[step[1]] for step in steps), np.int64, len(steps))
        self.nbytes = np.array([start["nbytes"], *(step[2] for step in steps)], np.int64)
        self.uniform = [(p["scheme"], 8 * p["nbytes"] / self.parameters, p["error"]) for p in start["uniform"]]
        self.errors = np.array([start["error"], *(step[3] for step in steps)], float)

    def __len__(self) -> int:
        return len(self.nbytes)

    @property
    def bits(self) -> np.ndarray:
        """Bits per weight at every point."""
        return 8 * self.nbytes / self.parameters

    def bits_at(self, point: int) -> float:
        return 8 * int(self.nbytes[point]) / self.parameters

    def within_bits(self, bits: float) -> int:
        """The last point of so many bits per weight, or the first of all."""
        return max(int(np.searchsorted(self.bits, bits, side="right")) - 1, 0)

    def codes_at(self, point: int) -> np.ndarray:
        """For every layer in ``layers``, the place of its scheme in ``names``."""
        chosen = self._start.copy()
        chosen[self._groups[:point]] = self._codes[:point]  # the last of several for one group stands
        return chosen[self._group_of]

    def schemes_at(self, point: int) -> dict[str, str]:
        """Every layer's scheme."""
        return {layer: self.names[code] for layer, code in zip(self.layers, self.codes_at(point).tolist(), strict=True)}
