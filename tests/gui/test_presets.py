"""Presets of the user's own, and problems that lead to their layers."""

from pathlib import Path

import pytest
from PySide6.QtWidgets import QInputDialog, QMessageBox
from pytestqt.qtbot import QtBot

import engine
from engine.records.recipe import Recipe, Rule
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.problems import Found, problems
from mono_quant_gui.presets import UserPresets
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import PlanState
from tests.gui.conftest import edit, open_model

INT4, INT8, KEEP = map(engine.parse_scheme, ("int4:g128", "int8:channel", "keep"))
MINE = Recipe(INT4, "mse:norm=2.4", (Rule(INT8, match="*.down_proj"),))


def test_presets_are_files_that_others_can_write_too(tmp_path: Path) -> None:
    presets = UserPresets(tmp_path / "presets")
    assert presets.all() == []
    first = presets.save("Four bits / down 8", MINE)
    assert first == tmp_path / "presets" / "Four-bits-down-8.toml"
    assert engine.load_recipe(first).rules == MINE.rules and engine.load_recipe(first).name == "Four bits / down 8"
    second = presets.save("Four bits: down 8", engine.recipe("W8A8"))  # another name that makes the same file name
    assert second.name == "Four-bits-down-8-2.toml"
    assert presets.save("FOUR BITS / down 8", engine.recipe("W8A16")) == first  # the same name: in its place
    (tmp_path / "presets" / "by hand.toml").write_text('scheme = "int5:g64"\n')
    (tmp_path / "presets" / "broken.toml").write_text('scheme = "int5:g64"\nrulez = 1\n')
    (tmp_path / "presets" / "notes.txt").write_text("no preset")
    found = presets.all()
    assert [preset.name for preset in found] == ["by hand", "FOUR BITS / down 8", "Four bits: down 8", "broken.toml"]
    assert found[-1].recipe is None and found[-1].problem.startswith("broken.toml, line 2: key 'rulez'")

    with pytest.raises(engine.EngineError, match="There is a preset called Four bits: down 8 already"):
        presets.rename(found[0], "four bits: down 8".replace("four", "Four"))
    presets.rename(found[0], "By Hand")
    assert engine.load_recipe(tmp_path / "presets" / "by hand.toml").name == "By Hand"
    presets.delete(found[1])
    assert not first.exists()
    for name in ("w4a16", "  ", "a\nb", "x" * 81):
        with pytest.raises(engine.EngineError):
            presets.save(name, MINE)


def test_a_session_that_keeps_nothing_keeps_no_presets() -> None:
    presets = UserPresets(Settings(fresh=True).presets_folder())
    assert presets.all() == []
    with pytest.raises(engine.EngineError, match="--fresh"):
        presets.save("mine", MINE)


def test_layers_with_the_same_problem_are_one_row() -> None:
    def problem(severity: str, layer: str | None, message: str) -> dict:
        return {"severity": severity, "layer": layer, "message": message}

    fused = "gate_proj int4:g128, up_proj keep; vLLM fuses them and needs one scheme."
    plan = PlanState(
        problems=[
            problem("warning", "a.0.mlp.gate_proj", f"a.0.mlp: {fused}"),
            problem("warning", "a.1.mlp.gate_proj", f"a.1.mlp: {fused}"),
            problem("warning", None, "No layer is quantized."),
            problem("error", "norm", "norm: 1-dimensional."),
            problem("error", "c.0", "c.0 is a conv2d layer; keep it."),
            problem("error", "c.1", "c.1 is a conv2d layer; keep it."),
        ],
        is_folder=True,
        consumers=[{"name": "vLLM", "loads": "no", "reason": "fused"}, {"name": "x", "loads": "yes", "reason": ""}],
    )
    assert problems(plan) == [
        Found("error", "norm: 1-dimensional.", ("norm",)),
        Found("error", "2 layers: is a conv2d layer; keep it.", ("c.0", "c.1")),
        Found("warning", f"2 layers: {fused}", ("a.0.mlp.gate_proj", "a.1.mlp.gate_proj")),
        Found("warning", "No layer is quantized."),
    ]
    plan.problems = []
    assert problems(plan) == [Found("note", "Will not load in vLLM: fused")]
    assert problems(PlanState(error="It broke.")) == [Found("error", "It broke.")]


def test_presets_and_problems_in_the_pane(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch, qtmodeltester
) -> None:
    session, pane = window.session, window.recipe
    presets, box = pane.presets, pane.preset
    folder = Path(session.settings.text("presets_folder"))
    open_model(qtbot, window, language_model)
    qtmodeltester.check(pane.problems.model, force_py=True)
    edit(qtbot, window, MINE)

    # Problems of the plan: one row for four layers; a click selects them.
    view = pane.problems.view
    assert not pane.problems.isHidden() or pane.problems.model.rowCount() == 0
    edit(qtbot, window, Recipe(INT4, rules=(Rule(INT8, match="*.up_proj"),)))
    assert "4 layers: gate_proj int4:g128, up_proj int8:channel; vLLM fuses them" in pane.problems.text()
    assert "○ Will not load in vLLM: fused layers have unlike schemes" in pane.problems.text()
    assert pane.problems.property("severity") == "warning"
    view.clicked.emit(pane.problems.model.index(0))
    assert session.selection == tuple(f"model.layers.{n}.mlp.gate_proj" for n in range(4))
    assert session.selected == session.selection[0]

    # Keep the recipe as a preset; edit away from it; come back, rules and all, in one step.
    edit(qtbot, window, MINE)
    dialog = presets.ask_save()
    dialog.setTextValue("My four bits")
    dialog.accept()
    assert (folder / "My-four-bits.toml").exists() and box.currentText() == "My four bits"
    edit(qtbot, window, engine.recipe("W8A8"))
    assert box.currentText() == "W8A8"
    box.setCurrentIndex(box.findText("My four bits"))
    box.activated.emit(box.currentIndex())
    assert session.recipe.rules == MINE.rules and session.recipe.algorithm == "mse:norm=2.4"
    assert window.actions_["undo"].text() == "&Undo preset My four bits"
    assert box.currentText() == "My four bits"

    # A broken file is named and cannot be chosen.
    (folder / "broken.toml").write_text("scheme = 4\n")
    presets.reload()
    place = box.findText("⚠ broken.toml")
    assert not box.model().item(place).isEnabled() and "broken.toml, line 1" in window.status.full_text()  # type: ignore[attr-defined]
    assert errors == []

    renaming = presets.ask_rename()
    assert isinstance(renaming, QInputDialog)
    renaming.setTextValue("W4A16")
    renaming.accept()
    assert "W4A16 is a built-in preset" in errors[-1]
    presets.rename(presets.current(), "Ours")  # type: ignore[arg-type]
    assert box.currentText() == "Ours"
    monkeypatch.setattr(QMessageBox, "question", lambda *a: QMessageBox.StandardButton.Cancel)
    presets.ask_delete()
    assert box.findText("Ours") >= 0
    monkeypatch.setattr(QMessageBox, "question", lambda *a: QMessageBox.StandardButton.Yes)
    presets.ask_delete()
    assert box.findText("Ours") < 0 and box.currentText() == "W4A16" and session.recipe.rules == MINE.rules
