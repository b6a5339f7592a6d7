"""The real window with the real engine host. A test fails on a Qt warning, a thread or a process left behind."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui import theme
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.session import Session
from mono_quant_gui.settings import Settings

PATIENCE = 60_000
"""Milliseconds a signal may take on a busy machine; nothing is slower for it."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(tmp_path / "settings.ini")
    made.set_text("runs_folder", str(tmp_path / "runs"))
    made.set_text("presets_folder", str(tmp_path / "presets"))
    return made


@pytest.fixture
def window(qtbot: QtBot, qapp: QApplication, settings: Settings) -> Iterator[MainWindow]:
    with standing(qapp, settings) as made:
        yield made
        made.session.cancel()
        made.close_now()
        assert_nothing_left(qtbot, made)


@pytest.fixture(scope="module")
def shared_window(qapp: QApplication, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainWindow]:
    """One window for the tests of a module that leave it as they found it."""
    folder = tmp_path_factory.mktemp("shared")
    settings = Settings(folder / "settings.ini")
    settings.set_text("runs_folder", str(folder / "runs"))
    settings.set_text("presets_folder", str(folder / "presets"))
    with standing(qapp, settings) as made:
        yield made


@contextmanager
def standing(qapp: QApplication, settings: Settings) -> Iterator[MainWindow]:
    before = {thread.ident for thread in threading.enumerate()}
    theme.apply(qapp, "light")
    # Many tests need no arithmetic, which takes seconds to load; those that do wait for it. tests/e2e has it loaded at once.
    made = MainWindow(settings)
    made.furnish(Session(settings, warm=False))
    made.show()
    made.inspector.load_plots()
    try:
        yield made
    finally:  # a test that failed, too: threads of a window that is merely collected would end the process
        made.session.cancel()
        made.close_now()
        made.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    left = [thread.name for thread in threading.enumerate() if thread.ident not in before]
    assert not left, f"threads left behind: {left}"
    children = [child.name() for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not children, f"processes left behind: {children}"


def assert_nothing_left(qtbot: QtBot, window: MainWindow) -> None:
    """A closed window's timers have run out, and nothing that it opened stands on the screen."""

    def ended() -> None:
        active = [timer for timer in window.findChildren(QTimer) if timer.isActive()]
        assert not active, f"timers left behind: {[(timer.parent(), timer.interval()) for timer in active]}"
        shown = [widget for widget in QApplication.topLevelWidgets() if widget.isVisible()]
        assert not shown, f"left on the screen: {shown}"

    qtbot.waitUntil(ended, timeout=2000)  # single shots may still be on their way


@pytest.fixture
def errors(window: MainWindow) -> list[str]:
    """Sentences shown to the user as errors; boxes are closed as they come."""
    seen: list[str] = []
    window.session.failed.connect(lambda message, _details: seen.append(message))
    return seen


def open_model(qtbot: QtBot, window: MainWindow, path: Path) -> None:
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.open_path(str(path))


def edit(qtbot: QtBot, window: MainWindow, recipe) -> None:
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.session.edit_recipe(recipe, "test")


@pytest.fixture
def big_model(tmp_path: Path) -> Path:
    """A sparse checkpoint of 1.3 GB of zeros in 40 layers: takes no disk and long enough to be stopped."""
    import json
    import os

    shape, count = [4096, 4096], 40
    size = 2 * shape[0] * shape[1]
    places = {f"layers.{n}.weight": [n * size, (n + 1) * size] for n in range(count)}
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": place} for name, place in places.items()}
    text = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + count * size)
    return path
