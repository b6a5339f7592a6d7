"""Algorithms that need data, and what a quantized model is said to lose.

Oracles: llm-compressor's results (``golden/gptq.json``), GPTQ as a textbook has it in float64, compressed-tensors, brute force,
and outputs of torch's own layers caught by hooks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
import transformers
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file
from torch import nn

import engine
from engine import chunks
from engine.algorithms import chain
from engine.algorithms.base import Scaling, Solution
from engine.algorithms.objective import squared_output_error
from engine.calibration import moments as moments_module
from engine.calibration.moments import Moments
from engine.errors import DataError
from engine.models.base import RunnableModel
from engine.quantizing.rounding import WeightRounding
from engine.records.model import LayerInfo, TensorInfo
from engine.records.plan import LayerPlan
from engine.records.progress import Monitor
from engine.records.scheme import KEEP
from engine.running.layer_noise import measure_layers
from engine.schemes import family_of, parse_scheme
from tests.engine.oracle import reference

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gptq.json").read_text())
SHAPES = {"square": (64, 64), "wide": (32, 128), "tall": (96, 96)}


def made(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and inputs of whole numbers, correlated and of different size: ``XᵀX`` is exact in float32."""
    rows, cols = SHAPES[name]
    rng = np.random.default_rng(list(SHAPES).index(name) + 1)
    mix = rng.integers(-3, 4, (cols // 4, cols))
    own = rng.integers(-4, 5, (4 * cols, cols))
    shared = rng.integers(-3, 4, (4 * cols, cols // 4))
    x = (shared @ mix + own) * rng.integers(1, 5, cols)
    weight = rng.integers(-500, 501, (8, rows, cols)).sum(0) * rng.integers(1, 6, (rows, 1)) / 65536
    assert (x.T @ x).sum() == GOLDEN["sums"][name], "numpy draws other numbers than the golden file was made with"
    return torch.from_numpy(weight.astype(np.float32)), torch.from_numpy(x.astype(np.float32))


@pytest.fixture(scope="module")
def workers() -> Iterator[chunks.Workers]:
    with chunks.Workers() as found:
        yield found


def rounding_of(weight: torch.Tensor, scheme: str, workers: chunks.Workers) -> WeightRounding:
    kind = parse_scheme(scheme)
    tensor = TensorInfo("a.weight", "F32", tuple(weight.shape), weight.numel() * 4, 0, 0)
    info = LayerInfo("a", "linear", tuple(weight.shape), "F32", (tensor,))
    line = LayerPlan(info, kind, scheme, "", "", family_of(kind).parts(kind, info, "none"))
    return WeightRounding(line, float(weight.abs().max()), workers, lambda: None)


def moments_of(x: torch.Tensor) -> Moments:
    moments = Moments(1, x.shape[1], second=True)
    moments.add(x)
    return moments


def solved(weight: torch.Tensor, x: torch.Tensor, scheme: str, algorithm: str, workers: chunks.Workers) -> Solution:
    chosen = chain(algorithm).solver
    assert chosen.algorithm.solve
    return chosen.algorithm.solve(rounding_of(weight, scheme, workers), weight.clone(), moments_of(x), chosen.options)


def objective(weight: torch.Tensor, decoded: torch.Tensor, x: torch.Tensor) -> float:
    """``‖(W - W')X‖²`` from the vectors themselves, in float64."""
    return float(((weight.double() - decoded.double()) @ x.double().T).square().sum())


# Against llm-compressor


@pytest.mark.parametrize("scheme", ["int4:g32", "int3:g32"])
@pytest.mark.parametrize("name", SHAPES)
def test_gptq_reaches_llm_compressors_objectives(name: str, scheme: str, workers: chunks.Workers) -> None:
    weight, x = made(name)
    theirs = GOLDEN["objective"][scheme][name]
    for options, order in (("scales=rtn", "static"), ("scales=rtn:order=stored", "none")):
        found = solved(weight, x, scheme, f"gptq:{options}", workers)
        assert objective(weight, found.decoded, x) == pytest.approx(theirs[order], rel=1e-3)
        assert found.after == pytest.approx(theirs[order], rel=1e-3)
        assert found.before == pytest.approx(theirs["rtn"], rel=1e-4)


def test_gptq_is_by_default_as_good_as_the_best_of_llm_compressor(workers: chunks.Workers) -> None:
    for scheme, layers in GOLDEN["objective"].items():
        ours = sum(objective(w, solved(w, x, scheme, "gptq", workers).decoded, x) for w, x in map(made, SHAPES))
        best = min(sum(told[order] for told in layers.values()) for order in ("none", "static", "group"))
        assert ours <= best * 1.02


# Against the textbook

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""The 16 numbers of QLoRA's appendix E."""


def grid_of(scheme: str) -> torch.Tensor:
    """The numbers that codes stand for, from their published definitions."""
    if scheme.startswith("int"):
        bits = int(scheme[3])
        return torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).double()
    if scheme.startswith("fp8"):
        every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
        return every[every.isfinite()].unique()
    values = torch.tensor(NF4 if scheme.startswith("nf4") else [*E2M1, *(-v for v in E2M1)]).double()
    return values.unique()


def textbook(
    weight: torch.Tensor, second: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: torch.Tensor, *,
    damping: float = 0.01, order: torch.Tensor | None = None, moving: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Optimal brain surgeon, column by column, the inverse updated as its rows are used up (Frantar and Alistarh 2022).

    No Cholesky factor, no blocks. Scale and zero point are (rows, columns). ``moving``: int4 groups whose scales are found when
    their turn comes.
    """
    rest, second = weight.double().clone(), second.double()
    inverse = torch.linalg.inv(second + torch.eye(len(second)).double() * damping * second.diagonal().mean())
    scale, zero = scale.double().clone(), zero.double().clone()
    decoded = torch.empty_like(rest)
    words: dict[str, Any] = {"type": "int", "strategy": "group", "group_size": moving or 32, "symmetric": True}
    arguments = QuantizationArgs(num_bits=4, **words)
    for column in order if order is not None else torch.arange(len(second)):
        j = int(column)
        if moving and j % moving == 0:
            group = rest[:, j : j + moving].float()
            scale[:, j : j + moving] = calculate_qparams(group.amin(1), group.amax(1), arguments)[0][:, None].double()
        ideal = rest[:, j] / scale[:, j] + zero[:, j]
        level = grid[(ideal[:, None] - grid[None]).abs().argmin(1)]
        decoded[:, j] = (level - zero[:, j]) * scale[:, j]
        rest -= ((rest[:, j] - decoded[:, j]) / inverse[j, j])[:, None] * inverse[j][None]
        inverse = inverse - inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
    return decoded


def wide(values: Any, weight: torch.Tensor) -> torch.Tensor:
    """Parameters (rows, groups) as (rows, columns)."""
    found = torch.as_tensor(values)
    return found.repeat_interleave(weight.shape[1] // found.shape[1], 1)


def same_weights(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """But for weights that stood within float32's accuracy of the middle, and what follows from those few."""
    differ = (ours.double() - theirs).abs() > 1e-4 * theirs.abs().max()
    assert differ.double().mean() < 0.01, f"{int(differ.sum())} of {differ.numel()}"


FORMATS = ["int4:g32", "int4:channel", "int4:g32:asym", "int8:channel", "fp8:channel", "nf4:g32", "mxfp4"]


@pytest.mark.parametrize("order", ["stored", "activation"])
@pytest.mark.parametrize("scheme", FORMATS)
def test_gptq_is_the_textbooks(scheme: str, order: str, workers: chunks.Workers) -> None:
    weight, x = made("square")
    found = solved(weight, x, scheme, f"gptq:scales=rtn:order={order}:block=16", workers)
    plain = rounding_of(weight, scheme, workers).fitted(weight, "rtn")
    for ours, theirs in zip(found.parameters, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    second = (x.T @ x).double()
    columns = None if order == "stored" else torch.argsort(second.diagonal(), descending=True, stable=True)
    scale, zero = (wide(values, weight) for values in plain)
    theirs = textbook(weight, second, scale, zero, grid_of(scheme), order=columns)
    same_weights(found.decoded, theirs)
    assert objective(weight, found.decoded, x) == pytest.approx(objective(weight, theirs, x), rel=0.02)
    assert found.after == pytest.approx(objective(weight, found.decoded, x), rel=1e-3)
    levels = torch.as_tensor(found.levels)
    torch.testing.assert_close((levels - zero) * scale, found.decoded)
    assert set(levels.unique().double().tolist()) <= set(grid_of(scheme).float().double().tolist())


def test_gptqs_scales_are_compressed_tensors(workers: chunks.Workers) -> None:
    weight, x = made("wide")
    for scheme, symmetric in (("int4:g32", True), ("int4:g32:asym", False)):
        found = solved(weight, x, scheme, "gptq:scales=rtn", workers)
        _, scale, zero, _ = reference(weight, 4, "group", 32, symmetric)
        np.testing.assert_array_equal(found.parameters[0], scale)
        np.testing.assert_array_equal(found.parameters[1], zero)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("rows", [1, 700, 4096, 5000])
def test_second_moments_of_bfloat16_inputs(fast: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered in pieces; in bfloat16 products each sum of 4096 is rounded once, far below the damping of a hundredth."""
    monkeypatch.setattr(moments_module, "halves_are_fast", lambda: fast)
    x = torch.randn(rows, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = Moments(1, 96, second=True)
    for part in x.split(333):
        found.add(part)
    expected = (x.double().T @ x.double()).numpy()
    assert found.second is not None
    np.testing.assert_allclose(found.second[0], expected, rtol=2**-8 if fast else 1e-5, atol=1e-4 * rows)
    np.testing.assert_allclose(found.mean[0], x.double().mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", [1, 7, 128])
def test_blocks_do_not_matter(block: int, workers: chunks.Workers) -> None:
    weight, x = made("tall")
    whole = solved(weight, x, "int4:g32", "gptq:block=4096", workers)
    found = solved(weight, x, "int4:g32", f"gptq:block={block}", workers)
    same_weights(found.decoded, whole.decoded.double())


def test_columns_with_large_inputs_come_first(workers: chunks.Workers) -> None:
    """The same as putting them first beforehand, where a scale is for a whole row."""
    weight, x = made("tall")
    order = torch.argsort(x.square().sum(0), descending=True, stable=True)
    found = solved(weight, x, "int4:channel", "gptq:scales=rtn", workers)
    sorted_first = solved(weight[:, order], x[:, order], "int4:channel", "gptq:scales=rtn:order=stored", workers)
    assert torch.equal(found.levels[:, order], sorted_first.levels)


@pytest.mark.parametrize("block", [1, 48, 128])
def test_moving_groups_take_scales_when_their_turn_comes(block: int, workers: chunks.Workers) -> None:
    weight, x = made("wide")
    found = solved(weight, x, "int4:g32", f"gptq:order=stored:groups=moving:block={block}", workers)
    nothing = torch.zeros_like(weight)
    theirs = textbook(weight, x.T @ x, nothing, nothing, grid_of("int4"), moving=32)
    # A weight in the middle that falls to the other side changes the scales that follow in its row.
    rows = ((found.decoded.double() - theirs).abs() > 1e-4 * theirs.abs().max()).any(1)
    assert rows.double().mean() < 0.2
    assert objective(weight, found.decoded, x) == pytest.approx(objective(weight, theirs, x), rel=0.02)


# Inputs that say little


def test_inputs_that_are_always_zero(workers: chunks.Workers) -> None:
    """Their weights are rounded to nearest; the others as if they were not there."""
    weight, x = made("square")
    dead = torch.tensor([3, 4, 40])
    x[:, dead] = 0
    alive = torch.tensor([j for j in range(64) if j not in dead])
    found = solved(weight, x, "int4:channel", "gptq:scales=rtn:order=stored", workers)
    assert "3 inputs were always zero" in found.note
    _, scale, zero, nearest = reference(weight, 4, "channel", None, True)
    assert torch.equal(found.decoded[:, dead], nearest[:, dead])
    second = (x.T @ x)[alive][:, alive]
    few = weight[:, alive]
    theirs = textbook(few, second, scale.expand_as(few), zero.expand_as(few), grid_of("int4"))
    same_weights(found.decoded[:, alive], theirs)


@pytest.mark.parametrize("vectors", [1, 10])
def test_fewer_vectors_than_inputs(vectors: int, workers: chunks.Workers) -> None:
    """``XᵀX`` has no inverse: without damping there must be some, and the report says so."""
    weight, x = made("square")
    found = solved(weight, x[:vectors], "int4:g32", "gptq:damping=0", workers)
    assert "damping raised to" in found.note and bool(found.decoded.isfinite().all())
    assert objective(weight, found.decoded, x[:vectors]) <= objective(
        weight, reference(weight, 4, "group", 32, True)[3], x[:vectors]
    )
    assert "damping" not in solved(weight, x, "int4:g32", "gptq", workers).note


def test_no_inputs_at_all(workers: chunks.Workers) -> None:
    weight, x = made("square")
    found = solved(weight, torch.zeros_like(x), "int4:g32", "gptq:scales=rtn", workers)
    assert torch.equal(found.decoded, reference(weight, 4, "group", 32, True)[3])
    assert (found.before, found.after) == (0.0, 0.0)


def test_inputs_that_are_all_alike(workers: chunks.Workers) -> None:
    weight, _ = made("square")
    x = torch.ones(100, 64)
    found = solved(weight, x, "int4:g32", "gptq", workers)
    nearest = reference(weight, 4, "group", 32, True)[3]
    assert bool(found.decoded.isfinite().all()) and objective(weight, found.decoded, x) <= objective(weight, nearest, x)


@pytest.mark.parametrize("algorithm", ["gptq", "gptq:scales=rtn", "gptq:order=stored:groups=moving", "adaround"])
@pytest.mark.parametrize("scheme", ["int2:g32", "int8:channel"])
def test_never_worse_than_round_to_nearest(scheme: str, algorithm: str, workers: chunks.Workers) -> None:
    weight, x = made("wide")
    found = solved(weight, x, scheme, algorithm, workers)
    kind = parse_scheme(scheme)
    nearest = reference(weight, kind.bits or 0, kind.granularity, kind.group, True)[3]
    assert found.before == pytest.approx(objective(weight, nearest, x), rel=1e-3)
    assert objective(weight, found.decoded, x) <= objective(weight, nearest, x)


def test_where_gptq_does_worse_round_to_nearest_stays(workers: chunks.Workers) -> None:
    """Single rows of eight weights: making errors good one after the other is not always best, as the textbook shows."""
    rng, kept = np.random.default_rng(8), 0
    for _ in range(40):
        weight = torch.from_numpy(rng.standard_normal((1, 8)).astype(np.float32))
        x = torch.from_numpy(rng.standard_normal((20, 8)).astype(np.float32))
        _, scale, zero, nearest = reference(weight, 2, "channel", None, True)
        theirs = textbook(weight, x.T @ x, scale.expand_as(weight), zero.expand_as(weight), grid_of("int2"))
        plain = objective(weight, nearest, x)
        found = solved(weight, x, "int2:channel", "gptq:scales=rtn:order=stored", workers)
        assert objective(weight, found.decoded, x) <= plain * (1 + 1e-6)
        if objective(weight, theirs, x) > plain * 1.01:
            kept += 1
            assert torch.equal(found.decoded, nearest) and found.after == found.before and found.note
    assert kept


def test_each_group_of_inputs_has_its_own_rows(workers: chunks.Workers) -> None:
    """Two groups (experts, a convolution's) are two layers."""
    weight, x = made("square")
    both = Moments(2, 64, second=True)
    both.add(x, 0)
    both.add(x.flip(1), 1)
    chosen = chain("gptq:scales=rtn").solver
    assert chosen.algorithm.solve
    stacked = torch.cat([weight, weight * 2])
    found = chosen.algorithm.solve(rounding_of(stacked, "int4:g32", workers), stacked, both, chosen.options)
    for rows, inputs in ((slice(0, 64), x), (slice(64, 128), x.flip(1))):
        alone = solved(stacked[rows], inputs, "int4:g32", "gptq:scales=rtn", workers)
        assert torch.equal(found.levels[rows], alone.levels)


def test_the_objective_against_the_vectors() -> None:
    torch.manual_seed(0)
    error, x = torch.randn(2100, 12), torch.randn(2, 50, 12)
    second = x.transpose(1, 2) @ x
    wanted = float((error[:1050] @ x[0].T).square().sum() + (error[1050:] @ x[1].T).square().sum())
    assert squared_output_error(error, second) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_objective_of_rounding_may_be_found_in_halves(mean: float) -> None:
    torch.manual_seed(0)
    error, x = torch.rand(2048, 640) - 0.5, torch.randn(1000, 640) * torch.rand(640) + mean
    second = (x.T @ x)[None]
    exactly = squared_output_error(error, second)
    assert squared_output_error(error, second, roughly=True) == pytest.approx(exactly, rel=1e-3)


# AdaRound


@pytest.mark.parametrize("scheme", ["int4:g32", "int3:channel:asym"])
def test_adaround_rounds_up_or_down(scheme: str, workers: chunks.Workers) -> None:
    weight, x = made("square")
    found = solved(weight, x, scheme, "adaround:scales=rtn", workers)
    plain = rounding_of(weight, scheme, workers).fitted(weight, "rtn")
    for ours, theirs in zip(found.parameters, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    exact = (weight / wide(plain[0], weight) + wide(plain[1], weight)).clamp(grid_of(scheme).min(), grid_of(scheme).max())
    assert bool(((found.levels == exact.floor()) | (found.levels == exact.ceil())).all())
    kind = parse_scheme(scheme)
    nearest = reference(weight, kind.bits or 0, kind.granularity, kind.group, kind.symmetric)[3]
    assert objective(weight, found.decoded, x) < 0.5 * objective(weight, nearest, x)
    assert found.after == pytest.approx(objective(weight, found.decoded, x), rel=1e-3)


def test_adaround_is_near_the_best_choice(workers: chunks.Workers) -> None:
    """Brute force over all 2⁸ ways to round eight weights."""
    rng = np.random.default_rng(5)
    weight = torch.from_numpy(rng.standard_normal((6, 8)).astype(np.float32))
    x = torch.from_numpy((rng.standard_normal((64, 3)) @ rng.standard_normal((3, 8))).astype(np.float32))
    x += 0.1 * torch.from_numpy(rng.standard_normal((64, 8)).astype(np.float32))
    found = solved(weight, x, "int4:channel", "adaround:scales=rtn:steps=2000", workers)
    scale = torch.as_tensor(found.parameters[0])
    ways = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)))
    nearest = reference(weight, 4, "channel", None, True)[3]
    best = 0.0
    for row in range(6):
        decoded = ((weight[row] / scale[row]).floor() + ways).clamp(-8, 7) * scale[row]
        best += float(((weight[row] - decoded) @ x.T).square().sum(1).min())
    found_error, plain = objective(weight, found.decoded, x), objective(weight, nearest, x)
    assert best * (1 - 1e-4) <= found_error <= best + 0.3 * (plain - best)


# Transforms, bias


def test_awq_takes_the_best_ratio(workers: chunks.Workers) -> None:
    """The search of the paper, done again with compressed-tensors' rounding: two layers share their inputs."""
    weight, x = made("wide")
    weights = [weight, weight.flip(0) * 3 + 0.01]
    chosen = chain("awq").transforms[0]
    assert chosen.algorithm.scale
    found = chosen.algorithm.scale(
        Scaling([w.clone() for w in weights], [rounding_of(w, "int3:g32", workers) for w in weights], moments_of(x)),
        chosen.options,
    )

    def error(scale: torch.Tensor) -> float:
        decoded = [reference(w * scale, 3, "group", 32, True)[3] / scale for w in weights]
        return sum(objective(w, d, x) for w, d in zip(weights, decoded, strict=True))

    magnitude = x.abs().mean(0)
    tried = [magnitude**ratio for ratio in np.arange(21) / 20]
    best = min(error(scale / (scale.max() * scale.min()).sqrt()) for scale in tried)
    assert error(found) == pytest.approx(best, rel=1e-4) and error(found) < error(torch.ones(128))


def test_awq_leaves_layers_as_they_are_where_nothing_is_better(workers: chunks.Workers) -> None:
    chosen = chain("awq").transforms[0]
    assert chosen.algorithm.scale
    # Sixteen whole numbers, of which each row has the least and the largest: round to nearest has no error to begin with.
    exact = torch.randint(-8, 8, (8, 32), generator=torch.Generator().manual_seed(0)).float()
    exact[:, 0], exact[:, 1] = -8, 7
    assert torch.equal(reference(exact, 4, "channel", None, False)[3], exact)
    scaling = Scaling([exact], [rounding_of(exact, "int4:channel:asym", workers)], moments_of(torch.rand(9, 32)))
    assert torch.equal(chosen.algorithm.scale(scaling, chosen.options), torch.ones(32))


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 1.0])
def test_smoothquant_is_equation_four(strength: float, workers: chunks.Workers) -> None:
    weight, x = made("wide")
    x[:, 5] = 0  # a dead channel keeps its scale
    chosen = chain(f"smoothquant:strength={strength}").transforms[0]
    assert chosen.algorithm.scale
    found = chosen.algorithm.scale(Scaling([weight, weight * 2], [None, None], moments_of(x)), chosen.options)
    wanted = x.abs().amax(0) ** strength / (weight * 2).abs().amax(0) ** (1 - strength)
    wanted[5] = 1.0
    torch.testing.assert_close(found, wanted)


def test_equalization_gives_both_sides_one_range() -> None:
    torch.manual_seed(1)
    first, second = torch.randn(16, 5) * torch.rand(16, 1) * 9, torch.randn(7, 16) * torch.rand(16) * 9
    chosen = chain("equalize").transforms[0]
    assert chosen.algorithm.scale
    found = chosen.algorithm.scale(Scaling([second], [None], moments_of(torch.zeros(1, 16)), first), chosen.options)
    torch.testing.assert_close((first / found[:, None]).abs().amax(1), (second * found).abs().amax(0))


RULES = tuple(engine.Rule(KEEP, kind=kind) for kind in ("bias", "norm", "embedding", "other"))


def recipe(scheme: str, algorithm: str, **more: Any) -> engine.Recipe:
    """Every weight that a layer multiplies, however small."""
    return engine.Recipe(default=parse_scheme(scheme), algorithm=algorithm, rules=RULES, builtin=False, **more)


class Small(nn.Module):
    """Three linear layers; inputs are far from zero on average."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 32), nn.Linear(32, 24), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(functional.gelu(self.two(functional.relu(self.one(x)))))


def small() -> tuple[Small, torch.Tensor]:
    torch.manual_seed(2)
    return Small(), torch.randn(40, 16) @ torch.randn(16, 16) + 1.5


def _catch(caught: list[torch.Tensor], _: nn.Module, given: tuple[Any, ...]) -> None:
    caught.append(given[0].detach())


def part_of(module: nn.Module, name: str) -> Any:
    """A layer, whose class says what its weight and bias are."""
    return module.get_submodule(name)


def inputs_of(module: nn.Module, names: list[str], *given: Any, **keywords: Any) -> dict[str, list[torch.Tensor]]:
    """What layers are given, by hooks."""
    caught: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    handles = [module.get_submodule(name).register_forward_pre_hook(partial(_catch, caught[name])) for name in names]
    with torch.no_grad():
        module(*given, **keywords)
    for handle in handles:
        handle.remove()
    return caught


def without_bias(module: nn.Module, name: str, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    layer = part_of(module, name)
    zeros = {"weight": weight} | ({"bias": torch.zeros_like(layer.bias)} if getattr(layer, "bias", None) is not None else {})
    with torch.no_grad():
        return torch.func.functional_call(layer, zeros, (x,))


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("algorithm", ["rtn+bias", "gptq+bias"])
def test_bias_correction_takes_the_mean_error_away(algorithm: str, sequential: bool, tmp_path: Path) -> None:
    module, x = small()
    engine.quantize_to(
        module, tmp_path / "out.safetensors", recipe("int2:channel", algorithm, sequential=sequential), data=[x], measure=0
    )
    stored = engine.load_tensors(tmp_path / "out.safetensors")
    quantized = Small()
    quantized.load_state_dict(stored)
    names = ["one", "two", "three"]
    given = inputs_of(quantized if sequential else module, names, x)
    for name in names:
        difference = part_of(module, name)(given[name][0]) - part_of(quantized, name)(given[name][0])
        uncorrected = without_bias(module, name, part_of(module, name).weight - stored[f"{name}.weight"], given[name][0])
        assert difference.mean(0).abs().max() < 1e-4 * uncorrected.abs().max()
        assert uncorrected.mean(0).abs().max() > 1e-2 * uncorrected.abs().max()


def test_bias_correction_of_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module, x = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2)), torch.randn(5, 4, 7, 7) + 1
    engine.quantize_to(module, tmp_path / "out.safetensors", recipe("int2:channel", "bias"), data=[x], measure=0)
    stored = engine.load_tensors(tmp_path / "out.safetensors")
    with torch.no_grad():
        difference = module(x) - functional.conv2d(x, stored["0.weight"], stored["0.bias"], 2, 1, 1, 2)
    assert difference.mean((0, 2, 3)).abs().max() < 1e-5 < difference.abs().max()


# Whole models: the report's objectives


def test_objectives_of_a_language_model(language_model: Path, tmp_path: Path) -> None:
    """Block by block, each given what the quantized ones before it give."""
    spec = engine.DataSpec(str(language_model / "calibration.txt"), samples=8, length=128)
    wanted = dataclasses.replace(engine.recipe("int4:g32"), algorithm="gptq")
    report = engine.quantize_to(language_model, tmp_path / "out", wanted, data=spec, measure=0)
    floats, stored = load_file(language_model / "model.safetensors"), engine.load_tensors(tmp_path / "out")
    module = transformers.AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.bfloat16).eval()
    with engine.load_runnable(language_model) as model:
        tokens = torch.cat([batch.keywords["input_ids"] for batch in engine.open_data(spec, model).batches()])
    layers = {layer.name: layer for layer in report.layers}
    assert layers and all(".layers." in name for name in layers)
    blocks = sorted({int(name.split(".")[2]) for name in layers})
    for block in blocks:
        here = [name for name in layers if int(name.split(".")[2]) == block]
        caught = inputs_of(module, here, input_ids=tokens, use_cache=False)
        for name in here:
            x, weight = caught[name][0].flatten(0, -2), floats[f"{name}.weight"]
            nearest = reference(weight, 4, "group", 32, True)[3]
            wanted, plain = (objective(weight, w, x) for w in (stored[f"{name}.weight"], nearest))
            assert layers[name].objective == pytest.approx(wanted, rel=0.02), name
            assert layers[name].objective_rtn == pytest.approx(plain, rel=0.02), name
            assert wanted <= plain, name
            part_of(module, name).weight.data.copy_(stored[f"{name}.weight"])


def digits_model(digits: Path) -> RunnableModel:
    trusted = [hashlib.sha256((digits / "factory.py").read_bytes()).hexdigest()]
    return engine.load_runnable(digits / "model.safetensors", factory=f"{digits / 'factory.py'}:create_model", trusted=trusted)


@pytest.mark.parametrize("sequential", [True, False])
def test_objectives_of_a_convolutional_network(sequential: bool, digits: Path, tmp_path: Path) -> None:
    """Layer by layer; an objective is the power of what the layer makes of ``W - W'``."""
    with np.load(digits / "calibration.npz") as data:
        x = torch.from_numpy(data["images"][:64])
    with digits_model(digits) as model:
        module = model.module
        report = engine.quantize_to(
            engine.plan(model.summary, recipe("int4:channel", "gptq", sequential=sequential)),
            tmp_path / "out.safetensors", data=[x], runnable=model, measure=0,
        )  # fmt: skip
        floats, stored = load_file(digits / "model.safetensors"), engine.load_tensors(tmp_path / "out.safetensors")
        layers = {layer.name: layer for layer in report.layers}
        forward = [name for name, _ in module.named_modules() if name in layers]
        assert len(forward) == len(layers) == 8
        for name, layer in ((name, layers[name]) for name in forward):
            (given,) = inputs_of(module, [name], x)[name]
            weight = floats[f"{name}.weight"]
            nearest = reference(weight.flatten(1), 4, "channel", None, True)[3].view_as(weight)
            wanted, plain = (
                float(without_bias(module, name, weight - w, given).double().square().sum())
                for w in (stored[f"{name}.weight"], nearest)
            )
            assert layer.objective == pytest.approx(wanted, rel=1e-2), name
            assert layer.objective_rtn == pytest.approx(plain, rel=1e-2), name
            assert wanted <= plain * (1 + 1e-4), name
            if sequential:
                part_of(module, name).weight.data.copy_(stored[f"{name}.weight"])


def test_a_layer_that_no_data_reach_is_rounded_to_nearest(tmp_path: Path) -> None:
    class Lonely(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x)

    torch.manual_seed(4)
    module, x = Lonely(), torch.randn(40, 16)
    report = engine.quantize_to(module, tmp_path / "out.safetensors", recipe("int4:channel", "gptq"), data=[x], measure=0)
    told = {layer.name: layer for layer in report.layers}
    assert "no data reached it" in told["two"].note and told["two"].objective is None and told["one"].objective is not None
    assert any("two" in words for words in report.warnings)
    stored = engine.load_tensors(tmp_path / "out.safetensors", ["two"])
    assert torch.equal(next(iter(stored.values())), reference(module.two.weight.detach(), 4, "channel", None, True)[3])


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    module, x = small()
    module.two.weight.data[1, 2] = math.nan
    with pytest.raises(DataError, match=r"two"):
        engine.quantize_to(module, tmp_path / "out.safetensors", recipe("int4:channel", "gptq"), data=[x])


# What a layer's output lost


def power(x: torch.Tensor) -> float:
    return float(x.detach().double().square().sum())


def decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise)


@pytest.mark.parametrize("batch", [40, 16])
def test_output_errors_of_a_small_network(batch: int, tmp_path: Path) -> None:
    module, x = small()
    out = tmp_path / "out.safetensors"
    report = engine.quantize_to(module, out, recipe("int3:channel", "rtn"))
    assert all(layer.output is None for layer in report.layers)
    quantized = Small()
    quantized.load_state_dict(engine.load_tensors(out))
    with engine.load_runnable(module, example=x) as model:
        data = engine.open_data(x, model)
        data.spec = dataclasses.replace(data.spec, batch=batch)
        noise = measure_layers(model, engine.open_model(out), data, Monitor(), samples=40)
    names = ["one", "two", "three"]
    assert set(noise) == set(names)
    plain, after = (inputs_of(m, names, x) for m in (module, quantized))
    for name in names:
        ours, theirs = part_of(module, name), part_of(quantized, name)
        with torch.no_grad():
            y, alone, total = ours(plain[name][0]), theirs(plain[name][0]), theirs(after[name][0])
            inherited = ours(after[name][0])
        found = noise[name]
        assert found.alone_db == pytest.approx(decibels(power(y), power(y - alone)), abs=1e-3)
        assert found.accumulated_db == pytest.approx(decibels(power(y), power(y - total)), abs=1e-3)
        assert found.cosine == pytest.approx(float(functional.cosine_similarity(y.flatten(), total.flatten(), 0)), abs=1e-6)
        assert found.mse == pytest.approx(float(functional.mse_loss(total, y)), rel=1e-4)
        assert found.inherited == pytest.approx(power(y - inherited) / power(y), rel=1e-4, abs=1e-12)
        assert found.rounding == pytest.approx(power(total - inherited) / power(y), rel=1e-4)
        assert found.clipping == 0.0
    assert noise["one"].inherited == 0.0 and noise["one"].alone_db == noise["one"].accumulated_db


def test_a_run_with_data_reports_them(tmp_path: Path) -> None:
    module, x = small()
    report = engine.quantize_to(module, tmp_path / "out.safetensors", recipe("int3:channel", "rtn"), data=[x], measure=40)
    quantized = Small()
    quantized.load_state_dict(engine.load_tensors(tmp_path / "out.safetensors"))
    y, total = module(x), quantized(x)
    last = {layer.name: layer.output for layer in report.layers}["three"]
    assert last is not None and last.accumulated_db == pytest.approx(decibels(power(y), power(y - total)), abs=1e-3)
    assert report.evaluation is not None
    assert report.evaluation.output_sqnr_db == pytest.approx(decibels(power(y), power(y - total)), abs=1e-3)


def test_a_layer_called_twice_counts_both_calls(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(functional.relu(self.layer(x)))

    torch.manual_seed(5)
    module, x, out = Twice(), torch.randn(12, 16), tmp_path / "out.safetensors"
    report = engine.quantize_to(module, out, recipe("int3:channel", "rtn"), data=[x], measure=12)
    quantized = Twice()
    quantized.load_state_dict(engine.load_tensors(out))
    (found,) = [layer.output for layer in report.layers]
    pairs = [inputs_of(m, ["layer"], x)["layer"] for m in (module, quantized)]
    signal = sum(power(module.layer(a)) for a in pairs[0])
    alone = sum(power(module.layer(a) - quantized.layer(a)) for a in pairs[0])
    total = sum(power(module.layer(a) - quantized.layer(b)) for a, b in zip(*pairs, strict=True))
    assert found is not None and found.alone_db == pytest.approx(decibels(signal, alone), abs=1e-3)
    assert found.accumulated_db == pytest.approx(decibels(signal, total), abs=1e-3)


# What a whole model lost


def test_a_classifier_against_torch(tmp_path: Path) -> None:
    module, x = small()
    labels, out = torch.arange(40) % 10, tmp_path / "out.safetensors"
    engine.quantize_to(module, out, recipe("int3:channel", "rtn"))
    quantized = Small()
    quantized.load_state_dict(engine.load_tensors(out))
    np.savez(tmp_path / "data.npz", x=x.numpy(), labels=labels.numpy())
    spec = engine.DataSpec(str(tmp_path / "data.npz"), samples=0, batch=16, labels="labels")
    with engine.load_runnable(module, example=x) as model:
        found = engine.evaluate(out, spec, original=model)
    with torch.no_grad():
        y, after = module(x), quantized(x)
    assert (found.samples, found.predictions) == (40, 40)
    assert found.quantized.accuracy == float((after.argmax(1) == labels).double().mean())
    assert found.original and found.original.accuracy == float((y.argmax(1) == labels).double().mean())
    assert found.agreement == float((after.argmax(1) == y.argmax(1)).double().mean()) != 1.0
    divergence = functional.kl_div(after.log_softmax(1), y.log_softmax(1), log_target=True, reduction="batchmean")
    assert found.kl_divergence == pytest.approx(float(divergence), rel=1e-4)
    assert found.output_sqnr_db == pytest.approx(decibels(power(y), power(y - after)), abs=1e-3)


def test_a_language_model_against_torch(tmp_path: Path) -> None:
    from tests.engine.test_models_matching import llama, saved

    folder = saved(llama(), tmp_path / "model")
    engine.quantize_to(folder, tmp_path / "out", recipe("int3:g16", "rtn"))
    ids = torch.randint(0, 64, (3, 20), generator=torch.Generator().manual_seed(6))
    mask = torch.ones_like(ids)
    mask[2, 12:] = 0
    found = engine.evaluate(tmp_path / "out", {"input_ids": ids, "attention_mask": mask}, original=folder)
    float_model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    quantized = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    quantized.load_state_dict(engine.load_tensors(tmp_path / "out"), strict=False)
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        outputs = [m(input_ids=ids, attention_mask=mask, labels=labels) for m in (float_model, quantized)]
    keep = mask.bool()
    y, after = (output.logits[keep] for output in outputs)
    assert found.predictions == 52
    # transformers' loss is a mean over all tokens that are predicted
    assert found.original and found.original.perplexity == pytest.approx(math.exp(float(outputs[0].loss)), rel=1e-4)
    assert found.quantized.perplexity == pytest.approx(math.exp(float(outputs[1].loss)), rel=1e-4)
    assert found.quantized.perplexity != pytest.approx(found.original.perplexity, rel=1e-4)
    assert found.agreement == pytest.approx(float((y.argmax(1) == after.argmax(1)).double().mean()))
    divergence = functional.kl_div(after.log_softmax(1), y.log_softmax(1), log_target=True, reduction="batchmean")
    assert found.kl_divergence == pytest.approx(float(divergence), rel=1e-3)
    assert found.output_sqnr_db == pytest.approx(decibels(power(y), power(y - after)), abs=1e-3)
