"""The model that a window looks at: opened once, and again when its files change or another one is asked for."""

import json
import os
from typing import Any

from pydantic import BaseModel, ConfigDict

from engine import api
from engine.records.model import ModelSummary
from engine.serve import opening


class _Factory(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str
    name: str
    arguments: dict[str, Any] = {}


class How(BaseModel):
    """How a model comes to run: ``trusted`` are the SHA-256 sums of code that the user agreed to in this window."""

    model_config = ConfigDict(extra="forbid")
    factory: _Factory | None = None
    trusted: list[str] = []
    fold_batch_norm: bool = False

    @property
    def needs_code(self) -> bool:
        return self.factory is not None or self.fold_batch_norm or bool(self.trusted)


class Opened:
    """One summary and one running network at a time."""

    def __init__(self) -> None:
        self._summary: ModelSummary | None = None
        self._stamp: tuple[int, ...] = ()
        self._runnable: tuple[str, Any] | None = None

    def summary(self, path: str, how: dict[str, Any] | None = None) -> ModelSummary:
        """The summary of ``path``, read again only if another model or a changed file is asked for."""
        chosen = How.model_validate(how or {})
        if chosen.needs_code or opening.is_program(path):
            return self._running(path, chosen).summary
        cached = self._summary
        if cached is None or cached.path != path or self._stamp != opening.stamp(cached):
            cached = self._remember(opening.open_weights(path))
        return cached

    def _running(self, path: str, how: How) -> Any:
        """The running model, loaded again only if another one is asked for."""
        from engine.records.trust import Factory

        parts = sorted(entry.path for entry in os.scandir(path)) if os.path.isdir(path) else [path]
        parts += [how.factory.path] if how.factory else []
        key = json.dumps([path, how.model_dump(), [opening.stat(part) for part in parts]])
        if self._runnable is None or self._runnable[0] != key:
            self.forget()
            factory = Factory(**how.factory.model_dump()) if how.factory else None
            loaded = api.load_runnable(path, factory=factory, trusted=how.trusted, fold_batch_norm=how.fold_batch_norm)
            self._runnable = (key, loaded)
        return self._runnable[1]

    def network(self, path: str, how: dict[str, Any] | None) -> Any:
        """The running model, as ``how`` says."""
        return self._running(path, How.model_validate(how or {}))

    def reread(self) -> None:
        """Open what is asked for next anew."""
        self._summary = None

    def forget(self) -> None:
        if self._runnable:
            self._runnable[1].close()
        self._runnable = None

    def _remember(self, summary: ModelSummary) -> ModelSummary:
        self._summary, self._stamp = summary, opening.stamp(summary)
        return summary
