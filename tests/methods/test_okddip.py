import math

import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, moved, named, snapshot, softmax, trainer

from kdbench_methods.online.okddip import OKDDip, attention


def numbers(tensor):
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("pair", ["convolutional", "vit"])
def test_the_terms_equal_the_equation(pair):
    training = trainer(OKDDip, pair, peers=3, temperature=2.0, alpha=0.7, rampup=0.5, factor=4)
    method, batch = training.method, first_batch(training)
    method.step_index = 3
    student = method.study(batch)
    peers = [peer(batch.images) for peer in method.peers]
    z, labels = [numbers(peer.logits) for peer in peers], batch.labels.numpy()
    queries = [numbers(peer.embedding) @ numbers(method.query.weight).T for peer in peers]
    keys = [numbers(peer.embedding) @ numbers(method.key.weight).T for peer in peers]
    own, peer_kd = numbers(student.logits), 0.0
    for i in range(3):
        weights = softmax(np.stack([(queries[i] * key).sum(1) for key in keys], axis=1))
        target = sum(weights[:, [j]] * z[j] for j in range(3))
        peer_kd += 4 * kl(softmax(target / 2), softmax(z[i] / 2)).mean()
    alpha = 0.7 * math.exp(-5 * 0.5**2)

    def ce(logits):
        return -np.log(softmax(logits)[range(len(labels)), labels]).mean()

    expected = {"ce": ce(own), "kd": alpha * 4 * kl(softmax(sum(z) / 3 / 2), softmax(own / 2)).mean(),
                "peer_ce": sum(map(ce, z)), "peer_kd": alpha * peer_kd}
    terms = {name: term.item() for name, term in method.losses(batch, student, None).items()}
    assert terms == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in expected.items()}


def test_attention_weights_sum_to_one_and_prefer_the_matching_key():
    queries, keys = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    torch.testing.assert_close(attention(queries, keys).sum(2), torch.ones(4, 3))
    torch.testing.assert_close(attention(torch.zeros(1, 3, 5), keys[:1]), torch.full((1, 3, 3), 1 / 3))
    assert (attention(9 * torch.eye(3)[None], torch.eye(3)[None])[0].diagonal() > 0.99).all()


def test_each_peer_has_a_target_of_its_own():
    weights = attention(torch.randn(4, 3, 5), torch.randn(4, 3, 5))
    assert not torch.allclose(weights[:, 0], weights[:, 1])


def test_a_step_moves_everything_and_the_student_is_scored():
    training = trainer(OKDDip, "cross-architecture", rampup=0.01)
    method, before = training.method, snapshot(training.method)
    method.step_index = 6
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student is method.ctx.student


def test_the_attention_learns_from_the_peers_divergence_and_peers_feel_the_leaders():
    training = trainer(OKDDip, rampup=0.01)
    method, batch = training.method, first_batch(training)
    method.step_index = 6
    for term, reached in (("peer_kd", {"query.weight", "key.weight"} | named(method, "peers.")),
                          ("kd", named(method, "student.") | named(method, "peers.")),
                          ("ce", named(method, "student."))):
        method.zero_grad(set_to_none=True)
        method.losses(batch, method.study(batch), None)[term].backward()
        assert {name for name, p in method.named_parameters() if p.grad is not None} == reached


def test_peers_start_from_weights_of_their_own():
    method = trainer(OKDDip, peers=2).method
    weights = [network.classifier.weight for network in (method.student, *method.peers)]
    assert not any(torch.equal(weights[i], weights[j]) for i in range(3) for j in range(i))
