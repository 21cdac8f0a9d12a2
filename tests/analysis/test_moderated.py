"""Moderated intervals, Holm's correction and tiers; a table to check by hand, accuracy in % of four methods:

    seed     0    1    mean   half of seed 1 - seed 0   less its mean, 1.25   sample variance
    kd      90   90      90    0                        -1.25                 25/6
    at      84   88      86    2                          .75                  9/6
    ce      80   82      81    1                         -.25                  1/6
    rkd     70   74      72    2                          .75                  9/6

A method's residuals are plus and minus the fifth column; their squares' sum over (2 - 1) (1 - 1/4) is the variance. The
logarithms of these vary less than sampling explains (trigamma(1/2) = pi^2 / 2 = 4.93), so d0 is inf and all share the
mean variance, 11/6, with three degrees of freedom: t = 3.1824 and half a width of t sqrt(2 * 11/6 / 2) = 4.309.
"""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.analysis.moderated import (
    Prior,
    compare,
    family,
    fit_prior,
    moderate,
    residual_variances,
    squeeze,
    tiers,
    trigamma_inverse,
)
from kdbench.report.files import render
from kdbench.report.flat import to_frame
from kdbench.results.store import Store

HAND = {"kd": {0: 90., 1: 90.}, "at": {0: 84., 1: 88.}, "ce": {0: 80., 1: 82.}, "rkd": {0: 70., 1: 74.}}


def by_label(table):
    return {str(i): dict(enumerate(row)) for i, row in enumerate(np.asarray(table, dtype=float).tolist())}


def random_table(methods=12, seeds=3, spread=1.0, start=0):
    generator = np.random.default_rng(start)
    deviations = np.exp(spread * generator.normal(size=(methods, 1)))
    return generator.normal(size=(methods, seeds)) * deviations + generator.normal(size=seeds)


# By hand.

def test_the_table_above_gives_what_was_computed_by_hand():
    told = compare(HAND, {}, ["ce"], list(HAND))
    assert told.prior == Prior(math.inf, pytest.approx(11 / 6))
    assert {label: one.mean for label, one in told.to["ce"].items()} == {"kd": 9, "at": 5, "rkd": -9}
    for one in told.to["ce"].values():
        assert (one.half_width, one.degrees) == (pytest.approx(3.182446 * math.sqrt(11 / 6)), 3)
    p = {label: 2 * scipy.stats.t.sf(abs(one.mean) / math.sqrt(11 / 6), 3) for label, one in told.to["ce"].items()}
    assert {label: one.p for label, one in told.to["ce"].items()} == pytest.approx(p)
    assert p["at"] == pytest.approx(.0344, abs=1e-4) and p["kd"] == pytest.approx(.0069, abs=1e-4)
    assert {label: one.corrected for label, one in told.to["ce"].items()} == pytest.approx(
        {"kd": 3 * p["kd"], "rkd": 3 * p["kd"], "at": p["at"]})  # Holm: the last is multiplied by one, the others tie


def test_tiers_are_those_found_by_hand():
    """p of the six pairs by their difference: .0009 (18), .0019 (14), .0069 twice (9), .0345 (5), .0598 (4). After
    Holm's correction, times 6, 5, 4, 4, 2 and 2, the first four differ: kd and ce, ce and rkd, but not kd and at."""
    assert compare(HAND, {}, ["ce"], list(HAND)).tiers == (("kd", "at"), ("ce",), ("rkd",))
    assert compare(HAND, {}, ["ce"], ["kd", "at", "ce"]).tiers == (("kd", "at"), ("ce",))  # .0069 * 3, .0345 * 2


def test_a_tier_holds_those_of_the_rest_that_no_other_of_them_is_better_than():
    better = {("a", "d"), ("b", "d"), ("b", "c"), ("d", "e")}
    assert tiers("abcde", better) == (("a", "b"), ("c", "d"), ("e",))  # b alone is better than c, and b is not the best
    assert tiers("abc", {("a", "b"), ("a", "c"), ("b", "c")}) == (("a",), ("b",), ("c",))
    assert tiers("abc", {("b", "a")}) == (("b", "c"), ("a",))  # over the seeds that two share, the lower may be better
    assert tiers("abc", {("a", "b"), ("b", "a"), ("a", "c"), ("b", "c")}) == (("a", "b", "c"),)
    assert tiers("", set()) == ()


