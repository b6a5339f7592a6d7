"""Budgets as people write them: ``4.5bpw``, ``700MB``, ``4x``, ``30dB``."""

import re

from engine.errors import RecipeError
from engine.records.search import Budget, BudgetKind

_SIZES = {unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))} | {
    unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), 1)
}
_KINDS: dict[str, BudgetKind] = {"bpw": "bits", "x": "ratio", "×": "ratio", "db": "floor", **dict.fromkeys(_SIZES, "bytes")}
EXAMPLES: dict[BudgetKind, str] = {"bits": "4.5bpw", "bytes": "700MB", "ratio": "4x", "floor": "30dB"}


def budget_of(text: str, kind: BudgetKind | None = None) -> Budget:
    """A budget from its text. ``kind``: what it must be. Raises RecipeError saying how one is written."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z×]+)", text.strip().lower())
    own = _KINDS.get(found[2]) if found else None
    if found is None or own is None or (kind or own) != own:
        how = EXAMPLES[kind] if kind else "4.5bpw (bits per weight), 700MB (tensor files), 4x (times smaller) or 30dB (at least)"
        raise RecipeError(f"{text!r} is no budget; write for example {how}.")
    value = float(found[1])
    if value <= 0 and own != "floor":
        raise RecipeError(f"{text!r} leaves room for nothing.")
    return Budget(own, float(int(value * _SIZES[found[2]])) if own == "bytes" else value)
