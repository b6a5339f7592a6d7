"""Palette, preferences, drops, title, closing, help and versions: one window for all that leave it as it was."""

from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QDropEvent, QGuiApplication
from PySide6.QtGui import Qt as GuiQt
from PySide6.QtWidgets import QApplication, QDialog, QMessageBox
from pytestqt.qtbot import QtBot

import engine
from engine.records.look import Outlier
from mono_quant_gui import app, dropping, exporting, helping, text, theme, versions
from mono_quant_gui.dialogs.calibration import CalibrationDialog
from mono_quant_gui.dialogs.palette import score
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings
from tests.gui.conftest import PATIENCE, open_model


@pytest.fixture(scope="module")
def window(shared_window: MainWindow) -> MainWindow:
    return shared_window


def drop(window: MainWindow, *paths: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    keys, buttons = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    window.dropEvent(QDropEvent(QPointF(10, 10), Qt.DropAction.CopyAction, data, buttons, keys))


# -- command palette ---------------------------------------------------------------------------------------------------


def test_the_palette_lists_every_action_and_runs_the_chosen_one(qtbot: QtBot, window: MainWindow) -> None:
    palette = window.find_command()
    listed = {command.title for command in window.commands()}
    for name, action in window.actions_.items():
        words = action.text().replace("&", "")
        assert name == "palette" or any(title.endswith(words) for title in listed), f"{name} is not in the palette"
    assert {"View ▸ Panes ▸ Runs", "View ▸ Theme ▸ Dark", "File ▸ Open Recent ▸ Clear List"} <= listed
    quit_row = next(command for command in window.commands() if command.title == "File ▸ Quit")
    assert quit_row.shortcut == "Ctrl+Q"
    qtbot.keyClicks(palette.line, "thdark")
    assert palette.titles()[0] == "View ▸ Theme ▸ Dark"
    qtbot.keyClick(palette.line, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: theme.current() == theme.DARK)
    window.actions_["theme_light"].trigger()


def test_what_cannot_be_done_now_is_listed_and_does_nothing(qtbot: QtBot, window: MainWindow) -> None:
    palette = window.find_command()
    qtbot.keyClicks(palette.line, "run stop")
    assert palette.titles()[0] == "Run ▸ Stop"
    qtbot.keyClick(palette.line, Qt.Key.Key_Return)
    assert palette.isVisible()
    qtbot.keyClick(palette.line, Qt.Key.Key_Escape)
    assert not palette.isVisible()


@pytest.mark.parametrize(
    ("wanted", "better", "worse"),
    [("save", "File ▸ Save Recipe", "File ▸ Open Recent"), ("fq", "File ▸ Quit", "Edit ▸ Filter Layers"), ("", "A", "Ab")],
)
def test_the_better_match_comes_first(wanted: str, better: str, worse: str) -> None:
    first, second = score(wanted, better), score(wanted, worse)
    assert first is not None and (second is None or first > second)


def test_letters_in_another_order_do_not_match() -> None:
    assert score("tiuq", "File ▸ Quit") is None


# -- preferences -------------------------------------------------------------------------------------------------------


def test_preferences_take_effect_and_persist(window: MainWindow, tmp_path: Path) -> None:
    settings = window.session.settings
    before = settings.text("runs_folder")
    dialog = window.prefer()
    ok = dialog.buttons.button(dialog.buttons.StandardButton.Ok)
    dialog.theme.setCurrentIndex(dialog.theme.findData("dark"))
    dialog.runs.setText("relative")
    assert not ok.isEnabled()
    (tmp_path / "file").write_text("")
    dialog.runs.setText(str(tmp_path / "file" / "runs"))
    assert not ok.isEnabled()
    dialog.runs.setText(str(tmp_path / "new" / "runs"))
    dialog.reopen.setChecked(False)
    ok.click()
    assert theme.current() == theme.DARK and window.actions_["theme_dark"].isChecked()
    settings.sync()
    again = Settings(Path(settings._store.fileName()))
    assert (again.theme(), again.runs_folder(), again.reopens()) == ("dark", tmp_path / "new" / "runs", False)
    assert app.last_model(again) is None
    again.set_flag("reopen", True)
    again.add_recent(str(tmp_path / "file"))
    assert app.last_model(again) == str(tmp_path / "file")
    again.clear_recent()
    again.sync()
    settings.set_text("runs_folder", before)
    window.actions_["theme_light"].trigger()


# -- drops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a.SafeTensors"], "model"), (["m/config.json"], "model"), (["m/x.bin", "m/y.txt"], "model"), (["m/notes.md"], "model"),
        (["r.toml"], "recipe"), (["d.jsonl"], "data"), (["d/1.png"], "data"), (["d/cat/1.png"], "data"), (["x.exe"], ""),
    ],
)  # fmt: skip
def test_what_is_dropped_is_known_by_its_name_or_what_lies_in_it(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert dropping.kind_of(str(tmp_path / files[0].split("/")[0])) == kind


def test_a_model_and_its_data_dropped_together_go_where_they_belong(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text('scheme = "int5:g64"\n')
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        drop(window, language_model, language_model / "calibration.txt", tmp_path / "mine.toml")
    assert window.session.model and window.session.model.name == "docstring_lm"
    assert engine.scheme_name(window.session.recipe.default) == "int5:g64"
    dialog = QApplication.activeModalWidget()
    assert isinstance(dialog, CalibrationDialog) and dialog.form.path.text() == str(language_model / "calibration.txt")
    dialog.close()


def test_a_drop_that_fits_nowhere_is_said(window: MainWindow, tmp_path: Path) -> None:
    before = window.session.recipe
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text('scheme = "int3"\n')
    drop(window, tmp_path / "a.toml", tmp_path / "b.toml")
    assert window.session.recipe == before and window.status.full_text().startswith("Drop one model")


def test_a_layer_is_found_in_the_palette(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    if window.session.model is None:
        open_model(qtbot, window, language_model)
    palette = window.find_command()
    qtbot.keyClicks(palette.line, "1.mlp.down")
    assert palette.titles() == ["Layer ▸ model.layers.1.mlp.down_proj"]
    palette._run_current()
    qtbot.waitUntil(lambda: window.session.selected == "model.layers.1.mlp.down_proj")


# -- title and closing -------------------------------------------------------------------------------------------------


def test_the_title_says_whether_the_recipe_is_in_its_file(window: MainWindow, tmp_path: Path) -> None:
    path = tmp_path / "my[*] recipe.toml"
    engine.save_recipe(engine.recipe("int5:g64"), path)
    window.recipes.load(str(path))
    assert not window.isWindowModified() and "my[*][*] recipe.toml[*] — Mono Quant" in window.windowTitle()
    window.session.edit_recipe(engine.recipe("int3:g32"), "edit")
    assert window.isWindowModified()
    assert engine.recipe_from_text(window.session.settings.text("recipe")) == window.session.recipe
    assert window.session.settings.text("recipe_path") == str(path)
    window.session.undo.undo()
    assert not window.isWindowModified()
    window.session.undo.redo()
    window.actions_["save_recipe"].trigger()
    assert not window.isWindowModified() and engine.load_recipe(path) == window.session.recipe


def answer(box_button: QMessageBox.StandardButton) -> None:
    """Press a button of the question that is asked next."""

    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        box.button(box_button).click()

    QTimer.singleShot(0, press)


def test_closing_asks_only_where_a_recipe_would_be_lost(
    window: MainWindow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = window.session
    session.recipe_file.duplicate()
    assert not session.recipe_file.path and not session.recipe_file.saved
    assert window.may_lose_recipe(), "without a file it comes back by itself"
    with monkeypatch.context() as patch:
        patch.setattr(session.settings, "_fresh", True)
        for button, may in ((QMessageBox.StandardButton.Cancel, False), (QMessageBox.StandardButton.Discard, True)):
            answer(button)
            assert window.may_lose_recipe() == may
    path = tmp_path / "kept.toml"
    session.recipe_file.save(str(path))
    session.edit_recipe(engine.recipe("int7:channel"), "edit")
    answer(QMessageBox.StandardButton.Cancel)
    assert not window.close() and window.isVisible(), "its file would be out of date"
    answer(QMessageBox.StandardButton.Save)
    assert window.may_lose_recipe() and engine.load_recipe(path) == session.recipe


# -- help and versions -------------------------------------------------------------------------------------------------


def test_f1_opens_the_readme_offline_and_finds_words(window: MainWindow) -> None:
    window.actions_["help"].trigger()
    shown = window.help()
    titles = [shown.contents.item(n).text() for n in range(shown.contents.count())]
    assert {"Mono Quant", "Keyboard", "The path through the window", "Algorithms", "Engine: Words"} <= set(titles)
    shown.search.setText("GPTQ damping")
    found = [shown.contents.item(n).text() for n in range(shown.contents.count())]
    assert 0 < len(found) < len(titles) and "Algorithms" in found
    shown.contents.setCurrentRow(found.index("Algorithms"))
    assert "hqq" in shown.page.toPlainText() and shown.page.extraSelections()
    shown.search.setText("Keyboard Ctrl+Shift+P")
    assert "Edit ▸ Command Palette…" in shown.page.toPlainText()
    shown.search.setText("zzzyyy")
    assert shown.contents.count() == 0 and shown._none.isVisible()
    shown.close()


def test_code_with_hashes_is_no_heading_and_pictures_are_left_out() -> None:
    pages = helping.cut("# One\ntext ![x](y.png)\n```\n# not a head\n```\n## Two\nmore\n### Three\n")
    assert [page.title for page in pages] == ["One", "Two"]
    assert "# not a head" in pages[0].markdown and "y.png" not in pages[0].markdown and "### Three" in pages[1].markdown


def test_about_names_versions_and_licences_of_what_it_runs_on(window: MainWindow) -> None:
    import platform
    from importlib import metadata

    dialog = window.about()
    found = {dialog.table.item(row, 0).text(): dialog.table.item(row, 1).text() for row in range(dialog.table.rowCount())}
    assert found["torch"] == metadata.version("torch") and found["Python"] == platform.python_version()
    assert {"PySide6", "numba", "safetensors", "Mono Quant"} <= found.keys()
    assert all(dialog.table.item(row, 2).text() for row in range(dialog.table.rowCount())), "a licence is missing"
    dialog.copy_button.click()
    assert QGuiApplication.clipboard().text() == versions.text()
    dialog.close()


@pytest.mark.parametrize("name", ["<b>x</b>", "&lt;b>", "<img src='/etc/passwd'>", " <i>", "a <b>", "<!DOCTYPE html>"])
def test_names_from_files_are_markup_for_no_tooltip(name: str) -> None:
    assert GuiQt.mightBeRichText(name), "Qt would take it for HTML as it is"
    shown = text.plain(name)
    assert not GuiQt.mightBeRichText(shown) and shown.replace(text.NO_MARKUP, "") == name
    assert text.plain("x < y > z").replace(text.NO_MARKUP, "") == "x < y > z"


def test_outliers_are_sorted_by_size_of_their_values_and_copied_as_they_stand(window: MainWindow, qtmodeltester) -> None:
    table = window.inspector.outliers
    rows = [
        Outlier((0, n), value, value + error, abs(value))
        for n, (value, error) in enumerate([(-3.0, 0.1), (2.0, -0.5), (1.0, 0.0)])
    ]
    table.show_outliers(rows)
    qtmodeltester.check(table.model(), force_py=True)
    shown = [[table.model().index(row, column).data() for row in range(3)] for column in (1, 3)]
    assert shown[0] == ["-3", "2", "1"]
    table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    assert [table.model().index(row, 0).data() for row in range(3)] == ["0, 1", "0, 0", "0, 2"]
    assert list(exporting.rows_as_lines(table)[0])[1].split("\t") == ["0, 1", "2", "1.5", "-0.5", "2.0"]
    table.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
    assert [table.model().index(row, 1).data() for row in range(3)] == shown[0]
    table.show_outliers(())


def test_what_stands_beside_the_window_closes_with_it(window: MainWindow) -> None:
    beside = QDialog(window)
    beside.show()
    window.close_now()
    assert not beside.isVisible()
