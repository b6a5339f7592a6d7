"""Schemes tried on one layer, where its error lies, and why: against whole runs, numpy, and hand-worked cases."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import engine
from engine.errors import InputError, RecipeError
from engine.looking.detail import describe
from engine.looking.diagnosis import diagnose
from engine.looking.expected import expected_db
from engine.looking.trying import Bench, look
from engine.readers import open_path
from engine.readers.source import TensorFiles
from engine.records.look import Trial
from engine.schemes import parse_scheme

SCHEMES = ("int4:g128", "int8:channel:asym", "int8:tensor", "fp8_e4m3:channel", "nf4:g64", "mxfp4", "nvfp4", "int3:g64", "bf16")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(192, 512, generator=generator) * 0.03
    tall = weight.clone()
    tall[7] *= 60
    tensors = {
        "model.layers.0.mlp.up_proj.weight": weight.bfloat16(),
        "model.layers.0.mlp.down_proj.weight": tall,
        "conv.weight": torch.randn(24, 8, 3, 3, generator=generator),
        "lopsided.weight": torch.empty(64, 256).exponential_(generator=generator),
        "large.weight": (torch.randn(2048, 640, generator=generator) * 0.02).bfloat16(),
        "broken.weight": torch.full((16, 16), float("nan")),
    }
    path = tmp_path_factory.mktemp("trying") / "model.safetensors"
    save_file(tensors, path)
    return path


def layer_of(path: Path, name: str):
    return next(layer for layer in open_path(str(path)).layers if layer.name == name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_trial_is_what_a_run_reports(model: Path, scheme: str, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    trial = engine.try_scheme(model, name, scheme)
    recipe = engine.Recipe(rules=(engine.Rule(parse_scheme(scheme), match=name),))
    report = engine.quantize_to(model, tmp_path / "out.safetensors", recipe)
    (ran,) = [layer for layer in report.layers if layer.name == name]
    assert trial.report and trial.exact and trial.rows == 192
    for field in ("sqnr_db", "noise", "max_error", "clipped", "histogram", "ranges", "bytes_after"):
        assert getattr(trial.report, field) == getattr(ran, field), field


def test_a_sample_answers_first_and_nearly_the_same(model: Path) -> None:
    first: list[Trial] = []
    bench = Bench(open_path(str(model)))
    layer = layer_of(model, "large")
    exact = bench.attempt(layer, parse_scheme("int4:g128"), "rtn", first=first.append, limit=0.5)
    (sample,) = first
    assert sample.report and exact.report and not sample.exact and exact.exact and sample.rows < exact.rows == 2048
    assert sample.report.bytes_after == exact.report.bytes_after
    assert sample.report.histogram.limit == exact.report.histogram.limit == 0.5
    assert sum(sample.report.histogram.float_counts) == pytest.approx(2048 * 640, rel=1e-3)
    assert sample.report.sqnr_db == pytest.approx(exact.report.sqnr_db, abs=0.2)
    again = bench.attempt(layer, parse_scheme("int4:g128"), "rtn", limit=0.5)  # from memory this time
    assert again.report and again.report.noise == exact.report.noise


def test_levels_are_the_values_that_weights_take(model: Path, tmp_path: Path) -> None:
    """Per tensor there is one group: every decoded weight is a level, and int4 has sixteen."""
    trial = engine.try_scheme(model, "model.layers.0.mlp.up_proj", "int4:tensor")
    assert len(trial.levels) == 16
    steps = np.diff(trial.levels)
    assert np.allclose(steps, steps[0], rtol=1e-5) and trial.levels[8] == 0
    recipe = engine.Recipe(rules=(engine.Rule(parse_scheme("int4:tensor"), match="*.up_proj"),))
    engine.quantize_to(model, tmp_path / "out.safetensors", recipe)
    decoded = engine.load_tensors(tmp_path / "out.safetensors")["model.layers.0.mlp.up_proj.weight"]
    levels = torch.tensor(trial.levels).bfloat16().float()
    assert set(decoded.float().unique().tolist()) <= set(levels.tolist())
    assert engine.try_scheme(model, "model.layers.0.mlp.up_proj", "bf16").levels == ()


def test_what_cannot_be_tried_is_said(model: Path) -> None:
    assert "NaN" in engine.try_scheme(model, "broken", "int8:channel").problem
    assert engine.try_scheme(model, "conv", "keep").report is None
    with pytest.raises(RecipeError, match="gptq needs calibration data"):
        engine.try_scheme(model, "conv", "int8:channel", "gptq")
    with pytest.raises(InputError, match="no tensor or layer called"):
        engine.try_scheme(model, "nowhere", "int8:channel")


@pytest.mark.parametrize(("name", "scheme"), [("model.layers.0.mlp.down_proj", "int8:tensor"), ("conv", "int4:channel")])
def test_detail_of_a_run_against_numpy(model: Path, name: str, scheme: str, tmp_path: Path) -> None:
    recipe = engine.Recipe(rules=(engine.Rule(parse_scheme(scheme), match=name),))
    report = engine.quantize_to(model, tmp_path / "out.safetensors", recipe)
    (ran,) = report.layers
    found = engine.look_at_layer(model, name, tmp_path / "out.safetensors", ran)
    tensor = f"{name}.weight"
    before = engine.load_tensors(model)[tensor].double().numpy()
    after = engine.load_tensors(tmp_path / "out.safetensors")[tensor].double().numpy()
    w, e = before.reshape(before.shape[0], -1), (before - after).reshape(before.shape[0], -1)
    assert found.sqnr_db == pytest.approx(10 * np.log10((w**2).sum(1) / (e**2).sum(1)), abs=1e-4)
    assert (found.ranges.low, found.ranges.high) == (tuple(w.min(1)), tuple(w.max(1)))
    lost = (after == 0) & (before != 0)
    assert found.underflow == pytest.approx(lost.mean()) and sum(found.underflow_counts) == lost.sum() > 0
    centred = before - before.mean()
    assert (found.mean, found.std) == (pytest.approx(before.mean(), abs=1e-7), pytest.approx(before.std(), rel=1e-5))
    assert found.kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2 - 3, rel=1e-3, abs=1e-3)
    largest = np.unravel_index(np.abs(before).argmax(), before.shape)
    assert found.outliers[0].index == tuple(map(int, largest))
    assert (found.outliers[0].value, found.outliers[0].quantized) == (before[largest], pytest.approx(after[largest]))
    rows, cols = found.image_shape
    image = np.frombuffer(base64.b64decode(found.image), np.uint8).reshape(rows, cols) * (found.image_high / 255)
    first = np.abs(e)[: found.cell_rows, : found.cell_cols].mean()
    last = np.abs(e)[(rows - 1) * found.cell_rows :, (cols - 1) * found.cell_cols :].mean()
    assert image[0, 0] == pytest.approx(first, abs=found.image_high / 254)
    assert image[-1, -1] == pytest.approx(last, abs=found.image_high / 254)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_detail_of_a_trial_is_that_of_the_run(model: Path, scheme: str, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj"
    bench = Bench(open_path(str(model)))
    bench.attempt(layer_of(model, name), parse_scheme(scheme), "rtn")
    tried, _ = look(bench, layer_of(model, name), engine.Monitor())
    recipe = engine.Recipe(rules=(engine.Rule(parse_scheme(scheme), match=name),))
    report = engine.quantize_to(model, tmp_path / "out.safetensors", recipe)
    ran = next(layer for layer in report.layers if layer.name == name)
    assert tried == engine.look_at_layer(model, name, tmp_path / "out.safetensors", ran)


def test_a_layer_before_any_run_has_no_error_to_show(model: Path) -> None:
    found = engine.look_at_layer(model, "conv")
    assert found.sqnr_db == () and found.image == "" and found.underflow == 0 and found.outliers[0].quantized is None
    assert len(found.ranges.low) == 24


@pytest.mark.parametrize(
    ("scheme", "rows", "cols"), [("int4:g128", 256, 1024), ("int8:channel", 256, 512), ("int8:tensor", 512, 512)]
)
def test_expected_is_what_gaussian_weights_have(scheme: str, rows: int, cols: int, tmp_path: Path) -> None:
    """An integer quantizer in numpy on twelve other draws: absmax scales, rounding, no rounding of scales."""
    save_file({"w.weight": torch.ones(rows, cols)}, tmp_path / "g.safetensors")  # only its shape matters
    layer = layer_of(tmp_path / "g.safetensors", "w")
    half = 7.5 if scheme.startswith("int4") else 127.5  # the full range of codes, as compressed-tensors has it
    found = []
    for seed in range(12):
        draw = np.random.default_rng(seed).standard_normal(rows * cols)
        w = draw.reshape(-1, {"int4:g128": 128, "int8:channel": cols, "int8:tensor": rows * cols}[scheme])
        scale = np.abs(w).max(1, keepdims=True) / half
        decoded = np.clip(np.round(w / scale), -half - 0.5, half - 0.5) * scale
        found.append(10 * np.log10((w**2).sum() / ((w - decoded) ** 2).sum()))
    assert expected_db(parse_scheme(scheme), "rtn", layer) == pytest.approx(np.median(found), abs=0.2)


@pytest.mark.parametrize(
    ("name", "scheme", "cause", "remedy"),
    [
        ("model.layers.0.mlp.down_proj", "int8:tensor", "outlier channel", "int8:channel"),
        ("lopsided", "int4:g64", "bad range", "int4:g64:asym"),
    ],
)
def test_a_planted_fault_is_found_and_its_remedy_mends_it(model: Path, name: str, scheme: str, cause: str, remedy: str) -> None:
    summary = open_path(str(model))
    bench = Bench(summary)
    trial = bench.attempt(layer_of(model, name), parse_scheme(scheme), "rtn")
    _, diagnosis = look(bench, layer_of(model, name), engine.Monitor())
    assert diagnosis.cause == cause and diagnosis.remedies[0].scheme == remedy, diagnosis
    mended = bench.attempt(layer_of(model, name), parse_scheme(remedy), diagnosis.remedies[0].algorithm)
    assert trial.report and mended.report and mended.report.sqnr_db > trial.report.sqnr_db + 3  # pyright: ignore
    assert diagnosis.remedies[-1].scheme == "keep"


def test_heavy_tails_are_told_from_gaussian_weights(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    heavy = torch.distributions.StudentT(3.0)
    torch.manual_seed(3)
    save_file(
        {"heavy.weight": heavy.sample((128, 1024)), "fine.weight": torch.randn(128, 1024, generator=generator)},
        tmp_path / "tails.safetensors",
    )
    bench = Bench(open_path(str(tmp_path / "tails.safetensors")))
    causes = {}
    for layer in bench.summary.layers:
        trial = bench.attempt(layer, parse_scheme("int4:channel"), "rtn")
        found, _ = look(bench, layer, engine.Monitor())
        assert trial.report
        causes[layer.name] = diagnose(trial.report, found.kurtosis, found.outliers[0].sigmas, trial.expected_db).cause
    assert causes == {"heavy": "heavy tail", "fine": ""}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_figures_of_weights_are_those_of_numpy(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = (torch.randn(700, 1300, generator=generator) * 0.02 + 0.3).to(dtype)  # several pieces, far from zero
    weight[3, 4] = 2.5
    spoiled = weight.clone()
    spoiled[0, 0] = float("nan")
    save_file({"a.weight": weight, "b.weight": spoiled}, tmp_path / "moments.safetensors")
    summary = open_path(str(tmp_path / "moments.safetensors"))
    with TensorFiles(summary) as files:
        found, nothing = (describe(files, layer, engine.Monitor()) for layer in summary.layers)
    exact = weight.double().numpy()
    mean, std = exact.mean(), exact.std()
    expected = [exact.min(), exact.max(), mean, std, (((exact - mean) / std) ** 4).mean() - 3, (exact.max() - mean) / std]
    assert [found.low, found.high, found.mean, found.std, found.kurtosis, found.sigmas] == pytest.approx(expected, rel=1e-4)
    assert "NaN" in nothing.note and not found.note
