"""The same calls over JSON lines, for the window: ``python -m engine.serve``."""
