"""Plots of test accuracy against another metric: for a cell's methods, and for the networks of all pairs by latency."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kdbench.analysis.board import LABELLED, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.costs import energy_source
from kdbench.analysis.intervals import Estimate
from kdbench.metrics.catalog import METRICS
from kdbench.report.drawing import (
    GREY,
    draw_cut,
    draw_interval,
    drawn,
    ends,
    family_legend,
    family_look,
    floor,
    new_figure,
    reach,
    told,
)
from kdbench.report.formatting import with_unit
from kdbench.report.plots.labels import Label, name_beside
from kdbench.report.plots.svg import name_points

FEW = 20         # up to so many points are all named; of more, the important ones and those with room beside them
HIGHLIGHTED = 3  # the best methods, which are named even if there is no room for all names
STRIP = .07      # share of an axis' range that is added below it for outliers


class Point(NamedTuple):
    """A method, or a teacher, in a plot of test accuracy against another metric."""

    label: str
    family: str         # "" for a teacher
    x: Estimate         # the other metric, a share in %
    accuracy: Estimate  # in %
    reference: bool     # whether it is a reference or a teacher, which are named in any case


def points_of(rows: Sequence[Row], metric: str, of: str = "") -> Iterator[Point]:
    """The points of the rows that have both the metric and test accuracy; `of` is appended to their labels."""
    for row in rows:
        x, accuracy = drawn(row, metric), drawn(row, "test_accuracy")
        if x is not None and accuracy is not None:
            yield Point(row.label + of, row.family, x, accuracy, row.label in REFERENCES)


def latencies(leaderboard: Leaderboard) -> Iterator[tuple[str, str, list[Point]]]:
    """Dataset, device and points of test accuracy against latency, for each combination of dataset and device with such
    points.

    The points are of all pairs of networks: within a cell nearly all methods deploy the same network, so that a latency
    is compared with the teacher's and with those of other pairs.
    """
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in leaderboard.cells:
        if any(row.runs and "latency_ms" in row.metrics for row in cell.rows):
            alike.setdefault((cell.dataset, cell.spec["device"]), []).append(cell)
    for (dataset, device), cells in alike.items():
        points: list[Point] = []
        pairs = {cell.pair for cell in cells}
        for cell in cells:
            what = leaderboard.title(cell).replace(f" on {dataset}", "")
            if len(pairs) == 1:
                what = what.removeprefix(cell.pair).strip(" ()")
            trained = what.replace(cell.regime or LABELLED, "").strip(", ()")  # the same teacher in all regimes
            of, of_teacher = (f", {text}" if text else "" for text in (what, trained))
            points += points_of([row for row in cell.rows if row.runs], "latency_ms", of)
            metrics = cell.teacher.metrics if cell.teacher else {}
            if {"latency_ms", "test_accuracy"} <= metrics.keys():
                # A teacher is one given network and not a sample of trainings: its accuracy is exact.
                points.append(Point(f"teacher{of_teacher}", "", Estimate(metrics["latency_ms"], None, 1),
                                    Estimate(100 * metrics["test_accuracy"], 0.0, 1), True))
        if points:
            yield dataset, device, list(dict.fromkeys(points))


def with_source(cell: Cell, metric: str) -> str:
    """The metric's title; for an energy, followed by the source of its values in brackets."""
    source = energy_source(cell.costs, metric) if METRICS[metric].unit == "joules" else None
    return METRICS[metric].title + (f" ({source})" if source else "")


def scatter(heading: str, points: Sequence[Point], metric: str, what: str) -> Figure:
    """Test accuracy against another metric, whose axis is titled `what`, with the intervals of both.

    A cost (a metric of which lower values are better) has a logarithmic axis, and a line through the points of the
    `front`. Outliers are at the lower ends of the axes.
    """
    figure, axes = new_figure(heading, 4.6)
    cost = METRICS[metric].better == "lower"
    family_legend(axes, {point.family for point in points})
    axes.set_xlabel(with_unit(metric, what))
    axes.set_ylabel(with_unit("test_accuracy"))
    low_x = _set_range(axes, [point.x for point in points], "x", cost)
    low_y = _set_range(axes, [point.accuracy for point in points], "y", False)
    best = front(points) if cost else []
    if len(best) > 1:
        axes.plot([point.x.mean for point in best], [point.accuracy.mean for point in best], color=GREY, linewidth=1,
                  zorder=0)
    places = _draw(axes, points, metric, low_x, low_y)
    drawn_lines = [np.asarray(line.get_xydata()) for line in axes.lines]
    marks = [(line[0, 0], line[0, 1]) for line in drawn_lines if len(line) == 1]  # of points, and arrows
    bars = [line for line in drawn_lines if len(line) == 2]
    name_beside(figure, axes, places, marks, bars, list(_labels(points, places, best)))
    return figure


