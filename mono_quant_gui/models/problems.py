"""What a plan found wrong, one row for layers that have the same problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, Qt

from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session
from mono_quant_gui.state import PlanState

SEVERITY = int(Qt.ItemDataRole.UserRole) + 1
MARKS = {"error": "✕", "warning": "⚠", "note": "○"}

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


@dataclass(frozen=True, slots=True)
class Found:
    """``severity``: an error stops a run, a warning does not, a note says who will not load the result. ``layers`` have it."""

    severity: str
    words: str
    layers: tuple[str, ...] = ()


class ProblemsModel(QAbstractListModel):
    """Follows the session's plan; errors first."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._rows: list[Found] = []
        session.plan_changed.connect(self._follow)
        session.model_changed.connect(self._follow)

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        found = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{MARKS[found.severity]} {text.plain(found.words)}"
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{found.severity}: {text.plain(found.words)}"
        if role == SEVERITY:
            return found.severity
        if role == Qt.ItemDataRole.ToolTipRole and found.layers:
            return tr("Click to select: {layers}").format(layers=text.plain(", ".join(found.layers[:20])))
        return None

    def layers(self, row: int) -> tuple[str, ...]:
        """Those that have a problem."""
        return self._rows[row].layers if 0 <= row < len(self._rows) else ()

    @property
    def worst(self) -> str:
        """The severest of all; empty where nothing is wrong."""
        return self._rows[0].severity if self._rows else ""

    def _follow(self) -> None:
        rows = problems(self._session.plan)
        if rows != self._rows:
            self.beginResetModel()
            self._rows = rows
            self.endResetModel()


def problems(plan: PlanState) -> list[Found]:
    """Errors, then warnings, then who will not load what a folder holds; layers with the same words are one."""
    if plan.error:
        return [Found("error", plan.error)]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for problem in plan.problems:
        groups.setdefault((str(problem["severity"]), _beyond_name(problem)), []).append(problem)
    found = [_grouped(severity, same, words) for (severity, words), same in groups.items()]
    if plan.is_folder and not plan.errors:
        unable = [consumer for consumer in plan.consumers if consumer["loads"] == "no"]
        words = tr("Will not load in {name}: {reason}")
        found += [Found("note", words.format(name=item["name"], reason=item["reason"])) for item in unable]
    return sorted(found, key=lambda item: list(MARKS).index(item.severity))


def _beyond_name(problem: Mapping[str, Any]) -> str:
    """A message without the layer that it begins with, or the part of a name that fused layers share."""
    message, layer = str(problem["message"]), str(problem["layer"] or "")
    head, colon, rest = message.partition(": ")
    if layer and colon and layer.startswith(head):
        return rest
    return message.removeprefix(layer).lstrip() if layer else message


def _grouped(severity: str, same: Sequence[Mapping[str, Any]], words: str) -> Found:
    layers = tuple(dict.fromkeys(str(problem["layer"]) for problem in same if problem["layer"]))
    if len(layers) < 2:
        return Found(severity, str(same[0]["message"]), layers)
    return Found(severity, tr("{count} layers: {words}").format(count=f"{len(layers):,}", words=words), layers)
