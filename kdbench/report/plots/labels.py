"""Names in a plot that do not cover each other: beside points, or at the right ends of lines."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from kdbench.report.drawing import GREY, lay_out

SIZE = 7           # of the font, in points
LONGEST = 48       # characters of a name
MARK = 4.5         # half the width of a point's mark, in pixels
HEAP = 8           # pixels between marks that are so near that a name could belong to either
TRIED = 24         # places for a name, those that cover least, for which the line to the point is also looked at
CLEAR = 11         # pixels from a mark in a heap to its name, at least
NEAR = 8           # up to so many pixels away, a name needs no line to its point
DISTANCES = (6, 8, 12, 17, 23, 30, 38, 48, 60, 75, 95)  # from a point at which names are tried, in pixels
ANGLES = np.radians([40, 0, -40, 140, 180, 220, 90, 270, 20, -20, 160, 200, 65, 115, 245, 295])


class Label(NamedTuple):
    """A name for a point."""

    x: float
    y: float
    text: str
    needed: bool  # if not, it is left out where it would need a line, cover something or be beside a heap of marks


def name_beside(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]],
                marks: Sequence[tuple[float, float]], bars: Sequence[np.ndarray], labels: Sequence[Label]) -> None:
    """Write the names in `labels` beside their points, in that order, each where it covers the least of marks, bars and
    earlier names. A name that is not close to its point gets a line to it.

    `points` are the places of all points, `marks` those of everything drawn as a mark, and each of `bars` has the two
    ends of a bar; all are in the data's coordinates. The limits of the axes, and everything around the axes, must be
    final.
    """
    lay_out(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    large = FontProperties(family=["DejaVu Sans", "sans-serif"], size=10 * SIZE)  # so that pixels do not round widths
    inside = axes.get_window_extent()
    middles = axes.transData.transform(points)
    squares = [_box(axes.transData.transform(mark), MARK) for mark in marks]
    lines = [_along(axes.transData.transform(bar)) for bar in bars]
    taken = np.concatenate([np.array(squares).reshape(-1, 4), *lines])
    for label in labels:
        text = shorten(label.text)
        width, height, _ = (size / 10 for size in renderer.get_text_width_height_descent(text, large, ismath=False))
        point = axes.transData.transform((label.x, label.y))
        places, boxes = _candidates(point, width, height)
        away = [max(box[0] - point[0], point[0] - box[2], box[1] - point[1], point[1] - box[3]) for box in boxes]
        heap = (np.hypot(*(middles - point).T) < HEAP).sum() > 1
        covered = _overlap(boxes, taken).sum(1) + 20 * _outside(boxes, inside)
        near = np.array(away) <= NEAR
        covered[(np.array(away) < CLEAR) & heap] += 1000  # a line that a reader sees must have room
        if not label.needed:
            covered[~near | (covered > 1)] = np.inf
            if np.isinf(covered).all():
                continue
        covered += .2 * np.array(away)
        leaders = {}
        for i in np.argsort(covered, kind="stable")[:TRIED]:
            leaders[i] = np.empty((0, 4)) if near[i] else _leader(point, boxes[i])
            covered[i] += 3 * _overlap(leaders[i], taken).sum()
        best = min(leaders, key=lambda i: covered[i])
        taken = np.concatenate([taken, boxes[best:best + 1], leaders[best]])
        side = np.sign(places[best, 0] - point[0]) * (abs(places[best, 0] - point[0]) >= width / 2)
        anchor = places[best] - (side * width / 2, 0)  # so that a viewer with a wider font covers no mark
        axes.annotate(
            text, (label.x, label.y), xytext=(anchor - point) * 72 / figure.dpi, textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[int(side)], va="center", fontsize=SIZE, in_layout=False,
            arrowprops=None if near[best] else {
                "arrowstyle": "-", "linewidth": .5, "color": GREY, "shrinkA": 0, "shrinkB": 3, "in_layout": False})


def shorten(text: str) -> str:
    """The text; if it is longer than `LONGEST` characters, cut to that length with an ellipsis at the end."""
    return text if len(text) <= LONGEST else text[:LONGEST - 1] + "…"


def _box(middle: np.ndarray, half: float) -> np.ndarray:
    """The left, bottom, right and top of a square, [4], given its middle and half its width."""
    return np.concatenate([middle - half, middle + half])


def _along(ends: np.ndarray, apart: float = 5) -> np.ndarray:
    """The line between two points, given as `ends` [2, 2], as a row of small boxes [B, 4] that are about `apart` pixels
    apart."""
    count = max(2, int(np.hypot(*(ends[1] - ends[0])) / apart))
    return np.array([_box(ends[0] + share * (ends[1] - ends[0]), 1) for share in np.linspace(0, 1, count)])


def _leader(point: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The line from just outside a point's mark to the nearest place of a box, as a row of small boxes [B, 4]."""
    end = np.clip(point, box[:2], box[2:])
    length = float(np.hypot(*(end - point))) or 1.0
    return _along(np.array([point + min(1.0, 2 * MARK / length) * (end - point), end]))[:-1]


