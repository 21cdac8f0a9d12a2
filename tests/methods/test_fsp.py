import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import FILES, Golden, first_batch, moved, snapshot, trainer

from kdbench.method import Shapes
from kdbench_methods.relation.fsp import FSP, flow, flow_loss


def flow_by_hand(first, second):
    """Yim et al.'s matrix of one image, position by position."""
    channels, height, width = first.shape
    matrix = np.zeros((channels, len(second)))
    for i in range(channels):
        for j in range(len(second)):
            for h in range(height):
                for w in range(width):
                    matrix[i, j] += first[i, h, w] * second[j, h, w] / (height * width)
    return matrix


@pytest.mark.parametrize("file", FILES)
def test_value_and_gradients_are_the_published_ones(file):
    golden = Golden(file)
    golden.check("fsp", lambda *student: flow_loss(student, golden.stages("teacher")))


def test_a_flow_equals_the_equation():
    first, second = torch.randn(2, 3, 4, 2, dtype=torch.float64), torch.randn(2, 5, 4, 2, dtype=torch.float64)
    expected = [flow_by_hand(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(flow(first, second).numpy(), expected, rtol=1e-12)


def test_a_flow_agrees_with_torchdistill():
    from torchdistill.losses.mid_level import FSPLoss

    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(flow(first, second), FSPLoss.compute_fsp_matrix(first, second))


def test_the_larger_of_two_stages_is_averaged_to_the_smaller():
    large, small = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 2)
    pooled = F.avg_pool2d(large, (2, 4))
    torch.testing.assert_close(flow(large, small), flow(pooled, small))
    torch.testing.assert_close(flow(small, large), flow(small, pooled))


def test_the_loss_is_the_sum_of_means_over_the_flows():
    student, teacher = ([torch.randn(2, width, 3, 3, dtype=torch.float64) for width in (2, 4, 3)] for _ in range(2))
    flows = [[[flow_by_hand(a[n].numpy(), b[n].numpy()) for n in range(2)] for a, b in (s[:2], s[1:])]
             for s in (student, teacher)]
    expected = sum(((np.array(s) - np.array(t)) ** 2).mean() for s, t in zip(*flows, strict=True))
    assert flow_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert flow_loss(student, student).item() == 0


def test_the_first_part_trains_the_stages_and_adapters_and_leaves_the_classifier():
    training = trainer(FSP, "cross-architecture", flow_share=0.5)
    method, before = training.method, snapshot(training.method)
    method.step_index = 5
    assert list(method.step(first_batch(training), training.optimizers)) == ["flow"]
    changed = moved(method, before)
    classifier = {name for name in before if name.startswith("student.model.classifier")}
    assert classifier
    assert not changed & classifier
    assert {name for name in before if name.startswith("adapters")} <= changed
    assert any(name.startswith("student.model.blocks.0") for name in changed)


def test_the_rest_trains_the_whole_student_on_labels_and_leaves_the_adapters():
    training = trainer(FSP, "cross-architecture", flow_share=0.5)
    method, before = training.method, snapshot(training.method)
    batch = first_batch(training)
    ce = F.cross_entropy(method.student(batch.images).logits, batch.labels).item()
    method.step_index = 6
    terms = method.step(batch, training.optimizers)
    assert {name: term.item() for name, term in terms.items()} == {"ce": pytest.approx(ce)}
    assert moved(method, before) == {name for name in before if name.startswith("student")}


def test_the_flow_term_is_alpha_times_the_loss_of_the_adapted_stages():
    training = trainer(FSP, "cross-architecture", alpha=3.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.student(batch.images), method.teach(batch)
    assert len(student.stages) == 4
    assert len(teacher.stages) == 3
    terms = method.losses(batch, student, teacher)
    adapted = [adapter(stage) for adapter, stage in zip(method.adapters, student.stages[1:], strict=True)]
    assert terms["flow"].item() == pytest.approx(3 * flow_loss(adapted, teacher.stages).item(), rel=1e-5)


def test_stages_of_equal_width_have_no_adapter():
    training = trainer(FSP)
    shapes = training.method.ctx.student_shapes
    ctx = training.method.ctx.__class__(**{**vars(training.method.ctx), "teacher_shapes": shapes})
    assert not list(FSP(ctx).adapters.parameters())
    assert list(training.method.adapters.parameters())


def test_inapplicable_only_where_a_network_has_a_single_stage():
    one, two = Shapes(8, ((8, 4, 4),)), Shapes(8, ((8, 4, 4), (8, 2, 2)))
    assert "single stage" in FSP.inapplicable(one, two)
    assert "single stage" in FSP.inapplicable(two, one)
    assert FSP.inapplicable(two, two) is None
