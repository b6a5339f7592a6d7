"""Sensitivity that runs the model, against torch and numpy on small networks."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

import engine
from engine.records.calibration import DataSpec
from engine.records.search import Cell
from engine.searching.calls import Run

SCHEMES = ("int3:channel", "int4:g32")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing that other tests, or the user, measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def net() -> torch.nn.Module:
    torch.manual_seed(4)
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3, groups=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 96), torch.nn.ReLU(),
        torch.nn.Linear(96, 10),
    )  # fmt: skip


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(22, 4, 4, 4, generator=generator), torch.randint(0, 10, (22,), generator=generator)


@pytest.fixture
def data(images, tmp_path) -> DataSpec:
    np.savez(tmp_path / "data.npz", images=images[0].numpy(), labels=images[1].numpy())
    return DataSpec(str(tmp_path / "data.npz"), samples=0, batch=5, labels="labels")


def decoded(net: torch.nn.Module, scheme: str, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The weights that a written artifact holds."""
    out = tmp_path / f"{scheme.replace(':', '-')}.safetensors"
    engine.quantize_to(net, out, engine.Recipe(engine.parse_scheme(scheme)))
    return engine.load_tensors(out)


def cell_of(row: engine.SensitivityRow, scheme: str) -> Cell:
    cell = row.cell(scheme)
    assert cell is not None
    return cell


def with_weight(net: torch.nn.Module, name: str, value: torch.Tensor) -> torch.nn.Module:
    other = copy.deepcopy(net)
    other.get_submodule(name).weight.data = value.clone()  # type: ignore[union-attr]
    return other


@torch.no_grad()
def test_every_measure_is_what_torch_finds(net, images, data, tmp_path):
    x, labels = images
    run = Run(data, ("output", "fisher", "divergence", "loss"), "int4:g32")
    table = engine.sensitivity(net, SCHEMES, run=run)
    assert table.complete
    assert {row.layer for row in table.rows} == {"0", "3", "5"}
    inputs: dict[str, torch.Tensor] = {}
    watched = copy.deepcopy(net)
    for name in ("0", "3", "5"):
        watched.get_submodule(name).register_forward_hook(lambda _m, args, _o, name=name: inputs.__setitem__(name, args[0]))
    before = functional.log_softmax(watched(x), -1)
    weights = {scheme: decoded(net, scheme, tmp_path) for scheme in SCHEMES}
    for row in table.rows:
        module = net.get_submodule(row.layer)
        bare = copy.deepcopy(module)
        bare.bias.data.zero_()  # type: ignore[union-attr]
        assert row.output_signal == pytest.approx(float(bare(inputs[row.layer]).double().square().sum()), rel=1e-4)
        for scheme in SCHEMES:
            cell = cell_of(row, scheme)
            after = weights[scheme][f"{row.layer}.weight"]
            bare.weight.data = module.weight - after  # type: ignore[operator]
            assert cell.output == pytest.approx(float(bare(inputs[row.layer]).double().square().sum()), rel=1e-3)
            logs = functional.log_softmax(with_weight(net, row.layer, after)(x), -1)
            divergence = functional.kl_div(logs, before, reduction="batchmean", log_target=True)
            assert cell.divergence == pytest.approx(float(divergence), rel=1e-3, abs=1e-8)
            rise = functional.nll_loss(logs, labels) - functional.nll_loss(before, labels)
            assert cell.loss == pytest.approx(float(rise), rel=1e-3, abs=1e-6)
    every = copy.deepcopy(net)
    for name in ("0", "3", "5"):
        every = with_weight(every, name, weights["int4:g32"][f"{name}.weight"])
    whole = functional.kl_div(functional.log_softmax(every(x), -1), before, reduction="batchmean", log_target=True)
    for row in table.rows:
        left = with_weight(every, row.layer, net.get_submodule(row.layer).weight.data)  # type: ignore[arg-type]
        rest = functional.kl_div(functional.log_softmax(left(x), -1), before, reduction="batchmean", log_target=True)
        assert row.relief == pytest.approx(float(whole - rest), rel=1e-2, abs=1e-7)


def test_fisher_of_one_layer_in_closed_form(tmp_path):
    """A softmax regression: the gradient of one sample's loss is (p - y) xᵀ."""
    torch.manual_seed(6)
    net = torch.nn.Sequential(torch.nn.Linear(32, 8))
    x, y = torch.randn(40, 32), torch.randint(0, 8, (40,))
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    table = engine.sensitivity(
        net, ["int3:channel"], run=Run(DataSpec(str(tmp_path / "d.npz"), samples=0, labels="y"), ("fisher",))
    )
    weight, bias = (p.detach().double().numpy() for p in net.parameters())
    logits = x.double().numpy() @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(40), y.numpy()] -= 1
    fisher = np.einsum("no,ni->oi", p**2, x.double().numpy() ** 2) / 40
    lost = weight - decoded(net, "int3:channel", tmp_path)["0.weight"].double().numpy()
    assert cell_of(table.rows[0], "int3:channel").fisher == pytest.approx(0.5 * (fisher * lost**2).sum(), rel=1e-4)


