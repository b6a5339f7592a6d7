"""The time of a plan before any run of its kind: a line through two pieces, and what it comes to over all layers."""

from pathlib import Path

import pytest

import engine
from engine.errors import DataError
from engine.planning import duration
from engine.planning.duration import Expected
from engine.quantizing import timing
from engine.quantizing.timing import Rate
from engine.records.progress import Monitor
from engine.records.recipe import Recipe, Rule


def drawn(path: Path, recipe: Recipe | str) -> duration.Outline:
    found = duration.outline(engine.plan(path, recipe))
    assert found
    return found


def test_each_way_of_encoding_counts_its_layers_and_bytes(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int4, int8 = engine.parse_scheme("int4:g32"), engine.parse_scheme("int8:channel")
    recipe = Recipe(int8, rules=(Rule(int4, "mse", match="*.mlp.*"),))
    outline = drawn(language_model, recipe)
    model = engine.open_model(language_model)
    linear = [layer for layer in model.layers if layer.kind == "linear" and layer.name != "lm_head"]
    mlp = sum(layer.nbytes for layer in linear if ".mlp." in layer.name)
    known = {("int8:channel", "rtn", "BF16"): Rate(0.5, 1e-6), ("int4:g32", "mse", "BF16"): Rate(0.25, 3e-6)}
    monkeypatch.setattr(timing, "_known", known)
    monkeypatch.setattr(timing, "_copying", lambda files: (5e-6, 7e-6))
    others = sum(layer.nbytes for layer in linear) - mlp
    count = sum(".mlp." in layer.name for layer in linear)
    expected = 0.5 * (len(linear) - count) + 1e-6 * others + 0.25 * count + 3e-6 * mlp
    expected += 5e-6 * (model.nbytes - others - mlp) + 7e-6 * outline.written
    assert timing.timed(outline, Monitor()) == Expected(pytest.approx(expected), 0)


def test_two_pieces_tell_what_is_fixed_and_what_grows(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    way = drawn(language_model, "int8:channel").ways["int8:channel", "rtn", "BF16"]
    monkeypatch.setattr(timing, "_time", lambda files, line, wanted, monitor: (wanted, 0.002 + 3e-9 * wanted))
    monkeypatch.setattr(timing, "CHUNK", 1 << 10)  # several chunks in a layer
    monkeypatch.setattr(timing, "SMALL", 1 << 8)
    found = timing._rate(None, way.largest, Monitor())  # type: ignore[arg-type]
    assert found.fixed == pytest.approx(0.002) and found.byte == pytest.approx(3e-9)


def test_no_time_for_what_cannot_run_or_needs_data(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert duration.outline(engine.plan(language_model, "W8A8_STATIC")) is None
    outline = drawn(language_model, "int8:channel")
    monkeypatch.setattr(timing, "_known", {})
    monkeypatch.setattr(timing.numerics, "compiled", lambda: False)
    assert timing.timed(outline, Monitor()) is None
    monkeypatch.undo()

    def unreadable(*_: object) -> Rate:
        raise DataError("gone")

    monkeypatch.setattr(timing, "_known", {})
    monkeypatch.setattr(timing, "_rate", unreadable)
    assert timing.timed(outline, Monitor()) is None


@pytest.mark.parametrize(
    "scheme", ["int4:g32:asym", "fp8_e4m3:b128x128", "nvfp4", "mxfp4", "nf4:g64:double", "int8:tensor", "fp16", "ternary:g64"]
)
def test_every_family_is_timed_on_a_piece(
    scheme: str, digits: Path, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_known", {})
    for path in (language_model, digits / "model.safetensors"):
        plan = engine.plan(path, scheme, format="safetensors")
        if plan.errors:
            continue
        outline = duration.outline(plan)
        found = timing.timed(outline, Monitor()) if outline else None
        assert found and found.seconds > 0 and not found.runs
