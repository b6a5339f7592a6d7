"""Comparisons: errors against values read by safetensors and torch alone, changes and matrices worked by hand."""

import csv
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import engine
from engine import cli
from engine.pages import comparison as comparison_page
from engine.records.comparison import ComparedLayer, Comparison, LayerFigures, Side, Transition


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    weights = {"first.weight": torch.randn(32, 64), "<b>second.weight": torch.randn(16, 32), "first.bias": torch.zeros(32)}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONO_QUANT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


RECIPES = {
    "int8": 'scheme = "int8:channel"\n',
    "mixed": 'scheme = "int8:channel"\n[[rules]]\nmatch = "first"\nscheme = "int4:g32"\n',
    "half": 'scheme = "int8:channel"\n[[rules]]\nmatch = "first"\nscheme = "keep"\n',
}


def made(model: Path, name: str) -> tuple[Path, str]:
    path = model.parent / f"{name}.safetensors"
    report = engine.quantize_to(engine.plan(model, engine.recipe_from_text(RECIPES[name])), path)
    return path, report.run


def own_db(model: Path, artifact: Path, name: str) -> float:
    """SQNR of an int8:channel layer from its stored codes and scales, without the engine."""
    weight, stored = load_file(model)[f"{name}.weight"].double(), load_file(artifact)
    codes = stored[f"{name}.weight_packed"].view(torch.uint8).double() - 128  # four of eight bits in a word, lowest first
    decoded = codes * stored[f"{name}.weight_scale"].double()
    return 10 * math.log10(float(weight.square().sum() / (weight - decoded).square().sum()))


def test_an_artifact_is_measured_against_the_float_side(model: Path, ledger: Path) -> None:
    artifact, _ = made(model, "int8")
    found = engine.compare(model, artifact)
    first = next(layer for layer in found.layers if layer.name == "first")
    assert first.figures[1].sqnr_db == pytest.approx(own_db(model, artifact, "first"), abs=1e-4)
    assert first.figures[0].db == math.inf and first.db_change(1) == -math.inf
    stored = [tensor.nbytes for name, tensor in load_file(artifact).items() if name.startswith("first.weight")]
    assert first.bytes_change(1) == sum(stored) - 32 * 64 * 4
    assert [side.kind for side in found.sides] == ["model", "artifact"]
    assert found.sides[1].nbytes == artifact.stat().st_size


def test_runs_and_artifacts_say_the_same(model: Path, ledger: Path) -> None:
    (int8, one), (mixed, other) = made(model, "int8"), made(model, "mixed")
    runs, files = engine.compare(one, other), engine.compare(int8, mixed, against=model)
    for a, b in zip(sorted(runs.layers, key=lambda x: x.name), sorted(files.layers, key=lambda x: x.name), strict=True):
        assert a.name == b.name
        for mine, theirs in zip(a.figures, b.figures, strict=True):
            assert (mine.scheme, mine.nbytes) == (theirs.scheme, theirs.nbytes)
            assert mine.db == pytest.approx(theirs.db, abs=1e-3)
    for mine, theirs in zip(runs.sides, files.sides, strict=True):
        assert mine.sqnr_db == pytest.approx(theirs.sqnr_db, abs=1e-3) and mine.nbytes == theirs.nbytes
    assert runs.worst_first()[0].name == "first"  # eight bits became four
    assert '+scheme = "int4:g32"' in runs.recipe_changes[1] and files.recipe_changes == ("", "")


def test_a_layer_that_a_run_kept_is_exact_and_as_large_as_before(model: Path, ledger: Path) -> None:
    _, one = made(model, "int8")
    _, other = made(model, "half")
    found = engine.compare(one, other[:8])
    first = next(layer for layer in found.layers if layer.name == "first")
    assert first.figures[1] == LayerFigures("keep", nbytes=32 * 64 * 4, measured=True)
    assert first.db_change(1) == math.inf
    assert {(t.before, t.after, t.layers, t.parameters) for t in found.transitions} == {
        ("int8:channel", "int8:channel", 1, 16 * 32), ("int8:channel", "keep", 1, 32 * 64),
    }  # fmt: skip


