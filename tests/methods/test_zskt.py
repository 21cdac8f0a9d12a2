import numpy as np
import pytest
import torch
from support.methods import kl, moved_by_each, named, recorded, softmax, trainer

from kdbench_methods.data_free.zskt import ZSKT


def attention(stage):
    """Where a stage [B, C, H, W] is active, as rows of unit length."""
    flat = (stage.detach().double().numpy() ** 2).mean(axis=1).reshape(len(stage), -1)
    return flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))


def logits(outputs):
    return outputs.logits.detach().double().numpy()


@pytest.fixture(scope="module")
def step():
    t = trainer(ZSKT, beta=3.0, generator_steps=2, student_steps=4, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.step(None, t.optimizers)
    return t.method, terms, by_student, by_teacher


def test_a_step_is_some_updates_of_the_generator_and_more_of_the_student_on_what_it_then_makes(step):
    method, _, by_student, by_teacher = step
    shown = [images for images, _ in by_student]
    assert len(shown) == 2 + 4 and all(len(images) == method.ctx.batch_size for images in shown)
    assert [images.requires_grad for images in shown] == [True, True, False, False, False, False]
    assert all(torch.equal(images, shown[2]) for images in shown[2:])
    assert not torch.equal(shown[0], shown[1]) and not torch.equal(shown[1], shown[2])
    assert len(by_teacher) == 2 + 1  # the teacher's answer to the student's images is needed once


def test_one_step_keeps_to_one_batch_of_latent_vectors():
    t = trainer(ZSKT, generator_steps=2, student_steps=1, generator_lr=0.0, width=4)
    with recorded(t.method.student) as by_student:
        t.method.step(None, t.optimizers)
    first, second, third = (images for images, _ in by_student)
    assert torch.equal(first, second) and torch.equal(second, third)


def test_zskt_is_the_papers_pair_of_losses(step):
    _, terms, by_student, by_teacher = step
    (_, fooled), (_, student) = by_student[1], by_student[-1]
    (_, asked), (_, teacher) = by_teacher[1], by_teacher[-1]
    differences = [(attention(s) - attention(t)) ** 2 for s, t in zip(student.stages, teacher.stages, strict=True)]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "generator": -kl(softmax(logits(asked)), softmax(logits(fooled))).mean(),
        "kl": kl(softmax(logits(teacher)), softmax(logits(student))).mean(),
        "attention": 3.0 * sum(difference.mean() for difference in differences),
    }, rel=1e-4)


def test_the_generator_raises_and_the_student_lowers_their_disagreement():
    hard = trainer(ZSKT, generator_steps=30, student_steps=1, generator_lr=1e-2, width=4)
    with recorded(hard.method.student) as by_student, recorded(hard.method.ctx.teacher) as by_teacher:
        hard.method.step(None, hard.optimizers)
    apart = [kl(softmax(logits(t)), softmax(logits(s))).mean()
             for (_, s), (_, t) in zip(by_student[:30], by_teacher[:30], strict=True)]
    assert apart[-1] > 1.2 * apart[0]

    easy = trainer(ZSKT, student_steps=30, beta=0.0, width=4)
    for group in easy.optimizers["main"].param_groups:
        group["lr"] = 0.02
    with recorded(easy.method.student) as by_student, recorded(easy.method.ctx.teacher) as by_teacher:
        easy.method.step(None, easy.optimizers)
    teacher = softmax(logits(by_teacher[-1][1]))
    near = [kl(teacher, softmax(logits(student))).mean() for _, student in by_student[1:]]
    assert near[-1] < 0.5 * near[0]


def test_each_optimizer_moves_its_own_network():
    t = trainer(ZSKT, width=4)
    assert moved_by_each(t) == {"generator": named(t.method, "generator."), "main": named(t.method, "student.")}


def test_the_gradients_of_both_networks_are_clipped_to_norm_five():
    t = trainer(ZSKT, beta=1e4, width=4, student_steps=1)
    with torch.no_grad():  # steep enough to need it
        t.method.generator.end[0].weight.mul_(1e-3)
    t.method.step(None, t.optimizers)
    norms = [torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
             for network in (t.method.generator, t.method.student)]
    assert norms == pytest.approx([5.0, 5.0], rel=1e-3)


def test_the_generators_rate_is_annealed():
    t, rates = trainer(ZSKT, generator_lr=0.4, width=4, student_steps=1), []
    for t.method.step_index in (0, 6, 9):
        t.method.step(None, t.optimizers)
        rates.append(t.optimizers["generator"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.4, 0.2, 0.2 * (1 - 0.5**0.5)])
