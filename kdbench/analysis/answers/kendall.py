"""Kendall's rank correlation between two orders of the same methods, its bootstrap interval over methods, and its value
between halves of the seeds, which shows how far noise alone changes an order."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from kdbench.analysis.intervals import ROUNDED

RESAMPLES = 10_000
MOST_SPLITS = 500  # most splits of the seeds into halves that are averaged over


def signs(values: np.ndarray) -> np.ndarray:
    """The signs [M, M] of all differences between two of the values [M]: 1 where the row's value is higher than the
    column's, -1 where it is lower, 0 where they are equal but for rounding, as means of equal counts may be."""
    return np.sign(np.round(values[:, None] - values[None, :], ROUNDED))


def tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b between two orders, each given as its `signs`; 0 if all values of an order are equal."""
    return float(_tau((first * second).sum(), (first**2).sum(), (second**2).sum()))


def _tau(alike: np.ndarray, of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(of_first * of_second)
    return np.divide(alike, scale, out=np.zeros_like(scale), where=scale > 0)


def bootstrap(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of tau-b between two orders, given as their `signs`, over methods drawn
    with replacement. The draws are seeded, so that equal orders give equal intervals."""
    count = len(first)
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES).astype(float)  # [R, M]

    def total(pairs: np.ndarray) -> np.ndarray:
        """The sum of `pairs` [M, M] in each resample, [R]; a pair counts once for each combination of draws of its
        methods."""
        return ((drawn @ pairs) * drawn).sum(axis=1)

    low, high = np.percentile(_tau(total(first * second), total(first**2), total(second**2)), [2.5, 97.5])
    return float(low), float(high)


def between_halves(values: np.ndarray, others: np.ndarray) -> float | None:
    """The mean, over splits of the seeds into halves, of tau-b between the order by `values` [M, S] on one half and the
    order by `others` [M, S] on the other half. None with fewer than two seeds."""
    found = [tau(signs(values[:, half].mean(1)), signs(others[:, rest].mean(1)))
             for half, rest in _halves(values.shape[1])]
    return float(np.mean(found)) if found else None


def _halves(count: int) -> Iterable[tuple[Sequence[int], Sequence[int]]]:
    """Yield at most `MOST_SPLITS` splits of `count` seeds, as indices, into a half (rounded down) and the rest. Halves
    of an even number come in both orders. Nothing is yielded for fewer than two seeds."""
    everyone = range(count)
    ways = combinations(everyone, count // 2) if count > 1 else iter(())
    for one, _ in zip(ways, range(MOST_SPLITS), strict=False):
        yield list(one), [seed for seed in everyone if seed not in one]
