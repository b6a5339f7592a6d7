"""Rules for exactly these layers, made from what the recipe gives them now; each edit is undone by one step."""

from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

import engine
from engine.records.recipe import Rule
from mono_quant_gui.main_window import MainWindow
from tests.gui.conftest import PATIENCE, edit, open_model

UP = "model.layers.1.mlp.up_proj"
DOWN = "model.layers.1.mlp.down_proj"
TABLE = "model.embed_tokens"


def planned(window: MainWindow) -> dict[str, tuple[str, str]]:
    session = window.session
    assert session.model
    return dict(zip(session.model.index, zip(session.plan.schemes, session.plan.algorithms, strict=True), strict=True))


def test_only_these_layers_change_and_each_edit_is_one_step(
    qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int4:g128"), "mse"))
    session, before = window.session, planned(window)
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.mending.assign([UP, DOWN], "int8:channel")
    assert planned(window) == before | dict.fromkeys((UP, DOWN), ("int8:channel", "mse"))  # the algorithm stays
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.mending.assign([UP], algorithm="hqq")
    assert planned(window)[UP] == ("int8:channel", "hqq") and planned(window)[DOWN] == ("int8:channel", "mse")
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.mending.assign([UP], "fp8_e4m3:channel")  # which HQQ cannot do: it gives way
    assert planned(window)[UP] == ("fp8_e4m3:channel", "rtn") and session.plan.errors == []
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.mending.keep([UP])
    assert planned(window)[UP][0] == "keep" and session.undo.undoText() == f"keep {UP}"
    assert [rule.match for rule in session.recipe.rules] == [UP, DOWN]
    for _ in range(4):
        session.undo.undo()
    assert session.recipe.rules == () and errors == []


def test_bits_are_raised_step_by_step_and_the_edit_says_how(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    recipe = engine.Recipe(engine.parse_scheme("int3:g64"), rules=(Rule(engine.parse_scheme("mxfp4"), match=DOWN),))
    edit(qtbot, window, recipe)
    mending = window.session.mending
    assert mending.raise_bits([UP, DOWN]) == "int3:g64 → int4:g64 (1), mxfp4 → mxfp6 (1)"
    # The plan is not there yet: the next step starts from what the rules say.
    assert mending.raise_bits([UP, DOWN]) == "int4:g64 → int8:g64 (1), mxfp6 → mxfp8 (1)"
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        assert mending.raise_bits([UP, DOWN]) == "int8:g64 → keep (1), mxfp8 → keep (1)"
    count = window.session.undo.count()
    with qtbot.waitSignal(window.session.notice, timeout=PATIENCE):
        mending.raise_bits([UP, DOWN])
    assert window.session.undo.count() == count and {planned(window)[name][0] for name in (UP, DOWN)} == {"keep"}


def test_rules_that_match_others_too_are_left_alone(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    wide = (
        Rule(engine.parse_scheme("int8:channel"), match="re:.*up_proj$"),
        Rule(engine.parse_scheme("int4:g32"), match=DOWN, min_size=7),
    )
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int4:g64"), rules=wide))
    mending = window.session.mending
    assert not mending.has_rules([UP, DOWN])
    assert mending.chosen(UP)[0] == "int8:channel"
    mending.assign([UP, DOWN], "int5:g64")
    assert window.session.recipe.rules[2:] == wide and mending.has_rules([UP])
    mending.unassign([UP, DOWN])
    assert window.session.recipe.rules == wide


def test_a_kept_layer_gets_the_recipes_algorithm(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int4:g64"), "mse"))
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.session.mending.assign([TABLE], "int8:channel")
    assert planned(window)[TABLE] == ("int8:channel", "mse")


def test_layers_run_again_after_the_plan(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    session = window.session
    with qtbot.waitSignal(session.plan_changed, timeout=PATIENCE):
        session.mending.rerun([UP], "int8:channel")
    assert session.runs == []  # there was no run to mend
    session.undo.undo()
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.quantize()
    before = session.shown_run
    with qtbot.waitSignal(session.run_finished, timeout=PATIENCE):
        session.mending.rerun([UP, DOWN], "int8:channel", "mse")
    run = session.shown_run
    assert run is not before and run and before
    changed = {name for name, report in run.reports.items() if report.scheme != before.reports[name].scheme}
    assert changed == {UP, DOWN} and run.reports[UP].algorithm == "mse"


@pytest.mark.parametrize("name", ["re:a", "a[1].w", "what?", "b*", "plain.name"])
def test_a_pattern_of_one_name_matches_only_it(name: str, qtbot: QtBot, window: MainWindow, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    names = ["re:a", "a", "a[1].w", "a1.w", "what?", "whatx", "b*", "bb", "plain.name", "plain.names"]
    save_file({f"{each}.weight": torch.randn(8, 8) for each in names}, tmp_path / "odd.safetensors")
    open_model(qtbot, window, tmp_path / "odd.safetensors")
    before = planned(window)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        window.session.mending.assign([name], "int5:tensor")
    assert planned(window) == before | {name: ("int5:tensor", "rtn")}
    window.session.mending.unassign([name])
    assert window.session.recipe.rules == ()
