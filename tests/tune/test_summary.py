"""What trials tell beside the choice, against hand-computed values, simulation, and functions of known importance."""

import itertools
from statistics import fmean

import numpy as np
import pytest

from kdbench.tune.choice import Trial
from kdbench.tune.space import Dimension, Limits
from kdbench.tune.summary import expected_best, importances, quartiles


def test_the_expected_best_of_n_is_the_mean_over_all_ways_to_draw_n_with_replacement():
    accuracies = [.7, .5, .9, .5]
    for n, found in enumerate(expected_best(accuracies), start=1):
        assert found == pytest.approx(fmean(map(max, itertools.product(accuracies, repeat=n))))


def test_the_expected_best_of_one_trial_is_the_mean_and_it_never_falls_nor_passes_the_best():
    curve = expected_best([.62, .61, .87, .33, .60])
    assert curve[0] == pytest.approx(fmean([.62, .61, .87, .33, .60]))
    assert curve == sorted(curve) and curve[-1] < .87


def test_a_failed_trial_counts_as_an_accuracy_of_zero():
    assert expected_best([.8, None]) == pytest.approx([.4, .6])
    assert expected_best([None, None]) == [0, 0]


def test_quartiles_are_those_of_finished_trials_with_interpolation():
    assert quartiles([.1, None, .2, .3, .4, .5]) == pytest.approx((.2, .3, .4))
    assert quartiles([.1, .4]) == pytest.approx((.175, .25, .325))
    assert quartiles([.1, None]) is None and quartiles([]) is None


# Importances.

SPACE = (Dimension("alpha", 1.0, Limits(.1, 10.0, "log")), Dimension("mode", "a", choices=("a", "b")),
         Dimension("recipe.lr", .1, Limits(.01, 1.0, "log")))


def trials(accuracy, count=40, failed=()):
    """Random trials of SPACE; `accuracy` of (alpha, mode, lr), each number as its place between 0 and 1."""
    random, found = np.random.default_rng(1), []
    for number in range(count):
        alpha, rate, mode = *random.uniform(size=2), "ab"[random.integers(2)]
        ok = number not in failed
        found.append(Trial(
            number=number, hyperparameters={"alpha": float(10 ** (2 * alpha - 1)), "mode": mode, "fixed": 3},
            recipe={"lr": float(10 ** (2 * rate - 2))}, status="ok" if ok else "diverged", runs=["r"], seconds=1.0,
            accuracies=[float(accuracy(alpha, mode, rate)) if ok else None]))
    return found


def test_the_value_that_decides_has_the_largest_share_and_shares_add_up_to_one():
    found = importances(SPACE, trials(lambda alpha, mode, rate: .5 + .3 * rate + .02 * alpha))
    assert next(iter(found)) == "recipe.lr" and found["recipe.lr"] > .9
    assert set(found) == {"alpha", "mode", "recipe.lr"} and sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_choice_may_matter_most():
    assert next(iter(importances(SPACE, trials(lambda alpha, mode, rate: .5 + .3 * (mode == "b"))))) == "mode"


def test_shares_are_of_the_variance_over_the_scale_on_which_values_are_searched():
    def accuracy(alpha, mode, rate):
        return .5 + .3 * (alpha < .5) + .2 * (mode == "b")  # places: the lower half, a tenth of the range in numbers

    assert next(iter(importances(SPACE, trials(accuracy, count=80)))) == "alpha"


def test_failed_trials_do_not_outweigh_the_finished_ones():
    def accuracy(alpha, mode, rate):
        return .5 + .3 * alpha

    steep = [number for number, trial in enumerate(trials(accuracy)) if trial.recipe["lr"] > .3]
    assert steep
    assert next(iter(importances(SPACE, trials(accuracy, failed=steep)))) == "alpha"


def test_a_value_that_a_trial_does_not_give_is_the_suites():
    given = trials(lambda alpha, mode, rate: .5 + .3 * alpha)
    without = [Trial(number=one.number, hyperparameters=one.hyperparameters, recipe={}, status="ok", runs=["r"],
                     seconds=1.0, accuracies=one.accuracies) for one in given]
    assert next(iter(importances(SPACE, without))) == "alpha"


def test_the_same_trials_have_the_same_importances():
    made = trials(lambda alpha, mode, rate: .5 + .1 * rate + .1 * alpha)
    assert importances(SPACE, made) == importances(SPACE, made)


def test_nothing_is_said_of_few_trials_equal_accuracies_or_one_value():
    def accuracy(alpha, mode, rate):
        return alpha

    assert importances(SPACE, trials(accuracy, count=8)) and not importances(SPACE, trials(accuracy, count=7))
    assert importances(SPACE, trials(lambda *_: .5)) == {}
    assert importances(SPACE[:1], trials(accuracy)) == {}
