"""BatchNorm's statistics: which ones a network normalises by, which it records, and what its layers are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """While the context lasts, BatchNorm normalises by the statistics of the batch, as in training, and leaves its
    running statistics as they are. For further passes over a batch that has been recorded once."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, modes in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = modes


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """The BatchNorm layers of feature maps in a network; none in a transformer."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def with_inputs(network: nn.Module, layers: list[nn.BatchNorm2d], images: Tensor) -> tuple[Any, list[Tensor]]:
    """The network's outputs on images [B, C, H, W], and what each of the layers was given, a feature map [B, C_i, H_i,
    W_i]."""
    given: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        given[layer] = arguments[0].float()

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        outputs = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, [given[layer] for layer in layers]


def moments(maps: list[Tensor]) -> Tensor:
    """The means and the variances of the channels of feature maps [B, C_i, H_i, W_i], in rows: [2, sum of C_i]."""
    found = [torch.var_mean(x, dim=(0, 2, 3), correction=0) for x in maps]
    return torch.stack([torch.cat([mean for _, mean in found]), torch.cat([variance for variance, _ in found])])


def running_moments(layers: list[nn.BatchNorm2d]) -> Tensor:
    """The running means and variances of the layers, in rows: [2, sum of their channels]."""
    running: list[Any] = [(layer.running_mean, layer.running_var) for layer in layers]
    return torch.stack([torch.cat([mean for mean, _ in running]), torch.cat([variance for _, variance in running])])


def moment_difference(found: Tensor, wanted: Tensor, channels: list[int]) -> Tensor:
    """The L2 distances of means and of variances, [2, sum of channels] each, layer by layer, summed over the layers."""
    parts = (found - wanted).split(channels, dim=1)
    return torch.stack([part.norm(dim=1).sum() for part in parts]).sum()
