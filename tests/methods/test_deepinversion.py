import numpy as np
import pytest
import torch
from support.methods import kl, moved, random_logits, recorded, snapshot, softmax, trainer
from torch import nn

from kdbench_methods.data_free.deepinversion import (
    DeepInversion,
    Moments,
    feature_difference,
    jensen_shannon,
    total_variation,
)


def test_total_variation_by_hand():
    images = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    right, below, diagonal, other = (1 + 16) ** 0.5, (9 + 36) ** 0.5, 7.0, 2.0
    assert total_variation(images).item() == pytest.approx(right + below + diagonal + other)
    assert total_variation(torch.full((2, 3, 5, 4), 7.0)).item() == 0


def test_total_variation_is_the_papers_in_numpy():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    neighbours = [x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :],
                  x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]]
    expected = sum(np.sqrt((d**2).sum()) for d in neighbours)
    assert total_variation(torch.from_numpy(x)).item() == pytest.approx(expected)


def test_feature_difference_compares_what_enters_each_batchnorm_with_its_running_statistics():
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double().eval()
    for layer in (network[0], network[2]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    images = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        outputs, difference = feature_difference(network, images)
        entering = [images.numpy(), network[1](network[0](images)).numpy()]
    assert torch.equal(outputs, network(images))
    expected = 0.0
    for layer, x in zip((network[0], network[2]), entering, strict=True):
        mean, variance = layer.running_mean.numpy(), layer.running_var.numpy()
        expected += np.sqrt(((x.mean((0, 2, 3)) - mean) ** 2).sum())
        expected += np.sqrt(((x.var((0, 2, 3)) - variance) ** 2).sum())
    assert difference.item() == pytest.approx(expected, rel=1e-6)
    assert not any(module._forward_hooks for module in network.modules())


def test_images_that_excite_the_layer_as_training_did_have_no_feature_difference():
    layer = nn.BatchNorm2d(3, momentum=1.0)
    images = torch.randn(8, 3, 5, 5)
    layer(images)
    layer.running_var *= (8 * 25 - 1) / (8 * 25)  # PyTorch keeps the unbiased variance
    assert feature_difference(layer.eval(), images)[1].item() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_and_their_gradient_are_those_of_autograd_bit_for_bit(dtype):
    torch.manual_seed(0)
    ours = (3 * torch.randn(300, 5, dtype=dtype) + 1).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    means = theirs.mean(dim=0)
    found, expected = Moments.apply(ours), (means, (theirs - means).square().mean(dim=0))
    weights = torch.randn(2, 5, dtype=dtype)
    for x, moments in ((ours, found), (theirs, expected)):
        sum((w * m).norm() for w, m in zip(weights, moments, strict=True)).backward()
        assert x.grad.abs().min() > 0
    assert all(map(torch.equal, found, expected))
    assert torch.equal(ours.grad, theirs.grad)


def test_a_network_without_batchnorm_has_no_feature_difference():
    _, difference = feature_difference(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5))
    assert difference.item() == 0


def test_jensen_shannon_is_the_papers_in_numpy():
    first, second = (random_logits(5, 4, seed=seed) for seed in (0, 1))
    p, q = (softmax(logits.numpy() / 3) for logits in (first, second))
    expected = (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)).mean() / 2
    assert jensen_shannon(first, second, 3.0).item() == pytest.approx(expected, rel=1e-9)
    assert jensen_shannon(second, first, 3.0).item() == pytest.approx(expected, rel=1e-9)


def test_jensen_shannon_is_from_nought_for_equals_to_the_logarithm_of_two_and_keeps_a_finite_gradient():
    certain = 1000 * torch.eye(3, dtype=torch.float64)
    assert jensen_shannon(certain, certain, 1.0).item() == pytest.approx(0, abs=1e-12)
    apart = jensen_shannon(certain.requires_grad_(), certain.detach().roll(1, 0), 1.0)
    assert apart.item() == pytest.approx(np.log(2))
    assert torch.autograd.grad(apart, certain)[0].isfinite().all()


def run(t, *steps):
    """The terms of the steps of these numbers, called as the trainer does."""
    for t.method.step_index in steps:
        yield t.method.step(None, t.optimizers)


def test_the_images_descend_the_papers_sum():
    t = trainer(DeepInversion, feature=0.5, variation=0.1, l2=0.2, competition=2.0, temperature=3.0)
    method, images = t.method, torch.randn(8, 3, 32, 32, requires_grad=True)
    classes = torch.arange(8) % 6
    method.student.eval()
    terms = method.image_terms(images, classes, competing=True)
    with torch.no_grad():
        teacher, difference = feature_difference(method.ctx.teacher, images)
        student = method.student(images)
    of_teacher, of_student = (outputs.logits.double().numpy() for outputs in (teacher, student))
    p, q = softmax(of_teacher / 3), softmax(of_student / 3)
    pixels = images.detach()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "class": -np.log(softmax(of_teacher)[range(8), classes]).mean(),
        "feature": 0.5 * difference.item(), "variation": 0.1 * total_variation(pixels).item(),
        "l2": 0.2 * np.sqrt((pixels.numpy() ** 2).sum()),
        "competition": 2 * (1 - (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)).mean() / 2),
    }, rel=1e-4)


def test_without_its_weight_there_is_no_competition_and_the_student_is_not_asked():
    t = trainer(DeepInversion, competition=0.0)
    with recorded(t.method.student) as by_student:
        terms = t.method.image_terms(torch.randn(4, 3, 32, 32), torch.arange(4), competing=True)
    assert set(terms) == {"class", "feature", "variation", "l2"} and not by_student


