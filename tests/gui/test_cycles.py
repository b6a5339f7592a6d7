"""Opening and closing again and again: memory and objects stay where they were.

``MONO_QUANT_MODELS`` and ``MONO_QUANT_WINDOWS`` set how often.
"""

import gc
import os
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QObject
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.session import Session
from mono_quant_gui.settings import Settings
from tests.gui.conftest import open_model

MODELS = int(os.environ.get("MONO_QUANT_MODELS", "30"))
WINDOWS = int(os.environ.get("MONO_QUANT_WINDOWS", "4"))
ARENA_BYTES = 16 * 2**20
"""What the allocators may keep for later: far less than the cycles would leave if each left its rows or its window."""
WINDOW_OBJECTS = 3_000
"""A window holds some 40,000 objects of Python; what caches fill after the first ones is far below one window."""


def _memory() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def test_models_opened_again_and_again_leave_nothing(
    qtbot: QtBot, window: MainWindow, digits: Path, language_model: Path
) -> None:
    models = (digits, language_model)
    for number in range(10):
        open_model(qtbot, window, models[number % 2])
    before, threads, children = _memory(), psutil.Process().num_threads(), len(window.findChildren(QObject))
    descriptors = psutil.Process().num_fds()
    for number in range(MODELS):
        open_model(qtbot, window, models[number % 2])
    assert psutil.Process().num_threads() <= threads + 2, "threads were left"
    assert psutil.Process().num_fds() <= descriptors + 2, "descriptors were left"
    assert len(window.findChildren(QObject)) <= children + 20, "Qt's objects were left"
    more = _memory() - before
    print(f"{MODELS} models: {more / 1e6:+.1f} MB, {psutil.Process().num_fds() - descriptors:+d} descriptors")
    assert more < ARENA_BYTES


def _windows() -> int:
    return sum(isinstance(widget, MainWindow) for widget in QApplication.topLevelWidgets())


def _once(qtbot: QtBot, qapp: QApplication, settings: Settings, path: Path) -> None:
    window = MainWindow(settings)
    window.furnish(Session(settings))
    window.show()
    window.inspector.load_plots()
    open_model(qtbot, window, path)
    window.close_now()
    window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    qapp.processEvents()


def test_windows_opened_and_closed_leave_nothing(qtbot: QtBot, qapp: QApplication, settings: Settings, digits: Path) -> None:
    for _ in range(3):
        _once(qtbot, qapp, settings, digits)
    before, objects, threads = _memory(), len(gc.get_objects()), psutil.Process().num_threads()
    descriptors = psutil.Process().num_fds()
    windows = _windows()
    for _ in range(WINDOWS):
        _once(qtbot, qapp, settings, digits)
    after = _memory()
    assert len(gc.get_objects()) - objects < WINDOW_OBJECTS
    assert after - before < ARENA_BYTES
    assert psutil.Process().num_threads() <= threads
    assert psutil.Process().num_fds() <= descriptors + 2, "descriptors were left"
    print(f"{WINDOWS} windows: {(after - before) / 1e6:+.1f} MB, {psutil.Process().num_fds() - descriptors:+d} descriptors")
    assert _windows() <= windows


pytestmark = pytest.mark.filterwarnings("error")
