"""The gain from images without labels: each method with and without them, compared on equal seeds."""

from collections import defaultdict
from dataclasses import dataclass, replace

from kdbench.analysis.answers.changes import METRIC, equal_on_shared, matched_rows, p_value_of
from kdbench.analysis.board import Cell, Leaderboard, Row, flatten
from kdbench.analysis.harm import SIGNIFICANCE, holm
from kdbench.analysis.intervals import Estimate, paired_difference


@dataclass(frozen=True)
class Gain:
    """The gain in test accuracy that images without labels give a method over the labelled images alone."""

    row: Row | None               # the method's row with these images; None if there is none
    difference: Estimate | None   # with them minus without, on equal seeds; None if no seed is shared
    equal: bool = False           # whether the accuracies on all of these seeds are equal
    p: float | None = None        # two-sided p-value of no difference, after Holm's correction; None: not tested

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p is not None and self.p < SIGNIFICANCE


@dataclass(frozen=True)
class Gains:
    """Cells that differ only in the images without labels that their students learn from."""

    labelled: Cell                                  # the cell without such images
    cells: tuple[Cell, ...]                         # the cells with them
    rows: tuple[tuple[Row, tuple[Gain, ...]], ...]  # those of `labelled`, each with its gains in `cells`


def unlabelled_gains(leaderboard: Leaderboard) -> list[Gains]:
    """The gains in each cell on labelled images alone that has counterparts, cells which only add images without
    labels. Holm's correction is for all methods and counterparts of one such cell; methods whose accuracies do not
    change, since they learn nothing from images without labels, are not counted."""
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
    """The gain, with an uncorrected p-value, from `row`, a method's row on labelled images alone, to `other`, its row
    with images without labels. Without `other`, the gain is empty."""
    if other is None:
        return Gain(None, None)
    before, now = (one.metrics.get(METRIC, {}) for one in (row, other))
    difference = paired_difference(now, before)
    return Gain(other, difference, equal_on_shared(now, before), p_value_of(difference))
