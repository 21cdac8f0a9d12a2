from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, recorded, softmax, trainer

from kdbench_methods.adversarial.ard import ARD

SETTINGS = {"alpha": 0.7, "temperature": 3.0, "radius": 1.59375, "step_size": 0.4, "attack_steps": 4}
# 0.05 and 0.02 of pixels in 0..1: the dataset's radius is 8/255


@pytest.fixture(scope="module")
def step():
    """One step: the trainer, its batch, the terms, and what student and teacher were shown."""
    t = trainer(ARD, **SETTINGS)
    batch = first_batch(t)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.losses(batch, t.method.student(batch.images), t.method.teach(batch))
    return t.method, batch, terms, by_student, by_teacher


def numpy_logits(outputs):
    return outputs.logits.detach().double().numpy()


def test_ard_is_the_papers_loss_of_the_attacked_and_the_clean_image(step):
    _, batch, terms, by_student, by_teacher = step
    clean, attacked = numpy_logits(by_student[0][1]), numpy_logits(by_student[-1][1])
    teacher, labels = numpy_logits(by_teacher[0][1]), batch.labels.numpy()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": 0.3 * -np.log(softmax(clean)[range(len(labels)), labels]).mean(),
        "ard": 0.7 * 9 * kl(softmax(teacher / 3), softmax(attacked / 3)).mean(),
    }, rel=1e-4)


def test_the_teacher_answers_the_clean_image_and_the_student_both(step):
    _, batch, _, by_student, by_teacher = step
    assert [torch.equal(images, batch.images) for images, _ in by_teacher] == [True]
    assert len(by_student) == 1 + SETTINGS["attack_steps"] + 1
    assert torch.equal(by_student[0][0], batch.images)


def test_the_attack_starts_anywhere_in_the_ball_and_stays_in_it(step):
    method, batch, _, by_student, _ = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    starts = (by_student[1][0] - batch.images) / scale
    assert starts.abs().max() <= 0.05 + 1e-6 and starts.abs().max() > 0.045
    assert 0.02 < starts.std() < 0.035  # uniform: 0.029
    for images, _ in by_student[1:]:
        assert ((images - batch.images).abs() <= 0.05 * scale + 1e-5).all()
        assert (images >= method.ctx.pixel_low - 1e-6).all() and (images <= method.ctx.pixel_high + 1e-6).all()


def test_each_step_of_the_attack_climbs_the_students_cross_entropy(step):
    method, batch, _, by_student, _ = step
    assert method.student.training
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    images = by_student[2][0].detach().requires_grad_()
    slope, = torch.autograd.grad(F.cross_entropy(method.student(images).logits, batch.labels), images)
    unbound = images.detach() + 0.02 * scale * slope.sign()
    near = torch.minimum(torch.maximum(unbound, batch.images - 0.05 * scale), batch.images + 0.05 * scale)
    expected = torch.minimum(torch.maximum(near, method.ctx.pixel_low), method.ctx.pixel_high)
    assert ((by_student[3][0] - expected).abs() < 1e-5).float().mean() > 0.999


def test_the_loss_reaches_the_student_through_the_attacked_image(step):
    method, _, terms, _, _ = step
    for term in terms.values():
        gradient, = torch.autograd.grad(term, method.student.model.conv1.weight, retain_graph=True)
        assert (gradient != 0).any()


def test_running_statistics_record_the_clean_and_the_attacked_batch_and_not_the_attack():
    t = trainer(ARD)
    t.method.step(first_batch(t), t.optimizers)
    assert {norm.num_batches_tracked.item() for norm in t.method.student.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)} == {2}


@pytest.mark.parametrize("radius", [0.1, 0.3])
def test_the_radius_and_the_steps_are_in_multiples_of_the_datasets(radius):
    t = trainer(ARD)
    method = ARD(replace(t.method.ctx, attack_radius=radius))
    batch = first_batch(t)
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    with recorded(method.student) as seen:
        method.attack(batch)
    farthest = max(((images - batch.images).abs() / scale).max().item() for images, _ in seen)
    assert farthest == pytest.approx(radius, rel=1e-4)
    moved = ((seen[1][0] - seen[0][0]).abs() / scale).max().item()
    assert moved == pytest.approx(radius / 4, rel=1e-4)
