"""Every slot of the window raises in turn: a dialog says so each time, and the window stays."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from mono_quant_gui.escaped import Escaped
from mono_quant_gui.main_window import MainWindow

OURS = "/mono_quant_gui/"
NO_SLOTS = ("escaped.py", "journal.py", "error.py", "i18n.py")
"""What tells of a failure is not failed itself."""
SIGNALS = (
    "model_changed",
    "plan_changed",
    "recipe_changed",
    "selection_changed",
    "runs_changed",
    "histogram_changed",
    "selection_set_changed",
)
ENDS = ("quit", "close")


@pytest.fixture(scope="module")
def window(shared_window: MainWindow) -> MainWindow:
    return shared_window


class Boom(Exception):
    pass


class Raising:
    """While tracing, the ``at``-th function of the window that Qt calls raises as soon as it begins."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.where = at, 0, ""

    def __enter__(self) -> "Raising":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> None:
        file = frame.f_code.co_filename
        if OURS not in file or file.endswith(NO_SLOTS) or (frame.f_back and OURS in frame.f_back.f_code.co_filename):
            return
        self.count += 1
        if self.count == self.at:
            self.where = f"{file.rpartition('/')[2]}:{frame.f_code.co_name}"
            raise Boom(self.where)


def told(qtbot: QtBot, window: MainWindow, escaped: Escaped, what: Callable[[], None]) -> list[str]:
    """Where each of the slots that ``what`` reaches raised; for each a dialog came and was closed."""
    places: list[str] = []
    while True:
        with Raising(len(places) + 1) as raising:
            what()
        if not raising.where:
            break
        places.append(raising.where)
        qtbot.waitUntil(lambda: escaped.dialog is not None)
        dialog = escaped.dialog
        assert dialog and raising.where in dialog.message.text().replace("\u200b", "") and window.isVisible()
        dialog.close()
        qtbot.waitUntil(lambda: escaped.dialog is None)
        leave(window)
    leave(window)
    return places


def leave(window: QWidget) -> None:
    """Close what an action opened."""
    for widget in QApplication.topLevelWidgets():
        if widget is not window and widget.isVisible() and widget.parent() is not None:
            widget.close()


def test_every_slot_of_the_sessions_signals(qtbot: QtBot, window: MainWindow, capsys: pytest.CaptureFixture) -> None:
    escaped = Escaped(window, window.journal)
    try:
        places = [place for name in SIGNALS for place in told(qtbot, window, escaped, getattr(window.session, name).emit)]
    finally:
        escaped.release()
    assert len(places) > 20 and len(set(places)) > 10
    assert "Boom" in capsys.readouterr().err


def test_every_action(qtbot: QtBot, window: MainWindow, capsys: pytest.CaptureFixture) -> None:
    escaped = Escaped(window, window.journal)
    tried = 0
    try:
        for name, action in window.actions_.items():
            if name in ENDS or not action.isEnabled():
                continue
            with Raising(1) as raising:
                action.trigger()
            if raising.where:
                tried += 1
                qtbot.waitUntil(lambda: escaped.dialog is not None)
                assert escaped.dialog and raising.where in escaped.dialog.message.text().replace("\u200b", ""), name
                escaped.dialog.close()
                qtbot.waitUntil(lambda: escaped.dialog is None)
            leave(window)
    finally:
        escaped.release()
    assert tried > 10 and window.isVisible()
    assert "Boom" in capsys.readouterr().err
