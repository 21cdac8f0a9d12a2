"""The table of what methods gain from images without labels."""

from collections.abc import Iterator, Sequence

from kdbench.analysis.answers.changes import METRIC
from kdbench.analysis.answers.unlabelled import Gain, Gains, unlabelled_gains
from kdbench.analysis.board import LABELLED, Cell, Leaderboard, Row
from kdbench.errors import plain
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import BETTER, UNCLEAR, WORSE, Table, interval, number
from kdbench.spec import Transfer


def unlabelled_tables(leaderboard: Leaderboard) -> Iterator[Table]:
    """A table for each cell that has labelled images only and is otherwise equal to cells with additional images
    without labels."""
    for gains in unlabelled_gains(leaderboard):
        yield _table(gains, f"What images without labels buy: {gains.labelled.pair} on {gains.labelled.dataset}")


def _table(gains: Gains, title: str) -> Table:
    accuracy, names = METRICS[METRIC].header, [_name(cell, gains.cells) for cell in gains.cells]
    header = ["method", "labelled", *(text for name in names for text in (name, f"gain by {name}"))]
    lines = [[row.label, _accuracy(row), *(text for gain in each for text in (_accuracy(gain.row), _difference(gain)))]
             for row, each in gains.rows]
    teacher = gains.labelled.teacher
    if teacher and METRIC in teacher.metrics:
        lines.insert(0, ["teacher", number(teacher.metrics[METRIC], "share"), *[""] * 2 * len(names)])
    told = "; ".join(f"{name}: {_count(cell)}{cell.transfer}" for name, cell in zip(names, gains.cells, strict=True))
    return Table(title, header, lines, 1, (
        f"{accuracy} labelled: on {LABELLED}; {told}.",
        "Each method takes the same number of updates on batches of the same size in every column. gain: mean "
        "difference to `labelled` over the seeds that both have, ± half the width of its 95 % t interval; ↑ and ↓ mark "
        "a paired t-test's p below 0.05, after Holm's correction for all methods and columns of this table. same: the "
        "same accuracy on each seed, as of methods that learn nothing from images without labels and are given the "
        "labelled ones alone; plain training among them is the control.",))


def _name(cell: Cell, cells: Sequence[Cell]) -> str:
    """A name of the cell's images without labels for the head of a column: their source and share of a batch, and their
    number if it is not the same in all of `cells`."""
    found = [Transfer(**one.spec["transfer"]) for one in cells]
    own = found[cells.index(cell)]
    source = own.images.removeprefix("imagefolder:").rstrip("/").rpartition("/")[2]
    size = "" if len({one.size for one in found}) == 1 else f"{'all' if own.size is None else f'{own.size:,}'} of "
    return plain(f"{size}{source} {own.share:.0%}")


def _count(cell: Cell) -> str:
    return f"{cell.split_sizes['unlabelled']:,} " if "unlabelled" in cell.split_sizes else ""


def _accuracy(row: Row | None) -> str:
    return "" if row is None else interval(row.estimate(METRIC), "share")


def _difference(gain: Gain) -> str:
    if gain.row is None or gain.difference is None:
        return ""
    if gain.equal:
        return "same"
    sign = UNCLEAR if not gain.significant else BETTER if gain.difference.mean > 0 else WORSE
    return interval(gain.difference, "share", "+") + sign
