"""What a search may choose from, as a menu: schemes, what embeddings and heads get, who must load the result."""

from collections.abc import Callable
from dataclasses import replace

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QInputDialog, QMenu, QWidget

import engine
from engine.records.search import SCHEMES, SearchSpace
from mono_quant_gui.i18n import tr

MORE = ("int4:g64", "int8:g128", "fp8_e4m3:channel", "mxfp4", "nvfp4", "nf4:g64", "ternary:g128")
"""Offered besides those that are tried at first."""
LOADERS = ("", "transformers", "vLLM")


def measures() -> dict[str, str]:
    """Errors that a search can minimise here; all but the first run the model on the calibration data."""
    return {
        "weight": tr("weight errors"), "output": tr("output errors"), "fisher": tr("expected loss"),
        "divergence": tr("divergence"), "loss": tr("loss"),
    }  # fmt: skip


def measured_how(by: str) -> str:
    """What one of them takes, in a few words."""
    return {
        "weight": tr("no data"), "output": tr("one pass over the data"), "fisher": tr("one pass with gradients"),
    }.get(by, tr("a pass for every layer and scheme"))  # fmt: skip


class ChoicesMenu(QMenu):
    """Every change gives a new space to ``on_change``; what is ticked is what ``space`` says."""

    def __init__(
        self, on_change: Callable[[SearchSpace], None], on_measure: Callable[[str], None], on_base: Callable[[str], None],
        parent: QWidget | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._on_change, self._on_measure, self._on_base = on_change, on_measure, on_base
        self.space, self.by, self.base = SearchSpace(), "weight", ""
        self.aboutToShow.connect(self._fill)

    def words(self) -> str:
        """What is chosen, in a line."""
        space = self.space
        said = [tr("{count} schemes").format(count=len(space.schemes)), measures()[self.by]]
        said += [tr("one left float beside {scheme}").format(scheme=self.base)] if self.base else []
        said += [tr("with embeddings")] if space.embeddings == "search" else []
        said += [tr("with the head")] if space.head == "search" else []
        said += [tr("loads in {program}").format(program=space.loads)] if space.loads else []
        said += [] if space.tied else [tr("fused layers may differ")]
        return " · ".join(said)

    def fill(self) -> None:
        """Make the entries anew."""
        self._fill()

    def _fill(self) -> None:
        self.clear()
        space = self.space
        for scheme in dict.fromkeys([*SCHEMES, *MORE, *space.schemes]):
            self._tick(self, scheme, scheme in space.schemes, lambda on, scheme=scheme: self._toggle(scheme, on))
        self.addAction(tr("Another scheme…"), self._add)
        self.addSeparator()
        for key, words in (("embeddings", tr("Search embeddings too")), ("head", tr("Search the output head too"))):
            self._tick(self, words, getattr(space, key) == "search", lambda on, key=key: self._policy(key, on))
        self._tick(self, tr("Fused layers may differ"), not space.tied, lambda on: self._set(replace(space, tied=not on)))
        least = self.addMenu(tr("Error to minimise"))
        for by, words in measures().items():
            self._tick(least, f"{words} ({measured_how(by)})", self.by == by, lambda _, by=by: self._on_measure(by))
        left = self.addMenu(tr("Also leave one layer float"))
        for base in ("", *space.schemes):
            words = tr("all others {scheme}").format(scheme=base) if base else tr("no")
            self._tick(left, words, self.base == base, lambda _, base=base: self._on_base(base))
        loads = self.addMenu(tr("Must load in"))
        for program in LOADERS:
            words = program or tr("anything")
            self._tick(loads, words, space.loads == program, lambda _, p=program: self._set(replace(space, loads=p)))

    def _tick(self, menu: QMenu, words: str, on: bool, changed: Callable[[bool], None]) -> QAction:
        action = menu.addAction(words.replace("&", "&&"))
        action.setCheckable(True)
        action.setChecked(on)
        action.toggled.connect(changed)
        return action

    def _toggle(self, scheme: str, on: bool) -> None:
        left = [name for name in self.space.schemes if name != scheme]
        if on or left:
            self._set(replace(self.space, schemes=(*left, scheme) if on else tuple(left)))

    def _policy(self, key: str, on: bool) -> None:
        self._set(replace(self.space, **{key: "search" if on else "keep"}))

    def _add(self) -> None:
        words, given = QInputDialog.getText(self.parentWidget(), tr("Another scheme"), tr("Name, such as int5:g64:"))
        if not given:
            return
        try:
            scheme = engine.scheme_name(engine.parse_scheme(words))
        except engine.RecipeError as error:
            self.refused(str(error))
            return
        if scheme not in (*self.space.schemes, "keep"):
            self._toggle(scheme, True)

    def refused(self, message: str) -> None:
        """Replaced by who shows messages."""

    def _set(self, space: SearchSpace) -> None:
        self.space = space
        self._on_change(space)
