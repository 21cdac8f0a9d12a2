"""What adversarial and data-free methods share: an image generator, a bounded attack, a real-or-fake loss."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """Latent vectors [B, D] to images [B, C, H, W], in the style of DCGAN with upsampling in place of transposed
    convolutions (Odena et al., 2016), as ZSKT and DFAD use it.

    The last BatchNorm gives every channel mean 0 and deviation 1, which is what normalised images have; a generator
    knows no more of the data than that. Images up to 32 pixels start at a quarter of their size, larger ones at 8.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], width: int = 64):
        super().__init__()
        channels, height, widthwise = image_shape
        doublings = max(2, math.ceil(math.log2(min(height, widthwise) / 8)))
        self.latent_dim = latent_dim
        self.sizes = [_shrink((height, widthwise), 2**k) for k in range(doublings, -1, -1)]  # small to large
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
        """`count` random latent vectors."""
        return torch.randn(count, self.latent_dim, device=self.project.weight.device)

    def sample(self, count: int) -> Tensor:
        """`count` images of random latent vectors."""
        return self(self.latent(count))


def _shrink(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return math.ceil(size[0] / factor), math.ceil(size[1] / factor)


def _block(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2, inplace=True),
    )


def anneal(optimizer: torch.optim.Optimizer, rate: float, progress: float) -> None:
    """Set the optimizer's rate to what is left of `rate` on half a cosine, after a share `progress` of the run."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 + math.cos(math.pi * progress)) / 2
