"""Plots with a row for each method of a cell: accuracies, changes by class, groups, robustness, corruptions."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from kdbench.analysis.board import REFERENCE, Cell, Row
from kdbench.analysis.details import Details
from kdbench.analysis.intervals import Estimate
from kdbench.metrics.catalog import METRICS
from kdbench.report.drawing import (
    GREY,
    PLAIN,
    clip,
    draw_cut,
    draw_interval,
    drawn,
    ends,
    family_legend,
    family_look,
    floor,
    label_rows,
    new_figure,
    told,
)
from kdbench.report.formatting import with_unit
from kdbench.report.plots.labels import shorten
from kdbench.report.plots.svg import name_points
from kdbench.report.tables.parts import FURTHER

ROW = .19  # the height of a row, in inches


def accuracies(heading: str, cell: Cell, rows: Sequence[Row]) -> Figure:
    """Test accuracies with their intervals, and lines at the teacher's and the reference's."""
    figure, axes = new_figure(heading, 1.7 + ROW * len(rows))
    found = [(row, mean) for row in rows if (mean := drawn(row, "test_accuracy")) is not None]
    means = [mean.mean for _, mean in found]
    levels = list(_levels(cell, rows))
    lowest = floor([*means, *(level for _, level in levels)])
    shown = clip(axes, [*means, *(level for _, level in levels)], ends(m for _, m in found if m.mean >= lowest))
    label_rows(axes, [shorten(row.label) for row, _ in found])
    for place, ((row, mean), x) in enumerate(zip(found, shown, strict=False)):
        colour, marker = family_look(row.family)
        (mark,) = axes.plot(x, place, marker, color=colour, markersize=5, zorder=3)
        name_points(mark, [f"{row.label}: {told('test_accuracy', mean)}"])
        if x == mean.mean:
            draw_interval(axes, mean, x, place, colour, horizontal=True)
        else:
            draw_cut(axes, axes.get_xlim()[0], place, "left", colour)
            axes.annotate(f"{mean.mean:.1f}", (x, place), xytext=(6, 0), textcoords="offset points", va="center",
                          fontsize=8)
    for (name, level), side in zip(levels, _sides(levels), strict=True):
        axes.axvline(level, linestyle="--", linewidth=1, color=GREY, zorder=0)
        axes.text(level, -1.1, name, ha=side, va="bottom", fontsize=8)
    axes.set_xlabel(with_unit("test_accuracy"))
    family_legend(axes, {row.family for row in rows})
    return figure


def _levels(cell: Cell, rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """The names and test accuracies, in %, of the teacher and of the reference."""
    if cell.teacher and "test_accuracy" in cell.teacher.metrics:
        yield "teacher", 100 * cell.teacher.metrics["test_accuracy"]
    for row in rows:
        if row.is_reference and (mean := drawn(row, "test_accuracy")):
            yield row.label, mean.mean


def _sides(levels: Sequence[tuple[str, float]]) -> list[str]:
    """How the names of the levels are aligned to their lines: the names of two levels stand on the outer sides of both
    lines."""
    if len(levels) < 2:
        return ["center"] * len(levels)
    first_is_right = levels[0][1] >= levels[1][1]
    return ["left", "right"] if first_is_right else ["right", "left"]


def classes(heading: str, cell: Cell, rows: Sequence[Row], details: Details) -> Figure | None:
    """A heat map of `class_changes` in points, with a row for each method and a column for each class; None if there
    are no changes."""
    changes = class_changes(rows, details)
    if not changes:
        return None
    table = 100 * np.array(list(changes.values()))
    figure, axes = new_figure(heading, max(3, 1.5 + ROW * len(table)))  # the title of the colour bar needs room
    limit = float(np.nanpercentile(np.abs(table), 95)) or 1.0  # a maximum would let one failed method pale all others
    image = axes.imshow(table, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(changes)), [shorten(label) for label in changes])
    axes.grid(False)
    named = classes_with_room(table)
    names = [shorten(cell.class_name(index)) for index in named]
    if len(names) <= 20 and max(map(len, names)) < 4:
        axes.set_xticks(named, names)
    else:
        axes.set_xticks(named, names, rotation=60, rotation_mode="anchor", ha="right",
                        fontsize=9 if len(names) <= 20 else 6)
    axes.set_xlabel("class" if len(named) == table.shape[1] else "class (named: those that change most)")
    figure.colorbar(image, ax=axes, label=f"accuracy less {REFERENCE}'s, points", extend="both")
    return figure


def classes_with_room(table: np.ndarray) -> list[int]:
    """The indices of the classes, columns of changes [M, K], that are named on an axis: all of up to fifty classes; of
    more, those with the largest mean absolute change that have room beside each other."""
    count = table.shape[1]
    apart = max(1, -(-count // 50))
    size = np.nan_to_num(np.abs(table)).mean(0)
    chosen: list[int] = []
    for index in sorted(range(count), key=lambda index: -size[index]):
        if all(abs(index - other) >= apart for other in chosen):
            chosen.append(index)
    return sorted(chosen)


def class_changes(rows: Sequence[Row], details: Details) -> dict[str, np.ndarray]:
    """The change of accuracy on each of K classes against the reference, [K], by the label of each other method.

    It is the method's accuracy less the reference's, both as means over the seeds that the two share. Methods without
    the data are left out; without the reference, the result is empty.
    """
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


def parts(heading: str, cell: Cell, kind: str) -> Figure | None:
    """A heat map of the accuracies of the teacher and each method, written out as well, with a column for each part of
    that kind."""
    known = cell.shares(kind)
    names = list(dict.fromkeys(name for _, shares in known for name in shares))
    table = np.array([[100 * shares[name].mean if name in shares else np.nan for name in names] for _, shares in known])
    figure, axes = new_figure(heading, max(3, 1.5 + ROW * len(table)))
    image = axes.imshow(table, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(known)), [shorten(label) for label, _ in known])
    axes.set_xticks(range(len(names)), [shorten(name).replace(" ", "\n") for name in names], fontsize=8)
    axes.grid(False)
    for (line, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            axes.text(column, line, f"{value:.1f}", ha="center", va="center", fontsize=7,
                      color="black" if value > 55 else "white")  # on the light and on the dark half of the scale
    axes.set_xlabel(kind)
    figure.colorbar(image, ax=axes, label="accuracy, %")
    return figure


def group_gaps(heading: str, cell: Cell, rows: Sequence[Row]) -> Figure | None:
    """A line from the accuracy of the worst group to that of the best, for the teacher and each method. None if no
    method has the data."""
    names = ("worst_group_accuracy", "group_gap")
    shown = _with_teacher(cell, rows, names)
    shown = [(label, family, values) for label, family, values in shown if values.keys() >= set(names)]
    if not any(family for _, family, _ in shown):
        return None
    figure, axes = new_figure(heading, 1.7 + ROW * len(shown))
    for place, (label, family, values) in enumerate(shown):
        (colour, marker), (worst, gap) = family_look(family), (values[name].mean for name in names)
        axes.plot([worst, worst + gap], [place, place], color=colour, linewidth=2)
        (mark,) = axes.plot(worst, place, marker, color=colour, markersize=5)
        name_points(mark, [f"{label}: {', '.join(told(name, values[name]) for name in names)}"])
        axes.annotate(f"{gap:.1f}", (worst + gap, place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=7)
    label_rows(axes, [shorten(label) for label, *_ in shown])
    axes.set_xlabel("accuracy, %: the marker is the worst group, the line its gap to the best")
    family_legend(axes, {row.family for row in rows})
    return figure


def _with_teacher(cell: Cell, rows: Sequence[Row],
                  names: Sequence[str]) -> list[tuple[str, str, dict[str, Estimate]]]:
    """Label, family and values of the teacher and of each row, with the teacher first. The values are those of the
    shares with these names, in percent, by name; those that are not known are left out."""
    metrics = cell.teacher.metrics if cell.teacher else {}
    teacher = {name: Estimate(100 * metrics[name], None, 1) for name in names if name in metrics}
    return [("teacher", "", teacher), *(
        (row.label, row.family, {name: mean for name in names if (mean := drawn(row, name)) is not None})
        for row in rows)]


def robustness(heading: str, cell: Cell, rows: Sequence[Row]) -> Figure | None:
    """The accuracies of the teacher and each method on clean, corrupted and attacked images; None if fewer than two of
    them have such accuracies. Marks stand for metrics, and differ from those of families."""
    names = FURTHER["Robustness"]
    shown = [(label, values) for label, _, values in _with_teacher(cell, rows, names) if values]
    if len(shown) < 2:
        return None
    figure, axes = new_figure(heading, 1.7 + ROW * len(shown))
    for (colour, marker), name in zip(PLAIN, names, strict=True):
        points = [(place, label, values[name]) for place, (label, values) in enumerate(shown) if name in values]
        if points:
            (marks,) = axes.plot([value.mean for *_, value in points], [place for place, *_ in points], marker,
                                 color=colour, markersize=7, markeredgewidth=1.5, label=METRICS[name].title,
                                 linestyle="none")
            name_points(marks, [f"{label}: {told(name, value)}" for _, label, value in points])
    label_rows(axes, [shorten(label) for label, _ in shown])
    axes.set_xlabel("accuracy on the subset, %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
