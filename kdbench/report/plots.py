"""The plots of a report, readable in print and by the colour-blind: families differ in colour and in marker."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.costs import energy_source
from kdbench.analysis.details import Details
from kdbench.analysis.ranking import Ranking, rank
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import FAMILIES
from kdbench.report.tables import FURTHER, class_name, title

# The palette of Okabe and Ito, which the common kinds of colour blindness can tell apart, with a brown and a grey.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#A6761D", "#7F7F7F")


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


LOOKS = dict(zip(FAMILIES, zip(COLOURS, MARKERS, strict=True), strict=True))


OTHER = ("#555555", "*")  # of teachers, and of families that are not known


STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "kdbench", "font.size": 9, "text.parse_math": False, "axes.grid": True,
    "grid.alpha": .3, "axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white",
}


WIDTH = 7.5            # inches


HIGHLIGHTED = 3        # of the best methods, named in plots that would be crowded with all


COSTS = ("seconds", "step_time_ratio", "training_energy_joules")  # of training


@dataclass(frozen=True)
class Plot:
    name: str         # of its files
    title: str
    description: str  # for those who cannot see it
    svg: bytes
    png: bytes


def plots(leaderboard: Leaderboard, details: Details) -> list[Plot]:
    """All plots that the records can give."""
    with mpl.rc_context(STYLE):
        return [plot for plot in _all(leaderboard, details) if plot is not None]


def _all(leaderboard: Leaderboard, details: Details) -> Iterator[Plot | None]:
    for cell in leaderboard.cells:
        name, rows = title(cell, leaderboard), [row for row in cell.rows if row.runs]
        slug = _slug(name)
        if not rows:
            continue
        yield _finish(_accuracy(cell, rows), f"accuracy-{slug}", f"Test accuracy: {name}",
                      "Test accuracy of each method with its 95 % interval over seeds, best first; the figures are in "
                      "the table.")
        for metric in ("agreement", *COSTS):
            points, what = list(_points(rows, metric)), _with_source(cell, metric)
            if len(points) > 1:
                yield _finish(_scatter(points, metric, what), f"{metric.replace('_', '-')}-{slug}",
                              f"{what[0].upper()}{what[1:]} and test accuracy: {name}",
                              f"Each method's test accuracy against its {what}.")
        yield _finish(_classes(cell, rows, details), f"classes-{slug}", f"Change per class against {REFERENCE}: {name}",
                      f"Accuracy on each class less that of {REFERENCE} with the same seeds, by method.")
        yield _finish(_reliability(rows, details), f"reliability-{slug}", f"Reliability: {name}",
                      "Accuracy against predicted probability, in bins; on the diagonal, a network is calibrated.")
        yield _finish(_group_gaps(cell, rows), f"group-gaps-{slug}", f"Group gaps: {name}",
                      "The accuracy of each method's worst group, and from there its gap to the best one.")
        yield _finish(_robustness(cell, rows), f"robustness-{slug}", f"Robustness: {name}",
                      "Accuracy of each method on clean, corrupted and attacked images of the same subset.")
        yield _finish(_curves(rows, details), f"curves-{slug}", f"Learning curves: {name}",
                      "Validation accuracy after each epoch, mean over seeds.")
    yield from _latencies(leaderboard)
    yield _finish(_gains(leaderboard), "gain-by-family", f"Gain over {REFERENCE} by family",
                  f"Test accuracy of each method in each cell less that of {REFERENCE}, grouped by family.")
    ranking = rank(leaderboard)
    if ranking is not None and ranking.friedman is not None:
        yield _finish(_critical_difference(ranking), "critical-difference", "Average ranks and critical difference",
                      "Methods by average rank; bars join those that Nemenyi's test cannot tell apart.")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _finish(figure: Figure | None, name: str, heading: str, description: str) -> Plot | None:
    """The figure in both formats, without the date and versions that would change its bytes."""
    if figure is None:
        return None
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Plot(name, heading, description, svg.getvalue(), png.getvalue())


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def colour(family: str) -> str:
    """Of the family, everywhere in a report."""
    return _look(family)[0]


def _look(family: str) -> tuple[str, str]:
    return LOOKS.get(family, OTHER)


def _legend(axes: Axes, families: set[str]) -> None:
    for family in (f for f in (*FAMILIES, "unknown") if f in families):
        colour, marker = _look(family)
        axes.plot([], [], marker, color=colour, label=family.replace("_", " "))
    axes.figure.legend(loc="outside lower center", ncols=5, frameon=False)


def _percent(row: Row, metric: str) -> float:
    estimate = row.estimate(metric)
    assert estimate is not None
    return estimate.mean * (100 if METRICS[metric].unit == "share" else 1)


def _axis(metric: str, what: str | None = None) -> str:
    unit = {"share": "%"}.get(METRICS[metric].unit, METRICS[metric].unit)
    return f"{what or METRICS[metric].title}, {unit}" if unit else what or METRICS[metric].title


def floor(values: list[float]) -> float:
    """Where an axis begins: at the lowest value that is no outlier (Tukey's outer fence), so that one failure among
    forty methods does not press the others into a line."""
    low, high = np.percentile(values, [25, 75])
    return min(value for value in values if value >= low - 3 * (high - low))


def _clip(axes: Axes, values: list[float]) -> list[float]:
    """The x values with outliers at the left edge, where they are labelled with what they are."""
    low, high = floor(values), max(values)
    margin = .06 * (high - low) or 1.0
    axes.set_xlim(low - 2 * margin if low > min(values) else low - margin, high + margin)
    return [value if value >= low else low - 1.5 * margin for value in values]


# One cell.

def _accuracy(cell: Cell, rows: list[Row]) -> Figure:
    figure, axes = _figure(1.6 + .19 * len(rows))
    rows = [row for row in rows if "test_accuracy" in row.metrics]
    means = [_percent(row, "test_accuracy") for row in rows]
    levels = [100 * value for _, value in _levels(cell, rows)]
    shown = _clip(axes, [*means, *levels])
    for place, (row, x, mean) in enumerate(zip(rows, shown, means, strict=False)):
        colour, marker = _look(row.family)
        estimate = row.estimate("test_accuracy")
        width = 100 * (estimate.half_width or 0) if estimate and x == mean else 0
        axes.errorbar(x, place, xerr=width, fmt=marker, color=colour, capsize=2, markersize=5)
        if x != mean:
            axes.annotate(f"{mean:.1f}", (x, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    for name, value in _levels(cell, rows):
        axes.axvline(100 * value, linestyle="--", linewidth=1, color="#555555")
        axes.text(100 * value, -1.1, name, ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - .5, -.7)
    axes.set_xlabel(_axis("test_accuracy"))
    _legend(axes, {row.family for row in rows})
    return figure


def _levels(cell: Cell, rows: list[Row]) -> Iterator[tuple[str, float]]:
    if cell.teacher and "test_accuracy" in cell.teacher.metrics:
        yield "teacher", cell.teacher.metrics["test_accuracy"]
    for row in rows:
        if row.is_reference and (estimate := row.estimate("test_accuracy")):
            yield row.label, estimate.mean


def _with_source(cell: Cell, metric: str) -> str:
    """The metric's title; that of an energy says where its figures come from."""
    source = energy_source(cell.costs, metric) if METRICS[metric].unit == "joules" else None
    return METRICS[metric].title + (f" ({source})" if source else "")


class Point(NamedTuple):
    """A method, or a teacher, in a plot of accuracy against another metric."""

    x: float
    accuracy: float
    label: str
    family: str  # "" is a teacher's


def _points(rows: list[Row], metric: str, of: str = "") -> Iterator[Point]:
    """The rows that have both figures; `of` ends their labels."""
    for row in rows:
        if metric in row.metrics and "test_accuracy" in row.metrics:
            yield Point(_percent(row, metric), _percent(row, "test_accuracy"), row.label + of, row.family)


def _scatter(points: list[Point], metric: str, what: str) -> Figure:
    """Accuracy against another metric, called `what`; of a cost, with the points that none beats in both."""
    figure, axes = _figure(4.6)
    lowest = floor([point.accuracy for point in points])
    below = [point.label for point in points if point.accuracy < lowest]
    points = [point for point in points if point.accuracy >= lowest]
    for point in points:
        colour, marker = _look(point.family)
        axes.plot(point.x, point.accuracy, marker, color=colour, markersize=6)
    if below:
        axes.annotate(f"far below: {', '.join(below)}", (.01, .01), xycoords="axes fraction", fontsize=7)
    named = points
    if METRICS[metric].better == "lower":
        best = [points[i] for i in front([(point.x, point.accuracy) for point in points])]
        named = best + [point for point in points if point not in best and not point.family]
        axes.plot([point.x for point in best], [point.accuracy for point in best], color="#555555", linewidth=1,
                  zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for point in named if len(named) <= 15 else named[:HIGHLIGHTED]:
        axes.annotate(point.label, (point.x, point.accuracy), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel(_axis(metric, what))
    axes.set_ylabel(_axis("test_accuracy"))
    _legend(axes, {point.family for point in points})
    return figure


def front(points: list[tuple[float, float]]) -> list[int]:
    """The Pareto front: by rising cost, the points that are more accurate than every cheaper or equally cheap one."""
    best, kept = -np.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            kept.append(i)
    return kept


def _classes(cell: Cell, rows: list[Row], details: Details) -> Figure | None:
    changes = class_changes(rows, details)
    if not changes:
        return None
    table = 100 * np.array(list(changes.values()))
    figure, axes = _figure(1.4 + .19 * len(table))
    limit = float(np.nanpercentile(np.abs(table), 95)) or 1.0  # one failed method would bleach all others
    image = axes.imshow(table, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(changes)), list(changes))
    axes.grid(False)
    if table.shape[1] <= 20:
        names = [class_name(cell, index) for index in range(table.shape[1])]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 60)
    axes.set_xlabel("class")
    figure.colorbar(image, ax=axes, label=f"accuracy less {REFERENCE}'s, points", extend="both")
    return figure


def class_changes(rows: list[Row], details: Details) -> dict[str, np.ndarray]:
    """[K] by method: mean accuracy on each class less the reference's, over the seeds that both have."""
    reference = next((row for row in rows if row.is_reference), None)
    changes: dict[str, np.ndarray] = {}
    if reference is None:
        return changes
    for row in rows:
        shared = sorted(row.runs.keys() & reference.runs.keys())
        own = details.mean_vector(row, "class_accuracy", shared)
        other = details.mean_vector(reference, "class_accuracy", shared)
        if row is not reference and own is not None and other is not None:
            changes[row.label] = own - other
    return changes


def _group_gaps(cell: Cell, rows: list[Row]) -> Figure | None:
    """For each method a line as long as its gap, which begins at the accuracy of its worst group."""
    shown = [(row.label, row.family, _percent(row, "worst_group_accuracy"), _percent(row, "group_gap")) for row in rows
             if {"worst_group_accuracy", "group_gap"} <= row.metrics.keys()]
    if not shown:
        return None
    teacher = cell.teacher.metrics if cell.teacher else {}
    if {"worst_group_accuracy", "group_gap"} <= teacher.keys():
        shown.insert(0, ("teacher", "", 100 * teacher["worst_group_accuracy"], 100 * teacher["group_gap"]))
    figure, axes = _figure(1.6 + .19 * len(shown))
    for place, (_, family, worst, gap) in enumerate(shown):
        colour, marker = _look(family)
        axes.plot([worst, worst + gap], [place, place], color=colour, linewidth=2)
        axes.plot(worst, place, marker, color=colour, markersize=5)
        axes.annotate(f"{gap:.1f}", (worst + gap, place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=7)
    axes.set_yticks(range(len(shown)), [label for label, *_ in shown])
    axes.set_ylim(len(shown) - .5, -.7)
    axes.set_xlabel("accuracy, %: the marker is the worst group, the line its gap to the best")
    _legend(axes, {row.family for row in rows})
    return figure


def _robustness(cell: Cell, rows: list[Row]) -> Figure | None:
    """For each method its accuracies on clean, corrupted and attacked images, in the table's order."""
    names = FURTHER["Robustness"]
    shown = [(row.label, {name: _percent(row, name) for name in names if name in row.metrics}) for row in rows]
    teacher = cell.teacher.metrics if cell.teacher else {}
    shown.insert(0, ("teacher", {name: 100 * teacher[name] for name in names if name in teacher}))
    shown = [(label, values) for label, values in shown if values]
    if len(shown) < 2:
        return None
    figure, axes = _figure(1.6 + .19 * len(shown))
    for name, colour, marker in zip(names, COLOURS, MARKERS, strict=False):
        points = [(values[name], place) for place, (_, values) in enumerate(shown) if name in values]
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=5, label=METRICS[name].title)
    axes.set_yticks(range(len(shown)), [label for label, _ in shown])
    axes.set_ylim(len(shown) - .5, -.7)
    axes.set_xlabel("accuracy on the subset, %")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _reliability(rows: list[Row], details: Details) -> Figure | None:
    figure, axes = _figure(4.6)
    axes.plot([0, 100], [0, 100], color="#555555", linewidth=1, linestyle="--")
    drawn = 0
    for row, (colour, marker) in zip(_highlighted(rows), zip(COLOURS, MARKERS, strict=True), strict=False):
        images, correct, confidence = (
            details.mean_vector(row, f"reliability_{what}") for what in ("images", "correct", "confidence"))
        if images is not None and correct is not None and confidence is not None:
            some = images > 0
            axes.plot(100 * confidence[some] / images[some], 100 * correct[some] / images[some], marker=marker,
                      color=colour, markersize=4, label=row.label)
            drawn += 1
    if not drawn:
        return None
    axes.set_xlabel("mean predicted probability, %")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False)
    return figure


