"""The window as it is started from a shell: a process of its own that opens what it is given and closes when it is told to."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from PySide6.QtWidgets import QDockWidget, QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from mono_quant_gui import theme
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings
from tests.gui.conftest import PATIENCE

SCRIPT = """
import sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
from mono_quant_gui import app
from mono_quant_gui.main_window import MainWindow

def look():
    window = next((w for w in QApplication.topLevelWidgets() if isinstance(w, MainWindow)), None)
    if window and hasattr(window, "session") and window.session.model and window.session.plan.schemes:
        print(window.session.model.path, len(window.session.model.layers), window.isVisible(), flush=True)
        timer.stop()

timer = QTimer(interval=20)
app.application()
timer.timeout.connect(look)
timer.start()
sys.exit(app.main(sys.argv[1:]))
"""


def test_a_path_on_the_command_line_is_opened_and_sigterm_closes_the_window(language_model: Path, tmp_path: Path) -> None:
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    words = [sys.executable, "-c", SCRIPT, str(language_model), "--fresh", "--runs", str(tmp_path / "runs")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline().split() == [str(language_model), "39", "True"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_frame_is_painted_first_and_the_panes_come_into_their_places(qtbot: QtBot, qapp, settings: Settings) -> None:
    theme.apply(qapp, "light")
    window = MainWindow(settings)
    qtbot.addWidget(window)
    with qtbot.waitSignal(window.painted, timeout=PATIENCE):
        window.show()
    assert not hasattr(window, "session")
    assert window.windowTitle() == "Mono Quant" and window.menuBar().actions()[0].text() == "&File"
    button = next(b for b in window.docks.by_name["layers"].findChildren(QPushButton) if b.text() == "Open…")
    assert button.isVisible()
    before = {dock.objectName(): dock.geometry() for dock in window.findChildren(QDockWidget) if dock.isVisible()}
    with qtbot.waitSignal(window.furnished, timeout=PATIENCE):
        window.furnish_soon()
    qapp.processEvents()
    after = {dock.objectName(): dock.geometry() for dock in window.findChildren(QDockWidget) if dock.isVisible()}
    assert before == after and window.docks.by_name["layers"].widget() is window.layers
    window.close_now()


def test_what_is_wanted_before_the_panes_are_there_brings_them_first(
    qtbot: QtBot, settings: Settings, digits: Path, monkeypatch
) -> None:
    chosen = str(digits / "model.safetensors")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (chosen, ""))
    window = MainWindow(settings)
    qtbot.addWidget(window)
    window.show()
    window.furnish_soon()
    window.open_button.click()
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        pass
    assert window.session.model and window.session.model.path == chosen and len(window.layers.rows.order) > 0
    window.close_now()


def test_a_frame_closes_at_once_and_leaves_nothing(qtbot: QtBot, settings: Settings) -> None:
    """Also when the panes were on their way."""
    window = MainWindow(settings)
    qtbot.addWidget(window)
    window.show()
    window.furnish_soon()
    qtbot.waitUntil(lambda: hasattr(window, "session"), timeout=PATIENCE)
    window.close_now()
    assert not window._furnishing.busy and window.session.heavy._thread.isFinished()
    other = MainWindow(settings)
    qtbot.addWidget(other)
    other.show()
    other.furnish_soon()
    other.close_now()
    assert other._importing.isFinished()


def test_nothing_follows_a_frame_that_closed_when_its_imports_had_just_ended(qtbot: QtBot, qapp, settings: Settings) -> None:
    """Word of their end was on its way already, and brought a session, with its processes, to a window that was gone."""
    window = MainWindow(settings)
    qtbot.addWidget(window)
    window.show()
    window.furnish_soon()
    assert window._importing.wait()
    window.close_now()
    qapp.processEvents()
    assert not window._furnishing.busy and not hasattr(window, "session")
