"""Recipes with data on small networks whose parts hang together in ways that are easily got wrong."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import engine
from engine.calibration.batches import Batch
from engine.records.recipe import Recipe, Rule
from engine.running import evaluation, kept_statistics, preparation


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_statistics, "cache_folder", lambda: str(tmp_path / "cache"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(hidden_states))


class Row(nn.Module):
    """Blocks whose scale could move only from one block to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Pair(nn.Module):
    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(16, 32), nn.Linear(32, 16), act
        with torch.no_grad():
            self.a.weight[::2] *= 30
            self.a.bias[::2] *= 30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.act(self.a(x)))


def quantize(model: nn.Module, x: torch.Tensor, out: Path, scheme: str, algorithm: str, **more: object) -> engine.RunReport:
    rule = Rule(engine.parse_scheme(scheme), algorithm, kind="linear")
    return engine.quantize_to(model, out, Recipe(rules=(rule,), **more), data=x, overwrite=True)  # type: ignore[arg-type]


def test_scale_does_not_move_from_a_block_that_is_done(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 32) * torch.exp(torch.randn(32) * 1.5)
    model = Row().eval()
    plain = quantize(model, x, tmp_path / "a.safetensors", "int8:channel", "gptq")
    moved = quantize(model, x, tmp_path / "b.safetensors", "int8:channel", "awq+gptq")
    assert plain.evaluation and moved.evaluation
    assert moved.evaluation.output_sqnr_db == plain.evaluation.output_sqnr_db
    assert any("between two blocks" in layer.note for layer in moved.layers)


def test_peak_memory_counts_what_calibration_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what writing took, which comes afterwards."""
    wide, inner = 400 << 20, preparation.Preparation.solve

    def solve(self, *arguments):
        torch.ones(wide, dtype=torch.uint8)
        return inner(self, *arguments)

    monkeypatch.setattr(preparation.Preparation, "solve", solve)
    before = psutil.Process().memory_info().rss
    report = quantize(Pair().eval(), torch.randn(64, 16), tmp_path / "out.safetensors", "int8:channel", "gptq")
    assert report.peak_memory_bytes >= before + 0.9 * wide  # some of what was there is given back meanwhile


def test_what_a_plan_says_of_memory(make_file: Callable[..., Path]) -> None:
    """One layer of 8 x 16 in a block, by hand: moments of 16 inputs, 40 bytes and a row of XᵀX each; GPTQ's three squares and
    three weights; the weight as stored and in float32. A vector between blocks is a row of it."""
    model = engine.open_model(make_file({"m.0.a.weight": torch.randn(8, 16)}))
    recipe = Recipe(rules=(Rule(engine.parse_scheme("int4:channel"), "gptq"),), builtin=False)
    need = engine.plan(model, recipe, format="safetensors").calibration
    assert need and need.nbytes == 16 * (40 + 4 * 16) + 4 * (3 * 16 * 16 + 3 * 8 * 16) + 2 * 4 * 8 * 16
    assert need.vector_bytes == 4 * 16


@pytest.mark.parametrize("sequential", [True, False])
def test_scales_of_activations_are_those_of_the_equalized_model(sequential: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, out = torch.randn(256, 16), tmp_path / "out.safetensors"
    quantize(Pair().eval(), x, out, "int8:channel", "equalize", activations="int8:static", sequential=sequential)
    found = engine.load_tensors(out)
    hidden = torch.relu(x[:128] @ found["a.weight"].float().T + found["a.bias"])
    # The float model's range, but for the rounding of the first layer's weights.
    assert float(found["b.input_scale"]) == pytest.approx(float(hidden.abs().max() / 127.5), rel=0.3)


def test_the_cache_knows_what_the_forward_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(64, 16), Pair().eval()
    scales = []
    for act in (torch.relu, lambda h: 100 * h):
        model.act = act
        quantize(model, x, tmp_path / "out.safetensors", "int8:channel", "rtn", activations="int8:static")
        scales.append(float(engine.load_tensors(tmp_path / "out.safetensors", ["b.input_scale"])["b.input_scale"]))
    assert scales[1] > 50 * scales[0]


@pytest.mark.parametrize(
    ("batch", "logits"),
    [
        (Batch((), {"input_ids": torch.full((2, 8), 999)}, None, (0, 1)), torch.randn(2, 8, 64)),  # hidden states
        (Batch((), {}, torch.zeros(4, 3, dtype=torch.long), (0, 1, 2, 3)), torch.randn(4, 3)),  # several labels a sample
        (Batch((), {}, torch.randn(4), (0, 1, 2, 3)), torch.randn(4, 1)),  # regression
    ],
)
def test_what_is_no_class_is_not_judged_as_one(batch: Batch, logits: torch.Tensor) -> None:
    sums = evaluation._Whole()
    evaluation._judge(sums, batch, {"float": logits})
    assert evaluation._scores(sums, "float") == engine.Scores()
