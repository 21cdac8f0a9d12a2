import pytest
import torch
import torch.nn.functional as F
from support.methods import first_batch, kl, loss_terms, moved, random_logits, snapshot, softmax, trainer

from kdbench.checks.contract import PAIRS
from kdbench_methods.logit.kd import KD
from kdbench_methods.logit.takd import TAKD

LABELS = torch.tensor([0, 3, 2, 2])
STUDENT, ASSISTANT = random_logits(4, 5), random_logits(4, 5, seed=1)


def test_takd_is_the_papers_equation_of_student_and_assistant():
    terms = loss_terms(TAKD, STUDENT, LABELS, ASSISTANT, temperature=3.0, alpha=0.2)
    assert terms["ce"] == pytest.approx(0.8 * F.cross_entropy(STUDENT, LABELS).item())
    expected = 0.2 * 9 * kl(softmax(ASSISTANT.numpy() / 3), softmax(STUDENT.numpy() / 3)).mean()
    assert terms["kd"] == pytest.approx(expected)


def test_takd_differs_from_kd_in_who_teaches_alone():
    assert loss_terms(TAKD, STUDENT, LABELS, ASSISTANT) == loss_terms(KD, STUDENT, LABELS, ASSISTANT)


@pytest.mark.parametrize("pair", PAIRS)
def test_takd_trains_the_student_and_leaves_the_assistant_as_it_is(pair):
    t = trainer(TAKD, pair)
    method, assistant = t.method, t.method.ctx.teacher
    before, taught = snapshot(method), {name: p.clone() for name, p in assistant.named_parameters()}
    method.step(first_batch(t), t.optimizers)
    assert moved(method, before)
    assert all(torch.equal(p, taught[name]) for name, p in assistant.named_parameters())
