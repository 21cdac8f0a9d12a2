"""What a leaderboard says in words, from records whose answer is known."""

import re

import numpy as np
import pytest
import scipy.stats
from support.profiles import profile, training
from support.records import REGISTRY, record, spec

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.build import build
from kdbench.analysis.intervals import detectable_effect
from kdbench.profile.record import write_profile
from kdbench.report.files import render
from kdbench.results.store import Store


def write(folder, dataset="digits", **accuracies):
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            Store(folder).write(record(spec(method, seed, dataset), accuracy, seconds=36.0))


def said(folder):
    (only,) = verdict(build(folder, REGISTRY))
    return list(only.sentences)


CLEAR = {"ce": (.80, .81, .80), "kd": (.90, .91, .905), "at": (.70, .71, .705)}


def test_methods_are_counted_and_named_as_better_worse_and_unclear(tmp_path):
    write(tmp_path, **CLEAR)
    assert said(tmp_path)[:2] == [
        "Of 2 methods, 1 is better than ce (kd), 1 is worse (at), and none is unclear (at 5 %, after Holm's "
        "correction).",
        "Of 2 methods, none is better than kd, 2 are worse (ce, at), and none is unclear (at 5 %, after Holm's "
        "correction)."]


def test_the_best_is_named_with_all_that_it_is_not_significantly_better_than_and_the_cheapest_of_them(tmp_path):
    write(tmp_path, **CLEAR)
    assert "With all pairs compared, kd is alone in the best tier." in said(tmp_path)
    write(tmp_path, at=(.905, .90, .91))
    write_profile(Store(tmp_path), profile(run=spec("kd"), training=training(.025, 2.5, .3)))
    write_profile(Store(tmp_path), profile(run=spec("at"), training=training(.02, 1.5, .3)))
    text = said(tmp_path)
    assert any(re.fullmatch("With all pairs compared, 2 methods are in the best tier, within which no difference is "
                            "significant: (kd, at|at, kd).", one) for one in text)
    assert "The cheapest of these to train is at, at 1.5 times a step of plain training." in text


def test_without_profiles_the_cheapest_is_that_of_the_shortest_training(tmp_path):
    write(tmp_path, ce=(.80, .81, .80), kd=(.90, .91, .905))
    for seed in range(3):
        Store(tmp_path).write(record(spec("at", seed), .905, seconds=20.0))
    assert ("The cheapest of these to train is at, at 20 s of training by wall time, which other work on the "
            "machine lengthens.") in said(tmp_path)


def test_further_seeds_and_their_hours_are_told_where_half_a_point_cannot_be_found(tmp_path):
    write(tmp_path, ce=(.80, .82, .81), kd=(.83, .82, .85))  # the paired difference has a deviation of 2 points
    (line,) = [line for line in said(tmp_path) if "of 0.5 points with" in line]
    needed, more, hours = re.search(r"takes (\d+) seeds, (\d+) more, .*: ([\d.]+) core-hours", line).groups()
    assert int(more) == int(needed) - 3 and float(hours) == pytest.approx(int(more) * 72 / 3600, abs=.05)  # 36 s a run
    powers = [_power(.005, np.std([.03, .00, .04], ddof=1), count) for count in (int(needed) - 1, int(needed))]
    assert powers[0] < .8 <= powers[1] + 1e-4
    write(tmp_path, ce=(.80, .80, .80), kd=(.83, .8301, .8299))
    assert not [line for line in said(tmp_path) if "of 0.5 points with" in line]


def test_the_hours_of_further_seeds_are_those_that_each_row_lacks(tmp_path):
    write(tmp_path, ce=(.80, .82, .81), kd=(.83, .82, .85), dist=(.83, .85, .82, *[.83] * 20))
    (line,) = [line for line in said(tmp_path) if "of 0.5 points with" in line]
    needed, hours = re.search(r"takes (\d+) seeds, .*: ([\d.]+) core-hours", line).groups()
    assert float(hours) == pytest.approx((3 * int(needed) - 3 - 3 - 23) * 36 / 3600, abs=.05)


def test_further_seeds_are_as_many_as_a_mark_takes_among_all_methods_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.analysis.answers.verdict.SETTLE", .02)
    noisy = {"kd": (.83, .82, .85), "at": (.82, .83, .85), "dkd": (.85, .82, .83), "dist": (.83, .85, .82)}
    write(tmp_path, ce=(.80, .80, .80), **noisy)  # all have one deviation, which the table shares
    (line,) = [line for line in said(tmp_path) if "of 2 points with" in line]
    needed = int(re.search(r"takes (\d+) seeds", line)[1])
    cell = build(tmp_path, REGISTRY).cells[0]
    told, borrowed = cell.compared("ce")["kd"], cell.comparisons.prior.degrees
    assert 0 < borrowed + needed - 1 < told.degrees / 2 * (needed - 1)  # what is borrowed does not grow with the seeds
    powers = [_power(.02, told.standard_error * 3**.5, count, borrowed + count - 1, .05 / 4)
              for count in (needed - 1, needed)]
    assert powers[0] < .8 <= powers[1] + 1e-4


