"""The plots of a report: per cell, per dataset and over all cells, each as SVG and PNG."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kdbench.analysis.board import EQUAL_COMPUTE, REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.costs import energy_source
from kdbench.analysis.details import Details
from kdbench.analysis.ranking import Ranking, rank
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import family_order
from kdbench.report.drawing import (
    COLOURS,
    GREY,
    STYLE,
    clip,
    family_legend,
    family_look,
    floor,
    label_rows,
    look,
    new_figure,
)
from kdbench.report.formatting import with_unit
from kdbench.report.tables.parts import FURTHER
from kdbench.tune.summary import expected_best

COSTS = ("seconds", "step_time_ratio", "training_energy_joules")  # of training
HIGHLIGHTED = 3  # best methods that are named in plots which the names of all would crowd


@dataclass(frozen=True)
class Plot:
    """A plot as files, and the texts that stand with it."""

    name: str         # of its files, without their endings
    title: str
    description: str  # a sentence for readers who cannot see it
    svg: bytes
    png: bytes


def plots(leaderboard: Leaderboard, details: Details) -> list[Plot]:
    """Every plot that the leaderboard has the data for."""
    with mpl.rc_context(STYLE):
        return [plot for plot in _all(leaderboard, details) if plot is not None]


def _all(leaderboard: Leaderboard, details: Details) -> Iterator[Plot | None]:
    for cell in leaderboard.cells:
        name, rows = leaderboard.title(cell), [row for row in cell.rows if row.runs]
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
        yield _finish(_luck(cell), f"expected-best-{slug}", f"Expected best validation accuracy: {name}",
                      "The highest validation accuracy to expect of so many trials of each method, drawn at random of "
                      "those that were made (Dodge et al., 2019); a curve that rises late needs many.")
    yield from _latencies(leaderboard)
    for part in leaderboard.regimes():
        what = f" ({EQUAL_COMPUTE})" if part.equal_compute else ""
        yield _finish(_gains(part), _slug(f"gain-by-family{what}"), f"Gain over {REFERENCE} by family{what}",
                      f"Test accuracy of each method in each cell less that of {REFERENCE}, grouped by family.")
        ranking = rank(part)
        if ranking is not None and ranking.friedman is not None:
            yield _finish(_critical_difference(ranking), _slug(f"critical-difference{what}"),
                          f"Average ranks and critical difference{what}",
                          "Methods by average rank; bars join those that Nemenyi's test cannot tell apart.")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _finish(figure: Figure | None, name: str, heading: str, description: str) -> Plot | None:
    """The figure in both formats, without the date and versions, which would change its bytes; None for None."""
    if figure is None:
        return None
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return Plot(name, heading, description, svg.getvalue(), png.getvalue())


def _percent(row: Row, metric: str) -> float:
    """The row's mean of a metric that it has, a share in percent."""
    estimate = row.estimate(metric)
    assert estimate is not None
    return estimate.mean * (100 if METRICS[metric].unit == "share" else 1)


# One cell.

