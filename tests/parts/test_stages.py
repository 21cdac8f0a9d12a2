import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.method import Outputs
from kdbench.networks import build
from kdbench.parts.stages import BeforeActivation, _averages, match_resolution, pair_stages, pool, projection
from kdbench.spec import Architecture


def test_stages_are_paired_from_the_deep_end():
    assert pair_stages("abcd", "yz") == [("c", "y"), ("d", "z")]
    assert pair_stages("ab", "xyz") == [("a", "y"), ("b", "z")]


def test_the_larger_map_is_averaged_to_the_smaller_in_each_direction():
    a, b = torch.arange(8.0).view(1, 1, 2, 4), torch.ones(1, 3, 1, 8)
    a_small, b_small = match_resolution(a, b)
    assert a_small.tolist() == [[[[2.0, 3.0, 4.0, 5.0]]]]
    assert b_small.shape == (1, 3, 1, 4)
    same = match_resolution(a, a)
    assert same[0] is a and same[1] is a


def test_a_projection_maps_channels_and_keeps_positions_apart():
    adapter = projection(3, 5).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(adapter(x.flip(3)), adapter(x).flip(3))
    assert adapter(x).shape == (2, 5, 4, 4)


def test_pooling_is_adaptive_averaging_at_any_size():
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    for size in ((6, 4), (3, 2), (1, 1), (4, 3), (2, 4), (6, 8)):
        torch.testing.assert_close(pool(x, size), F.adaptive_avg_pool2d(x, size))
        products = _averages(6, size[0], x) @ x @ _averages(4, size[1], x).T  # what it does on a GPU
        torch.testing.assert_close(products, F.adaptive_avg_pool2d(x, size))


NETWORKS = {
    "resnet": Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 8, "channels": [8, 12, 16]}),
    "lcnet": Architecture(model="lcnet_035"),
    "efficientnet": Architecture(model="test_efficientnet"),
    "vit": Architecture(model="test_vit", kwargs={"img_size": 32, "patch_size": 8}),
}
ENDS = {"resnet": F.relu, "lcnet": F.hardswish, "efficientnet": lambda x: x, "vit": lambda x: x}


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_before_their_activation_give_the_stages_after_it(name):
    network = build(NETWORKS[name], 5, (3, 32, 32)).eval()
    before = BeforeActivation(network, (3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    outputs, plain = before(images), network(images)
    torch.testing.assert_close(outputs.logits, plain.logits)
    torch.testing.assert_close(outputs.embedding, plain.embedding)
    for stage, after in zip(outputs.stages, plain.stages, strict=True):
        assert (stage < 0).any()
        torch.testing.assert_close(ENDS[name](stage), after)


def test_looking_before_the_activation_leaves_the_network_as_it_was_and_passes_gradients():
    network = build(NETWORKS["resnet"], 5, (3, 32, 32))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in network.modules()]
    before = BeforeActivation(network, (3, 32, 32))
    assert network.training and all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    before(torch.randn(4, 3, 32, 32)).stages[-1].clamp(max=0).sum().backward()
    assert network.model.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert hooks == [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in network.modules()]


def test_an_activation_module_that_is_called_twice_is_told_apart_by_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.activation = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

        def forward(self, images):
            shallow = self.activation(self.convolution(images))
            deep = self.activation(1 - shallow)
            return Outputs(deep.mean((2, 3)), deep.mean((2, 3)), (shallow, deep))

    network = Twice()
    images = torch.randn(2, 3, 8, 8)
    shallow, deep = BeforeActivation(network, (3, 8, 8))(images).stages
    torch.testing.assert_close(shallow, network.convolution(images))
    torch.testing.assert_close(deep, 1 - shallow.relu())


def test_a_network_knows_whether_its_embedding_is_its_pooled_last_stage():
    shapes = {name: build(architecture, 5, (3, 32, 32)).shapes for name, architecture in NETWORKS.items()}
    assert {name for name, shape in shapes.items() if shape.pooled} == {"resnet"}
