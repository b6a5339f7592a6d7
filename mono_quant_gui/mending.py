"""Mending layers: rules for exactly these, with another scheme or algorithm, and a run in which only they are done again."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt

import engine
from engine.records.recipe import Recipe, Rule
from mono_quant_gui.i18n import tr

if TYPE_CHECKING:
    from mono_quant_gui.session import Session

Chosen = tuple[str, str]
"""A scheme's name and an algorithm's text."""
NAMED = 3
"""So many different changes are named in an edit's words; more are counted."""


class Mending(QObject):
    """Edits of single layers. Each is one undoable edit of the recipe: exact rules before all others."""

    def __init__(self, session: "Session") -> None:
        super().__init__(session)
        self._session = session
        self._waiting = False

    # -- what the recipe gives a layer ---------------------------------------------------------------------------------

    def chosen(self, name: str) -> Chosen:
        """Scheme and algorithm that the recipe gives a layer: what its rule says before a new plan is there, else the plan."""
        session = self._session
        for rule in session.recipe.rules:
            if not (only := _only(rule)):
                break
            if only == name:
                return engine.scheme_name(rule.scheme), rule.algorithm
        place = session.model.index.get(name) if session.model else None
        if place is not None and place < len(session.plan.algorithms):
            return session.plan.schemes[place], session.plan.algorithms[place]
        return engine.scheme_name(session.recipe.default), session.recipe.algorithm

    def has_rules(self, names: Iterable[str]) -> bool:
        """Whether rules were made for exactly these layers."""
        wanted = set(names)
        return any(_only(rule) in wanted for rule in self._session.recipe.rules)

    # -- edits ---------------------------------------------------------------------------------------------------------

    def assign(self, names: Sequence[str], scheme: str | None = None, algorithm: str | None = None) -> None:
        """Give layers a scheme, an algorithm or both; what is not given stays as the recipe has it. Raises RecipeError."""
        changes = {name: self._change(name, scheme, algorithm) for name in names}
        what = ", ".join(part for part in (scheme, algorithm) if part)
        self._edit(changes, tr("{what} for {layers}").format(what=what, layers=_layers(names)))

    def keep(self, names: Sequence[str]) -> None:
        """Leave layers as they are in the model."""
        self._edit(dict.fromkeys(names, ("keep", "rtn")), tr("keep {layers}").format(layers=_layers(names)))

    def raise_bits(self, names: Sequence[str]) -> str:
        """Give each layer the next wider scheme of its own; returns what was done, in the edit's words."""
        changes = {}
        steps: Counter[tuple[str, str]] = Counter()
        for name in names:
            before = self.chosen(name)[0]
            after = engine.wider_scheme(before)
            if after != before:
                changes[name] = self._change(name, after, None)
                steps[before, after] += 1
        if not changes:
            words = tr("Nothing is wider than float: these layers are kept already.")
            self._session.notice.emit(words)
            return words
        words = _steps(steps)
        self._edit(changes, words)
        return words

    def unassign(self, names: Sequence[str]) -> None:
        """Remove the rules made for exactly these layers."""
        session, wanted = self._session, set(names)
        rules = tuple(rule for rule in session.recipe.rules if _only(rule) not in wanted)
        words = tr("remove rules of {layers}").format(layers=_layers(names))
        session.edit_recipe(dataclasses.replace(session.recipe, rules=rules), words)

    def rerun(self, names: Sequence[str], scheme: str | None = None, algorithm: str | None = None) -> None:
        """Edit as ``assign`` does where anything is given; where a run is shown, quantize once the plan is there."""
        before = self._session.recipe
        if scheme or algorithm:
            self.assign(names, scheme, algorithm)
        if self._session.shown_run is None:
            return  # the trial that follows the plan measures it
        if self._session.recipe == before:
            self._session.quantize()
        elif not self._waiting:
            self._waiting = True
            self._session.plan_changed.connect(self._planned, Qt.ConnectionType.SingleShotConnection)

    def _planned(self) -> None:
        session = self._session
        if session.plan.recipe not in (None, session.recipe):  # one that was on its way before the edit
            session.plan_changed.connect(self._planned, Qt.ConnectionType.SingleShotConnection)
            return
        self._waiting = False
        if session.obstacle:
            session.notice.emit(session.obstacle)
        else:
            session.quantize()

    # -- how -----------------------------------------------------------------------------------------------------------

    def _change(self, name: str, scheme: str | None, algorithm: str | None) -> Chosen:
        """What a layer gets; an algorithm that was not asked for gives way where it cannot work with the scheme."""
        now, how = self.chosen(name)
        if now == "keep":
            how = self._session.recipe.algorithm
        parsed = engine.parse_scheme(scheme or now)
        wanted = engine.algorithm_name(algorithm or how or "rtn")
        if engine.scheme_name(parsed) == "keep" or (algorithm is None and engine.algorithm_problem(wanted, parsed)):
            wanted = "rtn"
        return engine.scheme_name(parsed), wanted

    def _edit(self, changes: dict[str, Chosen], words: str) -> None:
        session = self._session
        others = tuple(rule for rule in session.recipe.rules if _only(rule) not in changes)
        session.edit_recipe(with_rules(session.recipe, changes, others), words)


