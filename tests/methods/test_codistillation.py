import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.online.codistillation import Codistillation


def softmax(logits):
    logits = logits.detach().double().numpy()
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum() / len(p)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def trained(method, name):
    """A copy of a checkpoint that normalises by the statistics of the batch."""
    return copy.deepcopy(method.checkpoints[name]).train()


def at_step(training, step_index):
    """The method with so many of the run's steps behind it."""
    training.method.step_index = step_index
    return training.method


def test_during_the_burn_in_the_students_learn_from_labels_alone():
    training = trainer(Codistillation, burn_in=0.5)
    batch = first_batch(training)
    assert list(at_step(training, 5).step(batch, training.optimizers)) == ["ce", "peer_ce"]
    assert list(at_step(training, 6).step(batch, training.optimizers)) == ["ce", "kd", "peer_ce", "peer_kd"]


def test_afterwards_each_learns_from_the_others_checkpoint_on_a_batch_of_its_own():
    training = trainer(Codistillation, burn_in=0.0, exchange=0.5, alpha=0.3)
    batch = first_batch(training)
    at_step(training, 1).step(batch, training.optimizers)  # the checkpoints are stale from here on
    method = at_step(training, 2)
    assert not same(method.student, method.checkpoints["student"])
    random = torch.get_rng_state()
    other = method.ctx.sample(torch.randint(method.ctx.num_train, batch.positions.shape))
    torch.set_rng_state(random)
    assert sorted(other.positions.tolist()) != sorted(batch.positions.tolist())
    expected = {}
    for prefix, network, stale, own in (("", method.student, trained(method, "peer"), batch),
                                        ("peer_", method.peer, trained(method, "student"), other)):
        logits = network(own.images).logits
        expected[f"{prefix}ce"] = F.cross_entropy(logits, own.labels).item()
        expected[f"{prefix}kd"] = 0.3 * kl(softmax(stale(own.images).logits), softmax(logits))
    terms = method.step(batch, training.optimizers)
    assert {name: term.item() for name, term in terms.items()} == \
        {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


def test_checkpoints_are_exchanged_at_the_interval_and_stay_as_they_are_between():
    training = trainer(Codistillation, exchange=0.25)  # of 12 steps
    fresh = []
    for step, batch in enumerate([*training.stream.epoch(0), *training.stream.epoch(1)][:6]):
        method = at_step(training, step)
        before = {name: network.state_dict()["model.fc.weight"].clone() for name, network in
                  (("student", method.student), ("peer", method.peer))}
        method.step(batch, training.optimizers)
        taken = [torch.equal(method.checkpoints[name].state_dict()["model.fc.weight"], before[name])
                 for name in ("student", "peer")]
        assert len(set(taken)) == 1
        fresh.append(taken[0])
    assert fresh == [True, False, False, True, False, False]


def test_however_short_the_run_checkpoints_are_exchanged_at_every_step_at_most():
    assert trainer(Codistillation, exchange=0.001).method.interval == 1


def test_the_checkpoints_statistics_are_those_of_their_exchange():
    training = trainer(Codistillation, burn_in=0.0, exchange=0.5)
    method = at_step(training, 1)
    before = {name: value.clone() for name, value in method.checkpoints.state_dict().items()}
    method.step(first_batch(training), training.optimizers)
    assert all(torch.equal(value, before[name]) for name, value in method.checkpoints.state_dict().items())


def test_an_exchange_copies_weights_and_statistics():
    training = trainer(Codistillation, exchange=0.5)
    method = at_step(training, 1)
    method.step(first_batch(training), training.optimizers)
    assert not same(method.student, method.checkpoints["student"])
    method.exchange()
    assert same(method.student, method.checkpoints["student"])
    assert same(method.peer, method.checkpoints["peer"])
    assert not same(method.student, method.peer)


def test_both_students_train_the_checkpoints_do_not_and_the_first_student_is_scored():
    training = trainer(Codistillation, "cross-architecture", burn_in=0.0)
    method, before = at_step(training, 1), snapshot(training.method)
    method.train()
    assert not any(module.training for module in method.checkpoints.modules())
    assert not any(parameter.requires_grad for parameter in method.checkpoints.parameters())
    assert not same(method.student, method.peer)
    assert method.student.training
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == {name for name in before if name.startswith(("student", "peer"))}
    assert method.deployed() is method.student is method.ctx.student
