import json
import random
from pathlib import Path

import pytest
from support.matrices import plugin, smoke
from support.object_store import Objects
from support.studies import killed, study, told

from kdbench.analysis.build import build
from kdbench.data import collect
from kdbench.disk import json_files
from kdbench.errors import UserError
from kdbench.execution.estimate import Estimator
from kdbench.execution.executor import Order
from kdbench.folders import CacheFolder, MirrorFolder
from kdbench.remote.mirror import Mirror
from kdbench.results.store import Store
from kdbench.tune.choice import read_choices
from kdbench.tune.study import Runner

SMALL = ("--set", "recipe.epochs=1", "--trials", "6", "--sampler-seed", "3")  # two batches, the second incomplete
SUITE = """
methods = ["kd"]
pairs = ["resnet8x2-resnet8x05"]
datasets = ["synthetic"]
[recipe]
epochs = 1
batch_size = 32
image_size = 16
lr = 0.1
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A study by one worker."""
    folder = tmp_path_factory.mktemp("study") / "one"
    study(folder, tmp_path_factory.getbasetemp() / "cache", *SMALL, "--workers", "1")
    return folder


def test_every_method_gets_as_many_trials_on_seeds_of_their_own_and_the_first_is_its_default(undisturbed):
    found = read_choices(undisturbed)
    assert [(one.method, len(one.trials)) for one in found.choices] == [("ce", 6), ("kd", 6)]
    kd = found.choices[1].trials
    assert kd[0].hyperparameters == {"temperature": 4.0, "alpha": 0.9} and kd[0].recipe == {}
    assert all(trial.recipe["lr"] != 0.05 for one in found.choices for trial in one.trials[1:])
    records, _ = Store(undisturbed).read()
    trials = [record for record in records if record.role == "trial"]
    assert {record.spec.seed for record in trials} == {1_000_000, 1_000_001} and len(trials) == 24
    assert {record.spec.cell for record in trials} == {found.choices[0].cell}


def test_a_study_keeps_neither_networks_nor_predictions_of_its_trials(undisturbed):
    (teacher,) = [r for r in Store(undisturbed).read()[0] if r.role == "teacher"]
    assert not (undisturbed / "students").exists()
    assert [path.stem for path in (undisturbed / "predictions").iterdir()] == [teacher.run_id]


@pytest.mark.slow
def test_a_study_of_three_workers_equals_that_of_one_trial_by_trial(undisturbed, tmp_path, kdbench):
    code, out, _ = kdbench("tune", "smoke", *SMALL, "--out", tmp_path / "three", "--workers", "3", "--teacher-cache",
                           "0")
    assert code == 0 and "chosen by mean validation accuracy over 2 seeds" in out
    assert told(tmp_path / "three") == told(undisturbed)


def test_a_run_that_takes_too_long_is_a_failed_trial(tmp_path, kdbench):
    asleep = plugin(tmp_path, "__import__('time').sleep(600)")
    kdbench("run", "smoke", "--methods", "ce", "--seeds", "1", "--out", tmp_path / "teacher")
    code, out, _ = kdbench("tune", "smoke", "--plugin", asleep, "--methods", "mine", "--trials", "1", "--tune-seeds",
                           "1", "--out", tmp_path / "out", "--run-timeout", "1")
    ((trial,),) = [one.trials for one in read_choices(tmp_path / "out").choices]
    assert code == 1 and trial.status == "timeout"
    assert f"`kdbench run smoke --methods mine --plugin {asleep} --tuned {tmp_path / 'out'}` trains by it" in out


def test_a_finished_study_trains_nothing_and_says_the_same_again(undisturbed, kdbench):
    before, said = {path: Path(path).stat().st_mtime_ns for path in json_files(undisturbed / "records")}, \
        (undisturbed / "tune" / "choices.json").read_bytes()
    code, out, _ = kdbench("tune", "smoke", *SMALL, "--out", undisturbed)
    assert code == 0 and "[1/" not in out and "saved" not in out
    assert f"`kdbench run smoke --set recipe.epochs=1 --tuned {undisturbed}` trains by it" in out
    assert {path: Path(path).stat().st_mtime_ns for path in json_files(undisturbed / "records")} == before
    assert (undisturbed / "tune" / "choices.json").read_bytes() == said


@pytest.mark.slow
def test_a_study_that_was_killed_equals_the_undisturbed_one_trial_by_trial(undisturbed, tmp_path, cache):
    kills = [(5, 0.2), (19, 0.1)]  # in the first batch, and in the second
    killed(tmp_path / "killed", cache, kills, *SMALL, "--workers", "2")
    assert told(tmp_path / "killed") == told(undisturbed)
    assert len(json_files(tmp_path / "killed" / "records")) == len(json_files(undisturbed / "records"))


