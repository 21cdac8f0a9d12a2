"""Measures the metrics that `kdbench.metrics.robustness` declares.

Random numbers depend on an image's position in the test split only; the global random states are neither read nor
changed.
"""

from collections.abc import Iterator
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
from kdbench.parts.attack import ball
from kdbench.robustness.corruptions import CORRUPTIONS
from kdbench.seeds import fixed_random

BATCH = 100  # images that are attacked or classified at a time


class Robustness(NamedTuple):
    """The robustness of a network as a record keeps it."""

    metrics: dict[str, float]               # by the names in MEASURED
    vectors: dict[str, list[float | None]]  # corruption_accuracy.NAME: by severity; the attacks' radii


class Subset(NamedTuple):
    """The M test images that robustness is measured on."""

    positions: np.ndarray  # [M], in the test split, ascending
    images: Tensor         # [M, C, H, W], uint8
    labels: Tensor         # [M]


def measure(network: nn.Module, dataset: Dataset) -> Robustness:
    """The clean, PGD and corruption accuracy of a network that maps normalised images to `Outputs`. It is measured in
    eval mode; its modes, parameters and their `requires_grad` are the same afterwards."""
    normalise, subset = Normalise(dataset, dataset.test.labels.device), take_subset(dataset)
    radius, small_radius = dataset.attack_radius, dataset.small_attack_radius
    with _frozen(network):
        clean = _right(network, normalise, subset.images, subset.labels)
        nearly = withstands(network, normalise, subset, clean, small_radius)
        robust = withstands(network, normalise, subset, nearly, radius)  # the small ball lies inside the large one
        corrupted = {name: _corrupted(network, normalise, subset, name) for name in CORRUPTIONS}
    return Robustness(
        {"clean_accuracy": float(clean.mean()), "pgd_accuracy": float(robust.mean()),
         "pgd_small_accuracy": float(nearly.mean()), "corruption_accuracy": float(np.mean(list(corrupted.values())))},
        {**{f"corruption_accuracy.{name}": list(values) for name, values in corrupted.items()},
         "pgd_radius": [radius], "pgd_small_radius": [small_radius]},
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


def withstands(network: nn.Module, normalise: Normalise, subset: Subset, candidates: np.ndarray, radius: float,
               batch: int = BATCH) -> np.ndarray:
    """Which of the images `candidates` [M] bool the network classifies right wherever an attack within the L-infinity
    radius `radius`, for pixels scaled to 0..1, takes them: [M] bool. Only these are attacked."""
    robust = candidates.copy()
    attacked = np.flatnonzero(candidates)
    for part in (attacked[i:i + batch] for i in range(0, len(attacked), batch)):
        index = torch.from_numpy(part).to(subset.labels.device)
        start = radius * _start(subset.positions[part], subset.images.shape[1:]).to(index.device)
        robust[part] = _withstand(network, normalise, subset.images[index], subset.labels[index], radius, start)
    return robust


def _withstand(network: nn.Module, normalise: Normalise, pixels: Tensor, labels: Tensor, radius: float,
               start: Tensor) -> np.ndarray:
    """Which of the images [B, C, H, W] uint8 stay right at every point of a projected gradient ascent: [B] bool. An
    image is left alone as soon as it is wrong, so that a network that is not robust costs few steps."""
    images, (low, high) = normalise(pixels), normalise.bounds()
    lowest, highest = ball(images, low, high, radius)
    attacked = torch.clamp(images + start * (high - low), lowest, highest)
    left, stride = torch.arange(len(images), device=images.device), radius / 4 * (high - low)
    for step in range(STEPS + 1):
        attacked.requires_grad_(step < STEPS)
        logits = network(attacked).logits
        right = _are_right(logits.detach(), labels[left])
        left = left[right]
        if step == STEPS or not len(left):
            break
        # Summed over images, so that an image's gradient does not depend on its batch.
        loss = F.cross_entropy(logits[right], labels[left], reduction="sum")
        slope = torch.autograd.grad(loss, attacked)[0][right].sign()
        attacked = torch.clamp(attacked.detach()[right] + stride * slope, lowest[left], highest[left])
    return np.isin(np.arange(len(images)), left.cpu().numpy())


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


@torch.inference_mode()
def _hits(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which of the normalised images [B, C, H, W] the network classifies right, [B] bool."""
    return _are_right(network(images).logits, labels).cpu().numpy()


def _are_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Where logits [B, K] are highest for the labels [B], as [B] bool. Where one is not finite, they are not right."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)
