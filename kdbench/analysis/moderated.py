"""Differences between methods from few seeds: moderated variances, their intervals, Holm's correction, tiers.

With two seeds a method has one degree of freedom for its noise, and Student's t interval reaches 12.7 standard errors
to each side. But all methods are trained with the same seeds, the blocks of a randomised block design, and their noise
is much alike, so that the estimate of each can borrow from the others. The accuracy of method m with seed s is modelled
as

    y_ms = mu_m + b_s + e_ms,    e_ms ~ N(0, sigma_m^2) independent,    1 / sigma_m^2 ~ chi^2(d0) / (d0 s0^2):

normal errors, seeds that shift all methods alike, and variances that are drawn from one distribution, with nothing else
known about them in advance (exchangeable). d0 and s0 are fitted to all methods, and each sample variance s_m^2 with d_m
degrees of freedom is shrunk towards s0^2 (Smyth 2004, the method behind limma):

    v_m = (d0 s0^2 + d_m s_m^2) / (d0 + d_m)    with d0 + d_m degrees of freedom.

A difference to method r over n seeds cancels b_s; its t is the difference over sqrt((v_m + v_r) / n), with the fewer
degrees of freedom of the two. The variances of methods are moderated, not those of their differences to a reference:
all of the latter contain the noise of the reference's runs, so that any number of them carries no more information than
four independent ones, and intervals made from them cover too little. With d0 = inf the interval is that of the two-way
analysis of variance, and with two methods it is the paired t interval.

Methods whose variances come from another distribution (here the data-free ones) are fitted apart: they neither lend nor
borrow. Within a group, methods that are much noisier than the rest get intervals that are too narrow, and the rest get
ones that are too wide: only the coverage over all comparisons together is right (tests/analysis/test_moderated.py). A
simulated table of 20 methods of equal accuracy has a difference that is significant after Holm's correction in 1 to 7 %
of all cases; but if one method in ten has 25 times the variance, in 18 % with two seeds, 11 % with three and 4 % with
five. Methods that look so noisy are therefore named in `Comparisons.unusual`.

Smyth, G. K. (2004). Linear models and empirical Bayes methods for assessing differential expression in microarray
experiments. Statistical Applications in Genetics and Molecular Biology 3(1):3. doi:10.2202/1544-6115.1027
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kdbench.analysis.harm import holm, two_sided
from kdbench.analysis.intervals import CONFIDENCE, t_quantile

MIN_METHODS = 3   # with fewer, the distribution of variances cannot be fitted: each method keeps its own
UNUSUAL = .01     # a sample variance is unusual if one as high or higher is less probable than this by the prior
SMALLEST = 1e-5   # times the median variance: the least that a sample variance is taken for, as in limma


@dataclass(frozen=True)
class Prior:
    """The fitted distribution of the methods' variances: a scaled inverse chi-squared distribution."""

    degrees: float   # d0, degrees of freedom; 0 if nothing is borrowed, inf if all methods share one variance
    variance: float  # s0^2, the scale


@dataclass(frozen=True)
class Noise:
    """The moderated variance of a method's accuracy, without the effects of seeds if these were fitted."""

    variance: float
    degrees: float  # of freedom; at most those of all methods of its group pooled
    unusual: bool   # whether its sample variance is far higher than the prior leads to expect


@dataclass(frozen=True)
class Comparison:
    """The accuracy of a method minus that of another one, over the seeds that both have."""

    seeds: int         # number of seeds that both have
    mean: float
    half_width: float  # of the moderated 95 % interval
    degrees: float     # of freedom
    p: float           # two-sided p-value of no difference
    corrected: float   # the same after Holm's correction for all comparisons of its family

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def standard_error(self) -> float:
        return self.half_width / t_quantile(self.degrees)

    @property
    def significant(self) -> bool:
        return self.corrected < 1 - CONFIDENCE


@dataclass(frozen=True)
class Comparisons:
    """The comparisons between the methods of a cell, which are given by their labels."""

    prior: Prior                                  # for methods that see the data
    apart: Prior                                  # for data-free methods
    to: Mapping[str, Mapping[str, Comparison]]    # by reference, then method; some are left out, see `family`
    tiers: tuple[tuple[str, ...], ...]            # of the ranked methods, the best first, see `tiers`
    unusual: frozenset[str]                       # methods that are so noisy that their intervals may be too narrow


