import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, kl, loss_terms, random_logits, softmax

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.logit.dkd import DKD, dkd_loss

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def numpy_dkd(student, teacher, labels, alpha, beta, temperature):
    total = 0.0
    for s, t, label in zip(softmax(student / temperature), softmax(teacher / temperature), labels, strict=True):
        others = [k for k in range(len(s)) if k != label]
        b_s, b_t = (np.array([p[label], p[others].sum()]) for p in (s, t))
        r_s, r_t = (p[others] / p[others].sum() for p in (s, t))
        total += alpha * kl(b_t, b_s) + beta * kl(r_t, r_s)
    return temperature**2 * total / len(labels)


@pytest.mark.parametrize("file", FILES)
def test_dkd_loss_has_the_golden_values_and_gradients(file):
    golden = Golden(file)
    teacher, labels, given = golden["teacher_logits"], golden["labels"], golden.hyperparameters
    golden.check("dkd", lambda student: dkd_loss(
        student, teacher, labels, given["dkd_alpha"], given["dkd_beta"], given["temperature"]))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_dkd_loss_is_the_papers_equation(alpha, beta):
    expected = numpy_dkd(STUDENT.numpy(), TEACHER.numpy(), LABELS.numpy(), alpha, beta, 3.0)
    assert dkd_loss(STUDENT, TEACHER, LABELS, alpha, beta, 3.0).item() == pytest.approx(expected)


def test_kd_is_dkd_with_the_teachers_doubt_as_beta():
    for row in range(4):  # equation 6 of the paper, for one sample at a time
        student, teacher, label = STUDENT[row:row + 1], TEACHER[row:row + 1], LABELS[row:row + 1]
        doubt = 1 - F.softmax(teacher / 4, dim=1)[0, label].item()
        assert dkd_loss(student, teacher, label, 1.0, doubt, 4.0).item() == pytest.approx(
            soft_cross_entropy(student, teacher, 4.0).item())


def test_dkd_stays_finite_where_the_student_is_sure():
    student = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    loss = dkd_loss(student, torch.tensor([[0.0, 200.0, 0.0]]), torch.tensor([0]), 1.0, 8.0, 1.0)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_dkd_warms_its_term_up_linearly_and_leaves_ce_alone():
    def at(step_index, warmup=0.1):  # of 40 steps: the first four warm up
        return loss_terms(DKD, STUDENT, LABELS, TEACHER, step_index=step_index, warmup=warmup)

    whole = dkd_loss(STUDENT, TEACHER, LABELS, 1.0, 8.0, 4.0).item()
    assert at(0)["dkd"] == 0
    assert at(1)["dkd"] == pytest.approx(whole / 4)
    assert at(4)["dkd"] == at(36)["dkd"] == at(0, warmup=0.0)["dkd"] == pytest.approx(whole)
    assert at(0)["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())


def test_dkd_passes_its_hyperparameters_on():
    terms = loss_terms(DKD, STUDENT, LABELS, TEACHER, alpha=0.5, beta=3.0, temperature=2.0)
    assert terms["dkd"] == pytest.approx(dkd_loss(STUDENT, TEACHER, LABELS, 0.5, 3.0, 2.0).item())
