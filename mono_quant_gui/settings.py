"""What persists between sessions: window state, recent files, the last recipe, preferences."""

import os
from pathlib import Path

from platformdirs import user_config_path, user_data_path
from PySide6.QtCore import QByteArray, QSettings

RECENT = 10
MOST_MEGABYTES = 100_000_000
"""Of a memory limit: 100 TB."""
THEMES = ("system", "light", "dark")


class Settings:
    """Typed access to QSettings. ``fresh`` starts from nothing and saves nothing."""

    def __init__(self, path: Path | None = None, *, fresh: bool = False) -> None:
        self._fresh = fresh
        self._store = QSettings(str(path), QSettings.Format.IniFormat) if path else QSettings("Mono Quant", "Mono Quant")
        self._unsaved: dict[str, object] = {}

    @property
    def keeps(self) -> bool:
        """Whether what is set is there again next time."""
        return not self._fresh

    def override(self, key: str, value: str) -> None:
        """For this session only."""
        self._unsaved[key] = value

    def overridden(self, key: str) -> bool:
        """Whether the command line said it for this session."""
        return self.keeps and key in self._unsaved

    def _get(self, key: str) -> object:
        return self._unsaved.get(key) if self._fresh or key in self._unsaved else self._store.value(key)

    def _set(self, key: str, value: object) -> None:
        if self._fresh:
            self._unsaved[key] = value
        else:
            self._store.setValue(key, value)

    def recent(self) -> list[str]:
        """Paths opened before, newest first, of those that still exist."""
        stored = self._get("recent")
        paths = [stored] if isinstance(stored, str) else list(stored) if isinstance(stored, list) else []
        return [str(path) for path in paths if os.path.exists(str(path))]

    def add_recent(self, path: str) -> None:
        absolute = str(Path(path).absolute())
        self._set("recent", [absolute, *(p for p in self.recent() if p != absolute)][:RECENT])

    def clear_recent(self) -> None:
        self._set("recent", [])

    def text(self, key: str, default: str = "") -> str:
        value = self._get(key)
        return value if isinstance(value, str) else default

    def set_text(self, key: str, value: str) -> None:
        self._set(key, value)

    def flag(self, key: str, default: bool) -> bool:
        return self.text(key, "yes" if default else "no") == "yes"

    def set_flag(self, key: str, value: bool) -> None:
        self._set(key, "yes" if value else "no")

    def reopens(self) -> bool:
        """Whether the last model is opened again at the start."""
        return self.flag("reopen", True)

    def theme(self) -> str:
        chosen = self.text("theme", "system")
        return chosen if chosen in THEMES else "system"

    def memory_limit(self) -> int | None:
        """Bytes that a run may take; None where the machine's free memory is the limit."""
        said = self.text("memory_limit_mb")
        return int(said) * 1_000_000 if said.isascii() and said.isdigit() and 0 < int(said) <= MOST_MEGABYTES else None

    def set_memory_limit(self, megabytes: int) -> None:
        """0: no limit but the machine's."""
        self.set_text("memory_limit_mb", str(megabytes) if megabytes else "")

    def state(self, key: str) -> QByteArray | None:
        """Saved geometry of a window, splitter or header."""
        value = self._get(f"state/{key}")
        return value if isinstance(value, QByteArray) else None

    def set_state(self, key: str, value: QByteArray) -> None:
        self._set(f"state/{key}", value)

    def runs_folder(self) -> Path:
        """Where artifacts of runs are kept until they are exported or deleted."""
        chosen = self.text("runs_folder") or os.environ.get("MONO_QUANT_RUNS", "")  # as engine.runs_folder has it
        return Path(chosen) if chosen else user_data_path("mono-quant", appauthor=False) / "runs"

    def presets_folder(self) -> Path | None:
        """Where the user's presets are; nowhere in a session that keeps nothing."""
        chosen = self.text("presets_folder")
        if chosen:
            return Path(chosen)
        return None if self._fresh else user_config_path("mono-quant", appauthor=False) / "presets"

    def sync(self) -> None:
        if not self._fresh:
            self._store.sync()
