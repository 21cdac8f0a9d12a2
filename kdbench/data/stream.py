"""The batch stream: which images, in which order, with which augmentation. It depends on the seed alone.

Epoch e has a random stream of its own, so a resumed run continues with the same batches, and every method of a seed
sees the same ones. Random numbers are drawn on the CPU: the stream is the same on every device.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.base import Dataset
from kdbench.method import Batch
from kdbench.seeds import derive
from kdbench.spec import Recipe

CROP_PADDING = 1 / 8  # of the image's side: 4 pixels at 32, as He et al. (2016) do on CIFAR


class BatchStream:
    """Augmented training batches of a dataset, epoch by epoch. An incomplete last batch is left out."""

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device):
        self.dataset, self.recipe, self.seed, self.device = dataset, recipe, seed, device
        self.batch_size = min(recipe.batch_size, len(dataset.train))
        self.steps_per_epoch = len(dataset.train) // self.batch_size
        self.normalise = Normalise(dataset, device)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive(self.seed, "data", epoch))
        order = torch.randperm(len(self.dataset.train), generator=generator)
        for step in range(self.steps_per_epoch):
            start, end = step * self.batch_size, (step + 1) * self.batch_size
            batch = self.batch(order[start:end], generator)
            if step + 1 < self.steps_per_epoch:
                self.dataset.train.images.prefetch(order[end:end + self.batch_size])
            yield batch

    def batch(self, index: Tensor, generator: torch.Generator) -> Batch:
        """The training images at `index` [B], augmented with numbers from `generator`."""
        index_there = index.to(self.device)
        images = self.augment(self.dataset.train.images.take(index_there), generator)
        return Batch(self.normalise(images), self.dataset.train.labels[index_there], index_there)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """[B, C, H, W] uint8 to the network's size, each sample with its own crop and flip."""
        size = self.recipe.image_size
        for kind in self.recipe.augment:
            if kind == "crop":
                images = random_crop(images, size, generator)
            elif kind == "flip":
                images = random_flip(images, generator)
            elif kind == "random_resized_crop":
                images = random_resized_crop(images, size, generator)
        return images if images.shape[-1] == size else center_crop(images, size)


class Normalise:
    """8-bit images to float32 with the dataset's mean and deviation, in the memory format that convolutions like."""

    def __init__(self, dataset: Dataset, device: torch.device):
        self.mean = (dataset.mean * 255).view(1, -1, 1, 1).to(device)
        self.scale = (1 / (dataset.std * 255)).view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(self.mean).mul_(self.scale)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """What black and white pixels become, each [1, C, 1, 1]."""
        black = torch.zeros_like(self.mean, dtype=torch.uint8)
        return self(black), self(torch.full_like(black, 255))


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle [B, C, size, size] of larger images."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top:top + size, left:left + size]


def random_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side, with black where it leaves the frame: [B, C, size, size]."""
    padding = max(1, round(size * CROP_PADDING))
    padded = F.pad(images, (padding,) * 4)
    span = padded.shape[-1] - size + 1
    top, left = torch.randint(span, (2, len(images)), generator=generator).to(images.device)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # a view: [B, C, span, span, size, size]
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def random_resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A window of 8 to 100 % of each image's area and aspect ratio 3/4 to 4/3, resized bilinearly to `size`
    (Szegedy et al., 2015); windows that would leave the image are clipped to it."""
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
