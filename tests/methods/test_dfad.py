import pytest
import torch
from support.methods import moved_by_each, named, recorded, trainer

from kdbench_methods.data_free.dfad import DFAD


def logits(outputs):
    return outputs.logits.detach().double().numpy()


def run(t, *steps):
    """The terms of the steps of these numbers, called as the trainer does."""
    for t.method.step_index in steps:
        yield t.method.step(None, t.optimizers)


def test_each_step_is_an_update_of_the_student_on_new_images_and_every_few_end_with_one_of_the_generator():
    t = trainer(DFAD, student_steps=3, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = list(run(t, *range(6)))
    shown = [images for images, _ in by_student]
    assert len(shown) == 8 and all(len(images) == t.method.ctx.batch_size for images in shown)
    assert all(torch.equal(a, b) for a, (b, _) in zip(shown, by_teacher, strict=True))
    assert [images.requires_grad for images in shown] == 2 * [False, False, False, True]
    assert all((a != b).any() for i, a in enumerate(shown) for b in shown[:i])
    assert ["generator" in each for each in terms] == 2 * [False, False, True]


def test_every_step_moves_the_student_once_and_every_few_the_generator():
    t = trainer(DFAD, student_steps=2, width=4)
    updates = {name: 0 for name in t.optimizers}
    for name, optimizer in t.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: updates.update({name: updates[name] + 1}))
    assert [(updates["main"], updates["generator"]) for _ in run(t, *range(5))] == [
        (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_dfad_is_the_mean_absolute_difference_of_logits_and_minus_it():
    t = trainer(DFAD, student_steps=1, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.step(None, t.optimizers)
    apart = [abs(logits(s) - logits(t)).mean() for (_, s), (_, t) in zip(by_student, by_teacher, strict=True)]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"student": apart[0], "generator": -apart[1]}, rel=1e-4)


def test_an_update_of_the_generator_leaves_the_students_weights_without_gradients_and_trainable():
    t = trainer(DFAD, width=4)
    t.method.challenge(t.optimizers["generator"])
    assert all(p.grad is None and p.requires_grad for p in t.method.student.parameters())


def test_each_optimizer_moves_its_own_network():
    t = trainer(DFAD, width=4, student_steps=1)
    assert moved_by_each(t) == {"generator": named(t.method, "generator."), "main": named(t.method, "student.")}


def test_the_student_lowers_and_the_generator_raises_their_disagreement():
    easy = trainer(DFAD, student_steps=100, width=4)
    for group in easy.optimizers["main"].param_groups:
        group["lr"] = 0.02
    apart = [easy.method.step(None, easy.optimizers)["student"].item() for _ in range(40)]
    assert sum(apart[-5:]) < 0.7 * sum(apart[:5])

    hard = trainer(DFAD, student_steps=1, generator_lr=1e-2, width=4)
    for group in hard.optimizers["main"].param_groups:
        group["lr"] = 0.0
    terms = [hard.method.step(None, hard.optimizers)["generator"].item() for _ in range(40)]
    assert sum(terms[-5:]) < 1.2 * sum(terms[:5])  # both are negative


def test_the_students_rate_is_the_recipes_times_its_scale():
    rates = [trainer(DFAD, width=4, student_scale=scale) for scale in (1.0, 3.0)]
    for t in rates:
        t._set_rates(0.5)
    one, three = (t.optimizers["main"].param_groups[0]["lr"] for t in rates)
    assert three == pytest.approx(3 * one) and one > 0
