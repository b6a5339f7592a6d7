"""GPTQ: columns are rounded one after the other, each one's error made good by those that follow.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers". With
``H = XᵀX = M D Mᵀ``, M unit upper and D diagonal, the errors ``e = w - w'`` of a row cost
``e H eᵀ = Σ_k D_k (e_k + Σ_{j<k} e_j M_jk)²``: column k is best rounded from ``w_k + Σ_{j<k} e_j M_jk``. That is GPTQ, as Babai's
nearest plane (Chen et al. 2025, "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm"), and needs no
inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.algorithms.base import Algorithm, Inputs, Parameters, Rounding, Solution
from engine.algorithms.objective import rows_of, squared_output_error
from engine.algorithms.options import option
from engine.records.scheme import Scheme

if TYPE_CHECKING:
    import torch

MOST_DAMPING = 1.0
SPAN = 256
"""Rows that are looked at together, so that they stay in the cache."""
CLOSE = 0.98
"""A share of the rounded weight's objective from which on it must be known exactly, since the better of two is taken."""
TRIED = 128
"""Rows on which two kinds of scales are compared, where a weight has many more."""
SCALES = {"best": ("mse", "rtn"), "mse": ("mse",), "rtn": ("rtn",)}
RANGES = "mse:steps=12:smallest=0.5"
"""The range search behind ``scales=mse``: coarser than by default, since the solver makes up for most of it."""


@dataclass(frozen=True, slots=True)
class GptqOptions:
    order: str = option("activation", "columns with the largest inputs first, or as stored", choices=("activation", "stored"))
    groups: str = option(
        "static",
        "scales from the weight as it was, or (order=stored) as it is when their turn comes",
        choices=("static", "moving"),
    )
    scales: str = option("best", "how static scales are chosen; best tries both", choices=("best", "mse", "rtn"))
    damping: float = option(
        0.01, "added to the diagonal, as a share of its mean; rises by itself when it must", low=0.0, high=1.0
    )
    block: int = option(128, "columns rounded before their errors are taken to the rest", low=1, high=4096)


def solve(rounding: Rounding, weight: torch.Tensor, inputs: Inputs, options: GptqOptions) -> Solution:
    """Levels, scales and decoded weight; never worse than round to nearest in ``‖(W - W')X‖²``."""

    second = inputs.second
    if second is None:
        raise TypeError("GPTQ needs the second moment")
    plain = rounding.fitted(weight, "rtn")
    levels, decoded = rounding.nearest(weight, plain)
    nearest = Solution(levels, plain, decoded, note="round to nearest was as good")
    nearest.after = squared_output_error(weight - decoded, second, roughly=True)
    key = (options.order, options.damping)
    if key not in inputs.kept:
        inputs.kept[key] = [_factor(matrix, options) for matrix in second]
    factors: list[_Factor] = inputs.kept[key]
    chosen = [plain if scales == "rtn" else rounding.fitted(weight, RANGES) for scales in SCALES[options.scales]]
    if len(chosen) > 1 and len(weight) >= 4 * TRIED:
        chosen = [_better_on_some(rounding, weight, second, factors, chosen, options)]
    found = [_solution(rounding, weight, second, factors, parameters, options) for parameters in chosen]
    if min(map(_objective, found)) > CLOSE * nearest.after:
        nearest.after = squared_output_error(weight - decoded, second)
    best = min([nearest, *found], key=_objective)
    best.before = nearest.after
    return best


