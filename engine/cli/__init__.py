"""``mono-quant``: the engine's calls as commands."""

from engine.cli.program import main, run

__all__ = ["main", "run"]
