"""Kendall's rank correlation of two orders of the same methods, its interval over methods, and what noise leaves of
it."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

RESAMPLES = 10_000
MOST_SPLITS = 500  # of seeds into halves


def signs(values: np.ndarray) -> np.ndarray:
    """[M, M]: 1 where the first of two values is higher, -1 where it is lower, 0 where they are equal."""
    return np.sign(values[:, None] - values[None, :])


def tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b of two orders as their `signs`; 0 where one has all values equal."""
    return float(_tau((first * second).sum(), (first**2).sum(), (second**2).sum()))


def _tau(alike: np.ndarray, of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(of_first * of_second)
    return np.divide(alike, scale, out=np.zeros_like(scale), where=scale > 0)


def bootstrap(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of tau-b over methods drawn with replacement; the same for the same orders."""
    count = len(first)
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES).astype(float)  # [R, M]

    def total(pairs: np.ndarray) -> np.ndarray:
        """The sum over pairs of methods, each as often as both were drawn, [R]."""
        return ((drawn @ pairs) * drawn).sum(axis=1)

    low, high = np.percentile(_tau(total(first * second), total(first**2), total(second**2)), [2.5, 97.5])
    return float(low), float(high)


def between_halves(values: np.ndarray, others: np.ndarray) -> float | None:
    """Tau-b of the order by `values` [M, S] over one half of the seeds and that by `others` [M, S] over the rest, mean
    over the ways to halve them; None for one seed."""
    found = [tau(signs(values[:, half].mean(1)), signs(others[:, rest].mean(1)))
             for half, rest in _halves(values.shape[1])]
    return float(np.mean(found)) if found else None


def _halves(count: int) -> Iterable[tuple[Sequence[int], Sequence[int]]]:
    """Splits of that many seeds into a half and the rest, every way round; at most `MOST_SPLITS`."""
    everyone = range(count)
    ways = combinations(everyone, count // 2) if count > 1 else iter(())
    for one, _ in zip(ways, range(MOST_SPLITS), strict=False):
        yield list(one), [seed for seed in everyone if seed not in one]
