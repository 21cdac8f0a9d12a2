"""Metrics of the accuracy on classes with many, a medium number of and few training images."""

import numpy as np

from kdbench.metrics import predictions as p
from kdbench.metrics.metric import Metric, Predictions
from kdbench.metrics.papers import LIU

MANY, FEW = 100, 20


def shot_bins(counts: np.ndarray) -> np.ndarray:
    """The bin of each class [K] by its number of training images [K]: 0 for more than 100, 2 for fewer than 20, else
    1."""
    return np.where(counts > MANY, 0, np.where(counts < FEW, 2, 1))


def shot_accuracy(logits: np.ndarray, labels: np.ndarray, counts: np.ndarray, which: int) -> float | None:
    """The mean accuracy of the classes in the bin `which` that have test images, from logits [N, K], labels [N] and the
    classes' numbers of training images [K]. None if no class in the bin has test images, or if all classes are in one
    bin."""
    bins = shot_bins(counts)
    accuracies = p.per_class_accuracy(logits, labels)[bins == which]
    accuracies = accuracies[~np.isnan(accuracies)]
    if len(np.unique(bins)) == 1 or not len(accuracies):
        return None
    return float(accuracies.mean())


def _metric(which: int, name: str, classes: str) -> Metric:
    """The declaration of the accuracy on the bin `which`; `classes` says how many training images its classes have."""
    def compute(student: Predictions, teacher: Predictions) -> float | None:
        if "train_class_counts" not in student:  # predictions of an older kdbench
            return None
        return shot_accuracy(student["test_logits"], student["test_labels"], student["train_class_counts"], which)

    return Metric(
        f"{name}_shot_accuracy", f"{name}-shot", "share", "higher",
        f"Mean test accuracy of the classes with {classes} training images; not applicable if no such class has test "
        "images, or if all classes are of one kind.", LIU, compute=compute, short=name)


LONG_TAIL_METRICS = (
    _metric(0, "many", f"more than {MANY}"), _metric(1, "medium", f"{FEW} to {MANY}"),
    _metric(2, "few", f"fewer than {FEW}"),
)
