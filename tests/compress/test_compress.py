"""Networks that are made of trained students: what they are and can, and that the same command gives the same."""

import copy
import json

import msgspec
import numpy as np
import onnx
import pytest
import torch
from support.matrices import job, smoke, teacher_job

from kdbench.compress import compress as module
from kdbench.compress import network as network_module
from kdbench.compress import use
from kdbench.compress.compress import compress, told
from kdbench.compress.network import (
    OPERATIONS,
    LogitsOnly,
    OnnxNetwork,
    Slopes,
    calibration_images,
    write_float,
    write_int8,
)
from kdbench.compress.prune import prune, recover
from kdbench.compress.record import FLOAT_AGREEMENT, Settings, all_compressed
from kdbench.data.stream import Normalise, center_crop
from kdbench.errors import UserError
from kdbench.finished.reload import dataset_of, reload
from kdbench.folders import CacheFolder
from kdbench.networks import build, count_parameters, freeze
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.robustness import measure as robustness
from kdbench.robustness.measure import measure
from kdbench.spec import Architecture
from kdbench.train.worker import run_job
from kdbench_methods.logit.qat_kd import round_weight

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SETTINGS = Settings(int8=True, prune=.5, recovery=1)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Robustness on few images, and few calls of what is timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "SUBSET", 40)
        for name, value in {"CALLS": 2, "SECONDS": 0.0, "THROUGHPUT_SECONDS": 0.0, "REPEATS": 1}.items():
            patch.setattr(use, name, value)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, short):
    """A folder with a run of kd, and its cache."""
    folder = tmp_path_factory.mktemp("runs")
    cache = tmp_path_factory.getbasetemp() / "cache"
    run_job(teacher_job(smoke("kd"), cache))
    return run_job(job(smoke("kd"), folder, cache, "kd")), Store(folder), CacheFolder(cache)


@pytest.fixture(scope="module")
def made(trained):
    """What compressing it said, and the records by kind."""
    _, store, cache = trained
    said: list[str] = []
    done = compress(store.folder, (), None, SETTINGS, Registry(), cache, said.append)
    assert (done.made, done.before, done.problems) == (4, 0, ())
    return said, {one.kind: one for one, _ in all_compressed(store)}


@pytest.fixture(scope="module")
def parts(trained):
    """The float network of the run, and its dataset."""
    record, store, cache = trained
    dataset = dataset_of(record, cache, "cpu")
    return LogitsOnly(reload(record, store, Registry()["kd"], dataset)), dataset


def logits(network, dataset):
    images = dataset.test.images.take(torch.arange(len(dataset.test)))
    with torch.no_grad():
        return network(Normalise(dataset, CPU)(center_crop(images, dataset.image_shape[-1]))).logits.numpy()


# The command.

def test_the_float_network_has_the_metrics_of_the_run(trained, made):
    record, ones = trained[0], made[1]
    shared = [name for name in ones["float"].metrics if name in record.metrics]
    assert {"test_accuracy", "worst_class_accuracy", "corruption_accuracy", "pgd_small_accuracy", "ece"} <= set(shared)
    for name in shared:
        assert ones["float"].metrics[name] == pytest.approx(record.metrics[name], abs=.005), name
    assert ones["float"].metrics[FLOAT_AGREEMENT] == 1


def test_int8_is_smaller_and_predicts_as_the_float_network_does_and_pruning_removes_parameters(made):
    ones = made[1]
    assert ones["int8"].file_bytes < .6 * ones["float"].file_bytes
    assert ones["pruned"].file_bytes < ones["float"].file_bytes
    assert ones["int8"].metrics[FLOAT_AGREEMENT] > .9
    assert ones["int8"].parameters == ones["float"].parameters > 2 * ones["pruned"].parameters
    assert ones["pruned"].parameters == ones["pruned int8"].parameters
    assert [one.attack for one in ones.values() if one.kind.endswith("int8")] == ["gradients of its float form"] * 2


