"""Where a running model multiplies by a stored weight.

Oracles: autograd (a patch is the output's derivative by the weight), hooks on modules, and what is known of recurrent layers and
routers by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import engine
from engine.calibration.batches import Batch
from engine.calibration.collect import Collector, Unshared, Wanted
from engine.calibration.sites import Convolution, Operator, Sites, Watched
from engine.errors import Cancelled, DataError
from engine.models.base import RunnableModel
from engine.models.state import running
from engine.records.model import LayerInfo
from engine.records.progress import Monitor
from engine.records.scheme import KEEP
from tests.engine.test_algorithms_data import inputs_of, part_of
from tests.engine.test_models_matching import llama, mixtral, saved


def stored_weights(model: RunnableModel) -> dict[str, torch.Tensor]:
    """What is on disk, read by safetensors."""
    return {name: value for file in model.summary.files for name, value in load_file(file.path).items()}


def as_rows(weight: torch.Tensor, layer: LayerInfo) -> torch.Tensor:
    """Output channels first; one expert under the other."""
    if layer.kind == "experts":
        wide = weight if layer.axis == 1 else weight.transpose(1, 2)
        return wide.reshape(-1, wide.shape[-1])
    return weight.movedim(layer.axis, 0).flatten(1)


class Seen:
    """Second moments by layer and group, as ``vectors`` gives them; each operator is done again as ``vectors @ matrix.T``."""

    def __init__(self, model: RunnableModel) -> None:
        self.second: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
        self.calls: list[str] = []
        self._weights = stored_weights(model)

    def visit(self, operator: Operator) -> torch.Tensor:
        y = operator.run()
        self.calls += [use.layer.name for use in operator.uses]
        if operator.kind == "embedding":
            assert list(operator.vectors()) == []
            return y
        plain = y - operator.run(weight=torch.zeros_like(operator.weight))
        for use in operator.uses:
            matrix = as_rows(self._weights[use.layer.tensor.name], use.layer)
            vectors = list(operator.vectors())
            for group, found in vectors:
                known, wide = self.second[use.layer.name], found.double()
                known[group] = known.get(group, 0) + wide.T @ wide
            again = self._again(operator, vectors, matrix, matrix[use.of_layer], plain)
            torch.testing.assert_close(again, operator.output_of(plain, use), rtol=1e-4, atol=1e-5)
        return y

    def _again(
        self, operator: Operator, vectors: list, matrix: torch.Tensor, rows: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        if isinstance(operator, Convolution):
            batch, channels, *positions = y.shape
            if operator._args[6]:  # transposed: kinds of inputs side by side in the columns, their outputs one group each
                parts = [found @ matrix.T for _, found in vectors]
            else:
                blocks = matrix.chunk(len({group for group, _ in vectors}))
                parts = [found @ blocks[group].T for group, found in vectors]
            return torch.cat([part.reshape(batch, -1, part.shape[1]) for part in parts], 2).movedim(2, 1).reshape(
                batch, channels, *positions
            )  # fmt: skip
        if operator.weight.dim() == 3:
            blocks = matrix.chunk(len(vectors))
            return torch.stack([found @ blocks[group].T for group, found in vectors])
        return vectors[0][1] @ rows.T


def watched(model: RunnableModel, *arguments: torch.Tensor, **keywords: torch.Tensor) -> tuple[Seen, Any]:
    seen = Seen(model)
    with running(model.module), Watched(Sites(model, model.summary.layers), seen.visit):
        return seen, model.module(*arguments, **keywords)


def collected(model: RunnableModel, *batches: Batch, shared: bool = True) -> Collector:
    """Everything a collector gathers of every layer."""
    wanted = {layer.name: Wanted(moments=True, second=True, activity=True) for layer in model.summary.layers}
    collector = Collector(wanted, shared=shared)
    with running(model.module), Watched(Sites(model, model.summary.layers), collector.visit):
        for batch in batches:
            collector.begin(batch)
            batch(model.module)
    return collector


def second_of(collector: Collector, name: str) -> torch.Tensor:
    moments = collector.moments(name)
    assert moments is not None and moments.second is not None
    return moments.second


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def inner(x: torch.Tensor) -> torch.Tensor:
    """X^T X of all positions."""
    flat = x.detach().double().reshape(-1, x.shape[-1])
    return flat.T @ flat


# Convolutions: a patch is d output / d weight


CONVOLUTIONS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv1d(3, 4, 3, stride=2, padding=1), (2, 3, 9)),
    (nn.Conv1d(4, 6, 2, dilation=3, groups=2, bias=False), (2, 4, 9)),
    (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 0)), (2, 3, 6, 7)),
    (nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect"), (1, 2, 5, 5)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
    (nn.Conv2d(3, 6, 3, dilation=2, groups=3, stride=2, padding=2), (2, 3, 7, 7)),
    (nn.Conv2d(3, 4, 1), (2, 3, 4, 4)),
    (nn.Conv2d(3, 4, 4, stride=4), (2, 3, 8, 8)),
    (nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (1, 2, 3, 4, 4)),
    (nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1), (2, 3, 5)),
    (nn.ConvTranspose1d(4, 6, 3, groups=2, dilation=2), (2, 4, 5)),
    (nn.ConvTranspose2d(3, 4, (2, 3), stride=(2, 1), bias=False), (2, 3, 3, 4)),
    (nn.ConvTranspose2d(4, 4, 3, stride=2, padding=2, output_padding=1, groups=4), (2, 4, 4, 4)),
    (nn.ConvTranspose2d(2, 3, 1, stride=2, padding=1), (1, 2, 4, 4)),
]


def patches(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """X^T X of every group, (groups, columns, columns), from the derivatives of outputs by the weight."""
    weight = layer.weight.detach()
    groups, transposed = layer.groups, isinstance(layer, nn.modules.conv._ConvTransposeNd)

    def of(w: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": w}, (x,))

    slopes = torch.autograd.functional.jacobian(of, weight).double()  # (n, outputs, positions..., weight...)
    dims = weight.dim()
    rows = slopes.movedim(dims + (1 if transposed else 0), dims)  # (n, outputs, positions..., row, columns...)
    flat = rows.flatten(dims + 1).flatten(2, dims - 1)  # (n, outputs, positions, row, columns)
    outputs = flat.shape[1] // groups
    found = []
    for group in range(groups):
        first = flat[:, group * outputs, :, 0 if transposed else group * outputs].flatten(0, 1)
        found.append(first.T @ first)
    return torch.stack(found).sum(0, keepdim=True) if transposed else torch.stack(found)


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=lambda value: type(value).__name__)
def test_convolutions_multiply_patches(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape)
    with engine.load_runnable(layer, example=x) as model:
        seen, output = watched(model, x)
        torch.testing.assert_close(output, layer(x))
        wanted = patches(layer, x)
        assert set(seen.second) == {"weight"} and set(seen.second["weight"]) == set(range(len(wanted)))
        for group, matrix in enumerate(wanted):
            close(seen.second["weight"][group], matrix)
        close(second_of(collected(model, Batch((x,), indices=tuple(range(len(x))))), "weight"), wanted)


def test_one_image_without_a_batch() -> None:
    torch.manual_seed(2)
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(3, 5, 5)
    with engine.load_runnable(layer, example=x[None]) as model:
        close(second_of(collected(model, Batch((x,), indices=(0,))), "weight"), patches(layer, x[None]))


def test_large_images_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.calibration.sites.PATCH_BYTES", 5000)
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(5, 3, 6, 6)
    with engine.load_runnable(layer, example=x) as model:
        close(second_of(collected(model, Batch((x,), indices=tuple(range(5)))), "weight"), patches(layer, x))


# Linear layers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (2, 2, 3, 6), (6,), (1, 6)])
@pytest.mark.parametrize("outputs", [1, 4])
def test_linear_layers(bias: bool, shape: tuple[int, ...], outputs: int) -> None:
    torch.manual_seed(3)
    layer, x = nn.Linear(6, outputs, bias=bias), torch.randn(shape)
    with engine.load_runnable(layer, example=x) as model:
        seen, output = watched(model, x)
        torch.testing.assert_close(output, layer(x))
        assert seen.calls == ["weight"]
        close(seen.second["weight"][0], inner(x))


def test_weights_of_one_input() -> None:
    layer, x = nn.Linear(1, 4), torch.randn(5, 1)
    with engine.load_runnable(layer, example=x) as model:
        close(watched(model, x)[0].second["weight"][0], inner(x))


def test_gpt2s_linear_layers_are_stored_turned_round() -> None:
    torch.manual_seed(4)
    layer, x = Conv1D(5, 6), torch.randn(2, 3, 6)
    with engine.load_runnable(layer, example=x) as model:
        seen, _ = watched(model, x)
        (line,) = [line for line in model.summary.layers if line.name == "weight"]
        assert (line.axis, line.shape) == (1, (6, 5))
        close(seen.second["weight"][0], inner(x))
        close(second_of(collected(model, Batch((x,), indices=(0, 1))), "weight")[0], inner(x))


def test_a_module_called_twice_sees_both_inputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.never = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.tanh(self.layer(x)))

    torch.manual_seed(5)
    module, x = Twice(), torch.randn(4, 6)
    wanted = inner(x) + inner(torch.tanh(module.layer(x)))
    with engine.load_runnable(module, example=x) as model:
        collector = collected(model, Batch((x,), indices=tuple(range(4))))
        close(second_of(collector, "layer")[0], wanted)
        assert collector.reached == {"layer"}
        assert collector.moments("never") is None and collector.activity("never").samples == 0
        report = engine.calibrate(model, [x])
        assert report.unreached == ("never",)


# Attention


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inside = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, query: torch.Tensor, key: torch.Tensor | None = None, value: torch.Tensor | None = None) -> torch.Tensor:
        key = query if key is None else key
        return self.inside(query, key, key if value is None else value)[0]


QUERY, MEMORY, VALUES = (torch.randn(2, n, 8, generator=torch.Generator().manual_seed(n)) for n in (3, 5, 6))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("given", "rows"),
    [((QUERY,), [24]), ((QUERY, MEMORY), [8, 16]), ((QUERY, VALUES[:, :5], MEMORY), [8, 8, 8])],
    ids=["self", "cross", "three"],
)
def test_joined_projections_of_attention(given: tuple[torch.Tensor, ...], rows: list[int], bias: bool) -> None:
    """One parameter (3 · 8, 8): each product takes its own rows, one after the other, and its own input."""
    with engine.load_runnable(Attention(bias=bias), example=given) as model:
        found: list[tuple[int, int, torch.Tensor]] = []

        def visit(operator: Operator) -> torch.Tensor:
            found.extend(
                (use.of_layer.start, use.of_layer.stop, operator.input.clone())
                for use in operator.uses
                if use.layer.name == "inside.in_proj_weight"
            )
            return operator.run()

        with running(model.module), Watched(Sites(model, model.summary.layers), visit):
            model.module(*given)
        seen, _ = watched(model, *given)  # checks the products themselves
        ends = np.cumsum([0, *rows]).tolist()
        assert [(first, last) for first, last, _ in found] == list(itertools.pairwise(ends))
        for (_, _, x), wanted in zip(found, given, strict=True):
            close(inner(x), inner(wanted))
        close(seen.second["inside.in_proj_weight"][0], sum((inner(x) for x in given), torch.zeros(8, 8)))


def test_projections_of_other_widths() -> None:
    key, value = torch.randn(2, 5, 6), torch.randn(2, 5, 4)
    with engine.load_runnable(Attention(kdim=6, vdim=4), example=(QUERY, key, value)) as model:
        seen, _ = watched(model, QUERY, key, value)
        for letter, x in zip("qkv", (QUERY, key, value), strict=True):
            close(seen.second[f"inside.{letter}_proj_weight"][0], inner(x))


def test_attentions_last_projection_is_reached_on_the_fast_path_too() -> None:
    """An encoder layer in evaluation mode would be one fused operator, in which nothing is seen."""
    torch.manual_seed(6)
    module, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 3, 8)
    with engine.load_runnable(module, example=x) as model:
        collector = collected(model, Batch((x,), indices=(0, 1)))
        assert {"self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"} <= collector.reached


# Recurrent layers


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.inside = kind(4, 5, batch_first=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)[0]


NO_TF32 = pytest.mark.filterwarnings("ignore:TF32 acceleration")  # what torch says of mkldnn's flags


@NO_TF32
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: Any) -> None:
    """By hand: the state's inputs are zeros, then the outputs of all steps but the last; backwards, from the end."""
    torch.manual_seed(7)
    module, x = Recurrent(kind, bidirectional=True), torch.randn(2, 6, 4)
    with engine.load_runnable(module, example=x) as model:
        output = module(x)
        seen, found = watched(model, x)
        torch.testing.assert_close(found, output)
        for suffix, states in (("", output[:, :-1, :5]), ("_reverse", output[:, 1:, 5:])):
            close(seen.second[f"inside.weight_ih_l0{suffix}"][0], inner(x))
            close(seen.second[f"inside.weight_hh_l0{suffix}"][0], inner(states))
        collector = collected(model, Batch((x,), indices=(0, 1)))
        close(second_of(collector, "inside.weight_hh_l0")[0], inner(output[:, :-1, :5]))


