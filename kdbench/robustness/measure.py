"""Measures the metrics that `kdbench.metrics.robustness` declares.

Random numbers depend on an image's position in the test split only; the global random states are neither read nor
changed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Dataset
from kdbench.data.splits import stratified
from kdbench.data.stream import Normalise, center_crop
from kdbench.metrics.robustness import STEPS, SUBSET
from kdbench.parts.attack import projected_gradient
from kdbench.robustness.corruptions import CORRUPTIONS
from kdbench.seeds import fixed_random

BATCH = 100  # images that are attacked or classified at a time


class Robustness(NamedTuple):
    """The robustness of a network as a record keeps it."""

    metrics: dict[str, float]               # by the names in MEASURED
    vectors: dict[str, list[float | None]]  # corruption_accuracy.NAME: by severity; pgd_radius: the attack's radius


class Subset(NamedTuple):
    """The M test images that robustness is measured on."""

    positions: np.ndarray  # [M], in the test split, ascending
    images: Tensor         # [M, C, H, W], uint8
    labels: Tensor         # [M]


def measure(network: nn.Module, dataset: Dataset) -> Robustness:
    """The clean, PGD and corruption accuracy of a network that maps normalised images to `Outputs`. It is measured in
    eval mode; its modes, parameters and their `requires_grad` are the same afterwards."""
    normalise, subset = Normalise(dataset, dataset.test.labels.device), take_subset(dataset)
    radius = dataset.attack_radius
    with _frozen(network):
        clean = _right(network, normalise, subset.images, subset.labels)
        robust = withstands(network, normalise, subset, clean, radius)
        corrupted = {name: _corrupted(network, normalise, subset, name) for name in CORRUPTIONS}
    return Robustness(
        {"clean_accuracy": float(clean.mean()), "pgd_accuracy": float(robust.mean()),
         "corruption_accuracy": float(np.mean(list(corrupted.values())))},
        {**{f"corruption_accuracy.{name}": list(values) for name, values in corrupted.items()}, "pgd_radius": [radius]},
    )


def take_subset(dataset: Dataset) -> Subset:
    """The SUBSET test images that robustness is measured on, the same for every run on the dataset. They are stratified
    by class, with at least one of each."""
    test, (_, size, _) = dataset.test, dataset.image_shape
    labels = test.labels.cpu().numpy()
    wanted = min(len(labels), max(SUBSET, len(np.unique(labels))))
    positions = np.sort(stratified(labels, wanted, "robustness")[0])
    index = torch.from_numpy(positions)
    images = [center_crop(test.images.take(part), size) for part in index.split(BATCH)]
    return Subset(positions, torch.cat(images), test.labels[index.to(test.labels.device)])


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode and take no gradients of its parameters while the context lasts."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


def withstands(network: nn.Module, normalise: Normalise, subset: Subset, clean: np.ndarray, radius: float,
               batch: int = BATCH) -> np.ndarray:
    """Which images the network classifies right even when attacked within the L-infinity radius `radius`, for pixels
    scaled to 0..1: [M] bool. Only those that it classifies right without attack, `clean` [M] bool, are attacked."""
    shape, (low, high) = subset.images.shape[1:], normalise.bounds()
    robust = clean.copy()
    right = np.flatnonzero(clean)
    for part in (right[i:i + batch] for i in range(0, len(right), batch)):
        index = torch.from_numpy(part).to(subset.labels.device)
        images, labels = normalise(subset.images[index]), subset.labels[index]
        start = radius * _start(subset.positions[part], shape).to(images.device)
        attacked = projected_gradient(images, _cross_entropy(network, labels), low, high, epsilon=radius,
                                      step_size=radius / 4, steps=STEPS, start=start)
        robust[part] = _hits(network, attacked, labels)
    return robust


def _cross_entropy(network: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The function of images that the attack raises: the cross-entropy, summed over images, so that an image's gradient
    does not depend on its batch."""
    return lambda images: F.cross_entropy(network(images).logits, labels, reduction="sum")


def _start(positions: np.ndarray, shape: torch.Size) -> Tensor:
    """Uniform noise in -1..1, [B, C, H, W], where the noise of an image depends on its position [B] only."""
    noise = [fixed_random("pgd", str(position)).uniform(-1, 1, tuple(shape)) for position in positions]
    return torch.from_numpy(np.stack(noise).astype(np.float32))


def _corrupted(network: nn.Module, normalise: Normalise, subset: Subset, name: str) -> list[float]:
    """The accuracy on images with the corruption `name`, at each severity."""
    corruption, images = CORRUPTIONS[name], subset.images.cpu().numpy()
    found = []
    for strength in corruption.strengths(images.shape[-1]):
        changed = torch.from_numpy(corruption.apply(images, subset.positions, strength)).to(subset.images.device)
        found.append(float(_right(network, normalise, changed, subset.labels).mean()))
    return found


def _right(network: nn.Module, normalise: Normalise, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which of the images [M, C, H, W] uint8 the network classifies right, [M] bool."""
    return np.concatenate([_hits(network, normalise(some), own)
                           for some, own in zip(images.split(BATCH), labels.split(BATCH), strict=True)])


@torch.no_grad()
def _hits(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which of the normalised images [B, C, H, W] the network classifies right, [B] bool. An image with a logit that is
    not finite is not."""
    logits = network(images).logits
    return ((logits.argmax(1) == labels) & logits.isfinite().all(1)).cpu().numpy()
