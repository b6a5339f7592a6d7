"""Persistence, themes, menus, recipes and the command line that does the same."""

import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

import engine
from engine.records.calibration import DataSpec
from engine.records.trust import Factory
from mono_quant_gui import command_line, text, theme
from mono_quant_gui.actions import specs
from mono_quant_gui.dialogs.rule import RuleDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import SCHEME
from mono_quant_gui.settings import Settings
from mono_quant_gui.state import How
from tests.gui.conftest import PATIENCE, edit, open_model


def test_state_persists(qtbot: QtBot, window: MainWindow, settings: Settings, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    window.session.edit_recipe(engine.recipe("W8A8"), "test")
    window.resize(1080, 700)  # as narrow as it goes; the offscreen screen is 800 × 800
    window.layers.table.setColumnWidth(SCHEME, 123)
    window.close()
    later = Settings(Path(settings._store.fileName()))
    assert later.recent() == [str(language_model)]
    again = MainWindow(later)
    again.furnish()
    assert again.session.recipe == engine.recipe("W8A8")
    assert (again.width(), again.height()) == (1080, 700)
    assert again.layers.table.columnWidth(SCHEME) == 123
    again.session.close()
    again.close()


def test_what_a_file_of_weights_cannot_do_is_said_when_it_opens(
    qtbot: QtBot, window: MainWindow, digits: Path, language_model: Path
) -> None:
    open_model(qtbot, window, digits / "model.safetensors")
    assert "weights only: no forward, so calibrated algorithms need a model" in window.status.full_text()
    assert window.model_label.full_text().endswith(" F32")
    open_model(qtbot, window, language_model)
    assert "weights only" not in window.status.full_text()
    assert window.model_label.full_text().endswith("1.51 M parameters · 3.02 MB BF16")


def test_the_toolbar_has_the_recipe_and_compares(qtbot: QtBot, window: MainWindow, language_model: Path, qapp) -> None:
    assert not window.compare_button.isEnabled()
    open_model(qtbot, window, language_model)
    menu = window.recipe_button.menu()
    edit(qtbot, window, engine.recipe("int4:g64"))
    assert window.recipe_button.text().strip() == "Recipe: int4:g64 •"
    places = sorted((w.x(), w.geometry().right()) for w in window.toolbar.findChildren(QAbstractButton) if w.isVisible())
    assert len(places) == 7 and all(end < start for (_, end), (start, _) in pairwise(places))  # none over another
    window.resize(1280, 800)
    window.session.calibrating.choose(DataSpec(samples=1_000, kind="synthetic"), "1,000 synthetic samples")
    qapp.processEvents()
    assert window.data_button.text().endswith("1,000 synthetic samples")
    assert window.export_button.isVisible() and window.export_button.geometry().right() < window.toolbar.width()
    window.session.calibrating.choose(None)  # no run is to measure outputs on as many
    next(action for action in menu.actions() if action.text() == "Copy Recipe as &TOML").trigger()
    assert engine.recipe_from_text(qapp.clipboard().text()) == window.session.recipe
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.quantize_button.click()
    assert window.compare_button.isEnabled()  # the run beside its float model
    progress = {"stage": "quantizing", "layer": "lm_head", "done": 62, "total": 100, "seconds_left": 72}
    run = window.session.shown_run
    assert run
    run.progress = progress
    window.session.run_progress.emit(run)
    assert window.status.full_text() == "Run #1: 62 % · 1:12 left · lm_head"


def test_fresh_reads_and_writes_nothing(settings: Settings) -> None:
    settings.add_recent(str(Path(__file__)))
    settings.sync()
    fresh = Settings(Path(settings._store.fileName()), fresh=True)
    assert fresh.recent() == []
    fresh.set_text("theme", "dark")
    fresh.sync()
    assert settings.theme() == "system" and fresh.theme() == "dark"


def test_open_recent_lists_what_was_opened(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    window._fill_recent(window._recent_menu)
    words = [action.text() for action in window._recent_menu.actions() if action.text()]
    assert len(words) == 2 and words[0].endswith("docstring_lm")
    window.actions_["clear_recent"].trigger()
    assert window.session.settings.recent() == []


def test_every_theme_is_applied_everywhere(qtbot: QtBot, window: MainWindow) -> None:
    for choice, expected in (("dark", theme.DARK), ("light", theme.LIGHT)):
        window.actions_[f"theme_{choice}"].trigger()
        assert theme.current() == expected
        assert window.palette().window().color().name().upper() == expected.window
        assert window.session.settings.theme() == choice


def test_every_menu_entry_does_something(window: MainWindow) -> None:
    names = {spec.name for spec in specs() if spec.name}
    assert names == window.actions_.keys() == window._slots().keys()
    shortcuts = [action.shortcut().toString() for action in window.actions_.values() if action.shortcut().toString()]
    assert len(shortcuts) == len(set(shortcuts))


def test_a_recipe_file_is_taken_over_or_explained(window: MainWindow, tmp_path: Path, errors: list[str]) -> None:
    (tmp_path / "good.toml").write_text('scheme = "int5:g64"\n')
    (tmp_path / "bad.toml").write_text('scheme = "int5:g64"\nrulez = 1\n')
    window.recipes.load(str(tmp_path / "good.toml"))
    assert engine.scheme_name(window.session.recipe.default) == "int5:g64"
    assert (window.recipe.scheme.number.currentText(), window.recipe.scheme.group.currentText()) == ("int5", "64")
    window.recipes.load(str(tmp_path / "bad.toml"))
    assert "bad.toml" in window.status.full_text() and "'rulez'" in window.status.full_text()
    assert engine.scheme_name(window.session.recipe.default) == "int5:g64"


def test_the_copied_command_is_the_same_plan(qtbot: QtBot, window: MainWindow, language_model: Path, qapp) -> None:
    open_model(qtbot, window, language_model)
    window.recipes.copy_command()
    assert qapp.clipboard().text() == f"mono-quant quantize {language_model} --scheme int4:g128 -o OUT"


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("/data/my texts.jsonl", "text", 64, 3, 2, 128, False, True, "body", "", True),
        DataSpec("/data/x.npz", labels="y"),
        DataSpec("", "synthetic", 5),
    ],
)
def test_the_copied_command_takes_data_network_and_consent_along(spec: DataSpec) -> None:
    from engine.cli.parser import make_parser
    from engine.cli.running import data_of

    recipe = engine.Recipe(
        engine.parse_scheme("int8:channel"), "smoothquant+gptq:damping=0.02", activations="int8:static",
        observer="percentile:share=99.5", sequential=False,
    )  # fmt: skip
    how = How(Factory("/code/net.py", "build", {"width": 3}), ("ab" * 32,), fold=True)
    program, *words = shlex.split(command_line.quantize("/models/a b.pt", recipe, spec, how))
    options = make_parser(words).parse_args(words)
    assert program == "mono-quant" and options.path == "/models/a b.pt" and options.trust and options.fold_batch_norm
    assert data_of(options) == spec
    assert Factory.parse(options.factory, options.factory_arguments) == how.factory
    assert (options.algorithm, options.activations, options.observer) == (recipe.algorithm, "int8:static", recipe.observer)
    assert options.no_sequential and options.scheme == "int8:channel"


