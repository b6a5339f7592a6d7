"""What is said of failures and defects, and where it can be read again."""

import sys
import threading
import warnings

import pytest
from PySide6.QtCore import QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui import journal, versions
from mono_quant_gui.dialogs.error import ErrorDialog
from mono_quant_gui.escaped import Escaped
from mono_quant_gui.main_window import MainWindow


@pytest.fixture(scope="module")
def window(shared_window: MainWindow) -> MainWindow:
    return shared_window


@pytest.fixture
def escaped(window: MainWindow):
    hooks = sys.excepthook, threading.excepthook
    made = Escaped(window, window.journal)
    yield made
    made.release()
    assert (sys.excepthook, threading.excepthook) == hooks


def shown(dialog: ErrorDialog) -> str:
    """Its sentence, without the widthless spaces that keep a tooltip from being taken for markup."""
    return dialog.message.text().replace("\u200b", "")


def boom() -> None:
    raise ZeroDivisionError("in a <b>slot</b>")


def test_a_defect_in_a_slot_is_told_once_and_the_window_stays(
    qtbot: QtBot, window: MainWindow, escaped: Escaped, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(2):
        QTimer.singleShot(0, boom)
    qtbot.waitUntil(lambda: escaped.dialog is not None and escaped.dialog.isVisible())
    dialog = escaped.dialog
    assert dialog and QApplication.activeModalWidget() is dialog and window.isVisible()
    assert "ZeroDivisionError: in a <b>slot</b>" in shown(dialog)
    assert dialog.message.textFormat().name == "PlainText"
    dialog.copy_button.click()
    copied = QGuiApplication.clipboard().text()
    assert "in boom" in copied and f"Mono Quant {versions.__version__}" in copied and "torch 2" in copied and "Python 3" in copied
    assert copied.count("Traceback") == 1, "the same defect twice is told once"
    dialog.close_button.click()
    qtbot.waitUntil(lambda: escaped.dialog is None)
    qtbot.waitUntil(lambda: "ZeroDivisionError" in window.log.view.toPlainText())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_defect_in_a_thread_is_told_in_the_window(qtbot: QtBot, window: MainWindow, escaped: Escaped) -> None:
    thread = threading.Thread(target=boom)
    thread.start()
    thread.join()
    qtbot.waitUntil(lambda: escaped.dialog is not None)
    assert escaped.dialog
    escaped.dialog.close()


def test_a_failure_has_one_sentence_and_details_to_copy(qtbot: QtBot, window: MainWindow) -> None:
    window.session.failed.emit("The file “x” <i>cannot</i> be read.", "errno 5\nat offset 3")
    dialog = QApplication.activeModalWidget()
    assert isinstance(dialog, ErrorDialog)
    assert shown(dialog) == "The file “x” <i>cannot</i> be read." and not dialog.details.isVisible()
    dialog.details_button.click()
    assert dialog.details.isVisible() and dialog.details.toPlainText() == "errno 5\nat offset 3"
    dialog.copy_button.click()
    assert (
        QGuiApplication.clipboard().text().startswith("The file “x” <i>cannot</i> be read.\n\nerrno 5\nat offset 3\n\nMono Quant")
    )
    dialog.close()
    assert window.status.full_text().replace("\u200b", "") == "The file “x” <i>cannot</i> be read."


def test_the_log_has_the_engines_words_and_the_windows(qtbot: QtBot, window: MainWindow, tmp_path) -> None:
    window.session.notice.emit("Something\x1b[31m happened")
    window.session.peeks.said.emit("first line\nsecond line")
    qtbot.waitUntil(lambda: "second line" in window.log.view.toPlainText())
    lines = window.log.view.toPlainText().splitlines()
    assert any("window" in line and "Something·[31m happened" in line for line in lines)
    first = next(n for n, line in enumerate(lines) if line.endswith("engine  info     first line"))
    assert lines[first][2] == ":" and lines[first + 1] == "    second line"
    window.log.copy_button.click()
    assert "first line" in QGuiApplication.clipboard().text()
    window.log.clear_button.click()
    assert window.log.view.toPlainText() == "" and window.journal.text() == ""


def test_lines_on_the_engines_stderr_are_passed_on_whole() -> None:
    from mono_quant_gui.jobs.process import EngineProcess

    process = EngineProcess()
    said: list[str] = []
    process.said.connect(said.append)
    process._unsaid = process._stderr = b""

    class Pipe:
        def __init__(self, *pieces: bytes) -> None:
            self.pieces = list(pieces)

        def readAllStandardError(self):
            from PySide6.QtCore import QByteArray

            return QByteArray(self.pieces.pop(0))

    process._process = Pipe(b"half a ", b"line\nand a wh", b"ole one\n\xff\n")  # type: ignore[assignment]
    for _ in range(3):
        process._read_errors()
    assert said == ["half a line", "and a whole one\n\ufffd"]


def test_warnings_of_libraries_are_logged(window: MainWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    before = list(logging.getLogger().handlers)
    monkeypatch.setattr(journal, "qInstallMessageHandler", lambda handler: None)
    try:
        journal.listen(window.journal)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("an old way", stacklevel=1)
    finally:
        logging.captureWarnings(False)
        logging.getLogger().handlers[:] = before
    assert "an old way" in window.journal.text()