def test_no_method_shares_a_tier_with_a_reference_that_its_mark_tells_it_from():
    """Its comparison with a reference is one of few, that of all pairs one of many."""
    generator, marks = np.random.default_rng(0), 0
    for _ in range(20):
        means, deviations = np.sort(generator.normal(0, 3, (12, 1)), axis=0)[::-1], generator.uniform(.2, 3, (12, 1))
        table = by_label(generator.normal(means, deviations, (12, 3)))
        order = sorted(table, key=lambda label: -sum(table[label].values()))
        told = compare(table, {}, [order[2], order[6]], order)
        place = {label: number for number, tier in enumerate(told.tiers) for label in tier}
        for reference, own in told.to.items():
            for label, one in own.items():
                if one.significant:
                    assert place[label] < place[reference] if one.mean > 0 else place[label] > place[reference]
                    marks += 1
    assert marks > 100


# Smyth's formulas.

def trigamma(x):
    """Its series, sum of 1 / (x + k)^2, with the integral of what is left."""
    k = np.arange(20_000)
    return (1 / (x + k) ** 2).sum() + 1 / (x + len(k) - .5)


def digamma(x):
    """By its recurrence, then the asymptotic series."""
    steps = 0.0
    while x < 50:
        steps, x = steps - 1 / x, x + 1
    return steps + math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)


def test_prior_and_variances_are_those_of_limma_s_published_formulas():
    variances = np.array([.02, .5, .9, 1.4, 2.2, 9.0, 31.0])
    degrees = np.array([4., 4., 2., 4., 3., 4., 4.])
    logs = [math.log(s) - digamma(d / 2) + math.log(d / 2) for s, d in zip(variances, degrees, strict=True)]
    mean = sum(logs) / 7
    excess = sum((one - mean) ** 2 for one in logs) / 6 - sum(trigamma(d / 2) for d in degrees) / 7
    low, high = 1e-3, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if trigamma(middle) > excess else (low, middle)
    d0, s0_squared = 2 * low, math.exp(mean + digamma(low) - math.log(low))
    prior = fit_prior(variances, degrees)
    assert (prior.degrees, prior.variance) == pytest.approx((d0, s0_squared), rel=1e-6)
    moderated, total = squeeze(variances, degrees, prior)
    assert moderated == pytest.approx((d0 * s0_squared + degrees * variances) / (d0 + degrees), rel=1e-6)
    assert total == pytest.approx(d0 + degrees)


@pytest.mark.parametrize("value", [1e-6, .01, .5, 4.93, 100., 1e6])
def test_the_inverse_of_trigamma_is_its_inverse(value):
    assert scipy.special.polygamma(1, trigamma_inverse(value)) == pytest.approx(value, rel=1e-8)


def test_without_excess_the_interval_is_that_of_the_two_way_analysis_of_variance():
    table = random_table(spread=0.0, start=1)
    methods, seeds = table.shape
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    degrees = (methods - 1) * (seeds - 1)
    error = math.sqrt(2 * (residuals**2).sum() / degrees / seeds)
    told = compare(by_label(table), {}, ["0"], [])
    assert math.isinf(told.prior.degrees)
    for one in told.to["0"].values():
        assert (one.half_width, one.degrees) == (pytest.approx(scipy.stats.t.ppf(.975, degrees) * error), degrees)


