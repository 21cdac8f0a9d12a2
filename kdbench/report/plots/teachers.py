"""Plots of several teachers of one student: its accuracy and agreement with them, against their size and accuracy.

Each method has a look of its own and not that of its family: the methods that are tried with several teachers are
mostly of one family, and single marks have no line whose style could distinguish them.
"""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from kdbench.analysis.answers.teachers import METRIC, Series, Taught
from kdbench.report.drawing import GREY, LINES, draw_interval, drawn, ends, look, new_figure, reach, told
from kdbench.report.formatting import with_unit
from kdbench.report.plots.labels import SIZE, keep_apart, shorten
from kdbench.report.plots.svg import name_points

FIDELITY = "agreement"
NUMBERS = 1.03  # the height of the teachers' numbers above the upper axes
APART = .035    # least distance between two of these, as a share of the axes' width


def teacher_curves(heading: str, one: Series) -> Figure:
    """Test accuracy of the methods above, and their agreement with the teacher below, against the teacher's test
    accuracy.

    If the teachers' parameters are known and differ, panels on the left have the parameters on their axis. Teachers are
    numbered by rising accuracy. Lines join teachers of the usual recipe, and hollow marks are teachers of other
    recipes.
    """
    names = ", ".join(f"{place}\u00a0{teacher.name}" for place, teacher in enumerate(one.teachers, start=1))
    figure, first = new_figure(f"{heading}; teachers: {names}", 6.6)
    sized = [teacher for teacher in one.teachers if teacher.parameters]
    columns: list[tuple[str, list[Taught], Callable[[Taught], float]]] = [
        (with_unit(METRIC, "teacher's test accuracy"), list(one.teachers), lambda teacher: 100 * teacher.accuracy)]
    if len({teacher.parameters for teacher in sized}) > 1:
        columns.insert(0, ("teacher's parameters", sized, lambda teacher: float(teacher.parameters or 0)))
    grid = figure.add_gridspec(2, len(columns))
    first.remove()
    above: list[Axes | None] = [None] * len(columns)
    for row, metric in enumerate((METRIC, FIDELITY)):
        left: Axes | None = None
        for column, (title, teachers, x) in enumerate(columns):
            axes = figure.add_subplot(grid[row, column], sharey=left, sharex=above[column])
            if column + 1 < len(columns):
                _logarithmic(axes, one, [x(teacher) for teacher in teachers])
            _draw(axes, one, teachers, x, metric)
            above[column] = axes
            if row == 0:
                _number(axes, one, teachers, x)
            axes.set_xlabel(title if row else "")
            axes.tick_params(labelbottom=bool(row), labelleft=left is None)
            if left is None:
                axes.set_ylabel(with_unit(metric))
                left = axes
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, handlelength=3)
    return figure


def _logarithmic(axes: Axes, one: Series, sizes: list[float]) -> None:
    """Make the x axis a logarithmic one of parameters, with a dotted line at the student's own."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(min(sizes) / 1.5, max(sizes) * 1.5)
    if one.parameters:
        axes.axvline(one.parameters, color=GREY, linestyle=":", linewidth=1, zorder=0)


def _draw(axes: Axes, one: Series, teachers: list[Taught], x: Callable[[Taught], float], metric: str) -> None:
    """Draw the lines and points of the methods with their intervals. Where test accuracy is drawn, methods that come
    out the same with every teacher are level lines."""
    points_of = {label: [(x(teacher), value, teacher) for teacher in sorted(teachers, key=x)
                         if label in teacher.rows and (value := drawn(teacher.rows[label], metric)) is not None]
                 for label in one.taught}
    level = {label: value for label in (one.untaught if metric == METRIC else ())
             if (value := drawn(one.row(label), metric)) is not None}
    shown = [*level.values(), *(value for points in points_of.values() for _, value, _ in points)]
    if shown:
        axes.set_ylim(*reach([value.mean for value in shown], ends(shown)))
    for place, (label, points) in enumerate(points_of.items(), start=1):  # look 0, black, is that of level lines
        colour, marker = look(place)
        joined = [(at, value.mean) for at, value, teacher in points if teacher.usual]
        axes.plot([at for at, _ in joined], [mean for _, mean in joined], color=colour, linewidth=1.2, zorder=2)
        for at, value, teacher in points:
            (point,) = axes.plot(at, value.mean, marker, color=colour, markersize=5, zorder=3,
                                 markerfacecolor=colour if teacher.usual else "white")
            name_points(point, [f"{label}, taught by {teacher.name}: {told(metric, value)}"])
            draw_interval(axes, value, at, value.mean, colour, horizontal=False, alpha=.35)
        axes.plot([], [], color=colour, marker=marker, markersize=5, label=shorten(label))
    for place, (label, value) in enumerate(level.items()):
        line = axes.axhline(value.mean, color=look(0)[0], linestyle=LINES[place % len(LINES)], linewidth=1.2,
                            label=shorten(label), zorder=1)
        name_points(line, [f"{label}: {told(metric, value)}"])


def _number(axes: Axes, one: Series, teachers: list[Taught], x: Callable[[Taught], float]) -> None:
    """Number the teachers above the axes, in the order of the table."""
    axes.margins(x=.06)
    numbers = [one.teachers.index(teacher) + 1 for teacher in teachers]
    axes.autoscale_view()
    places = [float(axes.transAxes.inverted().transform(axes.transData.transform((x(teacher), 0)))[0])
              for teacher in teachers]
    for teacher, number, place in zip(teachers, numbers, keep_apart(places, APART), strict=True):
        axes.annotate(str(number), (x(teacher), 1), xycoords=("data", "axes fraction"), xytext=(place, NUMBERS),
                      textcoords="axes fraction", ha="center", va="bottom", fontsize=SIZE, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "linewidth": .5, "color": GREY, "shrinkA": 0, "shrinkB": 0})
