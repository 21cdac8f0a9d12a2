import pytest
import torch
import torch.nn.functional as F
from support.methods import kl, softmax, trainer

from kdbench_methods.self.dlb import DLB


def test_the_first_step_is_ce():
    t = trainer(DLB)
    batch = next(t.stream.epoch(0))
    student = t.method.student(batch.images)
    terms = t.method.losses(batch, student, None)
    assert {name: term.item() for name, term in terms.items()} == {
        "ce": F.cross_entropy(student.logits, batch.labels).item()}


def test_a_step_remembers_its_batch_and_logits_for_the_next():
    t = trainer(DLB)
    method = t.method
    for method.step_index, batch in enumerate(t.stream.epoch(0)):
        student = method.student(batch.images)
        method.losses(batch, student, None)
        state = method.state_dict()
        assert torch.equal(state["last_positions"], batch.positions)
        assert torch.equal(state["last_logits"], student.logits) and not state["last_logits"].requires_grad


def test_a_later_step_trains_on_both_batches_and_matches_the_last_logits():
    t = trainer(DLB, alpha=0.5, temperature=2.0)
    method = t.method
    first, second, _ = t.stream.epoch(0)
    method.losses(first, method.student(first.images), None)
    remembered = method.last_logits
    method.step_index = 1
    student = method.student(second.images)
    state = torch.get_rng_state()
    terms = method.losses(second, student, None)

    torch.set_rng_state(state)  # draw the same augmentation again
    again = method.ctx.sample(first.positions)
    assert torch.equal(again.labels, first.labels) and not torch.equal(again.images, first.images)
    logits = method.student(again.images).logits
    both = F.cross_entropy(logits, first.labels) / 2 + F.cross_entropy(student.logits, second.labels) / 2
    assert terms["ce"].item() == pytest.approx(both.item(), rel=1e-5)
    p, q = (softmax(tensor.detach().double().numpy() / 2) for tensor in (remembered, logits))
    assert terms["kd"].item() == pytest.approx(0.5 * 4 * kl(p, q).mean(), rel=1e-4)


def test_gradients_reach_the_student_through_both_views_but_not_through_the_memory():
    t = trainer(DLB)
    method = t.method
    first, second, _ = t.stream.epoch(0)
    student = method.student(first.images)
    method.losses(first, student, None)
    method.step_index = 1
    now = method.student(second.images)
    now = now._replace(logits=now.logits.detach().requires_grad_())
    terms = method.losses(second, now, None)
    weight = method.student.classifier.weight
    assert (torch.autograd.grad(terms["kd"], weight, retain_graph=True)[0] != 0).any()
    assert (torch.autograd.grad(terms["ce"], weight, retain_graph=True)[0] != 0).any()
    assert (torch.autograd.grad(terms["ce"], now.logits)[0] != 0).any()
    assert not method.last_logits.requires_grad
