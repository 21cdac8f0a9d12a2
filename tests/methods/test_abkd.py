import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, loss_terms, random_logits, softmax

from kdbench_methods.logit.abkd import ABKD, alpha_beta_divergence

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)
P, Q = softmax(TEACHER.numpy()), softmax(STUDENT.numpy())


def by_hand(p, q, alpha, beta):
    total = 0.0
    for p_k, q_k in zip(p.ravel(), q.ravel(), strict=True):
        total -= (p_k**alpha * q_k**beta - alpha / (alpha + beta) * p_k ** (alpha + beta)
                  - beta / (alpha + beta) * q_k ** (alpha + beta)) / (alpha * beta)
    return total / len(p)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (1.0, 1.0), (0.2, 1.3)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_the_papers_equation(alpha, beta, temperature):
    expected = by_hand(softmax(TEACHER.numpy() / temperature), softmax(STUDENT.numpy() / temperature), alpha, beta)
    assert alpha_beta_divergence(STUDENT, TEACHER, alpha, beta, temperature).item() == pytest.approx(expected)


def test_it_tends_to_both_kl_divergences():
    forward = alpha_beta_divergence(STUDENT, TEACHER, 1.0, 1e-6, 1.0).item()
    backward = alpha_beta_divergence(STUDENT, TEACHER, 1e-6, 1.0, 1.0).item()
    assert forward == pytest.approx(kl(P, Q).mean(), rel=1e-4)
    assert backward == pytest.approx(kl(Q, P).mean(), rel=1e-4)


def test_exponents_of_a_half_give_hellingers_distance_and_of_one_the_squared_difference():
    assert alpha_beta_divergence(STUDENT, TEACHER, 0.5, 0.5, 1.0).item() == pytest.approx(
        2 * ((np.sqrt(P) - np.sqrt(Q)) ** 2).sum(axis=1).mean())
    assert alpha_beta_divergence(STUDENT, TEACHER, 1.0, 1.0, 1.0).item() == pytest.approx(
        0.5 * ((P - Q) ** 2).sum(axis=1).mean())


def test_it_is_smallest_at_the_teacher_and_finite_far_from_it():
    student = TEACHER.clone().requires_grad_()
    divergence = alpha_beta_divergence(student, TEACHER, 0.8, 0.3, 2.0)
    divergence.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-12) and student.grad.abs().max() < 1e-12
    far = torch.tensor([[500.0, 0.0, -500.0]], requires_grad=True)
    loss = alpha_beta_divergence(far, -far.detach(), 0.8, 0.3, 1.0)
    loss.backward()
    assert loss.isfinite() and far.grad.isfinite().all()


def test_abkd_adds_the_divergence_to_ce_with_its_weight():
    terms = loss_terms(ABKD, STUDENT, LABELS, TEACHER, alpha=0.6, beta=0.9, weight=5.0, temperature=3.0)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["abkd"] == pytest.approx(5 * alpha_beta_divergence(STUDENT, TEACHER, 0.6, 0.9, 3.0).item())
