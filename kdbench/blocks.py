"""Parts that several methods build on: the pairing of stages, and adapters between networks of different sizes."""

from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")


def pair_stages(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Stages (or their shapes) of student and teacher, shallow to deep. Where one network has more, its shallowest are
    left out: the deep ends say the same thing, whatever lies before them."""
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def match_resolution(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W], the larger one average-pooled to the smaller in each direction."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _pool(a, size), _pool(b, size)


def _pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def projection(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1x1 convolution and BatchNorm: from one network's channels to the other's, at any resolution."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))
