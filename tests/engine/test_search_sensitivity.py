"""Sensitivity tables: against single-layer runs and compressed-tensors, remembered, broken off and resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

import engine
from engine.records.search import SearchSpace
from engine.searching import cache, calls, sensitivity
from engine.searching.candidates import candidates, ties
from tests.engine.oracle import reference

SCHEMES = (
    "int2:g32", "int4:g128", "int4:g64:asym", "int8:channel", "int3:tensor", "int8:b32x64", "fp8_e4m3:channel", "mxfp4", "nvfp4",
    "nf4:g64:double", "ternary:g128", "fp16",
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing that other tests, or the user, measured."""
    monkeypatch.setattr(cache, "folder", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(path, schemes=SCHEMES, **options):
    summary = engine.open_model(path)
    found = candidates(summary, SearchSpace(tuple(schemes), **options))
    return sensitivity.measure(summary, found, engine.Monitor())


@pytest.fixture
def weights(gaussian) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = ("layers.0.q_proj", "layers.0.k_proj", "layers.0.v_proj", "layers.1.down_proj")
    made = {f"{name}.weight": torch.randn(96, 256, generator=generator, dtype=torch.float32).bfloat16() for name in names}
    return made | {"layers.0.up_proj.weight": gaussian.bfloat16(), "norm.weight": torch.ones(256)}


@pytest.mark.parametrize("algorithm", ["rtn", "mse:steps=4"])
def test_one_pass_equals_one_by_one(make_file, tmp_path, weights, algorithm):
    path = make_file(weights)
    table = measured(path, algorithm=algorithm)
    assert {row.layer for row in table.rows} == {name.removesuffix(".weight") for name in weights if "norm" not in name}
    for number, scheme in enumerate(SCHEMES):
        recipe = engine.Recipe(engine.parse_scheme(scheme), algorithm)
        report = engine.quantize_to(path, tmp_path / f"{number}.safetensors", recipe)
        assert len(report.layers) == len(table.rows)
        for layer in report.layers:
            row = next(row for row in table.rows if row.layer == layer.name)
            cell = row.cell(engine.scheme_name(recipe.default))
            assert row.signal == pytest.approx(layer.signal, rel=1e-6)
            assert cell.noise == pytest.approx(layer.noise, rel=2e-6)
            assert cell.nbytes == layer.bytes_after


def test_errors_are_those_of_compressed_tensors(make_file, weights):
    table = measured(make_file(weights), ("int4:g128", "int8:channel"))
    for row in table.rows:
        weight = weights[f"{row.layer}.weight"]
        assert row.signal == pytest.approx(float(weight.double().square().sum()), rel=1e-12)
        for scheme, bits, group in (("int4:g128", 4, 128), ("int8:channel", 8, None)):
            decoded = reference(weight, bits, "group" if group else "channel", group, True)[3]
            assert row.cell(scheme).noise == pytest.approx(float((weight.double() - decoded.double()).square().sum()), rel=2e-6)


def test_weights_of_other_layouts(make_file, tmp_path):
    """Convolutions, transposed ones (rows lie apart in the file), fused experts, and a weight that is not held in memory."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"conv": (32, 8, 3, 3), "deconv": (64, 32, 2, 2), "mlp.experts.gate_up_proj": (3, 64, 128), "big": (66, 258_200)}
    tensors = {
        f"{name}.weight" if "experts" not in name else name: torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    path = make_file(tensors)
    schemes = ("int4:g32", "bf16", "int3:tensor")
    table = measured(path, schemes)
    assert len(table.rows) == 4
    for number, scheme in enumerate(schemes):
        report = engine.quantize_to(path, tmp_path / f"{number}.safetensors", engine.Recipe(engine.parse_scheme(scheme)))
        for layer in report.layers:
            row = next(row for row in table.rows if row.layer == layer.name)
            assert row.cell(scheme).noise == pytest.approx(layer.noise, rel=1e-5), (layer.name, scheme)


def test_a_second_question_is_answered_from_what_is_known(make_file, weights):
    path = make_file(weights)
    first = measured(path, ("int4:g128", "int8:channel"))
    assert (first.measured, first.cached) == (10, 0)
    second = measured(path, ("int8:channel", "int4:g128", "int2:g32"))
    assert (second.measured, second.cached) == (5, 10)
    assert second.rows[0].cell("int4:g128") == first.rows[0].cell("int4:g128")
    os.utime(path, ns=(1, 1))  # another file, for all that can be told
    assert measured(path, ("int4:g128",)).cached == 0


def test_nan_is_said_in_its_row_and_the_others_are_measured(make_file, weights):
    weights["layers.0.k_proj.weight"][3, 7] = float("nan")
    table = measured(make_file(weights), ("int4:g128",))
    row = next(row for row in table.rows if row.layer == "layers.0.k_proj")
    assert "NaN at index [3, 7]" in row.cell("int4:g128").problem
    assert row.cell("int4:g128").noise is None
    assert sum(row.cell("int4:g128").noise is not None for row in table.rows) == 4


def test_cancelled_after_two_rows_keeps_them(make_file, weights):
    seen = []

    class Two(engine.Monitor):
        def cancelled(self):
            return len(seen) == 2

    path = make_file(weights)
    summary = engine.open_model(path)
    found = candidates(summary, SearchSpace(("int4:g128",)))
    with pytest.raises(engine.Cancelled) as stop:
        sensitivity.measure(summary, found, Two(), on_row=seen.append)
    partial = stop.value.partial
    assert not partial.complete
    assert [row.cell("int4:g128").noise is not None for row in partial.rows] == [True, True, False, False, False]
    assert measured(path, ("int4:g128",)).cached == 2


KILLED = """
import sys
import engine
from engine.records.search import SearchSpace
from engine.searching import cache, calls, sensitivity
from engine.searching.candidates import candidates
cache.folder = lambda: sys.argv[2]
summary = engine.open_model(sys.argv[1])
found = candidates(summary, SearchSpace(("int4:g128", "int8:channel")))
def row(row):
    print(row.layer, flush=True)
    if row.layer == "layers.0.k_proj":
        sys.stdin.read()  # until it is killed
sensitivity.measure(summary, found, engine.Monitor(), on_row=row)
"""


def test_a_killed_pass_resumes(make_file, weights, own_cache):
    path = make_file(weights)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(own_cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    while (line := process.stdout.readline().strip()) and line != "layers.0.k_proj":
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    (file,) = own_cache.iterdir()
    with open(file, "a") as torn:  # as if it had been killed while it wrote
        torn.write('\n{"layer":"layers.0.v_proj","fou')
    known = [json.loads(line)["layer"] for line in file.read_text().splitlines() if line.endswith("}")]
    resumed = measured(path, ("int4:g128", "int8:channel"))
    assert resumed.cached == 2 * len(known) > 0
    assert resumed.measured + resumed.cached == 10
    again = measured(path, ("int4:g128", "int8:channel"))  # what came after the torn line counts
    assert again.cached == 10
    assert again.rows == resumed.rows


def test_saved_and_read_back(make_file, weights, tmp_path):
    table = measured(make_file(weights), ("int4:g128", "fp16"))
    sensitivity.save(table, tmp_path / "S.json")
    assert sensitivity.load(tmp_path / "S.json") == table
    (tmp_path / "S.json").write_text('{"mono_quant_sensitivity": 1, "path": 3}')
    with pytest.raises(engine.InputError, match=r"S\.json"):
        sensitivity.load(tmp_path / "S.json")
    (tmp_path / "S.json").write_text("[1")
    with pytest.raises(engine.InputError, match="not JSON"):
        sensitivity.load(tmp_path / "S.json")


@pytest.mark.parametrize("embeddings", ["keep", "search", "int8:channel"])
def test_the_cost_is_what_a_pass_then_measures(language_model, embeddings):
    """Layers that differ in numbers alone are planned once for the cost, and one by one for the pass."""
    narrow = SearchSpace(("int4:g128",), embeddings=embeddings)
    wide = SearchSpace(("int4:g128", "int8:channel", "nvfp4"), embeddings=embeddings)
    first = engine.sensitivity(language_model, narrow)
    cost, _ = calls.sensitivity_cost(language_model, wide)
    then = engine.sensitivity(language_model, wide)
    assert (cost.layers, cost.cells, cost.cached) == (len(then.rows), then.measured, then.cached) and cost.seconds
    assert then.cached == first.measured > 0
    cost, _ = calls.sensitivity_cost(language_model, wide)
    assert (cost.cells, cost.cached) == (0, then.measured + then.cached)


def test_ties_are_what_runtimes_join(make_file, weights):
    found = candidates(engine.open_model(make_file(weights)), SearchSpace(("int4:g128",)))
    stem = "layers.0."
    assert set(ties(found)) == {(f"{stem}k_proj", f"{stem}q_proj", f"{stem}v_proj"), ("layers.1.down_proj",), (f"{stem}up_proj",)}
    loose = candidates(engine.open_model(make_file(weights)), SearchSpace(("int4:g128",), tied=False))
    assert all(len(tie) == 1 for tie in ties(loose))


def test_embeddings_head_and_loaders(language_model):
    summary = engine.open_model(language_model)
    names = {layer.name for layer in candidates(summary, SearchSpace()).layers}
    assert not names & {"lm_head", "model.embed_tokens"}
    assert len(names) == 28
    every = candidates(summary, SearchSpace(("int8:channel",), embeddings="search", head="search"))
    assert {"lm_head", "model.embed_tokens"} <= {layer.name for layer in every.layers}
    loads = candidates(summary, SearchSpace(loads="vLLM"))
    assert loads.schemes == ("int4:g128", "int4:g32", "int8:channel")
    assert "4 and 8 bits" in loads.dropped["int3:g128"]
    with pytest.raises(engine.RecipeError, match="none of the programs"):
        candidates(summary, SearchSpace(loads="llama.cpp"))
    with pytest.raises(engine.PlanError, match="nothing to choose from"):
        candidates(summary, SearchSpace(("int3:g128",), loads="vLLM"))
