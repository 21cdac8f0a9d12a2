"""BatchNorm's statistics: which ones a network normalises by, and which it records."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
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
