"""Look, try, decide: the what-if strip, the layer's views, rubber bands, remedies; against the engine called directly."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QMenu
from pytestqt.qtbot import QtBot
from safetensors import safe_open
from safetensors.torch import save_file

import engine
from engine.records.look import LayerDetail
from engine.records.report import ChannelRanges
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.plots.canvas import count_words
from mono_quant_gui.plots.error_image import ErrorImage
from mono_quant_gui.plots.histogram import HistogramPlot
from mono_quant_gui.widgets.what_if import pattern_of_alike
from tests.gui.conftest import PATIENCE, edit, open_model

LAYER = "model.layers.2.mlp.up_proj"


def select(qtbot: QtBot, window: MainWindow, name: str) -> None:
    """Until the layer's detail is there."""
    looking = window.session.looking
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE, check_params_cb=lambda: looking.detail is not None):
        window.session.select(name)


def attempt(qtbot: QtBot, window: MainWindow, number: str) -> None:
    """Pick a number format in the strip, as a user does, and wait for its detail."""
    looking, box = window.session.looking, window.inspector.what_if.scheme.number
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE):
        box.setCurrentIndex(box.findData(number))
        box.activated.emit(box.currentIndex())


def test_what_if_says_what_a_run_would(qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]) -> None:
    open_model(qtbot, window, language_model)
    strip, session = window.inspector.what_if, window.session
    select(qtbot, window, LAYER)
    planned = engine.try_scheme(language_model, LAYER, "int4:g128").report
    assert planned and planned.sqnr_db is not None
    assert f"{planned.sqnr_db:.2f} dB" in strip.words.full_text()
    assert not strip.here.isEnabled() and not strip.back.isVisible()

    attempt(qtbot, window, "int3")
    tried = engine.try_scheme(language_model, LAYER, "int3:g128").report
    assert tried and tried.sqnr_db is not None and session.looking.trial and session.looking.trial.report
    assert session.looking.trial.report.noise == tried.noise
    difference = f"(−{planned.sqnr_db - tried.sqnr_db:.2f})"
    assert f"{tried.sqnr_db:.2f} dB {difference}" in strip.words.full_text()
    histogram = window.inspector.histogram
    assert isinstance(histogram, HistogramPlot) and len(histogram._levels.get_xdata()) == 8
    _, rows = histogram.table()
    assert [row[2] for row in rows] == list(tried.histogram.quantized_counts) and sum(row[4] for row in rows) > 0  # pyright: ignore
    assert session.recipe.rules == ()  # nothing was decided

    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        qtbot.mouseClick(strip.here, Qt.MouseButton.LeftButton)
    assert [(engine.scheme_name(rule.scheme), rule.match) for rule in session.recipe.rules] == [("int3:g128", LAYER)]
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.actions_["undo"].trigger()
    assert session.recipe.rules == () and errors == []


def test_use_for_all_like_this_reaches_every_block(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    select(qtbot, window, LAYER)
    attempt(qtbot, window, "int8")
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        qtbot.mouseClick(window.inspector.what_if.alike, Qt.MouseButton.LeftButton)
    (rule,) = window.session.recipe.rules
    assert rule.match == "model.layers.*.mlp.up_proj"
    schemes = dict(zip(window.session.model.index, window.session.plan.schemes, strict=True))  # pyright: ignore
    assert {name for name, scheme in schemes.items() if scheme.startswith("int8")} == {
        f"model.layers.{n}.mlp.up_proj" for n in range(4)
    }


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("model.layers.12.q_proj", "model.layers.*.q_proj"), ("lm_head", "lm_head"), ("a[1].w", r"re:a\[1\]\.w$")],
)
def test_patterns_of_layers_alike(name: str, pattern: str) -> None:
    assert pattern_of_alike(name) == pattern


def test_stale_trials_never_arrive(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    select(qtbot, window, LAYER)
    looking, seen = window.session.looking, []
    looking.trial_changed.connect(lambda: seen.append(looking.trial.scheme if looking.trial else None))
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE):
        for scheme in ("int2:g128", "int3:g128", "int5:g128", "int6:g128"):
            looking.try_scheme(scheme, "rtn")
    assert set(seen) == {"int6:g128"}


def test_every_view_shows_the_run(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.looking.expected_changed, timeout=PATIENCE):
        window.session.quantize()
    run, inspector, looking = window.session.shown_run, window.inspector, window.session.looking
    assert run
    if looking.detail is None or window.session.selected != LAYER:
        select(qtbot, window, LAYER)
    found = engine.look_at_layer(language_model, LAYER, run.artifact, run.reports[LAYER])
    assert looking.detail == found
    assert len(found.levels) == 16 and found.levels[8] == 0.0  # a run's levels are marked as a trial's are
    assert np.diff(found.levels) == pytest.approx(np.full(15, _step(run.artifact)), rel=1e-6)
    assert inspector.histogram and len(inspector.histogram._levels.get_xdata()) == 16  # pyright: ignore
    for view, table in (("channels", inspector.channels), ("error", inspector.error)):
        inspector.set_view(view)
        assert inspector._layer_stack.currentWidget() is table
        assert table and len(table.table()[1]) > 0
    inspector.set_view("outliers")
    model = inspector.outliers.model()
    assert model.index(0, 0).data() == ", ".join(map(str, found.outliers[0].index))
    expected = looking.expected_db(LAYER, "int4:g128", "rtn")
    assert expected == pytest.approx(run.reports[LAYER].sqnr_db, abs=1.5)  # its weights are nearly Gaussian
    for order in ("sorted", "spread", "sizes", "network"):
        inspector.set_order(order)
    assert inspector.sizes and sum(row[1] for row in inspector.sizes.table()[1]) == window.session.model.nbytes  # pyright: ignore
    assert inspector.spread and sum(row[2] for row in inspector.spread.table()[1]) == 28  # pyright: ignore


