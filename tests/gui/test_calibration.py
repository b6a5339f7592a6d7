"""Calibration in the window: data are looked at, used, and what came of them is shown."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from pytestqt.qtbot import QtBot

import engine
from engine.records.calibration import DataSpec
from mono_quant_gui import text
from mono_quant_gui.dialogs.calibration import CalibrationDialog
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.models.layer_columns import ALONE, NAME, SCHEME, SO_FAR, SQNR
from mono_quant_gui.session import Session
from tests.gui.conftest import PATIENCE, edit, open_model
from tests.gui.test_layers import assert_in_sight
from tests.gui.test_trust import choose_network, question

GPTQ = 'scheme = "keep"\n[[rules]]\nmatch = "model.layers.0.mlp.*"\nscheme = "int4:g128"\nalgorithm = "gptq"\n'
STALLS = """
import pathlib
import threading
import torch

class Stalls(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        pathlib.Path(__file__).with_name("started").touch()
        threading.Event().wait()
"""


def open_digits(qtbot: QtBot, window: MainWindow, digits: Path) -> None:
    """The sample network with its factory, trusted."""
    open_model(qtbot, window, digits / "model.safetensors")
    choose_network(window, digits / "factory.py")
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    assert window.session.model and window.session.model.runs


def check(qtbot: QtBot, dialog: CalibrationDialog) -> None:
    dialog.check_button.click()
    qtbot.waitUntil(lambda: dialog._checking is None, timeout=PATIENCE)


def use(qtbot: QtBot, window: MainWindow, path: Path, samples: int = 4) -> None:
    """Choose data as a user does, without a look at them first."""
    dialog = window.calibrate()
    dialog.form.take(str(path))
    dialog.form.samples.setValue(samples)
    dialog.form.length.setValue(32)
    with qtbot.waitSignal(dialog.accepted, timeout=PATIENCE):
        dialog.use_button.click()


def test_arrays_are_shown_checked_and_calibrated_on(qtbot: QtBot, window: MainWindow, digits: Path, errors: list[str]) -> None:
    session = window.session
    open_digits(qtbot, window, digits)
    images = np.load(digits / "calibration.npz")["images"]
    dialog = window.calibrate()
    assert not dialog.check_button.isEnabled()
    dialog.form.take(str(digits / "calibration.npz"))
    dialog.form.samples.setValue(0)
    check(qtbot, dialog)
    assert dialog.message.text().startswith("Ready") and dialog.view.title.text().startswith(f"all {len(images)} samples")
    cells = [dialog.view.inputs.item(0, place).text() for place in range(4)]  # type: ignore[union-attr]
    assert cells[:2] == ["images", "F32"] and cells[2] == "8×1×8×8"
    assert "→ output (8, 10)" in dialog.view.forward.text() and dialog.view.synthetic.isHidden()

    with qtbot.waitSignal(session.calibrating.finished, timeout=PATIENCE):
        dialog.calibrate_button.click()
    last = session.calibrating.last
    assert last and last.state == "done" and window.data_button.text().strip() == "Calibration: 200 samples"
    first = last.activities["stem.conv"]
    assert (first.low, first.high, first.samples) == (float(images.min()), float(images.max()), 200)
    assert first.high_sample in np.flatnonzero(images.reshape(200, -1).max(axis=1) == images.max())

    session.select("stem.conv")
    for view in ("inputs", "convergence"):
        window.inspector.set_view(view)
        assert window.inspector._layer_stack.currentIndex() > 0
    assert "converged" in window.inspector._layer_note.full_text()
    assert window.runs.calibration and errors == []
    session.calibrating.forget()
    assert window.runs.calibration is None and window.inspector._layer_stack.currentIndex() == 0
    assert "Calibrate to see" in window.inspector._empty_layer.text()


def test_layers_that_no_sample_reaches_are_listed(qtbot: QtBot, window: MainWindow, make_file, tmp_path: Path) -> None:
    import torch

    (tmp_path / "network.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.used, self.idle = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)\n"
        "    def forward(self, x):\n"
        "        return self.used(x)\n"
    )
    names = ("used.weight", "used.bias", "idle.weight", "idle.bias")
    path = make_file({name: torch.ones(2, 3) if "weight" in name else torch.ones(2) for name in names})
    np.savez(tmp_path / "x.npz", x=np.ones((5, 3), np.float32))
    open_model(qtbot, window, path)
    choose_network(window, tmp_path / "network.py")
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    window.session.calibrating.choose(DataSpec(str(tmp_path / "x.npz")))
    with qtbot.waitSignal(window.session.calibrating.finished, timeout=PATIENCE):
        window.session.calibrating.start()
    assert window.session.unreached == ["idle"]
    assert window.inspector._unreached.isVisible() and "1 layer was never reached" in window.inspector._unreached.text()
    window.layers.filter.setText("unreached")
    assert [window.layers.model.name_at(row) for row in range(window.layers.model.rowCount())] == ["idle"]
    window.session.select("idle")
    window.inspector.set_view("inputs")
    assert "No sample reached" in window.inspector._empty_layer.text()


def test_data_fill_the_columns_of_outputs(
    qtbot: QtBot, window: MainWindow, language_model: Path, settings, errors: list[str]
) -> None:
    session, table = window.session, window.layers.table
    open_model(qtbot, window, language_model)
    edit(qtbot, window, engine.recipe_from_text(GPTQ))
    assert not window.quantize_button.isEnabled() and window.recipe.missing.isVisible()
    assert window.recipe.missing.words.text() == "GPTQ needs calibration: choose the data to run the model on."
    assert window.quantize_button.toolTip() == window.recipe.missing.words.text()
    assert table.isColumnHidden(ALONE) and table.isColumnHidden(SO_FAR)
    use(qtbot, window, language_model / "calibration.txt")
    assert window.quantize_button.isEnabled() and window.recipe.missing.isHidden()
    assert window.data_button.text().strip() == "Calibration: 4 text samples"

    with qtbot.waitSignal(session.run_finished, timeout=2 * PATIENCE):
        window.quantize_button.click()
    run = session.shown_run
    assert run and run.state == "done" and errors == []
    measured = {name for name, report in run.reports.items() if report.output}
    assert measured == {f"model.layers.0.mlp.{which}_proj" for which in ("up", "gate", "down")} == set(run.activities)
    assert not table.isColumnHidden(ALONE) and not table.isColumnHidden(SO_FAR)
    model = window.layers.model
    for row in range(model.rowCount()):
        name = model.index(row, NAME).data()
        shown = [model.index(row, column).data() for column in (ALONE, SO_FAR)]
        output = run.reports[name].output if name in run.reports else None
        assert shown == ([f"{output.alone_db:.1f}", f"{output.accumulated_db:.1f}"] if output else ["", ""])
    table.sortByColumn(ALONE, Qt.SortOrder.AscendingOrder)
    values = [model.index(row, ALONE).data() for row in range(3)]
    assert values == sorted(values, key=float)
    session.select("model.layers.0.mlp.down_proj")
    assert "output alone" in window.inspector._output_note.text() and "inherited" in window.inspector._output_note.text()
    for bars in ("alone", "so_far", "weight"):
        window.inspector.set_bars(bars)
        assert window.inspector.bars and len(window.inspector.bars.table()[1]) == 3
    assert run.evaluation and "perplexity" in window.status.full_text() and "same prediction" in window.status.full_text()

    assert_in_sight(window, (NAME, SCHEME, SQNR, ALONE, SO_FAR))
    note = window.inspector._bars_note
    assert "perplexity" in note.full_text() and note.height() <= 2 * note.fontMetrics().lineSpacing() + 2  # two lines at most

    # What was measured comes back with the run; as it was saved before there was a ledger and outputs were measured, too.
    session.close()
    with engine.Ledger(settings.runs_folder()) as ledger:
        (saved,) = ledger.find()
    assert saved.totals and saved.totals["evaluation"] == run.evaluation and "4 of 1,020 samples" in saved.data
    folder = Path(saved.folder)
    (folder / "activities.json").unlink()
    data = json.loads((folder / "run.json").read_text())
    old = {key: data[key] for key in ("number", "name", "model_path", "artifact", "recipe", "totals")}
    for key in ("data", "evaluation", "warnings"):
        old["totals"].pop(key, None)
    (folder / "run.json").write_text(json.dumps(old))
    (settings.runs_folder() / "runs.sqlite").unlink()
    layers = json.loads((folder / "layers.json").read_text())
    for layer in layers:
        for key in ("output", "objective", "objective_rtn"):
            del layer[key]
    (folder / "layers.json").write_text(json.dumps(layers))
    later = Session(settings)
    with qtbot.waitSignal(later.plan_changed, timeout=PATIENCE):
        later.open(str(language_model))
    qtbot.waitUntil(lambda: len(later.runs) == 1, timeout=PATIENCE)
    later.show_run(later.runs[0])
    qtbot.waitUntil(lambda: later.runs[0].read, timeout=PATIENCE)
    assert len(later.runs[0].reports) == 3 and later.runs[0].evaluation is None and later.activity_of("lm_head") is None
    later.close()


def test_a_recipe_that_needs_data_and_weights_alone_lead_to_the_network(qtbot: QtBot, window: MainWindow, digits: Path) -> None:
    open_model(qtbot, window, digits / "model.pt")
    recipe = dataclasses.replace(engine.recipe("int8:channel"), activations="int8:static")
    edit(qtbot, window, recipe)
    assert "weights only" in window.quantize_button.toolTip() and not window.quantize_button.isEnabled()
    wanted: list[None] = []
    window.recipe.network_wanted.connect(lambda: wanted.append(None))
    window.recipe.missing.button.click()
    assert wanted == [None]
    dialog = window.calibrate()
    assert dialog.network.isVisible() and not dialog.check_button.isEnabled()
    dialog.close()


@pytest.mark.parametrize(("name", "content"), [("x.npz", b"PK\x03\x04 no array"), ("x.txt", b""), ("x.xyz", b"?"), ("", None)])
def test_wrong_data_are_one_sentence_and_nothing_is_used(
    name: str, content: bytes | None, qtbot: QtBot, window: MainWindow, language_model: Path, tmp_path: Path, errors: list[str]
) -> None:
    open_model(qtbot, window, language_model)
    path = tmp_path / (name or "missing.txt")
    if content is not None:
        path.write_bytes(content)
    dialog = window.calibrate()
    dialog.form.take(str(path))
    dialog.use_button.click()
    qtbot.waitUntil(lambda: dialog._checking is None, timeout=PATIENCE)
    assert path.name in dialog.message.text() and "\n" not in dialog.message.text()
    assert dialog.isVisible() and window.session.calibrating.data is None and errors == []
    dialog.close()


def test_synthetic_data_are_said_to_be(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    dialog = window.calibrate()
    dialog.form.source.setCurrentIndex(1)
    dialog.form.samples.setValue(3)
    assert not dialog.form.path.isEnabled()
    check(qtbot, dialog)
    assert dialog.message.text().startswith("Ready") and dialog.view.synthetic.isVisible()
    dialog.use_button.click()
    data = window.session.calibrating.data
    assert data and (data.path, data.kind) == ("", "synthetic")
    assert window.data_button.text().strip() == "Calibration: 3 synthetic samples"


def test_a_check_that_hangs_is_cancelled_and_the_window_goes_on(
    qtbot: QtBot, window: MainWindow, make_file, tmp_path: Path, errors: list[str]
) -> None:
    import torch

    (tmp_path / "network.py").write_text(STALLS)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3), np.float32))
    open_model(qtbot, window, make_file({"linear.weight": torch.ones(2, 3), "linear.bias": torch.zeros(2)}))
    choose_network(window, tmp_path / "network.py")
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        question(qtbot).run_button.click()
    dialog = window.calibrate()
    dialog.form.take(str(tmp_path / "x.npz"))
    dialog.check_button.click()
    assert dialog.bar.isVisible() and dialog.close_button.text() == "Cancel"
    qtbot.waitUntil((tmp_path / "started").exists, timeout=PATIENCE)
    with qtbot.waitSignal(window.session.plan_changed, timeout=PATIENCE):
        qtbot.mouseClick(dialog.close_button, Qt.MouseButton.LeftButton)
        qtbot.waitUntil(lambda: dialog.message.text() == "Cancelled.", timeout=PATIENCE)
    assert dialog.isVisible() and dialog.close_button.text() == "Close" and window.session.calibrating.data is None
    assert errors == [] and not window.session.plan.error
    dialog.close()


def test_a_calibration_is_cancelled_like_a_run(qtbot: QtBot, window: MainWindow, language_model: Path, errors: list[str]) -> None:
    session = window.session
    open_model(qtbot, window, language_model)
    session.calibrating.choose(DataSpec(str(language_model / "calibration.txt"), samples=0, batch=1))
    with qtbot.waitSignal(session.calibrating.progressed, timeout=PATIENCE):
        session.calibrating.start()
    assert window.stop_button.isEnabled()
    line = window.runs.calibration
    assert line
    with qtbot.waitSignal(session.calibrating.finished, timeout=PATIENCE):
        line.cancel.click()
    assert session.calibrating.last and session.calibrating.last.state == "cancelled" and session.unreached == []
    assert errors == [] and window.quantize_button.isEnabled() and not window.stop_button.isEnabled()


def test_a_file_dropped_on_the_dialog_is_taken(qtbot: QtBot, window: MainWindow, language_model: Path) -> None:
    open_model(qtbot, window, language_model)
    dialog = window.calibrate()
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(language_model / "calibration.txt"))])
    keys, buttons = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    dialog.dropEvent(QDropEvent(QPointF(10, 10), Qt.DropAction.CopyAction, data, buttons, keys))
    assert dialog.form.spec().path == str(language_model / "calibration.txt")
    dialog.close()


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec("/a/b.txt", "text", 0, 7, 1, 64, False, True, "body", "", True),
        DataSpec("/a/b.npz", "", 12, 0, 3, None, True, False, "", "y", False),
        DataSpec("", "synthetic", 5),
    ],
)
def test_what_the_form_shows_comes_back(qtbot: QtBot, spec: DataSpec) -> None:
    from mono_quant_gui.widgets.data_form import DataForm

    form = DataForm("")
    qtbot.addWidget(form)
    form.set_spec(spec)
    assert form.spec() == spec


def test_an_evaluation_in_one_line() -> None:
    found = {
        "original": {"accuracy": None, "perplexity": 45.82}, "quantized": {"accuracy": None, "perplexity": 47.104},
        "output_sqnr_db": 27.94, "agreement": 0.984, "kl_divergence": 0.0123, "synthetic": True, "samples": 16,
    }  # fmt: skip
    assert text.evaluation(found) == (
        "perplexity 45.82 → 47.10 · outputs 27.9 dB · same prediction 98 % · KL 0.012 · on 16 synthetic samples"
    )
    found |= {"original": None, "quantized": {"accuracy": 0.5, "perplexity": None}, "agreement": None, "kl_divergence": None}
    assert text.evaluation(found | {"synthetic": False}) == "accuracy 50.0 % · on 16 samples"
