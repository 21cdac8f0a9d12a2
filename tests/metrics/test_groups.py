"""A table to check by eye: two groups of four images, two classes. In training nine of ten images of class 0 are in
group a, and nine of ten of class 1 in group b.

    group  labels   predicted   right
    a      0 0 1 1  0 0 1 0     3 of 4
    b      0 0 1 1  1 1 1 0     1 of 4
"""

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference
from sklearn.metrics import confusion_matrix

from kdbench.metrics.catalog import METRICS, score, vectors
from kdbench.metrics.groups import GROUP_METRICS, count, group_names
from kdbench.metrics.longtail import shot_accuracy, shot_bins
from kdbench.results.store import Store

LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
PREDICTED = np.array([0, 0, 1, 0, 1, 1, 1, 0])
CODES = np.array([0, 0, 0, 0, 1, 1, 1, 1])
TRAIN = np.array([[9, 1], [1, 9]])  # by class and group
NAMES = [metric.name for metric in GROUP_METRICS if not metric.name.startswith("teacher_")]


def saved(predicted, labels, codes, train=None, classes=2, groups=2):
    """Predictions of images that have one attribute, or with `codes` [A, N] and `train` [A, K, G] several."""
    codes, logits = np.atleast_2d(codes), np.eye(classes, dtype=np.float32)[predicted]
    train = np.zeros((len(codes), classes, groups), int) if train is None else np.reshape(train, (len(codes), classes,
                                                                                                  groups))
    return {
        "validation_logits": logits, "validation_labels": labels, "test_logits": logits, "test_labels": labels,
        "train_class_counts": np.full(classes, 50), "test_groups": codes, "train_group_counts": train,
        "group_attributes": np.array([f"attribute {i}" for i in range(len(codes))]),
        "group_names": np.array([list("abcdefgh"[:groups])] * len(codes)),
    }


def of(*arguments, **options):
    scores = score(saved(*arguments, **options))
    return {name: scores.get(name) for name in NAMES}


def random_table(seed, images=300, classes=4, groups=3):
    generator = np.random.default_rng(seed)
    labels, codes = generator.integers(classes, size=images), generator.integers(groups, size=images)
    predicted = np.where(generator.random(images) < .6, labels, (labels + codes) % classes)
    return predicted, labels, codes, generator.integers(1, 60, size=(classes, groups))


# By hand.

def test_group_metrics_of_the_table_are_those_computed_by_hand():
    assert of(PREDICTED, LABELS, CODES, TRAIN) == {
        "worst_group_accuracy": 1 / 4,
        "group_gap": 3 / 4 - 1 / 4,
        "equalised_odds_difference": 1,           # class 0 is found always in a, never in b
        "demographic_parity_difference": 2 / 4,   # class 0 is predicted for 3 of 4 in a and 1 of 4 in b
        "bias_amplification": 1 / 4,              # each class by 1 in 4 more where training has it, less elsewhere
    }


def test_the_accuracy_of_each_group_and_its_name_go_into_the_record():
    table = saved(PREDICTED, LABELS, CODES, TRAIN)
    assert vectors(table)["group_accuracy.attribute 0"] == [3 / 4, 1 / 4]
    assert group_names(table) == {"attribute 0": ["a", "b"]}


def test_the_teacher_s_values_are_of_its_predictions_in_the_student_s_groups():
    student, teacher = saved(LABELS, LABELS, CODES, TRAIN), saved(PREDICTED, LABELS, CODES, TRAIN)
    old = {name: teacher[name] for name in ("validation_logits", "validation_labels", "test_logits", "test_labels")}
    for taught in (teacher, old):
        scores = score(student, taught)
        assert {name: scores[f"teacher_{name}"] for name in NAMES} == of(PREDICTED, LABELS, CODES, TRAIN)
    assert scores["group_gap"] == 0


def test_of_several_attributes_the_worst_counts_and_the_vectors_keep_each():
    other = np.array([0, 0, 0, 1, 1, 1, 1, 1])  # right: 3 of 3, and 1 of 5
    both = saved(PREDICTED, LABELS, [CODES, other], [TRAIN, TRAIN])
    alone = [of(PREDICTED, LABELS, codes, TRAIN) for codes in (CODES, other)]
    scores = score(both)
    assert scores["worst_group_accuracy"] == min(a["worst_group_accuracy"] for a in alone)
    for name in NAMES[1:]:
        assert scores[name] == max(a[name] for a in alone)
    assert vectors(both)["group_accuracy.attribute 0"] == [3 / 4, 1 / 4]
    assert vectors(both)["group_accuracy.attribute 1"] == [1, 1 / 5]