@pytest.mark.slow
def test_a_study_that_was_killed_ten_times_equals_the_undisturbed_one(undisturbed, tmp_path, cache):
    draw = random.Random(0)
    counts = sorted(draw.choices(range(23), k=10))
    kills = [(count, draw.uniform(0, 0.6)) for count in counts]
    killed(tmp_path / "killed", cache, kills, *SMALL, "--workers", "2")
    assert told(tmp_path / "killed") == told(undisturbed)
    assert len(json_files(tmp_path / "killed" / "records")) == len(json_files(undisturbed / "records"))


def test_final_runs_take_seeds_of_their_own_and_stand_beside_the_defaults_in_one_table(undisturbed, tmp_path, kdbench):
    results = tmp_path / "results"
    run = ("run", "smoke", "--methods", "kd", "--set", "recipe.epochs=1", "--seeds", "1", "--out", results)
    assert kdbench(*run)[0] == 0
    code, _, err = kdbench(*run, "--tuned", undisturbed)
    assert code == 0, err
    students = [record for record in Store(results).read()[0] if record.role == "student"]
    choice = read_choices(undisturbed).choices[1]
    assert {record.spec.seed for record in students} == {0} and {r.spec.cell for r in students} == {choice.cell}
    tuned = {True: 1, False: 0}[choice.status == "tuned"]
    assert len(students) == 1 + tuned
    assert any(record.spec.hyperparameters == choice.hyperparameters for record in students)
    (cell,) = build(results).cells
    assert sorted((row.label, row.conditions[:1]) for row in cell.rows) == (
        [("kd", ()), ("kd (tuned)", ("tuned",))] if tuned else [("kd", ("tuned: default kept",))])
    kdbench("report", results)
    assert kdbench("report", "--check", results)[0] == 0 and kdbench("fsck", results)[0] == 0


def test_a_folder_of_trials_has_no_leaderboard_and_nothing_foreign(undisturbed, kdbench):
    code, _, err = kdbench("leaderboard", undisturbed)
    assert code == 2 and "holds trials of `kdbench tune`, and no results" in err
    code, out, _ = kdbench("fsck", undisturbed)
    assert code == 0 and "0 foreign" in out and "0 missing" in out


def test_a_method_whose_every_trial_diverges_is_reported_and_not_tried_again(tmp_path, kdbench):
    file = plugin(tmp_path, "return {'ce': student.logits.sum() * float('nan')}")
    command = ("tune", "smoke", "--set", "recipe.epochs=1", "--methods", "mine", "--plugin", file, "--trials", "2",
               "--tune-seeds", "1", "--out", tmp_path / "out")
    code, out, _ = kdbench(*command)
    (choice,) = read_choices(tmp_path / "out").choices
    assert code == 1 and "failed: " in out
    assert (choice.status, choice.trial, choice.accuracy) == ("failed", 0, None)
    assert [(trial.status, trial.accuracies) for trial in choice.trials] == [("diverged", [None])] * 2
    before = {path: Path(path).stat().st_mtime_ns for path in json_files(tmp_path / "out" / "records")}
    assert kdbench(*command)[0] == 1
    assert {path: Path(path).stat().st_mtime_ns for path in json_files(tmp_path / "out" / "records")} == before


def test_a_teacher_that_fails_stops_the_study_and_leaves_no_trial_that_never_began(tmp_path, kdbench):
    file = plugin(tmp_path, "raise RuntimeError('no teacher today')")
    file.write_text(file.read_text().replace("def losses", "learns_from = None\n\n    def losses"))
    (tmp_path / "mine.toml").write_text(SUITE.replace("[recipe]", 'reference = "mine"\n[recipe]'))
    code, _, err = kdbench("tune", "mine.toml", "--plugin", file, "--trials", "1", "--tune-seeds", "1",
                           "--out", tmp_path / "out")
    assert code == 2 and "no teacher today" in err and "the same command tries again" in err
    assert json_files(tmp_path / "out" / "records") == []


class Failing:
    """Runs nothing: every teacher fails, and with it the runs that need it. `upload` is called after each."""

    workers, here = 1, True

    def __init__(self, upload):
        self.upload = upload

    def call(self, function, *arguments):
        return {}, {}

    def run(self, jobs, work, watch):
        order = Order(jobs)
        for job in order.ready():
            order.waiting.remove(job)
            record = work.fail(job, "crashed", "no teacher today")
            order.ended(job, record)
            yield job, record
        for job, reason in order.hopeless():
            record = work.fail(job, "crashed", reason)
            self.upload()
            yield job, record


