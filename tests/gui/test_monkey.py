"""A seeded monkey at the real window: random clicks, keys, wheels and drags, none of which may raise.

``MONO_QUANT_MONKEY=20000`` lets it act longer.
"""

import os
import random
import sys
from pathlib import Path

import pytest
import shiboken6
from PySide6.QtCore import QPoint, QPointF, QSize, Qt, QTimer
from PySide6.QtGui import QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QFileDialog, QInputDialog, QMessageBox, QWidget
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from tests.gui.conftest import open_model

EVENTS = int(os.environ.get("MONO_QUANT_MONKEY", "5000"))
KEYS = (
    Qt.Key.Key_Tab, Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Return, Qt.Key.Key_Space,
    Qt.Key.Key_Escape, Qt.Key.Key_Home, Qt.Key.Key_End, Qt.Key.Key_PageDown, Qt.Key.Key_Delete, Qt.Key.Key_Backspace,
    Qt.Key.Key_A, Qt.Key.Key_K, Qt.Key.Key_4, Qt.Key.Key_Colon, Qt.Key.Key_Less, Qt.Key.Key_Z, Qt.Key.Key_F6,
)  # fmt: skip
MODIFIERS = (Qt.KeyboardModifier.NoModifier,) * 6 + (Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier)
PATIENT = 20
"""Ticks of 50 ms."""
LEAVE = ("quit", "close")
"""Actions that would end the session; everything else may be hit."""


class Monkey:
    """Acts on whatever window or dialog is in front."""

    def __init__(self, window: MainWindow, seed: int) -> None:
        self._window, self._random = window, random.Random(seed)
        self._acted = self._seen = self._stood = 0

    def wake(self) -> None:
        """Close what stands in a loop of its own, in which the monkey cannot act: a popup soon, a dialog after a second."""
        _close_popup()
        self._stood = self._stood + 1 if self._acted == self._seen else 0
        self._seen = self._acted
        modal = QApplication.activeModalWidget()
        if self._stood > PATIENT and modal is not None:
            modal.close()

    def act(self) -> None:
        self._acted += 1
        target = self._target()
        if target is not None:
            self._random.choice((self._click, self._click, self._click, self._key, self._key, self._wheel, self._drag))(target)

    def _target(self) -> QWidget | None:
        top = QApplication.activePopupWidget() or QApplication.activeModalWidget() or self._window
        widgets = [w for w in top.findChildren(QWidget) if w.isEnabled() and _can_be_hit(w)]
        return self._random.choice(widgets) if widgets else top

    def _place(self, widget: QWidget) -> QPoint:
        return QPoint(self._random.randrange(widget.width()), self._random.randrange(widget.height()))

    def _click(self, widget: QWidget) -> None:
        if isinstance(widget, QAbstractButton) and "Delete" in widget.text():
            return  # the test would end with no runs to look at
        button = Qt.MouseButton.LeftButton if self._random.random() < 0.9 else Qt.MouseButton.RightButton
        QTest.mouseClick(widget, button, self._random.choice(MODIFIERS), self._place(widget))

    def _key(self, widget: QWidget) -> None:
        QTest.keyClick(widget, self._random.choice(KEYS), self._random.choice(MODIFIERS))

    def _wheel(self, widget: QWidget) -> None:
        at = QPointF(self._place(widget))
        turn = QPoint(0, self._random.choice((120, -120)))
        event = QWheelEvent(
            at, QPointF(widget.mapToGlobal(at.toPoint())), QPoint(), turn, Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(widget, event)

    def _drag(self, widget: QWidget) -> None:
        """What is pressed may hide, shrink or be gone before the mouse moves: the drag ends there, as a person's would."""
        QTest.mousePress(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, self._place(widget))
        if _can_be_hit(widget):
            QTest.mouseMove(widget, self._place(widget))
        if _can_be_hit(widget):
            QTest.mouseRelease(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, self._place(widget))


def test_a_monkey_finds_nothing_that_raises(
    qtbot: QtBot, window: MainWindow, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dialogs that would wait for a person answer by themselves; popups are closed when they have stood for a while."""
    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: raised.append(error))
    for name in ("getOpenFileName", "getSaveFileName"):
        monkeypatch.setattr(QFileDialog, name, lambda *a, **k: ("", ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a, **k: "")
    monkeypatch.setattr(QMessageBox, "question", lambda *a, **k: QMessageBox.StandardButton.Cancel)
    for name in ("getText", "getDouble", "getInt", "getItem"):
        monkeypatch.setattr(QInputDialog, name, lambda *a, **k: ("", False))
    for name in LEAVE:
        if name in window.actions_:
            window.actions_[name].setEnabled(False)
    open_model(qtbot, window, digits)
    closing = QTimer(window)
    monkey = Monkey(window, seed=7)
    closing.timeout.connect(monkey.wake)
    closing.start(50)
    sizes = (QSize(1080, 680), QSize(1280, 760))
    for number in range(EVENTS):
        monkey.act()
        if number % 50 == 0:
            QApplication.processEvents()
        if number % 2000 == 0:
            window.resize(sizes[number // 2000 % 2])
            _close_dialogs()
    closing.stop()
    _close_dialogs()
    print(f"{EVENTS:,} events, {len(raised)} exceptions")
    assert raised == []
    assert window.isVisible() and window.session.model is not None


def _can_be_hit(widget: QWidget) -> bool:
    return shiboken6.isValid(widget) and widget.isVisible() and widget.width() > 2 and widget.height() > 2


def _close_popup() -> None:
    popup = QApplication.activePopupWidget()
    if popup is not None:
        popup.close()


def _close_dialogs() -> None:
    while (modal := QApplication.activeModalWidget()) is not None and modal.close():
        QApplication.processEvents()