@NO_TF32
def test_recurrent_layers_in_a_row() -> None:
    torch.manual_seed(8)
    module, x = Recurrent(nn.LSTM, num_layers=2), torch.randn(2, 6, 4)
    first = nn.LSTM(4, 5, batch_first=True)
    first.load_state_dict({name: value for name, value in module.inside.state_dict().items() if name.endswith("l0")})
    with engine.load_runnable(module, example=x) as model:
        seen, _ = watched(model, x)
        close(seen.second["inside.weight_ih_l1"][0], inner(first(x)[0]))
        close(seen.second["inside.weight_hh_l1"][0], inner(module(x)[:, :-1]))


# Embeddings and experts


def test_an_embedding_is_reached_and_has_no_vectors() -> None:
    module, ids = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with engine.load_runnable(module, example=ids) as model:
        seen, _ = watched(model, ids)
        assert seen.calls == ["0", "1"] and set(seen.second) == {"1"}
        collector = collected(model, Batch((ids,), indices=(0, 1)))
        assert collector.activity("0").samples == 2 and collector.moments("0") is None


IDS = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(9))


def experts_by_hand(module: nn.Module) -> dict[str, torch.Tensor]:
    """Inputs of the first layer's experts: its router's two largest of four decide who is given a token."""
    mlp: Any = module.get_submodule("model.layers.0.mlp")
    caught: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].reshape(-1, 32)))
    with torch.no_grad():
        module(input_ids=IDS)
    handle.remove()
    (tokens,) = caught
    chosen = (tokens @ mlp.gate.weight.T).topk(2).indices
    found = {}
    for expert in range(4):
        mine = tokens[(chosen == expert).any(1)]
        gate, up = (mine @ mlp.experts.gate_up_proj[expert].T).chunk(2, 1)
        found[f"{expert}.w1"] = found[f"{expert}.w3"] = mine
        found[f"{expert}.w2"] = nn.functional.silu(gate) * up
    return found