def _accuracy(cell: Cell, rows: list[Row]) -> Figure:
    """Test accuracies with their intervals, and a line at the teacher's and at the reference's."""
    figure, axes = new_figure(1.6 + .19 * len(rows))
    rows = [row for row in rows if "test_accuracy" in row.metrics]
    means = [_percent(row, "test_accuracy") for row in rows]
    levels = [100 * value for _, value in _levels(cell, rows)]
    shown = clip(axes, [*means, *levels])
    for place, (row, x, mean) in enumerate(zip(rows, shown, means, strict=False)):
        colour, marker = family_look(row.family)
        estimate = row.estimate("test_accuracy")
        width = 100 * (estimate.half_width or 0) if estimate and x == mean else 0
        axes.errorbar(x, place, xerr=width, fmt=marker, color=colour, capsize=2, markersize=5)
        if x != mean:
            axes.annotate(f"{mean:.1f}", (x, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
    for name, value in _levels(cell, rows):
        axes.axvline(100 * value, linestyle="--", linewidth=1, color=GREY)
        axes.text(100 * value, -1.1, name, ha="center", va="bottom", fontsize=8)
    label_rows(axes, [row.label for row in rows])
    axes.set_xlabel(with_unit("test_accuracy"))
    family_legend(axes, {row.family for row in rows})
    return figure


def _levels(cell: Cell, rows: list[Row]) -> Iterator[tuple[str, float]]:
    """The names and test accuracies, as shares, of the teacher and of the reference."""
    if cell.teacher and "test_accuracy" in cell.teacher.metrics:
        yield "teacher", cell.teacher.metrics["test_accuracy"]
    for row in rows:
        if row.is_reference and (estimate := row.estimate("test_accuracy")):
            yield row.label, estimate.mean


def _with_source(cell: Cell, metric: str) -> str:
    """The metric's title; an energy's with the source of its values in brackets."""
    source = energy_source(cell.costs, metric) if METRICS[metric].unit == "joules" else None
    return METRICS[metric].title + (f" ({source})" if source else "")


class Point(NamedTuple):
    """A method, or a teacher, in a plot of test accuracy against another metric."""

    x: float         # the other metric, a share in %
    accuracy: float  # in %
    label: str
    family: str      # "" is a teacher's


def _points(rows: list[Row], metric: str, of: str = "") -> Iterator[Point]:
    """The points of the rows that have both metrics; `of` is appended to their labels."""
    for row in rows:
        if metric in row.metrics and "test_accuracy" in row.metrics:
            yield Point(_percent(row, metric), _percent(row, "test_accuracy"), row.label + of, row.family)


def _scatter(points: list[Point], metric: str, what: str) -> Figure:
    """Test accuracy against another metric, whose axis is titled `what`. A cost has a logarithmic axis, and a line
    through the points of the Pareto front."""
    figure, axes = new_figure(4.6)
    lowest = floor([point.accuracy for point in points])
    below = [point.label for point in points if point.accuracy < lowest]
    points = [point for point in points if point.accuracy >= lowest]
    for point in points:
        colour, marker = family_look(point.family)
        axes.plot(point.x, point.accuracy, marker, color=colour, markersize=6)
    if below:
        axes.annotate(f"far below: {', '.join(below)}", (.01, .01), xycoords="axes fraction", fontsize=7)
    named = points
    if METRICS[metric].better == "lower":
        best = [points[i] for i in front([(point.x, point.accuracy) for point in points])]
        named = best + [point for point in points if point not in best and not point.family]
        axes.plot([point.x for point in best], [point.accuracy for point in best], color=GREY, linewidth=1,
                  zorder=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for point in named if len(named) <= 15 else named[:HIGHLIGHTED]:
        axes.annotate(point.label, (point.x, point.accuracy), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel(with_unit(metric, what))
    axes.set_ylabel(with_unit("test_accuracy"))
    family_legend(axes, {point.family for point in points})
    return figure


def front(points: list[tuple[float, float]]) -> list[int]:
    """The Pareto front of points (cost, accuracy): the indices, by rising cost, of those that are more accurate than
    every point that costs no more."""
    best, kept = -np.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            kept.append(i)
    return kept


def _classes(cell: Cell, rows: list[Row], details: Details) -> Figure | None:
    """A heat map of `class_changes`, methods by classes, in points."""
    changes = class_changes(rows, details)
    if not changes:
        return None
    table = 100 * np.array(list(changes.values()))
    figure, axes = new_figure(1.4 + .19 * len(table))
    limit = float(np.nanpercentile(np.abs(table), 95)) or 1.0  # one failed method would bleach all others
    image = axes.imshow(table, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(changes)), list(changes))
    axes.grid(False)
    if table.shape[1] <= 20:
        names = [cell.class_name(index) for index in range(table.shape[1])]
        axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 60)
    axes.set_xlabel("class")
    figure.colorbar(image, ax=axes, label=f"accuracy less {REFERENCE}'s, points", extend="both")
    return figure


def class_changes(rows: list[Row], details: Details) -> dict[str, np.ndarray]:
    """By the label of each method but the reference, [K]: its accuracy on each class less the reference's, both means
    over the seeds that the two share."""
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
    """For the teacher and each method a line from the accuracy of the worst group to that of the best."""
    shown = [(row.label, row.family, _percent(row, "worst_group_accuracy"), _percent(row, "group_gap")) for row in rows
             if {"worst_group_accuracy", "group_gap"} <= row.metrics.keys()]
    if not shown:
        return None
    teacher = cell.teacher.metrics if cell.teacher else {}
    if {"worst_group_accuracy", "group_gap"} <= teacher.keys():
        shown.insert(0, ("teacher", "", 100 * teacher["worst_group_accuracy"], 100 * teacher["group_gap"]))
    figure, axes = new_figure(1.6 + .19 * len(shown))
    for place, (_, family, worst, gap) in enumerate(shown):
        colour, marker = family_look(family)
        axes.plot([worst, worst + gap], [place, place], color=colour, linewidth=2)
        axes.plot(worst, place, marker, color=colour, markersize=5)
        axes.annotate(f"{gap:.1f}", (worst + gap, place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=7)
    label_rows(axes, [label for label, *_ in shown])
    axes.set_xlabel("accuracy, %: the marker is the worst group, the line its gap to the best")
    family_legend(axes, {row.family for row in rows})
    return figure


def _robustness(cell: Cell, rows: list[Row]) -> Figure | None:
    """For the teacher and each method the accuracies on clean, corrupted and attacked images."""
    names = FURTHER["Robustness"]
    shown = [(row.label, {name: _percent(row, name) for name in names if name in row.metrics}) for row in rows]
    teacher = cell.teacher.metrics if cell.teacher else {}
    shown.insert(0, ("teacher", {name: 100 * teacher[name] for name in names if name in teacher}))
    shown = [(label, values) for label, values in shown if values]
    if len(shown) < 2:
        return None
    figure, axes = new_figure(1.6 + .19 * len(shown))
    for number, name in enumerate(names):
        colour, marker = look(number)
        points = [(values[name], place) for place, (_, values) in enumerate(shown) if name in values]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=5, label=METRICS[name].title)
    label_rows(axes, [label for label, _ in shown])
    axes.set_xlabel("accuracy on the subset, %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _reliability(rows: list[Row], details: Details) -> Figure | None:
    """Accuracy against mean predicted probability in bins, of the highlighted methods."""
    figure, axes = new_figure(4.6)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    drawn = 0
    for number, row in enumerate(_highlighted(rows)):
        colour, marker = look(number)
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
    """Validation accuracy by epoch; the highlighted methods are named, the others thin and grey."""
    figure, axes = new_figure(4.2)
    highlighted, drawn = _highlighted(rows), 0
    for row in rows:
        curve = details.mean_curve(row)
        if not curve:
            continue
        epochs, accuracy = list(curve), 100 * np.array(list(curve.values()))
        if row in highlighted:
            colour, marker = look(highlighted.index(row))
            axes.plot(epochs, accuracy, color=colour, marker=marker, markersize=3, label=row.label, zorder=3)
        else:
            axes.plot(epochs, accuracy, color="#BBBBBB", linewidth=.8)
        drawn += 1
    if not drawn:
        return None
    axes.set_xlabel("epoch")
    axes.set_ylabel(with_unit("validation_accuracy"))
    axes.legend(frameon=False)
    return figure


def _highlighted(rows: list[Row]) -> list[Row]:
    """The best methods and the references."""
    return [row for place, row in enumerate(rows) if place < HIGHLIGHTED or row.label in REFERENCES]


# All cells.

def _luck(cell: Cell) -> Figure | None:
    """The expected best validation accuracy of each tuned method against the number of trials; None without tuning."""
    curves = {one.label: 100 * np.array(expected_best(
        [trial.accuracy for trial in one.choice.trials])) for one in cell.tuning if len(one.choice.trials) > 1}
    if not curves:
        return None
    figure, axes = new_figure(4.6)
    for place, label in enumerate(sorted(curves, key=lambda label: -curves[label][-1])):
        values, (colour, marker) = curves[label], look(place)
        axes.plot(np.arange(1, len(values) + 1), values, color=colour, marker=marker, markersize=3, linewidth=1,
                  label=label)
    axes.set_ylim(bottom=floor([float(value) for values in curves.values() for value in values]) - .5)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("trials")
    axes.set_ylabel("expected best validation accuracy, %")
    figure.legend(loc="outside right center", frameon=False, fontsize=7)
    return figure


def _latencies(leaderboard: Leaderboard) -> Iterator[Plot | None]:
    """A plot for each dataset and device, over all pairs: within a cell nearly all methods deploy the same network, so
    that a latency is compared with the teacher's and with those of other pairs."""
    alike: dict[tuple[str, str], list[Cell]] = {}
    for cell in leaderboard.cells:
        alike.setdefault((cell.dataset, cell.spec["device"]), []).append(cell)
    for (dataset, device), cells in alike.items():
        points: list[Point] = []
        for cell in cells:
            of = f", {leaderboard.title(cell).replace(f' on {dataset}', '')}" if len(cells) > 1 else ""
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
    """The differences to the reference in all cells, a line of points for each family with a bar at its median."""
    gains = [(row.family, 100 * row.differences[REFERENCE].mean) for cell in leaderboard.cells for row in cell.rows
             if REFERENCE in row.differences]
    if not gains:
        return None
    families = sorted({family for family, _ in gains}, key=family_order)
    figure, axes = new_figure(1.2 + .35 * len(families))
    shown = clip(axes, [gain for _, gain in gains])
    for (family, gain), x in zip(gains, shown, strict=True):
        colour, marker = family_look(family)
        place = families.index(family)
        axes.plot(x, place, marker, color=colour, alpha=.7)
        if x != gain:
            axes.annotate(f"{gain:.0f}", (x, place), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=7)
    for place, family in enumerate(families):
        middle = float(np.median([gain for f, gain in gains if f == family]))
        if middle >= min(x for x, (_, gain) in zip(shown, gains, strict=True) if x == gain):
            axes.plot([middle], [place], "|", color=family_look(family)[0], markersize=18, markeredgewidth=2)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(families)), [family.replace("_", " ") for family in families])
    axes.set_ylim(len(families) - .5, -.5)
    axes.set_xlabel(f"test accuracy less {REFERENCE}'s, points; the bar is the median")
    return figure


def _critical_difference(ranking: Ranking) -> Figure:
    """The average ranks (Demšar, 2006); a bar joins each group of methods that the test cannot tell apart."""
    test = ranking.friedman
    assert test is not None
    ranks = {standing.label: standing.rank for standing in ranking.standings}
    figure, axes = new_figure(1.4 + .19 * len(ranks))
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
