"""Recipes as files, as command lines and as Python: nothing is lost, and what is copied does the same."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication, QFileDialog, QMessageBox
from pytestqt.qtbot import QtBot

import engine
from engine.cli import main
from engine.records.calibration import DataSpec
from engine.records.recipe import Recipe, Rule
from engine.records.trust import Factory
from mono_quant_gui import command_line, python_code
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.state import How
from tests.gui.conftest import edit, open_model

INT4, INT8, KEEP = map(engine.parse_scheme, ("int4:g128", "int8:channel", "keep"))
RECIPES = {
    "preset": engine.recipe("W8A8"),
    "flags": Recipe(INT4, "mse:norm=2.4", activations="none", observer="percentile:share=99.5", sequential=False),
    "rules": Recipe(
        INT4, rules=(Rule(INT8, match="re:.*\\.0\\..*'q_proj|.*\"up"), Rule(KEEP, "rtn", "*.up_proj", "linear", 4, 9))
    ),
    "no built-in rules": Recipe(INT8, builtin=False, rules=(Rule(KEEP, kind="norm", note="RECIPE"),)),
}


def planned_by_shell(command: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The plan of a pasted command: its here-document goes to standard input, as a shell does it."""
    line, _, rest = command.partition(" <<'RECIPE'\n")
    text, end = rest.rsplit("RECIPE\n", 1) if rest else ("", "")
    assert end == "" and "\nRECIPE\n" not in f"\n{text}"
    program, command_name, *words = shlex.split(line)
    assert (program, command_name, words[-2:]) == ("mono-quant", "quantize", ["-o", "OUT"])
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["plan", *words[:-2], "--json"])
    return json.loads(out.getvalue())


@pytest.mark.parametrize("name", RECIPES)
def test_a_copied_command_and_copied_python_plan_the_same(
    name: str, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, path = RECIPES[name], str(language_model)
    expected = engine.plan(path, recipe)
    engine.save_recipe(recipe, tmp_path / "kept.toml")
    for file in ("", str(tmp_path / "kept.toml")):
        found = planned_by_shell(command_line.quantize(path, recipe, None, How(), file), monkeypatch)
        assert found["predicted_bytes"] == expected.predicted_bytes
        assert [(x["name"], x["scheme"], x["bytes"]) for x in found["layers"]] == [
            (x.layer.name, x.scheme_name, x.nbytes) for x in expected.layers
        ]
    seen: list[engine.Plan] = []
    monkeypatch.setattr("engine.api.quantize_to", lambda plan, output: seen.append(plan) or _Report())
    exec(python_code.quantize(path, recipe, None, How()), {})
    assert seen[0].layers == expected.layers
    # Names and notes say nothing to the engine; all else must be the same.
    assert engine.recipe_to_text(seen[0].recipe) == engine.recipe_to_text(recipe)


class _Report:
    sqnr_db, worst_layer = 20.0, "x"


def test_copied_python_takes_data_network_and_consent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSpec('/data/my "texts".jsonl', "text", 64, 3)
    how = How(Factory("/code/net.py", "build", {"width": 3}), ("ab" * 32,), True)
    seen: dict = {}

    class Running:
        summary = "the summary"

        def __enter__(self):
            return self

        def __exit__(self, *exc: object) -> None: ...

    monkeypatch.setattr("engine.api.load_runnable", lambda path, **how: seen.update(path=path, **how) or Running())
    monkeypatch.setattr("engine.api.plan", lambda summary, recipe: (summary, recipe))
    monkeypatch.setattr(
        "engine.api.quantize_to", lambda plan, out, **given: seen.update(plan=plan, out=out, **given) or _Report()
    )
    exec(python_code.quantize("/models/a 'b'.pt", engine.recipe("W8A8_STATIC"), data, how), {})
    assert seen.pop("runnable").summary == "the summary"
    assert seen == {
        "path": "/models/a 'b'.pt", "factory": how.factory, "trusted": ["ab" * 32], "fold_batch_norm": True, "data": data,
        "plan": ("the summary", engine.recipe("W8A8_STATIC")), "out": "OUT",
    }  # fmt: skip


def test_a_recipe_is_opened_saved_duplicated_and_undone_with_its_file(
    qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, file, actions = window.session, window.session.recipe_file, window.actions_
    told: list[tuple[str, bool]] = []
    file.changed.connect(lambda: told.append((file.name, file.saved)))
    assert file.saved and not file.path  # as at the start: nothing would be lost
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    engine.save_recipe(engine.recipe("int5:g64"), first)
    window.recipes.load(str(first))
    assert (file.path, file.saved, file.name) == (str(first), True, "first.toml")
    assert actions["undo"].text() == "&Undo open first.toml"

    session.edit_recipe(engine.recipe("int6:g64"), "test")
    assert told == [("first.toml", True), ("first.toml", False)]
    actions["save_recipe"].trigger()
    assert engine.load_recipe(first) == session.recipe and told[-1] == ("first.toml", True)
    actions["undo"].trigger()
    assert file.path == str(first) and not file.saved
    actions["undo"].trigger()  # the opening: the recipe of the start belongs to no file, and must not be saved to this one
    assert file.path == "" and file.saved
    for _ in range(2):
        actions["redo"].trigger()
    assert file.path == str(first) and file.saved

    # Another program wrote the file meanwhile: asked before it is replaced.
    engine.save_recipe(engine.recipe("W8A8"), first)
    session.edit_recipe(engine.recipe("int7:g64"), "test")
    monkeypatch.setattr(QMessageBox, "question", lambda *a: QMessageBox.StandardButton.Cancel)
    assert not window.recipes.save() and engine.load_recipe(first) == engine.recipe("W8A8")
    monkeypatch.setattr(QMessageBox, "question", lambda *a: QMessageBox.StandardButton.Yes)
    assert window.recipes.save() and engine.load_recipe(first) == engine.recipe("int7:g64")

    actions["duplicate_recipe"].trigger()
    assert (file.path, file.saved, file.name) == ("", False, "int7:g64 copy")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(second.with_suffix("")), ""))
    actions["save_recipe"].trigger()
    assert file.path == str(second) and file.saved and engine.load_recipe(second).name == "int7:g64 copy"
    assert engine.load_recipe(first).name == "int7:g64"

    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(tmp_path / "no" / "folder.toml"), ""))
    actions["save_recipe_as"].trigger()
    assert "folder.toml cannot be written" in errors[-1] and file.path == str(second)

    # Copies, as the menu gives them: from the file while the recipe is as in it.
    open_model(qtbot, window, language_model)
    edit(qtbot, window, RECIPES["rules"])
    clipboard = QApplication.clipboard()
    assert not actions["copy_toml"].trigger() and engine.recipe_from_text(clipboard.text()) == session.recipe
    actions["copy_command"].trigger()
    assert "--recipe - " in clipboard.text()
    assert planned_by_shell(clipboard.text(), monkeypatch)["predicted_bytes"] == session.plan.predicted
    actions["save_recipe"].trigger()
    actions["copy_command"].trigger()
    assert f"--recipe {second} " in clipboard.text()
    assert planned_by_shell(clipboard.text(), monkeypatch)["predicted_bytes"] == session.plan.predicted
    actions["copy_python"].trigger()
    assert clipboard.text() == python_code.quantize(str(language_model), session.recipe, None, How())

    session.close()
    assert session.settings.text("recipe_path") == str(second)
