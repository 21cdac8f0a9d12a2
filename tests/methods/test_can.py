import numpy as np
import pytest
import torch
from support.methods import first_batch, moved_by_each, named, softmax, trainer

from kdbench_methods.adversarial.can import CAN


def log_sigmoid(score):
    return -np.log1p(np.exp(-score))


def test_can_is_the_papers_game():
    torch.manual_seed(0)
    method = trainer(CAN, alpha=0.3).method.double()
    student, teacher = torch.randn(2, 8, 6, dtype=torch.float64) * 2
    labels = torch.arange(8) % 6
    with torch.no_grad():
        student_terms = method.student_terms(student, teacher, labels)
        read = method.discriminator_terms(student, teacher, labels)
        of_student, of_teacher = method.discriminator(student).numpy(), method.discriminator(teacher).numpy()

    rows, labels = range(8), labels.numpy()
    classify = [-np.log(softmax(scores[:, 1:])[rows, labels]).mean() for scores in (of_student, of_teacher)]
    assert {name: term.item() for name, term in read.items()} == pytest.approx({
        "discriminate": -log_sigmoid(of_teacher[:, 0]).mean() - log_sigmoid(-of_student[:, 0]).mean(),
        "classify": sum(classify),
    })
    assert {name: term.item() for name, term in student_terms.items()} == pytest.approx({
        "ce": -np.log(softmax(student.numpy())[rows, labels]).mean(),
        "l1": 0.3 * np.abs(student.numpy() - teacher.numpy()).sum(axis=1).mean(),
        "fool": 0.3 * -log_sigmoid(of_student[:, 0]).mean(),
        "class": 0.3 * classify[0],
    })


def test_each_player_moves_its_own_weights_only():
    t = trainer(CAN)
    assert moved_by_each(t, first_batch(t)) == {
        name: named(t.method, prefix) for name, prefix in (("main", "student."), ("discriminator", "discriminator."))}


def test_the_discriminator_learns_to_tell_a_fixed_student_from_the_teacher():
    torch.manual_seed(0)
    t = trainer(CAN)
    teacher, labels = torch.eye(6).repeat(8, 1) * 5 + torch.randn(48, 6), torch.arange(48) % 6
    student = torch.eye(6).repeat(8, 1) * 2 + torch.randn(48, 6)
    for _ in range(150):
        terms = t.method.discriminator_terms(student, teacher, labels)
        t.optimizers["discriminator"].zero_grad()
        sum(terms.values()).backward()
        t.optimizers["discriminator"].step()
    real, fake = t.method.discriminator(teacher), t.method.discriminator(student)
    assert (real[:, 0] > 0).float().mean() > 0.9 and (fake[:, 0] < 0).float().mean() > 0.9
    assert (real[:, 1:].argmax(dim=1) == labels).float().mean() > 0.9


def test_the_students_terms_reach_the_student_and_not_the_teacher():
    t = trainer(CAN)
    batch = first_batch(t)
    student, teacher = t.method.student(batch.images).logits, t.method.teach(batch).logits
    assert not teacher.requires_grad
    for name, term in t.method.student_terms(student, teacher, batch.labels).items():
        gradient, = torch.autograd.grad(term, t.method.student.model.conv1.weight, retain_graph=True)
        assert (gradient != 0).any(), name
