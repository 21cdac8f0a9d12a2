"""What all plots share: colours and markers that the colour-blind can tell apart, and the parts of a figure."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.analysis.board import Row
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.analysis.intervals import Estimate
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import FAMILIES, family_order
from kdbench.report.formatting import three_digits, unit_sign

# The palette of Okabe and Ito, which the common kinds of colour blindness can tell apart, with a brown and a grey.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A6761D", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#555555"
OTHER = (GREY, "*")  # of teachers, and of families that are none of FAMILIES
LINES = ("-", "--", ":", "-.")  # of the first, second, ... method of a family where single methods are drawn as lines
PLAIN = (("#000000", "|"), ("#888888", "p"), ("#444444", "2"), (GREY, "1"))  # of metrics: no family looks like one
CUT = {"left": 4, "right": 5, "up": 6, "down": 7}  # matplotlib's carets: arrowheads with their tip at the point
STYLE: Any = {
    "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 9, "text.parse_math": False,
    "axes.grid": True, "grid.alpha": .3, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "white",
}
WIDTH = 7.5  # of a figure, in inches
EXTENT = .35  # of an axis' range around the means, that intervals may add at each side; what is longer is cut


def look(number: int) -> tuple[str, str]:
    """The colour and marker of the first (0), second (1), ... thing in a plot.

    The first nine differ in both; later ones repeat the colours with other markers, 81 in all.
    """
    repeat, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + repeat) % len(MARKERS)]


def family_look(family: str) -> tuple[str, str]:
    """The colour and marker of a family everywhere in a report; "" is a teacher's."""
    return look(FAMILIES.index(family)) if family in FAMILIES else OTHER


def line_styles(families: Sequence[str]) -> list[str]:
    """The line style of each of several methods, given by their families: those of one family differ, as far as there
    are line styles."""
    return [LINES[families[:place].count(family) % len(LINES)] for place, family in enumerate(families)]


# Values and their intervals.

def scale(metric: str) -> int:
    """What a metric's values are multiplied with in a plot: shares are drawn in percent."""
    return 100 if METRICS[metric].unit == "share" else 1


def drawn(row: Row, metric: str) -> Estimate | None:
    """The row's mean of a metric as a plot shows it, a share in percent; without an interval for fewer than MIN_SEEDS
    seeds, as in the tables. None if the row lacks the metric."""
    found = row.estimate(metric)
    if found is None:
        return None
    known = found.half_width is not None and found.count >= MIN_SEEDS
    return Estimate(scale(metric) * found.mean, scale(metric) * (found.half_width or 0) if known else None, found.count)


def told(metric: str, value: Estimate) -> str:
    """A drawn value in words, "test accuracy 95.90 ± 0.31 %"."""
    def digits(number: float) -> str:
        return f"{number:.2f}" if METRICS[metric].unit == "share" else three_digits(number)

    width = "" if value.half_width is None else f" ± {digits(value.half_width)}"
    return f"{METRICS[metric].title} {digits(value.mean)}{width} {unit_sign(metric)}".rstrip()


def ends(values: Iterable[Estimate]) -> list[float]:
    """The ends of all intervals that are known."""
    return [end for value in values for end in (value.low, value.high) if end is not None]


def draw_interval(axes: Axes, along: Estimate, x: float, y: float, colour: str, *, horizontal: bool,
                  alpha: float = .55) -> None:
    """An interval as a thin line through the point (x, y), with an arrow where the limit of the axis, which must be
    final, cuts it. Nothing if the interval is not known."""
    if along.low is None or along.high is None or math.isclose(along.low, along.high):
        return
    least, most = sorted(axes.get_xlim() if horizontal else axes.get_ylim())
    cuts = (("left" if horizontal else "down") if along.low < least else None,
            ("right" if horizontal else "up") if along.high > most else None)
    shown = [max(along.low, least), min(along.high, most)]
    for place, cut in zip(shown, cuts, strict=True):
        if cut:
            draw_cut(axes, place if horizontal else x, y if horizontal else place, cut, colour)
    across, upwards = (shown, [y, y]) if horizontal else ([x, x], shown)
    axes.plot(across, upwards, "-", color=colour, linewidth=1, alpha=alpha, zorder=1)


def draw_cut(axes: Axes, x: float, y: float, direction: str, colour: str) -> None:
    """A small arrow with its tip at (x, y): what is drawn goes on in that direction, beyond the axis."""
    axes.plot(x, y, marker=CUT[direction], color=colour, markersize=4, clip_on=False, zorder=3)


# The parts of a figure.

def new_figure(heading: str, height: float) -> tuple[Figure, Axes]:
    """A figure of the common width and that height in inches, with its heading in small print on top."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(heading, 125)), x=.01, ha="left", fontsize=7, color=GREY)
    return figure, figure.add_subplot()


def lay_out(figure: Figure) -> None:
    """Give each part of a figure its place, without drawing it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


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


def floor(values: Sequence[float]) -> float:
    """The lowest value that is no outlier (by Tukey's outer fence), where an axis begins: one failure among forty
    methods must not press the others into a line."""
    low, high = np.percentile(values, [25, 75])
    return min(value for value in values if value >= low - 3 * (high - low))


def reach(values: Sequence[float], intervals: Sequence[float] = ()) -> tuple[float, float]:
    """The ends of an axis around values, with a margin; around the ends of intervals as far as `EXTENT` allows."""
    low, high = min(values), max(values)
    extent, margin = EXTENT * (high - low), .06 * (high - low) or 1.0
    return (max(min([low, *intervals]), low - extent) - margin, min(max([high, *intervals]), high + extent) + margin)


def clip(axes: Axes, values: Sequence[float], intervals: Sequence[float] = ()) -> list[float]:
    """Begin the x axis at the `floor` of the values, and of intervals' ends as far as `reach` allows; the values as
    they are drawn, outliers at the left edge, where an arrow points to them."""
    lowest = floor(values)
    low, high = reach([value for value in values if value >= lowest], intervals)
    strip = .06 * (high - low)
    axes.set_xlim(low - strip if lowest > min(values) else low, high)
    return [value if value >= lowest else low - strip / 2 for value in values]
