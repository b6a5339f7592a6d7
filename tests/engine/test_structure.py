"""Which layers take in channels whose scale may be moved, worked out by hand from the architectures.

And that moving it leaves what the float model computes as it was, in a fresh copy that has the moved weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
import transformers
from safetensors.torch import load_file
from torch import nn

import engine
from engine.calibration.batches import Batch
from engine.calibration.sites import Sites
from engine.calibration.structure import movable
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.records.progress import Monitor
from engine.running.calibrated import prepare
from tests.engine.oracle import reference
from tests.engine.test_algorithms_data import digits_model, inputs_of, objective, part_of, recipe
from tests.engine.test_models_folding import settled
from tests.engine.test_models_matching import gpt2, llama, mixtral, saved, vit

IDS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(1))
PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def found_in(model: RunnableModel, *arguments: Any, **keywords: Any) -> dict[str, set[str]]:
    """Consumers by what makes the channels: a layer, or a norm's weight."""
    batch = Batch(arguments, keywords, indices=(0, 1))
    with running(model.module):
        pairs = movable(model, Sites(model, model.summary.layers), batch)
    return {pair.layer or pair.parameters[0].removesuffix(".weight"): set(pair.consumers) for pair in pairs}


def found_in_module(module: nn.Module, *arguments: torch.Tensor) -> dict[str, set[str]]:
    with engine.load_runnable(module, example=arguments) as model:
        return found_in(model, *arguments)


# What is found


def test_llama(tmp_path: Path) -> None:
    """Grouped heads: o_proj takes each of v_proj's channels in twice, which nothing can be moved over."""
    wanted: dict[str, set[str]] = {}
    for block in (f"model.layers.{n}" for n in range(2)):
        wanted[f"{block}.input_layernorm"] = {f"{block}.self_attn.{letter}_proj" for letter in "qkv"}
        wanted[f"{block}.post_attention_layernorm"] = {f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"}
        wanted[f"{block}.mlp.up_proj"] = {f"{block}.mlp.down_proj"}
    with engine.load_runnable(saved(llama(), tmp_path / "model")) as model:
        assert found_in(model, input_ids=IDS) == wanted | {"model.norm": {"lm_head"}}


def test_gpt2(tmp_path: Path) -> None:
    """GELU does not commute with a scale; q, k and v are one layer."""
    wanted: dict[str, set[str]] = {}
    with engine.load_runnable(saved(gpt2(), tmp_path / "model")) as model:
        found = found_in(model, input_ids=IDS)
        names = {name.split(".h.")[0] for name in found if ".h." in name}
        (stem,) = names
        for block in (f"{stem}.h.{n}" for n in range(2)):
            wanted |= {f"{block}.ln_1": {f"{block}.attn.c_attn"}, f"{block}.ln_2": {f"{block}.mlp.c_fc"}}
        head = {name: takers for name, takers in found.items() if ".h." not in name}
        assert {name: takers for name, takers in found.items() if ".h." in name} == wanted
        # The head is the embedding as well: it must not be scaled.
        assert head == {}


def test_norms_whose_output_goes_on_beside_the_layers_are_left_alone(tmp_path: Path) -> None:
    """BERT normalizes after adding: the output is what the next sum starts from."""
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    torch.manual_seed(3)
    with engine.load_runnable(transformers.BertModel(config), example={"input_ids": IDS}) as model:
        assert not any("LayerNorm" in name for name in found_in(model, input_ids=IDS))


def test_vit(tmp_path: Path) -> None:
    with engine.load_runnable(saved(vit(), tmp_path / "model")) as model:
        found = found_in(model, pixel_values=PIXELS)
        before = {name: takers for name, takers in found.items() if "layernorm_before" in name}
        after = {name: takers for name, takers in found.items() if "layernorm_after" in name}
        assert len(before) == len(after) == 2
        assert all(len(takers) == 3 for takers in before.values()) and all(len(takers) == 1 for takers in after.values())


def test_experts_take_in_what_the_router_does(tmp_path: Path) -> None:
    with engine.load_runnable(saved(mixtral(), tmp_path / "model")) as model:
        found = found_in(model, input_ids=IDS)
        for block in (f"model.layers.{n}" for n in range(2)):
            takers = found[f"{block}.post_attention_layernorm"]
            experts = {f"{block}.block_sparse_moe.experts.{n}.{name}" for n in range(4) for name in ("w1", "w3")}
            assert takers == experts | {f"{block}.block_sparse_moe.gate"}
            assert found[f"{block}.input_layernorm"] == {f"{block}.self_attn.{letter}_proj" for letter in "qkv"}


def test_convolutions_with_rectifiers_and_pools_between() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
            self.point, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6 * 4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.max_pool2d(functional.relu(self.first(x)), 2)
            x = functional.relu(self.point(functional.leaky_relu(self.depthwise(x))))
            return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))

    torch.manual_seed(4)
    assert found_in_module(Network(), torch.randn(2, 3, 16, 16)) == {
        "first": {"depthwise"}, "depthwise": {"point"}, "point": {"head"},
    }  # fmt: skip