def test_two_methods_have_the_plain_paired_interval_and_p_value():
    table = random_table(methods=2, seeds=4)
    one = compare(by_label(table), {}, ["0"], []).to["0"]["1"]
    expected = scipy.stats.ttest_rel(table[1], table[0])
    assert (one.low, one.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert one.p == pytest.approx(expected.pvalue)


def test_with_d0_of_zero_each_method_keeps_its_own_variance_and_degrees():
    variances, degrees = np.array([1., 4., 9.]), np.array([1., 2., 3.])
    moderated, total = squeeze(variances, degrees, Prior(0.0, 5.0))
    assert list(moderated) == [1, 4, 9] and list(total) == [1, 2, 3]
    table = np.array([[1., 2., 6.], [3., 3., 9.]])  # of methods that lend nothing: too few, and no blocks
    prior, noise = moderate(by_label(table), blocks=False)
    assert prior.degrees == 0
    assert [(own.variance, own.degrees) for own in noise.values()] == [(pytest.approx(7), 2), (pytest.approx(12), 2)]


# What must not matter, and what is withheld.

def results(table, reference="0"):
    told = compare(by_label(table), {}, [reference], [])
    return told.prior, np.array([[one.mean, one.half_width, one.p, one.corrected]
                                 for one in told.to[reference].values()])


def test_order_shift_and_seeds_do_not_matter_and_scale_scales():
    table = random_table()
    prior, expected = results(table)
    assert 0 < prior.degrees < math.inf
    again, shuffled = results(table[[0, *range(11, 0, -1)]][:, [2, 0, 1]])
    assert again.degrees == pytest.approx(prior.degrees) and shuffled[::-1] == pytest.approx(expected)
    again, shifted = results(table + 1000 + np.array([5., -3., 8.]))
    assert again.degrees == pytest.approx(prior.degrees) and shifted == pytest.approx(expected)
    again, scaled = results(table / 100)
    assert again.degrees == pytest.approx(prior.degrees) and scaled * [100, 100, 1, 1] == pytest.approx(expected)


def test_a_method_with_one_seed_is_not_compared_and_changes_nothing():
    table = by_label(random_table())
    with_it = compare({**table, "lonely": {0: 5.0}}, {}, ["0", "lonely"], ["lonely", *table])
    assert with_it.to["0"] == compare(table, {}, ["0"], []).to["0"]
    assert with_it.to["lonely"] == {} and "lonely" not in sum(with_it.tiers, ())


def test_methods_without_data_neither_lend_nor_borrow():
    table = by_label(random_table())
    blind = {label: {seed: 50 * value for seed, value in own.items()} for label, own in
             {"x": table["1"], "y": table["2"], "z": table["3"]}.items()}
    alone, both = compare(table, {}, ["0"], list(table)), compare(table, blind, ["0"], list(table))
    assert (both.prior, both.tiers) == (alone.prior, alone.tiers)
    for label in alone.to["0"]:
        assert both.to["0"][label].half_width == alone.to["0"][label].half_width
    assert both.apart.variance > 100 * both.prior.variance
    assert both.to["0"]["x"].half_width > 10 * both.to["0"]["1"].half_width
    assert both.to["0"]["1"].corrected >= alone.to["0"]["1"].corrected  # they are in the family of comparisons


def test_a_method_far_noisier_than_the_others_is_named():
    table = np.vstack([random_table(spread=0.0), [[0., 60., 0.]]])
    assert compare(by_label(table), {}, ["0"], []).unusual == {"12"}
    assert compare(by_label(table[:12]), {}, ["0"], []).unusual == set()


def test_no_noise_at_all_withholds_every_interval():
    told = compare(by_label([[.1, .3], [.4, .6], [.7, .9]]), {}, ["0"], ["2", "1", "0"])  # equal but for rounding
    assert told.prior.degrees == 0 and told.to == {"0": {}}


def test_a_sample_variance_of_zero_leaves_the_others_finite():
    prior = fit_prior(np.array([0., 1., 2., 3., .5]), np.full(5, 2.))
    assert 0 < prior.degrees < math.inf and 0 < prior.variance < 3
    assert squeeze(np.array([0.]), np.array([2.]), prior)[0] > 0


def test_missing_runs_leave_the_sample_variances_without_bias():
    generator = np.random.default_rng(1)
    missing = np.zeros((6, 4), dtype=bool)
    missing[[0, 1, 1, 5], [3, 0, 1, 2]] = True
    tables = generator.normal(size=(3000, 6, 4)) + generator.normal(size=(3000, 1, 4))
    found = [residual_variances(np.where(missing, np.nan, table), True) for table in tables]
    assert np.mean([variances for variances, _, _ in found], axis=0) == pytest.approx(np.ones(6), abs=.06)
    assert found[0][2] == pytest.approx(20 - 6 - 4 + 1) and list(found[0][1]) == [2, 1, 3, 3, 3, 2]


def test_pairs_that_share_fewer_than_two_seeds_are_left_out():
    table = {**by_label(random_table(seeds=4)), "late": {3: 1.0, 4: 2.5}}
    _, noise = moderate(table)
    assert set(family({"a": ("late", "0"), "b": ("1", "0")}, table, noise)) == {"b"}


# In the tables.

def shown(folder, table, families=()):
    for label, own in table.items():
        for seed, accuracy in own.items():
            changes = {"family": families[label]} if label in families else {}
            Store(folder).write(record(spec(label, seed), accuracy / 100, **changes))
    return build(folder, REGISTRY)


def test_a_table_shows_the_moderated_interval_a_mark_the_tiers_and_the_prior(tmp_path):
    text = " ".join(render(shown(tmp_path, HAND), "md").split())
    assert "| 90.00 ± n/a (2 seeds) | +9.00 ± 4.31 ↑ |" in text   # .0069 * 3
    assert "| 86.00 ± n/a (2 seeds) | +5.00 ± 4.31 ↑ |" in text   # .0345
    assert "Tiers: (1) kd, at; (2) ce; (3) rkd. Of the" in text and "for 6 pairs; against ce and kd, as" in text
    assert "s0 = 1.35 points, is used for all of them" in text


def test_what_holm_s_correction_leaves_unclear_is_marked_so(tmp_path):
    others = {"at": {0: 82., 1: 86.}, "crd": {0: 81., 1: 83.}, "sp": {0: 81., 1: 84.}}
    text = " ".join(render(shown(tmp_path, {**HAND, **others}), "md").split())
    assert "+9.00 ± 2.76 ↑ |" in text
    assert "+3.00 ± 2.76 ? |" in text  # p = .038 by itself, and .11 as the third of five comparisons


def test_a_table_names_what_is_too_noisy_for_it(tmp_path):
    rows = np.vstack([random_table(spread=0.0), [[0., 60., 0.]]]) + 30
    table = {f"method{label}": own for label, own in by_label(rows).items()}
    text = " ".join(render(shown(tmp_path, table), "md").split())
    assert "may be too narrow, as their own deviation is much larger: method12." in text


def test_csv_has_both_intervals_the_p_values_and_the_tier(tmp_path):
    blind = {"dafl": {0: 10., 1: 60.}, "zskt": {0: 75.}}
    frame = to_frame(shown(tmp_path, {**HAND, **blind}, dict.fromkeys(blind, "data_free"))).set_index("method")
    kd, dafl = frame.loc["kd"], frame.loc["dafl"]
    assert kd.difference_to_ce_high - .09 == pytest.approx(12.7062 * .01, rel=1e-4)  # as it always was
    assert [kd.difference_to_ce_moderated_low, kd.difference_to_ce_moderated_high] == pytest.approx(
        [.09 - .0430905, .09 + .0430905], abs=1e-6)
    assert kd.difference_to_ce_degrees == 3 and dafl.difference_to_ce_degrees == 1
    assert kd.difference_to_ce_p_holm == pytest.approx(4 * kd.difference_to_ce_p)  # dafl's is the fourth comparison
    assert frame.tier.fillna(0).to_dict() == {"big": 0, "kd": 1, "at": 1, "ce": 2, "rkd": 3, "zskt": 0, "dafl": 0}
    assert pd.isna(frame.difference_to_ce_p["zskt"]) and pd.isna(frame.difference_to_ce_p["ce"])


# Coverage, from known truth: accuracies with an effect of the seed, and ce among the methods.

METHODS, TABLES = 20, 1500
VARIANCES = {
    "equal": lambda generator: np.ones(METHODS),
    "scaled inverse chi-squared": lambda generator: 4 / generator.chisquare(4, METHODS),
    "two groups": lambda generator: generator.permutation(np.repeat([1., 4.], METHODS // 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_moderated_intervals_cover_the_truth_in_95_percent(seeds, kind):
    generator = np.random.default_rng(seeds)
    covered = []
    for _ in range(TABLES):
        deviations = np.sqrt(VARIANCES[kind](generator))[:, None]
        table = generator.normal(size=(METHODS, seeds)) * deviations + 2 * generator.normal(size=seeds)
        covered += [one.low < 0 < one.high for one in compare(by_label(table), {}, ["0"], []).to["0"].values()]
    assert len(covered) == TABLES * (METHODS - 1)
    assert np.mean(covered) == pytest.approx(.95, abs=.02)
