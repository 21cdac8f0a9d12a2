import numpy as np
import pytest
import torch
from support.methods import kl, moved, random_logits, recorded, snapshot, softmax, trainer

from kdbench_methods.data_free.dafl import DAFL, class_entropy


def test_class_entropy_is_in_base_ten_and_of_the_mean():
    logits = random_logits(9, 5)
    mean = softmax(logits.numpy()).mean(axis=0)
    assert class_entropy(logits).item() == pytest.approx(-(mean * np.log10(mean)).sum())
    certain = 1000 * torch.eye(10, dtype=torch.float64)
    assert class_entropy(certain).item() == pytest.approx(1.0)  # ten classes, each once
    assert class_entropy(certain[:1]).item() == pytest.approx(0.0, abs=1e-9)
    gradient, = torch.autograd.grad(class_entropy(certain.requires_grad_()), certain)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("pair", ["convolutional", "vit"])  # of which only the first has embeddings above zero
def test_dafl_is_the_papers_sum(pair):
    t = trainer(DAFL, pair, one_hot=0.7, activation=0.2, balance=3.0, temperature=2.0, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.step(None, t.optimizers)
    (shown, student), = by_student
    (images, teacher), = by_teacher
    assert torch.equal(shown, images) and len(images) == t.method.ctx.batch_size
    of_student, of_teacher = (outputs.logits.detach().double().numpy() for outputs in (student, teacher))
    mean = softmax(of_teacher).mean(axis=0)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "kd": 4 * kl(softmax(of_teacher / 2), softmax(of_student / 2)).mean(),
        "one_hot": 0.7 * -np.log(softmax(of_teacher).max(axis=1)).mean(),
        "activation": -0.2 * np.abs(teacher.embedding.detach().numpy()).mean(),
        "balance": 3.0 * (mean * np.log10(mean)).sum(),
    }, rel=1e-4)


def test_each_term_moves_its_own_network():
    for weights, mover in [((0, 0, 0), "student."), ((1, 0, 0), ""), ((0, 1, 0), ""), ((0, 0, 1), "")]:
        t = trainer(DAFL, width=4, **dict(zip(("one_hot", "activation", "balance"), map(float, weights), strict=True)))
        for group in t.optimizers["main"].param_groups:
            group["weight_decay"] = 0.0
        before = snapshot(t.method)
        t.method.step(None, t.optimizers)
        changed = moved(t.method, before)
        assert all(name.startswith(mover) for name in changed)
        assert {name for name in before if name.startswith("student.")} <= changed
        assert any(name.startswith("generator.") for name in changed) == (mover == "")


def test_the_student_learns_the_teachers_answers_to_the_generators_images():
    t = trainer(DAFL, generator_lr=1e-3, width=4)
    for group in t.optimizers["main"].param_groups:
        group["lr"] = 0.02
    terms = [t.method.step(None, t.optimizers) for _ in range(40)]
    first, last = (sum(term["kd"].item() for term in part) for part in (terms[:8], terms[-8:]))
    assert last < 0.6 * first


def test_the_generator_learns_to_please_the_teacher():
    t = trainer(DAFL, generator_lr=1e-2, width=4)
    terms = [t.method.step(None, t.optimizers) for _ in range(40)]

    def pleased(part):
        return sum(term["one_hot"].item() + term["activation"].item() + term["balance"].item() for term in part)

    assert pleased(terms[-8:]) < pleased(terms[:8])
