import hashlib
import time

import pytest
import torch
from safetensors.torch import load, save_file

from kdbench import networks
from kdbench.errors import UserError
from kdbench.networks import build, freeze, load_teacher, serialise, weights_sha256
from kdbench.spec import Architecture, FileTeacher, HubTeacher
from kdbench.suites.suite import built_in_pairs

SMALL = Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 4, "channels": [4, 8, 16], "stride": 2})
SHAPE = (3, 32, 32)


@pytest.mark.parametrize(("blocks", "stem", "channels", "parameters"), [
    (3, 16, (16, 32, 64), 278_324),        # resnet20, as RepDistiller counts it with 100 classes
    (9, 16, (16, 32, 64), 861_620),        # resnet56
    (1, 32, (64, 128, 256), 1_233_540),    # resnet8x4
    (5, 32, (64, 128, 256), 7_433_860),    # resnet32x4
])
def test_the_cifar_resnets_have_the_published_number_of_parameters(blocks, stem, channels, parameters):
    network = build(Architecture(model="resnet_cifar", kwargs={
        "blocks": blocks, "stem": stem, "channels": channels}), 100, SHAPE)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.shapes.stages == tuple((c, s, s) for c, s in zip(channels, (32, 16, 8), strict=True))
    assert network.shapes.embedding == channels[-1]


