"""Measures a network's accuracy under attack and corruption, the metrics that `kdbench.metrics.robustness` declares.

Random numbers depend on an image's position in the test split only; the global random states are neither read nor
changed.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Dataset
from kdbench.data.splits import stratified
from kdbench.data.stream import Normalise, center_crop
from kdbench.method import is_text
from kdbench.metrics.robustness import MEASURED, STEPS, SUBSET
from kdbench.parts.attack import ball
from kdbench.robustness.corruptions import CORRUPTIONS, corrupted
from kdbench.robustness.texts import SHARES, TEXT_CORRUPTIONS
from kdbench.seeds import fixed_randoms

BATCH = 100       # images that are attacked at a time
CLASSIFIED = 250  # images that are classified at a time


class Robustness(NamedTuple):
    """The robustness metrics of a network, as they are stored in a record."""

    metrics: dict[str, float]               # by the names in MEASURED
    vectors: dict[str, list[float | None]]  # corruption_accuracy.NAME: by severity; PGD's radii


class Subset(NamedTuple):
    """The M test images, or texts, that robustness is measured on."""

    positions: np.ndarray  # [M], in the test split, ascending
    images: Tensor         # [M, C, H, W], uint8; of texts [M, T], int64
    labels: Tensor         # [M]


def measure(network: nn.Module, dataset: Dataset, folder: Path | None = None,
            slopes: nn.Module | None = None) -> Robustness:
    """Measure the clean, PGD and corruption accuracy of a network that maps normalised images to `Outputs`.

    The network is in eval mode meanwhile; its modes and the `requires_grad` of its parameters are restored afterwards.
    Corrupted images are cached in the data folder `folder`, unless that is None. Texts are not attacked, and have
    corruptions of their own. If `network` has no gradients, PGD follows those of `slopes`, a frozen network in eval
    mode.
    """
    if is_text(dataset.image_shape):
        return _measure_texts(network, dataset)
    normalise, subset = Normalise(dataset, dataset.test.labels.device), take_subset(dataset)
    radius, small_radius = dataset.attack_radius, dataset.small_attack_radius
    with _frozen(network):
        clean = _right(network, normalise, subset.images, subset.labels)
        nearly = withstands(network, normalise, subset, clean, small_radius, slopes=slopes)
        # The small ball lies inside the large one: images that fail in it are not attacked again.
        robust = withstands(network, normalise, subset, nearly, radius, slopes=slopes)
        corruption = {name: _corrupted(network, normalise, subset, name, folder) for name in CORRUPTIONS}
    return Robustness(
        {"clean_accuracy": float(clean.mean()), "pgd_accuracy": float(robust.mean()),
         "pgd_small_accuracy": float(nearly.mean()), "corruption_accuracy": float(np.mean(list(corruption.values())))},
        {**{f"corruption_accuracy.{name}": list(values) for name, values in corruption.items()},
         "pgd_radius": [radius], "pgd_small_radius": [small_radius]},
    )


def measured(dataset: Dataset) -> tuple[str, ...]:
    """The names of the metrics that `measure` returns for the dataset."""
    return tuple(name for name in MEASURED if "pgd" not in name) if is_text(dataset.image_shape) else MEASURED


def _measure_texts(network: nn.Module, dataset: Dataset) -> Robustness:
    normalise, subset = Normalise(dataset, dataset.test.labels.device), take_subset(dataset)
    tokens = subset.images.cpu().numpy()
    with _frozen(network):
        clean = _right(network, normalise, subset.images, subset.labels)
        corruption = {name: [
            float(_right(network, normalise, torch.from_numpy(corrupt(tokens, subset.positions, share)).to(
                subset.images.device), subset.labels).mean()) for share in SHARES]
            for name, corrupt in TEXT_CORRUPTIONS.items()}
    return Robustness(
        {"clean_accuracy": float(clean.mean()), "corruption_accuracy": float(np.mean(list(corruption.values())))},
        {f"corruption_accuracy.{name}": list(values) for name, values in corruption.items()})


def take_subset(dataset: Dataset) -> Subset:
    """The test images that robustness is measured on: SUBSET of them (all if there are fewer, one of each class if
    there are more classes), stratified by class with at least one of each. They are the same for every run on the
    dataset."""
    test, size = dataset.test, dataset.image_shape[0 if is_text(dataset.image_shape) else 1]
    labels = test.labels.cpu().numpy()
    wanted = min(len(labels), max(SUBSET, len(np.unique(labels))))
    positions = np.sort(stratified(labels, wanted, "robustness")[0])
    index = torch.from_numpy(positions)
    images = [center_crop(test.images.take(part), size) for part in index.split(BATCH)]
    return Subset(positions, torch.cat(images), test.labels[index.to(test.labels.device)])


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within the context, put a network into eval mode and compute no gradients of its parameters; restore both
    afterwards."""
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
               batch: int = BATCH, slopes: nn.Module | None = None) -> np.ndarray:
    """Attack those of the M images that `candidates` [M] bool selects, and return as [M] bool which of them the network
    classifies correctly at every point of the attack. Images that are not selected are False.

    The attack is projected gradient ascent within the L-infinity radius `radius`, for pixels scaled to 0..1. It ends
    for an image as soon as that is misclassified. All images take a step before any takes the next, so that batches of
    the remaining images stay full. The ascent follows the gradient of the loss of `slopes`, by default of `network`
    itself; `network` alone decides which images are classified correctly.
    """
    left = torch.from_numpy(np.flatnonzero(candidates)).to(subset.labels.device)  # [L]
    points: Iterable[Tensor] = (_start(normalise, subset, index, radius) for index in left.split(batch))
    for step in range(STEPS + 1):
        if not len(left):
            break
        parts = [_climb(network, slopes or network, normalise, subset, index, some, radius, last=step == STEPS)
                 for index, some in zip(left.split(batch), points, strict=True)]
        left, points = torch.cat([index for index, _ in parts]), torch.cat([some for _, some in parts]).split(batch)
    robust = np.zeros(len(candidates), bool)
    robust[left.cpu().numpy()] = True
    return robust


