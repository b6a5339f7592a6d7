"""The run ledger: every run, what was asked for and what came of it. Imports neither torch nor numpy."""

from engine.history.ledger import Ledger
from engine.history.places import runs_folder

__all__ = ["Ledger", "runs_folder"]