def _set_range(axes: Axes, values: Sequence[Estimate], along: str, cost: bool) -> float:
    """Set the limits of the axis "x" or "y" so that it shows the values and, as far as `reach` allows, their intervals.
    Return the lowest value that is not an outlier.

    A cost has a logarithmic axis, on which no value is an outlier.
    """
    lowest = min(value.mean for value in values) if cost else floor([value.mean for value in values])
    shown = [value for value in values if value.mean >= lowest]
    means, intervals = [value.mean for value in shown], ends(shown)
    if cost and min(means) > 0:
        logarithms = ([math.log10(value) for value in some if value > 0] for some in (means, intervals))
        low, high = (10 ** end for end in reach(*logarithms))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        low, high = reach(means, intervals)
    if len(shown) < len(values):
        low -= STRIP * (high - low)
    axes.set(**{f"{along}lim": (low, high)})
    return lowest


def _draw(axes: Axes, points: Sequence[Point], metric: str, low_x: float, low_y: float) -> list[tuple[float, float]]:
    """Draw each point with its intervals; outliers are at the edge of the axes, with an arrow. Return where each point
    is drawn, in the data's coordinates."""
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    strip_x, strip_y = (STRIP * (end - begin) for begin, end in (axes.get_xlim(), axes.get_ylim()))
    places, in_corner = [], 0
    for point in points:
        (colour, marker), x, y = family_look(point.family), point.x.mean, point.accuracy.mean
        if y < low_y:
            y = bottom + .65 * strip_y
        if x < low_x:
            x = left + .65 * strip_x
            if point.accuracy.mean < low_y:  # outliers on both axes would hide each other
                x, in_corner = x + 2 * in_corner * strip_x, in_corner + 1
            else:
                draw_cut(axes, left, y, "left", colour)
        if point.accuracy.mean < low_y:
            draw_cut(axes, x, bottom, "down", colour)
        else:
            draw_interval(axes, point.accuracy, x, y, colour, horizontal=False)
        if x == point.x.mean:
            draw_interval(axes, point.x, x, y, colour, horizontal=True, alpha=.35)  # faint: seconds vary much
        (mark,) = axes.plot(x, y, marker, color=colour, markersize=6, zorder=3)
        name_points(mark, [f"{point.label}: {told('test_accuracy', point.accuracy)}, {told(metric, point.x)}"])
        places.append((x, y))
    return places


def _labels(points: Sequence[Point], places: Sequence[tuple[float, float]],
            best: Sequence[Point]) -> Iterator[Label]:
    """A label for each point, the important ones first. An outlier's label has the figures at which its point is not
    drawn."""
    order = [*best, *(point for point in points if point.reference), *points[:HIGHLIGHTED]]
    far = [point for point, (x, y) in zip(points, places, strict=True)
           if (point.x.mean, point.accuracy.mean) != (x, y)]
    needed = list(dict.fromkeys([*far, *order]))
    for point in [*needed, *(point for point in points if point not in needed)]:
        x, y = places[points.index(point)]
        figures = ", ".join(f"{value.mean:.1f}" for value, place in ((point.x, x), (point.accuracy, y))
                            if value.mean != place)
        text = f"{point.label} ({figures})" if figures else point.label
        yield Label(x, y, text, point in needed or len(points) <= FEW)


def front(points: Sequence[Point]) -> list[Point]:
    """The Pareto front of cost and accuracy, as far as the intervals of accuracies establish it, by rising cost.

    It begins with the cheapest point. A more expensive point is on it if its mean accuracy is above those of all points
    that cost no more, and its interval is above that of the previous point on the front. A point whose interval is not
    known is not on it.
    """
    kept: list[Point] = []
    best = -math.inf
    for point in sorted(points, key=lambda point: (point.x.mean, -point.accuracy.mean)):
        low, high = point.accuracy.low, kept[-1].accuracy.high if kept else -math.inf
        if point.accuracy.mean > best and low is not None and high is not None and low > high:
            kept.append(point)
        best = max(best, point.accuracy.mean)
    return kept


def front_told(points: Sequence[Point]) -> str:
    """A sentence for the plot's description that says what the line of the front is, or why there is none."""
    if len(front(points)) > 1:
        return ("The line joins the cheapest and each dearer one that is more accurate than all cheaper ones, and "
                "whose 95 % interval lies above that of the one before it.")
    if any(point.accuracy.half_width is not None for point in points if point.family):
        return "There is no line of a front: no 95 % interval lies above that of the cheapest."
    return "There is no line of a front: fewer than three seeds tell no interval."
