"""What a report says of how its methods were compared, and where it lives."""

import importlib.metadata
import re
import shlex
import tomllib
from email.message import Message
from pathlib import Path

import pytest
from support.profiles import comparison, profile
from support.records import REGISTRY, record, spec

from kdbench import version
from kdbench.analysis.build import build
from kdbench.cli.options import read_seeds
from kdbench.profile.record import write_profile
from kdbench.report.cite import cite
from kdbench.report.setup import setup
from kdbench.results.store import Store

ROOT = Path(__file__).parent.parent.parent
HOME = "https://example.org/kdbench"


def facts(folder):
    board = build(folder, REGISTRY)
    return setup(board.cells[0], board)


def put(folder, dataset="fashion_mnist", seeds=(0, 1), **changes):
    for method in ("ce", "kd"):
        for seed in seeds:
            Store(folder).write(record(spec(method, seed, dataset=dataset), .8, **changes))


def test_recipe_images_and_networks_are_told_in_numbers(tmp_path):
    put(tmp_path, split_sizes={"train": 2000, "validation": 6000, "test": 10_000},
        metrics={"pgd_accuracy": .1, "corruption_accuracy": .5})
    found = facts(tmp_path)
    assert found["images"] == "2,000 train, 6,000 validation, 10,000 test"
    assert found["classes"].startswith("10: T-shirt/top, Trouser") and "MIT" in found["source and licence"]
    assert "epochs 2, batch_size 8, image_size 8" in found["recipe"] and "lr 0.1" in found["recipe"]
    assert "0.0314 (small) and 0.1000" in found["attacks"] and "10 steps" in found["attacks"]
    assert "gaussian noise 0.04, 0.08, 0.1" in found["corruptions"] and "jpeg 80, 58, 40" in found["corruptions"]
    assert "small(" in found["student"] and "size not measured" in found["student"]
    write_profile(Store(tmp_path), profile("pair", run=spec(dataset="fashion_mnist"),
                                           deployment=comparison(student=.002, teacher=.006)))
    assert re.search(r"[\d,]+ parameters, [\d.,]+ MFLOPs an image", facts(tmp_path)["teacher"])


def test_what_the_teacher_was_trained_on_is_told_where_it_is_not_what_the_student_was(tmp_path):
    one = spec("kd", dataset="fashion_mnist")
    own = one.recipe.model_copy(update={"epochs": 9, "train_size": 500, "augment": ("flip",)})
    for changes, wanted in (({}, "the student's"), (dict(own), "epochs 9, train_size 500, augment flip, else the "
                                                               "student's")):
        run = one.teacher.run.model_copy(update={"recipe": one.recipe.model_copy(update=changes)})
        told = one.model_copy(update={"teacher": one.teacher.model_copy(update={"run": run})})
        folder = tmp_path / str(len(changes))
        Store(folder).write(record(told, .8))
        assert facts(folder)["recipe of the teacher"] == wanted
        assert "same dataset" in facts(folder)["teacher"]


def test_without_recorded_sizes_those_of_the_catalog_are_told_as_such(tmp_path):
    put(tmp_path)
    assert facts(tmp_path)["images"].startswith("54,000 train") and "as published" in facts(tmp_path)["images"]
    assert "attacks" not in facts(tmp_path)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 5), (7,)])
def test_the_command_names_pair_data_methods_and_seeds(tmp_path, seeds):
    put(tmp_path, dataset="my data; rm", seeds=seeds)
    words = shlex.split(facts(tmp_path)["command"])
    assert words[:7] == ["kdbench", "run", "tiny", "--pairs", "big-small", "--datasets", "my data; rm"]
    assert words[7:10] == ["--methods", "ce,kd", "--seeds"]
    wanted = read_seeds(words[10])
    assert (list(range(wanted)) if isinstance(wanted, int) else wanted) == list(seeds)


@pytest.mark.parametrize(("device", "told"), [("cpu", []), ("cpu-portable", ["--device", "cpu-portable"])])
def test_the_command_names_the_device_where_it_is_not_the_usual_one(tmp_path, device, told):
    for method in ("ce", "kd"):
        run = spec(method, dataset="fashion_mnist").model_copy(update={"device": device})
        Store(tmp_path).write(record(run, .8))
    assert shlex.split(facts(tmp_path)["command"])[11:] == told


def test_the_address_of_the_project_is_that_of_its_metadata_everywhere(tmp_path, monkeypatch):
    project, citation = (ROOT / "pyproject.toml").read_text(), (ROOT / "CITATION.cff").read_text()
    written = tomllib.loads(project)["project"].get("urls", {}).get(version.HOME)
    cited = re.search(r"^url: \"?(.*?)\"?$", citation, re.MULTILINE)
    assert (cited[1] if cited else None) == written == version.address()
    put(tmp_path)
    board = build(tmp_path, REGISTRY)
    assert ("url = " in cite(board).split("\n\n")[0]) == (written is not None)
    known = Message()
    known["Project-URL"] = f"{version.HOME}, {HOME}"
    monkeypatch.setattr(version, "metadata", lambda name: known)
    assert f"  url = {{{HOME}}}" in cite(board).split("\n\n")[0]


def test_without_an_installed_package_there_is_no_address(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(version, "metadata", missing)
    assert version.address() is None
