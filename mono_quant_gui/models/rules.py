"""The recipe's rules as rows: its own in order, the built-in ones, and last what becomes of every other layer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractListModel, QMimeData, QModelIndex, QPersistentModelIndex, Qt

import engine
from engine.records.plan import RuleEffect
from engine.records.recipe import Recipe, Rule
from mono_quant_gui import text
from mono_quant_gui.i18n import tr
from mono_quant_gui.session import Session

MIME = "application/x-mono-quant-rule"
SCHEME, EFFECT, SOURCE, IDLE = (int(Qt.ItemDataRole.UserRole) + n for n in range(1, 5))
"""Roles: the scheme in words, what the rule comes to, own or builtin or default, and whether it decides nothing."""

Index = QModelIndex | QPersistentModelIndex
_ROOT = QModelIndex()


class RulesModel(QAbstractListModel):
    """Rows follow the session's recipe; own rules can be moved by dragging. Every change is one undoable edit of the recipe."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self._rows = _rows(session.recipe)
        session.recipe_changed.connect(self._follow)
        session.plan_changed.connect(self._tell)
        session.model_changed.connect(self._tell)

    # -- Qt's questions ----------------------------------------------------------------------------------------

    def rowCount(self, parent: Index = _ROOT) -> int:
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        row = index.row()
        source, rule = self._rows[row]
        if role == Qt.ItemDataRole.DisplayRole:
            return _words(source, rule)
        if role == SCHEME:
            return _scheme(rule)
        if role == SOURCE:
            return source
        effect = self.effect(row)
        if role == EFFECT:
            return effect_words(effect)
        if role == IDLE:
            return effect is not None and effect.source == "own" and not effect.decides
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(rule, source, effect)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            number = tr("rule {number}").format(number=row + 1) if source == "own" else ""
            return ", ".join(filter(None, (number, _words(source, rule), _scheme(rule), effect_words(effect))))
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        if not index.isValid():
            return Qt.ItemFlag.ItemIsDropEnabled  # between rows, never onto one
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemNeverHasChildren
        return flags | Qt.ItemFlag.ItemIsDragEnabled if self.is_own(index.row()) else flags

    def supportedDropActions(self) -> Qt.DropAction:
        return Qt.DropAction.MoveAction

    def mimeTypes(self) -> list[str]:
        return [MIME]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        data = QMimeData()
        data.setData(MIME, str(indexes[0].row()).encode())
        return data

    def canDropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: Index) -> bool:
        return self._dragged(data) is not None and not parent.isValid() and 0 <= row <= self.own

    def dropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: Index) -> bool:
        dragged = self._dragged(data)
        if dragged is None or not self.canDropMimeData(data, action, row, column, parent):
            return False
        self.moveRows(_ROOT, dragged, 1, _ROOT, row)
        return False  # moved already: the view must not take the row away as well

    def moveRows(self, source: Index, row: int, count: int, target: Index, before: int) -> bool:
        """Qt's way of saying it: the rule comes to stand before row ``before``."""
        if count != 1 or source.isValid() or target.isValid() or not self.is_own(row) or not 0 <= before <= self.own:
            return False
        return self.move(row, before - 1 if before > row else before)

    # -- ours --------------------------------------------------------------------------------------------------

    @property
    def own(self) -> int:
        """How many of the rows are the recipe's own rules; they come first."""
        return len(self._session.recipe.rules)

    def is_own(self, row: int) -> bool:
        return 0 <= row < self.own

    def rule(self, row: int) -> Rule | None:
        """One of the recipe's own rules."""
        return self._session.recipe.rules[row] if self.is_own(row) else None

    def effect(self, row: int) -> RuleEffect | None:
        """What a row comes to; None before there is a plan of just these rules."""
        plan, recipe = self._session.plan, self._session.recipe
        known = plan.recipe is not None and (plan.recipe.rules, plan.recipe.builtin) == (recipe.rules, recipe.builtin)
        return plan.effects[row] if known and row < len(plan.effects) else None

    def layers(self, row: int) -> list[str]:
        """Names of the layers that a row decides."""
        model, plan = self._session.model, self._session.plan
        if model is None or self.effect(row) is None:
            return []
        return [layer.name for layer, place in zip(model.layers, plan.decided_by, strict=True) if place == row]

    def move(self, row: int, to: int) -> bool:
        """Put an own rule at another place among them."""
        if not (self.is_own(row) and self.is_own(to)) or row == to:
            return False
        rules = list(self._session.recipe.rules)
        rules.insert(to, rules.pop(row))
        self._edit(tr("move rule {number}").format(number=row + 1), rules)
        return True

    def remove(self, row: int) -> None:
        rules = list(self._session.recipe.rules)
        if self.is_own(row):
            del rules[row]
            self._edit(tr("remove rule {number}").format(number=row + 1), rules)

    def put(self, rule: Rule, row: int | None) -> None:
        """Put a rule in the place of another, or at the top."""
        rules = list(self._session.recipe.rules)
        if row is not None and self.is_own(row):
            rules[row] = rule
            self._edit(tr("change rule {number}").format(number=row + 1), rules)
        else:
            self._edit(tr("add a rule"), [rule, *rules])

    def duplicate(self, row: int) -> None:
        rules = list(self._session.recipe.rules)
        if self.is_own(row):
            rules.insert(row + 1, rules[row])
            self._edit(tr("duplicate rule {number}").format(number=row + 1), rules)

    def _edit(self, words: str, rules: Sequence[Rule]) -> None:
        self._session.edit_recipe(dataclasses.replace(self._session.recipe, rules=tuple(rules)), words)

    def _dragged(self, data: QMimeData) -> int | None:
        words = bytes(data.data(MIME).data()).decode("ascii", "replace") if data.hasFormat(MIME) else ""
        return int(words) if words.isascii() and words.isdecimal() and self.is_own(int(words)) else None

    def _tip(self, rule: Rule, source: str, effect: RuleEffect | None) -> str:
        if source == "default":
            return tr("What no rule matches gets the scheme chosen above.")
        lines = [engine.describe_rule(rule) + (f": {rule.note}" if rule.note else "")]
        taken = effect.taken if effect else ()
        lines += [tr("{count:,} of them by rule {number} already").format(count=c, number=n + 1) for n, c in taken]
        return "\n".join(text.plain(line) for line in lines)

    def _tell(self) -> None:
        self.dataChanged.emit(self.index(0), self.index(len(self._rows) - 1))

    def _follow(self) -> None:
        """Become what the recipe says, telling views no more than what happened, so that the selection stays with its rule."""
        before, after = self._rows, _rows(self._session.recipe)
        start = _common(before, after)
        end = _common(before[start:][::-1], after[start:][::-1])
        old, new = before[start : len(before) - end], after[start : len(after) - end]
        if not old and new:
            self.beginInsertRows(_ROOT, start, start + len(new) - 1)
            self._rows = after
            self.endInsertRows()
        elif old and not new:
            self.beginRemoveRows(_ROOT, start, start + len(old) - 1)
            self._rows = after
            self.endRemoveRows()
        elif len(old) > 1 and new == old[1:] + old[:1]:
            self.beginMoveRows(_ROOT, start, start, _ROOT, start + len(old))
            self._rows = after
            self.endMoveRows()
        elif len(old) > 1 and new == old[-1:] + old[:-1]:
            self.beginMoveRows(_ROOT, start + len(old) - 1, start + len(old) - 1, _ROOT, start)
            self._rows = after
            self.endMoveRows()
        elif len(old) != len(new):
            self.beginResetModel()
            self._rows = after
            self.endResetModel()
        self._rows = after
        self._tell()


