"""``mono-quant``: the engine's calls as commands."""

from engine.cli.commands import main, run

__all__ = ["main", "run"]