class Chain(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[torch.Tensor], Any], norm: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.side = nn.LayerNorm(8) if norm else nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.between = between

    def forward(self, x: torch.Tensor) -> Any:
        return self.two(self.between(self.one(x)))


class Residual(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.one(x)
        return hidden + self.two(hidden)


class Given(Chain):
    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.one(x)
        return {"output": self.two(hidden), "states": [hidden]}


class Measured(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.one(x)
        return self.two(hidden) * hidden.std()


class Used(Chain):
    """The same layer takes in another tensor too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)) + self.two(x)


class InPlace(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.one(x)
        hidden += 1
        return self.two(hidden)


class Bare(Chain):
    """A parameter is used as it is, beside the layer that it belongs to."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(functional.relu(self.one(x))) + self.one.bias


class Reshaped(Chain):
    """Channels no longer lie where they were."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).transpose(0, 1).reshape(8, 8))


class Repeated(Chain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(functional.relu(self.one(x))))


class Halves(Chain):
    """Only some of the channels, which then stand elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.one(x)
        return self.two(torch.cat([hidden[:, 4:], hidden[:, :4]], 1))


class Sliced(Chain):
    def __init__(self, between: Any, norm: bool = False) -> None:
        super().__init__(between, norm)
        self.two = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x)[:, 4:])


class Turned(Chain):
    """The order of channels is turned round by a view alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).view(8, 2, 4).transpose(1, 2).reshape(8, 8))


EIGHT = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
PLAIN = (functional.relu, functional.leaky_relu, lambda x: x, lambda x: x.view(4, 2, 8).view(8, 8), lambda x: x.clone())
CROOKED = (functional.gelu, torch.sigmoid, lambda x: x + 1, lambda x: x.abs(), lambda x: x.exp(), lambda x: x - x.mean())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_what_commutes_with_a_scale(number: int, norm: bool) -> None:
    assert found_in_module(Chain(PLAIN[number], norm), EIGHT) == {"one": {"two"}}


@pytest.mark.parametrize("number", range(len(CROOKED)))
def test_what_does_not(number: int) -> None:
    assert found_in_module(Chain(CROOKED[number]), EIGHT) == {}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", [Residual, Given, Measured, Reshaped, Halves, Sliced, Turned, InPlace])
def test_outputs_that_are_used_otherwise_are_left_alone(kind: Any, norm: bool) -> None:
    assert found_in_module(kind(lambda x: x, norm), EIGHT) == {}


@pytest.mark.parametrize("kind", [Used, Bare, Repeated])
def test_layers_that_are_used_otherwise_are_left_alone(kind: Any) -> None:
    assert found_in_module(kind(lambda x: x), EIGHT) == {}


def test_a_product_with_something_else(tmp_path: Path) -> None:
    class Gated(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.sigmoid(self.side(x)) * self.one(x))

    class Square(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.one(x)
            return self.two(hidden * hidden)

    assert found_in_module(Gated(lambda x: x), EIGHT) == {"one": {"two"}}
    assert found_in_module(Square(lambda x: x), EIGHT) == {}


# What moving does


def moved_weights(model: RunnableModel, wanted: engine.Recipe, data: Any, folder: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors that were given other values, by the names they have on disk, and what was found."""
    plan = engine.plan(model.summary, wanted)
    assert not plan.problems or all(problem.severity != "error" for problem in plan.problems)
    folder.mkdir()
    found = prepare(plan, model, engine.open_data(data, model), str(folder), Monitor(), 1 << 30)
    before = {file.path for file in plan.summary.files}
    after = [file.path for file in found.prepared.plan.summary.files if file.path not in before]
    moved = {name: value for path in after for name, value in load_file(path).items()}
    return {name: value for name, value in moved.items() if name not in found.prepared.uncorrected}, found


