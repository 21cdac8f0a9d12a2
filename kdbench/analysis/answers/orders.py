"""How far the order of methods by test accuracy agrees with their order by other metrics and in other cells.

Each method counts once, with the settings that have the most seeds. Settings with fewer than three seeds or with a
failed or missing run, tuned settings, and methods that see no data are left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from kdbench.analysis.answers.kendall import between_halves, bootstrap, signs, tau
from kdbench.analysis.board import Cell, Row
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.analysis.tuned import is_tuned
from kdbench.metrics.catalog import METRICS

ACCURACY = "test_accuracy"
OTHERS = ("worst_class_accuracy", "few_shot_accuracy", "worst_group_accuracy", "group_gap", "nll", "ece",
          "corruption_accuracy", "pgd_small_accuracy", "agreement", "seconds", "training_energy_joules")
MIN_METHODS = 8  # with fewer, the interval of the correlation is too wide to be of use


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b between two orders of the same methods, each from its better end: 1 is the same order, -1 the
    reverse."""

    methods: int
    tau: float
    low: float   # the ends of its 95 % interval over methods, by the bootstrap
    high: float
    own: tuple[float | None, float | None]  # mean tau-b of each order between two halves of the seeds: how far
                                            # noise alone changes it; None with fewer than two seeds


def by_metric(cell: Cell) -> dict[str, Correlation]:
    """The correlation of a cell's order by test accuracy with its order by each other metric that at least
    `MIN_METHODS` of its methods have, by metric."""
    rows = _rows(cell).values()
    return {metric: found for metric in OTHERS
            if (found := _correlation([(row, row) for row in rows], (ACCURACY, metric)))}


def between_cells(pairs: Iterable[tuple[Cell, Cell]]) -> Iterator[tuple[Cell, Cell, Correlation]]:
    """The correlation of the orders by test accuracy in the two cells of each pair that have at least `MIN_METHODS`
    methods in common, with these cells."""
    for first, second in pairs:
        ours, theirs = _rows(first), _rows(second)
        if found := _correlation([(ours[method], theirs[method]) for method in ours if method in theirs],
                                 (ACCURACY, ACCURACY)):
            yield first, second, found


def _rows(cell: Cell) -> dict[str, Row]:
    """The one row of each method that counts, by method: the one with the most seeds and, among several with as many,
    the one whose label is the method's name alone."""
    rows = [row for row in cell.rows if not row.data_free and not row.failures and not is_tuned(row.conditions)
            and len(row.runs) >= MIN_SEEDS]
    return {row.method: row for row in sorted(rows, key=lambda row: (len(row.runs), row.label == row.method))}


def _correlation(methods: list[tuple[Row, Row]], metrics: tuple[str, str]) -> Correlation | None:
    """The correlation between the order of methods by the first metric, in their first rows, and the order by the
    second metric, in their second rows. None if fewer than `MIN_METHODS` methods have both."""
    found = [(first.metrics[metrics[0]], second.metrics[metrics[1]]) for first, second in methods
             if metrics[0] in first.metrics and metrics[1] in second.metrics]
    if len(found) < MIN_METHODS:
        return None
    orders, halves = [], []
    for values, metric in zip(zip(*found, strict=True), metrics, strict=True):
        way = -1 if METRICS[metric].better == "lower" else 1
        orders.append(signs(way * np.array([np.mean(list(own.values())) for own in values])))
        seeds = sorted(set.intersection(*map(set, values)))
        by_seed = np.array([[own[seed] for seed in seeds] for own in values])  # [M, S]
        halves.append(between_halves(by_seed, by_seed))
    return Correlation(len(found), tau(*orders), *bootstrap(*orders), (halves[0], halves[1]))
