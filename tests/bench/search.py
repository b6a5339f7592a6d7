"""What a search is worth on the sample models: searched recipes beside every uniform one, on data that neither saw.

    python tests/bench/search.py [--quick]

Perplexity and accuracy are of the values that a reader of the written file decodes, run in float32.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import engine
from engine.calibration.data import Data
from engine.models.base import RunnableModel
from engine.records.calibration import DataSpec
from engine.records.search import SCHEMES, Budget, SearchSpace
from engine.search_calls import Run, chooser
from engine.searching.candidates import candidates
from engine.searching.decoded import DecodedLayers
from engine.searching.whole_model import WholeModel

SAMPLES = Path(__file__).parents[2] / "assets" / "samples"
BUDGETS = (4.5, 3.5)
MORE = ("int2:g64", "int3:g64", "int4:g64", "int4:channel", "int3:channel", "mxfp4", "nvfp4")
"""Uniform recipes besides those that the search chooses among."""


@dataclass(frozen=True)
class Subject:
    """One sample model: what is searched with, and what it is judged by."""

    name: str
    path: str
    factory: str | None
    given: DataSpec
    held_out: DataSpec
    by: tuple[str, ...]


def subjects(quick: bool) -> list[Subject]:
    text, digits = SAMPLES / "docstring_lm", SAMPLES / "digits_cnn"
    few = 16 if quick else 0
    return [
        Subject(
            "language model", str(text), None, DataSpec(str(text / "calibration.txt"), samples=8 if quick else 32),
            DataSpec(str(text / "evaluation.txt"), samples=few, length=255), ("weight", "output", "fisher"),
        ),
        Subject(
            "CNN", str(digits / "model.safetensors"), f"{digits / 'factory.py'}:create_model",
            DataSpec(str(digits / "calibration.npz"), samples=0, batch=64),
            DataSpec(str(digits / "evaluation.npz"), samples=0, batch=64, labels="labels"),
            ("weight", "output", "fisher", "divergence"),
        ),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables, and against which uniform recipes each searched one wins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples only")
    parser.add_argument("--only", default="", metavar="NAME", help="this model alone")
    options = parser.parse_args(arguments)
    for subject in subjects(options.quick):
        if options.only in subject.name:
            report(subject)
    return 0


def opened(subject: Subject) -> RunnableModel:
    try:
        return engine.load_runnable(subject.path, factory=subject.factory)
    except engine.TrustNeeded as need:
        return engine.load_runnable(subject.path, factory=subject.factory, trusted=[need.sha256])


def report(subject: Subject) -> None:
    with opened(subject) as model:
        held_out = engine.open_data(subject.held_out, model)
        print(
            f"\n{subject.name}: {held_out.title}; errors measured on {engine.open_data(subject.given, model).title}", flush=True
        )
        uniform = judged(model, held_out, uniform_choices(model))
        searched = judged(model, held_out, searched_choices(model, subject))
    metric = "perplexity" if any(row.perplexity for row in uniform) else "accuracy"
    for row in searched:
        verdict(row, uniform, metric)


@dataclass(frozen=True)
class Row:
    name: str
    bits: float
    perplexity: float | None
    accuracy: float | None
    divergence: float

    def words(self) -> str:
        value = f"perplexity {self.perplexity:8.3f}" if self.perplexity else f"accuracy {100 * (self.accuracy or 0):7.2f} %"
        return f"{self.name:<26} {self.bits:6.3f} bits per weight  {value}  KL {self.divergence:.5f}"

    def better(self, other: "Row", metric: str) -> bool:
        mine, its = getattr(self, metric), getattr(other, metric)
        if metric == "accuracy" and mine == its:
            return self.divergence < other.divergence
        return mine < its if metric == "perplexity" else mine > its


def uniform_choices(model: RunnableModel) -> dict[str, tuple[float, Mapping[str, str], SearchSpace]]:
    space = SearchSpace((*SCHEMES, *MORE))
    found = candidates(model.summary, space)
    parameters = sum(layer.parameters for layer in found.layers)
    choices = {}
    for scheme in found.schemes:
        own = {name: scheme if scheme in lines else "keep" for name, lines in found.lines.items()}
        nbytes = sum(found.lines[name][chosen].nbytes for name, chosen in own.items())
        choices[scheme] = (8 * nbytes / parameters, own, space)
    return choices


def searched_choices(model: RunnableModel, subject: Subject) -> dict[str, tuple[float, Mapping[str, str], SearchSpace]]:
    run = Run(subject.given, tuple(by for by in subject.by if by != "weight"))
    table = engine.sensitivity(model, run=run)
    choices = {}
    for by in subject.by:
        chosen = chooser(model, table, by=by)
        for bits in BUDGETS:
            found = chosen.allocate(Budget("bits", bits))
            choices[f"search {bits:g} by {by}"] = (found.bits, dict(found.schemes), table.space)
    return choices


def judged(model: RunnableModel, data: Data, choices: dict[str, tuple[float, Mapping[str, str], SearchSpace]]) -> list[Row]:
    rows = []
    space = next(iter(choices.values()))[2]
    with (
        DecodedLayers(candidates(model.summary, space), engine.Monitor()) as decoded,
        WholeModel(model, data, decoded, engine.Monitor()) as whole,
    ):
        for name, (bits, schemes, _) in choices.items():
            found = whole.judge(schemes)
            rows.append(Row(name, bits, found.perplexity if data.kind == "text" else None, found.accuracy, found.mean_divergence))
            print(f"    {rows[-1].words()}", flush=True)
    return rows


def verdict(row: Row, uniform: list[Row], metric: str) -> None:
    """Against uniform recipes that are no larger, and those that are no smaller."""
    same = [other for other in uniform if other.bits <= row.bits + 0.005]
    larger = [other for other in uniform if other.bits >= row.bits - 0.005]
    lost = [other.name for other in same if not row.better(other, metric)]
    beaten = [other.name for other in larger if row.better(other, metric)]
    left = [other.name for other in larger if not row.better(other, metric)]
    print(f"  {row.name}: better than {len(same) - len(lost)} of {len(same)} uniform recipes of its size or smaller"
          + (f" (not {', '.join(lost)})" if lost else "") + f"; of its size or larger, better than {', '.join(beaten) or 'none'}"
          + (f"; not than {', '.join(left)}" if left else ""), flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
