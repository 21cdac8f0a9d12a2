"""The table of several teachers of one student: the accuracy of its methods with each teacher, and their agreement with
it."""

from collections.abc import Iterator

from kdbench.analysis.answers.teachers import METRIC, Series, series
from kdbench.analysis.board import Leaderboard
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import NONE, Table, interval, mark, number


def teacher_tables(leaderboard: Leaderboard) -> Iterator[Table]:
    """A table for each student with several teachers: the accuracy of its methods, and their agreement with the
    teacher, by teacher."""
    for one in series(leaderboard):
        yield _table(one)


def _table(one: Series) -> Table:
    header = ["method", "teacher", "params", "teacher's acc.", METRICS[METRIC].header,
              "vs best teacher", METRICS["agreement"].header]
    lines = [[label, "any", "", "", interval(one.row(label).estimate(METRIC), "share"), "", ""]
             for label in one.untaught]
    lines += [line for label in one.taught for line in _lines(one, label)]
    return Table(f"Teachers of {one.title}", header, lines, 2, (
        "Teachers by their test accuracy, the lowest first, with the number of their parameters. A method that comes "
        "out the same with each of them stands in one line.",
        "vs best teacher: test accuracy less that with the most accurate teacher, on equal seeds, with the moderated "
        "95 % interval; ↑ marks teachers that make better students than the most accurate one does, ↓ worse, ? "
        "unclear, at 5 % after Holm's correction for all methods and teachers of the table.",
        f"{METRICS['agreement'].header}: {METRICS['agreement'].definition}"))


def _lines(one: Series, label: str) -> Iterator[list[str]]:
    for teacher in one.teachers:
        row = teacher.rows.get(label)
        if row is None or METRIC not in row.metrics:
            continue
        size = NONE if teacher.parameters is None else f"{teacher.parameters:,.0f}"
        told = one.comparisons.get((label, teacher.cell.id))
        difference = "" if teacher is one.best else NONE if told is None else \
            f"{number(told.mean, 'share', '+')} ± {number(told.half_width, 'share')}{mark(told)}"
        agreement = row.estimate("agreement")
        yield [label, teacher.name, size, number(teacher.accuracy, "share"), interval(row.estimate(METRIC), "share"),
               difference, number(agreement.mean if agreement else None, "share")]
