import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench.parts.losses import soft_cross_entropy
from kdbench_methods.attention.semckd import SemCKD, associations, bottleneck, calibrated_distance, similarities


def test_similarities_are_inner_products_of_the_flattened_stages():
    stage = torch.randn(4, 3, 5, 2, dtype=torch.float64)
    expected = [[(a * b).sum() for b in stage.numpy()] for a in stage.numpy()]
    np.testing.assert_allclose(similarities(stage).numpy(), expected)


def test_associations_are_a_softmax_over_the_teachers_stages():
    queries, keys = torch.randn(5, 3, 7, dtype=torch.float64), torch.randn(5, 2, 7, dtype=torch.float64)
    weights = associations(queries, keys).numpy()
    for image, stage in np.ndindex(5, 3):
        odds = np.exp([queries[image, stage].numpy() @ keys[image, t].numpy() for t in range(2)])
        np.testing.assert_allclose(weights[image, stage], odds / odds.sum())


def test_distance_is_the_weighted_sum_averaged_over_images_and_stages():
    weights, distances = torch.rand(2, 5, 3, 2, dtype=torch.float64)
    expected = sum(weights[b, s, t] * distances[b, s, t] for b, s, t in np.ndindex(5, 3, 2)) / (5 * 3)
    assert calibrated_distance(weights, distances).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_terms_follow_from_all_pairs_of_stages(pair):
    training = trainer(SemCKD, pair, alpha=10.0, kd=0.5, temperature=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    with torch.no_grad():
        queries, keys = (
            [F.normalize(network(s.flatten(1) @ s.flatten(1).T)).double().numpy() for network, s in
             zip(networks, stages, strict=True)]
            for networks, stages in ((method.queries, student.stages), (method.keys, teacher.stages)))
        expected = 0.0
        for i, s in enumerate(student.stages):
            odds = np.stack([np.exp((queries[i] * key).sum(1)) for key in keys])
            for j, t in enumerate(teacher.stages):
                size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True)]
                projected = method.projections[i][j](F.adaptive_avg_pool2d(s, size))
                squares = (projected - F.adaptive_avg_pool2d(t, size)).double().numpy() ** 2
                expected += (odds[j] / odds.sum(0) * squares.mean((1, 2, 3))).mean() / len(student.stages)
    assert terms["semckd"].item() == pytest.approx(10 * expected, rel=1e-3)
    softened = soft_cross_entropy(student.logits, teacher.logits, 3.0).item()
    assert terms["kd"].item() == pytest.approx(0.5 * softened, rel=1e-5)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_step_moves_student_projections_queries_and_keys():
    training = trainer(SemCKD)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    assert moved(method, before) == set(before)


def test_a_projection_is_twice_as_wide_as_what_it_gives():
    convolutions = [layer for layer in bottleneck(3, 5) if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(3, 10), (10, 10), (10, 5)]
