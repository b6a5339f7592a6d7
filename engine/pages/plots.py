"""Plots of a run as inline SVG: no script, no font of their own, colours of the page that they stand in."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import plain
from engine.records.report import Histogram, LayerReport

WIDTH, HEIGHT = 900, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 26, 30
MOST_BARS = 300
"""More layers than this share bars: a bar is the worst of its layers."""
SPREAD_BINS = 30
HISTOGRAM_BARS = 128
SERIES = ("var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)")
"""Colours of the schemes with the most layers; all others share that of the float weights."""
STYLE = """
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; } svg text { fill: var(--muted); }
svg .grid { stroke: var(--line); } svg .key { fill: var(--text); } figure { margin: 1.5em 0; } figcaption { color: var(--muted); }
"""


@dataclass(frozen=True, slots=True)
class Axes:
    """Where values stand: x in data units from ``x0`` to ``x1``, y from 0 to ``top``."""

    x0: float
    x1: float
    top: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - min(max(value, 0.0) / self.top, 1.0) * (HEIGHT - BOTTOM - TOP)


def decibels(layers: Sequence[LayerReport]) -> str:
    """SQNR of every layer in file order, coloured by scheme; layers without any error reach the top."""
    if not layers:
        return ""
    values = [math.inf if layer.sqnr_db is None else layer.sqnr_db for layer in layers]
    finite = [value for value in values if math.isfinite(value)]
    per_bar = -(-len(layers) // MOST_BARS)
    axes = Axes(0, -(-len(layers) // per_bar), _round_up(max(finite, default=1.0)))
    colors = colors_of([layer.scheme for layer in layers])
    bars = []
    for place, first in enumerate(range(0, len(layers), per_bar)):
        worst = min(range(first, min(first + per_bar, len(layers))), key=lambda n: values[n])
        layer = layers[worst]
        words = "exact" if layer.sqnr_db is None else f"{layer.sqnr_db:.2f} dB"
        words = f"{layer.name}: {words}, {layer.scheme}" + (f", worst of {per_bar}" if per_bar > 1 else "")
        color = colors.get(layer.scheme, "var(--float)")
        bars.append(_bar(axes, place + 0.1, place + 0.9, 0, min(values[worst], axes.top), color, words))
    keys = [(color, scheme) for scheme, color in colors.items()]
    if len({layer.scheme for layer in layers}) > len(colors):
        keys.append(("var(--float)", "others"))
    return _svg("SQNR of every layer in dB", axes, "dB", "".join(bars), keys)


def spread(layers: Sequence[LayerReport]) -> str:
    """How the layers' SQNR is distributed; nothing where no layer has an error."""
    values = [layer.sqnr_db for layer in layers if layer.sqnr_db is not None]
    if not values:
        return ""
    low, high = min(values), max(values)
    low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
    counts = [0] * SPREAD_BINS
    for value in values:
        counts[min(int((value - low) / (high - low) * SPREAD_BINS), SPREAD_BINS - 1)] += 1
    step = (high - low) / SPREAD_BINS
    axes = Axes(low, high, 4 * -(-max(counts) // 4))  # marked at whole layers
    bars = [
        _bar(axes, low + n * step, low + (n + 1) * step, 0, count, "var(--a)", f"{low + n * step:.2f} dB: {count} layers")
        for n, count in enumerate(counts) if count
    ]  # fmt: skip
    return _svg("Layers by SQNR", axes, "layers", "".join(bars), [], _ticks(axes, low, high, "dB"))


def weights(histogram: Histogram, name: str) -> str:
    """A layer's weights, float filled and quantized as bars over them, on a logarithmic scale of counts."""
    count = len(histogram.float_counts)
    fold = max(count // HISTOGRAM_BARS, 1)
    sides = [_folded(histogram.float_counts, fold), _folded(histogram.quantized_counts, fold)]
    limit = histogram.limit or 1.0
    axes = Axes(-limit, limit, max(map(_log, (max(side, default=0) for side in sides))) or 1.0)
    step = 2 * limit / max(len(sides[0]), 1)
    marks = []
    for side, color, inset in zip(sides, ("var(--float)", "var(--a)"), (0.0, 0.3), strict=True):
        for n, value in enumerate(side):
            if value:
                left = -limit + n * step
                words = f"{left:.3g} to {left + step:.3g}: {value}"
                marks.append(_bar(axes, left + inset * step, left + (1 - inset) * step, 0, _log(value), color, words))
    keys = [("var(--float)", "float"), *([("var(--a)", "quantized")] if sides[1] else [])]
    ticks = _ticks(axes, -limit, limit, "weight")
    return _svg(f"Weights of {name}, counts on a logarithmic scale", axes, "", "".join(marks), keys, ticks, power=True)


def colors_of(schemes: Sequence[str]) -> dict[str, str]:
    """A colour for each of the schemes with the most layers."""
    names = sorted(set(schemes), key=lambda name: (-schemes.count(name), name))
    return dict(zip(names, SERIES, strict=False))


def _log(count: float) -> float:
    """One weight is seen, none is not."""
    return math.log10(2 * count) if count else 0.0


def _folded(counts: Sequence[int], fold: int) -> list[int]:
    return [sum(counts[n : n + fold]) for n in range(0, len(counts), fold)]


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * 0.9999)


def _bar(axes: Axes, left: float, right: float, bottom: float, top: float, color: str, words: str) -> str:
    x, y = axes.x(left), axes.y(top)
    width, height = max(axes.x(right) - x, 0.5), max(axes.y(bottom) - y, 1.0)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" style="fill:{color}">'
        f"<title>{html.escape(plain(words))}</title></rect>"
    )


def _ticks(axes: Axes, low: float, high: float, unit: str) -> str:
    places = [(low, "start"), ((low + high) / 2, "middle"), (high, "end")]
    foot = HEIGHT - BOTTOM + 14
    words = "".join(f'<text x="{axes.x(x):.1f}" y="{foot}" text-anchor="{anchor}">{x:.3g}</text>' for x, anchor in places)
    return f'{words}<text x="{WIDTH - RIGHT}" y="{foot + 13}" text-anchor="end">{unit}</text>'


def _svg(
    title: str, axes: Axes, unit: str, inside: str, keys: Sequence[tuple[str, str]], ticks: str = "", power: bool = False
) -> str:
    grid = []
    for n in range(5):
        value = axes.top * n / 4
        words = f"{10**value / 2:.0f}" if power and n else f"{value:g}"
        y = axes.y(value)
        grid.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    legend, right = [], WIDTH - RIGHT
    for color, words in reversed(keys):
        legend.append(f'<text class="key" x="{right}" y="14" text-anchor="end">{html.escape(plain(words))}</text>')
        right -= round(6.4 * len(words)) + 14
        legend.append(f'<rect x="{right}" y="5" width="10" height="10" style="fill:{color}"/>')
        right -= 12
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(plain(title))}">'
        f'{"".join(grid)}<text x="0" y="14">{unit}</text>{inside}{ticks}{"".join(legend)}</svg>'
    )
