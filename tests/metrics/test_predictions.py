"""A table to check by eye: four images, three classes.

    image  label  student's probabilities   predicts   teacher's probabilities   predicts
    0      0      .8  .1  .1                0 right    .7  .2  .1                0
    1      0      .3  .6  .1                1 wrong    .6  .3  .1                0
    2      1      .2  .5  .3                1 right    .2  .6  .2                1
    3      2      .1  .2  .7                2 right    .1  .8  .1                1
"""

import math

import numpy as np
import pytest
import sklearn.metrics

from kdbench.errors import UserError
from kdbench.metrics import predictions as p
from kdbench.metrics.catalog import METRICS, score, vectors

STUDENT = np.array([[.8, .1, .1], [.3, .6, .1], [.2, .5, .3], [.1, .2, .7]])
TEACHER = np.array([[.7, .2, .1], [.6, .3, .1], [.2, .6, .2], [.1, .8, .1]])
LABELS = np.array([0, 0, 1, 2])


def saved(probabilities, labels=LABELS):
    logits = np.log(probabilities).astype(np.float32) + 3  # softmax does not see a constant
    return {"validation_logits": logits[:2].copy(), "validation_labels": labels[:2], "test_logits": logits,
            "test_labels": labels}


def random_table(seed, images=200, classes=7):
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(images, classes)).astype(np.float32)
    return logits, generator.integers(classes, size=images)


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


# By hand.

def test_scores_of_the_table_are_those_computed_by_hand():
    kl = sum(t * math.log(t / s) for row in range(4) for t, s in zip(TEACHER[row], STUDENT[row], strict=True)) / 4
    by_hand = {
        "test_accuracy": 3 / 4,
        "validation_accuracy": 1 / 2,
        "worst_class_accuracy": 1 / 2,                                # class 0; the others have 1
        "class_accuracy_spread": math.sqrt(1 / 18),                   # of 1/2, 1, 1: off 5/6 by 1/3, 1/6, 1/6
        "nll": -math.log(.8 * .3 * .5 * .7) / 4,
        "brier": (.06 + .86 + .38 + .14) / 4,                         # .2²+.1²+.1² and so on
        "ece": (.2 + .6 + .5 + .3) / 4,                               # four bins of one image each
        "agreement": 2 / 4,
        "kl_from_teacher": kl,
        "worst_class_change": 1 / 2 - 0,
        "class_spread_change": math.sqrt(1 / 18) - math.sqrt(2 / 9),  # the teacher: 1, 1, 0
        "teacher_test_accuracy": 3 / 4,
        "teacher_validation_accuracy": 1,
        "teacher_worst_class_accuracy": 0,
        "teacher_class_accuracy_spread": math.sqrt(2 / 9),
    }
    assert score(saved(STUDENT), saved(TEACHER)) == pytest.approx(by_hand, abs=1e-6)


def test_calibration_pools_the_images_of_a_bin_before_it_takes_the_difference():
    # Two images in (0.8, 0.8667], one right: |1 - 2 * .85| / 3; one in (0.9333, 1], wrong: .95 / 3.
    probabilities = np.array([[.85, .15], [.85, .15], [.05, .95]])
    assert p.expected_calibration_error(np.log(probabilities), np.array([0, 1, 0])) == pytest.approx((.7 + .95) / 3)


def test_a_confidence_on_a_bin_s_upper_edge_belongs_to_that_bin():
    probabilities = np.array([[.5, .25, .25], [.4, .3, .3]])
    images, correct, confidence = p.reliability(np.log(probabilities), np.array([0, 1]), bins=2)
    assert images.tolist() == [2, 0] and correct.tolist() == [1, 0] and confidence == pytest.approx([.9, 0])


def test_a_class_without_images_has_no_accuracy_and_does_not_count():
    logits = np.log(np.array([[.8, .1, .1], [.3, .6, .1]]))
    labels = np.array([0, 0])
    assert np.array_equal(p.per_class_accuracy(logits, labels), [.5, math.nan, math.nan], equal_nan=True)
    assert p.worst_class_accuracy(logits, labels) == .5
    assert p.class_accuracy_spread(logits, labels) == 0


def test_the_vectors_of_the_table_are_those_read_off_it():
    told = vectors(saved(STUDENT))
    assert told["class_accuracy"] == [1 / 2, 1, 1]
    half = math.ceil(.5 * 15) - 1  # the bin of image 2, which no other image shares
    assert sum(told["reliability_images"]) == 4 and sum(told["reliability_correct"]) == 3
    assert told["reliability_images"][half] == 1 and told["reliability_confidence"][half] == pytest.approx(.5)
    assert vectors(saved(STUDENT, np.zeros(4, int)))["class_accuracy"] == [1 / 4, None, None]


def test_top_5_accuracy_is_left_out_where_it_would_be_1_whatever_the_student_says():
    for classes in (3, 5, 6):
        probabilities = np.eye(classes)[::-1] * .5 + .1  # predicts the mirrored class
        scores = score(saved(probabilities, np.arange(classes)))
        assert ("top5_accuracy" in scores) == (classes > 5)
    assert scores["top5_accuracy"] == pytest.approx(5 / 6)  # ties in favour of low indices: only label 5 comes sixth


# Against independent implementations.

