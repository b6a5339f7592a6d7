"""Exceptions that nobody caught: told in a dialog, on stderr and in the log; the window stays."""

import sys
import threading
import traceback
from types import TracebackType
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from mono_quant_gui.i18n import tr
from mono_quant_gui.journal import Journal

if TYPE_CHECKING:
    from mono_quant_gui.dialogs.error import ErrorDialog

MOST = 20
"""Tracebacks that one dialog takes; what fails at every paint would fill it without end."""


class Escaped(QObject):
    """Hooks itself into the interpreter; ``release`` puts back what was there.

    One dialog takes all that comes while it is open.
    """

    _came = Signal(str, str)

    def __init__(self, window: QWidget, journal: Journal) -> None:
        super().__init__(window)
        self._window, self._journal = window, journal
        self.dialog: ErrorDialog | None = None
        self._told: list[str] = []
        self._came.connect(self._tell)
        self._before = (sys.excepthook, threading.excepthook)
        sys.excepthook = self._hook
        threading.excepthook = self._thread_hook

    def release(self) -> None:
        sys.excepthook, threading.excepthook = self._before

    def _hook(self, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._window.close()
            return
        details = "".join(traceback.format_exception(kind, error, trace))
        if sys.stderr is not None:
            sys.stderr.write(details)
        self._came.emit(f"{kind.__name__}: {error}", details)  # in whatever thread it was raised, it is told in the window's

    def _thread_hook(self, args: threading.ExceptHookArgs) -> None:
        self._hook(args.exc_type, args.exc_value, args.exc_traceback)

    def _tell(self, what: str, details: str) -> None:
        self._journal.add("window", details, "error")
        if self.dialog is not None:
            if len(self._told) < MOST and details not in self._told:
                self._told.append(details)
                self.dialog.set_details("\n".join(self._told))
            return
        from mono_quant_gui.dialogs.error import ErrorDialog

        words = tr("Something unexpected happened ({what}). This is a defect of Mono Quant: please report it with its details.")
        self._told = [details]
        self.dialog = ErrorDialog(words.format(what=what), details, self._window)
        self.dialog.destroyed.connect(self._closed)
        self.dialog.open()

    def _closed(self) -> None:
        self.dialog = None
