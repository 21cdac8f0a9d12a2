"""Plots with a line for each method of a cell: learning curves, reliability, sweeps, and the expected best of tuning.

A line has the colour and marker of its method's family; the methods of one family differ in the style of the line.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdbench.analysis.answers.trend import rows_of
from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Row
from kdbench.analysis.details import Details
from kdbench.analysis.labels import Sweep
from kdbench.report.drawing import GREY, drawn, family_look, floor, line_styles, new_figure, scale, told
from kdbench.report.formatting import with_unit
from kdbench.report.plots.labels import name_ends, shorten
from kdbench.report.plots.scatter import HIGHLIGHTED
from kdbench.report.plots.svg import name_points
from kdbench.report.tables.fairness import swept_metrics
from kdbench.tune.summary import expected_best


def highlighted(rows: Sequence[Row]) -> list[Row]:
    """The first `HIGHLIGHTED` rows, which are the best, and the references."""
    return [row for place, row in enumerate(rows) if place < HIGHLIGHTED or row.label in REFERENCES]


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, family: str, style: str) -> Line2D:
    """Draw the line of one method, whose label appears when a pointer rests on it, and return it."""
    colour, marker = family_look(family)
    (line,) = axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, linestyle=style,
                        label=shorten(label), zorder=3)
    name_points(line, [label])
    return line


def learning_curves(heading: str, rows: Sequence[Row], details: Details) -> Figure | None:
    """Validation accuracy by epoch; highlighted methods are named at the ends of their lines, the others are thin and
    grey. None if no run has a curve."""
    curves = [(row, curve) for row in rows if (curve := details.mean_curve(row))]
    if not curves:
        return None
    figure, axes = new_figure(heading, 4.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel(with_unit("validation_accuracy"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=all(e == int(e) for _, curve in curves for e in curve)))
    best = highlighted(rows)
    styles = dict(zip((row.label for row in best), line_styles([row.family for row in best]), strict=True))
    named = []
    for row, curve in curves:
        epochs, accuracy = list(curve), [100 * value for value in curve.values()]
        if row.label in styles:
            _line(axes, epochs, accuracy, row.label, row.family, styles[row.label])
            named.append((epochs[-1], accuracy[-1], row.label, family_look(row.family)[0]))
        else:
            (line,) = axes.plot(epochs, accuracy, color="#BBBBBB", linewidth=.8)
            name_points(line, [row.label])
    name_ends(figure, axes, named)
    return figure


def reliability(heading: str, rows: Sequence[Row], details: Details) -> Figure | None:
    """Accuracy against mean predicted probability, in bins, of the highlighted methods; below, the share of the images
    that each bin holds. None if none of these methods has the data."""
    names = ("images", "correct", "confidence")
    found = []
    for row in highlighted(rows):
        images, correct, confidence = (details.mean_vector(row, f"reliability_{name}") for name in names)
        if images is not None and correct is not None and confidence is not None:
            found.append((row, images, correct, confidence))
    if not found:
        return None
    figure, axes = new_figure(heading, 5.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(3.2, 1))
    axes.set_subplotspec(grid[0])
    counts = figure.add_subplot(grid[1], sharex=axes)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    for (row, images, correct, confidence), style in zip(
            found, line_styles([row.family for row, *_ in found]), strict=True):
        some = images > 0
        _line(axes, 100 * confidence[some] / images[some], 100 * correct[some] / images[some], row.label, row.family,
              style)
        counts.stairs(np.where(some, 100 * images / images.sum(), np.nan), np.linspace(0, 100, len(images) + 1),
                      baseline=None, color=family_look(row.family)[0], linestyle=style, linewidth=1.2)
    counts.set_yscale("log")
    counts.yaxis.set_major_formatter("{x:g}")
    counts.set_ylabel("images, %")
    counts.set_xlabel("predicted probability, %: mean of each bin above, bins below")
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, handlelength=4)
    return figure


def swept(heading: str, cell: Cell, sweep: Sweep) -> Figure | None:
    """The metrics of a sweep against its values, each in a panel of its own, with intervals and lines at the figures of
    the teacher and of the reference. None if fewer than two values have finished runs, or if their rows share no
    metric."""
    rows, metrics = list(rows_of(cell, sweep)), swept_metrics(cell, sweep)
    if len(rows) < 2 or not metrics:
        return None
    height = -(-len(metrics) // 2)
    figure, first = new_figure(heading, .6 + 2.1 * height)
    grid = figure.add_gridspec(height, 2)
    values = [value for value, _ in rows]
    colour, marker = family_look(rows[0][1].family)
    reference = next((row for row in cell.rows if row.is_reference), None)
    for place, metric in enumerate(metrics):
        axes = first if place == 0 else figure.add_subplot()
        axes.set_subplotspec(grid[divmod(place, 2)])
        means = [mean for _, row in rows if (mean := drawn(row, metric)) is not None]
        widths = [mean.half_width or 0 for mean in means]
        axes.errorbar(values, [mean.mean for mean in means], widths, color=colour, linewidth=.8, capsize=2, zorder=2)
        (line,) = axes.plot(values, [mean.mean for mean in means], color=colour, marker=marker, markersize=4, zorder=3)
        name_points(line, [f"{row.label}: {told(metric, mean)}" for (_, row), mean in zip(rows, means, strict=True)])
        plain = drawn(reference, metric) if reference else None
        teacher = cell.teacher.metrics.get(metric) if cell.teacher else None
        for name, level, style in ((REFERENCE, plain.mean if plain else None, "--"),
                                   ("teacher", None if teacher is None else scale(metric) * teacher, ":")):
            if level is not None:
                axes.axhline(level, color=GREY, linewidth=1, linestyle=style, label=name, zorder=1)
        if min(values) > 0:
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.set_title(with_unit(metric), fontsize=8)
        if place >= len(metrics) - 2:
            axes.set_xlabel(sweep.parameter)
    if first.get_legend_handles_labels()[0]:
        first.legend(frameon=False, fontsize=7)
    return figure


def expected_bests(heading: str, cell: Cell) -> Figure | None:
    """The expected best validation accuracy of each tuned method against the number of trials; None if no method has
    two trials or more."""
    by_method = {row.method: row.family for row in cell.rows}
    families = {one.label: by_method.get(one.choice.method, "") for one in cell.tuning}
    curves = {one.label: [100 * float(value) for value in expected_best([t.accuracy for t in one.choice.trials])]
              for one in cell.tuning if len(one.choice.trials) > 1}
    if not curves:
        return None
    labels = sorted(curves, key=lambda label: -curves[label][-1])
    figure, axes = new_figure(heading, max(4.6, .13 * len(labels)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("trials")
    axes.set_ylabel("expected best validation accuracy, %")
    styles = line_styles([families[label] for label in labels])
    for label, style in zip(labels, styles, strict=True):
        _line(axes, range(1, len(curves[label]) + 1), curves[label], label, families[label], style)
    axes.set_ylim(bottom=floor([value for values in curves.values() for value in values]) - .5)
    name_ends(figure, axes, [(len(curves[label]), curves[label][-1], label, family_look(families[label])[0])
                             for label in labels])
    return figure
