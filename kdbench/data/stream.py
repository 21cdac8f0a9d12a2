"""The batch stream: which training images come in which order with which augmentation, as a function of the seed.

Each epoch has a random stream of its own, so that a resumed run continues with the same batches and every method sees
the same batches for the same seed. Random numbers are drawn on the CPU, so that the stream is the same on every device.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.base import Dataset, Joined, Split
from kdbench.method import NO_LABEL, Batch
from kdbench.seeds import derive
from kdbench.spec import Recipe

CROP_PADDING = 1 / 8  # of the image's side; 4 pixels of 32, as in He et al. (2016) on CIFAR


class BatchStream:
    """The augmented training batches of a dataset by epoch. An epoch passes `updates` times over the training split;
    the incomplete last batch of each pass is left out.

    If `unlabelled` is above 0, it is the share of unlabelled images in a batch, which come behind the labelled ones;
    the number and size of batches stay the same. Labelled and unlabelled images are then each drawn from an endless
    sequence of random orders of all images of their kind, which goes on from pass to pass.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device, updates: int = 1,
                 unlabelled: float = 0.0):
        self.dataset, self.recipe, self.seed, self.device = dataset, recipe, seed, device
        self.images = _with_unlabelled(dataset) if unlabelled else dataset.train
        self.unlabelled = unlabelled
        self.batch_size = min(recipe.batch_size, len(dataset.train))
        self.passes, self.steps_per_pass = updates, len(dataset.train) // self.batch_size
        self.steps_per_epoch = self.passes * self.steps_per_pass
        self.normalise = Normalise(dataset, device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the `steps_per_epoch` batches of the epoch with the number `epoch`, counted from 0."""
        for number in range(epoch * self.passes, (epoch + 1) * self.passes):
            yield from self._pass(number)

    def _pass(self, number: int) -> Iterator[Batch]:
        """Yield the batches of one pass over the training split; `number` counts passes from 0 over the whole run."""
        generator = torch.Generator().manual_seed(derive(self.seed, "data", number))
        if self.unlabelled:
            order = self._mixed_order(number)
        else:
            order = torch.randperm(len(self.dataset.train), generator=generator)
        for step in range(self.steps_per_pass):
            start, end = step * self.batch_size, (step + 1) * self.batch_size
            batch = self.batch(order[start:end], generator)
            if step + 1 < self.steps_per_pass:
                self.images.images.prefetch(order[end:end + self.batch_size])
            yield batch

    def _mixed_order(self, number: int) -> Tensor:
        """The positions, in one row, of all images of a pass with unlabelled images: batch after batch, in each of
        which the labelled images come first."""
        labelled, rest = len(self.dataset.train), len(self.images) - len(self.dataset.train)
        behind = unlabelled_of(self.batch_size, self.unlabelled)
        parts = [self._drawn("labelled", labelled, number, self.batch_size - behind),
                 labelled + self._drawn("unlabelled", rest, number, behind)]
        return torch.cat(parts, dim=1).flatten()

    def _drawn(self, kind: str, size: int, number: int, each: int) -> Tensor:
        """The positions [steps, each] of the images that the pass `number` takes out of an endless sequence of random
        orders of `size` images, `each` for every batch. `kind` names the random stream."""
        start, count = number * self.steps_per_pass * each, self.steps_per_pass * each
        orders = [torch.randperm(size, generator=torch.Generator().manual_seed(derive(self.seed, "data", kind, order)))
                  for order in range(start // size, -(-(start + count) // size))]
        drawn = torch.cat([*orders, torch.empty(0, dtype=torch.int64)])[start % size:start % size + count]
        return drawn.view(self.steps_per_pass, each)

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """The training images at positions `index` [B], augmented with random numbers from `generator`."""
        index_there = index.to(self.device)
        images = self.augment(self.images.images.take(index_there), generator)
        return Batch(self.normalise(images), self.images.labels[index_there], index_there)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and flip images [B, C, H, W] uint8 as the recipe says, independently of each other. Returns
        [B, C, size, size] uint8, where `size` is the recipe's image size."""
        size = self.recipe.image_size
        for kind in self.recipe.augment:
            if kind == "crop":
                images = random_crop(images, size, generator)
            elif kind == "flip":
                images = random_flip(images, generator)
            elif kind == "random_resized_crop":
                images = random_resized_crop(images, size, generator)
        return center_crop(images, size)


def unlabelled_of(batch_size: int, share: float) -> int:
    """The number of unlabelled images in a batch: the share `share` of its images, rounded, but at least one and,
    unless `share` is 1, not all."""
    return batch_size if share == 1 else min(max(1, round(share * batch_size)), batch_size - 1)


def _with_unlabelled(dataset: Dataset) -> Split:
    """The training images, followed by the unlabelled ones with NO_LABEL as their labels."""
    assert dataset.unlabelled is not None
    labels = dataset.train.labels
    return Split(Joined(dataset.train.images, dataset.unlabelled),
                 torch.cat([labels, labels.new_full((len(dataset.unlabelled),), NO_LABEL)]))


class Normalise:
    """Converts images [B, C, H, W] uint8 to float32, subtracts the dataset's mean and divides by its standard
    deviation. The result is in channels-last memory format, which makes convolutions faster. Texts [B, T] are returned
    unchanged."""

    def __init__(self, dataset: Dataset, device: torch.device):
        self.mean = (dataset.mean * 255).view(1, -1, 1, 1).to(device)
        self.scale = (1 / (dataset.std * 255)).view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        if images.dim() == 2:
            return images
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(self.mean).mul_(self.scale)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The normalised values of black and of white pixels, each [1, C, 1, 1]; empty, [1, 0, 1, 1], for texts."""
        black = torch.zeros_like(self.mean, dtype=torch.uint8)
        return self(black), self(torch.full_like(black, 255))


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the central squares [B, C, size, size] out of images [B, C, H, W]; texts [B, T] are returned unchanged."""
    if images.dim() == 2 or images.shape[-1] == size:
        return images
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top:top + size, left:left + size]


def random_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Pad images [B, C, H, W] with black by an eighth of `size` and cut a random window out of each:
    [B, C, size, size]."""
    padding = max(1, round(size * CROP_PADDING))
    padded = F.pad(images, (padding,) * 4)
    span = padded.shape[-1] - size + 1
    top, left = torch.randint(span, (2, len(images)), generator=generator).to(images.device)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view: [B, C, span, span, size, size]
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each of the images [B, C, H, W] left to right with probability one half."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def random_resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Cut a random window out of each image [B, C, H, W] uint8 and resize it bilinearly: [B, C, size, size] uint8.

    A window has 8 to 100 % of the image's area and an aspect ratio of 3/4 to 4/3 (Szegedy et al., 2015); one that would
    be wider or higher than the image is clipped to it.
    """
    area, ratio, x, y = torch.rand(4, len(images), generator=generator).to(images.device)
    area = 0.08 + 0.92 * area
    aspect = ((3 / 4) ** (1 - ratio)) * ((4 / 3) ** ratio)
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)
    grid = F.affine_grid(theta, [len(images), images.shape[1], size, size], align_corners=False)
    sampled = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)
