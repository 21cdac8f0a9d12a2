import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, random_logits, recorded, softmax, trainer

from kdbench_methods.adversarial.iad import IAD, divergences

SETTINGS = {"beta": 0.6, "warmup": 0.25, "temperature": 2.0, "radius": 1.59375, "step_size": 0.4, "attack_steps": 4}
# 0.05 and 0.02 of pixels in 0..1: the dataset's radius is 8/255


def numpy_logits(outputs):
    return outputs.logits.detach().double().numpy()


def take_losses(step_index):
    """The losses of one step of 12: the method, its batch, the terms, what student and teacher were shown."""
    t = trainer(IAD, **SETTINGS)
    t.method.step_index = step_index
    batch = first_batch(t)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.losses(batch, t.method.study(batch), t.method.teach(batch))
    return t.method, batch, terms, by_student, by_teacher


@pytest.fixture(scope="module")
def step():
    return take_losses(3)  # the first after the warm-up


def test_divergences_are_those_of_each_sample():
    student, teacher = random_logits(4, 5), random_logits(4, 5, seed=1)
    expected = 9 * kl(softmax(teacher.numpy() / 3), softmax(student.numpy() / 3))
    np.testing.assert_allclose(divergences(student, teacher, 3.0).numpy(), expected, rtol=1e-9)


def test_iad_trusts_the_teacher_as_far_as_it_knows_the_attacked_image(step):
    _, batch, terms, by_student, by_teacher = step
    clean, attacked = numpy_logits(by_student[0][1]), numpy_logits(by_student[-1][1])
    assert torch.equal(by_teacher[0][0], batch.images) and torch.equal(by_teacher[1][0], by_student[-1][0])
    teacher, labels = numpy_logits(by_teacher[0][1]), batch.labels.numpy()
    trust = softmax(numpy_logits(by_teacher[1][1]))[range(len(labels)), labels] ** 0.6
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "teacher": 4 * (trust * kl(softmax(teacher / 2), softmax(attacked / 2))).mean(),
        "own": ((1 - trust) * kl(softmax(clean), softmax(attacked))).mean(),
    }, rel=1e-4)


def test_the_warm_up_trusts_the_teacher_alone():
    _, _, terms, by_student, by_teacher = take_losses(2)
    attacked, teacher = numpy_logits(by_student[-1][1]), numpy_logits(by_teacher[0][1])
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"teacher": 4 * kl(softmax(teacher / 2), softmax(attacked / 2)).mean(), "own": 0.0}, rel=1e-4)
    assert len(by_teacher) == 1


def test_a_beta_of_zero_trusts_the_teacher_alone_and_a_large_one_the_student():
    t = trainer(IAD)
    method, batch = t.method, first_batch(t)
    method.step_index = 11
    method.beta = 0.0
    assert (method.trust(batch.images, batch.labels) == 1).all()
    method.beta = 1000.0
    assert (method.trust(batch.images, batch.labels) < 1e-6).all()


def test_the_gradient_goes_through_both_of_the_students_predictions():
    t = trainer(IAD, **SETTINGS)
    t.method.step_index = 11
    batch = first_batch(t)
    clean = t.method.study(batch)
    clean = clean._replace(logits=clean.logits.detach().requires_grad_())
    terms = t.method.losses(batch, clean, t.method.teach(batch))
    assert (torch.autograd.grad(terms["own"], clean.logits, retain_graph=True)[0] != 0).any()
    for term in terms.values():
        assert (torch.autograd.grad(term, t.method.student.model.conv1.weight, retain_graph=True)[0] != 0).any()


def test_the_attack_starts_anywhere_in_the_ball_and_stays_in_it(step):
    method, batch, _, by_student, _ = step
    assert len(by_student) == 1 + SETTINGS["attack_steps"] + 1
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    starts = (by_student[1][0] - batch.images) / scale
    assert 0.045 < starts.abs().max() <= 0.05 + 1e-6 and 0.02 < starts.std() < 0.035  # uniform: 0.029
    for images, _ in by_student[1:]:
        assert ((images - batch.images).abs() <= 0.05 * scale + 1e-5).all()
        assert (images >= method.ctx.pixel_low - 1e-6).all() and (images <= method.ctx.pixel_high + 1e-6).all()


def test_each_step_of_the_attack_climbs_the_students_cross_entropy(step):
    method, batch, _, by_student, _ = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    images = by_student[2][0].detach().requires_grad_()
    slope, = torch.autograd.grad(F.cross_entropy(method.student(images).logits, batch.labels), images)
    unbound = images.detach() + 0.02 * scale * slope.sign()
    near = torch.minimum(torch.maximum(unbound, batch.images - 0.05 * scale), batch.images + 0.05 * scale)
    expected = torch.minimum(torch.maximum(near, method.ctx.pixel_low), method.ctx.pixel_high)
    assert ((by_student[3][0] - expected).abs() < 1e-5).float().mean() > 0.999


def test_running_statistics_record_the_clean_and_the_attacked_batch_and_not_the_attack():
    t = trainer(IAD)
    t.method.step(first_batch(t), t.optimizers)
    assert {norm.num_batches_tracked.item() for norm in t.method.student.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)} == {2}
