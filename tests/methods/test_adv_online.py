import numpy as np
import pytest
import torch
from support.methods import first_batch, kl, moved, moved_by_each, named, recorded, snapshot, softmax, trainer

from kdbench_methods.adversarial.adv_online import AdversarialOnline, discriminator, discriminator_loss


def test_adv_online_is_the_papers_sum_for_both_students():
    t = trainer(AdversarialOnline, alpha=0.5, temperature=2.0, adversarial=0.3)
    method, batch = t.method, first_batch(t)
    fool, told = [], 0.0
    mine, other = method.discriminators
    with (recorded(method.student) as by_student, recorded(method.peer) as by_peer,
          recorded(mine) as by_mine, recorded(other) as by_other):
        terms = method.step(batch, t.optimizers)
    (_, student), = by_student
    (_, peer), = by_peer
    for own, peers, seen in ((student, peer, by_mine), (peer, student, by_other)):
        (shown, told_apart), (again, fooled) = seen
        maps = torch.cat([own.stages[-1], peers.stages[-1]])
        assert torch.equal(shown, maps) and torch.equal(again, maps)
        assert not shown.requires_grad and again.requires_grad
        fake, real = told_apart.detach().double().numpy().reshape(2, -1)
        told += ((1 - real) ** 2).mean() + (fake**2).mean()
        fool.append(0.3 * ((1 - fooled.detach().double().numpy().reshape(2, -1)[0]) ** 2).mean())
    mine, other = (outputs.logits.detach().double().numpy() for outputs in (student, peer))
    rows, labels = range(len(batch.labels)), batch.labels.numpy()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "ce": -np.log(softmax(mine)[rows, labels]).mean(),
        "peer_ce": -np.log(softmax(other)[rows, labels]).mean(),
        "mutual": 0.5 * 4 * kl(softmax(other / 2), softmax(mine / 2)).mean(),
        "peer_mutual": 0.5 * 4 * kl(softmax(mine / 2), softmax(other / 2)).mean(),
        "fool": fool[0], "peer_fool": fool[1], "discriminators": told,
    }, rel=1e-4)


def test_each_optimizer_moves_its_own_networks_only():
    t = trainer(AdversarialOnline, discriminator_lr=1e-3)
    assert moved_by_each(t, first_batch(t)) == {
        name: named(t.method, prefix)
        for name, prefix in (("main", "student."), ("peer", "peer."), ("discriminators", "discriminators."))}


def test_a_step_moves_both_students_and_both_discriminators():
    t = trainer(AdversarialOnline)
    before = snapshot(t.method)
    t.method.step(first_batch(t), t.optimizers)
    assert moved(t.method, before) == set(before)


def test_the_mutual_term_teaches_one_student_at_a_time():
    t = trainer(AdversarialOnline)
    batch = first_batch(t)
    student, peer = t.method.student(batch.images), t.method.peer(batch.images)
    terms = t.method.student_terms("", student, peer, t.method.discriminators[0], batch.labels)
    for name, term in terms.items():
        own, = torch.autograd.grad(term, t.method.student.model.conv1.weight, retain_graph=True)
        assert (own != 0).any(), name
        others = torch.autograd.grad(term, list(t.method.peer.parameters()), retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in others), name


def test_the_students_start_apart():
    method = trainer(AdversarialOnline).method
    assert not torch.equal(method.student.model.conv1.weight, method.peer.model.conv1.weight)


@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 4, 7)])
def test_a_discriminator_learns_to_tell_two_distributions_of_maps(shape):
    torch.manual_seed(0)
    critic = discriminator(5, 8)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(60):
        own, peers = torch.randn(32, *shape), torch.randn(32, *shape) + 2
        optimizer.zero_grad()
        discriminator_loss(critic, own, peers).backward()
        optimizer.step()
    critic.eval()
    real, fake = critic(torch.randn(200, *shape) + 2), critic(torch.randn(200, *shape))
    assert real.shape == (200, 1, *shape[1:]) and real.mean() > fake.mean() + 0.4
