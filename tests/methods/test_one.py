import math

import numpy as np
import pytest
import torch
from support.methods import first_batch, moved, snapshot, trainer

from kdbench.method import Shapes
from kdbench.parts.branches import tapped
from kdbench_methods.online.one import ONE, blend, ramp


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def numbers(tensor):
    return tensor.detach().double().numpy()


def gate_by_hand(gate, features):
    """Lan et al.'s gate with batch statistics: linear, BatchNorm at its initial scale, ReLU, softmax."""
    scores = features.mean((2, 3)) @ numbers(gate[0].weight).T + numbers(gate[0].bias)
    scores = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + 1e-5)
    return softmax(np.maximum(scores, 0))


@pytest.mark.parametrize("pair", ["convolutional", "cross-architecture"])
def test_the_terms_equal_the_equation(pair):
    training = trainer(ONE, pair, temperature=2.0, alpha=0.7, rampup=0.5)
    method, batch = training.method, first_batch(training)
    method.step_index = 3
    student, shared = tapped(method.student, batch.images)
    logits = [numbers(z) for z in (student.logits, *(branch(shared) for branch in method.branches))]
    weights = gate_by_hand(method.gate, numbers(student.stages[-2]))
    ensemble = sum(weights[:, [m]] * logits[m] for m in range(3))
    target, labels = softmax(ensemble / 2), batch.labels.numpy()
    ce = [-np.log(softmax(z)[range(len(z)), labels]).mean() for z in (*logits, ensemble)]
    kd = [0.7 * math.exp(-5 * 0.5**2) * 4 * (target * np.log(target / softmax(z / 2))).sum() / len(z) for z in logits]
    expected = {"ce": ce[0], "kd": kd[0], "branch_ce": ce[1] + ce[2], "branch_kd": kd[1] + kd[2], "ensemble_ce": ce[3]}
    terms = {name: term.item() for name, term in method.step(batch, training.optimizers).items()}
    assert terms == {name: pytest.approx(value, rel=1e-3) for name, value in expected.items()}


def test_the_ensemble_is_the_weighted_sum_of_the_branches():
    logits, weights = torch.randn(3, 4, 5), torch.rand(4, 3)
    ensemble = blend(logits, weights)
    for b in range(4):
        torch.testing.assert_close(ensemble[b], sum(weights[b, m] * logits[m, b] for m in range(3)))


def test_the_ramp_rises_to_one_and_stays():
    assert ramp(0) == pytest.approx(math.exp(-5))
    assert ramp(0.5) == pytest.approx(math.exp(-5 / 4))
    assert ramp(1) == ramp(3) == 1


def test_every_part_trains_and_the_student_is_scored_without_branches():
    training = trainer(ONE, "cross-architecture")
    method, before = training.method, snapshot(training.method)
    method.step(first_batch(training), training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student is method.ctx.student
    student = sum(p.numel() for p in method.student.parameters())
    for branch in method.branches:
        assert 0 < sum(p.numel() for p in branch.parameters()) < student


def test_branches_start_from_weights_of_their_own():
    method = trainer(ONE).method
    own = method.student.model.fc.weight
    first, second = (branch.layers.model.fc.weight for branch in method.branches)
    assert not torch.equal(own, first)
    assert not torch.equal(own, second)
    assert not torch.equal(first, second)


def test_the_ensemble_learns_from_labels_alone_and_branches_teach_the_shared_stages():
    """The gate's gradient is that of the ensemble's cross-entropy; the first layer's is fed by every branch."""
    training = trainer(ONE, alpha=5.0, rampup=0.01)
    method, batch = training.method, first_batch(training)
    method.step_index = 6
    student, shared = tapped(method.student, batch.images)
    logits = torch.stack([student.logits, *(branch(shared) for branch in method.branches)])
    ensemble = blend(logits, method.gate(student.stages[-2].mean((2, 3))))
    expected = torch.autograd.grad(torch.nn.functional.cross_entropy(ensemble, batch.labels), method.gate[0].weight)[0]
    gradients = {}

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            gradients.update({name: p.grad.clone() for name, p in method.named_parameters()})

    method.step(batch, {"main": Recorder(method.parameters(), lr=1.0)})
    torch.testing.assert_close(gradients["gate.0.weight"], expected, rtol=1e-3, atol=1e-6)


def test_inapplicable_only_where_the_student_has_a_single_stage():
    one, two = Shapes(8, ((8, 4, 4),)), Shapes(8, ((8, 4, 4), (8, 2, 2)))
    assert "single stage" in ONE.inapplicable(one, None)
    assert ONE.inapplicable(two, None) is None
