"""Tools that make the stages of two networks comparable: pair them, match their resolutions and channels, and take them
before their last activation."""

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
    """Pairs of the student's and the teacher's stages (or of their shapes), from shallow to deep.

    If one network has more stages, its shallowest are left out: the last stages of two networks play the same part,
    whatever lies before them.
    """
    count = min(len(student), len(teacher))
    return list(zip(student[-count:], teacher[-count:], strict=True))


def match_resolution(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two feature maps [B, C, H, W] at the same resolution: for height and for width, the larger map is average-pooled
    to the size of the smaller."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return pool(a, size), pool(b, size)


def pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A feature map [B, C, H, W] average-pooled to `size` (height, width), with adaptive pooling if `size` does not
    divide H and W."""
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    if x.is_cuda:  # there, torch's adaptive pooling has no deterministic gradient
        return _averages(height, size[0], x) @ x @ _averages(width, size[1], x).T
    return F.adaptive_avg_pool2d(x, size)


def _averages(length: int, parts: int, like: Tensor) -> Tensor:
    """The matrix [parts, length] of adaptive average pooling along one axis: row i is the mean over the positions p
    with floor(i length / parts) <= p < ceil((i + 1) length / parts). A tensor of the type and device of `like`."""
    place, part = torch.arange(length), torch.arange(parts)[:, None]
    inside = (place >= part * length // parts) & (place < -(-(part + 1) * length // parts))
    return (inside / inside.sum(1, keepdim=True)).to(like)


def projection(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1x1 convolution and BatchNorm that map [B, channels_in, H, W] to [B, channels_out, H, W]."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))


class BeforeActivation:
    """Maps images [B, C, H, W] to a network's `Outputs`, with each stage as it is before the activation that ends it
    (in a ResNet, before the `relu` of `relu(x + shortcut)`).

    A stage that no activation module ends (a linear bottleneck, a transformer's block) is left as it is. This class is
    not an nn.Module, so that a method that keeps one for its teacher does not own the teacher's parameters.
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
    """For each stage, the activation module whose output it is, and which of the module's calls in one forward pass
    gives it, counted from 0; None for a stage that is no activation's output."""
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
    """For each pair of stages, given the stages' shapes, a module that maps the student's stage to the teacher's width:
    a `projection`, or an identity if the widths are equal."""
    return nn.ModuleList(nn.Identity() if s[0] == t[0] else projection(s[0], t[0])
                         for s, t in pair_stages(student, teacher))
