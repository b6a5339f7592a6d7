"""The window in a language made of marks: every word that is shown came through ``tr``, was found by lupdate and is looked up."""

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt, QTranslator
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QMenu,
    QTableView,
    QTreeView,
    QWidget,
)
from pytestqt.qtbot import QtBot

import engine
from engine.records.calibration import DATA_KINDS
from mono_quant_gui.i18n import tr
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings
from mono_quant_gui.widgets.parts import ElidedLabel, MenuButton
from tests.conftest import SAMPLES
from tests.gui.conftest import PATIENCE, open_model, standing

ROOT = Path(__file__).parent.parent.parent
MARKED = re.compile(r"⟦[^⟦⟧]*⟧")
WORD = re.compile(r"[^\W\d_]{3,}")


def check_strings():
    spec = importlib.util.spec_from_file_location("check_strings", ROOT / ".ci" / "check_strings.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def marks(qapp: QApplication, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A translation of everything into itself between marks, made by the tools that translators use."""
    folder = tmp_path_factory.mktemp("language")
    files = sorted((ROOT / "mono_quant_gui").rglob("*.py"))
    check_strings().extracted(files, folder / "marks.ts")
    tree = ET.parse(folder / "marks.ts")
    for message in tree.getroot().iter("message"):
        translation, source = message.find("translation"), message.find("source")
        assert translation is not None and source is not None
        translation.attrib.pop("type", None)
        translation.text = f"⟦{source.text}⟧"
    tree.write(folder / "marks.ts", encoding="utf-8", xml_declaration=True)
    lrelease = Path(sys.executable).parent / "pyside6-lrelease"
    subprocess.run([lrelease, folder / "marks.ts", "-qm", folder / "marks.qm"], check=True, capture_output=True)
    translator = QTranslator()
    assert translator.load(str(folder / "marks.qm"))
    qapp.installTranslator(translator)
    yield
    qapp.removeTranslator(translator)


@pytest.fixture(scope="module")
def window(marks: None, qapp: QApplication, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MainWindow]:
    folder = tmp_path_factory.mktemp("marked")
    settings = Settings(folder / "settings.ini")
    settings.set_text("runs_folder", str(folder / "runs"))
    settings.set_text("presets_folder", str(folder / "presets"))
    with standing(qapp, settings) as made:
        yield made


def texts(widget: QWidget) -> Iterator[tuple[str, str]]:
    """What a widget says, and where."""
    yield "tooltip", widget.toolTip()
    yield "accessible name", widget.accessibleName()
    yield "title", widget.windowTitle() if widget.isWindow() else ""
    if isinstance(widget, ElidedLabel):
        yield "text", widget.full_text()
    elif isinstance(widget, QLabel | QAbstractButton) and not isinstance(widget, MenuButton):
        yield "text", widget.text()
    elif isinstance(widget, QComboBox):
        yield from (("item", widget.itemText(n)) for n in range(widget.count()))
    elif isinstance(widget, QLineEdit):
        yield "placeholder", widget.placeholderText()
    elif isinstance(widget, QMenu):
        for action in widget.actions():
            yield from (("action", action.text()), ("status tip", action.statusTip()))
    elif isinstance(widget, QTableView | QTreeView) and isinstance(widget, QAbstractItemView):
        model = widget.model()
        for column in range(model.columnCount() if model else 0):
            for role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
                yield "head", str(model.headerData(column, Qt.Orientation.Horizontal, role) or "")


def unmarked(root: QWidget, data: set[str]) -> list[str]:
    """Words below a widget that no translation reaches; ``data`` are those that come from files and the engine."""
    found = []
    for widget in (root, *root.findChildren(QWidget)):
        for where, said in texts(widget):
            rest = said
            while MARKED.search(rest):
                rest = MARKED.sub(" ", rest)
            words = {word for word in WORD.findall(rest) if word.casefold() not in data}
            if words:
                found.append(f"{type(widget).__name__} {where}: {said!r}")
    return sorted(set(found))


def known() -> set[str]:
    """Words of names and of the engine's own sentences, which are not the window's."""
    choices = [
        *engine.formats(), *engine.algorithm_choices(), *engine.activation_choices(), *engine.observer_choices(),
        *engine.presets(), *engine.scheme_choices(),
    ]  # fmt: skip
    said = [*map(repr, choices), str(SAMPLES), "tmp", "pytest", "Mono Quant", "safetensors", "CPU", "Ctrl", "Shift", "Esc"]
    said += DATA_KINDS
    said += [rule.note for rule in engine.builtin_rules()]
    said += ["OK", "Cancel", "Close", "Scroll Left", "Scroll Right"]  # Qt's own, with Qt's own translations
    return {word.casefold() for words in said for word in WORD.findall(words)}


def test_every_string_can_be_translated(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_strings().main() == 0, capsys.readouterr().out


def test_a_literal_that_is_shown_as_it_is_is_found(tmp_path: Path) -> None:
    """The check can fail: each way of getting round ``tr``, and none of what is no word."""
    (tmp_path / "x.py").write_text(
        'a.setText("Two words")\nb = QLabel(f"Run {n} of many")\nc.setToolTip("Yes it is" if d else tr("no"))\n'
        'label("strong", "muted")\ne.setText(tr("fine"))\nf.setText(f"{x} dB")\ng.notice.emit("Done: " + h)\n'
    )
    found = [words for _, words in check_strings().untranslated(tmp_path / "x.py")]
    assert found == ["Two words", "Run ", " of many", "Yes it is", "Done: "]
    (tmp_path / "y.py").write_text('tr("seen")\ntr(words)\nf"{tr(\'hidden\')}"\n')
    assert [words for _, words in check_strings().marked(tmp_path / "y.py")] == ["seen", None, "hidden"]
    assert check_strings().extracted([tmp_path / "y.py"], tmp_path / "y.ts") == {"seen"}


def test_translations_are_looked_up_where_lupdate_puts_them(marks: None) -> None:
    assert tr("Make these schemes the recipe; can be undone") == "⟦Make these schemes the recipe; can be undone⟧"


def test_the_window_says_nothing_that_was_not_translated(qtbot: QtBot, window: MainWindow) -> None:
    assert unmarked(window, known()) == []


def test_dialogs_say_nothing_that_was_not_translated(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    data = known() | {word.casefold() for row in window.session.model.layers for word in WORD.findall(row.name)}  # type: ignore[union-attr]
    wrong = []
    for make in (window.prefer, window.find_command):
        dialog = make()
        wrong += [f"{type(dialog).__name__}: {words}" for words in unmarked(dialog, data)]
        with qtbot.waitSignal(dialog.destroyed, timeout=PATIENCE):
            dialog.close()
    assert wrong == []
