"""The page of a run says what its record says, is whole by itself, and takes no name for markup."""

import dataclasses
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import engine
from engine import cli
from engine.history import Ledger, runs_folder
from engine.pages import plots as report_plots
from engine.pages import report as report_page
from engine.records.certificate import Certificate, Check
from engine.records.report import ChannelRanges, Histogram, LayerReport
from engine.records.run import RunRecord

VOID = {"meta", "br", "link", "img", "input", "hr"}
EVIL = "<script>alert('1')</script>\"&\x1b[31m"


class Page(HTMLParser):
    """Tables by id as rows of cells, texts by id, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._table, self._cell, self._id = "", False, ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self._id = found.get("id") or self._id
        if tag == "table":
            self._table = found.get("id") or ""
            self.tables.setdefault(self._table, [])
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.texts[self._id] = self.texts.get(self._id, "") + data
        if self._cell:
            self.tables[self._table][-1][-1] += data


def layer(name: str, sqnr_db: float | None, scheme: str = "int4:g32") -> LayerReport:
    histogram = Histogram(1.0, tuple([0] * 127 + [50, 50] + [0] * 127), tuple([0] * 126 + [30, 40, 30] + [0] * 127))
    return LayerReport(
        name, scheme, "rtn", sqnr_db, 1e-4, 0.0321, 0.00125, 100.0, 1.0, 100, 4000, 1100, 0.5, histogram, ChannelRanges(1, (), ())
    )


def record(**changes: object) -> RunRecord:
    made = RunRecord("abc", 3, "/models/tiny", 'scheme = "int4:g32"\n', "/runs/x", "/runs/x/tiny", "W4", "done")
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def quantized(make_file: Callable[..., Path], gaussian: torch.Tensor, tmp_path: Path) -> tuple[RunRecord, Path]:
    """A run in the ledger, and the artifact that it wrote."""
    model = make_file({"a.weight": gaussian, "b.weight": gaussian[:64].clone(), "norm.bias": torch.zeros(8)})
    out = tmp_path / "out.safetensors"
    assert cli.main(["quantize", str(model), "--scheme", "int4:g32", "-o", str(out)]) == 0
    with Ledger(runs_folder()) as ledger:
        return ledger.find(model=str(model))[0], out


def test_figures_are_those_of_the_record(quantized: tuple[RunRecord, Path], tmp_path: Path) -> None:
    run, artifact = quantized
    target = tmp_path / "run.html"
    assert cli.main(["report", str(artifact), "-o", str(target), "--certify"]) == 0
    page = Page(target.read_text(encoding="utf-8"))
    totals, facts = run.totals, {row[0]: row[1] for row in page.tables["totals"]}
    assert totals
    assert facts["Bytes before"].endswith(f"({totals['bytes_before']:,} bytes)")
    assert facts["Bytes after"].endswith(f"({totals['bytes_after']:,} bytes)")
    assert facts["SQNR"] == f"{totals['sqnr_db']:.2f} dB" and facts["Model hash"] == run.model_hash
    assert facts["Worst layer"] == f"{totals['worst_layer']}, {totals['worst_sqnr_db']:.2f} dB"
    with Ledger(runs_folder()) as ledger:
        layers = ledger.layers(run.id)
    heads, *rows = page.tables["layers"]
    found = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert found.keys() == {layer.name for layer in layers} == {"a", "b"}
    for measured in layers:
        row = found[measured.name]
        assert row["SQNR dB"] == f"{measured.sqnr_db:.2f}" and row["scheme"] == measured.scheme
        assert row["bytes after"] == f"{measured.bytes_after:,}" and row["max error"] == f"{measured.max_error:.3g}"
    scheme = dict(zip(*page.tables["schemes"], strict=True))
    assert scheme["layers"] == "2" and scheme["bytes after"] == f"{sum(x.bytes_after for x in layers):,}"
    assert page.texts["recipe"].startswith(run.recipe)
    assert engine.recipe_from_text(run.recipe) == engine.recipe_from_text(page.texts["recipe"].partition("Versions")[0])
    assert ["mono-quant", engine.__version__] in page.tables["versions"] or ["engine", engine.__version__] in page.tables[
        "versions"
    ]
    assert f"{artifact} is certified." in page.texts["certificate"]


def test_nothing_is_loaded_and_nothing_runs(quantized: tuple[RunRecord, Path], tmp_path: Path) -> None:
    run, _ = quantized
    text = report_page.of_run(run)
    tags = Page(text).tags
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in tags}
    for tag, attributes in tags:
        assert not any(key in ("src", "href") or key.startswith("on") for key in attributes), (tag, attributes)
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    depth: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in VOID | {"html", "td", "th"}:
                depth.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in VOID | {"html", "td", "th"}:
                assert depth.pop() == tag

    Balanced().feed(text)
    assert depth == []


def test_names_are_text_wherever_they_come_from() -> None:
    check = Check(EVIL, "failed", EVIL, (EVIL,))
    run = record(
        name=EVIL, model_path=f"/m/{EVIL}", note=EVIL, tags=(EVIL,), recipe=EVIL, message=EVIL, versions={EVIL: EVIL},
        failures={EVIL: EVIL}, data=EVIL, machine=EVIL,
    )  # fmt: skip
    text = report_page.page(run, [layer(EVIL, 20.0, EVIL)], certificate=Certificate(EVIL, EVIL, (check,)))
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and "\x1b" not in text
    assert page.tables["layers"][1][0] == EVIL.replace("\x1b", "\\x1b")
    for svg in text.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")


@pytest.mark.parametrize("count", [1, report_plots.MOST_BARS, 2 * report_plots.MOST_BARS + 1])
def test_bars_end_where_the_decibels_are(count: int) -> None:
    """Heights against the axis that the picture itself names."""
    layers = [layer(f"l{n}", 10.0 + n % 7) for n in range(count)]
    root = ET.fromstring(report_plots.decibels(layers))
    bars = [bar for bar in root.iter("rect") if bar.find("title") is not None]
    per_bar = -(-count // report_plots.MOST_BARS)
    assert len(bars) == -(-count // per_bar)
    lines = sorted({float(line.get("y1", "")) for line in root.iter("line")}, reverse=True)
    marks = [
        float(text.text or "") for text in root.iter("text") if text.get("text-anchor") == "end" and text.get("class") is None
    ]
    foot, top, most = lines[0], lines[-1], max(marks)
    for place, bar in enumerate(bars):
        worst = min(10.0 + n % 7 for n in range(place * per_bar, min((place + 1) * per_bar, count)))
        assert float(bar.get("height", "")) == pytest.approx(worst / most * (foot - top), abs=0.11)
        assert f"{worst:.2f} dB" in (bar.findtext("title") or "")


def test_a_run_that_measured_nothing_has_a_page_too(tmp_path: Path) -> None:
    run = record(state="failed", message="There is no space left.", folder=str(tmp_path))
    page = Page(report_page.of_run(run))
    assert ["State", "failed: There is no space left."] in page.tables["totals"]
    assert "layers" not in page.tables and "svg" not in {tag for tag, _ in page.tags}
    exact = Page(report_page.page(record(), [layer("a", None), layer("b", 20.0)]))
    assert exact.tables["layers"][1][3] == "exact"
    (tmp_path / report_page.CERTIFICATE).write_text("[1]")
    assert report_page.read_certificate(tmp_path) is None


def test_other_files_are_not_overwritten_and_other_artifacts_are_not_known(
    quantized: tuple[RunRecord, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, artifact = quantized
    before = artifact.read_bytes()
    assert cli.main(["report", run.id, "-o", str(artifact)]) == 2
    assert artifact.read_bytes() == before and "name a .html file" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"")
    assert cli.main(["report", str(other), "-o", str(tmp_path / "x.html")]) == 2
    assert "No run that is kept wrote" in capsys.readouterr().err and not (tmp_path / "x.html").exists()
    assert cli.main(["report", run.id[:6], "-o", str(tmp_path / "x.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": str(tmp_path / "x.html"), "run": run.id}