def test_experts_that_lie_side_by_side_on_disk(tmp_path: Path) -> None:
    """Stored one by one, run as parts of a joined parameter: w1 above w3."""
    with engine.load_runnable(saved(mixtral(), tmp_path / "model")) as model, torch.no_grad():
        by_hand = experts_by_hand(model.module)
        seen, _ = watched(model, input_ids=IDS)
        collector = collected(model, Batch((), {"input_ids": IDS}, indices=(0, 1)))
        for name, x in by_hand.items():
            full = f"model.layers.0.block_sparse_moe.experts.{name}"
            close(seen.second[full][0], inner(x))
            close(second_of(collector, full)[0], inner(x))
        assert "model.layers.0.block_sparse_moe.gate" in collector.reached


def test_joined_experts(tmp_path: Path) -> None:
    """A module saved as it runs: one tensor (experts, out, in), each expert a group of inputs."""
    torch.manual_seed(10)
    with engine.load_runnable(mixtral(), example={"input_ids": IDS}) as model, torch.no_grad():
        by_hand = experts_by_hand(model.module)
        collector = collected(model, Batch((), {"input_ids": IDS}, indices=(0, 1)))
        for name, part in (("gate_up_proj", "w1"), ("down_proj", "w2")):
            wanted = torch.stack([inner(by_hand[f"{expert}.{part}"]) for expert in range(4)])
            moments = collector.moments(f"model.layers.0.mlp.experts.{name}")
            assert moments is not None and moments.counts == [len(by_hand[f"{expert}.{part}"]) for expert in range(4)]
            close(second_of(collector, f"model.layers.0.mlp.experts.{name}"), wanted)


