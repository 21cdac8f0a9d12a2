"""The commands that read a folder of results."""

import json
import sys

import pytest
from support.matrices import job, smoke, teacher_job
from support.records import record, spec

from kdbench.cli.text.columns import coloured
from kdbench.results.store import Store
from kdbench.spec import OwnRecipe
from kdbench.train.worker import run_job

PLUGIN = '''from kdbench.method import Method
from kdbench.paper import Paper


class Mine(Method):
    """My idea."""
    name, family = "mine", "logit"
    paper = Paper(title="A Paper of Mine", authors=("Ann Bee",), year=2026, venue="arXiv")

    def __init__(self, ctx, *, temperature: float = 8.0):
        super().__init__(ctx)
'''


@pytest.fixture
def folder(tmp_path):
    for method in ("kd", "mine"):
        Store(tmp_path / "runs").write(record(spec(method, temperature=8.0, dataset="mnist5k"), .5))
    return tmp_path / "runs"


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path / "mine.py"


def test_cite_prints_entries_and_a_sentence(kdbench, folder):
    code, out, _ = kdbench("cite", folder)
    assert code == 0 and "@inproceedings{hinton2015distilling," in out and "We compare kd~\\cite{hinton" in out
    assert "% Not known here, so without a reference: mine" in out


def test_cite_knows_the_paper_of_a_plugin(kdbench, folder, plugin):
    code, out, _ = kdbench("cite", folder, "--plugin", plugin)
    assert code == 0 and "A Paper of Mine" in out and "mine~\\cite{bee2026paper}" in out and "Not installed" not in out


def test_a_plugin_given_to_the_leaderboard_shows_only_what_differs_from_its_defaults(kdbench, folder, plugin):
    without = kdbench("leaderboard", folder, "--notes")[1]
    assert "Not at their defaults: " in without and "mine: temp" in without
    assert "mine: temp" not in kdbench("leaderboard", folder, "--notes", "--plugin", plugin)[1]


def test_a_report_with_a_plugin_tells_of_it_and_is_checked_with_it(kdbench, folder, plugin, monkeypatch):
    monkeypatch.setattr("kdbench.report.plots.plots", lambda leaderboard, details: [])
    assert kdbench("report", folder, "--plugin", plugin)[0] == 0
    assert "My idea." in (folder / "index.html").read_text()
    assert kdbench("report", folder, "--check", "--plugin", plugin)[0] == 0
    code, out, _ = kdbench("report", folder, "--check")
    assert code == 1 and "leaderboard.md: not what the records give" in out


@pytest.mark.parametrize("command", ["cite", "report", "leaderboard"])
def test_a_folder_without_records_is_one_line_and_exit_code_2(kdbench, tmp_path, command):
    code, out, err = kdbench(command, tmp_path / "absent")
    assert (code, out) == (2, "") and "no records here" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "absent").exists()


def test_card_prints_the_card_of_a_run_named_by_the_beginning_of_its_id(kdbench, folder):
    run = spec("kd", temperature=8.0, dataset="mnist5k").id
    code, out, _ = kdbench("card", folder, run[:10])
    assert code == 0 and out.startswith("---\n") and f"| {run} " in out


@pytest.mark.parametrize("arguments", [("card",), ("export", "--out", "student")])
def test_an_unknown_run_is_one_line_and_exit_code_2(kdbench, folder, arguments):
    code, out, err = kdbench(arguments[0], folder, "nothing", *arguments[1:])
    assert (code, out) == (2, "") and "no single run 'nothing' among 2" in err and len(err.splitlines()) == 1


def test_export_writes_a_folder_with_weights_and_card(kdbench, tmp_path, cache):
    run_job(teacher_job(smoke("ce"), cache))
    run = run_job(job(smoke("kd"), tmp_path / "runs", cache, "kd"))
    code, out, _ = kdbench("export", tmp_path / "runs", run.run_id[:8], "--out", tmp_path / "new" / "student")
    assert code == 0 and "logits differ by at most 0 on 200 test images" in out
    assert (tmp_path / "new" / "student" / "README.md").read_text().startswith("---\n")
    assert (tmp_path / "new" / "student" / "model.safetensors").exists()


# What stands in a folder, and what one of its runs is.

def test_list_runs_names_each_run_with_what_came_out(kdbench, folder):
    Store(folder).write(record(spec("at", dataset="mnist5k"), status="diverged", reason="diverged at step 3"))
    code, out, _ = kdbench("list", "runs", folder)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4 and lines[0].split()[:2] == ["run", "method"]
    kd = spec("kd", temperature=8.0, dataset="mnist5k").id
    assert any(line.startswith(kd) and " 50.00 " in line and " ok " in line for line in lines)
    assert any("diverged: diverged at step 3" in line for line in lines)
    assert [row["run"] for row in json.loads(kdbench("list", "runs", folder, "--json")[1])] == [
        line.split()[0] for line in lines[1:]]


def test_runs_of_one_method_and_seed_are_told_apart_by_their_settings(kdbench, folder):
    run = spec("kd", dataset="mnist5k")
    for own in (OwnRecipe(lr=.5), OwnRecipe(epochs=9)):
        Store(folder).write(record(run.model_copy(update={"own_recipe": own}), .6))
    Store(folder).write(record(run.teacher.run, .9, role="teacher"))
    rows = json.loads(kdbench("list", "runs", folder, "--json")[1])
    assert sorted((row["method"], row["settings"]) for row in rows) == [
        ("kd", "temperature=4.0, recipe.epochs=9"), ("kd", "temperature=4.0, recipe.lr=0.5"),
        ("kd", "temperature=8.0"), ("mine", "temperature=8.0"),
        ("teacher ce", run.teacher.run.student.model)]
    told = kdbench("show", "kd:0", folder)[2]
    assert "recipe.lr=0.5" in told and "recipe.epochs=9" in told
    assert "'recipe.lr': 0.5" in kdbench("show", run.model_copy(update={"own_recipe": OwnRecipe(lr=.5)}).id, folder)[1]


