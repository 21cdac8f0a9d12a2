"""Stages of two networks made comparable: which are paired, at which resolution, with which channels, and taken before
their last activation."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.method import Outputs
from kdbench.networks import dummy_inputs

T = TypeVar("T")


def pair_stages(student: Sequence[T], teacher: Sequence[T]) -> list[tuple[T, T]]:
    """Pairs of the student's and the teacher's stages (or of their shapes), shallow to deep.

    Where one network has more stages, its shallowest are left out: the last stages of two networks play the same part,
    whatever lies before them.
    """
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def match_resolution(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two feature maps [B, C, H, W], in each direction the larger average-pooled to the smaller."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return pool(a, size), pool(b, size)


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A feature map [B, C, H, W] average-pooled to `size` (height, width), adaptively if it does not divide H and W."""
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    if x.is_cuda:  # torch's adaptive pooling has no deterministic gradient there
        return _averages(height, size[0], x) @ x @ _averages(width, size[1], x).T
    return F.adaptive_avg_pool2d(x, size)


def _averages(length: int, parts: int, like: Tensor) -> Tensor:
    """The matrix [parts, length] of which row i takes the mean from place floor(i length / parts) to place
    ceil((i + 1) length / parts), as adaptive pooling does; a tensor of the type and device of `like`."""
    place, part = torch.arange(length), torch.arange(parts)[:, None]
    inside = (place >= part * length // parts) & (place < -(-(part + 1) * length // parts))
    return (inside / inside.sum(1, keepdim=True)).to(like)


def projection(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1x1 convolution and BatchNorm that map [B, channels_in, H, W] to [B, channels_out, H, W]."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))


class BeforeActivation:
    """Maps images [B, C, H, W] to a network's `Outputs`, with each stage as it is before the activation that ends it
    (in a ResNet, before the `relu` of `relu(x + shortcut)`).

    A stage that no activation module ends (a linear bottleneck, a transformer's block) is left as it is. This is not an
    nn.Module, so a method that keeps one of its teacher does not own the teacher's parameters.
    """

    def __init__(self, network: nn.Module, image_shape: tuple[int, ...]):
        self.network = network
        self._ends = _ends(network, image_shape)

    def __call__(self, images: Tensor) -> Outputs:
        inputs: dict[nn.Module, list[Tensor]] = defaultdict(list)

        def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[module].append(arguments[0].clone())  # an in-place activation overwrites it

        handles = [module.register_forward_pre_hook(keep) for module in {end[0] for end in self._ends if end}]
        try:
            outputs = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        stages = tuple(
            inputs[end[0]][end[1]].to(stage.dtype) if end else stage
            for end, stage in zip(self._ends, outputs.stages, strict=True)
        )
        return outputs._replace(stages=stages)


@torch.no_grad()
def _ends(network: nn.Module, image_shape: tuple[int, ...]) -> list[tuple[nn.Module, int] | None]:
    """For each stage the activation module whose output it is, and which of that module's calls in one forward, from 0;
    None for a stage that is no activation's output."""
    calls: list[tuple[nn.Module, int, Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, sum(module is other for other, _, _ in calls), output))

    handles = [module.register_forward_hook(note) for module in network.modules() if _is_activation(module)]
    was_training = network.training
    device = next(network.parameters()).device
    stages = network.eval()(dummy_inputs(2, image_shape, device)).stages
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return [next(((m, n) for m, n, y in calls if torch.equal(y.to(stage.dtype), stage)), None) for stage in stages]


def _is_activation(module: nn.Module) -> bool:
    """Whether the module is an activation function of torch or timm."""
    where = type(module).__module__
    named_so = where == "torch.nn.modules.activation" or where.startswith("timm.layers.activations")
    return named_so and not isinstance(module, nn.MultiheadAttention)


def width_adapters(student: Sequence[tuple[int, int, int]], teacher: Sequence[tuple[int, int, int]]) -> nn.ModuleList:
    """For each pair of stages, by their shapes, what takes the student's to the teacher's width: a `projection`, or
    nothing where the widths are the same."""
    return nn.ModuleList(nn.Identity() if s[0] == t[0] else projection(s[0], t[0])
                         for s, t in pair_stages(student, teacher))