class Opt(nn.Module):
    """Blocks as OPT has them: LayerNorm with bias, attention, ReLU between two biased layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.head = nn.LayerNorm(16), nn.LayerNorm(16), nn.Linear(16, 5)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm1(x)
        q, k, v = (layer(hidden).view(len(x), -1, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        x = x + self.fc2(functional.relu(self.fc1(self.norm2(x))))
        return self.head(x)


class Cnn(nn.Module):
    """Batch norms after convolutions; residual; depthwise; a head on flattened maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.conv3, self.conv4, self.head = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1), nn.Linear(12 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))
        x = functional.relu(self.conv3(x))
        x = functional.relu(self.conv4(x)) + x
        return self.head(functional.avg_pool2d(x, 4).flatten(1))


def spread(module: nn.Module) -> nn.Module:
    """Norms and biases unlike each other, and channels of very different size."""
    generator = torch.Generator().manual_seed(6)
    for name, value in module.named_parameters():
        value.data += torch.randn(value.shape, generator=generator) * (0.3 if value.dim() == 1 else 0.05)
        if value.dim() == 1 and "norm" in name:
            value.data *= torch.rand(value.shape, generator=generator) * 4 + 0.1
    return settled(module)


def network(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(7)
    if name in ("llama", "gpt2"):
        return spread(llama() if name == "llama" else gpt2()), {"input_ids": IDS}
    if name == "vit":
        return spread(vit()), {"pixel_values": PIXELS}
    return (spread(Opt()), torch.randn(4, 6, 16)) if name == "opt" else (spread(Cnn()), torch.randn(4, 3, 16, 16))


def output(module: nn.Module, given: Any) -> torch.Tensor:
    with torch.no_grad(), running(module):
        found = module(**given) if isinstance(given, dict) else module(given)
    return getattr(found, "logits", found)


CASES = [
    (name, algorithm)
    for name in ("llama", "gpt2", "vit", "opt", "cnn")
    for algorithm in ("awq", "smoothquant", "equalize", "equalize+smoothquant+awq")
    if not (name in ("gpt2", "vit") and algorithm == "equalize") and not (name == "cnn" and algorithm == "smoothquant")
]


@pytest.mark.parametrize(("name", "algorithm"), CASES)
def test_the_float_model_computes_the_same(name: str, algorithm: str, tmp_path: Path) -> None:
    module, given = network(name)
    fold = name == "cnn"
    with engine.load_runnable(module, example=given, fold_batch_norm=fold) as model:
        fresh = engine.load_runnable(module, example=given, fold_batch_norm=fold)
        before = output(model.module, given)
        moved, _ = moved_weights(model, recipe("int4:channel", algorithm), given if name != "opt" else [given], tmp_path / "run")
        assert moved and torch.equal(output(model.module, given), before)
        state = fresh.module.state_dict()
        assert set(moved) <= set(state)
        changed = [key for key, value in moved.items() if not torch.allclose(value, state[key], rtol=0.05)]
        assert len(changed) >= 2
        fresh.module.load_state_dict(moved, strict=False)
        difference = (output(fresh.module, given) - before).abs().max() / before.abs().max()
        fresh.close()
        assert difference < 1e-4


def test_a_networks_depthwise_convolutions_are_equalized(tmp_path: Path) -> None:
    """By hand: afterwards both sides of every pair have one range, channel by channel."""
    module, given = network("cnn")
    with engine.load_runnable(module, example=given, fold_batch_norm=True) as model:
        moved, _ = moved_weights(model, recipe("int8:channel", "equalize:rounds=100"), given, tmp_path / "run")
        first = moved["conv1.weight"].abs().amax((1, 2, 3))
        depthwise = moved["conv2.weight"].abs().amax((1, 2, 3))
        point = moved["conv3.weight"].abs().amax((0, 2, 3))
        torch.testing.assert_close(first, depthwise, rtol=0.02, atol=0)
        torch.testing.assert_close(depthwise, point, rtol=0.02, atol=0)


def test_the_digits_network_stays_as_good(digits: Path, tmp_path: Path) -> None:
    with np.load(digits / "calibration.npz") as data:
        x = torch.from_numpy(data["images"][:32])
    with digits_model(digits) as model, digits_model(digits) as fresh:
        before = output(model.module, x)
        moved, _ = moved_weights(model, recipe("int4:channel", "awq"), x, tmp_path / "run")
        fresh.module.load_state_dict(moved, strict=False)
        assert moved and (output(fresh.module, x) - before).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("sequential", [True, False])
def test_awqs_objective_is_nowhere_worse_than_round_to_nearests(sequential: bool, tmp_path: Path) -> None:
    """Group by group of layers: ``‖(W - Q(W s) / s) X‖²`` with the scales that were moved, found again by division."""
    module, given = network("llama")
    with engine.load_runnable(module, example=given) as model, engine.load_runnable(module, example=given) as fresh:
        wanted = recipe("int3:g16", "awq", sequential=sequential)
        moved, _ = moved_weights(model, wanted, given, tmp_path / "run")
        pairs = found_in(fresh, input_ids=IDS)
        names = [name for takers in pairs.values() for name in takers]
        weights: dict[str, torch.Tensor] = {name: part_of(fresh.module, name).weight.detach() for name in names}
        better = 0
        for source, takers in pairs.items():
            if sequential and not source.startswith("model.layers.0"):
                continue  # later blocks are given what the quantized ones before them give
            ours = plain = 0.0
            for name in sorted(takers):
                weight = weights[name]
                now = moved.get(f"{name}.weight", weight)
                scale = (now / weight).median(0).values
                x = inputs_of(fresh.module, [name], **given)[name][0].flatten(0, -2)
                ours += objective(weight, reference(now, 3, "group", 16, True)[3] / scale, x)
                plain += objective(weight, reference(weight, 3, "group", 16, True)[3], x)
            # The second of two transforms in one block sees inputs as the first left them, which are the same to rounding.
            assert ours <= plain * (1 + 1e-3), source
            better += ours < 0.999 * plain
        assert better


def test_smoothquants_scales_in_a_model(tmp_path: Path) -> None:
    """Equation 4 with hooks: q, k and v share one scale, by the largest weight of the three."""
    module, given = network("llama")
    with engine.load_runnable(module, example=given) as model:
        moved, _ = moved_weights(model, recipe("int8:channel", "smoothquant:strength=0.6"), given, tmp_path / "run")
        block = "model.layers.0.self_attn"
        layers = {letter: part_of(module, f"{block}.{letter}_proj").weight.detach() for letter in "qkv"}
        x = inputs_of(module, [f"{block}.q_proj"], **given)[f"{block}.q_proj"][0].flatten(0, -2)
        reach = torch.stack([weight.abs().amax(0) for weight in layers.values()]).amax(0)
        scale = x.abs().amax(0) ** 0.6 / reach**0.4
        for letter, weight in layers.items():
            torch.testing.assert_close(moved[f"{block}.{letter}_proj.weight"], weight * scale, rtol=1e-4, atol=1e-6)
        norm = part_of(module, "model.layers.0.input_layernorm").weight.detach()
        torch.testing.assert_close(moved["model.layers.0.input_layernorm.weight"], norm / scale, rtol=1e-4, atol=1e-6)


def test_layers_that_ask_for_other_things_hold_the_scale_back(tmp_path: Path) -> None:
    """v_proj is rounded without smoothing: then q and k, which share its input, are not smoothed either."""
    module, given = network("llama")
    smooth = recipe("int8:channel", "smoothquant")
    rule = engine.Rule(engine.parse_scheme("int8:channel"), "rtn", match="*v_proj")
    wanted = dataclasses.replace(smooth, rules=(rule, *smooth.rules))
    with engine.load_runnable(module, example=given) as model:
        moved, _ = moved_weights(model, wanted, given, tmp_path / "run")
        assert not any("self_attn" in name or "input_layernorm" in name for name in moved)
        assert any("post_attention_layernorm" in name for name in moved)
