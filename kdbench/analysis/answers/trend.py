"""How a metric changes along a sweep: settings of one method that differ in one number."""

import math
from collections.abc import Iterator

from kdbench.analysis.board import Cell, Row
from kdbench.analysis.intervals import Estimate, estimate
from kdbench.analysis.labels import Sweep


def rows_of(cell: Cell, sweep: Sweep) -> Iterator[tuple[float, Row]]:
    """The values of a sweep for which runs finished, in rising order, each with its row."""
    by_label = {row.label: row for row in cell.rows if row.runs}
    return ((value, by_label[label]) for value, label in sweep.points if label in by_label)


def per_doubling(cell: Cell, sweep: Sweep, metric: str) -> Estimate | None:
    """The change of a metric with each doubling of the value: the mean, over the seeds that all settings have, of the
    slope of a line fitted to that seed's figures by least squares. None if a value is not above zero, if fewer than two
    settings have the metric, or if they share no seed."""
    known = [(value, row.metrics[metric]) for value, row in rows_of(cell, sweep) if metric in row.metrics]
    if len(known) < 2 or known[0][0] <= 0:
        return None
    doublings = [math.log2(value) for value, _ in known]
    middle = math.fsum(doublings) / len(doublings)
    spread = math.fsum((one - middle) ** 2 for one in doublings)
    seeds = sorted(set.intersection(*(set(own) for _, own in known)))
    slopes = [math.fsum((place - middle) * own[seed] for place, (_, own) in zip(doublings, known, strict=True)) / spread
              for seed in seeds]
    return estimate(slopes) if slopes else None