def test_artifacts_alone_are_told_not_to_be_measured(model: Path, ledger: Path) -> None:
    found = engine.compare(made(model, "int8")[0], made(model, "mixed")[0])
    assert all(layer.db_change(1) is None for layer in found.layers)
    assert "--against" in found.notes[0]


def test_float_models_are_compared_with_each_other(model: Path, ledger: Path) -> None:
    weights = load_file(model)
    other = model.parent / "tuned.safetensors"
    save_file({name: value * 1.01 for name, value in weights.items()}, other)
    found = engine.compare(model, other)
    assert [layer.figures[1].sqnr_db for layer in found.layers] == pytest.approx([40, 40], abs=0.01)  # 20 log10(1 / 0.01)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (["{model}"], "Name at least two"),
        (["{model}", "nowhere/x"], "nowhere/x does not exist"),
        (["{model}", "abc"], "neither a file nor a run"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    model: Path, ledger: Path, capsys: pytest.CaptureFixture[str], sides: list[str], words: str
) -> None:
    assert cli.main(["compare", *(side.format(model=model) for side in sides)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def hand_made() -> Comparison:
    """Three layers, of which one got worse, one better, one is on one side only."""
    sides = (
        Side("A & B", "run", "a", nbytes=100, sqnr_db=30.0, measured=True),
        Side("<i>", "run", "b", nbytes=80, measured=True),
    )
    layers = (
        ComparedLayer("better", 10, (LayerFigures("int4", nbytes=5, sqnr_db=20.0, measured=True),
                                     LayerFigures("int8", nbytes=10, sqnr_db=45.5, measured=True))),
        ComparedLayer("worse", 10, (LayerFigures("int8", nbytes=10, sqnr_db=45.0, measured=True),
                                    LayerFigures("int4", nbytes=5, sqnr_db=19.5, measured=True))),
        ComparedLayer("<b>alone", 4, (LayerFigures("int4", nbytes=2, sqnr_db=20.0, measured=True), None)),
    )  # fmt: skip
    moves = (Transition(1, "int4", "int8", 1, 10), Transition(1, "int8", "int4", 1, 10), Transition(1, "int4", "", 1, 4))
    return Comparison(sides, layers, moves, ("", '-scheme = "<x>"'))


def test_what_got_worse_comes_first_and_the_unknown_last() -> None:
    assert [layer.name for layer in hand_made().worst_first()] == ["worse", "better", "<b>alone"]


def test_the_matrix_has_a_row_for_every_scheme_before() -> None:
    heads, rows = comparison_page.transitions(hand_made(), 1)
    assert heads == ["A ↓ B →", "int8", "int4", "–"]
    assert rows == [["int4", "1", "", "1"], ["int8", "", "1", ""]]


def test_the_table_of_values_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_page.csv_text(hand_made()))))
    assert [(row["layer"], row["B db_change"], row["B bytes_change"]) for row in rows] == [
        ("better", "25.5", "5"), ("worse", "-25.5", "-5"), ("<b>alone", "", ""),
    ]  # fmt: skip


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_else_and_shows_names_as_they_are() -> None:
    page = _Page()
    page.feed(comparison_page.page(hand_made()))
    assert not page.tags & {"b", "i", "x", "script", "link", "img"}
    assert {"<b>alone", "B: <i>", '-scheme = "<x>"', "−25.50 dB", "+25.50 dB"} <= set(page.words)


def test_the_command_writes_what_it_shows(model: Path, ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (artifact, one), (_, other) = made(model, "int8"), made(model, "mixed")
    capsys.readouterr()
    target = model.parent / "found.html"
    assert cli.main(["compare", one, other, str(artifact), "-o", str(target), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [side["kind"] for side in shown["sides"]] == ["run", "run", "artifact"]
    first = next(row for row in shown["layers"] if row["name"] == "first")
    assert first["db_changes"][1] == pytest.approx(first["figures"][1]["sqnr_db"] - first["figures"][0]["sqnr_db"])
    assert "first" in target.read_text()
    assert cli.main(["compare", one, other, "-o", str(target)]) == 2
    assert cli.main(["compare", one, other, "-o", str(target.with_suffix(".txt"))]) == 2
