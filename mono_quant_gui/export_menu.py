"""Saving plots and tables: a submenu of the File menu, and the context menu of everything that can be saved."""

import functools
import re
from pathlib import Path

from PySide6.QtCore import QObject, QPoint, Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QAbstractItemView, QFileDialog, QMenu, QWidget

from engine.records.codec import to_data
from mono_quant_gui import exporting, text
from mono_quant_gui.i18n import tr
from mono_quant_gui.run import Run
from mono_quant_gui.session import Session
from mono_quant_gui.widgets.copying import copies_rows

FOLDER = "saved_folder"


class ExportMenu(QObject):
    """Asks for paths in front of ``window``; failures and notices go through the session."""

    def __init__(self, session: Session, window: QWidget, menu: QMenu) -> None:
        super().__init__(window)
        self._session, self._window, self._menu = session, window, menu
        menu.aboutToShow.connect(self.fill)

    def fill(self) -> None:
        """One action for each plot and table in sight."""
        self._menu.clear()
        for widget in exporting.exportable(self._window):
            self._menu.addAction(self._action(widget, f"{_word(widget)}…"))
        if self._menu.isEmpty():
            self._menu.addAction(tr("Nothing to save is in sight")).setEnabled(False)

    def attach(self, inside: QWidget) -> None:
        """Give plots and tables of another window the context menu and the copying that those of the main window have."""
        for widget in inside.findChildren(QWidget):
            if widget.accessibleName() and exporting.kinds(widget):
                widget.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
                widget.customContextMenuRequested.connect(functools.partial(self._pop_up, widget))
                if isinstance(widget, QAbstractItemView):
                    copies_rows(widget, self._session.notice.emit)

    def menu_at(self, widget: QWidget | None) -> QMenu | None:
        """The context menu of what a widget of the window belongs to; None where there is nothing to save."""
        while widget is not None and widget is not self._window:
            if exporting.can_save(widget):
                menu = QMenu(self._window)
                menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
                menu.addAction(self._action(widget, tr("&Save as CSV…") if _is_table(widget) else tr("&Save Plot or Values…")))
                return menu
            widget = widget.parentWidget()
        return None

    def ask(self, widget: QWidget) -> None:
        """Ask where to, and save."""
        kinds = exporting.kinds(widget)
        filters = {f"{words} (*{suffix})": suffix for suffix, words in kinds.items()}
        start = str(self._folder() / f"{self._stem(widget)}{next(iter(kinds))}")
        path, chosen = QFileDialog.getSaveFileName(
            self._window, tr("Save {what}").format(what=_word(widget)), start, ";;".join(filters)
        )
        if path:
            self.save(widget, path if Path(path).suffix.lower() in kinds else path + filters.get(chosen, next(iter(kinds))))

    def ask_report(self, run: Run) -> None:
        """Ask where to, and write the page of a run."""
        name = re.sub(r"[^\w.]+", "-", f"{Path(run.model_path).stem}-run-{run.number}").strip("-.") + ".html"
        start, kinds = str(self._folder() / name), tr("Page (*.html)")
        path, _ = QFileDialog.getSaveFileName(
            self._window, tr("Save report of run #{number}").format(number=run.number), start, kinds
        )
        if path:
            self.save_report(run, path if Path(path).suffix.lower() in (".html", ".htm") else f"{path}.html")

    def save_report(self, run: Run, path: str) -> None:
        """Let the engine write the page; what comes of it is said."""

        def saved(data: dict[str, str]) -> None:
            self._session.settings.set_text(FOLDER, str(Path(data["output"]).parent))
            self._session.notice.emit(tr("Saved {path}").format(path=text.path(data["output"])))

        params = {"run": to_data(run.record), "output": path}
        self._session.peeks.call("save_report", params, saved, self._session.report_failure)

    def save(self, widget: QWidget, path: str) -> bool:
        """Write, and say so; returns whether it was written."""
        try:
            exporting.save(widget, Path(path))
        except exporting.SavingError as error:
            self._session.failed.emit(str(error), repr(error.__cause__ or error))
            return False
        self._session.settings.set_text(FOLDER, str(Path(path).parent))
        self._session.notice.emit(tr("Saved {path}").format(path=text.path(path)))
        return True

    def _action(self, widget: QWidget, words: str) -> QAction:
        action = QAction(words, self._menu)
        action.triggered.connect(lambda: self.ask(widget))
        return action

    def _pop_up(self, view: QWidget, place: QPoint) -> None:
        menu = self.menu_at(view)
        if menu is not None:
            menu.popup(view.mapToGlobal(place))

    def _folder(self) -> Path:
        chosen = Path(self._session.settings.text(FOLDER) or Path.home())
        return chosen if chosen.is_dir() else Path.home()

    def _stem(self, widget: QWidget) -> str:
        """The model and the thing: tiny-llama-sqnr-of-every-layer."""
        model = self._session.model
        words = f"{model.name if model else ''} {widget.accessibleName()}"
        return re.sub(r"[^\w.]+", "-", words).strip("-.").lower()[:80] or "saved"


def _word(widget: QWidget) -> str:
    return text.plain(widget.accessibleName(), 80).replace("&", "&&")


def _is_table(widget: QWidget) -> bool:
    return list(exporting.kinds(widget)) == [".csv"]