def _curves(rows: list[Row], details: Details) -> Figure | None:
    figure, axes = _figure(4.2)
    highlighted, drawn = _highlighted(rows), 0
    for row in rows:
        curve = details.mean_curve(row)
        if curve is None:
            continue
        epochs = range(1, len(curve) + 1)
        if row in highlighted:
            place = highlighted.index(row)
            axes.plot(epochs, 100 * curve, color=COLOURS[place], marker=MARKERS[place], markersize=3, label=row.label,
                      zorder=3)
        else:
            axes.plot(epochs, 100 * curve, color="#BBBBBB", linewidth=.8)
        drawn += 1
    if not drawn:
        return None
    axes.set_xlabel("epoch")
    axes.set_ylabel(_axis("validation_accuracy"))
    axes.legend(frameon=False)
    return figure


def _highlighted(rows: list[Row]) -> list[Row]:
    """The references and the best methods."""
    return [row for place, row in enumerate(rows) if place < HIGHLIGHTED or row.label in REFERENCES]


# Several cells.

def _latencies(leaderboard: Leaderboard) -> Iterator[Plot | None]:
    """By dataset and device. Within a cell nearly all methods deploy one network: teachers and other pairs are what a
    latency is compared with."""
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in leaderboard.cells:
        alike.setdefault((cell.dataset, cell.spec["device"]), []).append(cell)
    for (dataset, device), cells in alike.items():
        points: list[Point] = []
        for cell in cells:
            of = f", {title(cell, leaderboard).replace(f' on {dataset}', '')}" if len(cells) > 1 else ""
            points += _points([row for row in cell.rows if row.runs], "latency_ms", of)
            metrics = cell.teacher.metrics if cell.teacher else {}
            if {"latency_ms", "test_accuracy"} <= metrics.keys():
                points.append(Point(metrics["latency_ms"], 100 * metrics["test_accuracy"], f"teacher{of}", ""))
        if points:
            what = f"{METRICS['latency_ms'].title} on {device}"
            yield _finish(_scatter(points, "latency_ms", what), f"latency-{_slug(dataset)}-{device}",
                          f"{what[0].upper()}{what[1:]} and test accuracy: {dataset}",
                          "Test accuracy of each method, and of the teachers, against the latency of the network that "
                          "it deploys.")