@pytest.mark.parametrize(("batches", "synthesis", "steps"), [
    (3, 0.5, [0, 2, 4]), (4, 1.0, [0, 3, 6, 9]), (6, 0.5, [0, 1, 2, 3, 4, 5]), (100, 0.25, [0, 1, 2]),
    (1, 0.5, [0]), (5, 0.0, [0])])
def test_batches_are_made_at_even_intervals_in_the_first_part_of_the_run(batches, synthesis, steps):
    t = trainer(DeepInversion, batches=batches, synthesis=synthesis, iterations=1)
    method = t.method
    assert method.ctx.steps == 12 and method.rare_steps() == steps
    for step, terms in enumerate(run(t, *range(12))):
        so_far = sum(start <= step for start in steps)
        assert ("class" in terms) == (step in steps)
        assert [batch.any().item() for batch in method.bank] == [i < so_far for i in range(len(steps))]


def test_every_step_moves_the_student_once_and_nothing_else():
    t = trainer(DeepInversion, batches=2, synthesis=0.5, iterations=3)
    updates = []
    t.optimizers["main"].register_step_post_hook(lambda *_: updates.append(t.method.step_index))
    before = snapshot(t.method)
    for _ in run(t, *range(8)):
        assert moved(t.method, before) == set(before)
        before = snapshot(t.method)
    assert updates == list(range(8)) and all(name.startswith("student.") for name in before)


def test_each_batch_takes_its_iterations_from_fresh_noise_and_asks_for_the_next_classes():
    t = trainer(DeepInversion, batches=3, synthesis=0.5, iterations=4, competition=0.0, jitter=0)
    method = t.method
    for number, step in enumerate((0, 2, 4)):
        with recorded(method.ctx.teacher) as by_teacher:
            terms, = run(t, step)
        made = by_teacher[:4]
        assert len(by_teacher) == 4 + 1 and all(images.requires_grad for images, _ in made)
        assert made[0][0].std().item() == pytest.approx(1, abs=0.05)
        classes = np.arange(8 * number, 8 * number + 8) % 6
        answers = softmax(made[-1][1].logits.detach().double().numpy())
        assert terms["class"].item() == pytest.approx(-np.log(answers[range(8), classes]).mean(), rel=1e-4)
    assert all((method.bank[i] - method.bank[j]).abs().mean() > 0.5 for i, j in ((0, 1), (1, 2)))


def test_from_the_second_batch_on_the_images_compete_with_the_student_as_it_is_then_in_eval_mode():
    t, modes = trainer(DeepInversion, batches=2, synthesis=0.5, iterations=2), []
    method = t.method
    method.train()
    method.student.register_forward_hook(lambda *_: modes.append(method.student.training))
    first, = run(t, 0)
    assert "competition" not in first and modes == [True]
    modes.clear()
    statistics = [buffer.clone() for buffer in method.student.buffers()]
    method.synthesise(1)
    assert modes == [False, False] and method.student.training
    assert all(torch.equal(a, b) for a, b in zip(statistics, method.student.buffers(), strict=True))
    second, = run(t, 3)
    assert "competition" in second


def test_competition_makes_images_on_which_student_and_teacher_differ():
    def divergence(competition):
        t = trainer(DeepInversion, batches=2, iterations=60, image_lr=0.05, competition=competition, feature=0.0,
                    jitter=0)
        method = t.method
        torch.manual_seed(0)
        method.synthesise(1)
        method.student.eval()
        with torch.no_grad():
            return jensen_shannon(method.ctx.teacher(method.bank[1]).logits, method.student(method.bank[1]).logits, 3.0)

    assert divergence(10.0) > 1.2 * divergence(0.0)


def test_making_images_leaves_the_students_weights_without_gradients():
    method = trainer(DeepInversion, batches=2, iterations=2).method
    method.synthesise(1)
    assert all(p.grad is None for p in method.student.parameters())


def test_images_hold_what_pixels_can_be():
    t = trainer(DeepInversion, batches=2, iterations=2, image_lr=1.0)
    method = t.method
    list(run(t, *range(6)))
    low, high = (edge.expand_as(method.bank[0]) for edge in (method.ctx.pixel_low, method.ctx.pixel_high))
    for images in method.bank:
        assert (images >= low).all() and (images <= high).all()
        assert (images == low).any() and (images == high).any()


def test_the_student_learns_the_teachers_answers_to_the_images_that_exist_so_far():
    t = trainer(DeepInversion, batches=3, synthesis=0.5, iterations=2, temperature=2.0, jitter=1)
    method = t.method
    list(run(t, 0, 1, 2))
    with recorded(method.student) as by_student, recorded(method.ctx.teacher) as by_teacher:
        terms, = run(t, 3)
    (images, student), (asked, teacher) = by_student[0], by_teacher[0]
    assert torch.equal(images, asked)
    expected = kl(*(softmax(x.logits.detach().double().numpy() / 2) for x in (teacher, student))).mean()
    assert terms["kd"].item() == pytest.approx(4 * expected, rel=1e-4)
    shifted = {bank.roll((i, j), (1, 2)).numpy().tobytes() for bank in method.bank[:2].flatten(0, 1)
               for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert all(image.contiguous().numpy().tobytes() in shifted for image in images)


def test_inverting_longer_makes_images_that_the_teacher_takes_for_their_class():
    short, long = (
        next(run(trainer(DeepInversion, batches=1, iterations=n, feature=0.1, image_lr=0.1, jitter=0), 0))
        for n in (1, 44))
    assert long["class"] < 0.75 * short["class"]
    assert long["feature"] < 0.6 * short["feature"]
