"""Means over seeds with confidence intervals, and paired comparisons on equal seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

CONFIDENCE = 0.95
POWER = 0.8  # of a test: how often it finds a difference that is there (Cohen, 1988)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its confidence interval, which one seed cannot give."""

    mean: float
    half_width: float | None
    count: int

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds, of which the interval is made."""
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
    """The mean over the seeds that both have of value - reference; None if they share none.

    Equal seeds mean equal initial students and equal batches, so their noise cancels in the difference.
    """
    shared = sorted(values.keys() & reference.keys())
    return estimate([values[seed] - reference[seed] for seed in shared]) if shared else None


@lru_cache
def detectable_effect(degrees: float, comparisons: int = 1) -> float:
    """The least true mean, in standard errors, that a two-sided t-test at 5 % with that many degrees of freedom (may be
    inf) tells from zero in POWER of all samples of normal values; of several comparisons after Holm's correction, if
    none of the others is significant."""
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
    """Student's t for a two-sided 95 % interval with that many degrees of freedom; of several comparisons, for
    intervals that hold together by Bonferroni's inequality."""
    from scipy.special import stdtrit  # here, because scipy takes a second to import

    return float(stdtrit(degrees, 1 - (1 - CONFIDENCE) / 2 / comparisons))
