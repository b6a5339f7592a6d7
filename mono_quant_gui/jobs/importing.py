"""Imports that take long, beside the window's thread: it answers meanwhile, and finds them done when it needs them."""

from PySide6.QtCore import QThread


class Importing(QThread):
    """Everything that the session needs and that is no part of Qt; what is missing is told by whoever needs it."""

    def run(self) -> None:
        import numpy  # noqa: F401

        import engine

        engine.presets()
        engine.algorithm_choices()
        engine.activation_choices()
        _ = engine.Ledger
