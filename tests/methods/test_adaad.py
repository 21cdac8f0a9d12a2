import pytest
import torch
from support.methods import first_batch, kl, recorded, softmax, trainer

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.adversarial.adaad import AdaAD

SETTINGS = {"alpha": 0.7, "radius": 1.59375, "step_size": 0.4, "attack_steps": 4}
# 0.05 and 0.02 of pixels in 0..1: the dataset's radius is 8/255


@pytest.fixture(scope="module")
def step():
    """One step: the method, its batch, the terms, and what student (with its mode) and teacher were shown."""
    t = trainer(AdaAD, **SETTINGS)
    batch, modes = first_batch(t), []
    t.method.student.register_forward_hook(lambda module, *_: modes.append(module.training))
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.losses(batch, t.method.study(batch), t.method.teach(batch))
    return t.method, batch, terms, by_student, by_teacher, list(modes)


def probabilities(outputs):
    return softmax(outputs.logits.detach().double().numpy())


def test_adaad_is_the_papers_loss_of_the_attacked_and_the_clean_image(step):
    _, batch, terms, by_student, by_teacher, _ = step
    assert torch.equal(by_teacher[0][0], batch.images) and torch.equal(by_teacher[-1][0], by_student[-1][0])
    (clean, attacked), (taught_clean, taught) = (
        [probabilities(seen[i][1]) for i in (0, -1)] for seen in (by_student, by_teacher))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "robust": 0.7 * kl(taught, attacked).mean(), "clean": 0.3 * kl(taught_clean, clean).mean(),
    }, rel=1e-4)


def test_the_teacher_answers_every_image_of_the_attack(step):
    _, _, _, by_student, by_teacher, _ = step
    attack = SETTINGS["attack_steps"]
    assert len(by_student) == len(by_teacher) == 1 + attack + 1
    for (shown, _), (asked, _) in zip(by_student, by_teacher, strict=True):
        assert torch.equal(shown, asked)


def test_each_step_of_the_attack_climbs_the_divergence_with_both_networks_gradients(step):
    method, batch, _, by_student, _, _ = step
    t = trainer(AdaAD, **SETTINGS)  # with the statistics that the student had then
    t.method.student(batch.images)
    student, teacher = t.method.student.eval(), t.method.ctx.teacher
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    images = by_student[2][0].detach().requires_grad_()

    def moved(answers):
        slope, = torch.autograd.grad(soft_cross_entropy(student(images).logits, answers, 1.0), images)
        unbound = images.detach() + 0.02 * scale * slope.sign()
        near = torch.minimum(torch.maximum(unbound, batch.images - 0.05 * scale), batch.images + 0.05 * scale)
        return torch.minimum(torch.maximum(near, method.ctx.pixel_low), method.ctx.pixel_high)

    answers = teacher(images).logits
    assert ((by_student[3][0] - moved(answers)).abs() < 1e-5).float().mean() > 0.99
    assert ((by_student[3][0] - moved(answers.detach())).abs() < 1e-5).float().mean() < 0.95


def test_the_attack_starts_beside_the_image_and_stays_in_the_ball(step):
    method, batch, _, by_student, _, modes = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    start = (by_student[1][0] - batch.images) / scale
    assert 0.0003 < start.std() < 0.0011 and start.abs().max() < 0.006
    farthest = max(((images - batch.images).abs() / scale).max().item() for images, _ in by_student[1:])
    assert farthest == pytest.approx(0.05)
    assert modes == [True, False, False, False, False, True] and method.student.training


def test_the_labels_do_not_matter():
    values = []
    for shift in (0, 1):
        t = trainer(AdaAD, **SETTINGS)
        batch = first_batch(t)
        batch = batch._replace(labels=(batch.labels + shift) % 6)
        values.append([term.item() for term in t.method.step(batch, t.optimizers).values()])
    assert values[0] == values[1]


def test_gradients_reach_the_student_and_not_the_teachers_answer(step):
    method, _, terms, _, by_teacher, _ = step
    assert not by_teacher[-1][1].logits.requires_grad
    for term in terms.values():
        assert (torch.autograd.grad(term, method.student.model.conv1.weight, retain_graph=True)[0] != 0).any()


def test_an_alpha_of_one_leaves_the_clean_batch_to_the_running_statistics():
    t = trainer(AdaAD)
    batch = first_batch(t)
    assert not t.method.study(batch).logits.requires_grad
    assert t.method.step(batch, t.optimizers)["clean"].item() == 0
