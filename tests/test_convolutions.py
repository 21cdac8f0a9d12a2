"""Convolutions that are computed in other ways than oneDNN's on a processor with AVX2, against torch's own."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.convolutions import mend
from kdbench.networks import build
from kdbench.spec import Architecture


@pytest.fixture(autouse=True)
def avx2(monkeypatch):
    """As on a processor with AVX2 and not AVX-512, whatever runs the test."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def mended(*arguments, **options):
    convolution = nn.Conv2d(*arguments, **options).to(memory_format=torch.channels_last)
    mend(convolution)
    return convolution


def trained(function, convolution, images):
    """The maps, and the gradients of images and parameters, for given gradients of the maps."""
    images = images.clone().requires_grad_()
    maps = function(images)
    given = torch.linspace(-1, 1, maps.numel()).view(maps.shape)
    return [maps, *torch.autograd.grad(maps, [images, *convolution.parameters()], given)]


# kernel, stride, padding, height and width of the map
SMALL = {
    "one position": (5, 1, 2, (1, 1)), "two by two": (5, 1, 2, (2, 2)), "with a stride": (5, 2, 2, (2, 2)),
    "four by four": (5, 1, 2, (4, 4)), "stride on three": (7, 2, 3, (3, 3)), "not square": (5, (1, 2), (2, 1), (3, 4)),
    "kernel not square": ((3, 7), 1, (1, 3), (2, 5)), "without padding beyond": (4, 1, 1, (3, 3)),
    "more padding": (3, 1, 2, (2, 1)), "maps that grow": (5, 1, 4, (4, 3)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_a_depthwise_convolution_trained_on_a_small_map_gives_the_maps_and_gradients_of_torchs(name, bias, monkeypatch):
    torch.manual_seed(0)
    kernel, stride, padding, size = SMALL[name]
    convolution = mended(6, 6, kernel, stride, padding, groups=6, bias=bias)
    images = torch.randn(3, 6, *size).to(memory_format=torch.channels_last)
    expected = trained(lambda x: nn.Conv2d.forward(convolution, x), convolution, images)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", None)  # torch's own code is not called
    found = trained(convolution, convolution, images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "groups", "kernel", "size"), [
    (6, 6, 3, 3), (6, 6, 7, 5), (6, 3, 5, 2), (6, 1, 5, 2), (1, 1, 5, 2)])
def test_other_convolutions_and_larger_maps_are_torchs_own(channels, groups, kernel, size, monkeypatch):
    convolution = mended(channels, channels, kernel, padding=kernel // 2, groups=groups)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, *_: self)
    assert convolution(torch.randn(2, channels, size, size)) is convolution


@pytest.mark.parametrize("options", [{"dilation": 2, "padding": 4}, {"padding": 2, "padding_mode": "replicate"},
                                     {"padding": "same"}])
def test_depthwise_convolutions_of_further_kinds_give_what_torchs_give(options):
    convolution = mended(6, 6, 5, groups=6, **options)
    images = torch.randn(2, 6, 2, 2)
    assert torch.equal(convolution(images), nn.Conv2d.forward(convolution, images))


def test_what_is_not_trained_on_the_cpu_in_float32_is_computed_by_torch(monkeypatch):
    convolution = mended(6, 6, 5, padding=2, groups=6)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, *_: self)
    images = torch.randn(2, 6, 2, 2)
    assert convolution(images) is not convolution
    with torch.no_grad():
        assert convolution(images) is convolution
    assert convolution(images.bfloat16()) is convolution
    assert convolution(images.to("meta")) is convolution  # as on a GPU
    convolution.requires_grad_(False)
    assert convolution(images) is convolution


def test_a_strided_convolution_that_pruning_makes_narrow_takes_its_steps_before_it_from_then_on(monkeypatch):
    convolution, seen = mended(16, 8, 1, stride=2, bias=False), []
    real = nn.Conv2d._conv_forward
    monkeypatch.setattr(nn.Conv2d, "_conv_forward",
                        lambda self, images, *rest: seen.append((images.shape[2], self.stride)) or real(
                            self, images, *rest))
    convolution(torch.randn(2, 16, 8, 8))
    convolution.weight, convolution.in_channels = nn.Parameter(convolution.weight[:, :4].detach().clone()), 4
    images = torch.randn(2, 4, 8, 8)
    maps = convolution(images)
    with torch.no_grad():
        torch.testing.assert_close(convolution(images), maps)
    assert seen == [(8, (2, 2)), (4, (1, 1)), (8, (2, 2))]


def test_a_copy_has_weights_of_its_own():
    convolution = mended(6, 6, 5, padding=2, groups=6)
    other = copy.deepcopy(convolution)
    with torch.no_grad():
        other.weight.zero_()
    images = torch.randn(2, 6, 2, 2)
    other(images).sum().backward()
    assert convolution.weight.grad is None and other.weight.grad is not None
    assert convolution(images).abs().sum() > 0 and list(other.state_dict()) == ["weight", "bias"]


def test_an_lcnet_has_the_same_gradients_as_with_torchs_convolutions(monkeypatch):
    def gradients():
        torch.manual_seed(0)
        network = build(Architecture(model="lcnet_035"), 10, (3, 28, 28))
        images = torch.randn(16, 3, 28, 28).to(memory_format=torch.channels_last)
        F.cross_entropy(network(images).logits, torch.arange(16) % 10).backward()
        changed = sum("forward" in vars(module) for module in network.modules())
        return changed, [parameter.grad for parameter in network.parameters()]

    changed, found = gradients()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    kept, expected = gradients()
    assert changed > 10 and kept == 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


GRADIENTS = """
import timm, torch, torch.nn.functional as F
from kdbench.networks import Network, build
from kdbench.spec import Architecture
torch.set_num_threads(1)
for width, own in ((2, False), (4, False), (4, True), (8, False)):
    torch.manual_seed(0)
    shape = {"blocks": 1, "stem": width, "channels": [width, 8, 16], "stride": 2}
    network = Network(timm.create_model("resnet_cifar", num_classes=7, **shape), (3, 32, 32), num_classes=7) if own \
        else build(Architecture(model="resnet_cifar", kwargs=shape), 7, (3, 32, 32))
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    found = []
    for enabled in (True, False):
        with torch.backends.mkldnn.flags(enabled=enabled):
            network.zero_grad()
            F.cross_entropy(network(images).logits, torch.arange(16) % 7).backward()
        found.append([p.grad.clone() for p in network.parameters()])
    print(all(torch.allclose(*pair, rtol=1e-3, atol=1e-5) for pair in zip(*found)))
"""


def test_gradients_of_narrow_networks_are_right_by_the_code_for_avx2_too():
    """Without `mend`, gradients are wrong there, or the process dies."""
    done = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True, check=False,
                          env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"})
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 4), done.stderr[-500:]
