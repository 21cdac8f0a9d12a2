"""What training a depthwise convolution on a small map costs, by torch's own code and as `mend` computes it on a
processor with AVX2 and not AVX-512: 64 maps of 88 channels and 2 x 2 positions, as in an LCNet on images of 28 pixels.

    pytest --benchmark-only tests/benchmarks/test_convolutions.py
"""

import pytest
import torch
from torch import nn

from kdbench.convolutions import mend


@pytest.mark.parametrize("mended", [False, True], ids=["torch", "mended"])
def test_forward_and_backward(benchmark, mended):
    convolution = nn.Conv2d(88, 88, 5, padding=2, groups=88, bias=False).to(memory_format=torch.channels_last)
    if mended:
        mend(convolution)
    maps = torch.randn(64, 88, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    benchmark.pedantic(lambda: convolution(maps).sum().backward(), rounds=100, warmup_rounds=5)
