"""From a sensitivity table and a budget to a recipe: what is minimised, what is spent, and what will be written."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import InputError, PlanError
from engine.planning.planner import plan
from engine.planning.recipe_files import dumps
from engine.records.plan import LayerPlan
from engine.records.report import LayerReport
from engine.records.search import Allocation, Budget, Cell, FrontPoint, Outcome, SensitivityRow, Step, UniformPoint, Walk
from engine.searching.allocation import Front, Solution, Unit, solve, solve_floor
from engine.searching.candidates import Candidates, require_loads, ties
from engine.searching.rules import recipe_of
from engine.writers.layout import DIGITS

ROUNDS = 8
"""Times a budget of whole files is corrected for what their headers turn out to need."""


def harm(row: SensitivityRow, cell: Cell, by: str) -> float | None:
    """What one scheme does to one layer, in what ``by`` measures; None where it is not known.

    Weight and output errors are relative to the layer's own weights and outputs, times its number of weights: the rise of the
    loss is close to a weighted sum of relative errors (Malinovskii et al. 2024, "Pushing the Limits of Large Language Model
    Quantization via the Linearity Theorem"), and where nothing else is known, each weight counts alike.
    """
    if cell.scheme == "keep":
        return 0.0
    if by == "weight":
        return None if cell.noise is None else row.parameters * cell.noise / row.signal if row.signal else 0.0
    if by == "output":
        return None if cell.output is None else row.parameters * cell.output / row.output_signal if row.output_signal else 0.0
    value = getattr(cell, by)
    return None if value is None else max(value, 0.0)


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers that take one scheme together, the schemes that all of them can have, and what each stores and does."""

    layers: tuple[str, ...]
    schemes: tuple[str, ...]
    nbytes: tuple[int, ...]
    heads: tuple[int, ...]
    harms: tuple[float, ...]


class Chooser:
    """Everything about one table that a slider, a front or a budget asks. ``front`` is of stored bytes, for every budget at once.

    Raises InputError where a measure is missing from the table.
    """

    def __init__(self, found: Candidates, rows: Sequence[SensitivityRow], by: str = "weight") -> None:
        self.found, self.by = found, by
        known = self.known = {row.layer: row for row in rows}
        self._groups = [self._group(names, known) for names in ties(found)]
        if all(group.schemes == ("keep",) for group in self._groups):
            raise InputError(
                f"The sensitivity table has no {by} errors" + (" yet." if by == "weight" else "; measure with data.")
            )
        self.parameters = sum(layer.parameters for layer in found.layers)
        self._units = [Unit(group.nbytes, group.harms) for group in self._groups]
        self.front = Front(self._units)

    def _group(self, names: tuple[str, ...], known: Mapping[str, SensitivityRow]) -> _Group:
        schemes, nbytes, heads, harms = [], [], [], []
        for scheme in ("keep", *self.found.schemes):
            lines = [self.found.lines[name].get(scheme) for name in names]
            found = [_harm_of(known.get(name), scheme, self.by) for name in names]
            if any(line is None for line in lines) or any(value is None for value in found):
                continue
            schemes.append(scheme)
            nbytes.append(sum(line.nbytes for line in lines if line))
            heads.append(sum(_head(line) for line in lines if line))
            harms.append(math.fsum(value for value in found if value))
        return _Group(names, tuple(schemes), tuple(nbytes), tuple(heads), tuple(harms))

    def bits(self, nbytes: float) -> float:
        """Bits per weight of the layers searched."""
        return 8 * nbytes / self.parameters

    def points(self) -> tuple[FrontPoint, ...]:
        """The front: bytes rise, errors fall."""
        pairs = zip(self.front.costs.tolist(), self.front.harms.tolist(), strict=True)
        return tuple(FrontPoint(int(nbytes), self.bits(nbytes), error) for nbytes, error in pairs)

    def walk(self) -> Walk:
        """The front as steps from its cheapest point."""
        costs, harms = self.front.costs.tolist(), self.front.harms.tolist()
        places = zip(self.front.walk(), costs[1:], harms[1:], strict=True)
        steps = (Step(u, self._groups[u].schemes[c], int(nbytes), error) for (u, c), nbytes, error in places)
        start = tuple(group.schemes[c] for group, c in zip(self._groups, self.front.at(0), strict=True))
        other = self._predicted(self._keep()) - sum(layer.nbytes for layer in self.found.layers)
        return Walk(
            self.by, self.parameters, other, tuple(g.layers for g in self._groups), start, int(costs[0]), harms[0], tuple(steps),
            self.uniform(),
        )  # fmt: skip

    def uniform(self) -> tuple[UniformPoint, ...]:
        """Every scheme alone, where all of its errors are known."""
        points = []
        for scheme in self.found.schemes:
            own = [line for lines in self.found.lines.values() if (line := lines.get(scheme, lines["keep"]))]
            errors = [_harm_of(self.known.get(line.layer.name), line.scheme_name, self.by) for line in own]
            total = _sum(errors)
            if total is not None:
                points.append(UniformPoint(scheme, sum(line.nbytes for line in own), total))
        return tuple(points)

    def outcome(self, reports: Mapping[str, LayerReport]) -> Outcome:
        """A run beside what was predicted of it, layer by layer, added up."""
        nbytes, unlike = 0, 0
        predicted: list[float | None] = []
        measured: list[float | None] = []
        for layer in self.found.layers:
            row, report = self.known.get(layer.name), reports.get(layer.name)
            nbytes += report.bytes_after if report else layer.nbytes
            predicted.append(_harm_of(row, report.scheme, self.by) if report else 0.0)
            measured.append(_measured(report, self.by) if report else 0.0)
            unlike += report is not None and report.algorithm != self.found.space.algorithm
        return Outcome(nbytes, _sum(predicted), _sum(measured), unlike)

    def nbytes(self, schemes: Mapping[str, str]) -> int:
        """Stored bytes of the layers searched under these schemes."""
        return sum(self.found.lines[name][scheme].nbytes for name, scheme in schemes.items())

    def file_bytes(self, schemes: Mapping[str, str]) -> int:
        """Bytes of the tensor files as they would be written."""
        return self._predicted(schemes)

    def file_limit(self, budget: Budget) -> float:
        """Bytes of tensor files that a budget of whole files allows."""
        return budget.value if budget.kind == "bytes" else sum(file.nbytes for file in self.found.summary.files) / budget.value

    def room(self, budget: Budget, start: Allocation) -> int:
        """Stored bytes of the layers searched that a budget leaves, about so many where whole files are limited."""
        if budget.kind == "bits":
            return int(budget.value * self.parameters / 8)
        return int(start.nbytes + self.file_limit(budget) - start.predicted_bytes)

    def uniform_schemes(self) -> list[tuple[str, dict[str, str]]]:
        """Every scheme alone where it can be applied, the other layers kept."""
        lines = self.found.lines.items()
        return [(scheme, {name: scheme if scheme in own else "keep" for name, own in lines}) for scheme in self.found.schemes]

    def neighbours(self, schemes: Mapping[str, str]) -> Iterator[tuple[int, tuple[str, ...], list[str]]]:
        """Of every group its layers, and the next wider and the next narrower scheme that no other of its bytes betters."""
        for number, group in enumerate(self._groups):
            now = schemes[group.layers[0]]
            order = sorted(range(len(group.schemes)), key=lambda c: (group.nbytes[c], group.harms[c]))
            sizes = {group.nbytes[c]: group.schemes[c] for c in reversed(order)}  # the best of each size
            here = group.nbytes[group.schemes.index(now)]
            wider = min((size for size in sizes if size > here), default=None)
            narrower = max((size for size in sizes if size < here), default=None)
            same = [sizes[here]] if sizes.get(here, now) != now else []
            yield number, group.layers, [*(sizes[size] for size in (wider, narrower) if size is not None), *same]

    def allocation_of(self, schemes: Mapping[str, str], budget: Budget, *, algorithm: str = "", name: str = "") -> Allocation:
        """Schemes that were chosen otherwise, as an allocation: not proven best in what this minimises."""
        chosen = tuple(group.schemes.index(schemes[group.layers[0]]) for group in self._groups)
        pairs = list(zip(self._groups, chosen, strict=True))
        cost, harm = float(sum(group.nbytes[c] for group, c in pairs)), math.fsum(group.harms[c] for group, c in pairs)
        words = algorithm or self.found.space.algorithm
        title = name or f"measured {budget.value:g} {_UNITS[budget.kind]}"
        return self._allocation(budget, Solution(chosen, cost, harm, self.front.bound(cost), False), words, title)

    def schemes_at(self, point: int) -> dict[str, str]:
        """Every layer's scheme at one point of the front: instant."""
        return self._named(self.front.at(point))

    def at(self, point: int, *, algorithm: str = "", name: str = "") -> Allocation:
        """One point of the front as an allocation, with its recipe."""
        chosen, cost, error = self.front.at(point), float(self.front.costs[point]), float(self.front.harms[point])
        budget = Budget("bits", self.bits(cost))
        words = algorithm or self.found.space.algorithm
        return self._allocation(
            budget, Solution(chosen, cost, error, error, True), words, name or f"searched {budget.value:.3f} {_UNITS['bits']}"
        )

    def allocate(self, budget: Budget, *, algorithm: str = "", exact: bool = True, name: str = "") -> Allocation:
        """The best schemes for a budget. ``algorithm`` goes into the recipe instead of the one that was measured with.

        Raises PlanError where nothing fits, or where a program that must load the result does not.
        """
        words = algorithm or self.found.space.algorithm
        title = name or f"searched {budget.value:g} {_UNITS[budget.kind]}"
        if budget.kind in ("bytes", "ratio"):
            return self._files(budget, words, exact, title)
        if budget.kind == "floor":
            solution = solve_floor(self._units, self._most(budget.value))
        else:
            least = self.bits(self.front.costs[0])
            if budget.value < least:
                raise PlanError(f"This budget is too small: these schemes need at least {least:.3f} bits per weight.")
            solution = self._solved(self._units, budget.value * self.parameters / 8, exact)
        return self._allocation(budget, solution, words, title)

    def _solved(self, units: Sequence[Unit], limit: float, exact: bool) -> Solution:
        if exact:
            return solve(units, limit, self.front if units is self._units else None)
        front = self.front if units is self._units else Front(units)
        point = front.within(limit)
        harm = float(front.harms[point])
        return Solution(front.at(point), float(front.costs[point]), harm, min(front.bound(limit), harm), False)

    def _files(self, budget: Budget, words: str, exact: bool, title: str) -> Allocation:
        """Whole files: what a scheme needs in their headers counts too, and what is left over is corrected for."""
        allowed = self.file_limit(budget)
        units = [Unit(tuple(map(sum, zip(g.nbytes, g.heads, strict=True))), g.harms) for g in self._groups]
        rest = self._predicted(self._keep()) - sum(unit.costs[0] for unit in units)
        limit = allowed - rest
        least = sum(min(unit.costs) for unit in units)
        if limit < least:
            raise PlanError(
                f"This budget is too small: these schemes need files of {rest + least:,.0f} bytes, not {allowed:,.0f}."
            )
        for _ in range(ROUNDS):
            made = self._allocation(budget, self._solved(units, limit, exact), words, title)
            if made.predicted_bytes <= allowed:
                return made
            limit -= made.predicted_bytes - allowed
        raise PlanError(f"No choice of schemes fits into {allowed:,.0f} bytes.")

    def _keep(self) -> dict[str, str]:
        return dict.fromkeys(self.found.lines, "keep")

    def _predicted(self, schemes: Mapping[str, str]) -> int:
        made = recipe_of(self.found, schemes, self.found.space.algorithm, "")
        return plan(self.found.summary, made, self.found.format).predicted_bytes

    def _most(self, floor: float) -> float:
        """The total error at which the layers together have so many dB."""
        if self.by not in ("weight", "output"):
            raise InputError(f"A floor in dB goes with weight or output errors, not with {self.by}.")
        return self.parameters * 10 ** (-floor / 10)

    def _named(self, chosen: Sequence[int]) -> dict[str, str]:
        by_name = {name: group.schemes[c] for group, c in zip(self._groups, chosen, strict=True) for name in group.layers}
        return {name: by_name[name] for name in self.found.lines}

    def _allocation(self, budget: Budget, solution: Solution, words: str, title: str) -> Allocation:
        schemes = self._named(solution.chosen)
        recipe = recipe_of(self.found, schemes, words, title)
        made = plan(self.found.summary, recipe, self.found.format)
        require_loads(made, self.found.space.loads)
        nbytes = sum(group.nbytes[c] for group, c in zip(self._groups, solution.chosen, strict=True))
        total = math.fsum(group.harms[c] for group, c in zip(self._groups, solution.chosen, strict=True))
        db = -10 * math.log10(total / self.parameters) if self.by in ("weight", "output") and total > 0 else None
        bound = solution.bound if budget.kind != "floor" else total
        return Allocation(
            self.by, budget, tuple(schemes.items()), total, min(bound, total), db, nbytes, self.bits(nbytes),
            made.predicted_bytes, solution.exact, dumps(recipe), made.format,
        )  # fmt: skip


_UNITS = {"bytes": "bytes", "bits": "bits per weight", "ratio": "times smaller", "floor": "dB"}


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _measured(report: LayerReport, by: str) -> float | None:
    """One layer's error as a run found it."""
    if by == "weight":
        return report.parameters * report.noise / report.signal if report.signal else 0.0
    if by == "output" and report.output is not None:
        return report.parameters * 10 ** (-report.output.alone_db / 10) if report.output.alone_db is not None else 0.0
    return None


def _harm_of(row: SensitivityRow | None, scheme: str, by: str) -> float | None:
    if scheme == "keep":
        return 0.0
    cell = row.cell(scheme) if row else None
    return harm(row, cell, by) if row and cell else None


def _head(line: LayerPlan) -> int:
    """About how much of a file's header a layer's parts take: their entries and checksums."""
    places = ["0" * 9, "0" * 9]
    entries = ({"dtype": part.dtype, "shape": part.shape, "data_offsets": places} for part in line.parts)
    return sum(
        len(json.dumps(entry, separators=(",", ":"))) + len(part.name) + DIGITS
        for entry, part in zip(entries, line.parts, strict=True)
    )
