import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, loss_terms, random_logits, softmax

from kdbench_methods.logit.wsld import WSLD, weighted_soft_loss

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def by_hand(student, teacher, labels, temperature):
    total = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        ratio = np.log(softmax(s)[label]) / np.log(softmax(t)[label])
        soft = -(softmax(t / temperature) * np.log(softmax(s / temperature))).sum()
        total += (1 - np.exp(-ratio)) * soft
    return temperature**2 * total / len(labels)


@pytest.mark.parametrize("file", FILES)
def test_the_loss_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher, labels, given = golden["teacher_logits"], golden["labels"], golden.hyperparameters
    golden.check("wsld", lambda student: given["wsld_alpha"] * weighted_soft_loss(
        student, teacher, labels, given["wsld_temp"]))


def test_the_loss_is_the_papers_equation():
    expected = by_hand(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), 3.0)
    assert weighted_soft_loss(STUDENT, TEACHER, LABELS, 3.0).item() == pytest.approx(expected, rel=1e-6)


def test_samples_on_which_the_student_beats_the_teacher_count_less():
    sure, doubting = torch.tensor([[6.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.0, 0.0]])

    def weight(student, teacher):  # of the sample: the loss over its soft cross-entropy
        soft = F.cross_entropy(student / 4, F.softmax(teacher / 4, dim=1))
        return weighted_soft_loss(student, teacher, torch.tensor([0]), 4.0).item() / (16 * soft.item())

    assert weight(sure, doubting) < 0.01
    assert weight(doubting, sure) > 0.99
    assert weight(doubting, doubting) == pytest.approx(1 - np.exp(-1), rel=1e-5)


def test_the_weight_has_no_gradient():
    student = STUDENT.clone().requires_grad_()
    weighted_soft_loss(student, TEACHER, LABELS, 2.0).backward()
    for i in range(4):  # a sample's gradient is that of the soft term, times its weight
        row = STUDENT[i:i + 1].clone().requires_grad_()
        F.cross_entropy(row / 2, F.softmax(TEACHER[i:i + 1] / 2, dim=1)).backward()
        ratio = F.cross_entropy(STUDENT[i:i + 1], LABELS[i:i + 1]) / F.cross_entropy(TEACHER[i:i + 1], LABELS[i:i + 1])
        torch.testing.assert_close(student.grad[i], (1 - (-ratio).exp()) * row.grad[0], rtol=1e-5, atol=1e-9)


def test_the_loss_stays_finite_where_the_teacher_is_sure():
    student = torch.zeros(1, 3, requires_grad=True)
    loss = weighted_soft_loss(student, torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([0]), 4.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_wsld_adds_the_loss_to_ce_with_its_weight():
    terms = loss_terms(WSLD, STUDENT, LABELS, TEACHER, alpha=2.0, temperature=3.0)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["wsld"] == pytest.approx(2 * weighted_soft_loss(STUDENT, TEACHER, LABELS, 3.0).item())
