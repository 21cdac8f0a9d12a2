import pytest
import torch
from support.methods import moved_by_each, named, recorded, trainer

from kdbench_methods.data_free.dfad import DFAD


def logits(outputs):
    return outputs.logits.detach().double().numpy()


def test_a_step_is_some_updates_of_the_student_on_new_images_then_one_of_the_generator():
    t = trainer(DFAD, student_steps=3, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        t.method.step(None, t.optimizers)
    shown = [images for images, _ in by_student]
    assert len(shown) == 4 and all(len(images) == t.method.ctx.batch_size for images in shown)
    assert all(torch.equal(a, b) for a, (b, _) in zip(shown, by_teacher, strict=True))
    assert [images.requires_grad for images in shown] == [False, False, False, True]
    assert all((a != b).any() for i, a in enumerate(shown) for b in shown[:i])


def test_dfad_is_the_mean_absolute_difference_of_logits_and_minus_it():
    t = trainer(DFAD, student_steps=2, width=4)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms = t.method.step(None, t.optimizers)
    apart = [abs(logits(s) - logits(t)).mean() for (_, s), (_, t) in zip(by_student, by_teacher, strict=True)]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"student": apart[1], "generator": -apart[2]}, rel=1e-4)


def test_each_optimizer_moves_its_own_network():
    t = trainer(DFAD, width=4)
    assert moved_by_each(t) == {"generator": named(t.method, "generator."), "main": named(t.method, "student.")}


def test_the_student_lowers_and_the_generator_raises_their_disagreement():
    easy = trainer(DFAD, student_steps=40, generator_lr=0.0, width=4)
    for group in easy.optimizers["main"].param_groups:
        group["lr"] = 0.02
    with recorded(easy.method.student) as by_student, recorded(easy.method.ctx.teacher) as by_teacher:
        easy.method.step(None, easy.optimizers)
    apart = [abs(logits(s) - logits(t)).mean() for (_, s), (_, t) in zip(by_student, by_teacher, strict=True)]
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
