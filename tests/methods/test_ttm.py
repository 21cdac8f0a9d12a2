import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, loss_terms, random_logits, softmax

from kdbench.parts.losses import soft_cross_entropy, transformed_divergence
from kdbench_methods.logit.ttm import TTM

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def powered(logits, exponent):
    powers = softmax(logits) ** exponent
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0])
def test_the_divergence_is_the_papers_equation(exponent):
    expected = kl(powered(TEACHER.numpy(), exponent), softmax(STUDENT.numpy()))
    np.testing.assert_allclose(transformed_divergence(STUDENT, TEACHER, exponent).numpy(), expected, rtol=1e-10)


def test_the_exponent_is_the_inverse_of_the_teachers_temperature():
    scaled = transformed_divergence(4 * STUDENT / 4, TEACHER, 0.25)
    both = soft_cross_entropy(4 * STUDENT, TEACHER, 4.0) / 16  # KD's, whose student is divided by 4
    assert scaled.mean().item() == pytest.approx(both.item())


def test_ttm_is_kd_with_the_renyi_entropy_of_the_student():
    """What TTM minimises is KD's cross-entropy less an entropy of order 1 / T of the student, up to terms of the
    teacher alone."""
    exponent, s, t = 0.25, STUDENT.numpy(), TEACHER.numpy()
    q = powered(t, exponent)
    ttm = -(q * np.log(softmax(s))).sum(-1)
    kd = -(q * np.log(softmax(exponent * s))).sum(-1)  # the student at the same temperature
    renyi = np.log((softmax(s) ** exponent).sum(-1)) / (1 - exponent)
    np.testing.assert_allclose(ttm, (kd - (1 - exponent) * renyi) / exponent)


def test_the_loss_is_smallest_at_the_transformed_teacher():
    student = (0.3 * TEACHER).requires_grad_()
    divergence = transformed_divergence(student, TEACHER, 0.3).mean()
    divergence.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-12) and student.grad.abs().max() < 1e-12


def test_ttm_adds_the_loss_to_ce_with_its_weight():
    terms = loss_terms(TTM, STUDENT, LABELS, TEACHER, exponent=0.2, alpha=7.0)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["ttm"] == pytest.approx(7 * transformed_divergence(STUDENT, TEACHER, 0.2).mean().item())
