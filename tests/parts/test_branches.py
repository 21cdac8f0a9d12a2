import pytest
import torch

from kdbench.errors import UserError
from kdbench.networks import Network, build
from kdbench.parts.branches import LastStage, tapped
from kdbench.spec import Architecture

SHAPE = (3, 32, 32)
ARCHITECTURES = [
    Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 8, "channels": [8, 12, 16], "stride": 2}),
    Architecture(model="test_efficientnet"),
    Architecture(model="test_vit", kwargs={"img_size": 32, "patch_size": 8}),
    Architecture(model="test_convnext"),
]


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda architecture: architecture.model)
def network(request) -> Network:
    torch.manual_seed(0)
    return build(request.param, 5, SHAPE)


def test_lower_stages_and_last_stage_together_are_the_whole(network):
    last = LastStage(network, SHAPE)
    images = torch.randn(4, *SHAPE)
    torch.testing.assert_close(last(tapped(network, images)[1]), network(images).logits)


def test_a_last_stage_holds_no_layer_that_lies_before_it(network):
    last, images = LastStage(network, SHAPE), torch.randn(4, *SHAPE)
    features = tapped(network, images)[1].detach()
    last(features).sum().backward()
    assert all(parameter.grad is not None for parameter in last.parameters())
    own, whole = (sum(p.numel() for p in module.parameters()) for module in (last, network))
    assert own < whole


def test_another_networks_last_stage_fits_and_gives_its_own_answer():
    network, other = (build(ARCHITECTURES[0], 5, SHAPE) for _ in range(2))
    images = torch.randn(4, *SHAPE)
    outputs, features = tapped(network, images)
    logits = LastStage(other, SHAPE)(features)
    assert logits.shape == outputs.logits.shape
    assert not torch.allclose(logits, outputs.logits)


def test_tapping_leaves_nothing_behind(network):
    images = torch.randn(2, *SHAPE)
    outputs, _ = tapped(network, images)
    assert not any(module._forward_hooks for module in network.modules())
    torch.testing.assert_close(outputs.logits, network(images).logits)


def test_a_network_whose_parts_do_not_give_the_whole_is_refused(monkeypatch):
    network = build(ARCHITECTURES[0], 5, SHAPE)
    monkeypatch.setattr(Network, "before_last_stage", "layer1.0.bn1")  # inside a residual block
    with pytest.raises(UserError, match="ResNet: its last stage cannot be split off"):
        LastStage(network, SHAPE)


def test_a_last_stage_computes_in_its_networks_precision():
    network = build(ARCHITECTURES[0], 5, SHAPE, precision="bfloat16")
    last, images = LastStage(network, SHAPE), torch.randn(4, *SHAPE)
    outputs, features = tapped(network, images)
    logits = last(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, outputs.logits)
    with torch.no_grad():
        full = last.layers(features.float())
    assert not torch.equal(logits, full)
