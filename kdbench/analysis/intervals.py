"""Means over seeds with confidence intervals, and paired comparisons on equal seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
POWER = 0.8  # the probability that a test detects a true difference, by the convention of Cohen (1988)
ROUNDED = 12  # decimals of shares and their differences; smaller parts are rounding errors


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval. The interval, its ends and the deviation are None for one
    seed."""

    mean: float
    half_width: float | None  # half the width of the interval
    count: int                # number of seeds

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, computed back from the interval; None for one seed."""
        if self.half_width is None:
            return None
        return self.half_width * math.sqrt(self.count) / t_quantile(self.count - 1)

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value and half the width of its 95 % interval by Student's t: t * s / sqrt(n)."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, t_quantile(count - 1) * deviation / math.sqrt(count), count)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The mean of value - reference over the seeds that both have; None if they share none.

    Equal seeds mean equal initial students and equal batches, so that the noise that these cause cancels in the
    difference.
    """
    shared = sorted(values.keys() & reference.keys())
    return estimate([values[seed] - reference[seed] for seed in shared]) if shared else None


@lru_cache
def detectable_effect(degrees: float, comparisons: int = 1) -> float:
    """The smallest true mean, in standard errors, that a two-sided t-test at 5 % detects with a power of `POWER`.

    The test is of normal values, with that many degrees of freedom (may be inf). If it is one of several comparisons,
    it is after Holm's correction in the case that none of the others is significant.
    """
    import numpy as np
    from scipy.special import chdtri, ndtr  # here, because scipy takes a second to import

    # The test compares the mean with a multiple of its estimated standard error, which has a chi distribution.
    shares = (np.arange(20_000) + 0.5) / 20_000
    spread = np.sqrt(chdtri(degrees, shares) / degrees) if math.isfinite(degrees) else np.ones(1)
    limits = t_quantile(degrees, comparisons) * spread

    def power(effect: float) -> float:
        return float((ndtr(effect - limits) + ndtr(-effect - limits)).mean())

    low, high = 0.0, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle) < POWER else (low, middle)
    return high


@lru_cache
def t_quantile(degrees: float, comparisons: int = 1) -> float:
    """The quantile of Student's t for a two-sided 95 % interval with that many degrees of freedom; with several
    comparisons, for intervals that hold simultaneously by Bonferroni's inequality."""
    from scipy.special import stdtrit  # here, because scipy takes a second to import

    return float(stdtrit(degrees, 1 - (1 - CONFIDENCE) / 2 / comparisons))