def effect_words(effect: RuleEffect | None) -> str:
    """What a rule comes to, in a few words; empty while it is not known."""
    if effect is None:
        return ""
    if not effect.matches and effect.source == "own":
        return tr("⚠ matches no layer")
    if not effect.decides and effect.taken:
        numbers = [str(place + 1) for place, _ in effect.taken]
        earlier = tr("rule {number}") if len(numbers) == 1 else tr("rules {number}")
        return tr("⚠ shadowed by {earlier}").format(earlier=earlier.format(number=", ".join(numbers)))
    if effect.taken:
        return tr("decides {count:,} of {all:,}").format(count=effect.decides, all=effect.matches)
    return tr("decides {count:,}").format(count=effect.decides)


def _rows(recipe: Recipe) -> list[tuple[str, Rule]]:
    """(source, rule) of every row."""
    builtin = engine.builtin_rules() if recipe.builtin else ()
    rest = Rule(recipe.default, recipe.algorithm)
    return [*(("own", rule) for rule in recipe.rules), *(("builtin", rule) for rule in builtin), ("default", rest)]


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _words(source: str, rule: Rule) -> str:
    if source == "own":
        return text.plain(engine.describe_rule(rule))
    return tr("every other layer") if source == "default" else text.plain(rule.note)


def _scheme(rule: Rule) -> str:
    return engine.scheme_name(rule.scheme) + ("" if rule.algorithm == "rtn" else f", {rule.algorithm}")
