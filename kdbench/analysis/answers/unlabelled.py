"""What images without labels buy: each method's cells with and without them, side by side on equal seeds."""

from collections import defaultdict
from dataclasses import dataclass, replace

from kdbench.analysis.answers.changes import METRIC, equal_on_shared, matched_rows, p_value_of
from kdbench.analysis.board import Cell, Leaderboard, Row, flatten
from kdbench.analysis.harm import SIGNIFICANCE, holm
from kdbench.analysis.intervals import Estimate, paired_difference


@dataclass(frozen=True)
class Gain:
    """A method with images without labels, and its test accuracy less that on the labelled images alone."""

    row: Row | None               # None where the method has no run with them
    difference: Estimate | None   # on equal seeds; None if there are none
    equal: bool = False           # whether the accuracy on each of these seeds is the same
    p: float | None = None        # two-sided, of no difference, after Holm's correction; None if it cannot be tested

    @property
    def significant(self) -> bool:
        """At 5 %."""
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True)
class Gains:
    """Cells that differ in their images without labels alone."""

    labelled: Cell                                  # has none of these
    cells: tuple[Cell, ...]
    rows: tuple[tuple[Row, tuple[Gain, ...]], ...]  # of `labelled`, each with what it has in every other cell


def unlabelled_gains(leaderboard: Leaderboard) -> list[Gains]:
    """The cells on labelled images alone that have others beside them. Holm's correction is for all methods and cells
    of one of them; methods whose runs are the same, since they learn nothing from images without labels, do not count.
    """
    alike: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in leaderboard.cells:
        alike[cell.pair, cell.equal_compute, *sorted(flatten(cell.spec).items())].append(cell)
    found = []
    for cells in alike.values():
        others = tuple(cell for cell in cells if cell.transfer)
        for labelled in (cell for cell in cells if others and not cell.transfer):
            beside = [{id(row): other for row, other in matched_rows(labelled, cell) if row} for cell in others]
            gains = [[_gain(row, rows.get(id(row))) for rows in beside] for row in labelled.rows]
            corrected = iter(holm([None if one.equal else one.p for each in gains for one in each]))
            found.append(Gains(labelled, others, tuple(
                (row, tuple(replace(one, p=next(corrected)) for one in each))
                for row, each in zip(labelled.rows, gains, strict=True))))
    return found


def _gain(row: Row, other: Row | None) -> Gain:
    """With p before any correction."""
    if other is None:
        return Gain(None, None)
    before, now = (one.metrics.get(METRIC, {}) for one in (row, other))
    difference = paired_difference(now, before)
    return Gain(other, difference, equal_on_shared(now, before), p_value_of(difference))
