"""How a student does on classes with many, some and few training images."""

import numpy as np

from kdbench.metrics import predictions as p
from kdbench.metrics.metric import Metric, Predictions

MANY, FEW = 100, 20
_LIU = "Liu et al. (2019). Large-Scale Long-Tailed Recognition in an Open World. CVPR. arXiv:1904.05160"


def shot_bins(counts: np.ndarray) -> np.ndarray:
    """[K]: 0 for classes with more than 100 training images, 2 for those with fewer than 20, 1 for the others."""
    return np.where(counts > MANY, 0, np.where(counts < FEW, 2, 1))


def shot_accuracy(logits: np.ndarray, labels: np.ndarray, counts: np.ndarray, which: int) -> float | None:
    """Mean accuracy of the classes in a bin that have test images; None if none have, or if one bin holds all."""
    bins = shot_bins(counts)
    accuracies = p.per_class_accuracy(logits, labels)[bins == which]
    accuracies = accuracies[~np.isnan(accuracies)]
    if len(np.unique(bins)) == 1 or not len(accuracies):
        return None
    return float(accuracies.mean())


def _metric(which: int, name: str, classes: str) -> Metric:
    def compute(student: Predictions, teacher: Predictions) -> float | None:
        if "train_class_counts" not in student:  # predictions of an older kdbench
            return None
        return shot_accuracy(student["test_logits"], student["test_labels"], student["train_class_counts"], which)

    return Metric(
        f"{name}_shot_accuracy", f"{name}-shot", "share", "higher",
        f"Mean test accuracy of the classes with {classes} training images; not applicable if no such class has test "
        "images, or if all classes are of one kind.", _LIU, compute=compute, short=name)


LONG_TAIL_METRICS = (
    _metric(0, "many", f"more than {MANY}"), _metric(1, "medium", f"{FEW} to {MANY}"),
    _metric(2, "few", f"fewer than {FEW}"),
)
