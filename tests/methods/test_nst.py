import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, trainer

from kdbench.method import Shapes
from kdbench_methods.feature.nst import NST, selectivity_loss


def by_hand(student, teacher):
    """Huang and Wang's squared discrepancy, pair of channels by pair of channels, averaged over the images."""
    def mean_kernel(xs, ys):
        return np.mean([[(x @ y) ** 2 for y in ys] for x in xs])

    total = 0.0
    for image in zip(student, teacher, strict=True):
        s, t = ([channel.reshape(-1) / max(np.linalg.norm(channel), 1e-12) for channel in stage] for stage in image)
        total += mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)
    return total / len(student)


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    teacher = golden.stages("teacher")
    golden.check("nst", lambda *student: sum(selectivity_loss(s, t) for s, t in zip(student, teacher, strict=True)))


def test_the_loss_equals_the_equation_of_the_pooled_stages():
    student, teacher = torch.randn(3, 4, 2, 3, dtype=torch.float64), torch.randn(3, 5, 4, 6, dtype=torch.float64)
    expected = by_hand(student.numpy(), F.avg_pool2d(teacher, 2).numpy())
    assert selectivity_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_the_order_and_the_size_of_channels_cost_nothing():
    stage = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    other = 7 * stage[:, [2, 0, 3, 1]]
    assert selectivity_loss(other, stage).item() == pytest.approx(0, abs=1e-15)


def test_a_distribution_is_compared_not_its_size():
    stage = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert selectivity_loss(torch.cat([stage, stage], dim=1), stage).item() == pytest.approx(0, abs=1e-15)


def test_a_dead_stage_gives_no_nan():
    dead = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = selectivity_loss(dead, torch.randn(2, 3, 2, 2))
    loss.backward()
    assert loss.isfinite() and dead.grad.isfinite().all()


def test_the_term_is_alpha_times_the_sum_over_the_stages():
    training = trainer(NST, "cross-architecture", alpha=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    assert (len(student.stages), len(teacher.stages)) == (4, 3)
    expected = 0.0
    for s, t in zip(student.stages[1:], teacher.stages, strict=True):
        size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True)]
        pooled = [F.adaptive_avg_pool2d(stage.detach().double(), size).numpy() for stage in (s, t)]
        expected += 3 * by_hand(*pooled)
    terms = method.losses(batch, student, teacher)
    assert terms["nst"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_stages_of_one_position_are_refused_unless_another_has_more():
    point, map_ = Shapes(8, ((4, 1, 1),)), Shapes(8, ((4, 2, 2), (4, 1, 1)))
    assert "more than one position" in NST.inapplicable(point, point)
    assert "more than one position" in NST.inapplicable(point, map_)
    assert NST.inapplicable(map_, map_) is None
