import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.methods import kl, moved, named, random_logits, recorded, snapshot, softmax, trainer
from torch import nn

from kdbench.parts.losses import decision_disagreement
from kdbench.parts.statistics import batch_norms, moment_difference, moments, running_moments, with_inputs
from kdbench_methods.data_free.fast_dfkd import FastDFKD

SMALL = {"batches": 3, "warmup": 2, "iterations": 2, "latent_dim": 8, "width": 4}


def run(t, *steps):
    """The terms of these steps, as numbers."""
    for t.method.step_index in steps:
        yield {name: term.item() for name, term in t.method.step(None, t.optimizers).items()}


def numpy_feature(maps, layers, past=None, momentum=0.0):
    total = 0.0
    for i, (given, layer) in enumerate(zip(maps, layers, strict=True)):
        x = given.detach().double().numpy()
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        if past is not None:
            mean = (1 - momentum) * mean + momentum * past[i][0]
            variance = (1 - momentum) * variance + momentum * past[i][1]
        total += np.sqrt(((layer.running_mean.numpy() - mean) ** 2).sum())
        total += np.sqrt(((layer.running_var.numpy() - variance) ** 2).sum())
    return total


def test_what_enters_each_batchnorm_is_kept_beside_the_outputs():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    images = torch.randn(5, 3, 6, 6)
    layers = batch_norms(network)
    assert layers == [network[0], network[2]]
    outputs, (first, second) = with_inputs(network, layers, images)
    assert torch.equal(outputs, network(images))
    assert torch.equal(first, images) and torch.equal(second, network[1](network[0](images)))
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert batch_norms(nn.Conv2d(3, 4, 3)) == []


def test_moment_difference_is_the_papers_in_numpy():
    layers = [nn.BatchNorm2d(3), nn.BatchNorm2d(2)]
    torch.manual_seed(0)
    for layer in layers:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    maps = [torch.randn(4, 3, 5, 5, dtype=torch.float64), 2 * torch.randn(4, 2, 3, 3, dtype=torch.float64)]
    wanted = running_moments(layers)
    assert wanted[0].tolist() == [*layers[0].running_mean.tolist(), *layers[1].running_mean.tolist()]
    found = moments(maps)
    assert found.shape == (2, 5)
    assert moment_difference(found, wanted, [3, 2]).item() == pytest.approx(numpy_feature(maps, layers), rel=1e-6)
    assert moment_difference(wanted, wanted, [3, 2]).item() == 0


def test_disagreement_counts_where_both_are_for_the_same_class():
    student, teacher = random_logits(20, 4), random_logits(20, 4, seed=1)
    p, q = softmax(teacher.numpy()), softmax(student.numpy())
    same = p.argmax(1) == q.argmax(1)
    assert 0 < same.sum() < 20
    assert decision_disagreement(student, teacher).item() == pytest.approx((kl(p, q) * same).sum() / 20)


@pytest.mark.parametrize("step_index", [0, 5])  # the last batch of the warm-up has no adversarial term
def test_the_terms_of_images_are_the_papers(step_index):
    t = trainer(FastDFKD, feature=0.5, one_hot=0.7, adversarial=0.3, momentum=0.6, **SMALL)
    method = t.method
    number = 3 if step_index else 1
    torch.manual_seed(0)
    images, classes = torch.randn(8, 3, 32, 32), torch.arange(8) % 6
    past = torch.rand(2, sum(method.channels))
    method.past.copy_(past)
    method.student.eval()
    terms, found = method.image_terms(images, classes, number)
    teacher, maps = with_inputs(method.ctx.teacher, method.layers, images)
    halves = past.double().numpy()
    starts = np.cumsum([0, *method.channels])
    earlier = [halves[:, a:b] for a, b in pairwise(starts)]
    p, q = (softmax(x.logits.detach().double().numpy()) for x in (teacher, method.student(images)))
    expected = {
        "one_hot": -0.7 * np.log(p[range(8), classes]).mean(),
        "feature": 0.5 * numpy_feature(maps, method.layers, earlier, 0.6),
    }
    if number >= 2:
        expected["adversarial"] = -0.3 * (kl(p, q) * (p.argmax(1) == q.argmax(1))).mean()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(found, moments(maps).detach())


def test_the_first_batch_has_no_past_and_later_ones_remember():
    t = trainer(FastDFKD, momentum=0.6, **SMALL)
    method, seen = t.method, []
    terms = method.image_terms

    def noted(*arguments):
        seen.append(terms(*arguments))
        return seen[-1]

    method.image_terms = noted
    method.past.fill_(1e6)  # would show
    method.synthesise(0, t.optimizers["generator"])
    assert torch.equal(method.past, seen[-1][1]) and seen[-1][0]["feature"] < 1e5
    before = method.past.clone()
    method.synthesise(1, t.optimizers["generator"])
    torch.testing.assert_close(method.past, 0.4 * seen[-1][1] + 0.6 * before)


