import pytest
import torch
from support.methods import first_batch, kl, recorded, softmax, trainer

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.adversarial.rslad import RSLAD

SETTINGS = {"alpha": 0.7, "radius": 1.59375, "step_size": 0.4, "attack_steps": 4}
# 0.05 and 0.02 of pixels in 0..1: the dataset's radius is 8/255


@pytest.fixture(scope="module")
def step():
    """One step: the method, its batch, the terms, and what student (with its mode) and teacher were shown."""
    t = trainer(RSLAD, **SETTINGS)
    batch, modes = first_batch(t), []
    t.method.student.register_forward_hook(lambda module, *_: modes.append(module.training))
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.losses(batch, t.method.student(batch.images), t.method.teach(batch))
    return t.method, batch, terms, by_student, by_teacher, list(modes)


def numpy_logits(outputs):
    return outputs.logits.detach().double().numpy()


def test_rslad_is_the_papers_loss_of_the_attacked_and_the_clean_image(step):
    _, _, terms, by_student, by_teacher, _ = step
    clean, attacked = (softmax(numpy_logits(by_student[i][1])) for i in (0, -1))
    teacher = softmax(numpy_logits(by_teacher[0][1]))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "robust": 0.7 * kl(teacher, attacked).mean(), "clean": 0.3 * kl(teacher, clean).mean(),
    }, rel=1e-4)


def test_the_labels_do_not_matter():
    values = []
    for shift in (0, 1):
        t = trainer(RSLAD, **SETTINGS)
        batch = first_batch(t)
        batch = batch._replace(labels=(batch.labels + shift) % 6)
        values.append([term.item() for term in t.method.step(batch, t.optimizers).values()])
    assert values[0] == values[1]


def test_the_teacher_answers_the_clean_image_and_the_student_both(step):
    _, batch, _, by_student, by_teacher, _ = step
    assert [torch.equal(images, batch.images) for images, _ in by_teacher] == [True]
    assert len(by_student) == 1 + SETTINGS["attack_steps"] + 1
    assert torch.equal(by_student[0][0], batch.images)


def test_the_student_is_attacked_in_eval_mode_and_trained_in_train_mode(step):
    method, *_, modes = step
    assert modes == [True, False, False, False, False, True] and method.student.training


def test_the_attack_starts_beside_the_image_and_stays_in_the_ball(step):
    method, batch, _, by_student, _, _ = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    start = (by_student[1][0] - batch.images) / scale
    assert 0.0003 < start.std() < 0.0011 and start.abs().max() < 0.006
    farthest = max(((images - batch.images).abs() / scale).max().item() for images, _ in by_student[1:])
    assert farthest == pytest.approx(0.05)


def test_each_step_of_the_attack_climbs_the_divergence_from_the_teacher(step):
    method, batch, _, by_student, by_teacher, _ = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    images = by_student[2][0].detach().requires_grad_()
    # Like the attack: with the statistics that the student had then, before it was trained on the attacked image.
    t = trainer(RSLAD, **SETTINGS)
    t.method.student(batch.images)
    student = t.method.student.eval()
    divergence = soft_cross_entropy(student(images).logits, by_teacher[0][1].logits, 1.0)
    slope, = torch.autograd.grad(divergence, images)
    unbound = images.detach() + 0.02 * scale * slope.sign()
    near = torch.minimum(torch.maximum(unbound, batch.images - 0.05 * scale), batch.images + 0.05 * scale)
    expected = torch.minimum(torch.maximum(near, method.ctx.pixel_low), method.ctx.pixel_high)
    assert ((by_student[3][0] - expected).abs() < 1e-5).float().mean() > 0.99
