"""One run as the window knows it: its record in the ledger, and what was measured once that was read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.records.calibration import Activity
from engine.records.report import LayerReport
from engine.records.run import GOING, RunRecord


@dataclass(slots=True, eq=False, weakref_slot=True)
class Run:
    """``here``: this window answers for it, and it waits or runs. ``read``: what was measured is all there.

    ``failing`` says why layers could not be quantized while the run goes; afterwards its record does.
    """

    record: RunRecord
    here: bool = False
    read: bool = False
    resume: bool = False
    """Whether to go on with what an earlier process left of it."""
    call: int | None = None
    progress: dict[str, Any] | None = None
    reports: dict[str, LayerReport] = field(default_factory=dict)
    activities: dict[str, Activity] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    _words: tuple[RunRecord | None, str] = (None, "")

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def model_path(self) -> str:
        return self.record.model_path

    @property
    def folder(self) -> Path:
        return Path(self.record.folder)

    @property
    def artifact(self) -> Path:
        return Path(self.record.artifact)

    @property
    def recipe(self) -> str:
        """TOML."""
        return self.record.recipe

    @property
    def state(self) -> str:
        """One of ``engine.records.run.STATES``."""
        return self.record.state

    @property
    def going(self) -> bool:
        """Whether it waits or runs, here or in another process."""
        return self.state in GOING

    @property
    def totals(self) -> dict[str, Any] | None:
        return self.record.totals

    @property
    def message(self) -> str:
        return self.record.message

    @property
    def data(self) -> str:
        """What it was calibrated and measured on, in words."""
        return self.record.data

    @property
    def failures(self) -> dict[str, str]:
        return self.failing or self.record.failures

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """How the whole model does, where data were used; older runs have no such thing."""
        return self.totals.get("evaluation") if self.totals else None

    @property
    def warnings(self) -> list[str]:
        return list(self.totals.get("warnings") or []) if self.totals else []

    @property
    def has_outputs(self) -> bool:
        return any(report.output for report in self.reports.values())

    def matches(self, words: list[str]) -> bool:
        """Whether every word occurs: in name, number, note, tags, recipe, model, data or state. ``words`` are casefolded."""
        if self._words[0] is not self.record:
            r = self.record
            texts = (r.name, f"#{r.number}", r.note, *r.tags, r.recipe, r.model_path, r.data, r.state)
            self._words = r, "\n".join(texts).casefold()
        return all(word in self._words[1] for word in words)