def test_latency_and_energy_are_told_with_what_they_were_measured_by(made):
    for one in made[1].values():
        assert 0 < one.use.latency_seconds.median <= one.use.latency_p95_seconds
        assert one.energy_source is None or one.use.joules_per_1000_images.median > 0
        assert one.packages["onnxruntime"] and one.packages["torch-pruning"] and one.load_average is not None


def test_every_network_is_told_of_in_a_line(made):
    said, ones = made
    assert said == [told(ones[kind]) for kind in SETTINGS.kinds()]
    assert "pruned 50 % int8: test accuracy" in said[-1]


def test_what_is_there_is_not_made_again_and_what_is_damaged_is_with_the_same_bytes(trained, made):
    _, store, cache = trained
    again = compress(store.folder, (), None, SETTINGS, Registry(), cache, print)
    assert (again.made, again.before) == (0, 4)
    name = made[1]["pruned int8"].run_id
    store.files.compressed_network(name).write_bytes(b"")
    before = {one.run_id: one for one, _ in all_compressed(store)}
    assert compress(store.folder, ("kd:0",), None, SETTINGS, Registry(), cache, print).made == 4
    for one, _ in all_compressed(store):
        was = before[one.run_id]
        for field in ("metrics", "vectors", "network_sha256", "file_bytes", "parameters", "status"):
            assert msgspec.json.encode(getattr(one, field)) == msgspec.json.encode(getattr(was, field)), field


@pytest.mark.parametrize(("runs", "methods", "said"), [
    (("kx:0",), None, "unknown run"), (("ffffffffffffffff",), None, "no single run"),
    ((), ("kdx",), "unknown method of .*did you mean 'kd'"),
])
def test_an_unknown_run_or_method_is_refused_with_the_nearest(trained, runs, methods, said):
    _, store, cache = trained
    with pytest.raises(UserError, match=said):
        compress(store.folder, runs, methods, SETTINGS, Registry(), cache, print)


def test_a_failed_run_an_empty_folder_and_one_without_finished_students_are_refused(trained, tmp_path):
    record, _, cache = trained
    with pytest.raises(UserError, match="no records here"):
        compress(tmp_path, (), None, SETTINGS, Registry(), cache, print)
    store = Store(tmp_path)
    store.write(msgspec.structs.replace(record, status="crashed", reason="it did"))
    with pytest.raises(UserError, match="no finished student here"):
        compress(tmp_path, (), None, SETTINGS, Registry(), cache, print)
    with pytest.raises(UserError, match="has the status 'crashed'; only finished students"):
        compress(tmp_path, ("kd:0",), None, SETTINGS, Registry(), cache, print)


def test_a_run_without_its_network_is_a_problem_and_writes_nothing(trained, tmp_path):
    record, _, cache = trained
    Store(tmp_path).write(record)
    done = compress(tmp_path, (), None, SETTINGS, Registry(), cache, print)
    assert done.made == 0 and "no saved network" in done.problems[0]
    assert not Store(tmp_path).files.compressed.exists()


def test_without_the_packages_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "torch_pruning" else name)
    with pytest.raises(UserError, match=r"pip install 'kdbench\[compress\]'"):
        compress(tmp_path, (), None, SETTINGS, {}, CacheFolder(tmp_path), print)


def test_a_network_that_cannot_be_pruned_is_recorded_as_not_applicable_beside_its_int8_form(
        trained, tmp_path, monkeypatch):
    record, store, cache = trained
    other = Store(tmp_path)
    other.write(record)
    other.files.student(record.run_id).parent.mkdir()
    other.files.student(record.run_id).write_bytes(store.files.student(record.run_id).read_bytes())

    def refuse(*_):
        raise UserError("torch-pruning cannot prune it: it is a stone")

    monkeypatch.setattr(module, "prune", refuse)
    done = compress(tmp_path, (), None, SETTINGS, Registry(), cache, print)
    assert (done.made, done.problems) == (2, ())
    found = {one.kind: (one.status, one.reason) for one, _ in all_compressed(other)}
    why = "torch-pruning cannot prune it: it is a stone"
    assert found == {"float": ("ok", None), "int8": ("ok", None), "pruned": ("inapplicable", why),
                     "pruned int8": ("inapplicable", why)}
    assert compress(tmp_path, (), None, SETTINGS, Registry(), cache, print).before == 4