@pytest.mark.parametrize("name", [recipe.name for recipe in engine.presets()])
def test_a_preset_as_a_command_is_the_same_recipe(name: str) -> None:
    from engine.cli.parser import make_parser

    recipe = engine.recipe(name)
    assert command_line.is_plain(recipe)
    _, *words = shlex.split(command_line.quantize("m", recipe, None, How()))
    options = make_parser(words).parse_args(words)
    said = engine.recipe(options.scheme)
    activations = options.activations if options.activations is not None else said.activations
    assert (said.default, activations, said.builtin) == (recipe.default, recipe.activations, recipe.builtin)


def test_a_wrong_pattern_cannot_be_entered(qtbot: QtBot, window: MainWindow) -> None:
    dialog = RuleDialog(None, engine.parse_scheme("int4:g128"), window)
    button = dialog._buttons.buttons()[0]
    dialog.match.setText("re:(")
    assert not button.isEnabled() and "Not a regular expression" in dialog._hint.text()
    dialog.match.setText("*.q_proj")
    dialog.min_size.setText("many")
    assert not button.isEnabled()
    dialog.min_size.setText("4,096")
    assert button.isEnabled()
    assert dialog.rule() == engine.Rule(engine.parse_scheme("int4:g128"), match="*.q_proj", min_size=4096)
    dialog.close()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "40 ms"), (0.4, "0.4 s"), (12, "12 s"), (72, "1:12"), (7384, "2:03:04"), (59.9, "60 s")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words
