"""The look that was agreed upon: colours, sizes and rows, written here once more by hand."""

from pathlib import Path

import pytest
from PySide6.QtGui import QFont
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from mono_quant_gui import theme
from mono_quant_gui.main_window import MainWindow
from tests.gui.conftest import PATIENCE, open_model

TOKENS = {
    "window": ("#F5F6F8", "#1B1E24"), "panel": ("#FFFFFF", "#22262E"), "line": ("#DADDE3", "#363C47"),
    "text": ("#1D2430", "#E3E7EE"), "muted": ("#6A7383", "#98A2B3"), "accent": ("#1F6FD1", "#5AA2F5"),
    "selection": ("#DCE8FA", "#2B4468"), "float_": ("#8A94A6", "#8793A8"), "quantized": ("#0072B2", "#56B4E9"),
    "bad": ("#D55E00", "#F0824A"), "warning": ("#E69F00", "#F0C04A"), "good": ("#009E73", "#3CC79A"),
}  # fmt: skip


@pytest.mark.parametrize(("token", "colors"), TOKENS.items())
def test_colours_are_those_agreed_upon(token: str, colors: tuple[str, str]) -> None:
    assert (getattr(theme.LIGHT, token), getattr(theme.DARK, token)) == colors


def luminance(color: str) -> float:
    """Relative luminance of sRGB (WCAG 2.1)."""
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colors", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(colors: theme.Theme) -> None:
    """On panels 4.5 to 1, as WCAG's AA asks; muted words of the light window's own edge, as agreed upon, have 4.42."""
    for behind, least in ((colors.panel, 4.5), (colors.window, 4.4)):
        for ink in (colors.text, colors.muted):
            lights = sorted((luminance(ink), luminance(behind)))
            assert (lights[1] + 0.05) / (lights[0] + 0.05) >= least, (ink, behind)


def test_rows_are_25_pixels_and_text_13(qtbot: QtBot, window: MainWindow, language_model: Path, qapp: QApplication) -> None:
    open_model(qtbot, window, language_model)
    with qtbot.waitSignal(window.session.run_finished, timeout=PATIENCE):
        window.session.quantize()
    layers, runs, heat = window.layers, window.runs.view, window.search.table
    assert layers.table.rowHeight(0) == 25
    layers.set_tree(True)
    QApplication.processEvents()
    assert layers.tree.visualRect(layers.tree_model.index(0, 0)).height() == 25
    assert runs.visualRect(window.runs.model.index(0, 0)).height() == 25
    assert heat.verticalHeader().defaultSectionSize() == window.inspector.outliers.verticalHeader().defaultSectionSize() == 25
    assert qapp.font().pixelSize() == 13 and QFont.Tag("tnum") in qapp.font().featureTags()
    # Sizes are short, and to the byte in the tooltip.
    model = window.session.model
    assert (
        model and f"{model.nbytes:,} bytes" in layers.note.toolTip() and f"{model.nbytes:,} bytes" in window.model_label.toolTip()
    )
