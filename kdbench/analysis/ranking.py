"""Ranks of methods across cells: who wins how often, and which differences are more than chance.

A method that failed, is missing or does not apply in a cell shares the last place there, so that it never gains by it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from kdbench.analysis.board import REFERENCE, Leaderboard, Row, Wins
from kdbench.analysis.intervals import CONFIDENCE, ROUNDED

MIN_CELLS = 2           # fewest cells for an average over them


MIN_CELLS_FRIEDMAN = 5  # with fewer, the chi-squared distribution is no good approximation of the statistic's


@dataclass(frozen=True)
class Standing:
    """The results of one method over all cells."""

    label: str
    family: str
    cells: int             # number of cells in which all its planned runs are finished
    score: float | None    # mean over all cells of its difference to the reference; None if a cell lacks it
    worst: float | None    # the lowest of these differences; None if `score` is
    rank: float            # average rank over all cells; 1 is best
    wins: dict[str, Wins]  # by reference


@dataclass(frozen=True)
class Friedman:
    """The result of Friedman's test for differences of average ranks, and which of them differ (Demšar, 2006)."""

    statistic: float
    p: float
    critical_difference: float         # of average ranks, Nemenyi's at 5 %
    groups: tuple[tuple[str, ...], ...]  # methods without a significant difference; groups may overlap


@dataclass(frozen=True)
class Ranking:
    cells: int
    standings: tuple[Standing, ...]  # sorted by average rank
    friedman: Friedman | None
    withheld: str                    # why there is no Friedman test; "" if there is one


def rank(leaderboard: Leaderboard) -> Ranking | None:
    """Rank the methods that see the data across the cells of a leaderboard. None if fewer than two cells have such
    methods."""
    tables = [{row.label: row for row in cell.rows if not row.data_free} for cell in leaderboard.cells]
    cells = [table for table in tables if table]
    if len(cells) < MIN_CELLS:
        return None
    labels = sorted(set().union(*cells))
    ranks = np.array([cell_ranks([_accuracy(cell.get(label)) for label in labels]) for cell in cells])  # [N, k]
    average = ranks.mean(axis=0)
    standings = [_standing(label, [cell.get(label) for cell in cells], float(place))
                 for label, place in zip(labels, average, strict=True)]
    standings.sort(key=lambda standing: (standing.rank, standing.label))
    withheld = _why_no_test(len(cells), len(labels))
    return Ranking(len(cells), tuple(standings), None if withheld else friedman(ranks, labels), withheld)


def _accuracy(row: Row | None) -> float | None:
    """The mean test accuracy of a row without rounding errors, so that equal ones share a rank; None if not all of its
    planned runs are finished."""
    estimate = row.estimate("test_accuracy") if row is not None and not row.failures else None
    return round(estimate.mean, ROUNDED) if estimate else None


def _standing(label: str, rows: Sequence[Row | None], place: float) -> Standing:
    there = [row for row in rows if row is not None]
    complete = [row for row in there if _accuracy(row) is not None]
    gains = [row.differences[REFERENCE].mean for row in complete if REFERENCE in row.differences]
    if there[0].is_reference:
        gains = [0.0] * len(complete)
    everywhere = len(gains) == len(rows)
    return Standing(
        label=label, family=there[0].family, cells=len(complete), rank=place,
        score=math.fsum(gains) / len(gains) if everywhere else None, worst=min(gains) if everywhere else None,
        wins=_sum_wins([row.wins for row in there]),
    )


def _sum_wins(wins: Sequence[Mapping[str, Wins]]) -> dict[str, Wins]:
    names = dict.fromkeys(name for some in wins for name in some)
    return {name: Wins(sum(some[name].won for some in wins if name in some),
                       sum(some[name].pairs for some in wins if name in some)) for name in names}


def _why_no_test(cells: int, methods: int) -> str:
    if cells < MIN_CELLS_FRIEDMAN:
        return f"Friedman's test takes {MIN_CELLS_FRIEDMAN} cells or more, here are {cells}"
    return "" if methods > 2 else f"Friedman's test takes three methods or more, here are {methods}"


def cell_ranks(values: Sequence[float | None]) -> list[float]:
    """The rank of each value, 1 for the highest. Equal values share the mean of their ranks, as do missing ones (None),
    which come last."""
    order = sorted(range(len(values)), key=lambda i: _key(values[i]))
    ranks, before = [0.0] * len(values), 0
    for _, group in groupby(order, key=lambda i: _key(values[i])):
        tied = list(group)
        for i in tied:
            ranks[i] = before + (len(tied) + 1) / 2
        before += len(tied)
    return ranks


def _key(value: float | None) -> tuple[bool, float]:
    return value is None, -(value or 0.0)


# Tests.

def friedman(ranks: np.ndarray, labels: Sequence[str]) -> Friedman:
    """Friedman's test, corrected for ties, over ranks [N cells, k methods], and Nemenyi's comparison of all pairs."""
    from scipy.special import chdtrc  # here, because scipy takes a second to import

    cells, methods = ranks.shape
    average = ranks.mean(axis=0)
    ties = sum(int(count) ** 3 - int(count) for row in ranks for count in np.unique(row, return_counts=True)[1])
    correction = 1 - ties / (cells * methods * (methods**2 - 1))
    spread = 12 * cells / (methods * (methods + 1)) * float(((average - (methods + 1) / 2) ** 2).sum())
    statistic = spread / correction if correction else 0.0
    p = float(chdtrc(methods - 1, statistic))
    distance = range_quantile(methods) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * cells))
    order = sorted(range(methods), key=lambda i: (average[i], labels[i]))
    reach = distance if p < 1 - CONFIDENCE else math.inf  # Nemenyi's test counts only if Friedman's is significant
    groups = _groups([float(average[i]) for i in order], reach)
    return Friedman(statistic, p, distance, tuple(tuple(labels[order[i]] for i in group) for group in groups))


def _groups(sorted_ranks: Sequence[float], reach: float) -> list[range]:
    """The longest stretches of two or more sorted ranks that lie within `reach` of each other."""
    groups: list[range] = []
    for start, first in enumerate(sorted_ranks):
        end = max(i for i, other in enumerate(sorted_ranks) if other - first <= reach) + 1
        if end - start > 1 and (not groups or end > groups[-1].stop):
            groups.append(range(start, end))
    return groups


def range_quantile(methods: int) -> float:
    """The 95 % quantile of the range of that many standard normal variables: Tukey's, with infinite degrees of freedom.

    P(range <= q) = k * integral of phi(z) * (Phi(z) - Phi(z - q))^(k - 1) dz, with k methods.
    """
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 4001)
    density = np.exp(-z**2 / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        share = methods * np.trapezoid(density * (ndtr(z) - ndtr(z - middle)) ** (methods - 1), z)
        low, high = (middle, high) if share < CONFIDENCE else (low, middle)
    return high
