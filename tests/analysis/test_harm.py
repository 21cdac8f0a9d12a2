"""A case to check by hand: one class of four images, three seeds; what the method gets right less what ce gets right.

    image     0   1   2   3     mean
    seed 0   -1  -1   0   0    -1/2
    seed 1   -1   0   0   0    -1/4
    seed 2   -1  -1  -1   0    -3/4
    mean     -1 -2/3 -1/3 0    -1/2

    MS_seeds  = 4 * (0 + 1/16 + 1/16) / 2                 = 1/4
    MS_images = 3 * (1/4 + 1/36 + 1/36 + 1/4) / 3         = 5/9
    F'        = 12 * (1/4) / (1/4 + 5/9)                  = 108/29
    degrees   = (29/36)² / ((1/4)² / 2 + (5/9)² / 3)      = 4.8380
"""

import numpy as np
import pytest
from scipy.special import betainc

from kdbench.analysis.harm import Predicted, crossed_p_value, harm, holm, majority

TABLE = np.array([[-1, -1, 0, 0], [-1, 0, 0, 0], [-1, -1, -1, 0]])


def said(classes, labels) -> Predicted:
    return Predicted(np.array(labels), np.array(classes))


# Is a class harmed?

def test_the_p_value_of_the_table_is_the_one_computed_by_hand():
    f = 108 / 29
    degrees = (29 / 36) ** 2 / (1 / 32 + 25 / 243)
    assert degrees == pytest.approx(4.8380, abs=1e-4)
    assert crossed_p_value(TABLE) == pytest.approx(max(betainc(degrees / 2, 1 / 2, degrees / (degrees + f)), 1 / 4))
    wide = np.hstack([TABLE] * 3)  # twelve images, so that the floor is low; both mean squares grow
    ms_seeds, ms_images = 3 / 4, 3 * 3 * (5 / 9) / 11
    f, degrees = 9 / (ms_seeds + ms_images), (ms_seeds + ms_images) ** 2 / (ms_seeds**2 / 2 + ms_images**2 / 11)
    assert crossed_p_value(wide) == pytest.approx(betainc(degrees / 2, 1 / 2, degrees / (degrees + f)))


def test_few_changed_images_decide_nothing_however_sure_they_are():
    always = np.array([[1, 1, 1]] * 5)
    assert crossed_p_value(always) == 2 ** -2  # as three coins that fall alike
    assert crossed_p_value(np.zeros((3, 10))) == 1
    assert crossed_p_value(np.ones((3, 1))) is None


def test_the_sign_and_the_order_of_seeds_and_images_do_not_matter():
    generator = np.random.default_rng(0)
    differences = generator.integers(-1, 2, size=(4, 30))
    shuffled = differences[generator.permutation(4)][:, generator.permutation(30)]
    assert crossed_p_value(-shuffled) == pytest.approx(crossed_p_value(differences))


def test_noise_between_seeds_and_images_raises_few_false_alarms_and_a_real_change_is_found():
    """Two methods that differ in nothing, each seed with a shift of its own; then one that shifts every image."""
    generator = np.random.default_rng(0)

    def p_value(shift):
        images = 2 + 2 * generator.normal(size=60)

        def correct(shift):
            seed_noise = .3 * generator.normal(size=(3, 1))
            return images + shift + seed_noise + generator.logistic(size=(3, 60)) > 0

        return crossed_p_value(correct(shift).astype(float) - correct(0))

    assert np.mean([p_value(0) < .05 for _ in range(400)]) <= .07
    assert np.mean([p_value(-3) < .05 for _ in range(100)]) >= .9


def test_holm_s_correction_is_the_one_computed_by_hand():
    # Sorted: .01 * 4, .02 * 3, .03 * 2 (raised to .06 before it), .9; the untested one does not count.
    assert holm([.03, .9, None, .01, .02]) == pytest.approx([.06, .9, None, .04, .06])
    assert holm([.6, .7]) == [1, 1] and holm([]) == []


# Which images flip?

def test_the_majority_is_by_votes_and_ties_go_to_the_earliest_run():
    labels = [0] * 3
    assert majority([said([1, 1, 3], labels), said([1, 2, 2], labels), said([2, 2, 1], labels)]).tolist() == [1, 2, 3]


def test_a_comparison_equals_one_made_by_hand():
    #                image   0  1  2  3
    labels = [0, 0, 1, 1]
    ce = {seed: said([0, 0, 1, 1], labels) for seed in range(3)} | {9: said([2, 2, 2, 2], labels)}
    kd = {0: said([0, 1, 1, 0], labels), 1: said([0, 1, 1, 1], labels), 2: said([0, 0, 1, 1], labels)}
    result = harm(kd, ce)
    assert result.seeds == (0, 1, 2)
    assert [(c.index, c.images, c.reference, c.accuracy) for c in result.classes] == [
        (0, 2, 1, pytest.approx(2 / 3)), (1, 2, 1, pytest.approx(5 / 6))]
    assert result.flipped == 1 / 4  # image 1: two of three seeds say 1, ce says 0
    assert (result.flipped_accuracy, result.flipped_reference) == (pytest.approx(1 / 3), 1)
    assert result.harmed == result.helped == ()


def test_classes_that_clearly_lose_or_gain_are_named():
    labels = np.repeat([0, 1, 2], 20)
    ce = {seed: said(np.where(labels == 1, 9, labels), labels) for seed in range(3)}  # knows all but class 1
    kd = {seed: said(np.where(labels == 0, 9, labels), labels) for seed in range(3)}
    result = harm(kd, ce)
    assert result.harmed == (0,) and result.helped == (1,)
    assert result.flipped == pytest.approx(2 / 3)


def test_a_method_that_equals_the_reference_changes_nothing():
    runs = {seed: said([0, 1, 2, 1], [0, 1, 1, 2]) for seed in range(3)}
    result = harm(runs, runs)
    assert (result.flipped, result.flipped_accuracy, result.harmed, result.helped) == (0, None, (), ())
    assert all(c.change == 0 and c.p in (1, None) for c in result.classes)


def test_fewer_than_three_common_seeds_are_not_compared():
    runs = {seed: said([0], [0]) for seed in range(4)}
    assert harm({0: runs[0], 1: runs[1], 5: runs[2]}, runs) is None
