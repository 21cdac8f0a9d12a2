"""A stranger's results folder or suite: nothing in it names code or weights that are loaded."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
from support.records import record, spec

from kdbench import api
from kdbench.errors import UserError

SUITE = """
methods = ["ce"]
pairs = ["mine"]
datasets = ["synthetic"]
recipe = { epochs = 1, batch_size = 8, image_size = 16, lr = 0.1 }
pair.mine.teacher = { model = "resnet18"%s }
pair.mine.student = { model = "resnet18"%s }
"""


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def weights(tmp_path):
    """A pickle that creates the file `ran` beside it."""
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    return file


@pytest.fixture
def folder(tmp_path, weights):
    """Results whose only record names the pickle, under the run id that its spec then has."""
    fields = json.loads(record(spec("ce", dataset="synthetic").model_copy(update={"teacher": None})).to_json())
    del fields["sha256"]
    fields["spec"]["student"] = {"model": "resnet18", "kwargs": {"checkpoint_path": str(weights)}}
    counts = {name: value for name, value in fields["spec"].items() if name != "pair"}
    canonical = json.dumps(counts, sort_keys=True, separators=(",", ":"))
    fields["run_id"] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    file = tmp_path / "results/records" / f"{fields['run_id']}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(fields))
    return file.parents[1], fields["run_id"]


def test_the_run_id_of_the_hostile_record_is_that_of_its_spec(folder):
    path, run = folder
    fields = json.loads((path / "records" / f"{run}.json").read_text())
    plain = spec("ce", dataset="synthetic").model_copy(update={"teacher": None})
    counts = {name: value for name, value in plain.model_dump(mode="json").items() if name != "pair"}
    canonical = json.dumps(counts, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest()[:16] == plain.id and fields["run_id"] == run != plain.id


@pytest.mark.parametrize("command", [
    "export {path} {run} --out out", "attack {path} {run}", "card {path} {run}", "compress {path} {run} --int8"])
def test_a_record_that_names_weights_is_refused_in_a_line_and_they_are_not_loaded(kdbench, folder, weights, command):
    path, run = folder
    code, _, said = kdbench(*command.format(path=path, run=run).split())
    assert (code, said.count("\n")) == (2, 1)
    assert "'checkpoint_path' is no argument that shapes a network" in said
    assert not (weights.parent / "ran").exists()


def test_a_student_that_names_weights_is_not_loaded_from_python(folder, weights):
    with pytest.raises(UserError, match="checkpoint_path"):
        api.load_student(*folder)
    assert not (weights.parent / "ran").exists()


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize("command", ["run", "profile"])
def test_a_suite_that_names_weights_is_refused_in_a_line_and_they_are_not_loaded(kdbench, tmp_path, weights, side,
                                                                                 command):
    evil = f', kwargs = {{ checkpoint_path = "{weights}" }}'
    file = tmp_path / "evil.toml"
    file.write_text(SUITE % ((evil, "") if side == "teacher" else ("", evil)))
    code, _, said = kdbench(command, file)
    assert (code, said.count("\n")) == (2, 1)
    assert f"pair.mine.{side}.kwargs" in said and "'checkpoint_path' is no argument that shapes a network" in said
    assert not (tmp_path / "ran").exists() and not (tmp_path / "runs").exists()