# Against fairlearn and a loop.

@pytest.mark.parametrize("seed", range(3))
def test_counts_equal_scikit_learn_s_confusion_matrices_in_fairlearn_s_groups(seed):
    predicted, labels, codes, _ = random_table(seed)
    codes[codes == 1] = 3  # groups 1 and 4 have no images
    frame = MetricFrame(metrics=lambda true, said: confusion_matrix(true, said, labels=range(4)), y_true=labels,
                        y_pred=predicted, sensitive_features=codes)
    counts = count(labels, np.eye(4)[predicted], codes, groups=5)
    assert counts.shape == (5, 4, 4) and counts.dtype == np.int64 and not counts[[1, 4]].any()
    assert all(np.array_equal(counts[group], expected) for group, expected in frame.by_group.items())


@pytest.mark.parametrize("seed", range(3))
def test_differences_equal_the_maximum_over_classes_of_fairlearn_s_own(seed):
    predicted, labels, codes, train = random_table(seed)
    scores = of(predicted, labels, codes, train, classes=4, groups=3)
    for name, function in (("demographic_parity_difference", demographic_parity_difference),
                           ("equalised_odds_difference", equalized_odds_difference)):
        expected = max(function(labels == c, predicted == c, sensitive_features=codes) for c in range(4))
        assert scores[name] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_every_group_metric_equals_a_loop_over_images(seed):
    predicted, labels, codes, train = random_table(seed)
    scores = of(predicted, labels, codes, train, classes=4, groups=3)
    accuracies = [np.mean([p == y for p, y, a in zip(predicted, labels, codes, strict=True) if a == g])
                  for g in range(3)]
    assert scores["worst_group_accuracy"] == pytest.approx(min(accuracies))
    assert scores["group_gap"] == pytest.approx(max(accuracies) - min(accuracies))
    total, terms = train.sum(), []
    for c in range(4):
        for g in range(3):
            surplus = train[c, g] - train[c].sum() * train[:, g].sum() / total
            if abs(surplus) >= 1:
                inside = codes == g
                terms.append(np.sign(surplus) * (np.mean(predicted[inside] == c) - np.mean(labels[inside] == c)))
    assert scores["bias_amplification"] == pytest.approx(np.mean(terms))


# Properties.

@pytest.mark.parametrize("seed", range(3))
def test_bounds_and_indifference_to_the_order_of_classes_groups_and_images(seed):
    predicted, labels, codes, train = random_table(seed)
    before = of(predicted, labels, codes, train, classes=4, groups=3)
    for name, value in before.items():
        assert (-1 if name == "bias_amplification" else 0) <= value <= 1
    generator = np.random.default_rng(seed)
    classes, groups, order = generator.permutation(4), generator.permutation(3), generator.permutation(len(labels))
    moved = np.empty_like(train)
    moved[np.ix_(classes, groups)] = train  # class c becomes classes[c], group g groups[g]
    after = of(classes[predicted][order], classes[labels][order], groups[codes][order], moved, classes=4, groups=3)
    assert after == pytest.approx(before)


def test_a_perfect_predictor_treats_all_alike_and_adds_no_bias():
    _, labels, codes, train = random_table(0)
    scores = of(labels, labels, codes, train, classes=4, groups=3)
    assert scores["worst_group_accuracy"] == 1 and scores["group_gap"] == 0
    assert scores["equalised_odds_difference"] == 0 and scores["bias_amplification"] == 0


def test_a_constant_predictor_has_parity_and_equal_odds_whatever_its_gap():
    _, labels, codes, train = random_table(1)
    scores = of(np.zeros_like(labels), labels, codes, train, classes=4, groups=3)
    assert scores["demographic_parity_difference"] == scores["equalised_odds_difference"] == 0
    assert scores["group_gap"] > 0


def test_a_predictor_that_says_the_tint_amplifies_and_one_that_says_the_opposite_counters():
    scores = [of(said, LABELS, CODES, TRAIN)["bias_amplification"] for said in (CODES, 1 - CODES)]
    assert scores == [1 / 2, -1 / 2]


# What is not applicable is left out, never a number.

def test_without_groups_there_are_no_group_metrics():
    table = {name: array for name, array in saved(PREDICTED, LABELS, CODES).items() if "group" not in name}
    assert not {metric.name for metric in GROUP_METRICS} & score(table, table).keys()
    assert group_names(table) == {} and not any("group" in name for name in vectors(table))


