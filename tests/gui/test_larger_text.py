"""Who has made text larger everywhere has it larger here, and nothing is cut."""

from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui import theme
from mono_quant_gui.settings import Settings
from tests.gui.conftest import PATIENCE, open_model, standing
from tests.gui.test_access import cut


def test_larger_text_of_the_system_is_followed_and_not_cut(
    qtbot: QtBot, qapp: QApplication, settings: Settings, language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and a half times: as who asks the system for text of 15 points instead of 10 has it."""
    monkeypatch.setattr(theme, "_system_scale", lambda: 1.5)
    try:
        with standing(qapp, settings) as window:
            open_model(qtbot, window, language_model)
            window.session.select("model.layers.0.mlp.down_proj")
            window.resize(1920, 1200)
            QApplication.processEvents()
            assert window.layers.filter.font().pixelSize() == window.runs.search.font().pixelSize() == 20
            assert window.layers.table.rowHeight(0) >= window.layers.table.fontMetrics().height() + 8
            qtbot.waitUntil(lambda: cut(window) == [], timeout=PATIENCE)
    finally:
        monkeypatch.undo()
        theme.apply(qapp, "light")
    assert qapp.font().pixelSize() == 13