def test_batches_are_made_before_the_first_step_and_evenly_over_the_run():
    method = trainer(FastDFKD, **SMALL).method  # 12 steps
    assert [method.made(step) for step in range(-1, 12)] == [0, *[3] * 4, *[4] * 4, *[5] * 4]
    many = trainer(FastDFKD, **{**SMALL, "batches": 99}).method
    assert [many.made(step) for step in range(12)] == list(range(3, 15)) and len(many.bank) == 14


def test_images_that_exist_are_never_made_again_and_each_step_draws_from_all():
    t = trainer(FastDFKD, **SMALL, jitter=0)
    list(run(t, 0))
    bank = t.method.bank.clone()
    assert (bank[:3].flatten(1).std(1) > 0).all() and not bank[3:].any()
    with recorded(t.method.student) as seen:
        list(run(t, 1, 2, 3))
    known = {image.numpy().tobytes() for image in bank[:3].flatten(0, 1)}
    assert all(image.contiguous().numpy().tobytes() in known for images, _ in seen for image in images)
    assert torch.equal(t.method.bank, bank)
    list(run(t, 4))
    assert torch.equal(t.method.bank[:3], bank[:3]) and t.method.bank[3].any()


def test_the_images_kept_are_those_of_the_smallest_loss():
    t = trainer(FastDFKD, **{**SMALL, "iterations": 3}, jitter=0)
    method, shown = t.method, []
    terms = method.image_terms

    def noted(images, classes, number):
        found, has = terms(images, classes, number)
        shown.append(images.detach().clone())
        return {name: term * (5, 1, 3)[len(shown) - 1] for name, term in found.items()}, has  # the second is the least

    method.image_terms = noted
    method.synthesise(0, t.optimizers["generator"])
    assert torch.equal(method.bank[0], shown[1]) and not torch.equal(shown[1], shown[2])


def test_the_generator_learns_from_the_gradients_of_its_copy_summed():
    t = trainer(FastDFKD, **{**SMALL, "iterations": 3}, jitter=0, latent_lr=0.0, generator_lr=0.0)  # a copy that stays
    method = t.method
    before = copy.deepcopy(method.generator)
    torch.manual_seed(5)
    t.optimizers["generator"].step = lambda: None
    method.synthesise(0, t.optimizers["generator"])
    torch.manual_seed(5)  # draw again
    latent, classes = before.latent(8), torch.randint(6, (8,))
    method.student.eval()
    terms, _ = method.image_terms(before(latent), classes, 0)
    expected = torch.autograd.grad(sum(terms.values()), list(before.parameters()))
    for parameter, gradient in zip(method.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 3 * gradient, rtol=1e-3, atol=1e-3)


def test_the_generators_rate_is_that_of_its_copy_times_the_iterations():
    t = trainer(FastDFKD, **{**SMALL, "iterations": 7}, generator_lr=2e-3)
    group, = t.optimizers["generator"].param_groups
    assert group["lr"] == pytest.approx(0.014) and group["betas"] == (0.5, 0.999)


def test_the_student_learns_the_teachers_softened_answers_alone():
    t = trainer(FastDFKD, **SMALL, temperature=2.0)
    list(run(t, 0))
    before = snapshot(t.method)
    with recorded(t.method.student) as by_student, recorded(t.method.ctx.teacher) as by_teacher:
        terms, = run(t, 1)  # which makes no images
    (images, student), (asked, teacher) = by_student[0], by_teacher[0]
    assert torch.equal(images, asked) and len(by_student) == len(by_teacher) == 1
    expected = kl(*(softmax(x.logits.detach().double().numpy() / 2) for x in (teacher, student))).mean()
    assert terms == {"kd": pytest.approx(4 * expected, rel=1e-4)}
    assert moved(t.method, before) == named(t.method, "student.")


def test_making_images_leaves_the_student_as_it_is():
    t = trainer(FastDFKD, **SMALL)
    before = {name: value.clone() for name, value in t.method.student.state_dict().items()}
    t.method.synthesise(4, t.optimizers["generator"])
    assert all(torch.equal(value, before[name]) for name, value in t.method.student.state_dict().items())
    assert t.method.student.training and all(p.grad is None for p in t.method.student.parameters())


def test_a_teacher_without_batchnorm_is_inverted_by_the_other_terms():
    t = trainer(FastDFKD, "vit", **SMALL)
    assert t.method.layers == []
    terms, = run(t, 0)
    assert set(terms) == {"one_hot", "adversarial", "kd"}
