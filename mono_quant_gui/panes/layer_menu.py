"""What can be done to the selected layers, and which columns are shown."""

from collections.abc import Callable, Sequence

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMenu, QWidget

import engine
from mono_quant_gui.i18n import tr
from mono_quant_gui.models.layer_columns import NAME, columns
from mono_quant_gui.session import Session

QUICK_SCHEMES = (
    "int4:g128", "int4:g64", "int4:g32", "int8:channel", "int8:channel:asym", "fp8_e4m3:channel", "mxfp4", "nvfp4", "nf4:g64",
    "fp16", "bf16",
)  # fmt: skip


def layers_menu(
    parent: QWidget, session: Session, names: Sequence[str], copy_rows: Callable[[], None], save: Callable[[], None]
) -> QMenu:
    """For one or more layers; every edit is one step of undo."""
    menu, mending = QMenu(parent), session.mending
    one = len(names) == 1
    what = tr("this layer") if one else tr("{count} layers").format(count=f"{len(names):,}")
    schemes = menu.addMenu(tr("&Scheme of {what}").format(what=what))
    for scheme in (*QUICK_SCHEMES, "keep"):
        schemes.addAction(scheme, _call(mending.assign, names, scheme))
    algorithms = menu.addMenu(tr("&Algorithm of {what}").format(what=what))
    for info in engine.algorithm_choices():
        if info.stage == "solver":
            words = tr("{title} (needs data)").format(title=info.title) if info.data else info.title
            action = algorithms.addAction(words, _algorithm(session, names, info.name))
            action.setToolTip(info.summary)
    algorithms.setToolTipsVisible(True)
    menu.addAction(tr("&Keep as it is") if one else tr("&Keep as they are"), _call(mending.keep, names))
    menu.addAction(tr("&More bits"), _call(mending.raise_bits, names))
    clear = menu.addAction(tr("Remove rules made for it") if one else tr("Remove rules made for them"))
    clear.setEnabled(mending.has_rules(names))
    clear.triggered.connect(_call(mending.unassign, names))
    menu.addSeparator()
    again = menu.addAction(tr("&Run this layer again") if one else tr("&Run these again"), _call(mending.rerun, names))
    again.setEnabled(session.shown_run is not None and session.shown_run.state == "done")
    menu.addSeparator()
    menu.addAction(tr("Copy &name") if one else tr("Copy &names"), lambda: QGuiApplication.clipboard().setText("\n".join(names)))
    menu.addAction(tr("&Copy rows as TSV"), copy_rows)
    menu.addAction(tr("Save &table as CSV…"), save)
    return menu


def columns_menu(parent: QWidget, is_shown: Callable[[int], bool], show: Callable[[int, bool], None], reset: Callable[[], None]):
    """A tick for every column; the name stays."""
    menu = QMenu(parent)
    menu.setToolTipsVisible(True)
    for place, column in enumerate(columns()):
        if place == NAME:
            continue
        action = menu.addAction(f"{column.head}".replace("&", "&&"))
        action.setToolTip(column.words)
        action.setCheckable(True)
        action.setChecked(is_shown(place))
        action.toggled.connect(_show(show, place))
    menu.addSeparator()
    menu.addAction(tr("&Standard columns"), reset)
    return menu


def _call(act: Callable[..., object], *arguments: object) -> Callable[[], None]:
    def call() -> None:
        act(*arguments)

    return call


def _algorithm(session: Session, names: Sequence[str], algorithm: str) -> Callable[[], None]:
    def assign() -> None:
        try:
            session.mending.assign(names, None, algorithm)
        except engine.EngineError as error:  # this algorithm cannot work with that layer's scheme
            session.notice.emit(str(error))

    return assign


def _show(show: Callable[[int, bool], None], place: int) -> Callable[[bool], None]:
    return lambda on: show(place, on)
