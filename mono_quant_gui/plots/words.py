"""Words in plots, fast: text takes most of the time of a redraw, and plots say the same words again and again."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

KEPT = 1000
"""Pictures of words; some 4 kB each."""
MARGIN = 2
"""Pixels by which letters may reach beyond what is measured."""
BOX, GAP, APART = 0.8, 0.5, 1.0
"""A legend's box, the gap beside it and the room between two entries, in heights of the text."""
SMALLEST = 7.0

Picture = tuple[NDArray[np.uint8], int, int]
"""RGBA from the lowest row up, and where its lower left corner stands from where the words begin: to the right, and below."""
_pictures: dict[tuple, Picture | None] = {}
_sizes: dict[tuple, tuple[float, float, float]] = {}


class Renderer(RendererAgg):
    """Keeps pictures of the words that were drawn, and puts them down again on whole pixels."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        if ismath or angle not in (0, 90):
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        key = (*self._key(s, prop), angle, tuple(gc.get_rgb()))
        found = _pictures[key] if key in _pictures else _keep(_pictures, key, _picture(self, gc, s, prop, angle))
        if found is not None:
            image, right, below = found
            self.draw_image(gc, round(x) + right, int(self.height) - round(y) - below, image)

    def get_text_width_height_descent(self, s, prop, ismath):
        if ismath:
            return super().get_text_width_height_descent(s, prop, ismath)
        key = self._key(s, prop)
        return _sizes.get(key) or _keep(_sizes, key, super().get_text_width_height_descent(s, prop, ismath))

    def _key(self, s: str, prop: FontProperties) -> tuple:
        return s, prop.get_size_in_points(), tuple(prop.get_family()), prop.get_weight(), prop.get_style(), self.dpi


def _keep(kept: dict, key: tuple, found):
    """Put something beside what is kept; the oldest gives way."""
    while len(kept) >= KEPT:
        del kept[next(iter(kept))]
    kept[key] = found
    return found


def _picture(like: Renderer, gc, s: str, prop: FontProperties, angle: float) -> Picture | None:
    """Drawn by matplotlib on a sheet of its own, and cut out; None where there is nothing to see."""
    w, h, d = (math.ceil(size) + MARGIN for size in like.get_text_width_height_descent(s, prop, False))
    wide, high = (w + MARGIN, h + d) if angle == 0 else (h + d, w + MARGIN)
    x, y = (MARGIN, h) if angle == 0 else (h, w)
    sheet = RendererAgg(wide, high, like.dpi)
    plain = sheet.new_gc()
    plain.copy_properties(gc)
    plain.set_clip_rectangle(None)
    plain.set_clip_path(None)
    sheet.draw_text(plain, x, y, s, prop, angle)
    image = np.asarray(sheet.buffer_rgba())
    rows, columns = (np.flatnonzero(image[..., 3].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(cut[::-1]), int(columns[0]) - x, int(rows[-1]) + 1 - y


class Legend(Artist):
    """(colour, words) in one line above the axes, to the right; smaller where they would not fit."""

    def __init__(self, axes: Axes, points: float) -> None:
        super().__init__()
        self.set_figure(axes.figure)
        self._over, self.points = axes, points
        self.color = "black"
        self.entries: Sequence[tuple[str, str]] = ()

    def draw(self, renderer) -> None:
        if not self.entries or not self._over.get_visible():
            return
        place, most = self._over.get_window_extent(renderer), self.figure.bbox.width
        points = self.points
        while True:
            font = FontProperties(size=points)
            em: float = renderer.points_to_pixels(points)  # pyright: ignore[reportAssignmentType]
            sizes = [renderer.get_text_width_height_descent(words, font, False)[0] for _, words in self.entries]
            whole = sum(sizes) + em * ((BOX + GAP) * len(sizes) + APART * (len(sizes) - 1))
            if whole <= most - em or points <= SMALLEST:
                break
            points -= 0.5
        gc, ink = renderer.new_gc(), renderer.new_gc()
        gc.set_linewidth(0)
        ink.set_foreground(self.color)
        x, foot = place.x1 - whole, place.y1 + 0.65 * em
        for (color, words), size in zip(self.entries, sizes, strict=True):
            box = Affine2D().scale(round(BOX * em)).translate(round(x), round(foot) - 0.5)
            renderer.draw_path(gc, Path.unit_rectangle(), box, to_rgba(color))
            x += (BOX + GAP) * em
            across = self.figure.bbox.height - foot if renderer.flipy() else foot
            renderer.draw_text(ink, x, across, words, font, 0)
            x += size + APART * em
        gc.restore()
        ink.restore()
        self.stale = False