def compare(seeing: Mapping[str, Mapping[int, float]], blind: Mapping[str, Mapping[int, float]],
            references: Sequence[str], ranked: Sequence[str]) -> Comparisons:
    """Compare the methods of a cell. `seeing` has the accuracies of the methods that see the data, and `blind` those of
    the data-free ones, by label, then seed.

    Every method is compared with each of `references`; the comparisons with one reference are a family for Holm's
    correction. `ranked` has the labels of the methods to sort into tiers, the best first. A method counts as better
    than another one if either the family of a reference or the family of all pairs says so: else a method could share a
    tier with a reference from which its own row says it differs.
    """
    prior, noise = moderate(seeing)
    apart, other_noise = moderate(blind, blocks=False)
    values, noise = {**seeing, **blind}, noise | other_noise
    to = {reference: family({label: (label, reference) for label in values if label != reference}, values, noise)
          for reference in references if reference in values}
    order = [label for label in ranked if label in noise]
    pairs = family({(a, b): (a, b) for i, a in enumerate(order) for b in order[i + 1:]}, values, noise)
    marked = {(label, reference): told for reference, own in to.items() for label, told in own.items()}
    better = {(a, b) if told.mean > 0 else (b, a) for (a, b), told in [*pairs.items(), *marked.items()]
              if told.significant}
    return Comparisons(prior, apart, to, tiers(order, better),
                       frozenset(label for label, own in noise.items() if own.unusual))


Name = TypeVar("Name")


def family(pairs: Mapping[Name, tuple[str, str]], values: Mapping[str, Mapping[int, float]],
           noise: Mapping[str, Noise]) -> dict[Name, Comparison]:
    """The comparisons of pairs of methods, the first minus the second, with Holm's correction for their number. Pairs
    that share fewer than two seeds, or whose variances are zero, are left out."""
    found = {}
    for name, (ours, theirs) in pairs.items():
        shared = sorted(values[ours].keys() & values[theirs].keys())
        if ours in noise and theirs in noise and len(shared) > 1:
            variance = (noise[ours].variance + noise[theirs].variance) / len(shared)
            if variance:
                mean = math.fsum(values[ours][seed] - values[theirs][seed] for seed in shared) / len(shared)
                degrees = min(noise[ours].degrees, noise[theirs].degrees)
                found[name] = len(shared), mean, math.sqrt(variance), degrees
    p_values = [two_sided(mean / error, degrees) for _, mean, error, degrees in found.values()]
    return {name: Comparison(seeds, mean, t_quantile(degrees) * error, degrees, p, corrected)
            for (name, (seeds, mean, error, degrees)), p, corrected in zip(found.items(), p_values, holm(p_values),
                                                                           strict=True) if corrected is not None}