def _climb(network: nn.Module, slopes: nn.Module, normalise: Normalise, subset: Subset, index: Tensor, points: Tensor,
           radius: float, last: bool) -> tuple[Tensor, Tensor]:
    """One step of the ascent of the images at positions `index` [B] of the subset, which are now at `points`
    [B, C, H, W].

    Returns the positions of those images that the network classifies correctly at their points, and their next points,
    one step up the loss of `slopes`. With `last` there is no step, and their points are returned as they are.
    """
    labels = subset.labels[index]
    points.requires_grad_(not last)
    logits = slopes(points).logits
    judged = logits.detach() if slopes is network else network(points.detach()).logits
    right = _are_right(judged, labels)
    index = index[right]
    if last or not len(index):
        return index, points.detach()[right]
    # Summed over images, so that an image's gradient does not depend on its batch.
    loss = F.cross_entropy(logits[right], labels[right], reduction="sum")
    slope = torch.autograd.grad(loss, points)[0][right].sign()
    lowest, highest, span = _around(normalise, subset, index, radius)
    return index, torch.clamp(points.detach()[right] + radius / 4 * span * slope, lowest, highest)


def _around(normalise: Normalise, subset: Subset, index: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest and the highest values [B, C, H, W] of pixels in the balls around images of the subset, and the
    distance of black and white [1, C, 1, 1]; all are normalised."""
    low, high = normalise.bounds()
    return *ball(normalise(subset.images[index]), low, high, radius), high - low


def _start(normalise: Normalise, subset: Subset, index: Tensor, radius: float) -> Tensor:
    """The points [B, C, H, W] where the ascent of images of the subset begins: random ones in the ball around each
    image, where the noise depends on the image's position in the test split only."""
    lowest, highest, span = _around(normalise, subset, index, radius)
    noise = radius * _noise(subset.positions[index.cpu().numpy()], subset.images.shape[1:]).to(index.device)
    return torch.clamp(normalise(subset.images[index]) + noise * span, lowest, highest)


def _noise(positions: np.ndarray, shape: torch.Size) -> Tensor:
    """Uniform noise in -1..1, [B, C, H, W], where the noise of an image depends on its position [B] only."""
    noise = [random.uniform(-1, 1, tuple(shape)) for random in fixed_randoms("pgd", positions)]
    return torch.from_numpy(np.stack(noise).astype(np.float32))


def _corrupted(network: nn.Module, normalise: Normalise, subset: Subset, name: str,
               folder: Path | None) -> list[float]:
    """The accuracy on the subset with the corruption `name`, by severity."""
    changed = torch.from_numpy(corrupted(name, subset.images.cpu().numpy(), subset.positions, folder))
    return [float(_right(network, normalise, images.to(subset.images.device), subset.labels).mean())
            for images in changed]


def _right(network: nn.Module, normalise: Normalise, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which of the images [M, C, H, W] uint8 the network classifies correctly, [M] bool."""
    return np.concatenate([_hits(network, normalise(some), own) for some, own in
                           zip(images.split(CLASSIFIED), labels.split(CLASSIFIED), strict=True)])


@torch.inference_mode()
def _hits(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Which of the normalised images [B, C, H, W] the network classifies correctly, [B] bool."""
    return _are_right(network(images).logits, labels).cpu().numpy()


def _are_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the label [B] has the highest of the logits [B, K], as [B] bool. False if any logit of an image is not
    finite."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)
