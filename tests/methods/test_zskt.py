from itertools import pairwise

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


def run(t, *steps):
    """The terms of the steps of these numbers, called as the trainer does."""
    for t.method.step_index in steps:
        yield t.method.step(None, t.optimizers)


@pytest.fixture(scope="module")
def steps():
    t = trainer(ZSKT, beta=3.0, generator_steps=2, student_steps=4, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = list(run(t, 0, 1, 2, 3))
    return t.method, terms, by_student, by_teacher


def test_the_generator_is_updated_before_every_some_updates_of_the_student_on_what_it_then_makes(steps):
    method, terms, by_student, by_teacher = steps
    shown = [images.clone() for images, _ in by_student]
    assert len(shown) == 2 + 4 and all(len(images) == method.ctx.batch_size for images in shown)
    assert [images.requires_grad for images, _ in by_student] == [True, True, False, False, False, False]
    assert all(torch.equal(images, shown[2]) for images in shown[2:])
    assert not torch.equal(shown[0], shown[1]) and not torch.equal(shown[1], shown[2])
    assert len(by_teacher) == 2 + 1  # the teacher's answer to the student's images is needed once
    assert ["generator" in each for each in terms] == [True, False, False, False]


def test_every_step_is_one_update_of_the_student_and_every_few_one_of_the_generator():
    t = trainer(ZSKT, generator_steps=2, student_steps=3, width=4)
    updates = {name: 0 for name in t.optimizers}
    for name, optimizer in t.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: updates.update({name: updates[name] + 1}))
    seen = []
    for terms in run(t, *range(7)):
        assert torch.equal(t.method.logits, t.method.ctx.teacher(t.method.images).logits)
        seen.append((dict(updates), t.method.images.clone(), "generator" in terms))
    assert [(each["main"], each["generator"]) for each, *_ in seen] == [
        (1, 2), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 6)]
    renewed = [not torch.equal(a, b) for (_, a, _), (_, b, _) in pairwise(seen)]
    assert renewed == [False, False, True, False, False, True]


def test_one_round_keeps_to_one_batch_of_latent_vectors():
    t, rounds = trainer(ZSKT, generator_steps=2, student_steps=1, generator_lr=0.0, width=4), []
    for step in (0, 1):
        with recorded(t.method.student) as by_student:
            list(run(t, step))
        rounds.append([images.clone() for images, _ in by_student])
    assert all(torch.equal(images, shown[0]) for shown in rounds for images in shown)
    assert not torch.equal(rounds[0][0], rounds[1][0])


def test_zskt_is_the_papers_pair_of_losses(steps):
    _, terms, by_student, by_teacher = steps
    (_, fooled), (_, student) = by_student[1], by_student[-1]
    (_, asked), (_, teacher) = by_teacher[1], by_teacher[-1]
    differences = [(attention(s) - attention(t)) ** 2 for s, t in zip(student.stages, teacher.stages, strict=True)]
    assert {name: term.item() for name, term in terms[-1].items()} == pytest.approx({
        "kl": kl(softmax(logits(teacher)), softmax(logits(student))).mean(),
        "attention": 6 * 3.0 * sum(difference.mean() for difference in differences),
    }, rel=1e-4)
    expected = -kl(softmax(logits(asked)), softmax(logits(fooled))).mean()
    assert terms[0]["generator"].item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_that_of_the_authors_code_times_the_number_of_classes(steps):
    """Their code averages the divergence over images and classes (kl_div's default) and adds beta times the attention
    terms."""
    _, terms, by_student, by_teacher = steps
    (_, student), (_, teacher) = by_student[-1], by_teacher[-1]
    p, q = softmax(logits(teacher)), softmax(logits(student))
    theirs = (p * (np.log(p) - np.log(q))).mean() + 3.0 * sum(
        ((attention(s) - attention(t)) ** 2).mean() for s, t in zip(student.stages, teacher.stages, strict=True))
    assert sum(terms[-1].values()).item() == pytest.approx(6 * theirs, rel=1e-4)


def test_the_generator_raises_and_the_student_lowers_their_disagreement():
    hard = trainer(ZSKT, generator_steps=30, student_steps=1, generator_lr=1e-2, width=4)
    with recorded(hard.method.student) as by_student, recorded(hard.method.ctx.teacher) as by_teacher:
        list(run(hard, 0))
    apart = [kl(softmax(logits(t)), softmax(logits(s))).mean()
             for (_, s), (_, t) in zip(by_student[:30], by_teacher[:30], strict=True)]
    assert apart[-1] > 1.2 * apart[0]

    easy = trainer(ZSKT, student_steps=12, beta=0.0, width=4)
    for group in easy.optimizers["main"].param_groups:
        group["lr"] = 0.02
    near = [terms["kl"].item() for terms in run(easy, *range(12))]
    assert near[-1] < 0.8 * near[0]


def test_a_run_that_goes_on_from_a_checkpoint_does_not_ask_the_teacher_again_about_the_kept_images():
    t, other = (trainer(ZSKT, student_steps=4, width=4) for _ in range(2))
    list(run(t, 0, 1))
    other.load_state_dict(t.state_dict())
    with recorded(other.method.ctx.teacher) as by_teacher:
        after, = run(other, 2)
    assert by_teacher == []
    uninterrupted, = run(t, 2)
    assert {name: term.item() for name, term in after.items()} == {
        name: term.item() for name, term in uninterrupted.items()}


def test_an_update_of_the_generator_leaves_the_students_weights_without_gradients_and_trainable():
    t = trainer(ZSKT, width=4)
    t.method.renew(t.optimizers["generator"])
    assert all(p.grad is None and p.requires_grad for p in t.method.student.parameters())


def test_each_optimizer_moves_its_own_network():
    t = trainer(ZSKT, width=4)
    assert moved_by_each(t) == {"generator": named(t.method, "generator."), "main": named(t.method, "student.")}


def test_the_gradients_of_the_generator_are_clipped_to_norm_five_a_class_and_the_student_s_to_five():
    t = trainer(ZSKT, beta=1e4, width=4, student_steps=1)
    with torch.no_grad():  # steep enough to need it
        t.method.generator.end[0].weight.mul_(1e-3)
    t.method.step(None, t.optimizers)
    norms = [torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()
             for network in (t.method.generator, t.method.student)]
    assert norms == pytest.approx([5.0 * t.method.ctx.num_classes, 5.0], rel=1e-3)


def test_the_generators_rate_is_annealed():
    t, rates = trainer(ZSKT, generator_lr=0.4, width=4, student_steps=1), []
    for t.method.step_index in (0, 6, 9):
        t.method.step(None, t.optimizers)
        rates.append(t.optimizers["generator"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.4, 0.2, 0.2 * (1 - 0.5**0.5)])
