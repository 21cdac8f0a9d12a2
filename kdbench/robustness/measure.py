"""Measures what `kdbench.metrics.robustness` declares, with the network at hand. No random stream is touched: what is
random depends on an image's position in the test split."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Dataset
from kdbench.data.catalog import parse
from kdbench.data.splits import stratified
from kdbench.data.stream import Normalise, center_crop
from kdbench.metrics.robustness import STEPS, SUBSET
from kdbench.parts.attack import projected_gradient
from kdbench.robustness.corruptions import CORRUPTIONS
from kdbench.seeds import fixed_random

BATCH = 100


class Robustness(NamedTuple):
    metrics: dict[str, float]
    vectors: dict[str, list[float | None]]  # corruption_accuracy.NAME: by severity; pgd_radius: what was measured with


class Subset(NamedTuple):
    """The test images that robustness is measured on."""

    positions: np.ndarray  # [M], in the test split, rising
    images: Tensor         # [M, C, H, W], uint8
    labels: Tensor         # [M]


def measure(network: nn.Module, dataset: Dataset) -> Robustness:
    """Clean, PGD and corruption accuracy of a network that maps normalised images to `Outputs`. It is measured in eval
    mode and given back as it was."""
    normalise, subset = Normalise(dataset, dataset.test.labels.device), take_subset(dataset)
    radius = radius_of(dataset)
    with frozen(network):
        clean = _right(network, normalise, subset.images, subset.labels)
        robust = withstands(network, normalise, subset, clean, radius)
        corrupted = {name: _corrupted(network, normalise, subset, name) for name in CORRUPTIONS}
    return Robustness(
        {"clean_accuracy": float(clean.mean()), "pgd_accuracy": float(robust.mean()),
         "corruption_accuracy": float(np.mean(list(corrupted.values())))},
        {**{f"corruption_accuracy.{name}": list(values) for name, values in corrupted.items()}, "pgd_radius": [radius]},
    )


def radius_of(dataset: Dataset) -> float:
    """Of the attack, for pixels in 0..1."""
    return parse(dataset.name).info.attack_radius


def take_subset(dataset: Dataset) -> Subset:
    """The same images for every run on the dataset: stratified by class, at least one of each."""
    test, (_, size, _) = dataset.test, dataset.image_shape
    labels = test.labels.cpu().numpy()
    wanted = min(len(labels), max(SUBSET, len(np.unique(labels))))
    positions = np.sort(stratified(labels, wanted, "robustness")[0])
    index = torch.from_numpy(positions)
    images = [center_crop(test.images.take(part), size) for part in index.split(BATCH)]
    return Subset(positions, torch.cat(images), test.labels[index.to(test.labels.device)])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients of parameters, for as long as it takes."""
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
    """[M] bool: which of the images that are classified right, `clean` [M], stay so under attack. The others have
    nothing to lose and are not attacked."""
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
    """What the attack raises; a sum, so that an image's gradient does not depend on its batch."""
    return lambda images: F.cross_entropy(network(images).logits, labels, reduction="sum")


def _start(positions: np.ndarray, shape: torch.Size) -> Tensor:
    """[B, C, H, W] in -1..1; an image's depends on its position alone."""
    noise = [fixed_random("pgd", str(position)).uniform(-1, 1, tuple(shape)) for position in positions]
    return torch.from_numpy(np.stack(noise).astype(np.float32))


def _corrupted(network: nn.Module, normalise: Normalise, subset: Subset, name: str) -> list[float]:
    """Accuracy under a corruption at each severity."""
    corruption, images = CORRUPTIONS[name], subset.images.cpu().numpy()
    found = []
    for strength in corruption.strengths(images.shape[-1]):
        changed = torch.from_numpy(corruption.apply(images, subset.positions, strength)).to(subset.images.device)
        found.append(float(_right(network, normalise, changed, subset.labels).mean()))
    return found


def _right(network: nn.Module, normalise: Normalise, images: Tensor, labels: Tensor) -> np.ndarray:
    """[M] bool, of 8-bit images."""
    return np.concatenate([_hits(network, normalise(some), own)
                           for some, own in zip(images.split(BATCH), labels.split(BATCH), strict=True)])


@torch.no_grad()
def _hits(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """[B] bool, of normalised images; logits that are not finite are not right."""
    logits = network(images).logits
    return ((logits.argmax(1) == labels) & logits.isfinite().all(1)).cpu().numpy()
