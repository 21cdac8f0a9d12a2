import numpy as np
import pytest
import torch
from support.methods import loss_terms, random_logits, softmax

from kdbench_methods.baseline.ce import CrossEntropy
from kdbench_methods.baseline.label_smoothing import LabelSmoothing

LABELS = torch.tensor([0, 3, 2, 2])
LOGITS = random_logits(4, 5)


def test_ce_is_the_mean_negative_log_probability_of_the_labels():
    expected = -np.log(softmax(LOGITS.numpy())[range(4), LABELS]).mean()
    assert loss_terms(CrossEntropy, LOGITS, LABELS) == pytest.approx({"ce": expected})


def test_label_smoothing_gives_every_class_its_share():
    target = np.full((4, 5), 0.3 / 5)
    target[range(4), LABELS] += 0.7
    expected = -(target * np.log(softmax(LOGITS.numpy()))).sum(axis=1).mean()
    assert loss_terms(LabelSmoothing, LOGITS, LABELS, smoothing=0.3) == pytest.approx({"ce": expected})


def test_label_smoothing_of_zero_is_ce():
    assert loss_terms(LabelSmoothing, LOGITS, LABELS, smoothing=0.0) == loss_terms(CrossEntropy, LOGITS, LABELS)


def test_label_smoothing_is_smallest_where_the_student_says_the_smoothed_labels():
    target = torch.full((4, 5), 0.02, dtype=torch.float64).scatter_(1, LABELS[:, None], 0.92)
    logits = target.log().requires_grad_()
    torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1).backward()
    assert logits.grad.abs().max() < 1e-12
    best = loss_terms(LabelSmoothing, target.log(), LABELS)["ce"]
    assert best < loss_terms(LabelSmoothing, target.log() + 0.1 * LOGITS, LABELS)["ce"]
