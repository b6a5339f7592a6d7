"""Searching with algorithms that need data, and answers bettered by measuring: against written artifacts run in torch."""

import copy
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import engine
from engine.records.calibration import DataSpec
from engine.records.recipe import Recipe
from engine.records.search import SearchSpace, TrialLimits
from engine.searching import cache
from engine.searching.calls import Run, chooser, search_measured

SCHEMES = ("int2:channel", "int3:channel", "int4:channel", "int8:channel")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing that other tests, or the user, measured."""
    monkeypatch.setattr(cache, "folder", lambda: str(tmp_path / "cache"))


@pytest.fixture
def net() -> torch.nn.Module:
    torch.manual_seed(4)
    sizes = (32, 64, 64, 64, 10)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.ReLU())][:-1])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(60, 32, generator=torch.Generator().manual_seed(5)) @ torch.randn(
        32, 32, generator=torch.Generator().manual_seed(6)
    )


@pytest.fixture
def data(images, tmp_path) -> DataSpec:
    np.save(tmp_path / "data.npy", images.numpy())
    return DataSpec(str(tmp_path / "data.npy"), samples=0, batch=16)


def written(net: torch.nn.Module, recipe: engine.Recipe, place: Path, data: DataSpec | None = None) -> dict[str, torch.Tensor]:
    engine.quantize_to(net, place, recipe, data=data, measure=0) if data else engine.quantize_to(net, place, recipe)
    return engine.load_tensors(place)


@torch.no_grad()
def divergence(net: torch.nn.Module, tensors: dict[str, torch.Tensor], x: torch.Tensor) -> float:
    other = copy.deepcopy(net)
    other.load_state_dict({name: value.float() for name, value in tensors.items()})
    after, before = (functional.log_softmax(each(x), -1) for each in (other, net))
    return float(functional.kl_div(after, before, reduction="batchmean", log_target=True))


@torch.no_grad()
def test_what_gptq_makes_of_each_layer_is_what_a_run_writes(net, images, data, tmp_path):
    net, run = net[:3], Run(data, ("output", "divergence"))
    table = engine.sensitivity(net, SearchSpace(("int3:channel",), algorithm="gptq"), run=run)
    recipe = Recipe(engine.parse_scheme("int3:channel"), "gptq", sequential=False)
    found = written(net, recipe, tmp_path / "gptq.safetensors", data)
    plain = engine.sensitivity(net, ["int3:channel"], run=run)
    inputs: dict[str, torch.Tensor] = {}
    for name, module in net.named_children():
        module.register_forward_hook(lambda _m, args, _o, name=name: inputs.__setitem__(name, args[0]))
    net(images)
    for row, rounded in zip(table.rows, plain.rows, strict=True):
        cell, nearest = row.cell("int3:channel"), rounded.cell("int3:channel")
        assert cell
        assert nearest
        weight = net.get_submodule(row.layer).weight
        lost = (weight - found[f"{row.layer}.weight"]).double()
        assert cell.noise == pytest.approx(float(lost.square().sum()), rel=1e-5)
        assert cell.output == pytest.approx(float((inputs[row.layer].double() @ lost.T).square().sum()), rel=1e-3)
        assert cell.output is not None
        assert nearest.output is not None
        assert cell.output < nearest.output
        alone = net.state_dict() | {f"{row.layer}.weight": found[f"{row.layer}.weight"]}
        assert cell.divergence == pytest.approx(divergence(net, alone, images), rel=1e-3)
    again = engine.sensitivity(net, SearchSpace(("int3:channel",), algorithm="gptq"), run=run)
    assert again.measured == 0
    assert again.rows == table.rows


@torch.no_grad()
def test_an_answer_is_bettered_to_the_best_that_there_is(net, images, data, tmp_path):
    """Against all 625 choices, each run by torch with the weights of written artifacts."""
    seen = []
    space, run = SearchSpace(SCHEMES), Run(data, ("output",))
    found, attempts = search_measured(
        net, "4.4bpw", run, space=space, by="weight", limits=TrialLimits(100), on_attempt=seen.append
    )
    assert tuple(seen) == attempts
    assert len(attempts) <= 100
    assert all(each.within == (each.bits <= 4.4) for each in attempts)
    values = {"keep": dict(net.state_dict().items())}
    for number, scheme in enumerate(SCHEMES):
        values[scheme] = written(net, Recipe(engine.parse_scheme(scheme)), tmp_path / f"{number}.safetensors")
    lines = chooser(net, space=space).found.lines
    most = 4.4 * sum(lines[name]["keep"].layer.parameters for name in lines) / 8
    best = {}
    for chosen in itertools.product(values, repeat=len(lines)):
        schemes = dict(zip(lines, chosen, strict=True))
        if sum(lines[name][scheme].nbytes for name, scheme in schemes.items()) <= most:
            own = net.state_dict() | {f"{n}.weight": values[s][f"{n}.weight"] for n, s in schemes.items()}
            best[chosen] = divergence(net, own, images)
    chosen = tuple(scheme for _, scheme in found.schemes)
    assert chosen == min(best, key=lambda key: best[key])
    measured = min(each.loss for each in attempts if each.within)
    assert measured == pytest.approx(best[chosen], rel=1e-3)
    assert measured < 0.9 * attempts[0].loss  # the first is the allocation by added errors


def test_no_uniform_recipe_within_the_budget_does_better(net, images, data, tmp_path):
    space, run = SearchSpace(SCHEMES, algorithm="gptq"), Run(data, ("output",))
    found, _ = search_measured(net, "4.6bpw", run, space=space, limits=TrialLimits(8))
    assert found.bits <= 4.6  # of the uniform ones those of two and three bits are within
    mine = divergence(
        net, written(net, _alone(engine.recipe_from_text(found.recipe)), tmp_path / "mine.safetensors", data), images
    )
    for number, scheme in enumerate(SCHEMES[:2]):
        other = Recipe(engine.parse_scheme(scheme), "gptq", sequential=False)
        assert mine <= divergence(net, written(net, other, tmp_path / f"{number}.safetensors", data), images) * 1.001


def _alone(recipe: engine.Recipe) -> engine.Recipe:
    """Every layer on what the float model gives it, as it was searched."""
    return dataclasses.replace(recipe, sequential=False)


def test_few_trials_and_other_budgets(net, data):
    space = SearchSpace(SCHEMES)
    run = Run(data, ())
    found, attempts = search_measured(net, "4.4bpw", run, space=space, limits=TrialLimits(1))
    assert len(attempts) == 1
    assert found.schemes == engine.search(net, "4.4bpw", space=space, by="weight").schemes
    smaller, attempts = search_measured(net, "5x", run, space=space, limits=TrialLimits(12))
    assert smaller.predicted_bytes <= sum(file.nbytes for file in chooser(net, space=space).found.summary.files) / 5
    with pytest.raises(engine.RecipeError, match="floor"):
        search_measured(net, "30dB", run, space=space)
    with pytest.raises(engine.RecipeError, match="calibration data"):
        engine.sensitivity(net, SearchSpace(SCHEMES, algorithm="gptq"))
    with pytest.raises(engine.RecipeError, match="changes other layers"):
        engine.sensitivity(net, SearchSpace(SCHEMES, algorithm="awq+gptq"), run=run)


def test_the_best_that_was_measured_is_minimised(net, data):
    table = engine.sensitivity(net, SCHEMES, run=Run(data, ("output", "divergence")))
    assert engine.search(net, "4bpw", table=table).by == "divergence"
    assert engine.search(net, "4bpw", table=engine.sensitivity(net, SCHEMES, run=Run(data))).by == "fisher"
    assert engine.search(net, "4bpw", space=SCHEMES).by == "weight"
