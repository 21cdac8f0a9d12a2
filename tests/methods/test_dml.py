import numpy as np
import pytest
import torch
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.online.dml import DML, mutual_loss

RATE = 0.5


def softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def kl(p, q):
    """Zhang et al.: the divergence from q to p, averaged over the samples."""
    return (p * np.log(p / q)).sum() / len(p)


def sgd(parameters, *, scale=1.0):
    return torch.optim.SGD(parameters, lr=RATE * scale)


def test_the_mutual_term_is_the_mean_divergence_from_the_others():
    logits, *others = torch.randn(3, 6, 5, dtype=torch.float64)
    expected = np.mean([kl(softmax(other.numpy()), softmax(logits.numpy())) for other in others])
    assert mutual_loss(logits, others).item() == pytest.approx(expected, rel=1e-12)


def test_equal_predictions_cost_nothing_and_a_shift_of_all_logits_changes_nothing():
    logits, other = torch.randn(2, 6, 5, dtype=torch.float64)
    assert mutual_loss(logits, [logits + 3]).item() == pytest.approx(0, abs=1e-14)
    torch.testing.assert_close(mutual_loss(logits + 3, [other]), mutual_loss(logits, [other]))


@pytest.mark.parametrize("peers", [1, 2])
def test_students_take_turns_and_see_the_others_after_their_latest_step(peers):
    """Algorithm 1 of the paper, replayed with fresh predictions before every turn."""
    training, twin = trainer(DML, peers=peers), trainer(DML, peers=peers)
    batch = first_batch(training)
    training.method.step(batch, training.method.optimizers(sgd))
    cohort = [twin.method.student, *twin.method.peers]
    for network in cohort:
        log = [member(batch.images).logits.log_softmax(1) for member in cohort]
        mine = log[cohort.index(network)]
        others = [other.detach() for other in log if other is not mine]
        loss = -mine[torch.arange(len(mine)), batch.labels].mean()
        loss = loss + sum((o.exp() * (o - mine)).sum(1).mean() for o in others) / peers
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(RATE * gradient)
    for ours, expected in zip(training.method.parameters(), twin.method.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_every_student_trains_and_the_first_is_scored():
    training = trainer(DML, "vit", peers=2)
    method = training.method
    before = snapshot(method)
    terms = method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student is method.ctx.student
    assert list(terms) == ["ce", "mutual", "peer1_ce", "peer1_mutual", "peer2_ce", "peer2_mutual"]


def test_all_students_start_from_different_weights():
    method = trainer(DML, peers=2).method
    first, second, third = (network.model.conv1.weight for network in (method.student, *method.peers))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert not torch.equal(first, third)


def test_running_statistics_record_each_batch_once():
    training = trainer(DML, peers=2)
    training.method.step(first_batch(training), training.optimizers)
    norms = [module for module in training.method.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.num_batches_tracked.item() for norm in norms} == {1}
