"""The image generator of data-free methods, and the schedule of its learning rate."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """Maps latent vectors [B, latent_dim] to images [B, C, H, W]: a DCGAN with upsampling in place of transposed
    convolutions (Odena et al., 2016), as in DAFL, ZSKT and DFAD. `width` is the number of channels of the last hidden
    layer, 64 in their code; the cost grows with its square. Two of their generators differ from this one: that of DAFL
    has an epsilon of 0.8 in the BatchNorm of its blocks, and that of ZSKT has no tanh and an affine last BatchNorm.

    The last BatchNorm gives each channel of a batch mean 0 and standard deviation 1, as normalised images have; no more
    is known of the data. The first feature map has a quarter of the image's height and width; for images of more than
    32 pixels these are halved further until the shorter side has at most 8.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], width: int = 64):
        super().__init__()
        channels, size = image_shape[0], image_shape[1:]
        doublings = max(2, math.ceil(math.log2(min(size) / 8)))
        self.latent_dim = latent_dim
        self.sizes = [_shrink(size, 2**k) for k in range(doublings, -1, -1)]  # of feature maps (H, W), small to large
        self.project = nn.Linear(latent_dim, 2 * width * self.sizes[0][0] * self.sizes[0][1])
        self.start = nn.BatchNorm2d(2 * width)
        widths = [2 * width] * doublings + [width]
        self.blocks = nn.ModuleList(_block(a, b) for a, b in pairwise(widths))
        self.end = nn.Sequential(
            nn.Conv2d(width, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, affine=False)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, latent: Tensor) -> Tensor:
        maps = self.project(latent).unflatten(1, (-1, *self.sizes[0])).contiguous(memory_format=torch.channels_last)
        maps = self.start(maps)
        for size, block in zip(self.sizes[1:], self.blocks, strict=True):
            maps = block(F.interpolate(maps, size))
        return self.end(maps)

    def latent(self, count: int) -> Tensor:
        """Standard normal latent vectors [count, latent_dim]."""
        return torch.randn(count, self.latent_dim, device=self.project.weight.device)

    def sample(self, count: int) -> Tensor:
        """Images [count, C, H, W], generated from random latent vectors."""
        return self(self.latent(count))


def _shrink(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width divided by `factor`, rounded up."""
    return math.ceil(size[0] / factor), math.ceil(size[1] / factor)


def _block(in_channels: int, out_channels: int) -> nn.Module:
    """A 3x3 convolution that keeps the resolution, followed by BatchNorm and LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2, inplace=True),
    )


def anneal(optimizer: torch.optim.Optimizer, rate: float, progress: float) -> None:
    """Set the optimizer's learning rate to that of a cosine schedule, which falls from `rate` at the run's start
    (`progress` 0) to 0 at its end (`progress` 1)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * progress)) / 2
