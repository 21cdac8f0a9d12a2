"""Replacements for convolutions that oneDNN (3.12, in torch 2.14) computes wrongly, or many times too slowly, on
processors with AVX2 but not AVX-512. They are used only while the convolutions are trained."""

from functools import partial
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_CHANNELS = 8  # input channels from which on the backward pass of a strided 1x1 convolution is right
MOST_POSITIONS = 16  # of the largest map on which a depthwise convolution is computed as a matrix product: 4 x 4


def mend(network: nn.Module) -> None:
    """Make two kinds of a network's convolutions compute in another way while they are trained, on processors with AVX2
    but not AVX-512; on others, do nothing. The results are the same up to rounding; weights, their names and evaluation
    stay as they are.

    1x1 convolutions with a stride and fewer than 8 input channels: in their backward pass oneDNN writes past the end of
    its memory (uxlfoundation/oneDNN issue 6035), so that the process dies or gradients are wrong.

    Depthwise convolutions on maps smaller than their kernel, which are frequent in networks for large images when these
    run on images of 28 or 32 pixels: oneDNN has only its reference implementation for them. On a batch of 64 maps with
    88 channels and 2 x 2 positions and a 5 x 5 kernel, forward and backward together take oneDNN 4 ms and the matrix
    product less than 0.5 ms (tests/benchmarks/test_convolutions.py, on an AMD EPYC).
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return
    for module in network.modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if (set(module.kernel_size) == {1} and set(module.stride) != {1} and module.padding in ((0, 0), "valid")
                and module.groups == 1):  # whatever its channels: pruning may remove some later
            module.register_forward_pre_hook(partial(_step_before, module.stride))
        elif (type(module) is nn.Conv2d and module.groups == module.in_channels == module.out_channels > 1
              and module.dilation == (1, 1) and module.padding_mode == "zeros" and isinstance(module.padding, tuple)):
            module.forward = MethodType(_depthwise, module)  # type: ignore[method-assign]  # a deep copy binds its own


def _is_trained(convolution: nn.Conv2d) -> bool:
    return torch.is_grad_enabled() and convolution.weight.requires_grad


def _step_before(stride: tuple[int, ...], convolution: nn.Conv2d, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
    """Forward pre-hook of a 1x1 convolution whose stride is `stride`: if the convolution is trained and has fewer than
    `FEWEST_CHANNELS` input channels, subsample its input [B, C, H, W] instead and set its stride to 1. None, which
    leaves the input as it is, in all other cases."""
    if not _is_trained(convolution) or convolution.in_channels >= FEWEST_CHANNELS:
        convolution.stride = stride
        return None
    convolution.stride = (1, 1)
    return (arguments[0][:, :, ::stride[0], ::stride[1]],)


def _depthwise(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """The forward pass of a depthwise convolution on images [B, C, H, W]. If its weights are trained and the map is
    small, each channel's output is the product of the map's positions with a matrix; else torch's own convolution is
    used."""
    height, width = images.shape[-2:]
    small = (height < convolution.kernel_size[0] and width < convolution.kernel_size[1]
             and height * width <= MOST_POSITIONS)
    if not (small and _is_trained(convolution) and images.is_cpu and images.dtype == convolution.weight.dtype):
        return nn.Conv2d.forward(convolution, images)
    matrix = _positions_by_outputs(convolution, height, width)
    maps = (images.permute(0, 2, 3, 1)[:, :, :, None, None] * matrix).sum((1, 2))  # channels last, as networks are
    return (maps if convolution.bias is None else maps + convolution.bias).permute(0, 3, 1, 2)


def _positions_by_outputs(convolution: nn.Conv2d, height: int, width: int) -> Tensor:
    """The weight with which each position of a map [H, W] contributes to each position of the output [H', W'], by
    channel: [H, W, H', W', C]."""
    assert not isinstance(convolution.padding, str)
    rows, columns = map(_taps, (height, width), convolution.kernel_size, convolution.stride, convolution.padding)
    taps = F.pad(convolution.weight[:, 0], (0, 1, 0, 1)).permute(1, 2, 0)  # [K + 1, K + 1, C], the last ones 0
    return taps[rows[:, None, :, None], columns[None, :, None, :]]


def _taps(size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """The index of the kernel tap that lies on each position of one axis when each output is computed, [positions,
    outputs]; `kernel`, one past the last tap, where no tap does."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    tap = torch.arange(size)[:, None] - stride * torch.arange(outputs) + padding
    return tap.where((tap >= 0) & (tap < kernel), kernel)
