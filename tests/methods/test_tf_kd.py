import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, loss_terms, random_logits, softmax

from kdbench_methods.self.tf_kd import TfKD, virtual_teacher

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT = random_logits(4, 5)


def test_the_virtual_teacher_has_the_values_of_a_small_case_by_hand():
    # d = (0.9, 0.05, 0.05); e^0.45 = 1.56831, e^0.025 = 1.02532
    rows = virtual_teacher(torch.tensor([0, 1]), 3, correct=0.9, temperature=2.0)
    np.testing.assert_allclose(rows, [[0.433362, 0.283319, 0.283319], [0.283319, 0.433362, 0.283319]], atol=2e-6)


def test_the_virtual_teacher_is_right_and_softer_with_temperature():
    sharp, soft = (virtual_teacher(LABELS, 5, 0.99, temperature) for temperature in (1.0, 20.0))
    assert torch.equal(sharp.argmax(dim=1), LABELS) and torch.equal(soft.argmax(dim=1), LABELS)
    assert (soft.max(dim=1).values < sharp.max(dim=1).values).all()
    np.testing.assert_allclose(sharp.sum(dim=1), 1, rtol=1e-6)


def test_tf_kd_is_the_weighted_sum_of_ce_and_the_divergence_from_the_virtual_teacher():
    hard = np.full((4, 5), 0.05 / 4)
    hard[range(4), LABELS] = 0.95
    terms = loss_terms(TfKD, STUDENT, LABELS, alpha=0.3, temperature=7.0, correct=0.95)
    assert terms["kd"] == pytest.approx(0.3 * kl(softmax(hard / 7), softmax(STUDENT.numpy())).mean(), rel=1e-5)
    assert terms["ce"] == pytest.approx(0.7 * F.cross_entropy(STUDENT, LABELS).item())


def test_tf_kd_is_zero_where_the_student_says_what_the_virtual_teacher_says():
    target = virtual_teacher(LABELS, 5, 0.99, 20.0)
    assert loss_terms(TfKD, target.log(), LABELS)["kd"] == pytest.approx(0, abs=1e-7)
