import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, random_logits, snapshot, softmax, trainer

from kdbench_methods.feature.ofa import OFA, Branch, ofa_loss

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def by_hand(student, teacher, labels, gamma, temperature):
    """Hao et al.'s distance as their code writes it, class by class."""
    total = 0.0
    for z, t, label in zip(student, teacher, labels, strict=True):
        p, q = softmax(t / temperature), softmax(z / temperature)
        for k in range(len(z)):
            weight = (1 + p[k]) ** gamma - 1 if k == label else p[k] ** gamma
            total -= weight * np.log(q[k])
    return total / len(student)


@pytest.mark.parametrize("gamma, temperature", [(1.0, 1.0), (1.5, 1.0), (0.7, 3.0), (2.0, 2.0)])
def test_the_loss_equals_the_equation(gamma, temperature):
    expected = by_hand(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), gamma, temperature)
    assert ofa_loss(STUDENT, TEACHER, LABELS, gamma, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_with_gamma_1_it_is_the_cross_entropy_with_the_teachers_probabilities():
    expected = F.cross_entropy(STUDENT / 2, F.softmax(TEACHER / 2, dim=1)).item()
    assert ofa_loss(STUDENT, TEACHER, LABELS, 1.0, 2.0).item() == pytest.approx(expected, rel=1e-12)


def test_a_larger_gamma_moves_the_best_student_towards_the_label():
    best = []
    for gamma in (1.0, 1.5, 2.0):
        weights = (F.softmax(TEACHER, dim=1) + F.one_hot(LABELS, 5)) ** gamma - F.one_hot(LABELS, 5)
        ideal = (weights / weights.sum(1, keepdim=True)).log().requires_grad_()
        ofa_loss(ideal, TEACHER, LABELS, gamma, 1.0).backward()
        assert ideal.grad.abs().max() < 1e-12  # the loss is least there
        best.append(ideal.detach().exp().gather(1, LABELS[:, None]))
    assert (best[0] < best[1]).all() and (best[1] < best[2]).all()


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture", "vit"])
def test_the_terms_are_the_weighted_losses_of_all_branches_and_of_the_student(pair):
    training = trainer(OFA, pair, alpha=0.5, kd=2.0, gamma=1.3, temperature=2.0)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    logits = [student.logits, *(branch(stage) for branch, stage in zip(method.branches, student.stages, strict=True))]
    taught, labels = teacher.logits.double().numpy(), batch.labels.tolist()
    own, *branches = (by_hand(z.detach().double().numpy(), taught, labels, 1.3, 2.0) for z in logits)
    assert len(branches) == len(student.stages)
    assert terms["kd"].item() == pytest.approx(2 * own, rel=1e-4)
    assert terms["ofa"].item() == pytest.approx(0.5 * sum(branches), rel=1e-4)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_a_branch_has_a_block_for_each_stage_that_follows_at_a_stride_where_the_resolution_falls():
    shapes = ((4, 16, 16), (6, 8, 8), (8, 8, 8), (10, 3, 3))
    sizes = []
    branch = Branch(shapes, 12, 5)
    for block in branch.layers:
        block.register_forward_hook(lambda module, arguments, output: sizes.append(tuple(output.shape[1:])))
    assert branch(torch.randn(2, 4, 16, 16)).shape == (2, 5)
    assert sizes == [(6, 8, 8), (8, 8, 8), (12, 3, 3)]
    last = Branch(shapes[-1:], 12, 5)
    assert last(torch.randn(2, 10, 3, 3)).shape == (2, 5)
    assert last.layers.weight.shape == (12, 10, 1, 1)


def test_a_branch_is_as_wide_as_the_larger_embedding_at_its_end():
    method = trainer(OFA).method
    assert {branch.classifier.in_features for branch in method.branches} == {32}
    assert method.ctx.student_shapes.embedding == 16 and method.ctx.teacher_shapes.embedding == 32


@pytest.mark.parametrize("pair", ["convolutional", "vit"])
def test_a_step_moves_student_and_branches_and_only_the_student_is_deployed(pair):
    training = trainer(OFA, pair)
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student
