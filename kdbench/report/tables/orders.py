"""The tables of how alike orders of methods are: by test accuracy and by other metrics, and from cell to cell."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product

from kdbench.analysis.answers.orders import Correlation, between_cells, by_metric
from kdbench.analysis.board import Cell, Leaderboard
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import NONE, Table

WHAT = ("tau: Kendall's tau-b between two orders of the methods by their means, each from its better end: 1 is the "
        "same order, 0 none, -1 the reverse; low and high: its 95 % interval, by the bootstrap over methods.")
HALVES = ("the order with itself between two halves of the seeds, mean over the ways to halve them: what noise leaves "
          "of it.")


def order_tables(cell: Cell, name: str) -> list[Table]:
    """The table that compares a cell's order by test accuracy with those by other metrics; empty if too few methods
    have three seeds. `name` is the cell's name in its title."""
    found = by_metric(cell)
    if not found:
        return []
    accuracy = next(iter(found.values())).own[0]
    own = "" if accuracy is None else f" Of test accuracy it is {accuracy:.2f}."
    return [Table(f"Order by other metrics: {name}", ["metric", "methods", "tau", "low", "high", "halves"], [
        [METRICS[metric].header, *_line(one), _tau(one.own[1])] for metric, one in found.items()
    ], 1, (f"{WHAT} Here with the order by test accuracy. halves: {HALVES}{own}",))]


def orders_across(leaderboard: Leaderboard) -> Iterator[Table]:
    """The table that compares the orders by test accuracy of any two cells with enough methods in common; none without
    such cells."""
    yield from _table((leaderboard.title(cell), leaderboard.title(other), one)
                      for cell, other, one in between_cells(combinations(leaderboard.cells, 2)))


def orders_beside(first: Leaderboard, second: Leaderboard) -> Iterator[Table]:
    """The table that compares the orders by test accuracy of each cell of one leaderboard with those of each cell of
    another, if they have enough methods in common; none without such cells."""
    yield from _table((first.title(cell), second.title(other), one)
                      for cell, other, one in between_cells(product(first.cells, second.cells)))


def orders_among(leaderboards: Sequence[Leaderboard], names: Sequence[str]) -> Iterator[Table]:
    """Two tables that compare the orders by test accuracy of any two cells of several leaderboards with enough methods
    in common: a line for each two, and a matrix. None without such cells.

    `names` is what the titles of cells call the leaderboards.
    """
    cells = {f"{name}: {board.title(cell)}": cell
             for name, board in zip(names, leaderboards, strict=True) for cell in board.cells}
    found = {pair: one for pair in combinations(cells, 2)
             for _, _, one in between_cells([(cells[pair[0]], cells[pair[1]])])}
    yield from _table((*pair, one) for pair, one in found.items())
    shown = [title for title in cells if any(title in pair for pair in found)]
    if shown:
        yield Table("Orders of all cells", ["cell", *(str(place) for place, _ in enumerate(shown, 1))], [
            [f"{place} {title}", *("" for _ in shown[:place - 1]), _itself(cells[title]),
             *(_tau(found[title, other].tau) if (title, other) in found else NONE for other in shown[place:])]
            for place, title in enumerate(shown, 1)
        ], 1, (f"{WHAT} Columns have the numbers of the rows. In brackets: {HALVES}",))


def _itself(cell: Cell) -> str:
    """The correlation of a cell's order by test accuracy with itself between halves of the seeds, in brackets."""
    ((_, _, one),) = between_cells([(cell, cell)])
    return f"({_tau(one.own[0])})"


def _table(found: Iterable[tuple[str, str, Correlation]]) -> Iterator[Table]:
    """The table of correlations between the orders by test accuracy of two cells, each with the titles of these; none
    without correlations."""
    lines = [[title, other, *_line(one), _tau(one.own[0]), _tau(one.own[1])] for title, other, one in found]
    if lines:
        yield Table("Order from cell to cell", ["cell", "other cell", "methods", "tau", "low", "high", "halves",
                                                "other's halves"], lines, 2,
                    (f"{WHAT} Here by test accuracy. halves: {HALVES}",))


def _line(one: Correlation) -> list[str]:
    return [str(one.methods), _tau(one.tau), _tau(one.low), _tau(one.high)]


def _tau(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
