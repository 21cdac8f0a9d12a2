"""The tables that span cells: methods, their orders, gains by images without labels, and several teachers of a
student."""

from collections.abc import Iterable, Iterator

from kdbench.analysis.board import REFERENCE, REFERENCES, Leaderboard
from kdbench.analysis.ranking import Ranking, rank
from kdbench.report.formatting import NONE, Table, number, p_value
from kdbench.report.tables.orders import orders_across
from kdbench.report.tables.teachers import teacher_tables
from kdbench.report.tables.unlabelled import unlabelled_tables


def across_tables(leaderboard: Leaderboard) -> Iterator[Table]:
    """The tables that span cells: the methods across the cells of each regime that has several cells; how alike the
    orders of methods are from cell to cell; the gains by images without labels; and the teachers of each student that
    has several.

    A regime is a way to compare methods, such as at equal steps or at equal compute.
    """
    for part in leaderboard.regimes():
        if ranking := rank(part):
            name = f"Across cells ({part.regime})" if part.regime else "Across cells"
            yield _across_table(name, ranking)
    yield from orders_across(leaderboard)
    yield from unlabelled_tables(leaderboard)
    yield from teacher_tables(leaderboard)


def _across_table(name: str, ranking: Ranking) -> Table:
    """The table of the methods across all cells of a leaderboard, sorted by average rank; `name` is its title."""
    header = ["method", "family", "cells", "score", "worst", "rank", *(f"wins vs {name}" for name in REFERENCES)]
    return Table(name, header, [
        [s.label, s.family, str(s.cells), number(s.score, "share", "+"), number(s.worst, "share", "+"), f"{s.rank:.2f}",
         *(f"{s.wins[name].won:g}/{s.wins[name].pairs}" if name in s.wins else "" for name in REFERENCES)]
        for s in ranking.standings
    ], 2, tuple(_ranking_notes(ranking)))


def _ranking_notes(ranking: Ranking) -> Iterable[str]:
    """The notes of the table across cells: what its columns mean, and the result of Friedman's test on its ranks or why
    it is withheld."""
    yield (f"score: mean of 'vs {REFERENCE}' over all {ranking.cells} cells, so that it can be recomputed from the "
           f"tables; worst: the lowest of them; both {NONE} for a method that is not complete in every cell.")
    yield ("rank: mean over cells of the rank by test accuracy. A method with a failed, missing or inapplicable run in "
           "a cell shares its last place.")
    yield (f"wins: runs that were better than {' or '.join(REFERENCES)} with the same seed, of all such pairs; a tie "
           "is half, and a run that failed or is missing is lost.")
    if (test := ranking.friedman) is None:
        yield f"Withheld: whether ranks differ by more than chance. {ranking.withheld}."
        return
    groups = "; ".join(", ".join(group) for group in test.groups) or "none"
    yield (f"Friedman's test: chi-squared {test.statistic:.2f}, p {p_value(test.p)}; Nemenyi's critical difference at "
           f"5 %: {test.critical_difference:.2f} ranks (Demšar, 2006). Groups within which no difference is "
           f"significant: {groups}.")
