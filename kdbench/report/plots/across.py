"""Plots over all cells: gains by family, average ranks."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from kdbench.analysis.board import REFERENCE, Leaderboard
from kdbench.analysis.ranking import Ranking
from kdbench.plugins.source import family_order
from kdbench.report.drawing import (
    GREY,
    clip,
    draw_cut,
    family_legend,
    family_look,
    new_figure,
)
from kdbench.report.plots.labels import shorten
from kdbench.report.plots.svg import name_points

MOST_OUTLIERS = 4  # outliers of a family that are named
MOST_BARS = 12     # bars of groups side by side; the thirteenth is below the first
LANES = (0, -.2, .2)  # vertical shifts within a family's row, for points that would hide each other


def gains(heading: str, leaderboard: Leaderboard) -> Figure | None:
    """The differences to the reference in all cells: a row of points for each family, with a bar at the median. None if
    there are no differences.

    Outliers are at the left edge, with their names and figures.
    """
    found = [(row.family, 100 * row.differences[REFERENCE].mean, row.label, leaderboard.title(cell))
             for cell in leaderboard.cells for row in cell.rows if REFERENCE in row.differences]
    if not found:
        return None
    families = sorted({family for family, *_ in found}, key=family_order)
    figure, axes = new_figure(heading, 1.3 + .4 * len(families))
    shown = clip(axes, [*(gain for _, gain, *_ in found), 0.0])[:-1]  # the reference itself is always in view
    left, right = axes.get_xlim()
    for place, family in enumerate(families):
        colour, marker = family_look(family)
        own = [(x, gain, label, cell) for x, (kind, gain, label, cell) in zip(shown, found, strict=True)
               if kind == family]
        lanes = _lanes([x for x, *_ in own], .012 * (right - left))
        far = [(x, gain, label) for x, gain, label, _ in own if x != gain]
        for (x, gain, label, cell), lane in zip(own, lanes, strict=True):
            (mark,) = axes.plot(x, place + (lane if x == gain else 0), marker, color=colour, alpha=.8, markersize=5)
            name_points(mark, [f"{label}, {cell}: {gain:+.2f} points"])
        if far:
            draw_cut(axes, left, place, "left", colour)
            names = [f"{shorten(label)} {gain:.0f}" for _, gain, label in sorted(far, key=lambda one: one[1])]
            more = f", {len(names) - MOST_OUTLIERS} more" if len(names) > MOST_OUTLIERS else ""
            axes.annotate(", ".join(names[:MOST_OUTLIERS]) + more, (far[0][0], place), xytext=(-4, 6),
                          textcoords="offset points", ha="left", va="bottom", fontsize=7)
        middle = float(np.median([gain for _, gain, *_ in own]))
        if middle >= left and middle >= min(x for x, (_, gain, *_) in zip(shown, found, strict=True) if x == gain):
            axes.plot([middle], [place], "|", color=colour, markersize=20, markeredgewidth=2)
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    axes.set_yticks(range(len(families)), [family.replace("_", " ") for family in families])
    axes.set_ylim(len(families) - .5, -.5)
    axes.set_xlabel(f"test accuracy less {REFERENCE}'s, points; the bar is the median")
    return figure


def _lanes(values: Sequence[float], apart: float) -> list[float]:
    """The lane of each value: the first of LANES in which no smaller value is nearer than `apart`, or the first of all
    if there is none."""
    lanes = [0.0] * len(values)
    last: dict[float, float] = {}
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        free = [lane for lane in LANES if values[i] - last.get(lane, -np.inf) >= apart]
        lanes[i] = free[0] if free else LANES[0]
        last[lanes[i]] = values[i]
    return lanes


def critical_difference(heading: str, ranking: Ranking) -> Figure:
    """The average ranks (Demšar, 2006), with a bar for each group of methods within which no difference is significant
    by Nemenyi's test. The ranking must have the result of Friedman's test."""
    test = ranking.friedman
    assert test is not None
    ranks = {standing.label: standing.rank for standing in ranking.standings}
    figure, axes = new_figure(heading, 1.7 + .19 * len(ranks))
    for place, standing in enumerate(ranking.standings):
        colour, marker = family_look(standing.family)
        (mark,) = axes.plot(standing.rank, place, marker, color=colour, zorder=3)
        name_points(mark, [f"{standing.label}: average rank {standing.rank:.2f}"])
        axes.annotate(shorten(standing.label), (standing.rank, place), xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=8)
    order, apart = list(ranks), .018 * (max(ranks.values()) - min(ranks.values()) or 1)
    for number, group in enumerate(test.groups):
        places = [order.index(label) for label in group]
        x = min(ranks.values()) - apart * (number % MOST_BARS + 2)
        axes.plot([x, x], [min(places) - .2, max(places) + .2], color=GREY, linewidth=2)
    axes.set_ylim(len(ranks) - .5, -.5)
    axes.set_yticks([])
    axes.set_xlabel(f"average rank over {ranking.cells} cells; critical difference {test.critical_difference:.2f}")
    family_legend(axes, {standing.family for standing in ranking.standings})
    return figure
