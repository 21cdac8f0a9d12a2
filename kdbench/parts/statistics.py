"""Tools for the statistics of BatchNorm: choose those that a network normalises by, read those that it recorded, and
measure those of its layers' inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """While the context lasts, the network's BatchNorm layers normalise by the statistics of the batch, as in training,
    but leave their running statistics as they are. For further passes over a batch that has been recorded once."""
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
    """The BatchNorm2d layers of a network, which normalise feature maps; empty for a transformer."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def with_inputs(network: nn.Module, layers: list[nn.BatchNorm2d], images: Tensor) -> tuple[Any, list[Tensor]]:
    """The network's outputs on images [B, C, H, W], and the input of each of `layers` during that pass, a feature map
    [B, C_i, H_i, W_i] in float32."""
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
    """The mean (row 0) and the variance (row 1) of each channel of feature maps [B, C_i, H_i, W_i]: [2, sum of C_i]."""
    found = [torch.var_mean(x, dim=(0, 2, 3), correction=0) for x in maps]
    return torch.stack([torch.cat([mean for _, mean in found]), torch.cat([variance for variance, _ in found])])


def running_moments(layers: list[nn.BatchNorm2d]) -> Tensor:
    """The running mean (row 0) and variance (row 1) of each channel of the layers: [2, sum of their channels]."""
    running: list[Any] = [(layer.running_mean, layer.running_var) for layer in layers]
    return torch.stack([torch.cat([mean for mean, _ in running]), torch.cat([variance for _, variance in running])])


def moment_difference(found: Tensor, wanted: Tensor, channels: list[int]) -> Tensor:
    """The sum, over layers, of the L2 distance of their means and that of their variances, a scalar. `found` and
    `wanted` are [2, sum of channels], as `moments` returns; `channels` are the channels of each layer."""
    parts = (found - wanted).split(channels, dim=1)
    return torch.stack([part.norm(dim=1).sum() for part in parts]).sum()
