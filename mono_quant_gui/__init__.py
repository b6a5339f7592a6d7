"""The workbench: a PySide6 window over the engine. No tensor is ever in this process."""
