"""All metrics: tables, documentation and `kdbench list metrics` take their names and definitions from `METRICS`.

`score` computes the metrics of saved predictions. The others are measured while a run trains, by `kdbench profile`, or
by `kdbench attack`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from kdbench.errors import UserError
from kdbench.metrics import predictions as p
from kdbench.metrics.cost import COST
from kdbench.metrics.groups import GROUP_METRICS, group_vectors
from kdbench.metrics.longtail import LONG_TAIL_METRICS
from kdbench.metrics.metric import Compute, Metric, Predictions
from kdbench.metrics.papers import BRIER, GUO, STANTON
from kdbench.metrics.robustness import ROBUSTNESS


def _of_test(function: Callable[[np.ndarray, np.ndarray], float]) -> Compute:
    return lambda student, teacher: function(student["test_logits"], student["test_labels"])


def _of_teacher(function: Callable[[np.ndarray, np.ndarray], float], split: str = "test") -> Compute:
    return lambda student, teacher: function(teacher[f"{split}_logits"], teacher[f"{split}_labels"])


def _of_both(function: Callable[[np.ndarray, np.ndarray], float]) -> Compute:
    return lambda student, teacher: function(student["test_logits"], teacher["test_logits"])


def _change(function: Callable[[np.ndarray, np.ndarray], float]) -> Compute:
    """A metric of student and teacher: `function` of the student's test predictions minus that of the teacher's."""
    return lambda student, teacher: (function(student["test_logits"], student["test_labels"])
                                     - function(teacher["test_logits"], teacher["test_labels"]))


def _top_5(student: Predictions, teacher: Predictions) -> float | None:
    """Top-5 accuracy on the test split; None for five classes or fewer, where it is always 1."""
    if student["test_logits"].shape[1] <= 5:
        return None
    return p.top_k_accuracy(student["test_logits"], student["test_labels"], 5)


METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("test_accuracy", "test accuracy", "share", "higher",
           "Share of test images whose highest logit is the label's, at the last epoch.",
           compute=_of_test(p.accuracy), short="test acc."),
    Metric("validation_accuracy", "validation accuracy", "share", "higher",
           "Share of validation images whose highest logit is the label's, at the last epoch; what tuning sees.",
           compute=lambda student, teacher: p.accuracy(student["validation_logits"], student["validation_labels"])),
    Metric("top5_accuracy", "top-5 accuracy", "share", "higher",
           "Share of test images whose label is among the five highest logits; not applicable up to five classes.",
           compute=_top_5),
    Metric("worst_class_accuracy", "worst class", "share", "higher",
           "The lowest test accuracy of a class, among the classes that the test split holds.",
           compute=_of_test(p.worst_class_accuracy), short="worst"),
    Metric("class_accuracy_spread", "class spread", "share", "lower",
           "Population standard deviation of the test accuracies of the classes that the test split holds.",
           compute=_of_test(p.class_accuracy_spread)),
    Metric("nll", "NLL", "nats", "lower",
           "Negative log-likelihood: mean over test images of -ln p(label).",
           compute=_of_test(p.negative_log_likelihood)),
    Metric("brier", "Brier score", "", "lower",
           "Mean over test images of the squared distance between the class probabilities and the one-hot label, "
           "summed over classes: 0 (perfect) to 2.",
           BRIER, compute=_of_test(p.brier_score)),
    Metric("ece", "ECE", "share", "lower",
           f"Expected calibration error: test images fall into {p.CALIBRATION_BINS} equally wide bins (low, high] of "
           "the predicted class's probability; the mean of |accuracy - mean probability| over bins by their images.",
           GUO, compute=_of_test(p.expected_calibration_error)),
    Metric("agreement", "agreement", "share", "higher",
           "Share of test images for which the student predicts the same class as the pair's teacher.",
           STANTON, "both", _of_both(p.agreement), short="agree"),
    Metric("kl_from_teacher", "KL from teacher", "nats", "lower",
           "Mean over test images of KL(teacher || student), the sum over classes of teacher * ln(teacher / student), "
           "at temperature 1.",
           STANTON, "both", _of_both(p.kl_from_teacher)),
    Metric("worst_class_change", "worst class, student - teacher", "share", "higher",
           "Worst-class accuracy of the student less that of the teacher; the worst classes may differ.",
           of="both", compute=_change(p.worst_class_accuracy), low=-1),
    Metric("class_spread_change", "class spread, student - teacher", "share", "lower",
           "Spread over classes of the student less that of the teacher: above zero, the student is the more uneven.",
           of="both", compute=_change(p.class_accuracy_spread), low=-1),
    Metric("teacher_test_accuracy", "teacher's test accuracy", "share", "higher",
           "Test accuracy of the pair's teacher, on the same images.",
           of="teacher", compute=_of_teacher(p.accuracy)),
    Metric("teacher_validation_accuracy", "teacher's validation accuracy", "share", "higher",
           "Validation accuracy of the pair's teacher, on the same images.",
           of="teacher", compute=_of_teacher(p.accuracy, "validation")),
    Metric("teacher_worst_class_accuracy", "teacher's worst class", "share", "higher",
           "Worst-class accuracy of the pair's teacher.",
           of="teacher", compute=_of_teacher(p.worst_class_accuracy)),
    Metric("teacher_class_accuracy_spread", "teacher's class spread", "share", "lower",
           "Spread over classes of the pair's teacher.",
           of="teacher", compute=_of_teacher(p.class_accuracy_spread)),
    *GROUP_METRICS,
    *LONG_TAIL_METRICS,
    *ROBUSTNESS,
    Metric("seconds", "training", "seconds", "lower",
           "Wall time of training inside a run of the matrix, beside other runs: an order of magnitude, not a "
           "measurement of cost.", of="run", short="train s"),
    Metric("peak_memory_bytes", "peak memory", "bytes", "lower",
           "Highest memory of the run's process (on a GPU: highest allocated device memory).", of="run"),
    Metric("student_passes", "student passes", "", None,
           "Images that passed forward through the student, its peers and copies of them in training, in multiples of "
           "those of plain training: 11 for an attack of ten steps and a step on what it found.",
           of="run"),
    Metric("teacher_passes", "teacher passes", "", None,
           "Images that passed forward through the teacher in training, in multiples of those of plain training.",
           of="run"),
    Metric("deployed_size", "deployed size", "", "lower",
           "Parameters of the network that is deployed, in multiples of the plain student's.", of="run"),
    *COST,
    *(metric.of_teacher() for metric in COST if metric.name == "parameters"),
)}
_ROUNDING = 1e-6
_BOUNDS = {metric.name: (metric.low - _ROUNDING, metric.high + _ROUNDING) for metric in METRICS.values()}


def check_bounds(values: Mapping[str, float]) -> None:
    """Raise ValueError if one of the values, given by metric name, lies outside the range of its metric. Names of
    unknown metrics pass."""
    for name, value in values.items():
        if name in _BOUNDS and not _BOUNDS[name][0] <= value <= _BOUNDS[name][1]:
            raise ValueError(f"metrics.{name}: {value:g} is not between {METRICS[name].low:g} and "
                             f"{METRICS[name].high:g}")


def rows() -> list[dict[str, str]]:
    """The table that `kdbench list metrics` prints: one row per metric."""
    return [{"name": m.name, "title": m.title, "unit": m.unit, "better": m.better or "", "definition": m.definition,
             "reference": m.cited} for m in METRICS.values()]


def score(student: Predictions, teacher: Predictions | None = None) -> dict[str, float]:
    """The metrics computed from a student's predictions, by name; with the teacher's predictions, also those that
    compare the two networks or describe the teacher. Metrics that are not applicable are left out. UserError if a split
    is empty, a logit is not finite, a label is not the index of a class, or student and teacher differ in images,
    classes or labels."""
    _check(student, "student")
    if teacher is not None:
        _check(teacher, "teacher")
        _check_same_images(student, teacher)
    scores = {}
    for name, metric in METRICS.items():
        if metric.compute is None or (teacher is None and metric.of != "student"):
            continue
        value = metric.compute(student, teacher or {})
        if value is not None:
            scores[name] = value
    return scores


def vectors(student: Predictions) -> dict[str, list[float | None]]:
    """The lists that a record keeps for plots of its test predictions, by name: accuracies by class and by group, with
    None for those without images, and the bins of the reliability diagram."""
    logits, labels = student["test_logits"], student["test_labels"]
    images, correct, confidence = p.reliability(logits, labels)
    return {
        "class_accuracy": [None if np.isnan(value) else float(value) for value in p.per_class_accuracy(logits, labels)],
        "reliability_images": images.tolist(), "reliability_correct": correct.tolist(),
        "reliability_confidence": confidence.tolist(),
        **group_vectors(student),
    }


def _check(predictions: Predictions, whose: str) -> None:
    """Raise UserError if a split is empty, a logit is not finite, or a label is not the index of a class."""
    for split in ("validation", "test"):
        logits, labels = predictions[f"{split}_logits"], predictions[f"{split}_labels"]
        if not len(logits):
            raise UserError(f"{whose}'s predictions: the {split} split is empty")
        if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
            raise UserError(f"{whose}'s predictions: NaN or infinite logits on {broken} of {len(logits)} images of the "
                            f"{split} split")
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise UserError(f"{whose}'s predictions: {split} labels reach from {labels.min()} to {labels.max()}, "
                            f"allowed: 0 to {logits.shape[1] - 1}")


def _check_same_images(student: Predictions, teacher: Predictions) -> None:
    """Raise UserError if the student's and the teacher's predictions differ in numbers of images or classes, or in
    labels."""
    for split in ("validation", "test"):
        ours, theirs = student[f"{split}_logits"].shape, teacher[f"{split}_logits"].shape
        if ours != theirs:
            raise UserError(f"{split} split: the student predicts {ours[1]} classes of {ours[0]} images, its teacher "
                            f"{theirs[1]} classes of {theirs[0]}")
        if not np.array_equal(student[f"{split}_labels"], teacher[f"{split}_labels"]):
            raise UserError(f"{split} split: the labels of student and teacher differ: they saw different images")
