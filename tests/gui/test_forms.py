"""Forms are built from what families and algorithms say of themselves: everything they offer can be chosen and comes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QComboBox, QFormLayout, QWidget
from pytestqt.qtbot import QtBot

import engine
from mono_quant_gui.dialogs.rule import RuleDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import SQNR
from mono_quant_gui.widgets.algorithm_form import AlgorithmForm, ObserverForm
from mono_quant_gui.widgets.option_rows import MARK
from mono_quant_gui.widgets.scheme_form import SchemeForm
from tests.gui.conftest import PATIENCE, edit, open_model

NAMES = [name for family in engine.scheme_choices() for name in family.examples.replace(" (or fp8)", "").split(", ")]


@pytest.fixture
def form(qtbot: QtBot) -> Iterator[QFormLayout]:
    widget = QWidget()
    qtbot.addWidget(widget)
    yield QFormLayout(widget)


def choose(box: QComboBox, data: str) -> None:
    """Pick an item as a user does."""
    box.setCurrentIndex(box.findData(data))
    box.activated.emit(box.currentIndex())


@pytest.mark.parametrize("name", NAMES)
def test_every_example_of_every_family_can_be_shown_and_read_back(form: QFormLayout, name: str) -> None:
    scheme = engine.parse_scheme(name)
    widget = SchemeForm(form)
    widget.set_scheme(scheme)
    assert widget.scheme() == scheme


def test_every_number_format_can_be_picked(form: QFormLayout) -> None:
    widget = SchemeForm(form)
    seen: list[str] = []
    widget.changed.connect(lambda scheme: seen.append(engine.scheme_name(scheme)))
    words = [word for family in engine.scheme_choices() for word, _ in family.bases]
    for word in words:
        choose(widget.number, word)
    assert [name.split(":")[0] for name in seen] == [word for word in words if word != "int8"]  # int8 stood there already


def test_a_block_is_two_numbers_and_a_group_is_one(form: QFormLayout) -> None:
    widget = SchemeForm(form)
    choose(widget.number, "fp8_e4m3")
    choose(widget.granularity, "block")
    assert engine.scheme_name(widget.scheme()) == "fp8_e4m3:b128x128"
    widget.group.setEditText("64x32")
    widget.group.lineEdit().editingFinished.emit()
    assert engine.scheme_name(widget.scheme()) == "fp8_e4m3:b64x32"
    choose(widget.granularity, "group")
    assert engine.scheme_name(widget.scheme()) == "fp8_e4m3:g128"


def test_options_of_the_chosen_algorithm_alone_are_shown_and_only_changes_are_written(form: QFormLayout) -> None:
    widget = AlgorithmForm(form)
    form.parentWidget().show()
    seen: list[str] = []
    widget.changed.connect(seen.append)
    choose(widget.algorithm, "mse")
    assert {name for (name, _), editor in widget.options.items() if editor.isVisible()} == {"mse"}
    widget.options["mse", "norm"].setValue(2.4)  # type: ignore[union-attr]
    widget.options["mse", "search"].setCurrentText("golden")  # type: ignore[union-attr]
    assert seen == ["mse", "mse:norm=2.4", "mse:search=golden:norm=2.4"]
    widget.set_text("hqq:iterations=5")
    assert widget.text() == "hqq:iterations=5" and len(seen) == 3


@pytest.mark.parametrize(
    "chain",
    [
        "rtn", "gptq", "smoothquant+gptq:damping=0.02+bias", "awq:steps=5", "equalize:rounds=3+awq+adaround:rate=2e-05", "bias",
        "awq+smoothquant:strength=0.75+mse",
    ],
)  # fmt: skip
def test_a_chain_can_be_shown_and_read_back(form: QFormLayout, chain: str) -> None:
    widget = AlgorithmForm(form)
    widget.set_text("equalize+percentile:share=98.5+bias")
    widget.set_text(chain)
    assert widget.text() == engine.algorithm_name(chain)


def test_steps_are_ticked_before_and_after_the_algorithm(form: QFormLayout) -> None:
    widget = AlgorithmForm(form)
    form.parentWidget().show()
    seen: list[str] = []
    widget.changed.connect(seen.append)
    widget.steps["bias"].trigger()
    choose(widget.algorithm, "gptq")
    widget.steps["smoothquant"].trigger()
    widget.options["smoothquant", "strength"].setValue(0.75)  # type: ignore[union-attr]
    widget.steps["bias"].trigger()
    chain = "smoothquant:strength=0.75+gptq"
    assert seen == ["bias", "gptq+bias", "smoothquant+gptq+bias", f"{chain}+bias", chain]
    assert {name for (name, _), editor in widget.options.items() if editor.isVisible()} == {"smoothquant", "gptq"}
    assert widget.more.accessibleDescription() == "SmoothQuant"


def test_what_needs_calibration_is_marked(form: QFormLayout) -> None:
    widget = AlgorithmForm(form)
    box = widget.algorithm
    marked = {box.itemData(place) for place in range(box.count()) if box.itemData(place, MARK)}
    marked |= {name for name, action in widget.steps.items() if "needs calibration" in action.text()}
    assert marked == {info.name for info in engine.algorithm_choices() if info.data}


@pytest.mark.parametrize("observer", ["minmax", "moving:constant=0.001", "percentile:share=99.5", "mse", "entropy"])
def test_an_observer_can_be_shown_and_read_back(form: QFormLayout, observer: str) -> None:
    widget = ObserverForm(form)
    widget.set_text(observer)
    assert widget.text() == observer


def test_observers_and_order_are_offered_where_they_matter(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    pane = window.recipe
    assert pane.observer.observer.isHidden() and pane.sequential.isHidden()
    edit(qtbot, window, engine.Recipe(engine.parse_scheme("int8:channel"), activations="int8:static"))
    assert not pane.observer.observer.isHidden() and pane.sequential.isHidden()
    choose(pane.observer.observer, "percentile")
    pane.observer.options["percentile", "share"].setValue(99.5)  # type: ignore[union-attr]
    assert window.session.recipe.observer == "percentile:share=99.5"
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        choose(pane.algorithm.algorithm, "gptq")
    assert not pane.sequential.isHidden() and pane.sequential.isChecked()
    pane.sequential.click()
    assert not window.session.recipe.sequential
    window.actions_["undo"].trigger()
    assert window.session.recipe.sequential and pane.sequential.isChecked()


def test_a_rule_takes_a_chain(qtbot: QtBot, window: MainWindow) -> None:
    dialog = RuleDialog(None, engine.parse_scheme("int4:g128"), window)
    choose(dialog.algorithm.algorithm, "gptq")
    dialog.algorithm.steps["awq"].trigger()
    assert dialog.rule().algorithm == "awq+gptq"
    again = RuleDialog(dialog.rule(), engine.parse_scheme("int4:g128"), window)
    assert again.rule() == dialog.rule()
    for made in (dialog, again):
        made.close()


def test_an_algorithm_chosen_in_the_window_is_run_and_explained(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        choose(window.recipe.algorithm.algorithm, "auto")
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    (report, *_rest) = window.session.shown_run.reports.values()  # type: ignore[union-attr]
    assert report.algorithm == "mse" and "rtn" in report.reason
    window.session.select(report.name)
    assert report.reason in window.inspector._layer_note.full_text()


def test_activations_that_do_not_go_with_new_weights_are_dropped(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.recipe("MXFP4"))
    assert window.recipe.activations.currentData() == "mxfp4"
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        choose(window.recipe.scheme.number, "int4")
    assert window.session.recipe.activations == "none" and window.quantize_button.isEnabled()


def test_numbers_that_only_this_engine_reads_go_into_one_file(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.recipe("NF4"))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    artifact = window.session.shown_run.artifact  # type: ignore[union-attr]
    assert artifact.suffix == ".safetensors" and engine.open_model(artifact).quantized.readable


def test_a_layer_that_fails_is_marked_and_the_others_keep_their_measurements(
    qtbot: QtBot, window: MainWindow, make_file, errors: list[str]
) -> None:
    import torch

    bad = torch.ones(64, 64)
    bad[3, 4] = float("inf")
    open_model(qtbot, window, make_file({"bad.weight": bad, "good.weight": torch.randn(64, 64)}))
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    run, model = window.session.shown_run, window.layers.model
    assert run is not None and run.state == "failed" and list(run.reports) == ["good"] and not run.artifact.exists()
    shown = {model.name_at(row): model.index(row, SQNR).data() for row in range(model.rowCount())}
    assert shown["bad"] == "failed" and float(shown["good"]) > 10
    assert errors == ["bad.weight holds Inf at index [3, 4]; repair the checkpoint or keep this layer."]
