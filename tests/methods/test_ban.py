import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, loss_terms, moved, random_logits, snapshot, softmax, trainer

from kdbench.checks.contract import PAIRS
from kdbench_methods.self.ban import BAN

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, COPY = random_logits(4, 5), random_logits(4, 5, seed=1)


def test_ban_adds_the_divergence_from_the_copy_to_ce():
    terms = loss_terms(BAN, STUDENT, LABELS, COPY, alpha=0.6)
    assert terms["ce"] == pytest.approx(F.cross_entropy(STUDENT, LABELS).item())
    assert terms["kd"] == pytest.approx(0.6 * kl(softmax(COPY.numpy()), softmax(STUDENT.numpy())).mean())


@pytest.mark.parametrize("pair", PAIRS)
def test_ban_learns_from_a_network_of_the_students_own_architecture(pair):
    t = trainer(BAN, pair)
    method, teacher = t.method, t.method.ctx.teacher
    shapes = [{name: p.shape for name, p in network.named_parameters()} for network in (method.student, teacher)]
    assert shapes[0] == shapes[1]
    before, taught = snapshot(method), {name: p.clone() for name, p in teacher.named_parameters()}
    method.step(first_batch(t), t.optimizers)
    assert moved(method, before)
    assert all(torch.equal(p, taught[name]) for name, p in teacher.named_parameters())
