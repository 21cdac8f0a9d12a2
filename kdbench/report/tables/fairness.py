"""The tables of the bias audit (what students inherited of their teacher's bias, added and mended), and of how fairness
changes along a sweep of a hyperparameter."""

from collections.abc import Iterator

from kdbench.analysis.answers.audit import Difference, Finding, audit, has_groups, summary
from kdbench.analysis.answers.trend import per_doubling, rows_of
from kdbench.analysis.board import REFERENCE, Cell, Row
from kdbench.analysis.harm import ClassChange
from kdbench.analysis.labels import Sweep
from kdbench.analysis.shares import GROUP
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import BETTER, NONE, UNCLEAR, WORSE, Table, interval, number

AUDIT = "Bias audit"
MEANING = (f"{AUDIT}: figures beside those of the teacher and of {REFERENCE}, the plain student. What the teacher has "
           "of a bias as well is inherited; what a student has beyond its teacher is added; what it has less than "
           f"{REFERENCE} is mended, and more, worsened. ↑ fairer, ↓ less fair at 5 %, after Holm's correction for the "
           f"methods of the table; ? unclear. vs {REFERENCE}: on equal seeds, with moderated intervals; vs teacher: "
           "Student's t over the student's seeds, the teacher being given.")
MOVED = (f"moved: classes whose accuracy, less that on all images, differs at 5 % from {REFERENCE}'s, and from the "
         "teacher's, by Welch's t-test over seeds (Mohammadshahi and Ioannou, 2025). It is not corrected for the "
         "number of classes, so that about one in twenty is found where nothing moved. harmed, helped: as in the table "
         "of classes, with images as a source of chance, and corrected.")
SWEPT = ("test_accuracy", "worst_class_accuracy", "worst_group_accuracy", "group_gap", "equalised_odds_difference",
         "demographic_parity_difference")
MOST_GROUPS = 8  # of an attribute, each with a column; with more, there is no table


def audit_tables(cell: Cell, name: str) -> Iterator[Table]:
    """The tables of a cell's bias audit; none if its test images have no groups. `name` is the cell's name in their
    titles."""
    if not has_groups(cell):
        return
    for metric, findings in audit(cell).items():
        yield _measure_table(cell, name, metric, findings)
    if any(row.harm for row in cell.rows):
        yield _moved_table(cell, name)
        for attribute in sorted({attribute for row in cell.rows if row.harm for attribute in row.harm.groups}):
            yield from _group_table(cell, name, attribute)


def sweep_tables(cell: Cell, name: str) -> Iterator[Table]:
    """A table for each sweep of a cell that has finished runs at two values or more. `name` is the cell's name in their
    titles."""
    for sweep in cell.sweeps:
        rows = list(rows_of(cell, sweep))
        if len(rows) > 1:
            yield _sweep_table(cell, name, sweep, rows)


def _measure_table(cell: Cell, name: str, metric: str, findings: tuple[Finding, ...]) -> Table:
    teacher = cell.teacher.metrics.get(metric) if cell.teacher else None
    lines = [[one.label, interval(one.value, "share"), difference(one.to_teacher), difference(one.to_reference)]
             for one in findings]
    if teacher is not None:
        lines.insert(0, ["teacher", number(teacher, "share"), "", ""])
    return Table(f"{AUDIT}, {METRICS[metric].title}: {name}",
                 ["method", METRICS[metric].header, "vs teacher", f"vs {REFERENCE}"], lines, 1,
                 summary(findings, teacher))


def difference(found: Difference | None) -> str:
    """A difference in points with half the width of its 95 % interval, and a mark for fairer, less fair or unclear; ""
    for None."""
    if found is None:
        return ""
    mark = UNCLEAR if not found.significant else BETTER if found.fairer else WORSE
    return f"{number(found.mean, 'share', '+')} ± {number(found.half_width, 'share')}{mark}"


def _moved_table(cell: Cell, name: str) -> Table:
    """The table of how many classes each method harms and helps, and how many moved by the measure of Mohammadshahi and
    Ioannou (2025)."""
    lines = [[row.label, *_classes(row)] for row in cell.rows if row.harm]
    return Table(f"{AUDIT}, classes: {name}",
                 ["method", "classes", "harmed", "helped", f"moved from {REFERENCE}", "moved from teacher"], lines, 1,
                 (MOVED,))


