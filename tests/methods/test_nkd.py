import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, loss_terms, random_logits, softmax

from kdbench_methods.logit.nkd import NKD, nkd_loss

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize("file", FILES)
def test_nkd_loss_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher, labels, given = golden["teacher_logits"], golden["labels"], golden.hyperparameters
    golden.check("nkd", lambda student: nkd_loss(student, teacher, labels, given["nkd_gamma"], given["nkd_temp"]))


@pytest.mark.parametrize("gamma", [0.0, 2.5])
def test_nkd_loss_is_the_papers_equation(gamma):
    expected = 0.0
    for s, t, label in zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True):
        others = [k for k in range(5) if k != label]
        r_s, r_t = (softmax(logits / 3)[others] / softmax(logits / 3)[others].sum() for logits in (s, t))
        expected -= softmax(t)[label] * np.log(softmax(s)[label])
        expected -= gamma * 9 * (r_t * np.log(r_s)).sum()
    assert nkd_loss(STUDENT, TEACHER, LABELS, gamma, 3.0).item() == pytest.approx(expected / 4)


def test_the_non_target_term_is_smallest_where_the_renormalised_rest_agrees():
    student = (TEACHER + 5 * F.one_hot(LABELS, 5)).requires_grad_()  # another target, the same rest
    labels_term = nkd_loss(student, TEACHER, LABELS, 0.0, 2.0)
    (nkd_loss(student, TEACHER, LABELS, 3.0, 2.0) - labels_term).backward()
    assert student.grad.abs().max() < 1e-12


def test_nkd_adds_the_loss_to_ce():
    terms = loss_terms(NKD, STUDENT, LABELS, TEACHER, gamma=2.0, temperature=1.5)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["nkd"] == pytest.approx(nkd_loss(STUDENT, TEACHER, LABELS, 2.0, 1.5).item())
