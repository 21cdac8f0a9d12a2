import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, trainer

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.relation.cc import CorrelationCongruence, correlations


def by_hand(points, gamma, order):
    """Peng et al.: the Taylor series of the Gaussian kernel, pair by pair."""
    units = [point / np.sqrt((point**2).sum()) for point in points]
    return np.array([[sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (a @ b) ** p
                          for p in range(order + 1)) for b in units] for a in units])


@pytest.mark.parametrize("order", [1, 2, 5])
def test_correlations_equal_the_equation(order):
    embedding = torch.randn(5, 7, dtype=torch.float64)
    ours = correlations(embedding, gamma=0.3, order=order)
    np.testing.assert_allclose(ours.numpy(), by_hand(embedding.numpy(), 0.3, order), rtol=1e-12)


def test_correlations_agree_with_torchdistill_on_unit_vectors():
    from torchdistill.losses.mid_level import CCKDLoss

    student, teacher = (F.normalize(torch.randn(5, width, dtype=torch.float64), dim=1) for width in (7, 4))
    theirs = CCKDLoss("e", "e", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "sum")
    value = theirs({"e": {"output": student}}, {"e": {"output": teacher}})
    ours = F.mse_loss(correlations(student, 0.4, 2), correlations(teacher, 0.4, 2)).mul(5**2).sqrt()
    torch.testing.assert_close(ours, value)


def test_a_long_series_is_the_gaussian_kernel():
    directions = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    kernel = torch.exp(-0.7 * torch.cdist(directions, directions).square())
    torch.testing.assert_close(correlations(3 * directions, gamma=0.7, order=30), kernel)


def test_each_term_has_its_own_weight():
    training = trainer(CorrelationCongruence, "cross-architecture", temperature=3.0, alpha=0.7, beta=11.0, gamma=0.3,
                       order=3)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    assert terms["ce"].item() == pytest.approx(0.3 * F.cross_entropy(student.logits, batch.labels).item())
    assert terms["kd"].item() == pytest.approx(0.7 * soft_cross_entropy(student.logits, teacher.logits, 3.0).item())
    ours, theirs = (by_hand(o.embedding.detach().double().numpy(), 0.3, 3) for o in (student, teacher))
    assert terms["correlation"].item() == pytest.approx(11 * ((ours - theirs) ** 2).sum() / len(ours) ** 2, rel=1e-3)


def test_a_dead_sample_gives_no_nan():
    dead = torch.zeros(4, 3, requires_grad=True)
    correlations(dead, 0.4, 2).sum().backward()
    assert dead.grad.isfinite().all()
