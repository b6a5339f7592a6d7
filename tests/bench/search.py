"""What a search is worth on the sample models: searched recipes beside every uniform one, on data that neither saw.

    python tests/bench/search.py [--quick] [--only NAME] [--trials N] [--model FOLDER]

Searched with GPTQ on calibration data and bettered by measuring there; uniform recipes are rounded to nearest, as they are
written without a thought, and with GPTQ on the same data. Perplexity and accuracy are of the values that a reader decodes, run
in float32; ``±`` is the standard error of a difference, from pairs of samples: what is within two of them is not told apart.
Then the cost of data-free sensitivity beside one pass of quantization, and how long a budget's schemes take on 500 layers.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional

import engine
from engine.calibration.data import Data
from engine.calibration.units import call
from engine.models.base import RunnableModel
from engine.records.calibration import DataSpec
from engine.records.search import SCHEMES, Budget, SearchSpace, TrialLimits
from engine.searching.allocation import Front, Unit, solve
from engine.searching.calls import Run, chooser, search_measured
from engine.searching.candidates import candidates
from engine.searching.data_pass import RunPass
from engine.searching.predictions import predictions_of
from engine.searching.solved import SolvedLayers
from engine.searching.whole_model import WholeModel

SAMPLES = Path(__file__).parents[2] / "assets" / "samples"
BUDGETS = (4.5, 3.5)
CHOICES = (*SCHEMES, "nf4:g128", "nf4:g64")
MORE = ("int3:channel", "int4:channel")
"""Uniform recipes besides those that the search chooses among."""
ALGORITHMS = ("rtn", "gptq")


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
    return [
        Subject(
            "CNN", str(digits / "model.safetensors"), f"{digits / 'factory.py'}:create_model",
            DataSpec(str(digits / "calibration.npz"), samples=0, batch=200),
            DataSpec(str(digits / "evaluation.npz"), samples=0, batch=360, labels="labels"), ("output", "fisher", "divergence"),
        ),
        Subject(
            "language model", str(text), None,
            DataSpec(str(text / "calibration.txt"), samples=8 if quick else 32, length=256, batch=16),
            DataSpec(str(text / "evaluation.txt"), samples=16 if quick else 0, length=256, batch=16), ("output", "fisher"),
        ),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables, and against which uniform recipes each searched one wins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few samples only")
    parser.add_argument("--only", default="", metavar="NAME", help="this model alone")
    parser.add_argument("--trials", type=int, default=48, metavar="N", help="passes that a budget's answer may be bettered by")
    parser.add_argument(
        "--model", type=Path, default=Path("build/bench/llama"), help="for the cost, as tests/bench/run.py makes it"
    )
    options = parser.parse_args(arguments)
    slider()
    cost(options.model)
    for subject in subjects(options.quick):
        if options.only in subject.name:
            started = time.perf_counter()
            report(subject, options.trials)
            print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    return 0


def slider() -> None:
    """What the window does while a budget moves: 500 layers, 8 schemes."""
    rng = np.random.default_rng(5)
    bits = np.array([2.5, 3.1, 3.5, 4.1, 4.5, 5.1, 6.1, 8.1])
    units = [
        Unit(tuple((size * bits).tolist()), tuple((weight * 4.0**-bits).tolist()))
        for size, weight in zip(rng.integers(1000, 90000, 500), rng.lognormal(size=500), strict=True)
    ]
    front = Front(units)
    budgets = np.linspace(front.costs[0], front.costs[-1], 200)
    started = time.perf_counter()
    for budget in budgets:
        front.at(front.within(budget))
    each = (time.perf_counter() - started) / len(budgets)
    started = time.perf_counter()
    exact = solve(units, float(budgets[60]), front)
    print(
        f"500 layers x 8 schemes: {1000 * each:.2f} ms a budget; exact in {time.perf_counter() - started:.2f} s ({exact.exact})"
    )


def cost(model: Path) -> None:
    """Eight schemes on every layer, without data and with nothing remembered, beside one pass; each in a process of its own."""
    if not model.exists():
        print(f"cost: {model} is not there; tests/bench/run.py makes it")
        return
    with tempfile.TemporaryDirectory() as scratch:
        surroundings = os.environ | {"XDG_CACHE_HOME": scratch}
        seconds = []
        for code in (SENSITIVITY, QUANTIZE):
            command = [sys.executable, "-c", code, str(model), f"{scratch}/out"]
            done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
            seconds.append(float(done.stdout))
    print(f"{model}: sensitivity over {len(SCHEMES)} schemes {seconds[0]:.1f} s, one pass {seconds[1]:.1f} s: "
          f"{seconds[0] / seconds[1]:.2f} passes", flush=True)  # fmt: skip


TIMED = """
import sys, time
import engine
from engine import numerics
numerics.warm_up()
started = time.perf_counter()
{call}
print(time.perf_counter() - started)
"""
SENSITIVITY = TIMED.format(call="engine.sensitivity(sys.argv[1])")
QUANTIZE = TIMED.format(
    call="""engine.quantize_to(sys.argv[1], sys.argv[2], engine.Recipe(engine.parse_scheme("int4:g128")), record=False)"""
)


def opened(subject: Subject) -> RunnableModel:
    try:
        return engine.load_runnable(subject.path, factory=subject.factory)
    except engine.TrustNeeded as need:
        return engine.load_runnable(subject.path, factory=subject.factory, trusted=[need.sha256])


@dataclass(frozen=True)
class Row:
    """``losses`` and ``hits`` of the predictions, sample by sample: sums and counts."""

    name: str
    bits: float
    losses: np.ndarray
    hits: np.ndarray
    counts: np.ndarray
    divergence: float

    @property
    def loss(self) -> float:
        return float(self.losses.sum() / self.counts.sum())

    @property
    def accuracy(self) -> float:
        return float(self.hits.sum() / self.counts.sum())

    def words(self, classes: bool) -> str:
        value = f"accuracy {100 * self.accuracy:7.2f} %" if classes else f"perplexity {math.exp(self.loss):8.3f}"
        return f"{self.name:<26} {self.bits:6.3f} bits per weight  {value}  loss {self.loss:.5f}  KL {self.divergence:.5f}"


def report(subject: Subject, trials: int) -> None:
    with opened(subject) as model:
        held_out, given = engine.open_data(subject.held_out, model), engine.open_data(subject.given, model)
        classes = subject.held_out.labels != ""
        print(f"\n{subject.name}: judged on {held_out.title}; searched on {given.title}", flush=True)
        with judge(model, held_out, given, "rtn") as ask:
            print(f"    {ask('float', 16 if not classes else 32, {}).words(classes)}", flush=True)
        uniform = [row for algorithm in ALGORITHMS for row in uniform_rows(model, held_out, given, algorithm, classes)]
        searched = searched_rows(model, subject, held_out, given, trials, classes)
    for row in searched:
        verdict(row, uniform, classes)


@contextmanager
def judge(model: RunnableModel, held_out: Data, given: Data, algorithm: str) -> Iterator:
    """A function of a name, bits and schemes that gives a row."""
    found = candidates(model.summary, SearchSpace((*CHOICES, *MORE), algorithm=algorithm))
    monitor = engine.Monitor()
    with RunPass(model, given, ()).layers(found, monitor) as decoded, WholeModel(model, held_out, decoded, monitor) as whole:
        if isinstance(decoded, SolvedLayers):
            decoded.prepare(found.lines)
        whole.original()

        def ask(name: str, bits: float, schemes: Mapping[str, str]) -> Row:
            divergence = whole.judge(schemes).mean_divergence
            return Row(name, bits, *predicted(whole, held_out), divergence)

        yield ask


def predicted(whole: WholeModel, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, hits and counts of every sample, of the model as it stands."""
    losses, hits, counts = [], [], []
    with torch.no_grad():
        for batch in data.batches():
            rows, targets = predictions_of(call(whole.model, batch), batch)
            assert targets is not None
            shape = (batch.size, -1)
            losses.append(functional.cross_entropy(rows, targets, reduction="none").view(shape).sum(1).double().numpy())
            hits.append((rows.argmax(-1) == targets).view(shape).sum(1).double().numpy())
            counts.append(np.full(batch.size, len(targets) / batch.size))
    return np.concatenate(losses), np.concatenate(hits), np.concatenate(counts)