@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_scikit_learn(seed):
    logits, labels = random_table(seed)
    probabilities, predicted = softmax(logits), logits.argmax(axis=1)
    recall = sklearn.metrics.recall_score(labels, predicted, average=None)
    assert p.accuracy(logits, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert p.per_class_accuracy(logits, labels) == pytest.approx(recall)
    assert p.top_k_accuracy(logits, labels, 3) == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(labels, logits, k=3, labels=range(7)))
    assert p.negative_log_likelihood(logits, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities, labels=range(7)))
    assert p.brier_score(logits, labels) == pytest.approx(
        7 * sklearn.metrics.mean_squared_error(np.eye(7)[labels], probabilities))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_a_loop_over_bins(seed):
    logits, labels = random_table(seed)
    probabilities = softmax(logits)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = [(probabilities[i].max(), probabilities[i].argmax() == labels[i]) for i in range(len(labels))
                  if low < probabilities[i].max() <= low + 1 / 15]
        if inside:
            total += len(inside) / len(labels) * abs(np.mean([c for c, _ in inside]) - np.mean([r for _, r in inside]))
    assert p.expected_calibration_error(logits, labels) == pytest.approx(total)


# Properties.

@pytest.mark.parametrize("seed", range(3))
def test_metrics_lie_within_their_bounds(seed):
    logits, labels = random_table(seed)
    teacher, _ = random_table(seed + 100)
    scores = score(*({"validation_logits": some, "validation_labels": labels, "test_logits": some,
                      "test_labels": labels} for some in (logits, teacher)))
    for name, value in scores.items():
        if METRICS[name].unit == "share":
            assert (-1 if "change" in name else 0) <= value <= 1, name
    assert 0 <= scores["brier"] <= 2 and scores["nll"] >= 0 and scores["kl_from_teacher"] >= 0
    assert scores["worst_class_accuracy"] <= scores["test_accuracy"] <= scores["top5_accuracy"]


@pytest.mark.parametrize("seed", range(3))
def test_renaming_classes_and_reordering_images_changes_nothing(seed):
    (logits, labels), (teacher, _) = random_table(seed), random_table(seed + 100)
    generator = np.random.default_rng(seed)
    rename, order = generator.permutation(7), generator.permutation(len(labels))  # new class j is old class rename[j]
    renamed = np.argsort(rename)[labels]

    def predictions(some, labels):
        return {"validation_logits": some, "validation_labels": labels, "test_logits": some, "test_labels": labels}

    before = score(predictions(logits, labels), predictions(teacher, labels))
    after = score(predictions(logits[order][:, rename], renamed[order]),
                  predictions(teacher[order][:, rename], renamed[order]))
    assert after == pytest.approx(before)


def test_a_perfect_and_certain_student_is_perfect_in_everything():
    perfect = {"validation_logits": 100 * np.eye(7), "validation_labels": np.arange(7),
               "test_logits": 100 * np.eye(7), "test_labels": np.arange(7)}
    scores = score(perfect, perfect)
    for name, value in scores.items():
        assert value == pytest.approx(1 if METRICS[name].unit == "share" and METRICS[name].better == "higher"
                                      and "change" not in name else 0), name


def test_a_student_that_says_nothing_is_calibrated_and_at_chance():
    labels = np.repeat(np.arange(10), 5)
    logits = np.zeros((50, 10), np.float32)
    scores = score({"validation_logits": logits, "validation_labels": labels, "test_logits": logits,
                    "test_labels": labels})
    assert scores["test_accuracy"] == .1 and scores["worst_class_accuracy"] == 0
    assert scores["ece"] == pytest.approx(0)
    assert scores["nll"] == pytest.approx(math.log(10)) and scores["brier"] == pytest.approx(.9)


def test_huge_logits_overflow_nowhere():
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)
    assert p.negative_log_likelihood(logits, np.array([0, 1])) == 0
    assert p.brier_score(logits, np.array([1, 0])) == 2


# What is left out or refused.

def test_without_a_teacher_only_the_student_s_own_metrics_are_computed():
    assert all(METRICS[name].of == "student" for name in score(saved(STUDENT)))


def test_predictions_that_mean_nothing_are_refused():
    nan, label, empty = saved(STUDENT), saved(STUDENT), saved(STUDENT)
    nan["test_logits"][1, 2] = np.nan
    label["test_labels"] = np.array([0, 0, 1, 3])
    empty["validation_logits"], empty["validation_labels"] = np.zeros((0, 3), np.float32), np.zeros(0, int)
    with pytest.raises(UserError, match="NaN or infinite logits on 1 of 4 images of the test split"):
        score(nan)
    with pytest.raises(UserError, match="teacher's predictions: NaN"):
        score(saved(STUDENT), nan)
    with pytest.raises(UserError, match="labels reach from 0 to 3, allowed: 0 to 2"):
        score(label)
    with pytest.raises(UserError, match="validation split is empty"):
        score(empty)


def test_a_teacher_that_saw_other_images_is_refused():
    with pytest.raises(UserError, match="the student predicts 2 classes of 2 images, its teacher 3"):
        score(saved(STUDENT[:, :2], np.array([0, 0, 1, 1])), saved(TEACHER))
    with pytest.raises(UserError, match="they saw different images"):
        score(saved(STUDENT), saved(TEACHER, np.array([0, 0, 1, 1])))


# The declarations.

def test_every_metric_is_declared_with_a_title_a_definition_and_a_known_unit():
    for name, metric in METRICS.items():
        assert name == metric.name and metric.title and metric.definition.endswith(".")
        assert metric.unit in ("share", "nats", "seconds", "ms", "bytes", "joules", "images/s", "")
        assert (metric.compute is None) == (metric.of == "run")