def test_an_empty_group_is_left_out_and_a_single_one_compares_with_nothing():
    table = saved(PREDICTED, LABELS, CODES, np.hstack([TRAIN, [[9], [1]]]), groups=3)
    with_empty = score(table)
    assert {name: with_empty[name] for name in NAMES} == of(PREDICTED, LABELS, CODES, TRAIN)
    assert vectors(table)["group_accuracy.attribute 0"] == [3 / 4, 1 / 4, None]
    assert set(of(PREDICTED, LABELS, np.zeros(8, int), TRAIN).values()) == {None}


def test_a_class_that_a_group_lacks_has_no_true_positive_rate_there():
    # Group b has class 1 alone; fairlearn would give it a rate of 0 for class 0, and with it a difference of 1.
    labels = np.array([0, 0, 1, 1, 1, 1])
    codes = np.array([0, 0, 0, 0, 1, 1])
    scores = of(labels, labels, codes, TRAIN)
    assert equalized_odds_difference(labels == 0, labels == 0, sensitive_features=codes) == 1
    assert scores["equalised_odds_difference"] == 0
    one_class_each = of([0, 0, 1, 1], np.array([0, 0, 1, 1]), [0, 0, 1, 1], TRAIN)
    assert one_class_each["equalised_odds_difference"] is None  # no rate is that of two groups
    assert one_class_each["demographic_parity_difference"] == 1


def test_a_class_absent_from_test_counts_for_nothing():
    three = np.vstack([TRAIN, [[5, 5]]])
    assert of(PREDICTED, LABELS, CODES, three, classes=3) == {
        **of(PREDICTED, LABELS, CODES, TRAIN), "bias_amplification": 1 / 4}


def test_without_a_correlation_in_training_nothing_can_be_amplified():
    for train in (np.zeros((2, 2), int), np.full((2, 2), 5), np.array([[5, 5], [5, 6]])):  # unlabelled, none, rounding
        assert of(PREDICTED, LABELS, CODES, train)["bias_amplification"] is None


# The long tail.

def test_classes_fall_into_bins_by_their_training_images():
    assert shot_bins(np.array([101, 100, 20, 19, 0])).tolist() == [0, 1, 1, 2, 2]


def test_shot_accuracies_are_means_over_classes_and_absent_where_a_bin_is_empty():
    labels = np.array([0, 0, 0, 0, 1, 2, 3])
    predicted = np.array([0, 0, 0, 1, 0, 2, 0])
    table = {**saved(predicted, labels, np.zeros(7, int), classes=5), "train_class_counts": np.array([500, 200, 50, 5,
                                                                                                      5])}
    scores = score(table)
    assert scores["many_shot_accuracy"] == (3 / 4 + 0) / 2
    assert scores["medium_shot_accuracy"] == 1 and scores["few_shot_accuracy"] == 0  # class 4 has no test images
    logits = table["test_logits"]
    assert shot_accuracy(logits, labels, np.array([500, 200, 200, 200, 50]), 1) is None  # no test images in the bin
    assert shot_accuracy(logits, labels, np.array([500, 200, 50, 50, 50]), 2) is None    # no class in the bin
    assert not [name for name in score({**table, "train_class_counts": np.full(5, 500)}) if "shot" in name]
    del table["train_class_counts"]
    assert not [name for name in score(table) if "shot" in name]


# Files.

def test_groups_survive_the_file_and_a_damaged_one_is_refused(tmp_path):
    store, table = Store(tmp_path), saved(PREDICTED, LABELS, CODES, TRAIN)
    digest = store.write_predictions("r", table)
    read = store.read_predictions("r", digest)
    assert read.keys() == table.keys() and all(np.array_equal(read[name], table[name]) for name in table)
    for name, value, complaint in (
            ("test_groups", [[0, 0, 0, 0, 1, 1, 1, 2]], "codes of attribute 0 reach from 0 to 2, allowed: 0 to 1"),
            ("test_groups", [[0, 1]], r"test_groups: expected integers \[1, 8\], found int64 \[1, 2\]"),
            ("train_class_counts", [1.0, 2.0], r"train_class_counts: expected integers \[2\]"),
            ("group_names", [[1, 2]], "expected text")):
        with pytest.raises(ValueError, match=complaint):
            store.write_predictions("r", {**table, name: np.array(value)})
    del table["group_names"]
    with pytest.raises(ValueError, match=r"expected the arrays .*group_names"):
        store.write_predictions("r", table)


def test_counts_are_by_group_label_and_prediction():
    assert count(LABELS, np.eye(2)[PREDICTED], CODES, 2).tolist() == [[[2, 0], [1, 1]], [[0, 2], [1, 1]]]


def test_every_group_metric_is_declared():
    assert all(METRICS[metric.name] is metric and metric.reference for metric in GROUP_METRICS)
