import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench.method import Shapes
from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.attention.afd import AFD, Attention, attended_distance, spatial_map


def map_by_hand(stage, size):
    energy = F.adaptive_avg_pool2d(torch.from_numpy((stage**2).mean(1, keepdims=True)), size).numpy()
    return np.stack([(e / np.sqrt((e**2).sum())).ravel() for e in energy])


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (8, 8), (3, 3)])
def test_a_map_is_the_energy_at_the_teachers_resolution_of_norm_one(size):
    stage = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    np.testing.assert_allclose(spatial_map(stage, size).numpy(), map_by_hand(stage.numpy(), size))


def test_distance_is_weighted_over_the_students_stages():
    weights, students, teacher = (torch.rand(*shape, dtype=torch.float64) for shape in ((4, 3), (4, 3, 6), (4, 6)))
    expected = sum(weights[b, s] * ((students[b, s] - teacher[b]) ** 2).sum() / 6 for b, s in np.ndindex(4, 3)) / 4
    assert attended_distance(weights, students, teacher).item() == pytest.approx(expected.item(), rel=1e-12)


def test_attention_equals_the_equation():
    students, teachers, width = ((3, 4, 4), (5, 2, 2)), ((4, 4, 4), (6, 2, 2), (7, 1, 1)), 8
    attention = Attention(students, teachers, width).double().eval()
    maps = [[torch.randn(5, *shape, dtype=torch.float64) for shape in shapes] for shapes in (students, teachers)]

    def linear(module, x):  # with BatchNorm's initial statistics
        weight, bias = module[0].weight.detach().numpy(), module[0].bias.detach().numpy()
        return (x @ weight.T + bias) / np.sqrt(1 + 1e-5)

    p_s, p_t = attention.student_places.detach().numpy(), attention.teacher_places.detach().numpy()
    weights = attention(*maps).detach().numpy()
    for t, stage in enumerate(maps[1]):
        query = linear(attention.queries[t], stage.numpy().mean((2, 3)))
        scores = []
        for s, other in enumerate(maps[0]):
            key = np.maximum(linear(attention.keys[s][0], other.numpy().mean((2, 3))), 0)
            transformed = linear(attention.bilinear, key)[:, t * width:(t + 1) * width]
            scores.append(((query * transformed).sum(1) + p_t[t] @ p_s[s]) / np.sqrt(width))
        odds = np.exp(np.stack(scores, axis=1))
        np.testing.assert_allclose(weights[:, t], odds / odds.sum(1, keepdims=True), rtol=1e-9)


def test_the_terms_follow_from_all_pairs_of_stages():
    training = trainer(AFD, "cross-architecture", alpha=10.0, kd=0.5, temperature=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    weights = method.attention(student.stages, teacher.stages).detach().double().numpy()
    expected = 0.0
    for t, stage in enumerate(teacher.stages):
        size = tuple(stage.shape[2:])
        target = map_by_hand(stage.double().numpy(), size)
        for s, other in enumerate(student.stages):
            squares = (map_by_hand(other.detach().double().numpy(), size) - target) ** 2
            expected += (weights[:, t, s] * squares.mean(1)).mean()
    assert terms["afd"].item() == pytest.approx(10 * expected, rel=1e-3)
    softened = soft_cross_entropy(student.logits, teacher.logits, 3.0).item()
    assert terms["kd"].item() == pytest.approx(0.5 * softened, rel=1e-5)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_step_moves_student_and_attention():
    training = trainer(AFD)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    # what stands before a BatchNorm's mean is free, so the biases there have no gradient but for rounding
    still = {name for name in before if name.startswith("attention") and name.endswith("0.bias")}
    assert set(before) - moved(method, before) <= still


@pytest.mark.parametrize("size", [(4, 4), (1, 4), (4, 1)])
def test_inapplicable_where_the_teacher_has_no_positions(size):
    point, wide = Shapes(8, ((8, 1, 1),)), Shapes(8, ((8, *size), (8, 1, 1)))
    assert "position" in AFD.inapplicable(wide, point)
    assert AFD.inapplicable(point, wide) is None
