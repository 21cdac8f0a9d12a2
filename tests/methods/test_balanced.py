"""balanced_ce and balanced_kd, which weigh images, and group_dro and group_dro_kd, which weigh them anew each step."""

import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, softmax, trainer

from kdbench.parts.groups import balanced_weights, cells_of
from kdbench.parts.losses import soft_cross_entropies, soft_cross_entropy
from kdbench_methods.baseline.balanced_ce import BalancedCrossEntropy
from kdbench_methods.baseline.group_dro import GroupDRO
from kdbench_methods.logit.balanced_kd import BalancedKD
from kdbench_methods.logit.group_dro_kd import GroupDROKD
from kdbench_methods.logit.kd import KD

RARE = torch.tensor([1, 0, 0, 0] * 6)  # the group of each of 24 training images


def started(cls, **hyperparameters):
    """The method before its first step, on training images of which a quarter is of one group, with its batch and what
    student and teacher say of it."""
    training = trainer(cls, **hyperparameters)
    method = training.method
    if cls is not KD:
        groups = dict(method.ctx.train_groups)
        object.__setattr__(method.ctx, "train_groups", {"rare": RARE, **groups})
        object.__setattr__(method.ctx, "group_names", {"rare": ("no", "yes"), **method.ctx.group_names})
        method.__init__(method.ctx, **hyperparameters)
        method.step_index = 0
    batch = first_batch(training)
    with torch.no_grad():
        return method, batch, method.study(batch), method.teach(batch)


def weights_by_hand(labels):
    cells = [(label, group) for label, group in zip(labels.tolist(), RARE.tolist(), strict=True)]
    return [len(cells) / (len(set(cells)) * cells.count(cell)) for cell in cells]


def test_soft_cross_entropies_are_the_equation_and_their_mean_is_that_of_kd():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    found = soft_cross_entropies(student, teacher, 3.0)
    expected = 9 * kl(softmax(teacher.numpy() / 3), softmax(student.numpy() / 3))
    assert found.tolist() == pytest.approx(expected.tolist())
    assert found.mean().item() == pytest.approx(soft_cross_entropy(student, teacher, 3.0).item())


@pytest.mark.parametrize("cls", [BalancedCrossEntropy, BalancedKD])
def test_each_image_counts_by_the_size_of_its_class_in_its_group(cls):
    method, batch, student, teacher = started(cls)
    weights = torch.tensor(weights_by_hand(method.ctx.train_labels))[batch.positions]
    hard = F.cross_entropy(student.logits, batch.labels, reduction="none")
    terms = method.losses(batch, student, teacher)
    if cls is BalancedCrossEntropy:
        assert terms["ce"].item() == pytest.approx((weights * hard).mean().item())
        return
    soft = torch.from_numpy(16 * kl(softmax(teacher.logits.double().numpy() / 4),
                                    softmax(student.logits.double().numpy() / 4)))
    assert terms["ce"].item() == pytest.approx(0.1 * (weights * hard).mean().item())
    assert terms["kd"].item() == pytest.approx(0.9 * (weights * soft).mean().item(), rel=1e-5)


def test_where_all_classes_of_groups_have_as_many_images_balanced_kd_is_kd():
    method, batch, student, teacher = started(BalancedKD, attribute="half", temperature=2.0, alpha=0.3)
    assert method.weights.unique().tolist() == [1]
    plain, *given = started(KD, temperature=2.0, alpha=0.3)
    for name, term in plain.losses(*given).items():
        assert method.losses(batch, student, teacher)[name].item() == pytest.approx(term.item())


@pytest.mark.parametrize(("robust", "balanced"), [(GroupDRO, BalancedCrossEntropy), (GroupDROKD, BalancedKD)])
def test_group_dro_without_steps_is_the_balanced_method(robust, balanced):
    method, *given = started(robust, step_size=0.0)
    other, *same = started(balanced)
    assert sum(method.losses(*given).values()).item() == pytest.approx(sum(other.losses(*same).values()).item())


@pytest.mark.parametrize(("cls", "alpha"), [(GroupDRO, 0.0), (GroupDROKD, 0.3)])
def test_group_dro_weighs_the_mean_losses_of_cells_after_the_weights_rose_with_them(cls, alpha):
    given = {"alpha": alpha, "temperature": 2.0} if alpha else {}
    method, batch, student, teacher = started(cls, step_size=0.5, **given)
    each = (1 - alpha) * F.cross_entropy(student.logits, batch.labels, reduction="none")
    if alpha:
        each = each + alpha * soft_cross_entropies(student.logits, teacher.logits, 2.0)
    cells = cells_of(method.ctx, "")
    names = cells.unique()
    scaled = each * balanced_weights(cells)[batch.positions] * len(names) / len(each)
    means = torch.stack([scaled[cells[batch.positions] == name].sum() for name in names])
    q = torch.softmax(0.5 * means, 0)
    assert sum(method.losses(batch, student, teacher).values()).item() == pytest.approx((q @ means).item(), rel=1e-5)
    assert method.worst.q.tolist() == pytest.approx(q.tolist(), rel=1e-5)


def test_the_weights_of_group_dro_are_saved_with_the_run():
    method, *given = started(GroupDRO, step_size=0.5)
    method.losses(*given)
    assert torch.equal(method.state_dict()["worst.q"], method.worst.q) and len(method.worst.q.unique()) > 1