def _candidates(point: np.ndarray, width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """The places that a name of this size may have, the nearest to its point first: the middles [C, 2] and the boxes
    [C, 4] of the name."""
    towards = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    half = np.array([width, height]) / 2
    # A name to the right or left of its point begins at the distance from it; in the directions between these, the name
    # shifts gradually from one side to the other.
    middles = np.concatenate([point + distance * towards + np.clip(1.4 * towards, -1, 1) * half
                              for distance in DISTANCES])
    return middles, np.concatenate([middles - half, middles + half], axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of B boxes shares with each of O others, [B, O]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(2)


def _outside(boxes: np.ndarray, inside) -> np.ndarray:
    """The area of each of B boxes that lies outside the axes, [B]."""
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return whole - _overlap(boxes, np.array([[inside.x0, inside.y0, inside.x1, inside.y1]]))[:, 0]


def name_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name lines to the right of the axes, without overlaps. `ends` has (x, y, name, colour) of the last point of each
    line.

    A name is black, since small letters in light colours are hard to read; the line that leads to it has the colour.
    """
    lay_out(figure)
    box = axes.get_window_extent()
    apart = 1.25 * SIZE * figure.dpi / 72 / box.height  # all heights are shares of the axes' height
    heights = [float(axes.transAxes.inverted().transform(axes.transData.transform(end[:2]))[1]) for end in ends]
    for (x, y, text, colour), height in zip(ends, keep_apart(heights, apart), strict=True):
        axes.annotate(
            shorten(text), (x, y), xytext=(1.03, height), textcoords="axes fraction", va="center", fontsize=SIZE,
            annotation_clip=False, arrowprops={
                "arrowstyle": "-", "linewidth": .8, "color": colour, "shrinkA": 1, "shrinkB": 2, "relpos": (0, .5)})


def keep_apart(wanted: Sequence[float], apart: float) -> list[float]:
    """Heights between 0 and 1 for the wanted ones, nearest to them by least squares, any two of which are at least
    `apart` from each other. They go below 0 if there are too many."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, int]] = []  # means and sizes: the pool-adjacent-violators algorithm
    for place, i in enumerate(order):
        mean, size = wanted[i] - place * apart, 1
        while blocks and blocks[-1][0] > mean:
            before, more = blocks.pop()
            mean, size = (mean * size + before * more) / (size + more), size + more
        blocks.append((mean, size))
    means = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    means = np.minimum(np.maximum(means, 0), 1 - apart * (len(wanted) - 1))
    heights = [0.0] * len(wanted)
    for place, (i, mean) in enumerate(zip(order, means, strict=True)):
        heights[i] = float(mean) + place * apart
    return heights