def test_a_student_that_cannot_be_exported_is_recorded_as_not_applicable_with_the_reason(
        trained, tmp_path, monkeypatch):
    record, store, cache = trained
    other = Store(tmp_path)
    other.write(record)
    other.files.student(record.run_id).parent.mkdir()
    other.files.student(record.run_id).write_bytes(store.files.student(record.run_id).read_bytes())

    def refuse(*_):
        raise RuntimeError("an odd layer\nand where it stands")

    monkeypatch.setattr(network_module, "write_onnx", refuse)
    said: list[str] = []
    done = compress(tmp_path, (), None, Settings(int8=True), Registry(), cache, said.append)
    assert (done.made, done.problems) == (0, ())
    assert {(one.kind, one.status, one.reason) for one, _ in all_compressed(other)} == {
        (kind, "inapplicable", "it cannot be exported to ONNX: RuntimeError: an odd layer")
        for kind in ("float", "int8")}
    assert len(said) == 2 and all(": n/a: it cannot be exported" in line for line in said)


# Networks.

def test_a_file_that_gives_other_logits_is_refused(tmp_path, monkeypatch):
    network = LogitsOnly(freeze(build(Architecture(model="mlp", kwargs={"hidden_sizes": (8,)}), 10, (3, 8, 8))))
    right = OnnxNetwork.forward
    monkeypatch.setattr(OnnxNetwork, "forward", lambda self, images: right(self, images)._replace(
        logits=right(self, images).logits + .1))
    with pytest.raises(UserError, match=r"its ONNX file does not give the network's logits: they differ by up to 0\.1"):
        write_float(network, tmp_path / "float.onnx", torch.randn(4, 3, 8, 8))


def test_a_file_holds_nothing_of_this_machine_and_no_long_names(trained, made):
    store = trained[1]
    for one in made[1].values():
        content = store.files.compressed_network(one.run_id).read_bytes()
        assert b"/home" not in content and b"site-packages" not in content and b"kdbench" not in content
        graph = onnx.load_from_string(content).graph
        assert not graph.value_info and all(len(tensor.name) < 8 for tensor in graph.initializer)


def test_int8_layers_hold_8_bit_weights_on_the_grid_that_qat_kd_rounds_to(trained, made, parts):
    network, store = parts[0], trained[1]
    graph = onnx.load(store.files.compressed_network(made[1]["int8"].run_id)).graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    classifier = network.network.get_classifier().weight
    rounded = round_weight(classifier).detach().numpy()
    scales = classifier.detach().abs().amax(1).numpy() / 127
    (found,) = [one for one in held.values() if one.dtype == np.int8 and one.shape in (
        rounded.shape, rounded.shape[::-1])]
    found = found if found.shape == rounded.shape else found.T
    np.testing.assert_allclose(found * scales[:, None], rounded, atol=1e-6)
    large = [one for one in held.values() if one.dtype == np.float32 and one.ndim > 1 and one.size > 64]
    assert not large  # all weights are int8


