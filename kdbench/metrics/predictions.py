"""Accuracy, calibration and fidelity as functions of logits [N, K] and labels [N], computed in float64.

Of classes with equal logits, the one with the lowest index is the prediction, as with `argmax`.
"""

import numpy as np

CALIBRATION_BINS = 15  # the number in Guo et al. (2017)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose highest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose label is among the k classes with the highest logits."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # [N, 1]
    before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & before)).sum(axis=1)  # [N], how many classes are before the label
    return float((rank < k).mean())


def per_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The accuracy on the images of each class, [K]; NaN for a class without images."""
    classes = logits.shape[1]
    images = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[logits.argmax(axis=1) == labels], minlength=classes)
    return np.divide(correct, images, out=np.full(classes, np.nan), where=images > 0)


def worst_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The lowest accuracy of a class that has images."""
    return float(np.nanmin(per_class_accuracy(logits, labels)))


def class_accuracy_spread(logits: np.ndarray, labels: np.ndarray) -> float:
    """Population standard deviation of the accuracies of the classes that have images."""
    return float(np.nanstd(per_class_accuracy(logits, labels)))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln p(label) over images, in nats."""
    return float(-np.take_along_axis(log_softmax(logits), labels[:, None], axis=1).mean())


def brier_score(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of the squared distance between probabilities and one-hot label, summed over classes: 0 to 2."""
    errors = np.exp(log_softmax(logits))
    errors[np.arange(len(labels)), labels] -= 1
    return float((errors**2).sum(axis=1).mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Mean of |accuracy - mean confidence| over equally wide bins (low, high] of confidence, weighted by their numbers
    of images. An image's confidence is the probability of its predicted class."""
    images, correct, confidence = reliability(logits, labels, bins)
    return float(np.abs(correct - confidence).sum() / images.sum())


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """The bins of the reliability diagram, [3, bins]: in each bin of confidence the number of images, the number of
    correct predictions, and the sum of confidences.

    They are sums rather than means, so that an empty bin is zero and the bins of several runs can be added.
    """
    confidence = np.exp(log_softmax(logits)).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return np.stack([np.bincount(which, weights, bins) for weights in (np.ones(len(labels)), correct, confidence)])


def agreement(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Share of images for which student and teacher predict the same class."""
    return float((logits.argmax(axis=1) == teacher_logits.argmax(axis=1)).mean())


def kl_from_teacher(logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    """Mean over images of KL(teacher || student), the sum over classes of teacher * ln(teacher / student), in nats, at
    temperature 1."""
    student, teacher = log_softmax(logits), log_softmax(teacher_logits)
    return float((np.exp(teacher) * (teacher - student)).sum(axis=1).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """The logarithms of the probabilities, [N, K] float64, of logits [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
