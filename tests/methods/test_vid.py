import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench.parts.stages import match_resolution
from kdbench_methods.feature.vid import VID, negative_log_likelihood, regressor


def by_hand(mean, target, scale):
    """-log N(t; mu, sigma_c^2) without its constant, over the elements of every channel."""
    total = 0.0
    for channel in range(mean.shape[1]):
        sigma = math.sqrt(math.log(1 + math.exp(scale[channel])) + 1e-5)
        squared = (target[:, channel] - mean[:, channel]) ** 2
        total += (math.log(sigma) + squared / (2 * sigma**2)).sum()
    return total / mean.size


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    mean = regressor(8, 10).double()
    mean.load_state_dict({f"{i}.weight": golden[f"vid_regressor_{i}_weight"] for i in (0, 2, 4)})

    def loss(stage):
        student, teacher = match_resolution(stage, golden["teacher_stage2"])
        return negative_log_likelihood(mean(student), teacher, golden["vid_log_scale"])

    golden.check("vid", loss)


def test_loss_equals_the_equation():
    mean, target, scale = (*torch.randn(2, 4, 3, 5, 2, dtype=torch.float64), torch.randn(3).double())
    expected = by_hand(mean.numpy(), target.numpy(), scale.numpy())
    assert negative_log_likelihood(mean, target, scale).item() == pytest.approx(expected, rel=1e-12)


def test_loss_agrees_with_torchdistill():
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    mean, target, scale = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5), torch.randn(3)
    stage = {"path": "stage", "io": "output"}
    variance = (F.softplus(scale) + 1e-5).view(1, -1, 1, 1)
    theirs = losses.VIDLoss({"one": {"student": stage, "teacher": stage}})(
        {"stage": {"output": (mean, variance)}}, {"stage": {"output": target}})
    torch.testing.assert_close(negative_log_likelihood(mean, target, scale), theirs)


def test_the_best_variance_is_the_mean_squared_error():
    mean, target = torch.zeros(64, 1, 4, 4), 2 * torch.randn(64, 1, 4, 4)
    error = target.pow(2).mean().item()
    scale = torch.tensor([math.log(math.expm1(error - 1e-5))], requires_grad=True)
    negative_log_likelihood(mean, target, scale).backward()
    assert scale.grad.item() == pytest.approx(0, abs=1e-6)


def test_variances_start_at_five_and_are_trained_with_the_regressors_and_the_student():
    training = trainer(VID)
    method, batch = training.method, first_batch(training)
    assert all((F.softplus(scale) + 1e-5).detach().numpy() == pytest.approx(5.0) for scale in method.scales)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    assert moved(method, before) == set(before) > {"scales.0", "scales.1", "scales.2"}


def test_the_term_is_alpha_times_the_sum_over_pairs_pooled_to_the_smaller_map():
    training = trainer(VID, "cross-architecture", alpha=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    expected = 0.0
    for i, (s, t) in enumerate(zip(student.stages[1:], teacher.stages, strict=True)):
        target = F.adaptive_avg_pool2d(t.double(), s.shape[2:])
        expected += by_hand(method.means[i](s).detach().double().numpy(), target.numpy(),
                            method.scales[i].detach().double().numpy())
    assert np.prod(teacher.stages[0].shape[2:]) > np.prod(student.stages[1].shape[2:])
    assert terms["vid"].item() == pytest.approx(3 * expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_alpha_weights_the_students_gradient_and_not_that_of_regressors_and_variances():
    gradients = {}
    for alpha in (1.0, 50.0):
        training = trainer(VID, alpha=alpha)
        method, batch = training.method, first_batch(training)
        student, teacher = method.student(batch.images), method.teach(batch)
        term = method.losses(batch, student, teacher)["vid"]
        gradients[alpha] = torch.autograd.grad(term, [*student.stages, *method.means.parameters(), *method.scales])
    stages = len(student.stages)
    for i, (plain, weighted) in enumerate(zip(*gradients.values(), strict=True)):
        torch.testing.assert_close(weighted, plain * (50 if i < stages else 1), rtol=1e-4, atol=1e-8)
