"""The plots of a report: per cell, per dataset and over all cells, each as SVG and PNG."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from kdbench.analysis.answers.teachers import series
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard
from kdbench.analysis.details import Details
from kdbench.analysis.ranking import rank
from kdbench.analysis.shares import CLASS
from kdbench.metrics.catalog import METRICS
from kdbench.report.drawing import STYLE
from kdbench.report.plots.across import critical_difference, gains
from kdbench.report.plots.lines import expected_bests, learning_curves, reliability, swept
from kdbench.report.plots.rows import accuracies, class_changes, classes, group_gaps, parts, robustness
from kdbench.report.plots.scatter import front, front_told, latencies, points_of, scatter, with_source
from kdbench.report.plots.svg import Plot, finish, inline_svg
from kdbench.report.plots.teachers import teacher_curves
from kdbench.report.tables.parts import MOST_PARTS

__all__ = ["Drawing", "Plot", "class_changes", "drawings", "front", "inline_svg", "plots"]

COSTS = ("seconds", "step_time_ratio", "training_energy_joules")  # metrics of the cost of training
INTERVALS = ("Lines through points are 95 % intervals over three or more seeds; an arrow is where the axis ends before "
             "they do. Outliers stand at the edge, with their figures.")


class Drawing(NamedTuple):
    """A figure that is not yet written as SVG and PNG, with the name, title and description of its `Plot`."""

    figure: Figure
    name: str
    title: str
    description: str


def plots(leaderboard: Leaderboard, details: Details) -> list[Plot]:
    """Every plot for which the leaderboard has the data, as SVG and PNG."""
    with mpl.rc_context(STYLE):
        return [finish(*drawing) for drawing in drawings(leaderboard, details)]


def drawings(leaderboard: Leaderboard, details: Details) -> Iterator[Drawing]:
    """The figure of every plot for which there are data, headed by the plot's title and the beginning of the results'
    hash."""
    for draw, name, title, description in _planned(leaderboard, details):
        figure = draw(f"{title}; results {leaderboard.results_hash[:16]}")
        if figure is not None:
            yield Drawing(figure, name, title, description)


# A function that draws a figure under a given heading, or returns None if the data are missing; the figure's name,
# title and description.
Planned = tuple[Callable[[str], Figure | None], str, str, str]


def _planned(leaderboard: Leaderboard, details: Details) -> Iterator[Planned]:
    for cell in leaderboard.cells:
        if any(row.runs for row in cell.rows):
            yield from _of_cell(cell, leaderboard.title(cell), details)
    for dataset, device, points in latencies(leaderboard):
        what = f"{METRICS['latency_ms'].title} on {device}"
        yield (partial(scatter, points=points, metric="latency_ms", what=what), f"latency-{_slug(dataset)}-{device}",
               f"{_capital(what)} and test accuracy: {dataset}",
               "Test accuracy of each method, and of the teachers, against the latency of the network that it deploys. "
               f"{INTERVALS} {front_told(points)}")
    for one in series(leaderboard):
        names = "; ".join(f"{place} {teacher.name}" for place, teacher in enumerate(one.teachers, start=1))
        yield (partial(teacher_curves, one=one), _slug(f"teachers-{one.title}"), f"Several teachers: {one.title}",
               "Test accuracy of each method, and its agreement with the teacher, against the teacher's parameters and "
               f"test accuracy. {INTERVALS} Level lines are methods that come out the same whoever the teacher is, "
               "and the dotted line is the student's own size. Lines join teachers of the usual recipe; hollow marks "
               f"are those of another. Teachers: {names}.")
    for part in leaderboard.regimes():
        what = f" ({part.regime})" if part.regime else ""
        yield (partial(gains, leaderboard=part), _slug(f"gain-by-family{what}"),
               f"Gain over {REFERENCE} by family{what}",
               f"Test accuracy of each method in each cell less that of {REFERENCE}, grouped by family. Outliers stand "
               "at the left edge, with their names and figures.")
        ranking = rank(part)
        if ranking is not None and ranking.friedman is not None:
            yield (partial(critical_difference, ranking=ranking), _slug(f"critical-difference{what}"),
                   f"Average ranks and critical difference{what}",
                   "Methods by average rank; bars join those that Nemenyi's test cannot tell apart.")


def _of_cell(cell: Cell, name: str, details: Details) -> Iterator[Planned]:
    """The plots of one cell; `name` is the cell's name in their titles."""
    slug, rows = _slug(name), [row for row in cell.rows if row.runs]
    yield (partial(accuracies, cell=cell, rows=rows), f"accuracy-{slug}", f"Test accuracy: {name}",
           "Test accuracy of each method, best first, with its 95 % interval over seeds where there are three or more. "
           "An arrow is where the axis ends before it. The figures are in the table.")
    for metric in ("agreement", *COSTS):
        points, what = list(points_of(rows, metric)), with_source(cell, metric)
        cost = f" {front_told(points)}" if METRICS[metric].better == "lower" else ""
        if len(points) > 1:
            yield (partial(scatter, points=points, metric=metric, what=what), f"{metric.replace('_', '-')}-{slug}",
                   f"{_capital(what)} and test accuracy: {name}",
                   f"Each method's test accuracy against its {what}. {INTERVALS}{cost}")
    yield (partial(classes, cell=cell, rows=rows, details=details), f"classes-{slug}",
           f"Change per class against {REFERENCE}: {name}",
           f"Accuracy on each class less that of {REFERENCE} with the same seeds, by method.")
    yield (partial(reliability, rows=rows, details=details), f"reliability-{slug}", f"Reliability: {name}",
           "Accuracy against predicted probability, in bins; on the diagonal, a network is calibrated. Below, the "
           "share of the images in each bin: few images tell little.")
    yield (partial(group_gaps, cell=cell, rows=rows), f"group-gaps-{slug}", f"Group gaps: {name}",
           "The accuracy of each method's worst group, and from there its gap to the best one.")
    for sweep in cell.sweeps:
        yield (partial(swept, cell=cell, sweep=sweep), _slug(f"{sweep.method}-by-{sweep.parameter}-{name}"),
               f"{_capital(sweep.method)} by {sweep.parameter}: {name}",
               f"Metrics of {sweep.method} against its {sweep.parameter}, with 95 % intervals over three or more "
               f"seeds; dashed {REFERENCE}, dotted the teacher.")
    yield (partial(robustness, cell=cell, rows=rows), f"robustness-{slug}", f"Robustness: {name}",
           "Accuracy of each method on clean, corrupted and attacked images of the same subset.")
    for kind in dict.fromkeys(kind for row in rows for kind, parts_of in row.shares.items()
                              if kind != CLASS and len(parts_of) <= MOST_PARTS):
        yield (partial(parts, cell=cell, kind=kind), _slug(f"by-{kind}-{name}"),
               f"Accuracy by {kind.replace(': ', ' ')}: {name}",
               f"The accuracy of the teacher and each method on each part of the test images, by {kind}.")
    yield (partial(learning_curves, rows=rows, details=details), f"curves-{slug}", f"Learning curves: {name}",
           "Validation accuracy after each epoch, mean over seeds.")
    yield (partial(expected_bests, cell=cell), f"expected-best-{slug}", f"Expected best validation accuracy: {name}",
           "The highest validation accuracy to expect of so many trials of each method, drawn at random of those that "
           "were made (Dodge et al., 2019); a curve that rises late needs many.")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