def _better_on_some(
    rounding: Rounding,
    weight: torch.Tensor,
    second: torch.Tensor,
    factors: list[_Factor],
    chosen: list[Parameters],
    options: GptqOptions,
) -> Parameters:
    """The scales that are better on some rows of every group of rows: rows are solved independently of each other."""
    import torch

    size = len(weight) // len(factors)
    count = max(TRIED // len(factors), 1)
    rows = torch.cat([torch.arange(0, size, max(size // count, 1))[:count] + first for first in range(0, len(weight), size)])
    errors = []
    for scale, zero in chosen:
        tried = _solution(rounding, weight[rows], second, factors, (scale[rows.numpy()], zero[rows.numpy()]), options)
        errors.append(_objective(tried))
    return chosen[int(np.argmin(errors))]


def _objective(solution: Solution) -> float:
    return solution.after if solution.after is not None and np.isfinite(solution.after) else np.inf


def _solution(
    rounding: Rounding,
    weight: torch.Tensor,
    second: torch.Tensor,
    factors: list[_Factor],
    chosen: Parameters,
    options: GptqOptions,
) -> Solution:
    """What the solver finds under some scales, group of rows by group; ``after`` is its objective."""
    import torch

    levels, decoded = torch.empty_like(weight), torch.empty_like(weight)
    scale, zero = (p.copy() for p in chosen)
    after = 0.0
    for group, factor in enumerate(factors):
        rows = rows_of(weight, len(factors), group)
        parameters = scale[rows], zero[rows]
        loss = _solve(rounding, weight[rows], factor, parameters, options, levels[rows], decoded[rows])
        after += factor.objective(loss, weight[rows], decoded[rows], second[group])
    notes = sorted({note for factor in factors for note in factor.notes})
    return Solution(levels, (scale, zero), decoded, note="; ".join(notes), after=after)


def _solve(
    rounding: Rounding,
    weight: torch.Tensor,
    factor: _Factor,
    parameters: Parameters,
    options: GptqOptions,
    levels: torch.Tensor,
    decoded: torch.Tensor,
) -> float:
    """One group of rows, into ``levels`` and ``decoded``; ``parameters`` (rows, groups) change where groups are moving.

    Returns what the roundings added to the objective under the damped second moment.
    """
    import torch

    loss = 0.0

    cols = weight.shape[1]
    moving = options.groups == "moving" and options.order == "stored" and rounding.by_columns and rounding.columns < cols
    order, upper = factor.order, factor.upper
    original = _turned(weight, order)
    work = original.clone()
    group_of = (order // rounding.columns).numpy().astype(np.int64)
    by_group = [np.ascontiguousarray(p.T) for p in parameters]
    step = rounding.columns if moving else options.block
    for first in range(0, cols, step):
        rounding.check()
        last = min(first + step, cols)
        block = work[first:last].numpy()
        if moving:
            within, asked = upper[first:last, first:last].T, work[first:last] - original[first:last]
            ideal = original[first:last] + torch.linalg.solve_triangular(within, asked, upper=False, unitriangular=True)
            _move(rounding, ideal.numpy(), by_group, first)
        used, local = np.unique(group_of[first:last], return_inverse=True)
        chosen = np.ascontiguousarray(by_group[0][used]), np.ascontiguousarray(by_group[1][used])
        spread = np.ascontiguousarray(upper[first:last, first:last].numpy())
        levels_found, errors, losses = rounding.solve_columns(
            block, original[first:last].numpy(), spread, chosen, local.astype(np.int64)
        )
        original[first:last] = torch.from_numpy(levels_found)  # in the place of columns that are done with
        loss += float(losses @ factor.weights[first:last])
        if last < cols:
            work[last:].addmm_(upper[first:last, last:].T, torch.from_numpy(errors))
    for given, changed in zip(parameters, by_group, strict=True):
        given[:] = changed.T
    for target, columns in ((decoded, work), (levels, original)):
        _turn_back(columns, order, target)
    return loss


def _turned(weight: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(columns in order, rows), turned in pieces that stay in the cache: twice as fast as the whole."""
    import torch

    columns = torch.empty(weight.shape[1], weight.shape[0])
    for first in range(0, len(weight), SPAN):
        rows = slice(first, first + SPAN)
        columns[:, rows] = weight[rows].T.contiguous()[order]
    return columns


def _turn_back(columns: torch.Tensor, order: torch.Tensor, weight: torch.Tensor) -> None:
    """The opposite, into a weight."""
    places = order.argsort()
    for first in range(0, len(weight), SPAN):
        rows = slice(first, first + SPAN)
        weight[rows] = columns[:, rows][places].T


def _move(rounding: Rounding, block: np.ndarray, by_group: list[np.ndarray], first: int) -> None:
    """Scales of a block's groups from the weight as it would stand if nothing more were rounded."""
    for start in range(0, len(block), rounding.columns):
        columns = block[start : start + rounding.columns]
        chosen = rounding.covering(columns.min(0), columns.max(0))
        for values, new in zip(by_group, chosen, strict=True):
            values[(first + start) // rounding.columns] = new


@dataclass(frozen=True, slots=True)
class _Factor:
    """The order of columns, and the damped second moment in that order as ``M D Mᵀ`` with M unit upper and D diagonal.

    ``upper``: M; ``weights``: D, what squared distances of columns cost; ``added``: what the diagonal was raised by, column by
    column; None where this is no factor of it.
    """

    order: torch.Tensor
    upper: torch.Tensor
    weights: np.ndarray
    notes: tuple[str, ...]
    added: torch.Tensor | None = None

    def objective(self, loss: float, weight: torch.Tensor, decoded: torch.Tensor, second: torch.Tensor) -> float:
        """``sum over rows of e H eᵀ``, which the solver knows but for the damping: ``e (H + D) eᵀ`` is its loss."""
        if self.added is not None:
            pairs = zip(weight.split(SPAN), decoded.split(SPAN), strict=True)
            damping = sum(float(((w - q).square_() @ self.added).double().sum()) for w, q in pairs)
            if damping < loss / 2:  # else too little would be left of the digits
                return loss - damping
        return squared_output_error(weight - decoded, second[None])


def _factor(second: torch.Tensor, options: GptqOptions) -> _Factor:
    """Damping rises tenfold until there is a factor."""
    import torch

    notes: dict[str, None] = {}
    diagonal = second.diagonal()
    by_size = options.order == "activation"
    order = torch.argsort(diagonal, descending=True, stable=True) if by_size else torch.arange(len(second))
    backwards = order.flip(0)
    matrix = torch.empty_like(second)  # backwards, so that a lower factor becomes an upper one
    for first in range(0, len(matrix), SPAN):
        rows = slice(first, first + SPAN)
        torch.index_select(second[backwards[rows]], 1, backwards, out=matrix[rows])
    diagonal = matrix.diagonal()
    dead = diagonal <= 0
    if bool(dead.any()):
        # Inputs that are always zero say nothing of their weights: those are rounded to nearest and pass no error on.
        diagonal[dead] = 1.0 if bool(dead.all()) else float(diagonal[~dead].mean())
        notes[f"{int(dead.sum())} inputs were always zero"] = None
    plain, mean, share = diagonal.clone(), float(diagonal.mean()), options.damping
    while True:
        diagonal.copy_(plain + share * mean)
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if not int(failed):
            upper = lower.flip(0, 1)
            root = upper.diagonal().clone()
            added = torch.empty_like(plain)
            added[backwards] = diagonal - second.diagonal()[backwards]
            return _Factor(order, upper.div_(root), root.double().square().numpy(), tuple(notes), added)
        share = max(share * 10, 1e-4)
        if share > MOST_DAMPING:
            notes["its inputs are too much alike for GPTQ: rounded to nearest"] = None
            return _Factor(order, torch.eye(len(matrix)), np.ones(len(matrix)), tuple(notes))
        notes[f"damping raised to {share:.0%} of the mean"] = None


def obstacle(scheme: Scheme) -> str:
    if scheme.variant == "double":
        return "gptq must know the scales beforehand, which are quantized again in :double; leave :double out"
    return ""


def memory(rows: int, cols: int) -> int:
    """Factoring: the damped second moment and its factor, twice. Solving: the factor, the weight, twice levels and decoded
    values, and two copies in order."""
    return 4 * max(3 * cols * cols + 3 * rows * cols, cols * cols + 7 * rows * cols)


GPTQ = Algorithm(
    "gptq",
    "GPTQ",
    "Rounds column after column and makes each error good in those that follow; needs calibration.",
    options=GptqOptions,
    obstacle=obstacle,
    data=True,
    second=True,
    solve=solve,
    memory=memory,
)