class TurnedExperts(nn.Module):
    """All experts at once, (experts, in, out), as in gpt-oss and Llama 4."""

    is_transposed = True

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, self.kernel)


class ExpertsInTurn(TurnedExperts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part @ self.kernel[number] for number, part in enumerate(x)])


@pytest.mark.parametrize("kind", [TurnedExperts, ExpertsInTurn])
def test_experts_stored_inputs_first(kind: Any) -> None:
    torch.manual_seed(11)
    x = torch.randn(3, 7, 6)
    with engine.load_runnable(nn.Sequential(kind()), example=x) as model:
        (line,) = model.summary.layers
        assert (line.kind, line.axis) == ("experts", 2)
        found = second_of(collected(model, Batch((x,), indices=(0, 1, 2))), "0.kernel")
        close(found, torch.stack([inner(part) for part in x]))
        seen, _ = watched(model, x)
        for group, part in enumerate(x):
            close(seen.second["0.kernel"][group], inner(part))


# Programs


def test_an_exported_program(digits: Path) -> None:
    path = digits / "model.pt2"
    trusted = [hashlib.sha256(path.read_bytes()).hexdigest()]
    with np.load(digits / "calibration.npz") as data:
        x = torch.from_numpy(data["images"][:8])
    with (
        engine.load_runnable(path, trusted=trusted) as program,
        engine.load_runnable(
            digits / "model.safetensors", factory=f"{digits / 'factory.py'}:create_model",
            trusted=[hashlib.sha256((digits / "factory.py").read_bytes()).hexdigest()],
        ) as module,
    ):  # fmt: skip
        found, _ = watched(program, x)
        inputs = inputs_of(module.module, ["fc1", "fc2", "conv2.conv"], x)
        for name in ("fc1", "fc2"):
            close(found.second[name][0], inner(inputs[name][0]))
        unfolded = nn.functional.unfold(inputs["conv2.conv"][0], 3, padding=1).transpose(1, 2)
        close(found.second["conv2.conv"][0], inner(unfolded))
        assert set(found.second) >= {"stem.conv", "depthwise1.conv", "pointwise2.conv"}


