from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, trainer
from torch import nn

from kdbench.method import Batch, Outputs, Shapes
from kdbench_methods.feature.mfd import MFD, mmd_loss

LABELS, GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 0, 0, 0, 1])
GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 8, 5, generator=GENERATOR, dtype=torch.float64)


def by_hand(student, teacher, labels, groups, sigma=1.0):
    """The sum of MMD^2 over the classes of groups, in loops."""
    distances = [((t - s) ** 2).sum() for t in teacher for s in student]
    width = 2 * sigma * np.mean(distances)

    def kernel(one, other):
        return np.mean([np.exp(-((a - b) ** 2).sum() / width) for a in one for b in other])

    total = 0.0
    for label, group in sorted({*zip(labels.tolist(), groups.tolist(), strict=True)}):
        taught, own = teacher[labels == label], student[(labels == label) & (groups == group)]
        total += kernel(taught, taught) + kernel(own, own) - 2 * kernel(taught, own)
    return total


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_the_loss_equals_the_equation(sigma):
    expected = by_hand(STUDENT.numpy(), TEACHER.numpy(), LABELS.numpy(), GROUPS.numpy(), sigma)
    assert mmd_loss(STUDENT, TEACHER, LABELS, GROUPS, sigma).item() == pytest.approx(expected, rel=1e-9)


def test_it_is_zero_where_each_group_has_the_teachers_features_of_the_class_in_any_order():
    labels, groups = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    teacher = STUDENT[:5]
    assert mmd_loss(teacher[[1, 0, 4, 2, 3]], teacher, labels, groups).item() == pytest.approx(0, abs=1e-9)
    assert mmd_loss(STUDENT, TEACHER, LABELS, GROUPS).item() > 0.1


def test_features_that_tell_the_group_cost_more_than_features_that_do_not():
    labels, groups = torch.zeros(8, dtype=torch.int64), torch.arange(8) % 2
    telling = TEACHER + 2 * groups[:, None]
    assert mmd_loss(telling, TEACHER, labels, groups) > 3 * mmd_loss(TEACHER, TEACHER, labels, groups)


def test_its_gradients_are_those_of_finite_differences_with_a_kernel_of_fixed_width():
    student = STUDENT.clone().requires_grad_()
    mmd_loss(student, TEACHER, LABELS, GROUPS).backward()
    width = (TEACHER[:, None] - STUDENT[None]).square().sum(2).mean()
    step = torch.zeros_like(STUDENT)
    step[2, 3] = 1e-5

    def at(features):  # the same width for other features
        other = (TEACHER[:, None] - features[None]).square().sum(2).mean()
        return mmd_loss(features, TEACHER, LABELS, GROUPS, sigma=(width / other).item()).item()

    assert student.grad[2, 3].item() == pytest.approx((at(STUDENT + step) - at(STUDENT - step)) / 2e-5, rel=1e-5)


def test_features_that_are_all_alike_give_no_nan():
    student = torch.ones(8, 5, requires_grad=True)
    mmd_loss(student, torch.ones(8, 5), LABELS, GROUPS).backward()
    assert student.grad.isfinite().all()


def test_the_term_is_half_of_alpha_times_the_loss_of_the_embeddings_after_a_linear_layer_to_the_teachers_length():
    training = trainer(MFD, alpha=5.0, sigma=0.7)
    method, batch = training.method, first_batch(training)
    student, teacher = method.study(batch), method.teach(batch)
    terms = method.losses(batch, student, teacher)
    assert isinstance(method.regressor, nn.Linear)
    features = (student.embedding @ method.regressor.weight.T + method.regressor.bias).detach().double().numpy()
    groups = method.ctx.train_groups["half"][batch.positions]
    expected = 2.5 * by_hand(features, teacher.embedding.double().numpy(), batch.labels.numpy(), groups.numpy(), 0.7)
    assert terms["mmd"].item() == pytest.approx(expected, rel=1e-3)
    assert terms["ce"].item() == pytest.approx(F.cross_entropy(student.logits, batch.labels).item())


def test_embeddings_of_one_length_are_compared_as_they_are():
    shapes = Shapes(5, ())
    ctx = SimpleNamespace(student=nn.Identity(), student_shapes=shapes, teacher_shapes=shapes,
                          train_groups={"half": GROUPS})
    student, teacher = (Outputs(one, one, ()) for one in (STUDENT, TEACHER))
    terms = MFD(ctx).losses(Batch(torch.zeros(8), LABELS % 5, torch.arange(8)), student, teacher)
    assert terms["mmd"].item() == pytest.approx(1.5 * mmd_loss(STUDENT, TEACHER, LABELS, GROUPS).item())
