import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, recorded, snapshot, trainer

from kdbench_methods.feature.ab import ActivationBoundaries, boundary_loss


def by_hand(student, teacher, margin):
    """Heo et al.'s alternative loss, element by element: hinges on the teacher's side of zero."""
    total = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        if t > 0 and s < margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(student)


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_the_loss_equals_the_equation(margin):
    student, teacher = torch.randn(2, 3, 4, 2, 5, dtype=torch.float64)
    teacher[0, 0, 0, 0] = 0.0  # not active
    expected = by_hand(student.numpy(), teacher.numpy(), margin)
    assert boundary_loss(student, teacher, margin).item() == pytest.approx(expected, rel=1e-12)


def test_the_size_of_responses_beyond_the_margin_costs_nothing():
    teacher = torch.randn(3, 4, 2, 2)
    beyond = teacher.sign() * (1 + 10 * torch.rand_like(teacher))
    assert boundary_loss(beyond, teacher, 1.0) == 0
    assert boundary_loss(beyond, 100 * teacher, 1.0) == 0
    assert boundary_loss(-beyond, teacher, 1.0) > 4 * beyond[0].numel()


def test_the_first_part_moves_stages_and_connectors_and_leaves_the_classifier():
    training = trainer(ActivationBoundaries, "cross-architecture", boundary_share=0.5)
    method, before = training.method, snapshot(training.method)
    method.step_index = 5
    assert list(method.step(first_batch(training), training.optimizers)) == ["boundary"]
    changed = moved(method, before)
    classifier = {name for name in before if name.startswith("student.model.classifier")}
    assert classifier and not changed & classifier
    assert {name for name in before if name.startswith("connectors")} <= changed
    assert any(name.startswith("student.model.blocks.0") for name in changed)


def test_the_rest_is_plain_training_which_does_not_ask_the_teacher():
    training = trainer(ActivationBoundaries, boundary_share=0.5)
    method, before = training.method, snapshot(training.method)
    batch = first_batch(training)
    ce = F.cross_entropy(method.student(batch.images).logits, batch.labels).item()
    method.step_index = 6
    with recorded(method.ctx.teacher) as asked:
        terms = method.step(batch, training.optimizers)
    assert not asked
    assert {name: term.item() for name, term in terms.items()} == {"ce": pytest.approx(ce)}
    assert moved(method, before) == {name for name in before if name.startswith("student")}


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_term_halves_the_weight_from_stage_to_stage(pair):
    training = trainer(ActivationBoundaries, pair, alpha=0.01, margin=2.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    expected, stages = 0.0, list(zip(student.stages[-3:], teacher.stages, strict=True))
    for n, ((s, t), connector) in enumerate(zip(stages, method.connectors, strict=True)):
        size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:], strict=True)]
        ours = connector(F.adaptive_avg_pool2d(s, size)).detach().double().numpy()
        theirs = F.adaptive_avg_pool2d(t, size).double().numpy()
        expected += 0.01 * 2.0 ** (n - 2) * by_hand(ours, theirs, 2.0)
    assert terms.keys() == {"boundary"}
    assert terms["boundary"].item() == pytest.approx(expected, rel=1e-4)


def test_both_networks_are_taken_before_the_activation():
    training = trainer(ActivationBoundaries)
    method, batch = training.method, first_batch(training)
    for outputs, network in ((method.study(batch), method.student), (method.teach(batch), method.ctx.teacher)):
        after = network(batch.images).stages
        assert all((stage < 0).any() for stage in outputs.stages)
        for before, stage in zip(outputs.stages, after, strict=True):
            torch.testing.assert_close(F.relu(before), stage)


def test_a_student_that_learnt_the_boundaries_has_fewer_on_the_wrong_side():
    training = trainer(ActivationBoundaries, boundary_share=0.9)
    method, batch = training.method, first_batch(training)

    def wrong():
        with torch.no_grad():
            student, teacher = method.study(batch), method.teach(batch)
            return np.mean([((connector(s) > 0) != (t > 0)).float().mean().item() for connector, s, t in
                            zip(method.connectors, student.stages, teacher.stages, strict=True)])

    start = wrong()
    for _ in range(20):
        method.step(batch, training.optimizers)
    assert wrong() < 0.9 * start
