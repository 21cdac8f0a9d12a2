"""Metrics that compare groups of test images, such as the tints of a skewed dataset: accuracy, fairness and bias.

Groups without test images are left out. A metric is not applicable if fewer than two groups remain, and a rate is left
out if fewer than two groups have it. If images have several attributes, the metric is that of the worst attribute.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kdbench.metrics.metric import Compute, Metric, Predictions
from kdbench.metrics.papers import AGARWAL, HARDT, SAGAWA, WANG


@dataclass(frozen=True)
class Groups:
    """The G groups of one attribute: what was predicted of their test images, and their numbers of training images."""

    attribute: str
    names: tuple[str, ...]  # [G]
    counts: np.ndarray      # [G, K, K]: test images by group, label and predicted class
    train: np.ndarray       # [K, G]: training images by class and group; all 0 if these lack the attribute


def read_groups(known: Predictions, logits: np.ndarray) -> list[Groups]:
    """The groups of each attribute of the test images, as the saved arrays `known` give them, with the predictions of
    `logits` [N, K]. The list is empty if the images have no attributes."""
    if "test_groups" not in known:
        return []
    found = []
    for place, attribute in enumerate(known["group_attributes"]):
        names = tuple(str(name) for name in known["group_names"][place] if name)
        counts = count(known["test_labels"], logits, known["test_groups"][place], len(names))
        found.append(Groups(str(attribute), names, counts, known["train_group_counts"][place][:, :len(names)]))
    return found


def count(labels: np.ndarray, logits: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """The numbers of images by group, label and predicted class, [G, K, K], from labels [N], logits [N, K] and the
    codes [N] of their groups, 0 to `groups` - 1."""
    classes = logits.shape[1]
    cells = (codes * classes + labels) * classes + logits.argmax(axis=1)
    return np.bincount(cells, minlength=groups * classes**2).reshape(groups, classes, classes)


# Metrics of the groups of one attribute. They return None where the metric is not applicable.

def group_accuracy(counts: np.ndarray) -> np.ndarray:
    """The accuracy on each group's images, [G]; NaN for a group without images."""
    return _share(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def worst_group_accuracy(groups: Groups) -> float | None:
    """The lowest accuracy of a group that has test images; None if fewer than two groups have any."""
    accuracies = _present(group_accuracy(groups.counts))
    return float(accuracies.min()) if len(accuracies) > 1 else None


def group_gap(groups: Groups) -> float | None:
    """The highest accuracy of a group minus the lowest; None if fewer than two groups have test images."""
    accuracies = _present(group_accuracy(groups.counts))
    return float(np.ptp(accuracies)) if len(accuracies) > 1 else None


def demographic_parity_difference(groups: Groups) -> float | None:
    """The largest difference, over classes and pairs of groups, in the share of a group's images that are predicted as
    the class. None if fewer than two groups have test images."""
    images = groups.counts.sum(axis=(1, 2))
    return _largest_difference(_share(groups.counts.sum(axis=1), images[:, None]))


def equalised_odds_difference(groups: Groups) -> float | None:
    """The largest difference, over classes and pairs of groups, in the true or the false positive rate of the class.

    A rate is compared only between groups for which it is defined; the result is None if no rate is defined for two
    groups. fairlearn instead sets the rate of a group without images of the class to 0, which would look like a harm.
    """
    counts = groups.counts
    right = np.diagonal(counts, axis1=1, axis2=2)             # [G, K]
    positive, predicted = counts.sum(axis=2), counts.sum(axis=1)
    negative = counts.sum(axis=(1, 2))[:, None] - positive
    rates = _share(right, positive), _share(predicted - right, negative)
    return _largest_difference(np.concatenate(rates, axis=1))


def bias_amplification(groups: Groups) -> float | None:
    """How far the predictions on test images exaggerate the correlation of groups and classes in training images.

    This is the mean over pairs of a group and a class of sign * (P(predicted as the class | group) - P(of the class |
    group)), where sign is +1 if training images combine the two more often than independence would, and -1 if less
    often. Pairs whose number of training images is less than one image away from independence are left out, since that
    is rounding. None if training images lack the attribute, if no pair remains, or if fewer than two groups have test
    images.
    """
    train, counts = groups.train, groups.counts
    if not train.sum():
        return None
    expected = train.sum(axis=1, keepdims=True) * train.sum(axis=0, keepdims=True) / train.sum()
    surplus = (train - expected).T                             # [G, K]
    sign = np.where(np.abs(surplus) >= 1, np.sign(surplus), 0)
    images = counts.sum(axis=(1, 2))
    sign[images == 0] = 0
    if (images > 0).sum() < 2 or not sign.any():
        return None
    change = _share(counts.sum(axis=1) - counts.sum(axis=2), images[:, None])
    return float((sign * np.nan_to_num(change)).sum() / np.abs(sign).sum())


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`; NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _present(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def _largest_difference(rates: np.ndarray) -> float | None:
    """The largest difference between two groups in one of the rates [G, R], where NaN marks a rate that is not defined
    for a group. None if no rate is defined for two groups."""
    shared = rates[:, (~np.isnan(rates)).sum(axis=0) > 1]
    return float((np.nanmax(shared, axis=0) - np.nanmin(shared, axis=0)).max()) if shared.size else None


# Declarations.

def group_vectors(student: Predictions) -> dict[str, list[float | None]]:
    """The accuracies of each attribute's groups as a list named `group_accuracy.ATTRIBUTE`; None for a group without
    test images."""
    return {f"group_accuracy.{groups.attribute}": [None if np.isnan(v) else float(v)
                                                   for v in group_accuracy(groups.counts)]
            for groups in read_groups(student, student["test_logits"])}


def group_names(student: Predictions) -> dict[str, list[str]]:
    """The names of each attribute's groups by attribute, in the order of `group_vectors`; empty if images have no
    attributes."""
    if "test_groups" not in student:
        return {}
    return {str(attribute): [str(name) for name in names if name]
            for attribute, names in zip(student["group_attributes"], student["group_names"], strict=True)}


def _compute(function: Callable[[Groups], float | None], worst: Callable, *, of_teacher: bool) -> Compute:
    """Make the function that computes a metric from predictions: the `worst` (min or max) over attributes of
    `function`, for the teacher's predictions if `of_teacher`, else for the student's.

    The groups are read from the student's predictions in both cases, since those of teachers of older runs lack them.
    """
    def compute(student: Predictions, teacher: Predictions) -> float | None:
        logits = (teacher if of_teacher else student)["test_logits"]
        values = [value for groups in read_groups(student, logits) if (value := function(groups)) is not None]
        return worst(values) if values else None

    return compute


def _metrics(metric: Metric, function: Callable[[Groups], float | None]) -> tuple[Metric, Metric]:
    """The declarations of a metric for the student and for its teacher, from whom the student may have learned a bias.
    """
    worst = min if metric.better == "higher" else max
    return (replace(metric, compute=_compute(function, worst, of_teacher=False)),
            metric.of_teacher(of="teacher", compute=_compute(function, worst, of_teacher=True)))


_SEVERAL = " The worst attribute counts; not applicable if no two groups have test images."

_DECLARED = (
    (Metric("worst_group_accuracy", "worst group", "share", "higher",
            "The lowest test accuracy of a group that has test images." + _SEVERAL, SAGAWA), worst_group_accuracy),
    (Metric("group_gap", "group gap", "share", "lower",
            "The highest less the lowest test accuracy of a group." + _SEVERAL, SAGAWA, short="gap"), group_gap),
    (Metric("equalised_odds_difference", "equalised-odds difference", "share", "lower",
            "Each class against the rest: the largest difference between groups in true or in false positive rate; the "
            "largest over classes. Groups without images of a class have no true positive rate for it." + _SEVERAL,
            HARDT, short="eq. odds"), equalised_odds_difference),
    (Metric("demographic_parity_difference", "demographic-parity difference", "share", "lower",
            "Each class against the rest: the largest difference between groups in the share of images that are "
            "predicted as the class; the largest over classes." + _SEVERAL, AGARWAL, short="dem. parity"),
     demographic_parity_difference),
    (Metric("bias_amplification", "bias amplification", "share", "lower",
            "Directional, from attribute to class: the mean, over pairs of a group and a class that training images "
            "join more (less) often than independence would, of how much more (less) often the class is predicted in "
            "the group than it is right there, on test images. 0: the attribute is not followed beyond what is true; "
            "below 0, it is countered. Its base is the test split's own, so that it suits an attribute that is skewed "
            "in training and balanced in test; that of Zhao et al. (2017) compares with training's shares and is "
            "negative there unless a student follows the attribute nearly always. Not applicable without a "
            "correlation of one image in training." + _SEVERAL,
            WANG, short="bias amp.", low=-1), bias_amplification),
)
GROUP_METRICS = tuple(metric for declared in _DECLARED for metric in _metrics(*declared))
