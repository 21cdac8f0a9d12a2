import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.data import Linear, dataset_of, own_labels, random_data
from torch import nn

from kdbench.data.catalog import DATASETS
from kdbench.data.stream import Normalise
from kdbench.method import Outputs
from kdbench.metrics.robustness import MEASURED, SUBSET
from kdbench.robustness.measure import Subset, measure, take_subset, withstands

CPU = torch.device("cpu")


class Normed(nn.Module):
    """With BatchNorm and dropout: what it says depends on its mode."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.5), nn.Flatten(),
                                  nn.Linear(64, 3))

    def forward(self, images):
        logits = self.body(images)
        return Outputs(logits, logits, ())


def pgd(network, dataset, radius, batch=100):
    subset = take_subset(dataset)
    clean = np.ones(len(subset.labels), bool)
    return withstands(network, Normalise(dataset, CPU), subset, clean, radius, batch)


# The attack.

def test_against_a_linear_network_of_two_classes_the_attack_is_as_strong_as_any_can_be():
    network = Linear(classes=2)
    dataset = own_labels(network, random_data())
    normalised = Normalise(dataset, CPU)(dataset.test.images.images)
    logits = network(normalised).logits.detach()
    margin = (logits[:, 0] - logits[:, 1]).abs()
    for radius in (.002, .01, .03):  # no pixel leaves black to white
        slope = (network.weight[0] - network.weight[1]).detach().abs().sum() / .2  # of pixels in 0..1
        withstood = margin > radius * slope
        assert 0 < withstood.sum() < len(margin)
        assert np.array_equal(pgd(network, dataset, radius), withstood.numpy())


def test_accuracy_under_attack_falls_as_the_radius_grows_and_never_exceeds_the_clean_one():
    network = Normed()
    dataset = own_labels(network, random_data(150))
    curve = [pgd(network.eval(), dataset, radius).mean() for radius in (0, .005, .02, .1)]
    assert curve[0] == 1 and curve == sorted(curve, reverse=True) and curve[0] > curve[1] > curve[-1]
    half = random_data(150)  # labels by position: most are wrong
    metrics = measure(network, half).metrics
    assert 0 < metrics["clean_accuracy"] < 1 and metrics["pgd_accuracy"] <= metrics["clean_accuracy"]


def test_accuracy_within_both_radii_is_measured_and_falls_from_clean_to_small_to_large():
    network = Linear(classes=2, scale=.3)
    dataset = own_labels(network, random_data())
    logits = network(Normalise(dataset, CPU)(dataset.test.images.images)).logits.detach()
    slope = (network.weight[0] - network.weight[1]).detach().abs().sum() / .2  # of pixels in 0..1; none leaves 0..1
    expected = [((logits[:, 0] - logits[:, 1]).abs() > radius * slope).float().mean().item()
                for radius in (0, 2 / 255, 8 / 255)]
    metrics = measure(network, dataset).metrics
    assert [metrics[name] for name in ("clean_accuracy", "pgd_small_accuracy", "pgd_accuracy")] \
        == pytest.approx(expected)
    assert expected[0] > expected[1] > expected[2]


def test_an_image_is_attacked_no_further_once_it_is_wrong_and_every_point_of_the_way_counts():
    dataset, shown = random_data(6, classes=2), []

    class Turning(nn.Module):
        """Of three images, wrong about the first at the third point, about the second at the last, and never."""

        def forward(self, images):
            shown.append(len(images))
            step = len(shown) - 1
            wrong = [step == 2, step == 10, False] if len(images) == 3 else [step == 10, False]
            signs = torch.tensor([-1.0 if one else 1.0 for one in wrong]) * (1 + 0 * images.flatten(1).sum(1))
            logits = torch.stack([signs, -signs], 1)
            return Outputs(logits, logits, ())

    subset = Subset(np.arange(3), dataset.test.images.images[:3], torch.zeros(3, dtype=torch.int64))
    robust = withstands(Turning(), Normalise(dataset, CPU), subset, np.ones(3, bool), .01)
    assert robust.tolist() == [False, False, True]
    assert shown == [3] * 3 + [2] * 8  # the start and ten steps


def test_images_that_are_left_of_several_batches_take_the_next_step_in_one():
    dataset, shown = random_data(6), []

    class Half(nn.Module):
        """Wrong about every second image at the start, and then about none."""

        def forward(self, images):
            wrong = torch.arange(len(images)) % 2 * (2 if len(shown) < 2 else 0)
            shown.append(len(images))
            signs = (1 - wrong) * (1 + 0 * images.flatten(1).sum(1))
            logits = torch.stack([signs, -signs], 1)
            return Outputs(logits, logits, ())

    subset = Subset(np.arange(6), dataset.test.images.images, torch.zeros(6, dtype=torch.int64))
    robust = withstands(Half(), Normalise(dataset, CPU), subset, np.ones(6, bool), .01, batch=4)
    assert robust.tolist() == [True, False, True, False, True, False]
    assert shown == [4, 2] + [3] * 10


def test_what_is_wrong_from_the_start_is_not_attacked_and_stays_wrong():
    network = Linear(classes=2)
    dataset = own_labels(network, random_data())
    subset, clean = take_subset(dataset), np.arange(60) % 2 == 0
    robust = withstands(network, Normalise(dataset, CPU), subset, clean, 0.0)
    assert np.array_equal(robust, clean)


def test_the_attack_depends_on_neither_the_batch_size_nor_any_random_state_and_leaves_that_alone():
    network = Normed().eval()
    dataset = own_labels(network, random_data(150))
    radius = .01
    first = pgd(network, dataset, radius)
    assert 0 < first.mean() < 1
    torch.manual_seed(7)
    np.random.seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert np.array_equal(pgd(network, dataset, radius, batch=7), first)
    assert torch.equal(torch.get_rng_state(), states[0]) and np.array_equal(np.random.get_state()[1], states[1])


def test_the_start_is_random_and_of_the_image_s_position():
    network = Linear(classes=2)
    dataset = own_labels(network, random_data())
    subset = take_subset(dataset)
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return network(images)

    images = Normalise(dataset, CPU)(subset.images)
    withstands(Spy(), Normalise(dataset, CPU), subset, np.ones(60, bool), .01)
    offsets = (seen[0] - images) * .2  # in pixels of 0..1
    assert offsets.abs().max() <= .01 + 1e-6 and offsets.abs().max() > .009 and abs(offsets.mean()) < .001
    assert not torch.allclose(offsets[0], offsets[1], atol=1e-3)
    alone = Subset(subset.positions[5:6], subset.images[5:6], subset.labels[5:6])
    seen.clear()
    withstands(Spy(), Normalise(dataset, CPU), alone, np.ones(1, bool), .01)
    assert torch.allclose((seen[0] - images[5:6]) * .2, offsets[5:6], atol=1e-6)


# What is measured.

def test_the_network_comes_back_as_it_was():
    network = Normed().train()
    network.body[0].weight.requires_grad_(False)
    network.body[3].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first, second = (measure(network, random_data(150)) for _ in range(2))
    assert first == second  # in eval mode: dropout would differ
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.body[:4]] == [True, True, True, False]
    assert [p.requires_grad for p in network.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in network.parameters())


def test_what_is_measured_is_what_is_declared():
    assert tuple(measure(Linear(), random_data()).metrics) == MEASURED


def test_the_record_gets_each_corruption_at_each_severity_and_their_mean():
    network = Normed()
    measured = measure(network, own_labels(network, random_data(150)))
    values = [v for name, v in measured.vectors.items() if name.startswith("corruption_accuracy.")]
    assert len(values) == 5 and {len(v) for v in values} == {3}
    assert measured.metrics["corruption_accuracy"] == pytest.approx(np.mean(values))
    assert measured.metrics["clean_accuracy"] == 1 > measured.metrics["corruption_accuracy"]
    assert measured.vectors["pgd_radius"] == [8 / 255] and measured.vectors["pgd_small_radius"] == [2 / 255]


def test_logits_that_are_not_numbers_are_not_right():
    class Broken(Linear):
        def forward(self, images):
            outputs = super().forward(images)
            return outputs._replace(logits=outputs.logits * torch.tensor([1, 1, float("nan")]))

    assert set(measure(Broken(), random_data()).metrics.values()) == {0}


def test_the_subset_is_fixed_stratified_and_the_whole_of_a_small_split():
    many = dataset_of(torch.zeros(2000, 1, 2, 2, dtype=torch.uint8), torch.arange(2000) % 4, classes=4)
    subset = take_subset(many)
    assert len(subset.labels) == SUBSET and torch.bincount(subset.labels).tolist() == [125] * 4
    assert np.array_equal(subset.positions, np.sort(subset.positions)) and len(set(subset.positions)) == SUBSET
    assert np.array_equal(take_subset(many).positions, subset.positions)
    assert not np.array_equal(subset.positions, np.arange(SUBSET))
    assert len(take_subset(random_data()).labels) == 60
    rare = dataset_of(torch.zeros(1400, 1, 2, 2, dtype=torch.uint8), torch.arange(1400) % 700, classes=700)
    assert len(take_subset(rare).labels) == 700  # one of each class


def test_every_dataset_says_its_radii():
    assert {name: info.small_attack_radius for name, info in DATASETS.items() if not info.words} == {
        "mnist5k": 8 / 255, "fashion_mnist": 8 / 255, "cifar10": 2 / 255, "cifar100": 2 / 255, "imagefolder": 1 / 255,
        "synthetic": 2 / 255}
    assert {name: info.attack_radius for name, info in DATASETS.items() if not info.words} == {
        "mnist5k": .1, "fashion_mnist": .1, "cifar10": 8 / 255, "cifar100": 8 / 255, "imagefolder": 4 / 255,
        "synthetic": 8 / 255}
    data = random_data()
    assert dataset_of(data.test.images.images, data.test.labels, "mnist5k+skew(0.9)").attack_radius == .1
    assert dataset_of(data.test.images.images, data.test.labels, "fashion_mnist").small_attack_radius == 8 / 255


def test_a_gradient_step_raises_the_cross_entropy():
    network = Linear()
    dataset = own_labels(network, random_data())
    assert pgd(network, dataset, .5).mean() < .2  # with any pixel free, nearly nothing withstands
    assert F.cross_entropy(network(Normalise(dataset, CPU)(dataset.test.images.images)).logits,
                           dataset.test.labels).item() < 1.2
