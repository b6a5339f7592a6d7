"""The run ledger: every run, what was asked for and what came of it. Imports neither torch nor numpy."""

from engine.history.ledger import Ledger
from engine.history.places import read_activities, read_layers, read_measurements, read_record, runs_folder, save_measurements

__all__ = ["Ledger", "read_activities", "read_layers", "read_measurements", "read_record", "runs_folder", "save_measurements"]