def _classes(row: Row) -> list[str]:
    """The number of classes, and how many of them are harmed, helped, moved from the reference, and moved from the
    teacher, as text; "n/a" where it is not known."""
    told = row.harm
    if told is None:
        return [NONE] * 5
    taught = NONE if told.moved_from_teacher is None else str(len(told.moved_from_teacher))
    return [str(len(told.classes)), str(len(told.harmed)), str(len(told.helped)), str(len(told.moved)), taught]


def _group_table(cell: Cell, name: str, attribute: str) -> Iterator[Table]:
    """The table of each method's change of accuracy against the reference on each group of an attribute.

    There is none for more than `MOST_GROUPS` groups, or if the number of groups is not the same for all rows.
    """
    rows = [(row, row.harm.groups[attribute]) for row in cell.rows if row.harm and attribute in row.harm.groups]
    names = group_names(rows[0][0], attribute)
    if len(names) > MOST_GROUPS or any(len(changes) != len(names) for _, changes in rows):
        return
    lines = [[row.label, *map(change_told, changes)] for row, changes in rows]
    reference = [number(change.reference, "share") for change in rows[0][1]]
    taught = cell.teacher.shares.get(f"{GROUP}{attribute}", {}) if cell.teacher else {}
    if len(taught) == len(names):
        lines.insert(0, ["teacher", *(number(taught[name].mean - change.reference, "share", "+")
                                      for name, change in zip(names, rows[0][1], strict=True))])
    told = ", ".join(f"{name} {value}" for name, value in zip(names, reference, strict=True))
    yield Table(f"{AUDIT}, accuracy by {attribute} less {REFERENCE}'s: {name}", ["method", *names], lines, 1, (
        f"In points. {REFERENCE} has {told} %. ↑ helped, ↓ harmed at 5 % after Holm's correction for the groups, with "
        "seeds and images as sources of chance; ? unclear. The teacher's are of one network and not tested.",))


def group_names(row: Row, attribute: str) -> list[str]:
    """The names of an attribute's groups that have test images, in the order of the row's changes by group."""
    return list(row.shares.get(f"{GROUP}{attribute}", {}))


def change_told(change: ClassChange) -> str:
    """The change of accuracy on a class or group in points, with a mark for better, worse or unclear."""
    mark = UNCLEAR if not change.significant else BETTER if change.change > 0 else WORSE
    return f"{number(change.change, 'share', '+')}{mark}"


def swept_metrics(cell: Cell, sweep: Sweep) -> list[str]:
    """The metrics that the table and the plot of a sweep show: those in `SWEPT` that all of its rows have."""
    rows = [row for _, row in rows_of(cell, sweep)]
    return [metric for metric in SWEPT if all(metric in row.metrics for row in rows)]


def _sweep_table(cell: Cell, name: str, sweep: Sweep, rows: list[tuple[float, Row]]) -> Table:
    """The table of a sweep's metrics by its values, below the teacher and the reference, with the trends in the last
    line."""
    metrics = swept_metrics(cell, sweep)
    counts = ["harmed", "helped", "moved"] if any(row.harm for _, row in rows) else []
    header = [sweep.parameter, *(METRICS[metric].header for metric in metrics), *counts]
    lines = []
    if cell.teacher and cell.teacher.metrics:
        lines.append(["teacher", *(number(cell.teacher.metrics.get(metric), "share") for metric in metrics),
                      *[""] * len(counts)])
    shown = [(row.label, row) for row in cell.rows if row.is_reference and row.runs]
    shown += [(f"{value:g}", row) for value, row in rows]
    for label, row in shown:
        told = [] if not counts else [""] * 3 if row.is_reference else _classes(row)[1:4]
        lines.append([label, *(interval(row.estimate(metric), "share") for metric in metrics), *told])
    trends = [interval(per_doubling(cell, sweep, metric), "share", "+") for metric in metrics]
    notes = []
    if any(trend != NONE for trend in trends):
        lines.append(["per doubling", *trends, *[""] * len(counts)])
        notes.append(f"per doubling: the slope of a line along log2 {sweep.parameter}, fitted to each seed; ± is half "
                     "the width of its 95 % t interval over seeds, not corrected for the number of columns. A curve "
                     "that rises and falls has no slope.")
    if counts:
        classes = next(len(row.harm.classes) for _, row in rows if row.harm)
        notes.append(f"Classes: {classes}. {MOVED}")
    return Table(f"{sweep.method} by {sweep.parameter}: {name}", header, lines, 1, tuple(notes))
