"""What all plots share: colours and markers that the colour-blind can tell apart, and the parts of a figure."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.plugins.source import FAMILIES, family_order

# The palette of Okabe and Ito, which the common kinds of colour blindness can tell apart, with a brown and a grey.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A6761D", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#555555"
OTHER = (GREY, "*")  # of teachers, and of families that are none of FAMILIES
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "kdbench", "font.size": 9, "text.parse_math": False, "axes.grid": True,
    "grid.alpha": .3, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
}
WIDTH = 7.5  # of a figure, in inches


def look(number: int) -> tuple[str, str]:
    """The colour and marker of the first (0), second (1), ... thing in a plot.

    The first nine differ in both; later ones repeat the colours with other markers, 81 in all.
    """
    repeat, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + repeat) % len(MARKERS)]


def family_look(family: str) -> tuple[str, str]:
    """The colour and marker of a family everywhere in a report; "" is a teacher's."""
    return look(FAMILIES.index(family)) if family in FAMILIES else OTHER


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the common width and that height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def label_rows(axes: Axes, labels: list[str]) -> None:
    """Name the places 0, 1, ... of the y axis, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - .5, -.7)


def family_legend(axes: Axes, families: Iterable[str]) -> None:
    """A legend below the axes with the look of each family; families that are none of FAMILIES share an entry."""
    names: dict[tuple[str, str], list[str]] = {}
    for family in sorted(set(families) - {""}, key=family_order):
        names.setdefault(family_look(family), []).append(family.replace("_", " "))
    for (colour, marker), alike in names.items():
        axes.plot([], [], marker, color=colour, label=", ".join(alike))
    axes.figure.legend(loc="outside lower center", ncols=5, frameon=False)


def floor(values: list[float]) -> float:
    """The lowest value that is no outlier (by Tukey's outer fence), where an axis begins: one failure among forty
    methods must not press the others into a line."""
    low, high = np.percentile(values, [25, 75])
    return min(value for value in values if value >= low - 3 * (high - low))


def clip(axes: Axes, values: list[float]) -> list[float]:
    """Begin the x axis at the `floor` of the values; the values as they are drawn, outliers at the left edge."""
    low, high = floor(values), max(values)
    margin = .06 * (high - low) or 1.0
    axes.set_xlim(low - 2 * margin if low > min(values) else low - margin, high + margin)
    return [value if value >= low else low - 1.5 * margin for value in values]
