"""Two leaderboards side by side."""

from collections.abc import Iterator

from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.intervals import paired_difference
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import Table, interval
from kdbench.report.tables.cell import versus


def beside_tables(first: Leaderboard, second: Leaderboard, names: tuple[str, str]) -> Iterator[Table]:
    """For each pair and dataset that two leaderboards share, in cells that are compared in the same way, a table of
    their methods' test accuracies, of the differences on equal seeds, and of their differences to the reference.
    `names` is what the leaderboards are called."""
    for cell in first.cells:
        alike = [other for other in second.cells if _place(other) == _place(cell)]
        other = next((one for one in alike if one.id == cell.id), alike[0] if alike else None)
        if other is not None:
            same = "" if other.id == cell.id else " (other settings of the cell)"
            yield _table(cell, other, names, f"{first.title(cell)}{same}")


def _place(cell: Cell) -> tuple[str, str, bool]:
    return cell.pair, cell.dataset, cell.equal_compute


def _table(cell: Cell, other: Cell, names: tuple[str, str], title: str) -> Table:
    accuracy = METRICS["test_accuracy"].header
    header = ["method", *(f"{accuracy} {name}" for name in names), f"{names[1]} less {names[0]}",
              *(f"vs {REFERENCE} {name}" for name in names)]
    there = {row.label: row for row in other.rows}
    own = {row.label: row for row in cell.rows}
    lines = [[label, *(_accuracy(row) for row in rows), _difference(*rows),
              *(versus(place, row) if row else "" for place, row in zip((cell, other), rows, strict=True))]
             for label in [*own, *(label for label in there if label not in own)]
             for rows in [(own.get(label), there.get(label))]]
    return Table(title, header, lines, 1, (
        f"{names[1]} less {names[0]}: mean over the seeds that both have, ± half the width of its 95 % t interval; 0 "
        "without ± is the same accuracy on each of them.",))


def _accuracy(row: Row | None) -> str:
    return interval(row.estimate("test_accuracy"), "share") if row else ""


def _difference(first: Row | None, second: Row | None) -> str:
    if first is None or second is None:
        return ""
    values, reference = (row.metrics.get("test_accuracy", {}) for row in (second, first))
    found = paired_difference(values, reference)
    if found is not None and all(values[seed] == reference[seed] for seed in values.keys() & reference.keys()):
        return "0"
    return interval(found, "share", "+")