ARCHITECTURES = {
    "resnet18": (Architecture(model="resnet18"), 4),
    "test_resnet": (Architecture(model="test_resnet"), 4),
    "lcnet_035": (Architecture(model="lcnet_035"), 4),
    "test_efficientnet": (Architecture(model="test_efficientnet"), 4),
    "test_convnext": (Architecture(model="test_convnext"), 4),
    "vit": (Architecture(model="test_vit", kwargs={"img_size": 32, "patch_size": 8}), 4),
    "small": (SMALL, 3),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_are_the_models_own_and_stages_deepen(name):
    architecture, stages = ARCHITECTURES[name]
    network = build(architecture, 7, SHAPE).eval()
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        outputs, whole = network(images), network.model(images)
        torch.testing.assert_close(outputs.logits, whole)
        torch.testing.assert_close(network.classifier(outputs.embedding), whole)
    assert tuple(outputs.embedding.shape) == (2, network.shapes.embedding)
    assert tuple(tuple(s.shape[1:]) for s in outputs.stages) == network.shapes.stages
    assert len(outputs.stages) == stages
    heights = [shape[1] for shape in network.shapes.stages]
    assert heights == sorted(heights, reverse=True)


def test_gradients_reach_every_parameter_through_logits_and_stages():
    network = build(SMALL, 7, SHAPE)
    outputs = network(torch.randn(4, *SHAPE))
    (outputs.logits.sum() + sum(stage.square().sum() for stage in outputs.stages)).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_measuring_a_network_leaves_its_batchnorm_statistics_alone():
    network = build(SMALL, 7, SHAPE)
    assert network.training
    assert torch.equal(network.model.bn1.running_mean, torch.zeros(4))


@pytest.mark.parametrize("name", [n for n, pair in built_in_pairs().items() if "deit" not in n and "34" not in n])
def test_the_named_pairs_for_small_images_can_be_built(name):
    pair = built_in_pairs()[name]
    shape = (pair.image_size, pair.words) if pair.words else (3, pair.image_size, pair.image_size)
    for side in (pair.teacher.architecture, pair.student):
        assert build(side, 10, shape).shapes.stages


def test_one_seed_gives_one_network():
    def network(seed):
        torch.manual_seed(seed)
        return weights_sha256(build(SMALL, 7, SHAPE).state_dict())

    assert network(1) == network(1) != network(2)


def test_weights_are_hashed_as_the_file_that_holds_them():
    state = build(SMALL, 7, SHAPE).state_dict()
    assert weights_sha256(state) == hashlib.sha256(serialise(state)).hexdigest()
    back = load(serialise(state))
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    name = next(iter(state))
    changed = {**state, name: state[name] + torch.finfo(torch.float32).eps}
    assert weights_sha256(changed) != weights_sha256(state)


def test_a_frozen_teacher_takes_no_gradients_and_stays_in_eval_mode():
    teacher = freeze(build(SMALL, 7, SHAPE))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_bfloat16_computes_close_to_float32_and_returns_float32():
    torch.manual_seed(0)
    exact = build(SMALL, 7, SHAPE).eval()
    torch.manual_seed(0)
    rough = build(SMALL, 7, SHAPE, "bfloat16").eval()
    images = torch.randn(4, *SHAPE)
    with torch.no_grad():
        assert rough(images).logits.dtype == torch.float32
        assert not torch.equal(rough(images).logits, exact(images).logits)
        torch.testing.assert_close(rough(images).logits, exact(images).logits, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("architecture", "message"), [
    (Architecture(model="resnet19"), "unknown timm model 'resnet19'; did you mean 'resnet18'?"),
    (Architecture(model="resnet18", kwargs={"depth": 2}), "depth"),
    (Architecture(model="vit_tiny_patch16_224", kwargs={"depth": 1}), "cannot take images of 3x32x32"),
])
def test_a_network_that_cannot_be_built_is_refused_by_name(architecture, message):
    with pytest.raises(UserError) as error:
        build(architecture, 7, SHAPE)
    assert message in str(error.value)


def test_a_teacher_loads_from_a_file_that_is_what_the_plan_says(tmp_path):
    original = build(SMALL, 7, SHAPE)
    path = tmp_path / "teacher.safetensors"
    save_file({k: v.contiguous() for k, v in original.model.state_dict().items()}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = load_teacher(FileTeacher(architecture=SMALL, path=str(path), sha256=sha256), 7, SHAPE)
    assert weights_sha256(loaded.state_dict()) == weights_sha256(original.state_dict())
    with pytest.raises(UserError, match="the file changed since"):
        load_teacher(FileTeacher(architecture=SMALL, path=str(path), sha256="0"), 7, SHAPE)
    with pytest.raises(UserError, match=r"not the weights of resnet_cifar with 8 classes: fc\.weight is of shape \(7"):
        load_teacher(FileTeacher(architecture=SMALL, path=str(path), sha256=sha256), 8, SHAPE)


def test_a_teacher_whose_weights_are_not_finite_is_refused_by_the_tensor(tmp_path):
    state = build(SMALL, 7, SHAPE).model.state_dict()
    state["fc.bias"][3] = torch.nan
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(serialise(state))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=r"not the weights of resnet_cifar with 7 classes: fc\.bias is not finite"):
        load_teacher(FileTeacher(architecture=SMALL, path=str(path), sha256=sha256), 7, SHAPE)


def test_hub_weights_that_cannot_be_had_say_what_to_do_instead(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    teacher = HubTeacher(architecture=Architecture(model="test_resnet"), tag="r160_in1k")
    with pytest.raises(UserError, match=r"test_resnet\.r160_in1k cannot be downloaded here .* put them into the hub"):
        load_teacher(teacher, 1000, (3, 160, 160))


@pytest.mark.parametrize(("model", "kwargs"), [
    ("resnet_cifar", {"channels": [65_536] * 3}), ("resnet_cifar", {"blocks": 65_536}), ("resnet_cifar", {"stem": -4}),
    ("resnet_cifar", {"norm_layer": "nonsense"}), ("test_vit", {"depth": 65_536}), ("test_vit", {"num_heads": 0}),
    ("test_vit", {"embed_dim": 65_536}), ("test_vit", {"norm_layer": "batchnorm2d"}),
])
def test_arguments_that_make_no_network_are_refused_in_seconds_whatever_timm_raises(model, kwargs):
    started = time.process_time()
    with pytest.raises(UserError):
        build(Architecture(model=model, kwargs=kwargs), 7, SHAPE)
    assert time.process_time() - started < 20


def test_a_network_is_bounded_in_parameters_before_they_are_filled(monkeypatch):
    size = sum(p.numel() for p in build(SMALL, 7, SHAPE).parameters())
    monkeypatch.setattr(networks, "MAX_PARAMETERS", 2 * size)
    build(SMALL, 7, SHAPE)
    monkeypatch.setattr(networks, "MAX_PARAMETERS", size // 2)
    with pytest.raises(UserError, match="more than"):
        build(SMALL, 7, SHAPE)
    torch.nn.Linear(size, 1)  # other modules are not counted