def test_further_seeds_are_corrected_for_methods_without_data_too(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.analysis.answers.verdict.SETTLE", .02)
    write(tmp_path, ce=(.80, .80, .80), kd=(.83, .82, .85))
    (before,) = [line for line in said(tmp_path) if "of 2 points with" in line]
    for method in ("at", "dkd", "dist"):
        for seed, accuracy in enumerate((.30, .35, .32)):
            Store(tmp_path).write(record(spec(method, seed), accuracy, family="data_free"))
    assert len(build(tmp_path, REGISTRY).cells[0].compared("ce")) == 1
    (after,) = [line for line in said(tmp_path) if "of 2 points with" in line]
    assert int(re.search(r"takes (\d+) seeds", after)[1]) > int(re.search(r"takes (\d+) seeds", before)[1])
    board = build(tmp_path, REGISTRY)
    told = board.cells[0].compared("ce")["kd"]
    least = 100 * told.standard_error * detectable_effect(told.degrees, 4)
    text = " ".join(render(board, "md").split())
    assert f"and one of {least:.2f} points after Holm's correction for 4 methods" in text


def _power(effect, deviation, count, degrees=None, level=.05):
    """Of a paired t-test, by default with the degrees of freedom of `count` differences alone."""
    degrees = count - 1 if degrees is None else degrees
    limit, shift = scipy.stats.t.ppf(1 - level / 2, degrees), effect * count**.5 / deviation
    return scipy.stats.nct.sf(limit, degrees, shift) + scipy.stats.nct.cdf(-limit, degrees, shift)


def test_one_seed_says_nothing_in_words_too(tmp_path):
    write(tmp_path, ce=(.80,), kd=(.90,))
    assert said(tmp_path) == ["Differences to ce cannot be tested: that takes ce and another method with two "
                              "seeds in common."]


def test_methods_without_data_are_not_counted(tmp_path):
    write(tmp_path, ce=(.80, .81, .80), kd=(.90, .91, .905))
    for seed, accuracy in enumerate((.30, .35, .32)):
        Store(tmp_path).write(record(spec("at", seed), accuracy, family="data_free"))
    assert said(tmp_path)[0].startswith("Of 1 method, 1 is better than ce (kd), none is worse")


def test_each_of_several_cells_has_a_paragraph_under_its_name(tmp_path):
    write(tmp_path, **CLEAR)
    write(tmp_path, dataset="letters", **CLEAR)
    digits, letters, both = verdict(build(tmp_path, REGISTRY))
    assert (digits.title, letters.title, both.title) == ("big-small on digits", "big-small on letters", "All 2 cells")
    assert digits.sentences == letters.sentences and digits.sentences[0].startswith("Of 2 methods, 1 is better")
    assert both.sentences == ("1 is better than ce in every cell (kd).", "1 is in the best tier in every cell (kd).")


def test_what_holds_in_one_cell_alone_holds_not_in_every_cell(tmp_path):
    write(tmp_path, **CLEAR)
    write(tmp_path, dataset="letters", ce=(.90, .91, .905), kd=(.80, .81, .80))
    assert verdict(build(tmp_path, REGISTRY))[-1].sentences == (
        "none is better than ce in every cell.", "none is in the best tier in every cell.")


def test_settings_of_one_method_are_not_counted_as_methods(tmp_path):
    write(tmp_path, **CLEAR)
    for seed in range(3):
        Store(tmp_path).write(record(spec("kd", seed, temperature=8.0), .9))
    assert said(tmp_path)[0].startswith("Of 3 settings of 2 methods, ")


def test_a_method_of_the_best_tier_that_deploys_a_larger_network_is_named(tmp_path):
    write(tmp_path, **CLEAR)
    for seed, accuracy in enumerate(CLEAR["kd"]):
        Store(tmp_path).write(record(spec("kd", seed), accuracy, metrics={"deployed_size": 3.5}))
    assert ("With more parameters in use than the plain student has, in the best tier: kd (3.5 times)."
            in said(tmp_path))


@pytest.mark.parametrize("output_format", ["md", "json"])
def test_a_leaderboard_begins_with_it(tmp_path, output_format):
    write(tmp_path, **CLEAR)
    text = render(build(tmp_path, REGISTRY), output_format)
    assert 0 < text.index("1 is better than ce (kd)") + 1 < text.index("test acc." if output_format == "md" else "rows")