def test_a_study_at_an_object_store_tries_a_teacher_that_failed_again_each_time(tmp_path):
    """The records of trials without a teacher go up while the command runs, and come down for the next one."""
    mirror = Mirror(MirrorFolder(tmp_path / "mirror"), Objects())
    runner = Runner(mirror.folder.results, CacheFolder(tmp_path / "cache"), Failing(mirror.push), Estimator(),
                    lambda line: None, 0)
    for _ in range(3):
        with mirror.written():
            mirror.pull(networks=True)
            with pytest.raises(UserError, match=r"its teacher, run .*, failed: no teacher today; the same command"):
                runner.run(smoke("kd"), {})
            mirror.push()


# Mistakes.

@pytest.mark.parametrize(("options", "space", "message"), [
    (["--sampler", "tpee"], "", "unknown sampler 'tpee'; did you mean 'tpe'?"),
    (["--trials", "0"], "", "--trials 0: expected 1 to"),
    (["--tune-seeds", "0"], "", "--tune-seeds 0: expected 1 to"),
    (["--pruner", "mean"], "", "unknown pruner 'mean'; did you mean 'median'? (allowed: median, off)"),
    (["--sampler-seed", "-1"], "", "--sampler-seed -1: expected 0 to"),
    (["--sampler", "grid"], "", "--trials 16: fewer than the 81 points of the grid of kd (temperature, alpha, "),
    ([], "[space.kd]\nalpha = [1.0, 0.5]", "mine.toml: space.kd.alpha: an empty range, 1.0 to 0.5"),
    ([], "[space.kd]\nalpha = [0.1, 0.5]", "mine.toml: space.kd.alpha: contradictory"),
    ([], "[space.kd]\nbeta = [0.1, 0.5]", "unknown value of mine.toml: space.kd 'beta'"),
    ([], "[space.kdd]\nalpha = [0.1, 0.5]", "unknown method of mine.toml: space 'kdd'; did you mean"),
    ([], "[space.recipe]\nlr = [0.0, 0.5]", "mine.toml: space.recipe.lr: a rate is above zero"),
    (["--methods", "kdd"], "", "unknown method 'kdd'"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, kdbench, options, space, message):
    (tmp_path / "mine.toml").write_text(f"{SUITE}\n{space}\n")
    code, _, err = kdbench("tune", "mine.toml", "--out", tmp_path / "out", *options)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_validation_images_is_refused(tmp_path, kdbench, monkeypatch):
    whole = collect.collect

    def without(*args):
        found = whole(*args)
        return found.__class__(found.classes, {**found.splits, "validation": found.splits["validation"].pick([])},
                               found.group_names)

    monkeypatch.setattr(collect, "collect", without)
    code, _, err = kdbench("tune", "smoke", "--out", tmp_path / "out")
    assert code == 2 and "dataset synthetic: no validation images" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--sampler", "random"], "it holds another study: sampler is tpe there and random here"),
    (["--sampler-seed", "4"], "sampler_seed is 3 there and 4 here"),
    (["--tune-seeds", "3"], "seeds is [1000000, 1000001] there and [1000000, 1000001, 1000002] here"),
    (["--set", "kd.alpha=0.5"], "kd tiny synthetic"),
    (["--pruner", "median"], "pruner is None there and median here"),
])
def test_a_folder_that_holds_another_study_is_refused_and_left_as_it_is(undisturbed, kdbench, options, message):
    said = (undisturbed / "tune" / "study.json").read_bytes()
    code, _, err = kdbench("tune", "smoke", *SMALL, "--out", undisturbed, *options)
    assert code == 2 and message in err and "choose another folder with --out" in err
    assert (undisturbed / "tune" / "study.json").read_bytes() == said


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shared": 3}', '{"shared": {}, "studies": []}'])
def test_a_damaged_study_is_refused(tmp_path, kdbench, content):
    (tmp_path / "out" / "tune").mkdir(parents=True)
    (tmp_path / "out" / "tune" / "study.json").write_text(content)
    code, _, err = kdbench("tune", "smoke", *SMALL, "--out", tmp_path / "out")
    assert code == 2 and "--out" in err


def test_show_prints_the_space_of_a_method(kdbench):
    code, out, _ = kdbench("show", "kd")
    assert code == 0 and "alpha                0 to 1, linear" in out and "recipe.lr" in out
    shown = json.loads(kdbench("show", "kd", "--json")[1])
    assert [row["tuned"] for row in shown["space"]] == ["temperature", "alpha", "recipe.lr", "recipe.weight_decay"]