def uniform_rows(model: RunnableModel, held_out: Data, given: Data, algorithm: str, classes: bool) -> list[Row]:
    found = candidates(model.summary, SearchSpace((*CHOICES, *MORE), algorithm=algorithm))
    parameters, rows = sum(layer.parameters for layer in found.layers), []
    with judge(model, held_out, given, algorithm) as ask:
        for scheme in found.schemes:
            own = {name: scheme if scheme in lines else "keep" for name, lines in found.lines.items()}
            nbytes = sum(found.lines[name][chosen].nbytes for name, chosen in own.items())
            rows.append(ask(f"{scheme} {algorithm}", 8 * nbytes / parameters, own))
            print(f"    {rows[-1].words(classes)}", flush=True)
    return rows


def searched_rows(
    model: RunnableModel, subject: Subject, held_out: Data, given: Data, trials: int, classes: bool
) -> list[Row]:  # fmt: skip
    run, space = Run(given, subject.by), SearchSpace(CHOICES, algorithm="gptq")
    table, rows = engine.sensitivity(model, space, run=run), []
    for bits in BUDGETS:
        chosen = {by: chooser(model, table, by=by).allocate(Budget("bits", bits)) for by in ("weight", *subject.by)}
        answer, attempts = search_measured(model, Budget("bits", bits), run, table=table, limits=TrialLimits(trials))
        chosen["measuring"] = answer
        with judge(model, held_out, given, "gptq") as ask:
            for by, found in chosen.items():
                rows.append(ask(f"search {bits:g} by {by}", found.bits, dict(found.schemes)))
                print(f"    {rows[-1].words(classes)}", flush=True)
        best = min(each.loss for each in attempts if each.within)
        print(f"    ({len(attempts)} trials: KL on the calibration data {attempts[0].loss:.5f} to {best:.5f})", flush=True)
    return rows


