"""The table of what images without labels buy."""

from collections.abc import Iterator, Mapping

from kdbench.analysis.answers.changes import METRIC
from kdbench.analysis.answers.unlabelled import Gain, Gains, unlabelled_gains
from kdbench.analysis.board import LABELLED, Leaderboard, Row
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import BETTER, UNCLEAR, WORSE, Table, interval, number


def unlabelled_tables(leaderboard: Leaderboard) -> Iterator[Table]:
    """A table for each cell on labelled images alone that has cells with further images beside it."""
    for gains in unlabelled_gains(leaderboard):
        yield _table(gains, f"What images without labels buy: {gains.labelled.pair} on {gains.labelled.dataset}")


def _table(gains: Gains, title: str) -> Table:
    accuracy = METRICS[METRIC].header
    letters = [chr(ord("A") + place) for place in range(len(gains.cells))]
    header = ["method", accuracy, *(text for letter in letters for text in (f"{accuracy} {letter}",
                                                                           f"{letter} less labelled"))]
    lines = [[row.label, _accuracy(row), *(text for gain in each for text in (_accuracy(gain.row), _difference(gain)))]
             for row, each in gains.rows]
    teacher = gains.labelled.teacher
    if teacher and METRIC in teacher.metrics:
        lines.insert(0, ["teacher", number(teacher.metrics[METRIC], "share"), *[""] * 2 * len(letters)])
    return Table(title, header, lines, 1, (
        f"{accuracy}: on {LABELLED}; " + "; ".join(
            f"{letter}: {_images(cell.split_sizes)}{cell.transfer}" for letter, cell in zip(
                letters, gains.cells, strict=True)) + ".",
        "Each method takes the same number of updates on batches of the same size in every column. less labelled: mean "
        "over the seeds that both have, ± half the width of its 95 % t interval; ↑ and ↓ mark a paired t-test's p "
        "below 0.05, after Holm's correction for all methods and columns of this table. same: the same accuracy on "
        "each seed, as of methods that learn nothing from images without labels and are given the labelled ones alone; "
        "plain training among them is the control.",))


def _images(sizes: Mapping[str, int]) -> str:
    return f"{sizes['unlabelled']:,} " if "unlabelled" in sizes else ""


def _accuracy(row: Row | None) -> str:
    return "" if row is None else interval(row.estimate(METRIC), "share")


def _difference(gain: Gain) -> str:
    if gain.row is None or gain.difference is None:
        return ""
    if gain.equal:
        return "same"
    sign = UNCLEAR if not gain.significant else BETTER if gain.difference.mean > 0 else WORSE
    return interval(gain.difference, "share", "+") + sign
