"""Published figures beside measured ones, in cells of the suite cifar100 and in cells that are not quite."""

import csv
import io
import json
import tomllib
from importlib import resources

import pytest
from support.records import record

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.analysis.reported import of_row, of_teacher
from kdbench.plugins.registry import Registry
from kdbench.report.files import render
from kdbench.report.page import to_html
from kdbench.results.store import Store
from kdbench.spec import Architecture, TrainedTeacher
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import built_in_pairs, load_suite

REGISTRY = Registry()
KD = 70.66  # RepDistiller's for resnet56 to resnet20


def runs(methods=("ce", "kd", "dkd", "dist"), pair="resnet56-resnet20", **selection):
    chosen = Selection(methods=list(methods), pairs=[pair], seeds=1, **selection)
    return expand(load_suite("cifar100"), REGISTRY, chosen).students


def board(folder, specs):
    for run in specs:
        Store(folder).write(record(run, .71, suite="cifar100"))
    return build(folder, REGISTRY)


def by_method(folder, specs):
    (cell,) = board(folder, specs).cells
    figures = {row.label: of_row(cell, row) for row in cell.rows} | {"teacher": of_teacher(cell)}
    return {name: figure.accuracy for name, figure in figures.items() if figure}


def test_a_published_figure_stands_beside_the_measured_one_with_its_source(tmp_path):
    text = render(board(tmp_path, runs()), "md")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    place = header.index("reported")
    assert header[place - 1] == "test acc."
    assert {line[0]: line[place] for line in lines} == {
        "teacher": "72.34 [1]", "ce": "69.06 [1]", "kd": "70.66 [1]", "dkd": "71.97 [2]", "dist": ""}
    flat = " ".join(text.split())
    assert "reported [1]: RepDistiller's README" in flat and "reported [2]: mdistiller's README" in flat
    assert "trained on all 50,000 training images, with teachers of their own" in flat


def test_programs_and_the_page_get_it_too(tmp_path):
    leaderboard = board(tmp_path, runs())
    rows = {row["method"]: row for row in json.loads(render(leaderboard, "json"))["rows"]}
    assert rows["kd"]["reported_test_accuracy"] == pytest.approx(KD / 100)
    assert rows["kd"]["reported_by"].startswith("RepDistiller's README")
    assert rows["dist"]["reported_test_accuracy"] is None
    lines = {line["method"]: line for line in csv.DictReader(io.StringIO(render(leaderboard, "csv")))}
    assert float(lines["dkd"]["reported_test_accuracy"]) == pytest.approx(.7197)
    page = to_html(leaderboard, read_details(Store(tmp_path), leaderboard), [], REGISTRY)
    assert '<th scope="col">reported accuracy, %</th>' in page
    assert 'title="RepDistiller&#x27;s README' in page and ">70.66</td>" in page


@pytest.mark.parametrize("changed", [
    {"epochs": 20}, {"lr": .1}, {"train_size": 5000}, {"augment": ("flip",)}, {"milestones": (150, 180)},
], ids=str)
def test_nothing_is_reported_for_another_recipe(tmp_path, changed):
    specs = [run.model_copy(update={"recipe": run.recipe.model_copy(update=changed)}) for run in runs()]
    assert by_method(tmp_path, specs) == {}
    assert "reported" not in render(build(tmp_path, REGISTRY), "md")


@pytest.mark.parametrize("changed", [{"datasets": ["cifar10"]}, {"pair": "test_resnet-lcnet_035"}], ids=str)
def test_nothing_is_reported_for_another_dataset_or_pair(tmp_path, changed):
    assert by_method(tmp_path, runs(**changed)) == {}


def test_the_architectures_count_and_not_the_pair_s_label(tmp_path):
    specs = [run.model_copy(update={"pair": "mine"}) for run in runs(["kd"])]
    assert by_method(tmp_path / "same", specs)["kd"] == pytest.approx(KD / 100)
    other = Architecture(model="resnet18")
    specs = [run.model_copy(update={"student": other}) for run in runs(["kd"])]
    assert by_method(tmp_path / "student", specs) == {}
    run = runs(["kd"])[0]
    teacher = TrainedTeacher(run=run.teacher.run.model_copy(update={"student": other}))
    assert by_method(tmp_path / "teacher", [run.model_copy(update={"teacher": teacher})]) == {}


@pytest.mark.parametrize("pair, beta, figure", [
    ("resnet56-resnet20", 2.0, .7197), ("resnet56-resnet20", 8.0, None),
    ("resnet32x4-resnet8x4", 2.0, None), ("resnet32x4-resnet8x4", 8.0, .7632),
])
def test_a_figure_stands_beside_the_hyperparameters_that_it_was_published_with(tmp_path, pair, beta, figure):
    (cell,) = board(tmp_path, runs(["dkd"], pair, settings={"dkd.beta": beta})).cells
    found = of_row(cell, cell.rows[0])
    assert (found and found.accuracy) == (figure and pytest.approx(figure))


def test_what_is_otherwise_for_one_figure_is_noted_below_the_table(tmp_path):
    flat = " ".join(render(board(tmp_path / "with", runs(["ce", "fsp"])), "md").split())
    assert "reported for fsp: 30 further epochs for the flows" in flat
    assert "reported for" not in render(board(tmp_path / "without", runs(["ce", "kd"])), "md")


@pytest.mark.parametrize("method", ["fitnet", "cc", "ft"])
def test_a_method_that_was_published_with_another_loss_has_no_figure(tmp_path, method):
    assert set(by_method(tmp_path, runs(["ce", method]))) == {"ce", "teacher"}


def test_other_hyperparameters_have_no_published_figure(tmp_path):
    specs = [*runs(["ce"]), *runs(["kd"], settings={"kd.temperature": 8})]
    rows = {row["method"]: row for row in json.loads(render(board(tmp_path, specs), "json"))["rows"]}
    assert rows["ce"]["reported_test_accuracy"] == pytest.approx(.6906)
    assert rows["kd"]["reported_test_accuracy"] is None
    assert "70.66" not in render(build(tmp_path, REGISTRY), "md")


def test_every_figure_is_a_percentage_for_a_pair_that_there_is():
    text = resources.files("kdbench.analysis").joinpath("reported.toml").read_text()
    for source in tomllib.loads(text)["source"]:
        assert source["name"] and source["differs"] and set(source["accuracy"]) <= set(built_in_pairs())
        for entries in source["accuracy"].values():
            for method, entry in entries.items():
                content = entry if isinstance(entry, dict) else {"percent": entry}
                assert content.keys() <= {"percent", "hyperparameters", "differs"} and 50 < content["percent"] < 100
                if "hyperparameters" in content:
                    assert REGISTRY[method].resolve(content["hyperparameters"])