def verdict(row: Row, uniform: Sequence[Row], classes: bool) -> None:
    """Against every uniform recipe of its size (half a hundredth of a bit more at most) or larger, and smaller ones."""
    for words, others in (
        ("its size or larger", [other for other in uniform if other.bits >= row.bits - 0.005]),
        ("its size or smaller", [other for other in uniform if other.bits <= row.bits + 0.005]),
    ):
        better = [beside(row, other, classes) for other in others if ahead(row, other, classes)]
        worse = [beside(row, other, classes) for other in others if not ahead(row, other, classes)]
        print(
            f"  {row.name}, of {words}: better than {', '.join(better) or 'none'}; not than {', '.join(worse) or 'none'}",
            flush=True,
        )


def ahead(row: Row, other: Row, classes: bool) -> bool:
    return (row.accuracy, -row.loss) > (other.accuracy, -other.loss) if classes else row.loss < other.loss


def beside(row: Row, other: Row, classes: bool) -> str:
    """By how much a recipe's perplexity (points of accuracy) is above (below) this one's, and the standard error of that."""
    if classes:
        gap, count = row.hits - other.hits, len(row.hits)
        return f"{other.name} ({100 * gap.mean():+.2f} ± {100 * gap.std() / math.sqrt(count):.2f} %)"
    weights = row.counts / row.counts.sum()
    gap = (other.losses - row.losses) / row.counts
    mean = float((weights * gap).sum())
    error = math.sqrt(float((weights**2 * (gap - mean) ** 2).sum()))
    scale = math.exp(row.loss)
    return f"{other.name} ({scale * mean:+.3f} ± {scale * error:.3f})"


if __name__ == "__main__":
    sys.exit(main())
