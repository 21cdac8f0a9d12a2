"""Convolutions that oneDNN (3.12, of torch 2.14) computes wrongly, or many times too slowly, on a processor with AVX2
and not AVX-512, computed in other ways while they are trained."""

from functools import partial
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_CHANNELS = 8  # of the input of a 1x1 convolution with a stride, for its backward pass to be right
MOST_POSITIONS = 16  # of a map on which a depthwise convolution is a product with a matrix: 4 x 4


def mend(network: nn.Module) -> None:
    """Let a network's convolutions of two kinds be computed in other ways where they are trained on such a processor.
    The results are the same up to rounding; weights, their names and what evaluation computes stay as they are.

    1x1 convolutions with a stride and fewer than 8 input channels: in their backward pass oneDNN writes past the end of
    its memory (uxlfoundation/oneDNN issue 6035), so that the process dies or gradients are wrong.

    Depthwise convolutions on maps smaller than their kernel, as networks for large images have many on images of 28 or
    32 pixels: for these oneDNN has its reference implementation alone. A batch of 64 maps of 88 channels and 2 x 2
    positions takes it 4 ms, forward and backward, with a kernel of 5 x 5, and the product with a matrix below 0.5
    (tests/benchmarks/test_convolutions.py, on an AMD EPYC).
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if (set(module.kernel_size) == {1} and set(module.stride) != {1} and module.padding in ((0, 0), "valid")
                and module.groups == 1):  # whatever its channels: pruning leaves fewer
            module.register_forward_pre_hook(partial(_step_before, module.stride))
        elif (type(module) is nn.Conv2d and module.groups == module.in_channels == module.out_channels > 1
              and module.dilation == (1, 1) and module.padding_mode == "zeros" and isinstance(module.padding, tuple)):
            module.forward = MethodType(_depthwise, module)  # type: ignore[method-assign]  # copies get one of theirs


def _is_trained(convolution: nn.Conv2d) -> bool:
    return torch.is_grad_enabled() and convolution.weight.requires_grad


def _step_before(stride: tuple[int, ...], convolution: nn.Conv2d, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
    """Take the steps of a 1x1 convolution with that stride before it, where its weights are trained."""
    if not _is_trained(convolution) or convolution.in_channels >= FEWEST_CHANNELS:
        convolution.stride = stride
        return None
    convolution.stride = (1, 1)
    return (arguments[0][:, :, ::stride[0], ::stride[1]],)


def _depthwise(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """The forward of a depthwise convolution, images [B, C, H, W]: in each channel, where its weights are trained and
    the map is small, the product of the map's positions with a matrix."""
    height, width = images.shape[-2:]
    small = (height < convolution.kernel_size[0] and width < convolution.kernel_size[1]
             and height * width <= MOST_POSITIONS)
    if not (small and _is_trained(convolution) and images.is_cpu and images.dtype == convolution.weight.dtype):
        return nn.Conv2d.forward(convolution, images)
    matrix = _positions_by_outputs(convolution, height, width)
    maps = (images.permute(0, 2, 3, 1)[:, :, :, None, None] * matrix).sum((1, 2))  # channels last, as networks are
    return (maps if convolution.bias is None else maps + convolution.bias).permute(0, 3, 1, 2)


def _positions_by_outputs(convolution: nn.Conv2d, height: int, width: int) -> Tensor:
    """The weight by which each position of a map goes into each position of the output, [H, W, H', W', C]."""
    assert not isinstance(convolution.padding, str)
    rows, columns = map(_taps, (height, width), convolution.kernel_size, convolution.stride, convolution.padding)
    taps = F.pad(convolution.weight[:, 0], (0, 1, 0, 1)).permute(1, 2, 0)  # [K + 1, K + 1, C], the last ones 0
    return taps[rows[:, None, :, None], columns[None, :, None, :]]


def _taps(size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Which of a kernel's taps lies on each position when it makes each output, [positions, outputs]; `kernel`, one
    more than the last, where none does."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    tap = torch.arange(size)[:, None] - stride * torch.arange(outputs) + padding
    return tap.where((tap >= 0) & (tap < kernel), kernel)
