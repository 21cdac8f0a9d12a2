import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, recorded, softmax, trainer

from kdbench_methods.baseline.pgd_at import PGDAdversarialTraining

SETTINGS = {"radius": 1.59375, "step_size": 0.4, "attack_steps": 4}  # 0.05 and 0.02: the dataset's radius is 8/255


@pytest.fixture(scope="module")
def step():
    """One step: the method, its batch, the terms, and what the student was shown."""
    t = trainer(PGDAdversarialTraining, **SETTINGS)
    batch = first_batch(t)
    with recorded(t.method.student) as seen:
        terms = t.method.losses(batch, t.method.study(batch), None)
    return t.method, batch, terms, seen


def test_the_loss_is_the_cross_entropy_of_the_attacked_images_alone(step):
    method, batch, terms, seen = step
    assert len(seen) == SETTINGS["attack_steps"] + 1
    attacked = seen[-1][1].logits.detach().double().numpy()
    labels = batch.labels.numpy()
    expected = -np.log(softmax(attacked)[range(len(labels)), labels]).mean()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"ce": expected}, rel=1e-5)
    gradient, = torch.autograd.grad(terms["ce"], method.student.model.conv1.weight, retain_graph=True)
    assert (gradient != 0).any()


def test_the_attack_starts_anywhere_in_the_ball_and_stays_in_it(step):
    method, batch, _, seen = step
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    start = (seen[0][0] - batch.images) / scale
    assert 0.045 < start.abs().max() <= 0.05 + 1e-6 and 0.02 < start.std() < 0.035  # uniform: 0.029
    for images, _ in seen:
        assert ((images - batch.images).abs() <= 0.05 * scale + 1e-5).all()
        assert (images >= method.ctx.pixel_low - 1e-6).all() and (images <= method.ctx.pixel_high + 1e-6).all()


def test_each_step_of_the_attack_climbs_the_cross_entropy_of_the_student_in_train_mode(step):
    method, batch, _, seen = step
    assert method.student.training
    scale = method.ctx.pixel_high - method.ctx.pixel_low
    images = seen[1][0].detach().requires_grad_()
    slope, = torch.autograd.grad(F.cross_entropy(method.student(images).logits, batch.labels), images)
    unbound = images.detach() + 0.02 * scale * slope.sign()
    near = torch.minimum(torch.maximum(unbound, batch.images - 0.05 * scale), batch.images + 0.05 * scale)
    expected = torch.minimum(torch.maximum(near, method.ctx.pixel_low), method.ctx.pixel_high)
    assert ((seen[2][0] - expected).abs() < 1e-5).float().mean() > 0.999


def test_the_attack_raises_the_loss_and_without_a_radius_it_is_plain_training():
    t = trainer(PGDAdversarialTraining, **SETTINGS)
    batch = first_batch(t)
    clean = F.cross_entropy(t.method.student(batch.images).logits, batch.labels).item()
    assert t.method.step(batch, t.optimizers)["ce"].item() > clean + 0.01
    t = trainer(PGDAdversarialTraining, radius=0.0)
    assert t.method.step(first_batch(t), t.optimizers)["ce"].item() == pytest.approx(clean, rel=1e-5)


def test_running_statistics_record_each_batch_once():
    t = trainer(PGDAdversarialTraining)
    t.method.step(first_batch(t), t.optimizers)
    assert {norm.num_batches_tracked.item() for norm in t.method.student.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)} == {1}
