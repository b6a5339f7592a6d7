"""The application: command line, theme, the one window, and what happens when something escapes."""

import argparse
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication

from engine import __version__
from mono_quant_gui import journal, theme
from mono_quant_gui.escaped import Escaped
from mono_quant_gui.main_window import MainWindow
from mono_quant_gui.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the workbench; returns the exit code."""
    options = _parser().parse_args(arguments)
    gc.disable()  # until what the window is made of is there (``keep_objects``)
    app = application()
    settings = Settings(fresh=options.fresh)
    if options.runs:
        settings.override("runs_folder", str(options.runs.resolve()))
    theme.apply(app, options.theme or settings.theme())
    window = MainWindow(settings)
    Escaped(window, window.journal)
    journal.listen(window.journal)
    _quit_on_interrupt(app, window)
    path = str(options.path) if options.path else last_model(settings)
    window.painted.connect(window.furnish_soon, Qt.ConnectionType.QueuedConnection)
    window.furnished.connect(lambda: start(window, path, quantize=options.quantize))
    window.show()
    return app.exec()


def keep_objects() -> None:
    """Let the garbage collector pass over what the window is made of: looking through it took 110 ms each time.

    For a process with one window, once its plots and the first model's rows are there.
    """
    gc.freeze()
    gc.enable()


def application() -> QApplication:
    """The QApplication, made once."""
    app = QApplication.instance() or QApplication(sys.argv[:1])
    assert isinstance(app, QApplication)
    app.setApplicationName("Mono Quant")
    app.setOrganizationName("Mono Quant")
    app.setApplicationVersion(__version__)
    app.setDesktopFileName("mono-quant")
    return app


def last_model(settings: Settings) -> str | None:
    """What was open the last time, where it is to be opened again."""
    recent = settings.recent() if settings.reopens() else []
    return recent[0] if recent else None


def start(window: MainWindow, path: str | None, *, quantize: bool = False) -> None:
    """Once the window is furnished: open what was asked for. What else takes the processor comes after its rows."""
    session, rows = window.session, window.layers.rows

    def plots() -> None:
        QTimer.singleShot(0, window.inspector.load_plots)
        QTimer.singleShot(0, keep_objects)

    def opened() -> None:
        rows.reset.disconnect(opened)
        plots()

    def planned() -> None:
        session.plan_changed.disconnect(planned)
        session.warm_up()
        if quantize:
            session.quantize()

    if path is None:
        plots()
        session.warm_up()
        return
    rows.reset.connect(opened)
    session.plan_changed.connect(planned)
    window.open_path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mono-quant-gui", description="A workbench for quantizing PyTorch models.")
    parser.add_argument("path", nargs="?", type=Path, help="model to open")
    parser.add_argument("--quantize", action="store_true", help="run the recipe as soon as the model is open")
    parser.add_argument("--fresh", action="store_true", help="ignore saved settings and save none")
    parser.add_argument("--theme", choices=("system", "light", "dark"))
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep runs here")
    parser.add_argument("--version", action="version", version=f"mono-quant-gui {__version__}")
    return parser


def _quit_on_interrupt(app: QApplication, window: MainWindow) -> None:
    """Ctrl+C or a kill closes the window without a question: Python gets to run its handler a few times a second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: window.close_now())
    timer = QTimer(app)
    timer.timeout.connect(lambda: None)
    timer.start(250)