def mends(before: Recipe, after: Recipe) -> bool:
    """Whether a recipe is another one with other rules for single layers, and nothing else."""
    rest = [dataclasses.replace(r, name="", rules=tuple(rule for rule in r.rules if not _only(rule))) for r in (before, after)]
    return rest[0] == rest[1] and dataclasses.replace(before, name="") != dataclasses.replace(after, name="")


def difference(before: Recipe, after: Recipe) -> str:
    """What rules for single layers came to be, in words: int8:channel for 3 layers, keep for lm_head."""
    had = {name: rule for rule in before.rules if (name := _only(rule))}
    has = {name: rule for rule in after.rules if (name := _only(rule))}
    groups: dict[str, list[str]] = {}
    for name, rule in has.items():
        if had.get(name) != rule:
            algorithm = "" if rule.algorithm in ("rtn", after.algorithm) else f", {rule.algorithm}"
            groups.setdefault(engine.scheme_name(rule.scheme) + algorithm, []).append(name)
    removed = [name for name in had if name not in has]
    words = [tr("{what} for {layers}").format(what=what, layers=_layers(names)) for what, names in list(groups.items())[:NAMED]]
    words += [tr("no rules for {layers}").format(layers=_layers(removed))] if removed else []
    return ", ".join([*words, *(["…"] if len(groups) > NAMED else [])]) or tr("other rules")


def with_rules(recipe: Recipe, changes: dict[str, Chosen], others: tuple[Rule, ...]) -> Recipe:
    """The recipe with an exact rule per layer before ``others``."""
    schemes = {scheme: engine.parse_scheme(scheme) for scheme, _ in changes.values()}
    added = tuple(Rule(schemes[scheme], how, match=exact_pattern(name)) for name, (scheme, how) in changes.items())
    return dataclasses.replace(recipe, rules=added + others)


def exact_pattern(name: str) -> str:
    """A rule's pattern that matches this one layer."""
    return f"re:{re.escape(name)}$" if name.startswith("re:") or any(c in name for c in "*?[") else name


def _only(rule: Rule) -> str:
    """The one name that a rule is for; empty for rules that may match others."""
    if not rule.match or rule.kind is not None or rule.min_size is not None or rule.max_size is not None:
        return ""
    name = (
        re.sub(r"\\(.)", r"\1", rule.match.removeprefix("re:").removesuffix("$")) if rule.match.startswith("re:") else rule.match
    )
    return name if exact_pattern(name) == rule.match else ""


def _layers(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else tr("{count} layers").format(count=f"{len(names):,}")


def _steps(steps: Counter[tuple[str, str]]) -> str:
    """int4:g128 to int8:g128 for 3 layers, keep for 1."""
    if len(steps) > NAMED:
        return tr("more bits for {count} layers").format(count=f"{steps.total():,}")
    parts = [tr("{before} → {after} ({count})").format(before=a, after=b, count=count) for (a, b), count in steps.items()]
    return ", ".join(parts)