# Moments


def mlp() -> nn.Sequential:
    torch.manual_seed(12)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def test_moments_against_numpy() -> None:
    module = mlp()
    batches = [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (5, 3, 7)]
    with engine.load_runnable(module, example=batches[0]) as model:
        starts = (0, 5, 8)
        given = [Batch((x,), indices=tuple(range(first, first + len(x)))) for x, first in zip(batches, starts, strict=True)]
        collector = collected(model, *given)
        x = torch.cat(batches).numpy().astype(np.float64)
        relu = np.maximum(x @ part_of(module, "0").weight.detach().numpy().T + part_of(module, "0").bias.detach().numpy(), 0)
        for name, wanted in (("0", x), ("2", relu)):
            moments = collector.moments(name)
            assert moments is not None and moments.counts == [15] and moments.second is not None
            np.testing.assert_allclose(moments.second[0], wanted.T @ wanted, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(moments.mean[0], wanted.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.magnitude[0], np.abs(wanted).mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.low[0], wanted.min(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.high[0], wanted.max(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(moments.reach[0], np.abs(wanted).max(0), rtol=1e-4, atol=1e-5)
            activity = collector.activity(name)
            assert activity.samples == 15
            assert (activity.low, activity.high) == pytest.approx((wanted.min(), wanted.max()), rel=1e-5)
            assert activity.low_sample == np.unravel_index(wanted.argmin(), wanted.shape)[0] or name == "2"
            assert activity.high_sample == np.unravel_index(wanted.argmax(), wanted.shape)[0]
            half = wanted[:8]  # the first batches that hold half of all samples
            assert activity.converged == pytest.approx((half.max() - half.min()) / (wanted.max() - wanted.min()), rel=1e-4)


def test_moments_of_divided_inputs() -> None:
    with engine.load_runnable(mlp(), example=torch.zeros(1, 6)) as model:
        x, scale = torch.randn(9, 6), torch.rand(6) + 0.5
        moments = collected(model, Batch((x,), indices=tuple(range(9)))).moments("0")
        assert moments is not None
        divided = moments.divided(scale)
        wide = x / scale
        assert divided.second is not None
        close(divided.second[0], inner(wide))
        for found, wanted in (
            (divided.mean, wide.mean(0)), (divided.magnitude, wide.abs().mean(0)), (divided.low, wide.amin(0)),
            (divided.high, wide.amax(0)), (divided.reach, wide.abs().amax(0)),
        ):  # fmt: skip
            torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_inputs_are_summed_in_float32() -> None:
    """In bfloat16 a sum of 4096 ones would stop at 256."""
    layer, x = nn.Linear(4, 3, bias=False).bfloat16(), torch.ones(4096, 4, dtype=torch.bfloat16)
    with engine.load_runnable(layer, example=x) as model:
        collector = collected(model, Batch((x,), indices=tuple(range(4096))))
        assert torch.equal(second_of(collector, "weight")[0], torch.full((4, 4), 4096.0))


def test_layers_with_one_input_share_a_record(tmp_path: Path) -> None:
    with engine.load_runnable(saved(llama(), tmp_path / "model")) as model:
        collector = collected(model, Batch((), {"input_ids": IDS}, indices=(0, 1)))
        stem = "model.layers.1"
        record = collector.moments(f"{stem}.self_attn.q_proj")
        assert record is not None and record.counts == [48]
        assert all(collector.moments(f"{stem}.self_attn.{name}_proj") is record for name in "kv")
        assert collector.moments(f"{stem}.mlp.gate_proj") is collector.moments(f"{stem}.mlp.up_proj")
        others = {id(collector.moments(f"{stem}.{name}")) for name in ("self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")}
        assert len(others) == 3 and id(record) not in others
        apart = collected(model, Batch((), {"input_ids": IDS}, indices=(0, 1)), shared=False)
        for name in ("q_proj", "k_proj", "v_proj"):
            close(second_of(apart, f"{stem}.self_attn.{name}"), second_of(collector, f"{stem}.self_attn.q_proj"))


class Sometimes(nn.Module):
    """Two layers that look at the same tensor only when its first number is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x if x[0, 0] > 0 else x * 2)


def test_layers_that_do_not_always_share_are_gathered_apart() -> None:
    batches = [torch.full((2, 4), 1.0), torch.full((2, 4), -1.0)]
    with engine.load_runnable(Sometimes(), example=batches[0]) as model:
        given = [Batch((x,), indices=(2 * n, 2 * n + 1)) for n, x in enumerate(batches)]
        with pytest.raises(Unshared):
            collected(model, *given)
        apart = collected(model, *given, shared=False)
        close(second_of(apart, "first")[0], inner(torch.cat(batches)))
        close(second_of(apart, "second")[0], inner(torch.cat([batches[0], batches[1] * 2])))


def test_padding_is_left_out(tmp_path: Path) -> None:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, 10:] = 0
    with engine.load_runnable(saved(llama(), tmp_path / "model")) as model:
        batch = Batch((), {"input_ids": IDS, "attention_mask": mask}, indices=(0, 1))
        inputs: list[torch.Tensor] = []
        layer = model.module.get_submodule("model.layers.1.mlp.up_proj")
        handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        with running(model.module):
            batch(model.module)
        handle.remove()
        moments = collected(model, batch).moments("model.layers.1.mlp.up_proj")
        assert moments is not None and moments.counts == [34] and moments.second is not None
        close(moments.second[0], inner(inputs[0][mask.bool()]))


class Poisoned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.where(x > 90, torch.log(-x), self.first(x)))


def test_nan_names_the_layer_and_the_sample() -> None:
    x = torch.randn(6, 4)
    x[4, 2] = 100.0
    with engine.load_runnable(Poisoned(), example=x) as model:
        with pytest.raises(DataError, match=r"last.*NaN or Inf at sample 4\b"):
            collected(model, *[Batch((x[n : n + 1],), indices=(n,)) for n in range(6)])
        with pytest.raises(DataError, match="last"):
            engine.calibrate(model, [x])


# The model is left as it was


class Surroundings:
    """What must not change: values, identity of parameters, training flags, hooks, forwards, torch's switches."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        module.train()
        next(module.children()).eval()
        self.before = self.now()
        self.values = {name: value.clone() for name, value in module.state_dict().items()}

    def now(self) -> Mapping[str, Any]:
        module = self.module
        hooks = [name for name, part in module.named_modules() for kind in ("_forward_hooks", "_forward_pre_hooks",
                 "_backward_hooks") if getattr(part, kind)]  # fmt: skip
        return {
            "flags": [part.training for part in module.modules()], "hooks": hooks,
            "forwards": [name for name, part in module.named_modules() if "forward" in vars(part)],
            "pointers": [value.data_ptr() for value in module.parameters()],
            "grad": [value.requires_grad for value in module.parameters()],
            "switches": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
                         torch.backends.mha.get_fastpath_enabled(), torch.get_float32_matmul_precision(),
                         torch.get_num_threads()),
        }  # fmt: skip

    def check(self) -> None:
        assert self.now() == self.before
        for name, value in self.module.state_dict().items():
            assert torch.equal(value, self.values[name]), name


class Stopping(Monitor):
    """Asks to stop after so many checks."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("stopped")


RECIPE = engine.Recipe(
    default=engine.parse_scheme("int4:g16"),
    algorithm="equalize+smoothquant+awq+gptq+bias",
    rules=tuple(engine.Rule(KEEP, kind=kind) for kind in ("bias", "norm", "embedding")),
    builtin=False,
)


@pytest.mark.parametrize("after", [None, 1, 12, 40])
def test_a_transformer_is_left_as_it_was(after: int | None, tmp_path: Path) -> None:
    with engine.load_runnable(saved(llama(), tmp_path / "model")) as model:
        around = Surroundings(model.module)
        plan = engine.plan(model.summary, RECIPE)
        if after is None:
            engine.quantize_to(plan, tmp_path / "out", data=[{"input_ids": IDS}], runnable=model)
        else:
            with pytest.raises(Cancelled):
                engine.quantize_to(plan, tmp_path / "out", data=[{"input_ids": IDS}], runnable=model, monitor=Stopping(after))
            assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
        around.check()


def test_a_model_whose_forward_fails_is_left_as_it_was(tmp_path: Path) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x)
            if x.max() > 50:
                raise RuntimeError("no such thing")
            return self.last(hidden)

    data = [torch.zeros(2, 16), torch.full((2, 16), 99.0)]
    with engine.load_runnable(Failing(), example=data[0]) as model:
        around = Surroundings(model.module)
        for call in (
            lambda: engine.quantize_to(engine.plan(model.summary, RECIPE), tmp_path / "o.safetensors", data=data, runnable=model),
            lambda: engine.calibrate(model, data),
            lambda: engine.evaluate(model, data),
        ):
            with pytest.raises(DataError, match="no such thing"):
                call()
            around.check()
        assert list(tmp_path.iterdir()) == []


def test_a_module_given_by_a_user_is_not_touched(tmp_path: Path) -> None:
    module = mlp()
    around = Surroundings(module)
    recipe = dataclasses.replace(RECIPE, default=engine.parse_scheme("int8:channel"))
    engine.quantize_to(module, tmp_path / "out.safetensors", recipe, data=[torch.randn(8, 6)])
    around.check()
