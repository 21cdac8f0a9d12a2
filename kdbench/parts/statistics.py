"""BatchNorm's statistics: which ones a network normalises by, which it records, and what its layers are given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