def test_in_int8_the_inputs_of_layers_are_rounded_as_by_qat_kd_and_nothing_else(trained, made):
    graph = onnx.load(trained[1].files.compressed_network(made[1]["int8"].run_id)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    readers = {name: {node.op_type for node in graph.node if name in node.input} for name in made_by}
    rounded = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert rounded
    for node in rounded:
        (restored,) = [other for other in graph.node if node.output[0] in other.input]
        assert restored.op_type == "DequantizeLinear" and readers[restored.output[0]] <= set(OPERATIONS)
    assert made_by[graph.output[0].name] in OPERATIONS  # the logits are as the last layer computes them


def test_calibration_takes_training_images_alone_of_every_class(parts, monkeypatch):
    dataset = parts[1]
    images = calibration_images(dataset)
    assert len(images) == min(256, len(dataset.train)) and torch.equal(images, calibration_images(dataset))
    train = Normalise(dataset, CPU)(center_crop(dataset.train.images.take(torch.arange(len(dataset.train))),
                                                dataset.image_shape[-1]))
    assert all((one == train).flatten(1).all(1).any() for one in images[:20])


@pytest.mark.parametrize(("model", "kwargs"), [
    ("lcnet_035", {}),
    ("test_vit", {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 2})])
def test_other_architectures_are_pruned_and_quantised_too(tmp_path, model, kwargs):
    torch.manual_seed(0)
    network = LogitsOnly(freeze(build(Architecture(model=model, kwargs=kwargs), 10, (3, 16, 16))))
    images = torch.randn(16, 3, 16, 16)
    before, parameters = network(images), count_parameters(network)
    pruned = copy.deepcopy(network)
    prune(pruned, .5, images, 10)
    assert count_parameters(pruned) < .4 * parameters and torch.equal(network(images), before)
    write_float(pruned, tmp_path / "float.onnx", images)
    write_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", images)
    size = {name: (tmp_path / f"{name}.onnx").stat().st_size for name in ("float", "int8")}
    assert size["int8"] < size["float"]
    for batch in (1, 16):
        assert OnnxNetwork(tmp_path / "int8.onnx")(images[:batch]).logits.shape == (batch, 10)


def test_what_torch_pruning_does_not_understand_is_refused_in_a_line():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 36, 10)

        def forward(self, images):
            return self.last(self.first(images).reshape(len(images), 4 * 36))  # a number of channels that stays

    with pytest.raises(UserError, match="torch-pruning cannot prune it: ") as error:
        prune(LogitsOnly(Odd()), .5, torch.randn(4, 3, 8, 8), 10)
    assert "\n" not in str(error.value)


def test_recovery_learns_the_float_networks_probabilities_and_repeats(trained, parts):
    record, (network, dataset) = trained[0], parts
    images = calibration_images(dataset)
    found = []
    for epochs in (0, 4, 4):
        pruned = copy.deepcopy(network)
        prune(pruned, .5, images, len(dataset.classes))
        recover(pruned, network, dataset, record.spec.training, epochs, 0)
        found.append(pruned)
    target = logits(Slopes(network), dataset)
    distance = [float(np.square(logits(Slopes(one), dataset) - target).mean()) for one in found]
    assert distance[1] < distance[0] and distance[1] == distance[2] and not found[1].training


# Attacks on what has no gradients.

def test_an_attack_by_the_gradients_of_the_same_network_is_the_attack_itself(parts):
    network, dataset = Slopes(parts[0]), parts[1]
    assert measure(network, dataset, slopes=Slopes(parts[0])) == measure(network, dataset)


def test_an_attack_along_other_gradients_is_judged_by_the_attacked_network(parts, tmp_path):
    network, dataset = parts
    write_float(network, tmp_path / "float.onnx", calibration_images(dataset)[:8])
    own = measure(Slopes(network), dataset).metrics
    moved = measure(OnnxNetwork(tmp_path / "float.onnx"), dataset, slopes=Slopes(network)).metrics
    assert moved == pytest.approx(own, abs=.01)
    flat = measure(Slopes(network), dataset, slopes=_Flat(dataset)).metrics  # no gradient: the start alone is tried
    assert flat["clean_accuracy"] == own["clean_accuracy"] and flat["pgd_accuracy"] > own["pgd_accuracy"]


class _Flat(torch.nn.Module):
    """Logits that do not change with the images."""

    def __init__(self, dataset):
        super().__init__()
        self.classes = len(dataset.classes)

    def forward(self, images):
        logits = 0 * images.flatten(1)[:, :self.classes]
        return Slopes(torch.nn.Identity())(logits)


def test_the_record_is_one_json_object(trained, made):
    path = trained[1].files.compressed_record(made[1]["int8"].run_id)
    assert json.loads(path.read_text())["kind"] == "int8"
