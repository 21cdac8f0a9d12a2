"""The tables of two leaderboards side by side, and of what changed between them."""

from collections.abc import Iterator

from kdbench.analysis.answers.changes import (
    METRIC,
    Changes,
    RowChange,
    equal_on_shared,
    full_name,
    matched_cells,
    matched_rows,
)
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.intervals import paired_difference
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import BETTER, NONE, UNCLEAR, WORSE, Table, interval, p_value
from kdbench.report.tables.cell import versus
from kdbench.report.tables.orders import orders_beside


def beside_tables(first: Leaderboard, second: Leaderboard, names: tuple[str, str]) -> Iterator[Table]:
    """The tables of two leaderboards side by side. `names` is what their columns call the leaderboards.

    There is a table for each pair and dataset that both leaderboards have in cells of the same regime (a way to compare
    methods, such as at equal steps). It has the test accuracies of their methods, the differences between them on equal
    seeds, and the differences to the reference. Then comes a table of how alike the orders of methods are.
    """
    for cell, other in matched_cells(first, second)[0]:
        same = "" if other.id == cell.id else " (other settings of the cell)"
        yield _table(cell, other, names, f"{first.title(cell)}{same}")
    yield from orders_beside(first, second)


def change_tables(changes: Changes, names: tuple[str, str]) -> Iterator[Table]:
    """A table for each cell that two folders share, of the methods that both have, the largest difference first.
    `names` is what its columns call the folders."""
    accuracy = METRICS[METRIC].header
    header = ["method", *(f"{accuracy} {name}" for name in names), f"{names[1]} less {names[0]}", "p",
              f"vs {REFERENCE}"]
    for cell in dict.fromkeys(row.cell for row in changes.rows):
        lines = [[row.method, interval(row.first, "share"), interval(row.second, "share"), _changed(row),
                  NONE if row.p is None else p_value(row.p), _verdicts(row)]
                 for row in changes.rows if row.cell == cell]
        yield Table(cell, header, lines, 1, (
            f"{_less(names)} p: of no difference, by the paired t-test, after Holm's correction for all methods that "
            f"both have; ↑ and ↓ mark those with p below 0.05. vs {REFERENCE}: the verdict in {names[0]}, and that in "
            f"{names[1]} where it is another.",))


def _less(names: tuple[str, str]) -> str:
    return (f"{names[1]} less {names[0]}: mean over the seeds that both have, ± half the width of its 95 % t interval; "
            "0 without ± is the same accuracy on each of them.")


def _changed(row: RowChange) -> str:
    if row.equal:
        return "0"
    mark = "" if row.difference is None else UNCLEAR if not row.significant else \
        BETTER if row.difference.mean > 0 else WORSE
    return interval(row.difference, "share", "+") + mark


def _verdicts(row: RowChange) -> str:
    before, now = row.verdicts
    return before if before == now else f"{before or NONE} -> {now or NONE}"


def _table(cell: Cell, other: Cell, names: tuple[str, str], title: str) -> Table:
    accuracy = METRICS[METRIC].header
    header = ["method", *(f"{accuracy} {name}" for name in names), f"{names[1]} less {names[0]}",
              *(f"vs {REFERENCE} {name}" for name in names)]
    lines = [[_name(*rows), *(_accuracy(row) for row in rows), _difference(*rows),
              *(versus(place, row) if row else "" for place, row in zip((cell, other), rows, strict=True))]
             for rows in matched_rows(cell, other)]
    return Table(title, header, lines, 1, (_less(names),))


def _name(first: Row | None, second: Row | None) -> str:
    """The first leaderboard's label of a row that both have; of a row that only one has, the method with all its
    settings, since the other leaderboard may use the same label for another row."""
    if first is not None and second is not None:
        return first.label
    return "".join(full_name(row) for row in (first, second) if row is not None)


def _accuracy(row: Row | None) -> str:
    return interval(row.estimate(METRIC), "share") if row else ""


def _difference(first: Row | None, second: Row | None) -> str:
    if first is None or second is None:
        return ""
    values, reference = (row.metrics.get(METRIC, {}) for row in (second, first))
    return "0" if equal_on_shared(values, reference) else interval(paired_difference(values, reference), "share", "+")
