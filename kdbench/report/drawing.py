"""Parts that all plots share: colours and markers that colour-blind readers can distinguish, intervals and legends."""

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

# The palette of Okabe and Ito, which readers with the common kinds of colour blindness can distinguish, with a brown
# and a grey.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A6761D", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#555555"
OTHER = (GREY, "*")  # the look of teachers, and of families that are not in FAMILIES
LINES = ("-", "--", ":", "-.")  # of the first, second, ... method of a family in plots with a line for each method
PLAIN = (("#000000", "|"), ("#888888", "p"), ("#444444", "2"), (GREY, "1"))  # looks of metrics, which no family has
CUT = {"left": 4, "right": 5, "up": 6, "down": 7}  # matplotlib's carets: arrowheads with their tip at the point
STYLE: Any = {
    "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 9, "text.parse_math": False,
    "axes.grid": True, "grid.alpha": .3, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "white",
}
WIDTH = 7.5  # of a figure, in inches
EXTENT = .35  # intervals widen an axis by up to this share of the means' range at each side; longer ones are cut


def look(number: int) -> tuple[str, str]:
    """The colour and marker of the first (0), second (1), ... item in a plot.

    The first nine items differ in both; later ones repeat the colours with other markers, so that there are 81 looks.
    """
    repeat, place = divmod(number, len(COLOURS))
    return COLOURS[place], MARKERS[(place + repeat) % len(MARKERS)]


def family_look(family: str) -> tuple[str, str]:
    """The colour and marker of a family, the same everywhere in a report. Teachers, whose family is "", and families
    that are not in FAMILIES have the look `OTHER`."""
    return look(FAMILIES.index(family)) if family in FAMILIES else OTHER


def line_styles(families: Sequence[str]) -> list[str]:
    """The line styles of methods, given the family of each: methods of one family have different styles, which repeat
    from its fifth method on."""
    return [LINES[families[:place].count(family) % len(LINES)] for place, family in enumerate(families)]


# Values and their intervals.

def scale(metric: str) -> int:
    """The factor by which plots multiply a metric's values: 100 for shares, which are drawn in percent, else 1."""
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
    """A value as `drawn` returns it, in words: "test accuracy 95.90 ± 0.31 %"."""
    def digits(number: float) -> str:
        return f"{number:.2f}" if METRICS[metric].unit == "share" else three_digits(number)

    width = "" if value.half_width is None else f" ± {digits(value.half_width)}"
    return f"{METRICS[metric].title} {digits(value.mean)}{width} {unit_sign(metric)}".rstrip()


def ends(values: Iterable[Estimate]) -> list[float]:
    """The lower and upper ends of all intervals, without those of values whose interval is not known."""
    return [end for value in values for end in (value.low, value.high) if end is not None]


def draw_interval(axes: Axes, along: Estimate, x: float, y: float, colour: str, *, horizontal: bool,
                  alpha: float = .55) -> None:
    """Draw an interval as a thin line through the point (x, y), with an arrow where the limit of the axis cuts it off.

    The limits of the axes must be final. Nothing is drawn if the interval is not known or has no width.
    """
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
    """Draw a small arrow with its tip at (x, y), to show that something continues beyond the axis in that direction:
    "left", "right", "up" or "down"."""
    axes.plot(x, y, marker=CUT[direction], color=colour, markersize=4, clip_on=False, zorder=3)


# The parts of a figure.

def new_figure(heading: str, height: float) -> tuple[Figure, Axes]:
    """A figure of the common width and the given height in inches, with its heading in small print on top, and its
    first axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(heading, 125)), x=.01, ha="left", fontsize=7, color=GREY)
    return figure, figure.add_subplot()


def lay_out(figure: Figure) -> None:
    """Give each part of a figure its place, without drawing it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def label_rows(axes: Axes, labels: list[str]) -> None:
    """Label the places 0, 1, ... of the y axis, with the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - .5, -.7)


def family_legend(axes: Axes, families: Iterable[str]) -> None:
    """Add a legend below the axes with the look of each family. Families that are not in FAMILIES share an entry, and
    teachers (family "") have none."""
    names: dict[tuple[str, str], list[str]] = {}
    for family in sorted(set(families) - {""}, key=family_order):
        names.setdefault(family_look(family), []).append(family.replace("_", " "))
    for (colour, marker), alike in names.items():
        axes.plot([], [], marker, color=colour, label=", ".join(alike))
    axes.figure.legend(loc="outside lower center", ncols=5, frameon=False)


def floor(values: Sequence[float]) -> float:
    """The lowest value that is not an outlier by Tukey's outer fence, three interquartile ranges below the first
    quartile.

    An axis begins there: otherwise one failed method among forty would press the others into a line.
    """
    low, high = np.percentile(values, [25, 75])
    return min(value for value in values if value >= low - 3 * (high - low))


def reach(values: Sequence[float], intervals: Sequence[float] = ()) -> tuple[float, float]:
    """The limits of an axis that shows the values with a margin. `intervals` are the ends of the values' intervals,
    which widen the axis by up to `EXTENT` at each side."""
    low, high = min(values), max(values)
    extent, margin = EXTENT * (high - low), .06 * (high - low) or 1.0
    return (max(min([low, *intervals]), low - extent) - margin, min(max([high, *intervals]), high + extent) + margin)


def clip(axes: Axes, values: Sequence[float], intervals: Sequence[float] = ()) -> list[float]:
    """Begin the x axis at the `floor` of the values, and return where each value is to be drawn.

    The axis also shows the ends of intervals as far as `reach` allows. Values below the floor are drawn in a strip at
    the left edge, where the caller adds an arrow; all others are drawn where they are.
    """
    lowest = floor(values)
    low, high = reach([value for value in values if value >= lowest], intervals)
    strip = .06 * (high - low)
    axes.set_xlim(low - strip if lowest > min(values) else low, high)
    return [value if value >= lowest else low - strip / 2 for value in values]
