"""Code from a file: nothing runs before the user says so, and not running it is the default."""

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui.dialogs.network import NetworkDialog, callables_in
from mono_quant_gui.dialogs.trust import TrustDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.state import How
from tests.gui.conftest import PATIENCE, open_model

SPY = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
import torch

def build(width=3):
    return torch.nn.Sequential(torch.nn.Linear(width, 2))
"""


@pytest.fixture
def spy(tmp_path: Path, make_file) -> Path:
    """Weights, and a Python file beside them that leaves a trace when it runs."""
    import torch

    (tmp_path / "network.py").write_text(SPY)
    return make_file({"0.weight": torch.ones(2, 3), "0.bias": torch.zeros(2)})


def question(qtbot: QtBot) -> TrustDialog:
    """The trust dialog that is about to come."""
    qtbot.waitUntil(lambda: isinstance(QApplication.activeModalWidget(), TrustDialog), timeout=PATIENCE)
    found = QApplication.activeModalWidget()
    assert isinstance(found, TrustDialog)
    return found


def choose_network(window: MainWindow, path: Path) -> None:
    dialog = window.add_network()
    assert dialog
    dialog.path.setText(str(path))
    dialog.use_button.click()


@pytest.mark.parametrize("key", [Qt.Key.Key_Return, Qt.Key.Key_Escape])
def test_declining_is_the_default_and_runs_nothing(
    key: Qt.Key, qtbot: QtBot, window: MainWindow, spy: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, spy)
    choose_network(window, spy.with_name("network.py"))
    dialog = question(qtbot)
    with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
        QTest.keyClick(dialog, key)
    assert not spy.with_name("ran").exists() and errors == []
    assert window.session.model and not window.session.model.runs
    assert "not trusted" in window.status.full_text()


def test_the_question_names_file_hash_and_what_would_run(qtbot: QtBot, window: MainWindow, spy: Path) -> None:
    import hashlib

    open_model(qtbot, window, spy)
    choose_network(window, spy.with_name("network.py"))
    dialog = question(qtbot)
    assert dialog.path.text() == str(spy.with_name("network.py")) and "build" in dialog.what.text()
    assert hashlib.sha256(SPY.encode()).hexdigest() in dialog.sha256.text()
    assert dialog.sha256.textInteractionFlags() & Qt.TextInteractionFlag.TextSelectableByMouse
    assert dialog.path.textFormat() == Qt.TextFormat.PlainText
    dialog.close()


def test_what_was_agreed_to_is_asked_again_only_when_it_changed(qtbot: QtBot, window: MainWindow, spy: Path) -> None:
    session, network = window.session, spy.with_name("network.py")
    open_model(qtbot, window, spy)
    choose_network(window, network)
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    assert session.model and session.model.runs and spy.with_name("ran").exists()
    asked: list[object] = []
    session.trust_wanted.connect(asked.append)
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        choose_network(window, network)
    assert asked == []
    network.write_text(SPY + "# changed\n")
    choose_network(window, network)
    question(qtbot).reject()
    assert len(asked) == 1
    session.settings.sync()
    saved = Path(session.settings._store.fileName())
    assert not any(sha256 in saved.read_text() for sha256 in session.model.how.trusted)


def test_an_exported_program_opens_once_it_is_trusted(
    qtbot: QtBot, window: MainWindow, digits: Path, language_model: Path
) -> None:
    open_model(qtbot, window, language_model)
    window.open_path(str(digits / "model.pt2"))
    question(qtbot).decline_button.click()
    assert window.session.model and window.session.model.name == "docstring_lm"
    window.open_path(str(digits / "model.pt2"))
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    assert window.session.model and window.session.model.name == "model.pt2" and window.session.model.runs
    assert not window.actions_["network"].isEnabled()


def test_functions_are_listed_from_text_alone(tmp_path: Path) -> None:
    file = tmp_path / "f.py"
    file.write_text(f"import os\nopen({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\ndef _hidden(): pass\ndef build(): pass\n")
    assert callables_in(str(file)) == (["build", "Net"], "")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"def (", b"\0", b"\xff\xfe\x00", b"x = 1", b"(" * 5000])
def test_a_file_without_functions_is_one_sentence(content: bytes, qtbot: QtBot, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_bytes(content)
    dialog = NetworkDialog(str(tmp_path), How())
    qtbot.addWidget(dialog)
    dialog.path.setText(str(tmp_path / "f.py"))
    assert not dialog.use_button.isEnabled()
    assert dialog.message.text().startswith("f.py ") and "\n" not in dialog.message.text()


def test_arguments_are_a_json_object(qtbot: QtBot, spy: Path) -> None:
    dialog = NetworkDialog("", How())
    qtbot.addWidget(dialog)
    dialog.path.setText(str(spy.with_name("network.py")))
    for words in ("[1]", "{", "width=3"):
        dialog.arguments.setText(words)
        assert not dialog.use_button.isEnabled() and "JSON object" in dialog.message.text()
    dialog.arguments.setText('{"width": 3}')
    assert dialog.use_button.isEnabled()
    assert dialog.factory().name == "build" and dialog.factory().arguments == {"width": 3}


def test_a_network_that_does_not_fit_leaves_the_model_there(
    qtbot: QtBot, window: MainWindow, spy: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, spy)
    dialog = window.add_network()
    assert dialog
    dialog.path.setText(str(spy.with_name("network.py")))
    dialog.arguments.setText('{"width": 5}')
    dialog.use_button.click()
    with qtbot.waitSignal(window.session.failed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    assert len(errors) == 1 and "\n" not in errors[0]
    assert window.session.model and window.session.model.name == spy.name and not window.session.model.runs
