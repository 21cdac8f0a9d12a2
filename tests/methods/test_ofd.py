import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench_methods.feature.ofd import OFD, NegativeMean, partial_distance


def by_hand(student, teacher, margin):
    """The paper's partial L2 distance to the margin rectifier of the teacher, element by element."""
    total = 0.0
    for image, channel, row, column in np.ndindex(*teacher.shape):
        s, t = student[image, channel, row, column], teacher[image, channel, row, column]
        target = max(t, margin[channel])
        if not (s <= target <= 0):
            total += (s - target) ** 2
    return total / len(teacher)


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    golden.check("ofd", lambda s: partial_distance(s, golden["teacher_stage2"], golden["ofd_margin"]))


def test_loss_equals_the_equation():
    student, teacher = torch.randn(4, 3, 5, 2, dtype=torch.float64), torch.randn(4, 3, 5, 2, dtype=torch.float64)
    margin = torch.tensor([-0.1, -0.5, -2.0], dtype=torch.float64)
    expected = by_hand(student.numpy(), teacher.numpy(), margin.numpy())
    assert partial_distance(student, teacher, margin).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("student, teacher, loss", [
    (3.0, 1.0, 4.0), (-1.0, 1.0, 4.0),     # a positive response is met from both sides
    (1.0, -0.2, 1.44), (-1.0, -0.2, 0.0),  # a negative one above the margin only from above
    (0.5, -4.0, 1.0), (-0.7, -4.0, 0.0),   # one below the margin -0.5 counts as the margin
])
def test_a_negative_response_only_holds_from_above(student, teacher, loss):
    student, teacher = torch.full((1, 1, 1, 1), student), torch.full((1, 1, 1, 1), teacher)
    assert partial_distance(student, teacher, torch.tensor([-0.5])).item() == pytest.approx(loss)


def test_the_margin_is_the_mean_of_all_negative_values_of_a_channel():
    margin = NegativeMean(3)
    first = torch.tensor([[-1.0, 5.0], [-4.0, 0.0], [1.0, 0.0]]).view(1, 3, 1, 2)
    assert margin(first).tolist() == [-1.0, -4.0, 0.0]
    second = torch.tensor([[-3.0], [-10.0], [7.0]]).view(1, 3, 1, 1)
    assert margin(second).tolist() == [-2.0, -7.0, 0.0]
    assert {"sum", "count"} <= margin.state_dict().keys()


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_terms_are_the_weighted_distances_before_the_rectifiers(pair):
    training = trainer(OFD, pair, alpha=0.5)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    assert all((stage < 0).any() for stage in (*student.stages, *teacher.stages))
    expected, pairs = 0.0, list(zip(student.stages[-3:], teacher.stages, strict=True))
    for i, (s, t) in enumerate(pairs):
        size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True)]
        s, t = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size).double().numpy()  # noqa: PLW2901
        margin = [t[:, c][t[:, c] < 0].mean() if (t[:, c] < 0).any() else 0.0 for c in range(t.shape[1])]
        connected = method.connectors[i](s).detach().double().numpy()
        expected += by_hand(connected, t, margin) / (4, 2, 1)[i]
    terms = method.losses(batch, student, teacher)
    assert terms["ofd"].item() == pytest.approx(0.5 * expected, rel=1e-3)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item(), rel=1e-4)


def test_a_step_moves_student_and_connectors():
    training = trainer(OFD)
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    method.step(batch, training.optimizers)
    assert moved(method, before) == set(before)
    assert all(margin.count.sum() > 0 for margin in method.margins)


def test_a_connector_starts_as_the_authors_do_with_the_variance_2_over_its_output_channels():
    for connector in trainer(OFD, "cross-architecture").method.connectors:
        weight = connector[0].weight
        assert weight.numel() > 500
        assert weight.std().item() == pytest.approx((2 / weight.shape[0]) ** 0.5, rel=0.1)