def _step(artifact: Path) -> float:
    """The median scale of LAYER, as the safetensors library reads it."""
    for file in sorted(artifact.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name == f"{LAYER}.weight_scale":
                    scales = opened.get_tensor(name).float().flatten().sort().values
                    return float(scales[len(scales) // 2])
    raise AssertionError("no scales")


def test_bars_select_by_click_shift_and_rubber_band(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    bars, session = window.inspector.bars, window.session
    assert bars and session.shown_run
    bars.draw()
    names = list(session.shown_run.reports)

    def place(x: float, y: float) -> QPoint:
        at = bars.axes.transData.transform((x, y)) / bars.devicePixelRatioF()
        return QPoint(round(at[0]), round(bars.height() - at[1]))

    qtbot.mouseClick(bars, Qt.MouseButton.LeftButton, pos=place(3, 1))
    assert session.selected == names[3] and session.selection == (names[3],)
    qtbot.mouseClick(bars, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, place(6, 1))
    assert set(session.selection) == set(names[3:7])
    top = bars.axes.get_ylim()[1]
    qtbot.mousePress(bars, Qt.MouseButton.LeftButton, pos=place(9.6, top * 0.99))
    qtbot.mouseMove(bars, place(12, top / 2))
    qtbot.mouseMove(bars, place(12.4, top / 2))
    qtbot.mouseRelease(bars, Qt.MouseButton.LeftButton, pos=place(12.4, top / 2))
    assert set(session.selection) == set(names[10:13])
    assert len(bars._marked.get_paths()) == 3


def test_a_hurt_layer_is_told_why_and_its_remedy_is_tried(qtbot: QtBot, window: MainWindow, tmp_path: Path) -> None:
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(2))
    weight[5] *= 50
    save_file({"hurt.weight": weight}, tmp_path / "hurt.safetensors")
    open_model(qtbot, window, tmp_path / "hurt.safetensors")
    edit(qtbot, window, engine.recipe("int8:tensor"))
    select(qtbot, window, "hurt")
    remedies = window.inspector.remedies
    assert window.session.looking.diagnosis.cause == "outlier channel" and "channel 5" in remedies.words.text()
    before = window.session.looking.trial
    menu = remedies.menu()
    attempts = menu.actions()[0].menu()
    assert isinstance(attempts, QMenu)
    with qtbot.waitSignal(window.session.looking.detail_changed, timeout=PATIENCE):
        attempts.actions()[0].trigger()
    after = window.session.looking.trial
    assert before and before.report and after and after.report and after.scheme == "int8:channel"
    strip = window.inspector.what_if
    assert engine.scheme_name(strip.scheme.scheme()) == "int8:channel" and strip.here.isEnabled()  # what "Use here" writes
    assert after.report.sqnr_db > before.report.sqnr_db + 10  # pyright: ignore
    assert not remedies.isVisible()
    menu.deleteLater()


def test_a_bad_row_is_seen_where_there_are_more_cells_than_pixels() -> None:
    """One cell of 192 by 192 that is worse than the rest, in a picture 60 pixels high."""
    cells = np.full((192, 192), 20, np.uint8)
    cells[101, 55] = 255
    plot = ErrorImage(lambda words: None)
    plot.show_detail(detail_with(cells))
    plot.place(160, 26 + 36 + 60)
    assert plot._image.values.max() == 255 and plot._image.values.shape[0] == 60
    assert plot.table()[1][101][56] == pytest.approx(1.0)


@pytest.mark.parametrize(("count", "words"), [(0.0, "0"), (1.0, "1"), (250.0, "250"), (2500.0, "2.5k"), (1e6, "1M")])
def test_counts_beside_an_axis_are_short(count: float, words: str) -> None:
    assert count_words(count) == words


def detail_with(cells: np.ndarray) -> LayerDetail:
    """A detail of a weight of which each cell stands for one number."""
    rows, cols = cells.shape
    image = base64.b64encode(cells.tobytes()).decode()
    ranges = ChannelRanges(1, (-1.0,) * rows, (1.0,) * rows)
    return LayerDetail("one", rows, cols, ranges, (10.0,) * rows, image, (rows, cols), 1, 1, 1.0, (), 1.0, (), 0.0, 0.0, 1.0, 0.0)


def test_a_layer_that_cannot_be_read_says_so(qtbot: QtBot, window: MainWindow, tmp_path: Path, errors: list[str]) -> None:
    save_file({"bad.weight": torch.full((32, 32), float("nan"))}, tmp_path / "bad.safetensors")
    open_model(qtbot, window, tmp_path / "bad.safetensors")
    with qtbot.waitSignal(window.session.looking.trial_changed, timeout=PATIENCE):
        window.session.select("bad")
        with qtbot.waitSignal(window.session.looking.trial_changed, timeout=PATIENCE):
            pass
    qtbot.waitUntil(lambda: "NaN" in window.inspector.what_if.words.full_text(), timeout=PATIENCE)
    assert errors == []
