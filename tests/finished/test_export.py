import json

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from executorch.runtime import Runtime
from msgspec.structs import replace
from support.matrices import job, smoke, teacher_job

from kdbench.data.stream import Normalise
from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.finished import export as module
from kdbench.finished.export import export, timm_config
from kdbench.finished.reload import dataset_of, reload
from kdbench.folders import CacheFolder
from kdbench.method import Outputs
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.train.worker import run_job

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of kd and one of simkd, whose network is a composite: record, store, network, dataset by method."""
    folder = tmp_path_factory.mktemp("runs")
    cache, store = tmp_path_factory.getbasetemp() / "cache", Store(folder)
    run_job(teacher_job(smoke("ce"), cache))
    found = {}
    for method in ("kd", "simkd"):
        record = run_job(job(smoke(method), folder, cache, method))
        dataset = dataset_of(record, CacheFolder(cache), "cpu")
        found[method] = record, store, reload(record, store, Registry()[method], dataset), dataset
    return found


def test_timm_loads_the_folder_and_gives_the_saved_logits_bit_for_bit(trained, tmp_path):
    record, store, _, dataset = trained["kd"]
    (done,) = export(*trained["kd"], tmp_path / "out", "the card")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "out" / "README.md").read_text() == "the card"
    assert file_sha256(tmp_path / "out" / "model.safetensors") == record.weights_sha256
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = Normalise(dataset, CPU)(dataset.test.images.take(torch.arange(len(dataset.test))))
    with torch.no_grad():
        assert np.array_equal(model(images).numpy(), store.read_predictions(record.run_id)["test_logits"])
    assert (done.difference, done.images) == (0, 200)
    assert done.size == (tmp_path / "out" / "model.safetensors").stat().st_size


def test_timm_s_own_preprocessing_is_that_of_the_run(trained, tmp_path):
    *_, dataset = trained["kd"]
    export(*trained["kd"], tmp_path / "out", "")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}")
    config = timm.data.resolve_data_config({}, model=model)
    assert tuple(config["input_size"]) == dataset.image_shape and config["crop_pct"] == 1
    assert config["mean"] == pytest.approx(dataset.mean.tolist()) and config["std"] == pytest.approx(
        dataset.std.tolist())
    assert model.pretrained_cfg["label_names"] == list(dataset.classes)


def test_timm_can_put_another_classifier_on_an_exported_student(trained, tmp_path):
    export(*trained["kd"], tmp_path / "out", "")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True, num_classes=3)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize("name", ["test_vit", "lcnet_035"])
def test_the_config_rebuilds_any_architecture_with_its_arguments(trained, tmp_path, name):
    record, *_, dataset = trained["kd"]
    kwargs = {"img_size": 16, "patch_size": 4} if name == "test_vit" else {}
    student = record.spec.student.model_copy(update={"model": name, "kwargs": kwargs})
    model = timm.create_model(name, num_classes=10, in_chans=3, **kwargs)
    changed = replace(record, spec=record.spec.model_copy(update={"student": student}))
    (tmp_path / "config.json").write_text(json.dumps(timm_config(changed, dataset, model.pretrained_cfg)))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), model.eval()(images))


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_onnx_gives_the_network_s_logits_for_any_number_of_images(trained, tmp_path, method):
    *_, network, dataset = trained[method]
    done = export(*trained[method], tmp_path / "out", "", "onnx")[-1]
    assert done.name == "model.onnx" and 0 <= done.difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    images = Normalise(dataset, CPU)(dataset.test.images.take(torch.arange(7))).contiguous()
    (logits,) = session.run(None, {"images": images.numpy()})
    assert logits == pytest.approx(network(images).logits.numpy(), abs=1e-4)
    assert (tmp_path / "out" / "config.json").exists() == (method == "kd")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_the_program_for_executorch_gives_the_network_s_logits_image_by_image(trained, tmp_path, method):
    *_, network, dataset = trained[method]
    done = export(*trained[method], tmp_path / "out", "", "onnx", "executorch")[-1]
    file = tmp_path / "out" / "model.pte"
    assert (done.name, done.size) == ("model.pte", file.stat().st_size) and 0 <= done.difference < 1e-4
    images = Normalise(dataset, CPU)(dataset.test.images.take(torch.arange(7))).contiguous()
    program = Runtime.get().load_program(file).load_method("forward")
    logits = np.concatenate([program.execute((image,))[0].numpy().copy() for image in images.split(1)])
    assert logits == pytest.approx(network(images).logits.numpy(), abs=1e-4)
    assert (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "lcnet_035"])
def test_executorch_takes_position_embeddings_and_grey_images_in_any_order_of_memory(tmp_path, name):
    kwargs = {"img_size": 16, "patch_size": 4} if name == "test_vit" else {}
    network = timm.create_model(name, num_classes=10, in_chans=1, **kwargs).to(memory_format=torch.channels_last).eval()
    images = torch.randn(5, 16, 16, 1).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(images).numpy()
    done = module.FORMATS["executorch"].write(network, tmp_path, images, logits)
    assert done.difference < 1e-4 * max(1, np.abs(logits).max()) and done.images == 5


class Unknown(torch.nn.Module):
    """A network with an operation that ExecuTorch has no kernel for."""

    def forward(self, images):
        logits = torch.linalg.eigvals(images[:, 0]).real[:, :10]
        return Outputs(logits, logits, ())


def test_a_network_that_executorch_cannot_take_is_refused_and_leaves_nothing(trained, tmp_path):
    record, store, _, dataset = trained["kd"]
    with pytest.raises(UserError, match=r"ExecuTorch cannot take the network: .*linalg_eig"):
        export(record, store, Unknown(), dataset, tmp_path / "out", "", "executorch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_program_that_the_runtime_of_executorch_does_not_run_is_refused_in_a_line(trained, tmp_path, monkeypatch):
    def fails():
        raise RuntimeError("method->execute() failed with error 0x1")

    monkeypatch.setattr(Runtime, "get", fails)
    with pytest.raises(UserError, match=r"ExecuTorch cannot take the network: method->execute\(\) failed"):
        export(*trained["kd"], tmp_path / "out", "", "executorch")
    assert list(tmp_path.iterdir()) == []


def test_a_composite_is_refused_for_timm_with_the_way_out(trained, tmp_path):
    with pytest.raises(UserError, match=r"what simkd deploys is not one timm model but Reused.*--onnx and --exec"):
        export(*trained["simkd"], tmp_path / "out", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(trained, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="exists already"):
        export(*trained["kd"], tmp_path, "")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_export_that_gives_other_logits_is_refused_and_leaves_nothing(trained, tmp_path):
    record, store, _, dataset = trained["kd"]
    other = reload(record, store, Registry()["kd"], dataset)
    with torch.no_grad():
        other.classifier.bias += .1
    with pytest.raises(UserError, match=r"does not give the network's logits: they differ by up to 0\.1"):
        export(record, store, other, dataset, tmp_path / "out", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["onnx", "executorch"])
def test_a_format_without_its_packages_is_refused_in_a_line(trained, tmp_path, monkeypatch, name):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'kdbench\[{name}\]'"):
        export(*trained["kd"], tmp_path / "out", "", name)
    assert list(tmp_path.iterdir()) == []


def test_resnet_cifar_still_has_no_published_weights():
    with pytest.raises(ValueError, match="no published weights"):
        timm.create_model("resnet_cifar", pretrained=True)
