import math
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, moved, named, recorded, snapshot, softmax, trainer

from kdbench_methods.online.pcl import PCL, follow, steady_logits


def numbers(tensor):
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("peers", [1, 2])
def test_the_terms_equal_the_equation(peers):
    training = trainer(PCL, peers=peers, temperature=2.0, alpha=0.7, rampup=0.5)
    method, batch = training.method, first_batch(training)
    with torch.no_grad():  # means that differ from their networks
        for parameter in method.means.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.step_index = 3
    with ExitStack() as stack:
        seen = [stack.enter_context(recorded(network)) for network in (method.student, *method.peers, *method.means)]
        terms = {name: term.item() for name, term in method.losses(batch, method.study(batch), None).items()}
    outputs, means = [s[0][1] for s in seen[:1 + peers]], [numbers(s[0][1].logits) for s in seen[1 + peers:]]
    z, labels = [numbers(output.logits) for output in outputs], batch.labels.numpy()
    features = np.concatenate([numbers(output.embedding) for output in outputs], axis=1)
    ensemble = features @ numbers(method.classifier.weight).T + numbers(method.classifier.bias)
    alpha = 0.7 * math.exp(-5 * 0.5**2)

    def divergence(target, logits):
        return 4 * kl(softmax(target / 2), softmax(logits / 2)).mean()

    def ce(logits):
        return -np.log(softmax(logits)[range(len(labels)), labels]).mean()

    kd = [alpha * (divergence(ensemble, z[i]) + np.mean([divergence(means[j], z[i]) for j in range(len(z)) if j != i]))
          for i in range(len(z))]
    expected = {"ce": ce(z[0]), "kd": kd[0], "peer_ce": sum(map(ce, z[1:])), "peer_kd": sum(kd[1:]),
                "ensemble_ce": ce(ensemble)}
    assert terms == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}
    views = [s[0][0] for s in seen]
    assert torch.equal(views[0], batch.images)
    for i in range(1 + peers):  # a mean sees what its peer sees, and no two peers the same augmentation
        assert torch.equal(views[i], views[1 + peers + i])
        assert all(not torch.equal(views[i], views[j]) for j in range(i))


@pytest.mark.parametrize("momentum, share", [(0.999, 0.75), (0.6, 0.6)])
def test_after_a_step_the_means_follow_their_peers_at_most_by_the_mean_of_all_steps(momentum, share):
    training = trainer(PCL, momentum=momentum)
    method = training.method
    method.step_index = 3  # the fourth step: 1 - 1 / 4
    before = [[p.clone() for p in mean.parameters()] for mean in method.means]
    method.step(first_batch(training), training.optimizers)
    for mean, old, network in zip(method.means, before, [method.student, *method.peers], strict=True):
        for average, start, latest in zip(mean.parameters(), old, network.parameters(), strict=True):
            torch.testing.assert_close(average, share * start + (1 - share) * latest)


def test_the_first_step_makes_the_means_equal_to_their_peers():
    training = trainer(PCL)
    method = training.method
    method.step(first_batch(training), training.optimizers)
    for mean, network in zip(method.means, [method.student, *method.peers], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mean.parameters(), network.parameters(), strict=True))


def test_following_with_momentum_0_copies_and_with_1_stays():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    kept = first.weight.detach().clone()
    follow(first, second, 1.0)
    assert torch.equal(first.weight, kept)
    follow(first, second, 0.0)
    assert torch.equal(first.weight, second.weight)


def test_means_normalise_by_the_batch_and_record_nothing():
    training = trainer(PCL)
    method, batch = training.method, first_batch(training)
    before = {name: buffer.clone() for name, buffer in method.means[0].named_buffers()}
    logits = steady_logits(method.means[0], batch.images)
    torch.testing.assert_close(logits, method.student.train()(batch.images).logits)
    assert not logits.requires_grad
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.means[0].named_buffers())


def test_a_step_moves_students_and_classifier_by_gradients_and_the_means_after_them():
    training = trainer(PCL, "cross-architecture", rampup=0.01)
    method, before = training.method, snapshot(training.method)
    method.step_index = 6
    held = {id(p) for group in training.optimizers["main"].param_groups for p in group["params"]}
    assert {name for name, p in method.named_parameters() if id(p) in held} == set(before) - named(method, "means.")
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student is method.ctx.student


def test_the_ensemble_trains_the_features_of_all_peers():
    training = trainer(PCL)
    method, batch = training.method, first_batch(training)
    method.losses(batch, method.study(batch), None)["ensemble_ce"].backward()
    for network in (method.student, *method.peers):
        assert network.model.conv1.weight.grad.abs().sum() > 0
        assert network.classifier.weight.grad is None


def test_the_means_stay_in_eval_mode():
    method = trainer(PCL).method.train()
    assert method.peers[0].training
    assert not any(module.training for module in method.means.modules())


def test_neither_ensemble_nor_means_learn_from_the_divergence():
    training = trainer(PCL, rampup=0.01)
    method, batch = training.method, first_batch(training)
    method.step_index = 6
    method.losses(batch, method.study(batch), None)["kd"].backward()
    assert {name for name, p in method.named_parameters() if p.grad is not None} == named(method, "student.")