def tiers(order: Sequence[str], better: Container[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Sort methods into tiers: first those that no other method is significantly better than, then the same of the
    rest.

    So no difference within a tier is significant, and for each method of a later tier there is a significantly better
    one in an earlier tier. The exception is a circle of methods that are better than one another: all that remain then
    share a tier. `order` has the best first, and `better` has the pairs (better, worse) whose difference is
    significant.
    """
    found, rest = [], list(order)
    while rest:
        # Comparisons over different seeds can form a circle, in which no method comes first.
        first = [label for label in rest if not any((other, label) in better for other in rest)] or rest
        found.append(tuple(first))
        rest = [label for label in rest if label not in first]
    return tuple(found)


# Moderated variances.

def moderate(values: Mapping[str, Mapping[int, float]], blocks: bool = True) -> tuple[Prior, dict[str, Noise]]:
    """The prior fitted to methods' values, given by label and seed, and the noise of each method with two or more
    seeds.

    With `blocks` the effects of seeds are removed, which assumes that a seed shifts all methods alike; else they count
    as noise. If no method has two seeds, the prior is all zero and no noise is returned.
    """
    labels = [label for label, own in values.items() if len(own) > 1]
    if not labels:
        return Prior(0.0, 0.0), {}
    seeds = sorted(set().union(*(values[label] for label in labels)))
    table = np.array([[values[label].get(seed, math.nan) for seed in seeds] for label in labels])
    variances, degrees, together = residual_variances(table, blocks)
    prior = fit_prior(variances, degrees)
    moderated, total = squeeze(variances, degrees, prior)
    return prior, {label: Noise(float(variance), min(float(own), together), bool(tail < UNUSUAL))
                   for label, variance, own, tail in zip(labels, moderated, total, tails(variances, degrees, prior),
                                                         strict=True)}


def residual_variances(values: np.ndarray, blocks: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Sample variances [M] of methods, their degrees of freedom [M], and the degrees of freedom of all methods pooled.

    `values` [M, S] has NaN for missing runs, and at least two other values in each row. The means of methods and, with
    `blocks`, the effects of seeds are fitted by least squares. Without missing runs and with equal variances, each
    sample variance is distributed as sigma^2 chi^2(S - 1) / (S - 1). If variances are unequal, the mean of the other
    methods' is mixed into each with a weight of 1 / (M - 1).
    """
    there = ~np.isnan(values)
    method, seed = np.nonzero(there)
    observed = values[there] - values[there].mean()
    design = np.eye(len(values))[method]
    if blocks:
        design = np.hstack([design, np.eye(values.shape[1])[seed]])
    left, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, sizes > 1e-9]
    residuals = observed - basis @ (basis.T @ observed)
    residuals[np.abs(residuals) < 1e-12 * np.abs(observed).max()] = 0  # rounding errors are no noise
    free = 1 - (basis**2).sum(axis=1)  # the share of a run's variance that its residual keeps
    squares, kept = (np.bincount(method, each, len(values)) for each in (residuals**2, free))
    return squares / np.maximum(kept, 1e-9), there.sum(axis=1) - 1.0, float(len(observed) - basis.shape[1])


def fit_prior(variances: np.ndarray, degrees: np.ndarray) -> Prior:
    """Fit d0 and s0^2 to the first two moments of log s_m^2 (Smyth 2004).

    With e_m = log s_m^2 - digamma(d_m / 2) + log(d_m / 2), trigamma(d0 / 2) is the variance of the e_m in excess of the
    mean of trigamma(d_m / 2), which is what sampling explains. If there is no excess, d0 is inf and s0^2 the pooled
    variance. With fewer than three methods, or if all variances are zero, d0 is 0: each method keeps its own variance.
    """
    from scipy.special import digamma, polygamma  # here, because scipy takes a second to import

    if len(variances) < MIN_METHODS or not variances.any():
        return Prior(0.0, 0.0)
    raised = np.maximum(variances, SMALLEST * (np.median(variances) or variances.max()))
    logs = np.log(raised) - digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, degrees / 2).mean())
    if excess <= 0:
        return Prior(math.inf, float((degrees * variances).sum() / degrees.sum()))
    half = trigamma_inverse(excess)
    return Prior(2 * half, float(np.exp(logs.mean() + digamma(half) - np.log(half))))


def tails(variances: np.ndarray, degrees: np.ndarray, prior: Prior) -> np.ndarray:
    """The probability, [M], of a sample variance above each of these by the prior: s_m^2 is distributed as s0^2 F(d_m,
    d0). It is 1 if nothing is borrowed (d0 = 0)."""
    from scipy.special import chdtrc, fdtrc  # here, because scipy takes a second to import

    if not prior.degrees:
        return np.ones(len(variances))
    ratios = variances / prior.variance
    return chdtrc(degrees, degrees * ratios) if math.isinf(prior.degrees) else fdtrc(degrees, prior.degrees, ratios)


def trigamma_inverse(value: float) -> float:
    """The x > 0 with trigamma(x) = value > 0, by Newton's method on 1 / trigamma."""
    from scipy.special import polygamma

    x = .5 + 1 / value
    for _ in range(50):
        trigamma = polygamma(1, x)
        step = float(trigamma * (1 - trigamma / value) / polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return float(x)


def squeeze(variances: np.ndarray, degrees: np.ndarray, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """The variances [M] shrunk towards the prior's, and their degrees of freedom [M]."""
    if math.isinf(prior.degrees):
        return np.full(len(variances), prior.variance), np.full(len(variances), math.inf)
    total = prior.degrees + degrees
    return (prior.degrees * prior.variance + degrees * variances) / total, total
