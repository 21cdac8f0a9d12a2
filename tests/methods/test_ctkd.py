import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, loss_terms, random_logits, softmax, trainer

from kdbench_methods.logit.ctkd import CTKD, reversed_gradient

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_reversed_gradient_leaves_the_value_and_turns_the_gradient(strength):
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y = reversed_gradient(x, strength)
    assert y.item() == x.item()
    (3 * y.square()).backward()
    assert x.grad.item() == pytest.approx(-strength * 6 * 0.7)


def test_the_terms_are_those_of_kd_at_the_temperature_that_the_sigmoid_gives():
    temperature = 2 + 5 / (1 + np.exp(-1.0))  # the position starts at 1
    terms = loss_terms(CTKD, STUDENT, LABELS, TEACHER, alpha=0.7, low=2.0, span=5.0)
    p, q = softmax(TEACHER.numpy() / temperature), softmax(STUDENT.numpy() / temperature)
    assert terms["kd"] == pytest.approx(0.7 * temperature**2 * kl(p, q).mean(), rel=1e-5)
    assert terms["ce"] == pytest.approx(0.3 * F.cross_entropy(STUDENT, LABELS).item())


def test_the_curriculum_rises_from_0_to_1_by_a_cosine():
    method = trainer(CTKD, curriculum=0.5).method  # of 12 steps

    def strength(step_index):
        method.step_index = step_index
        return method.strength

    assert strength(0) == 0
    assert strength(3) == pytest.approx(0.5)
    assert strength(2) == pytest.approx((1 - np.cos(np.pi / 3)) / 2)
    assert strength(6) == strength(11) == pytest.approx(1)
    method.curriculum = 0.0
    assert strength(0) == pytest.approx(1)


def test_the_temperature_ascends_the_divergence_and_the_student_descends_it():
    training = trainer(CTKD, curriculum=0.0, alpha=1.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    term = method.losses(batch, student, teacher)["kd"]
    given, = torch.autograd.grad(term, [method.position], retain_graph=True)

    with torch.no_grad():
        def divergence(position):
            temperature = 1 + 20 * torch.tensor(position, dtype=torch.float64).sigmoid()
            p, q = (softmax((o.logits.double() / temperature).numpy()) for o in (teacher, student))
            return temperature.item() ** 2 * kl(p, q).mean()

        slope = (divergence(1.001) - divergence(0.999)) / 0.002
    assert given.item() == pytest.approx(-slope, rel=1e-2)

    method.curriculum = 1.0  # its strength is 0 in the first step: the student's gradient is the same
    first = torch.autograd.grad(term, [method.student.model.conv1.weight], retain_graph=True)
    later = torch.autograd.grad(method.losses(batch, student, teacher)["kd"], [method.student.model.conv1.weight])
    torch.testing.assert_close(first, later)


def test_a_step_moves_the_temperature_once_the_curriculum_has_begun():
    training = trainer(CTKD, curriculum=1.0)
    method, batch = training.method, first_batch(training)
    for group in training.optimizers["main"].param_groups:
        group["weight_decay"] = 0.0
    for step_index, moves in ((0, False), (6, True)):
        before = method.position.item()
        method.step_index = step_index
        method.step(batch, training.optimizers)
        assert (method.position.item() != before) == moves
