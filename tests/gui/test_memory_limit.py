"""What a run takes stands below the recipe; a limit of memory is kept as a preference and held by plans."""

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings
from tests.gui.conftest import PATIENCE, open_model


def test_a_limit_is_kept_and_refuses_what_cannot_fit(
    qtbot: QtBot, window: MainWindow, digits: Path, settings: Settings, errors: list[str]
) -> None:
    open_model(qtbot, window, digits / "model.safetensors")
    takes = window.session.plan.takes
    assert takes and takes["memory"] > 50_000_000 and takes["seconds"] is None
    shown = window.recipe.totals.figures["Takes"]
    assert shown.isVisible() and "memory" in shown.text() and "disk" in shown.text() and shown.text().endswith("disk")
    assert not window.recipe.totals.figures["Time"].text()
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.session.ask_plan()
    assert window.recipe.totals.figures["Time"].text().startswith("about ")  # as long as the run took

    dialog = window.prefer()
    assert dialog.memory.text() == "what is free" and settings.memory_limit() is None
    dialog.memory.setValue(1)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        dialog.accept()
    assert Settings(Path(settings._store.fileName())).memory_limit() == 1_000_000
    assert "1 MB may be used" in window.session.obstacle and not window.session.can_quantize and not shown.text()
    dialog = window.prefer()
    assert dialog.memory.value() == 1
    dialog.memory.setValue(0)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        dialog.accept()
    assert not window.session.plan.errors and errors == []


@pytest.mark.parametrize("said", ["-5", "1e9", "", "0", "999999999999", "x", "٣"])
def test_a_settings_file_with_another_limit_is_no_limit(said: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "s.ini")
    settings.set_text("memory_limit_mb", said)
    assert settings.memory_limit() is None