def test_the_model_is_left_as_it_was(net, data):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net[0].weight.requires_grad_(False)
    with engine.load_runnable(net) as loaded:
        loaded.module.train()
        flags = [p.requires_grad for p in loaded.module.parameters()]
        engine.sensitivity(loaded, SCHEMES, run=Run(data, ("output", "fisher", "divergence")))
        assert all(torch.equal(value, before[name]) for name, value in loaded.module.state_dict().items())
        assert all(part.training for part in loaded.module.modules())
        assert [p.requires_grad for p in loaded.module.parameters()] == flags


def test_a_stopped_pass_goes_on_where_it_was(net, data):
    class Stops(engine.Monitor):
        def progress(self, progress):
            self.stop = progress.stage == "whole model" and progress.done > 4 * progress.total // 6

        def cancelled(self):
            return getattr(self, "stop", False)

    run = Run(data, ("output", "divergence"))
    with engine.load_runnable(net) as loaded:
        with pytest.raises(engine.Cancelled) as stopped:
            engine.sensitivity(loaded, SCHEMES, run=run, monitor=_EveryTime(Stops()))
        partial = stopped.value.partial
        known = sum(cell.divergence is not None for row in partial.rows for cell in row.cells if cell.scheme != "keep")
        assert 0 < known < 6
        assert all(cell.output is not None for row in partial.rows for cell in row.cells)
        again = engine.sensitivity(loaded, SCHEMES, run=run)
        assert again.measured <= 6 - known
        whole = engine.sensitivity(loaded, SCHEMES, run=run)
        assert whole.measured == 0
        assert whole.rows == again.rows
        other = engine.sensitivity(loaded, SCHEMES, run=Run(DataSpec(data.path, samples=9, labels="labels"), ("output",)))
        assert other.measured == 6


class _EveryTime(engine.Monitor):
    """Cancellation follows progress, which is told at most twenty times a second: here it is asked for with every question."""

    def __init__(self, stops):
        self._stops, self._asked = stops, 0

    def progress(self, progress):
        self._stage = progress.stage

    def cancelled(self):
        self._asked += getattr(self, "_stage", "") == "whole model"
        return self._asked > 20


def test_what_is_missing_is_said(net, data, tmp_path, images):
    with pytest.raises(engine.RecipeError, match="no measure"):
        engine.sensitivity(net, SCHEMES, run=Run(data, ("guess",)))
    np.save(tmp_path / "bare.npy", images[0].numpy())
    with pytest.raises(engine.InputError, match="labels"):
        engine.sensitivity(net, SCHEMES, run=Run(str(tmp_path / "bare.npy"), ("loss",)))
    bare = engine.sensitivity(net, SCHEMES, run=Run(str(tmp_path / "bare.npy"), ("fisher", "divergence")))
    assert all(cell_of(row, "int4:g32").fisher and cell_of(row, "int4:g32").loss is None for row in bare.rows)
    with pytest.raises(engine.InputError, match="no output errors"):
        engine.search(net, "4bpw", table=bare, by="output")


def test_layers_are_relaxed_until_the_metric_is_within(net, images, data, tmp_path):
    seen = []
    spec = DataSpec(data.path, samples=0, batch=5, labels="labels")
    found, attempts = engine.search_within(net, 2e-4, spec, metric="divergence", space=SCHEMES, on_attempt=seen.append)
    assert tuple(seen) == attempts
    assert any(attempt.within for attempt in attempts)
    assert not attempts[0].within
    assert attempts[0].relaxed == ()
    chosen = min((attempt for attempt in attempts if attempt.within), key=lambda attempt: attempt.nbytes)
    assert found.nbytes == chosen.nbytes
    # No trial that costs less was within, and the next cheaper point of the front was tried.
    assert all(attempt.nbytes >= found.nbytes for attempt in attempts if attempt.within)
    # What was measured is what a file with these schemes does.
    engine.quantize_to(net, tmp_path / "out.safetensors", engine.recipe_from_text(found.recipe))
    quantized = copy.deepcopy(net)
    for name, scheme in found.schemes:
        if scheme != "keep":
            quantized = with_weight(quantized, name, engine.load_tensors(tmp_path / "out.safetensors")[f"{name}.weight"])
    with torch.no_grad():
        after, before = (functional.log_softmax(each(images[0]), -1) for each in (quantized, net))
    divergence = float(functional.kl_div(after, before, reduction="batchmean", log_target=True))
    assert divergence <= 2e-4
    assert chosen.divergence == pytest.approx(divergence, rel=1e-2)


def test_a_tolerance_of_nothing_keeps_what_must_be_kept(net, data, images, tmp_path):
    spec = DataSpec(data.path, samples=0, labels="labels")
    found, _ = engine.search_within(net, 0.0, spec, metric="divergence", space=SCHEMES)
    assert {scheme for _, scheme in found.schemes} == {"keep"}
    np.save(tmp_path / "bare.npy", images[0].numpy())
    with pytest.raises(engine.InputError, match="accuracy"):
        engine.search_within(net, 0.1, str(tmp_path / "bare.npy"), metric="accuracy", space=SCHEMES)
