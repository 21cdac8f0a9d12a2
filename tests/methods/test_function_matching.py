from dataclasses import replace

import pytest
import torch
from support.methods import first_batch, kl, loss_terms, random_logits, recorded, softmax, trainer

from kdbench_methods.logit.function_matching import FunctionMatching, mixed

STUDENT, TEACHER = random_logits(4, 5), random_logits(4, 5, seed=1)


def test_an_image_is_mixed_with_the_one_before_it():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert mixed(images, 0.75)[:, 0, 0, 0].tolist() == [0.75 * 0 + 0.25 * 2, 0.75 * 1 + 0.25 * 0, 0.75 * 2 + 0.25 * 1]
    torch.testing.assert_close(mixed(images, 1.0), images)


def test_the_only_term_is_the_divergence_with_the_squared_temperature():
    terms = loss_terms(FunctionMatching, STUDENT, torch.zeros(4, dtype=torch.int64), TEACHER, temperature=3.0)
    p, q = softmax(TEACHER.numpy() / 3), softmax(STUDENT.numpy() / 3)
    assert terms == {"kd": pytest.approx(9 * kl(p, q).mean())}


def test_student_and_teacher_see_the_same_mixtures():
    training = trainer(FunctionMatching)
    method, batch = training.method, first_batch(training)
    with recorded(method.student) as students, recorded(method.ctx.teacher) as teachers:
        term = method.step(batch, training.optimizers)["kd"].item()
    (seen, student), (also, teacher) = students[0], teachers[0]
    assert len(students) == len(teachers) == 1 and torch.equal(seen, also)
    p, q = (softmax(outputs.logits.detach().double().numpy()) for outputs in (teacher, student))
    assert term == pytest.approx(kl(p, q).mean(), rel=1e-4)
    assert not teacher.logits.requires_grad


def test_each_batch_has_a_share_of_its_own_between_a_half_and_one():
    training = trainer(FunctionMatching)
    method, batch = training.method, first_batch(training)
    other = batch.images.roll(1, dims=0) - batch.images
    with recorded(method.student) as seen:
        for _ in range(40):
            method.step(batch, training.optimizers)
    shares = [1 - ((images - batch.images) / other)[other.abs() > 0.1].mean().item() for images, _ in seen]
    assert all(0.5 <= share <= 1 for share in shares)
    assert min(shares) < 0.6 and max(shares) > 0.9 and len({round(share, 4) for share in shares}) == 40


def test_smaller_mixup_gives_shares_nearer_to_one_and_none_the_images_themselves():
    def furthest(mixup):
        training = trainer(FunctionMatching, mixup=mixup)
        batch = first_batch(training)
        with recorded(training.method.student) as seen:
            for _ in range(10):
                training.method.step(batch, training.optimizers)
        return max((images - batch.images).abs().max().item() for images, _ in seen)

    assert furthest(0.0) == 0 < furthest(0.02) < furthest(1.0)


def test_the_teacher_is_asked_about_the_mixtures_not_for_kept_answers():
    training = trainer(FunctionMatching)
    method, batch = training.method, first_batch(training)
    method.ctx = replace(method.ctx, teach=None)  # the door to answers of the run's own batches
    halves = batch._replace(images=mixed(batch.images, 0.5))
    torch.testing.assert_close(method.teach(halves).logits, method.ctx.teacher(halves.images).logits)
