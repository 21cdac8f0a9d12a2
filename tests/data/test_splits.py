"""Stratified parts, long tails and tints, against slow versions and hand-computed values."""

import numpy as np
import pytest

from kdbench.data import skew
from kdbench.data.splits import allocate, first_of_each, long_tail, stratified, without_validation
from kdbench.errors import UserError
from kdbench.seeds import fixed_random

GOLDEN, GOLDEN_TINTS = [19, 10, 12, 11, 13, 8], [1, 0, 0, 1, 0, 1, 0, 1, 1, 0]


def labels(counts: list[int]) -> np.ndarray:
    """Labels with these counts, in a random order."""
    return np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts))


def test_shares_go_to_the_largest_remainders():
    # shares 3.27, 2.33 and 1.40 of 7: three, two and one, and the seventh to the largest remainder
    assert allocate(np.array([7, 5, 3]), 7).tolist() == [3, 2, 2]


def test_ties_go_to_the_first_classes():
    assert allocate(np.array([10, 10, 10, 10]), 6).tolist() == [2, 2, 1, 1]


def test_rare_classes_get_one_at_the_cost_of_the_most_frequent():
    assert allocate(np.array([100, 1, 1, 1, 50]), 10).tolist() == [4, 1, 1, 1, 3]


def test_allocations_are_exact_and_within_what_there_is():
    random = np.random.RandomState(1)
    for _ in range(200):
        counts = random.randint(1, 50, random.randint(1, 12))
        size = random.randint(len(counts), counts.sum() + 1)
        quotas = allocate(counts, size)
        assert quotas.sum() == size
        assert (quotas >= 1).all() and (quotas <= counts).all()
        shares = size * counts / counts.sum()
        if (shares >= 1).all():  # nobody is lifted to one: all stay within one image of their share
            assert (np.abs(quotas - shares) < 1).all()


def test_empty_classes_get_nothing():
    assert allocate(np.array([4, 0, 4]), 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("size", "message"), [
    (11, "train_size: 11 is more than the 10 images of the training split"),
    (2, "train_size: 2 is less than one image for each of the 3 classes"),
])
def test_impossible_sizes_are_refused(size, message):
    with pytest.raises(UserError, match=message):
        allocate(np.array([5, 3, 2]), size)


def test_stratified_parts_are_disjoint_complete_and_in_proportion():
    of = labels([300, 200, 100])
    chosen, rest = stratified(of, 60, "a purpose")
    assert sorted([*chosen, *rest]) == list(range(600))
    assert np.bincount(of[chosen]).tolist() == [30, 20, 10]


def test_first_of_each_equals_a_loop_over_a_random_order():
    of, quotas = labels([9, 1, 30, 4]), np.array([3, 1, 7, 0])
    taken, kept, left = [0] * 4, [], []
    for position in fixed_random("a purpose").permutation(len(of)):
        fits = taken[of[position]] < quotas[of[position]]
        taken[of[position]] += fits
        (kept if fits else left).append(position)
    chosen, rest = first_of_each(of, quotas, "a purpose")
    assert chosen.tolist() == kept and rest.tolist() == left


def test_a_larger_part_holds_the_smaller_one():
    of = labels([50] * 10)
    small, large = (set(stratified(of, size, "a purpose")[0]) for size in (100, 300))
    assert small < large


def test_other_purposes_choose_others():
    of = labels([50] * 10)
    assert set(stratified(of, 100, "one")[0]) != set(stratified(of, 100, "another")[0])


def test_the_first_chosen_are_a_fair_sample():
    chosen, _ = stratified(np.repeat(np.arange(10), 100), 900, "a purpose")
    assert np.bincount(chosen[:300] // 100, minlength=10).min() > 15


def test_choices_never_change():
    # golden: records of different machines and versions are compared image by image
    assert stratified(np.arange(20) % 2, 6, "golden")[0].tolist() == GOLDEN
    assert skew.assign_tints(np.arange(10) % 2, 0.6, "golden").tolist() == GOLDEN_TINTS


def test_a_tenth_is_set_aside():
    assert [without_validation(size) for size in (60000, 104, 106, 3)] == [54000, 94, 95, 2]


def test_a_long_tail_falls_exponentially():
    counts = long_tail(np.full(10, 5400), 100)
    assert counts.tolist() == [5400, 3237, 1940, 1163, 697, 418, 250, 150, 90, 54]
    assert long_tail(np.full(6, 32), 32).tolist() == [32, 16, 8, 4, 2, 1]  # floating point gives 7.99... and 1.99...


def test_a_long_tail_takes_no_more_than_there_is_and_leaves_one():
    assert long_tail(np.array([100, 5, 80]), 10).tolist() == [100, 5, 10]
    assert long_tail(np.array([10, 10, 10]), 1e6).tolist() == [10, 1, 1]
    assert long_tail(np.array([7, 3]), 1).tolist() == [7, 3]


def test_tints_go_with_every_second_class_in_exact_shares():
    of = labels([200, 100, 40])
    tints = skew.assign_tints(of, 0.95, "a purpose")
    assert [(tints[of == label] == label % 2).sum() for label in range(3)] == [190, 95, 38]


def test_tints_of_a_half_say_nothing_of_the_class():
    of = labels([200, 100, 40])
    tints = skew.assign_tints(of, 0.5, "a purpose")
    assert [tints[of == label].sum() for label in range(3)] == [100, 50, 20]


def test_tints_of_one_are_without_exception():
    of = labels([20, 10])
    assert (skew.assign_tints(of, 1.0, "a purpose") == of % 2).all()


def test_tinting_scales_the_colours():
    images = np.array([[[[200]]], [[[200]]]], np.uint8)
    warm, cool = skew.tint(images, np.array([0, 1]))
    assert warm.ravel().tolist() == [200, 125, 75]  # 200 x (256, 160, 96) / 256, to the nearest
    assert cool.ravel().tolist() == [75, 125, 200]


def test_tinting_colour_images_is_the_same_per_channel():
    images = np.random.RandomState(0).randint(0, 256, (5, 3, 4, 4)).astype(np.uint8)
    tints = np.array([0, 1, 1, 0, 1])
    exact = np.floor(images * skew.FACTORS[tints][:, :, None, None] / 256 + 0.5)
    assert (skew.tint(images, tints) == exact).all()
    assert (skew.tint(np.full((1, 3, 1, 1), 255, np.uint8), np.array([0]))[0, 0] == 255).all()
