import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.relation.ickd import ICKD, correlation_loss, correlations


def by_hand(student, teacher):
    """Liu et al.'s loss as their code normalises it, in loops."""
    def gram(image):
        rows = [channel.reshape(-1) for channel in image]
        matrix = np.array([[a @ b for b in rows] for a in rows])
        return matrix / np.maximum(np.sqrt((matrix**2).sum(1)), 1e-12)[:, None]  # a dead channel's row stays 0

    total = sum(((gram(s) - gram(t)) ** 2).sum() for s, t in zip(student, teacher, strict=True))
    return total / (len(student) * student.shape[1])


def test_the_loss_equals_the_equation_for_stages_of_any_resolution():
    student, teacher = torch.randn(4, 5, 3, 2, dtype=torch.float64), torch.randn(4, 5, 8, 8, dtype=torch.float64)
    expected = by_hand(student.numpy(), teacher.numpy())
    assert correlation_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_moving_the_positions_and_scaling_an_image_costs_nothing():
    stage = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    moved_about = (stage.flatten(2) @ rotation).view_as(stage) * torch.tensor([1.0, 3, 0.2, 7]).view(4, 1, 1, 1)
    assert correlation_loss(moved_about, stage).item() == pytest.approx(0, abs=1e-20)


def test_channels_that_change_places_cost_something():
    stage = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    assert correlation_loss(stage.roll(1, 1), stage) > 0.1


def test_rows_have_unit_length_and_a_dead_stage_gives_no_nan():
    torch.testing.assert_close(correlations(torch.randn(3, 5, 4, 4)).norm(dim=2), torch.ones(3, 5))
    dead = torch.zeros(4, 3, 2, 2, requires_grad=True)
    correlation_loss(dead, torch.randn(4, 3, 2, 2)).backward()
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_term_is_alpha_times_the_loss_of_the_embedded_last_stage(pair):
    training = trainer(ICKD, pair, alpha=5.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    embedded = method.embed(student.stages[-1]).detach().double().numpy()
    assert terms["correlation"].item() == pytest.approx(5 * by_hand(embedded, teacher.stages[-1].double().numpy()),
                                                        rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_step_moves_student_and_embedding():
    training = trainer(ICKD)
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert any(name.startswith("embed.") for name in before)
