"""Networks of the user's own: found in plugin files, built only where their file was given, checked before use."""

import hashlib
import textwrap

import pytest
import torch

from kdbench.architectures import own
from kdbench.errors import UserError
from kdbench.networks import build, load_teacher
from kdbench.plugins.registry import Registry, load
from kdbench.plugins.source import read_networks
from kdbench.spec import Architecture, HubTeacher, RunSpec
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import load_suite

SHAPE = (1, 8, 8)
FILE = """
    import torch
    from torch import nn
    from kdbench.method import Outputs

    class Net(nn.Module):
        def __init__(self, num_classes, input_shape, width=4, spoil=""):
            super().__init__()
            self.spoil = spoil
            self.first = nn.Sequential(nn.Conv2d(input_shape[0], width, 3, 2, 1), nn.ReLU())
            if spoil != "headless":
                self.classifier = nn.Linear(3 if spoil == "misfit" else width, num_classes)

        def forward(self, images):
            stage = self.first(images)
            embedding = stage.mean((2, 3))
            if self.spoil in ("headless", "misfit"):
                return Outputs(embedding[:, :1].repeat(1, 5), embedding, (stage,))
            logits = self.classifier(embedding)
            return {
                "": Outputs(logits, embedding, (stage,)), "bare": logits,
                "classes": (logits[:, :2], embedding, (stage,)), "flat": (logits, embedding, (embedding,)),
                "none": (logits, embedding, ()), "other": (logits + 1, embedding, (stage,)),
                "map": (logits, stage, (stage,)),
            }[self.spoil]

    def wide(num_classes, input_shape):
        return Net(num_classes, input_shape, width=8)

    def number(num_classes, input_shape):
        return 7

    def _hidden(num_classes, input_shape):
        pass

    def helper(input_shape, num_classes):
        raise SystemExit("was run")
"""
SUITE = """
    pairs = ["mine"]
    datasets = ["synthetic"]
    methods = ["ce", "kd"]
    seeds = 1

    [recipe]
    epochs = 1
    batch_size = 32
    image_size = 16
    lr = 0.05

    [pair.mine]
    teacher = { model = "nets:wide" }
    student = { model = "nets:Net", kwargs = { width = 2 } }
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    monkeypatch.setattr(own, "_GIVEN", {})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(textwrap.dedent(FILE))
    return path


def give(file):
    load(Registry([file])["ce"])


def specs(tmp_path, registry, text=SUITE):
    (tmp_path / "mine.toml").write_text(textwrap.dedent(text))
    return expand(load_suite(str(tmp_path / "mine.toml")), registry, Selection()).students


def test_a_plugin_file_may_hold_networks_alone_and_is_not_run_to_find_them(file):
    file.write_text(file.read_text() + "\nraise SystemExit('was run')\n")
    assert [network.name for network in read_networks(file)] == ["nets:Net", "nets:wide", "nets:number"]
    assert set(Registry([file]).networks) == {"nets:Net", "nets:wide", "nets:number"}


def test_a_network_is_built_from_its_function_with_its_arguments(file):
    give(file)
    network = build(Architecture(model="nets:Net", kwargs={"width": 6}), 5, SHAPE)
    assert network.shapes.embedding == 6 and network.shapes.stages == ((6, 4, 4),) and network.shapes.pooled
    outputs = network.eval()(torch.randn(3, *SHAPE))
    torch.testing.assert_close(network.classifier(outputs.embedding), outputs.logits)


def test_a_network_whose_file_was_not_given_is_refused_and_nothing_is_imported(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.syspath_prepend(str(file.parent))
    file.write_text("raise SystemExit('was run')")
    with pytest.raises(UserError, match=r"'nets:wide' stands in a file that was not given: --plugin nets\.py"):
        build(Architecture(model="nets:wide"), 5, SHAPE)
    with pytest.raises(UserError, match="'os:system' stands in a file that was not given"):
        build(Architecture(model="os:system"), 5, SHAPE)


def test_a_record_of_another_version_of_the_file_is_refused(file):
    give(file)
    with pytest.raises(UserError, match=r"nets\.py is another file than the run names .*expected 0000"):
        build(Architecture(model="nets:wide", source="0" * 64), 5, SHAPE)


def test_the_sha256_of_the_file_is_part_of_ids_and_cells(file, tmp_path):
    first = specs(tmp_path, Registry([file]))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert {spec.student.source for spec in first} == {spec.teacher.architecture.source for spec in first} == {digest}
    assert RunSpec.model_validate_json(first[0].model_dump_json()) == first[0]
    file.write_text(file.read_text() + "\n# another\n")
    second = specs(tmp_path, Registry([file]))
    assert not {spec.id for spec in first} & {spec.id for spec in second}
    assert not {spec.cell for spec in first} & {spec.cell for spec in second}


def test_other_architectures_have_no_source_in_files():
    assert Architecture(model="resnet18").model_dump() == {"model": "resnet18", "kwargs": {}}


def test_a_suite_may_pin_the_file(file, tmp_path):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    pinned = SUITE.replace('"nets:wide"', f'"nets:wide", source = "{digest}"')
    assert specs(tmp_path, Registry([file]), pinned) == specs(tmp_path, Registry([file]))
    with pytest.raises(UserError, match=r"pair mine: teacher: .* the pair's source is f"):
        specs(tmp_path, Registry([file]), SUITE.replace('"nets:wide"', f'"nets:wide", source = "{"f" * 64}"'))


def test_a_suite_whose_network_is_not_given_is_refused_with_the_nearest_name(file, tmp_path):
    with pytest.raises(UserError, match=r"pair mine: teacher: network 'nets:wide' is in none of the files"):
        specs(tmp_path, Registry())
    with pytest.raises(UserError, match=r"'nets:wid' is in none of .*did you mean 'nets:wide'"):
        specs(tmp_path, Registry([file]), SUITE.replace("nets:wide", "nets:wid"))


@pytest.mark.parametrize(("field", "value", "says"), [
    ("model", "a:b:c", "expected a name of letters, .*or MODULE:FUNCTION"),
    ("model", "local-dir:x", "expected a name of letters, .*or MODULE:FUNCTION"),
    ("model", "../nets:wide", "expected a name of letters, .*or MODULE:FUNCTION"),
    ("kwargs", {"a b": 1}, "'a b' is no argument that shapes a network"),
    ("kwargs", {"path": "/etc/passwd"}, "'path': expected numbers"),
    ("source", "abc", "is the SHA-256 of its file"),
])
def test_a_malformed_name_argument_or_source_is_refused(field, value, says):
    with pytest.raises(ValueError, match=says):
        Architecture(**{"model": "nets:wide", field: value})


def test_a_source_goes_with_a_plugins_network_alone():
    with pytest.raises(ValueError, match="goes with MODULE:FUNCTION"):
        Architecture(model="resnet18", source="0" * 64)


@pytest.mark.parametrize(("spoil", "says"), [
    ("bare", r"forward returned a tensor \[2, 5\] of float32, expected kdbench.method.Outputs"),
    ("classes", r"logits are a tensor \[2, 2\] .* expected floats \[2, 5\]"),
    ("flat", r"stage 0 is a tensor \[2, 4\] .* a map of one position"),
    ("none", "stages are a tuple of 0, expected a tuple of at least one"),
    ("map", r"embedding is a tensor \[2, 4, 4, 4\]"),
    ("other", "its classifier applied to its embedding does not give its logits"),
    ("headless", "no module `classifier`"),
    ("misfit", "classifier does not take its embedding"),
])
def test_a_network_that_breaks_the_interface_is_refused_with_what_it_did(file, spoil, says):
    give(file)
    with pytest.raises(UserError, match=rf"^Net: .*{says}"):
        build(Architecture(model="nets:Net", kwargs={"spoil": spoil}), 5, SHAPE)


def test_what_is_no_network_and_what_fails_is_refused(file):
    give(file)
    with pytest.raises(UserError, match=r"nets:number: it returned of type int, expected an nn.Module"):
        build(Architecture(model="nets:number"), 5, SHAPE)
    with pytest.raises(UserError, match=r"nets:Net\(.*unexpected keyword argument 'depth'"):
        build(Architecture(model="nets:Net", kwargs={"depth": 3}), 5, SHAPE)


def test_only_timms_models_have_published_weights():
    with pytest.raises(UserError, match="mlp: only timm's models have published weights"):
        load_teacher(HubTeacher(architecture=Architecture(model="mlp"), tag="in1k"), 5, SHAPE)


def test_plugin_files_that_cannot_name_their_networks_are_refused(file, tmp_path):
    odd = tmp_path / "my-nets.py"
    odd.write_text(file.read_text())
    with pytest.raises(UserError, match=r"my-nets\.py: it holds the network Net, .*name the file by letters"):
        Registry([odd])
    (tmp_path / "two").mkdir()
    again = tmp_path / "two" / "nets.py"
    again.write_text(file.read_text())
    with pytest.raises(UserError, match="two networks are named 'nets:Net'"):
        Registry([file, again])
    neither = tmp_path / "neither.py"
    neither.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"no class in it has a literal .* num_classes and input_shape first"):
        Registry([neither])


def test_a_file_that_changes_after_the_command_began_is_refused(file):
    info = Registry([file])["ce"]
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match="the file changed since the command began"):
        load(info)
