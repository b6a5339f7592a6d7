"""Comparisons over JSON lines: sides, layers row by row, and one layer's histograms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import comparing
from engine.errors import InputError
from engine.history import read_measurements
from engine.pages import comparison as comparison_page
from engine.records.codec import to_data
from engine.records.comparison import Comparison
from engine.writers.whole import write_text

FEW = 200
"""Layers per message."""


class CompareCalls:
    """Keeps the comparisons that were asked for last, so that saving one does not measure again."""

    KEPT = 8

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Comparison] = {}

    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """By name."""
        return {"compare": self._compare, "compare_layer": self._layer, "save_comparison": self._save}

    def _compare(self, channel: Any, sides: list[str], runs: str, against: str | None = None) -> Any:
        """Runs (ids in the ledger of the folder ``runs``), artifacts and models; layers come as rows."""
        found = comparing.compare(*sides, against=against, runs=runs, monitor=channel)
        key = (runs, *sides)
        self._found.pop(key, None)
        self._found[key] = found
        while len(self._found) > self.KEPT:
            self._found.pop(next(iter(self._found)))
        for start in range(0, len(found.layers), FEW):
            channel.check()
            channel.rows([to_data(layer) for layer in found.layers[start : start + FEW]])
        others = range(1, len(found.sides))
        return to_data(found) | {"layers": []} | {
            "totals": comparison_page.totals(found), "matrices": [comparison_page.transitions(found, n) for n in others],
        }  # fmt: skip

    def _layer(self, channel: Any, folders: list[str], layer: str) -> Any:
        """The histogram of one layer in each of these folders of runs; null where it was not measured."""
        found = []
        for folder in folders:
            channel.check()
            layers = read_measurements(Path(folder))[0] if folder else []
            found.append(next((report["histogram"] for report in layers if report["name"] == layer), None))
        return {"layer": layer, "histograms": found}

    def _save(self, channel: Any, sides: list[str], runs: str, output: str) -> Any:
        """As a page, or as values where the name says so."""
        found = self._found.get((runs, *sides))
        if found is None:
            raise InputError("This comparison is not at hand any more; compare again.")
        write_text(output, comparison_page.csv_text(found) if output.lower().endswith(".csv") else comparison_page.page(found))
        return {"output": output}
