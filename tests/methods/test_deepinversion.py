import numpy as np
import pytest
import torch
from support.methods import kl, moved, recorded, snapshot, softmax, trainer
from torch import nn

from kdbench_methods.data_free.deepinversion import DeepInversion, feature_difference, total_variation


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


def test_a_network_without_batchnorm_has_no_feature_difference():
    _, difference = feature_difference(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 5, 5))
    assert difference.item() == 0


def test_an_update_descends_the_papers_sum():
    t = trainer(DeepInversion, feature=0.5, variation=0.1, l2=0.2, updates=1, iterations=1)
    method = t.method
    with recorded(method.ctx.teacher) as by_teacher:
        terms = method.step(None, t.optimizers)
    (images, teacher), = by_teacher
    logits, images = teacher.logits.detach().double().numpy(), images.detach()
    classes = np.arange(len(images)) % 6
    with torch.no_grad():
        _, difference = feature_difference(method.ctx.teacher, images)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({
        "class": -np.log(softmax(logits)[range(len(images)), classes]).mean(),
        "feature": 0.5 * difference.item(), "variation": 0.1 * total_variation(images).item(),
        "l2": 0.2 * np.sqrt((images.numpy() ** 2).sum()),
    }, rel=1e-4)


def run(t, steps):
    """Call the step as the trainer does, for the first `steps` of all."""
    for t.method.step_index in range(steps):
        yield t.method.step(None, t.optimizers)


def test_images_are_made_first_and_the_student_is_trained_on_them_afterwards():
    t = trainer(DeepInversion, synthesis=0.5, updates=3, iterations=9, temperature=2.0)
    method = t.method
    assert (method.ctx.steps, method.synthesis_steps, method.batches) == (12, 6, 2)
    before = snapshot(method)
    for step, terms in enumerate(run(t, 12)):
        assert ("kd" in terms) == (step >= 6)
        assert (method.bank[0] != 0).any().item() == (step >= 2)
        assert (method.bank[1] != 0).any().item() == (step >= 5)
        part = "images" if step < 6 else "student."
        assert moved(method, before) == {name for name in before if name.startswith(part)}
        before = snapshot(method)


def test_each_batch_starts_from_noise_and_a_fresh_optimizer_and_asks_for_the_next_classes():
    t = trainer(DeepInversion, synthesis=0.5, updates=2, iterations=4, jitter=0)
    method, optimizer, seen = t.method, t.optimizers["images"], []
    for _ in run(t, 6):
        seen.append((optimizer.state[method.images]["step"].item(), method.images.detach().clone()))
    assert method.batches == 3
    assert [steps for steps, _ in seen] == [2, 4, 2, 4, 2, 4]
    assert all(torch.equal(method.bank[batch], seen[2 * batch + 1][1]) for batch in range(3))
    assert (method.bank[0] - method.bank[1]).abs().mean() > 0.5
    with torch.no_grad():
        answers = method.ctx.teacher(method.bank.flatten(0, 1)).logits.log_softmax(dim=1)
    classes = torch.arange(len(answers)) % 6
    assert answers[range(len(answers)), classes].mean() > answers.mean()


def test_the_next_batch_is_of_the_next_classes():
    t = trainer(DeepInversion, synthesis=0.5, updates=1, iterations=2, jitter=0)
    method = t.method
    for batch in range(3):
        for method.step_index in (2 * batch, 2 * batch + 1):
            with recorded(method.ctx.teacher) as by_teacher:
                terms = method.step(None, t.optimizers)
            logits = by_teacher[0][1].logits.detach().double().numpy()
            classes = np.arange(8 * batch, 8 * batch + 8) % 6
            assert terms["class"].item() == pytest.approx(-np.log(softmax(logits)[range(8), classes]).mean(), rel=1e-4)


def test_images_hold_what_pixels_can_be():
    t = trainer(DeepInversion, synthesis=0.5, updates=1, iterations=2, image_lr=1.0)
    method = t.method
    list(run(t, 6))
    low, high = (edge.expand_as(method.bank[0]) for edge in (method.ctx.pixel_low, method.ctx.pixel_high))
    for images in method.bank:
        assert (images >= low).all() and (images <= high).all()
        assert (images == low).any() and (images == high).any()


def test_images_are_shifted_both_ways():
    method = trainer(DeepInversion, jitter=1).method
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    seen = {tuple(method.shifted(image)[0, 0].nonzero()[0].tolist()) for _ in range(100)}
    assert seen == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}


def test_once_there_are_enough_images_the_student_has_the_other_steps():
    method = trainer(DeepInversion, synthesis=0.5, updates=10, iterations=15, bank_size=16).method
    assert method.batches == 2 and len(method.bank) * method.bank.shape[1] == 16
    assert method.ctx.steps == 12 and method.synthesis_steps == 3
    few = trainer(DeepInversion, synthesis=0.5, updates=1, iterations=1000).method
    assert few.batches == 1 and few.synthesis_steps == 6


def test_the_student_learns_the_teachers_answers_to_the_bank():
    t = trainer(DeepInversion, synthesis=0.5, updates=1, iterations=2, temperature=2.0, jitter=1)
    method = t.method
    list(run(t, 6))
    method.step_index = 6
    with recorded(method.student) as by_student, recorded(method.ctx.teacher) as by_teacher:
        terms = method.step(None, t.optimizers)
    (images, student), (asked, teacher) = by_student[0], by_teacher[0]
    assert torch.equal(images, asked)
    expected = kl(*(softmax(x.logits.detach().double().numpy() / 2) for x in (teacher, student))).mean()
    assert terms["kd"].item() == pytest.approx(4 * expected, rel=1e-4)
    shifted = {bank.roll((i, j), (1, 2)).numpy().tobytes() for bank in method.bank.flatten(0, 1)
               for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert all(image.contiguous().numpy().tobytes() in shifted for image in images)


def test_inverting_longer_makes_images_that_the_teacher_takes_for_their_class():
    t = trainer(DeepInversion, synthesis=0.95, updates=4, iterations=44, feature=0.1, image_lr=0.1, jitter=0)
    terms = list(run(t, 11))
    assert terms[-1]["class"] < 0.75 * terms[0]["class"]
    assert terms[-1]["feature"] < 0.6 * terms[0]["feature"]