def test_show_ends_with_the_traceback_of_a_crashed_run(kdbench, folder):
    Store(folder).write(record(spec("at", dataset="mnist5k"), status="crashed", reason="crashed: oh",
                               traceback="Traceback:\n  line 3\x1b[2J\nValueError: oh"))
    assert kdbench("show", "at:0", folder)[1].endswith("\n\nTraceback:\n  line 3\ufffd[2J\nValueError: oh\n")
    assert "traceback" in json.loads(kdbench("show", "at:0", folder, "--json")[1])


@pytest.mark.parametrize("name", ["kd:0", spec("kd", temperature=8.0, dataset="mnist5k").id[:9]])
def test_show_and_card_take_a_run_by_its_id_or_as_method_and_seed(kdbench, folder, name):
    code, out, _ = kdbench("show", name, folder)
    assert code == 0 and spec("kd", temperature=8.0, dataset="mnist5k").id in out.splitlines()[0]
    assert "test_accuracy" in out and "'temperature': 8.0" in out
    assert kdbench("card", folder, name)[0] == 0


def test_a_method_and_seed_of_several_runs_or_none_is_one_line_that_names_them(kdbench, folder):
    Store(folder).write(record(spec("kd", dataset="mnist5k"), .6))
    code, _, err = kdbench("card", folder, "kd:0")
    assert code == 2 and "2 runs are kd:0" in err and "temperature=8.0" in err and "temperature=4.0" in err
    code, _, err = kdbench("card", folder, "kdd:0")
    assert code == 2 and "did you mean 'kd:0'?" in err and err.count("\n") == 1


@pytest.mark.parametrize(("name", "told"), [
    ("ece", "Guo et al., 2017"), ("quick", "mnist5k"), ("fashion_mnist+skew(0.9)", "MIT"),
    ("resnet8x2-resnet8x05", "teacher"), ("kd", "search space"),
])
def test_show_tells_of_methods_metrics_suites_datasets_and_pairs(kdbench, name, told):
    code, out, _ = kdbench("show", name)
    assert code == 0 and told in out and max(map(len, out.splitlines())) <= 120
    assert kdbench("show", name, "--json")[0] == 0


@pytest.mark.parametrize("call", [
    ["list", "runs"], ["list", "methods", "results"], ["show", "ecee"], ["show", "kd:0", "nowhere"],
])
def test_a_mistaken_listing_is_one_line(kdbench, call):
    code, _, err = kdbench(*call)
    assert code == 2 and err.startswith("kdbench: ") and err.count("\n") == 1


# What to take.

def seeded(folder):
    for method, accuracies in (("ce", (.80, .81, .80)), ("kd", (.90, .91, .905))):
        for seed, accuracy in enumerate(accuracies):
            Store(folder).write(record(spec(method, seed, dataset="mnist5k"), accuracy))
    return folder


def test_advise_names_a_method_and_its_reasons(kdbench, tmp_path):
    code, out, _ = kdbench("advise", seeded(tmp_path), "--max-train", "90s")
    assert code == 0 and out.startswith("big-small on mnist5k: take kd\n- ") and "from ce with the same seeds" in out
    (found,) = json.loads(kdbench("advise", tmp_path, "--json")[1])
    assert found["method"] == "kd" and found["excluded"] == {}


def test_advise_that_can_advise_nothing_says_why_and_exits_with_1(kdbench, tmp_path):
    code, out, _ = kdbench("advise", seeded(tmp_path), "--max-latency", "500us")
    assert code == 1 and "no advice" in out and "kdbench profile" in out


@pytest.mark.parametrize(("option", "value"), [
    ("--max-train", "2"), ("--max-train", "fast"), ("--max-latency", "1"), ("--max-latency", "0ms")])
def test_a_wish_that_is_no_cost_is_one_line(kdbench, tmp_path, option, value):
    code, _, err = kdbench("advise", seeded(tmp_path), option, value)
    assert code == 2 and err.startswith(f"kdbench: {option} {value}: expected ") and err.count("\n") == 1


# The leaderboard on a terminal.

def test_two_folders_stand_side_by_side(kdbench, tmp_path):
    seeded(tmp_path / "a")
    seeded(tmp_path / "b")
    code, out, _ = kdbench("leaderboard", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "test acc. A" in out and "B less A" in out


@pytest.mark.parametrize("options", [
    ["--metric", "ecee"], ["--sort", "rank"], ["--methods", "kdd"], ["--format", "csv", "--brief"],
    ["--format", "md", "--metric", "ece"]])
def test_a_mistaken_view_is_one_line(kdbench, tmp_path, options):
    code, _, err = kdbench("leaderboard", seeded(tmp_path), *options)
    assert code == 2 and err.startswith("kdbench: ") and err.count("\n") == 1


def test_marks_have_colours_on_a_terminal_that_wants_them(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("+1 ↑ -1 ↓") == "+1 \033[32m↑\033[0m -1 \033[31m↓\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("+1 ↑") == "+1 ↑"
