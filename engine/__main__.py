"""``python -m engine`` is the command line."""

from engine.cli import run

run()