def _gains(leaderboard: Leaderboard) -> Figure | None:
    gains = [(row.family, 100 * row.differences[REFERENCE].mean) for cell in leaderboard.cells for row in cell.rows
             if REFERENCE in row.differences]
    if not gains:
        return None
    families = [family for family in (*FAMILIES, "unknown") if any(f == family for f, _ in gains)]
    figure, axes = _figure(1.2 + .35 * len(families))
    shown = _clip(axes, [gain for _, gain in gains])
    for (family, gain), x in zip(gains, shown, strict=True):
        colour, marker = _look(family)
        place = families.index(family)
        axes.plot(x, place, marker, color=colour, alpha=.7)
        if x != gain:
            axes.annotate(f"{gain:.0f}", (x, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7)
    for place, family in enumerate(families):
        middle = float(np.median([gain for f, gain in gains if f == family]))
        if middle >= min(x for x, (_, gain) in zip(shown, gains, strict=True) if x == gain):
            axes.plot([middle], [place], "|", color=_look(family)[0], markersize=18, markeredgewidth=2)
    axes.axvline(0, color="#555555", linewidth=1)
    axes.set_yticks(range(len(families)), [family.replace("_", " ") for family in families])
    axes.set_ylim(len(families) - .5, -.5)
    axes.set_xlabel(f"test accuracy less {REFERENCE}'s, points; the bar is the median")
    return figure


def _critical_difference(ranking: Ranking) -> Figure:
    test = ranking.friedman
    assert test is not None
    ranks = {standing.label: standing.rank for standing in ranking.standings}
    figure, axes = _figure(1.4 + .19 * len(ranks))
    for place, (label, value) in enumerate(ranks.items()):
        axes.plot(value, place, "o", color=COLOURS[1])
        axes.annotate(label, (value, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    order = list(ranks)
    for number, group in enumerate(test.groups):
        places = [order.index(label) for label in group]
        x = min(ranks.values()) - .15 * (number % 6 + 1)
        axes.plot([x, x], [min(places) - .2, max(places) + .2], color=COLOURS[0], linewidth=2)
    axes.set_ylim(len(ranks) - .5, -.5)
    axes.set_yticks([])
    axes.set_xlabel(f"average rank over {ranking.cells} cells; critical difference {test.critical_difference:.2f}")
    return figure
