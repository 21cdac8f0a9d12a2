import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, trainer

from kdbench_methods.relation.sp import SimilarityPreserving, similarities, similarity_loss


def by_hand(student, teacher):
    """One summand of Tung & Mori's loss, in loops."""
    def gram(stage):
        rows = [sample.reshape(-1) for sample in stage]
        matrix = np.array([[a @ b for b in rows] for a in rows])
        return matrix / np.sqrt((matrix**2).sum(1))[:, None]

    return ((gram(student) - gram(teacher)) ** 2).sum() / len(student) ** 2


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    teacher = golden.stages("teacher")
    golden.check("sp", lambda *student: sum(similarity_loss(s, t) for s, t in zip(student, teacher, strict=True)))


def test_the_loss_equals_the_equation():
    student, teacher = torch.randn(5, 3, 4, 2, dtype=torch.float64), torch.randn(5, 6, 8, 8, dtype=torch.float64)
    expected = by_hand(student.numpy(), teacher.numpy())
    assert similarity_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_turning_and_scaling_the_features_costs_nothing():
    stage = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64)).Q
    turned = (7 * stage.flatten(1) @ rotation).view_as(stage)
    assert similarity_loss(turned, stage).item() == pytest.approx(0, abs=1e-20)


def test_rows_have_unit_length_and_a_dead_stage_gives_no_nan():
    torch.testing.assert_close(similarities(torch.randn(5, 3, 4, 4)).norm(dim=1), torch.ones(5))
    dead = torch.zeros(4, 3, 2, 2, requires_grad=True)
    similarity_loss(dead, torch.randn(4, 3, 2, 2)).backward()
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize("stages", [1, 2])
def test_the_term_is_alpha_times_the_sum_over_the_deepest_stages(stages):
    training = trainer(SimilarityPreserving, "cross-architecture", alpha=5.0, stages=stages)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    deepest = zip(student.stages[-stages:], teacher.stages[-stages:], strict=True)
    expected = 5 * sum(by_hand(*(stage.detach().double().numpy() for stage in pair)) for pair in deepest)
    assert terms["similarity"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())
