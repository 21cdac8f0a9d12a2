import numpy as np
import pytest
import torch
from support.methods import first_batch, moved, snapshot, trainer

from kdbench_methods.online.kdcl import KDCL, min_logit, naive


@pytest.fixture
def three_students():
    torch.manual_seed(0)
    return 2 * torch.randn(3, 6, 5, dtype=torch.float64), torch.arange(6) % 5


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_min_logit_takes_each_class_at_its_lowest_above_the_label(three_students):
    logits, labels = three_students
    teacher = min_logit(logits, labels)
    for b, label in enumerate(labels.tolist()):
        for k in range(5):
            assert teacher[b, k].item() == min(z[b, k].item() - z[b, label].item() for z in logits)


def test_min_logit_is_at_least_as_sure_of_the_label_as_every_student(three_students):
    logits, labels = three_students
    sure = min_logit(logits, labels).softmax(1)[range(6), labels]
    assert (sure >= logits.softmax(2)[:, range(6), labels]).all()


def test_naive_takes_the_student_that_is_best_at_each_image(three_students):
    logits, labels = three_students
    teacher, chosen = naive(logits, labels), set()
    for b, label in enumerate(labels.tolist()):
        best = int(np.argmax([softmax(z[b].numpy())[label] for z in logits]))
        assert torch.equal(teacher[b], logits[best, b])
        chosen.add(best)
    assert len(chosen) > 1


@pytest.mark.parametrize("ensemble", ["min_logit", "naive"])
def test_the_terms_equal_the_equation_on_differently_distorted_images(ensemble):
    training = trainer(KDCL, peers=2, temperature=3.0, alpha=0.5, ensemble=ensemble)
    method, batch = training.method, first_batch(training)
    random = torch.get_rng_state()
    views = [batch.images, method.ctx.sample(batch.positions).images, method.ctx.sample(batch.positions).images]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])
    networks = [method.student, *method.peers]
    logits = [n(v).logits.detach().double() for n, v in zip(networks, views, strict=True)]
    teacher = softmax({"min_logit": min_logit, "naive": naive}[ensemble](torch.stack(logits), batch.labels).numpy() / 3)
    torch.set_rng_state(random)
    terms = {name: term.item() for name, term in method.step(batch, training.optimizers).items()}
    ce, kd = [], []
    for own in logits:
        ce.append(-np.log(softmax(own.numpy()))[range(len(own)), batch.labels].mean())
        kd.append(0.5 * 9 * (teacher * np.log(teacher / softmax(own.numpy() / 3))).sum() / len(own))
    expected = {"ce": ce[0], "kd": kd[0], "peer_ce": ce[1] + ce[2], "peer_kd": kd[1] + kd[2]}
    assert terms == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


def test_every_student_trains_the_teacher_gets_no_gradient_and_the_first_student_is_scored():
    training = trainer(KDCL, "cross-architecture")
    method, batch = training.method, first_batch(training)
    before = snapshot(method)
    terms = method.step(batch, training.optimizers)
    assert moved(method, before) == set(before)
    assert method.deployed() is method.student is method.ctx.student
    peer = next(method.peers[0].parameters())
    assert not torch.equal(peer, next(method.student.parameters()))
    with pytest.raises(RuntimeError, match="second time"):
        terms["kd"].backward()


def test_the_students_term_has_no_gradient_for_the_peers():
    training = trainer(KDCL)
    method, batch = training.method, first_batch(training)
    gradients = {}

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            gradients.update({name: p.grad.clone() for name, p in method.named_parameters()})

    random = torch.get_rng_state()
    method.step(batch, {"main": Recorder(method.parameters(), lr=1.0)})
    torch.set_rng_state(random)
    view = method.ctx.sample(batch.positions).images
    own, other = method.student(batch.images).logits, method.peers[0](view).logits
    teacher = min_logit(torch.stack([own, other]).detach(), batch.labels)
    loss = torch.nn.functional.cross_entropy(other, batch.labels)
    target = (teacher / 2).softmax(1)
    loss = loss + 4 * (target * (target.log() - (other / 2).log_softmax(1))).sum(1).mean()
    parameters = dict(method.peers[0].named_parameters())
    for name, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
        torch.testing.assert_close(gradients[f"peers.0.{name}"], gradient, rtol=1e-3, atol=1e-5)
