"""From "why is this layer worse than it ought to be" to a run in which it is mended, by clicks alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QMenu
from pytestqt.qtbot import QtBot
from safetensors.torch import load_file, save_file

import engine
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import SQNR
from tests.gui.conftest import PATIENCE, edit, open_model

TENSOR = engine.Recipe(engine.parse_scheme("int8:tensor"), builtin=False)


@pytest.fixture
def hurt(tmp_path: Path) -> Path:
    """Three Gaussian layers; one has a channel that reaches 50 times as far as the others."""
    generator = torch.Generator().manual_seed(2)
    weights = {f"{name}.weight": torch.randn(128, 256, generator=generator) for name in ("before", "hurt", "after")}
    weights["hurt.weight"][5] *= 50
    path = tmp_path / "hurt.safetensors"
    save_file(weights, path)
    return path


def by_channel_db(path: Path, name: str, bits: int) -> float:
    """SQNR with one scale a channel and nearest codes, worked out in float64: 8 bits are −128 … 127 steps of max/127.5."""
    weight, half = load_file(path)[f"{name}.weight"].double().numpy(), 2 ** (bits - 1)
    scale = np.abs(weight).max(axis=1, keepdims=True) / (half - 0.5)
    decoded = np.clip(np.rint(weight / scale), -half, half - 1) * scale
    return 10 * np.log10((weight**2).sum() / ((weight - decoded) ** 2).sum())


def choose(qtbot: QtBot, window: MainWindow, part: str, remedy: str) -> None:
    """Click the button, then the part of its menu, then the remedy."""
    qtbot.mouseClick(window.inspector.remedies.button, Qt.MouseButton.LeftButton)
    menu = QApplication.activePopupWidget()
    assert isinstance(menu, QMenu)
    title = next(action for action in menu.actions() if action.text() == part)
    qtbot.mouseClick(menu, Qt.MouseButton.LeftButton, pos=menu.actionGeometry(title).center())
    offered = title.menu()
    assert isinstance(offered, QMenu)
    qtbot.waitUntil(offered.isVisible, timeout=PATIENCE)  # opens after a moment
    wanted = next(action for action in offered.actions() if action.text() == remedy)
    qtbot.mouseClick(offered, Qt.MouseButton.LeftButton, pos=offered.actionGeometry(wanted).center())


def looked_at(qtbot: QtBot, window: MainWindow, name: str) -> None:
    """Select a layer and wait until it is told what hurts it."""
    looking = window.session.looking
    window.session.select(name)
    qtbot.waitUntil(lambda: looking.diagnosis.cause != "", timeout=PATIENCE)


def test_apply_and_measure_runs_only_this_layer_again(qtbot: QtBot, window: MainWindow, hurt: Path, errors: list[str]) -> None:
    open_model(qtbot, window, hurt)
    edit(qtbot, window, TENSOR)
    session = window.session
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.quantize()
    first = session.shown_run
    assert first and session.selected == "hurt"  # the worst one is looked at first
    looked_at(qtbot, window, "hurt")
    assert window.inspector.remedies.isVisible() and "channel 5" in window.inspector.remedies.words.text()
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        choose(qtbot, window, "Apply and measure", "a scale for every channel (int8:channel)")
    child = session.shown_run
    assert child is not first and child and child.state == "done" and child.totals
    assert child.record.parent == first.id
    assert set(child.totals["reused"]) == {"before", "after"} and set(child.reports) == {"before", "hurt", "after"}
    assert {name: report.scheme for name, report in child.reports.items()} == {
        "before": "int8:tensor", "hurt": "int8:channel", "after": "int8:tensor",
    }  # fmt: skip
    # Its dB is shown: in the table, above the plot and in the strip.
    exact = by_channel_db(hurt, "hurt", 8)
    assert child.reports["hurt"].sqnr_db == pytest.approx(exact, abs=0.01)
    row = window.layers.model.row_of("hurt")
    assert row is not None and window.layers.model.index(row, SQNR).data() == f"{exact:.1f}"
    assert f"int8:channel · {child.reports['hurt'].sqnr_db:.2f} dB" in window.inspector._layer_note.full_text()
    assert f"{child.reports['hurt'].sqnr_db:.2f} dB" in window.inspector.what_if.words.full_text()
    qtbot.waitUntil(lambda: not window.inspector.remedies.isVisible(), timeout=PATIENCE)  # nothing is left to mend
    # One edit, which can be undone.
    assert [rule.match for rule in session.recipe.rules] == ["hurt"]
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        window.actions_["undo"].trigger()
    assert session.recipe == TENSOR and errors == []


def test_without_a_run_the_remedy_becomes_a_rule_and_is_measured_by_trying(
    qtbot: QtBot, window: MainWindow, hurt: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, hurt)
    edit(qtbot, window, TENSOR)
    looked_at(qtbot, window, "hurt")
    looking, strip = window.session.looking, window.inspector.what_if
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE):
        strip.scheme.number.setCurrentIndex(strip.scheme.number.findData("int7"))
        strip.scheme.number.activated.emit(strip.scheme.number.currentIndex())
    assert looking.wanted == ("int7:tensor", "rtn") and looking.diagnosis.cause == "outlier channel"
    with qtbot.waitSignal(looking.detail_changed, timeout=PATIENCE):
        choose(qtbot, window, "Apply and measure", "a scale for every channel (int7:channel)")
    (rule,) = window.session.recipe.rules
    assert (rule.match, engine.scheme_name(rule.scheme), window.session.runs) == ("hurt", "int7:channel", [])
    assert looking.wanted is None and not strip.back.isVisible()  # the strip stands at what the recipe says now
    assert engine.scheme_name(strip.scheme.scheme()) == "int7:channel"
    assert f"{by_channel_db(hurt, 'hurt', 7):.2f} dB" in strip.words.full_text() and errors == []
