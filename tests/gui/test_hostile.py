"""Hostile files opened in the window: one sentence, the model that was there stays, nothing runs, and the next file opens."""

from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui.dialogs.trust import TrustDialog
from mono_quant_gui.main_window import MainWindow
from tests.corpus import Case, cases
from tests.corpus.judge import Verdict, check_nothing_ran, check_words
from tests.gui.conftest import PATIENCE, open_model

REFUSED = (
    "safetensors: lists nested 100,000 deep", "safetensors: a name of 1 MB", "pickle: a billion laughs", "PyTorch: two pickles",
    "index: 100,000 shards", "a pipe, called x.pt", "a link to /dev/zero, called x.pt2", "folder: weights are a loop of links",
)  # fmt: skip
OPENED = ("safetensors: named colours", "safetensors: named HTML", "folder: Python files", "folder: a tokenizer is a pipe")
ASKS = ("pickle: REDUCE", "pickle: STACK_GLOBAL")
"""Pickles of something else than weights may be a module: the window asks, and not opening is the default."""

CASES = {case.name: case for case in cases() if case.name in (*REFUSED, *OPENED, *ASKS)}


@pytest.fixture
def opened(qtbot: QtBot, shared_window: MainWindow, language_model: Path) -> MainWindow:
    open_model(qtbot, shared_window, language_model)
    return shared_window


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_one_sentence(name: str, qtbot: QtBot, opened: MainWindow, tmp_path: Path) -> None:
    case: Case = CASES[name]
    path = case.make(tmp_path)
    with qtbot.waitSignal(opened.session.failed, timeout=PATIENCE) as failed:
        opened.open_path(str(path))
    sentence, details = failed.args
    check_words(case, Verdict(sentence, details))
    check_nothing_ran(case, path)
    assert opened.session.model and opened.session.model.name == "docstring_lm"


@pytest.mark.parametrize("name", OPENED)
def test_odd_names_are_plain_text(name: str, qtbot: QtBot, opened: MainWindow, tmp_path: Path) -> None:
    case: Case = CASES[name]
    path = case.make(tmp_path)
    open_model(qtbot, opened, path)
    model = opened.layers.model
    shown = [str(model.index(row, column).data()) for row in range(model.rowCount()) for column in range(3)]
    # An invisible space keeps Qt from taking a name for HTML.
    assert shown and all(text.replace("\u200b", "").isprintable() for text in shown)
    check_nothing_ran(case, path)


@pytest.mark.parametrize("name", ASKS)
def test_a_pickle_that_calls_something_is_asked_for_and_not_opened(
    name: str, qtbot: QtBot, opened: MainWindow, tmp_path: Path
) -> None:
    case: Case = CASES[name]
    path = case.make(tmp_path)
    said: list[str] = []
    heard = opened.session.failed.connect(lambda sentence, _details: said.append(sentence))
    opened.open_path(str(path))
    qtbot.waitUntil(lambda: bool(said) or isinstance(QApplication.activeModalWidget(), TrustDialog), timeout=PATIENCE)
    dialog = QApplication.activeModalWidget()
    if isinstance(dialog, TrustDialog):
        dialog.reject()
    opened.session.failed.disconnect(heard)
    check_nothing_ran(case, path)
    assert opened.session.model and opened.session.model.name == "docstring_lm"
