import dataclasses
import hashlib
import json
import os
import platform
import runpy
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from support.matrices import job, plugin, smoke, teacher_job

from kdbench.disk import file_sha256, is_locked
from kdbench.finished.reload import dataset_of, reload
from kdbench.folders import CacheFolder
from kdbench.metrics.robustness import MEASURED
from kdbench.networks import build
from kdbench.results.store import Store
from kdbench.results.unfinished import read_progress
from kdbench.robustness.measure import measure
from kdbench.spec import FileTeacher, OwnRecipe
from kdbench.train import checkpoint, scoring, worker
from kdbench.train.process import nondeterminism_noted, place_in
from kdbench.train.trainer import Trainer
from kdbench.train.worker import run_job


@pytest.fixture(autouse=True)
def teacher(cache):
    record = run_job(teacher_job(smoke("ce"), cache))  # trained by the first test, found by the others
    assert record.status == "ok", record.traceback
    return record


def interrupted_after(epochs, monkeypatch):
    """Let the next run save every epoch, and die once it has saved that many."""
    save, saved = checkpoint.save, []
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)

    def save_and_die(path, state):
        save(path, state)
        saved.append(path)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    return saved


def test_the_record_says_what_was_done_and_what_came_out(tmp_path, cache, teacher):
    this = job(smoke("kd"), tmp_path, cache, "kd")
    record = run_job(this)
    assert Store(tmp_path).get(record.run_id) == record
    assert (record.status, record.reason, record.spec, record.run_id) == ("ok", None, this.spec, this.spec.id)
    assert record.method_digest == hashlib.sha256(this.method.file.read_bytes()).hexdigest()
    assert record.seconds > 0 and record.peak_memory_bytes > 2**20
    assert {"loss", "loss.ce", "loss.kd", "validation_accuracy"} <= set(record.curves)
    assert {len(curve) for curve in record.curves.values()} == {this.spec.recipe.epochs}
    assert record.environment["threads"] == 1 and torch.__version__.startswith(
        record.environment["versions"]["torch"])
    assert record.weights_sha256 == file_sha256(Store(tmp_path).files.student(record.run_id))
    assert record.predictions_sha256 == file_sha256(Store(tmp_path).files.predictions(record.run_id))


def test_the_metrics_are_those_of_the_saved_predictions(tmp_path, cache, teacher):
    record = run_job(job(smoke("kd"), tmp_path, cache, "kd"))
    mine = Store(tmp_path).read_predictions(record.run_id)
    theirs = Store(cache / "teachers").read_predictions(teacher.run_id)
    predicted, taught = mine["test_logits"].argmax(1), theirs["test_logits"].argmax(1)
    assert record.metrics["test_accuracy"] == pytest.approx((predicted == mine["test_labels"]).mean())
    assert record.metrics["agreement"] == pytest.approx((predicted == taught).mean())
    assert record.metrics["teacher_test_accuracy"] == pytest.approx((taught == mine["test_labels"]).mean())
    assert np.array_equal(mine["test_labels"], theirs["test_labels"])


def test_the_deployed_network_and_its_teacher_are_attacked_and_corrupted(tmp_path, cache, teacher):
    this = job(smoke("simkd"), tmp_path, cache, "simkd")
    record = run_job(this)
    dataset = dataset_of(record, CacheFolder(cache), "cpu")
    measured = measure(reload(record, Store(tmp_path), this.method, dataset), dataset)
    assert measured.metrics.items() <= record.metrics.items() and measured.vectors.items() <= record.vectors.items()
    assert {name: teacher.metrics[name] for name in MEASURED} == {
        name: record.metrics[f"teacher_{name}"] for name in MEASURED}


def test_the_robustness_of_a_teacher_that_has_not_told_it_is_measured_once_and_kept(tmp_path, cache, teacher):
    teachers = Store(cache / "teachers")
    teachers.write(replace(teacher, metrics={}))
    try:
        record = run_job(job(smoke("kd"), tmp_path, cache, "kd"))
        kept = teachers.files.robustness(teacher.run_id)
        assert kept.is_file()
        kept.write_text(json.dumps({name: .5 for name in MEASURED}))
        again = run_job(job(smoke("kd"), tmp_path / "again", cache, "kd"))
        kept.unlink()
    finally:
        teachers.write(teacher)
    for name in MEASURED:
        assert record.metrics[f"teacher_{name}"] == teacher.metrics[name] and again.metrics[f"teacher_{name}"] == .5


def test_a_run_that_was_interrupted_ends_with_the_same_weights(tmp_path, cache, monkeypatch):
    plan = smoke("dml", settings={"recipe.epochs": 3})
    whole = run_job(job(plan, tmp_path / "whole", cache, "dml"))
    for epochs in (1, 2):
        out = tmp_path / str(epochs)
        with monkeypatch.context() as patch:
            saved = interrupted_after(epochs, patch)
            with pytest.raises(KeyboardInterrupt):
                run_job(job(plan, out, cache, "dml"))
        assert len(saved) == epochs
        torch.manual_seed(epochs)
        resumed = run_job(job(plan, out, cache, "dml"))
        assert resumed.weights_sha256 == whole.weights_sha256
        assert resumed.predictions_sha256 == whole.predictions_sha256
        assert resumed.curves == whole.curves
        assert resumed.metrics["student_passes"] == whole.metrics["student_passes"] >= 2  # two students
    assert not CacheFolder(cache).unfinished(whole.run_id).checkpoint.exists()


def test_a_checkpoint_is_saved_once_enough_training_would_be_lost(tmp_path, cache, monkeypatch):
    clock, train, saved = [0.0], Trainer.train_epoch, []

    def train_for_4_seconds(trainer):
        train(trainer)
        clock[0] += 4

    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trainer, "train_epoch", train_for_4_seconds)
    monkeypatch.setattr(checkpoint, "save", lambda path, state: saved.append(state["trainer"]["epoch"]))
    record = run_job(job(smoke("ce", settings={"recipe.epochs": 8}), tmp_path, cache, "ce"))
    assert saved == [3, 6] and record.seconds == 32  # after 12 and 24 seconds


def test_a_run_is_validated_after_its_first_epoch_at_even_intervals_and_after_its_last(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(scoring, "CURVE_INTERVALS", 3)
    record = run_job(job(smoke("ce", settings={"recipe.epochs": 6}), tmp_path, cache, "ce"))
    curves = record.curves
    assert curves["validation_epoch"] == [1, 3, 5, 6] and len(curves["loss"]) == 6
    assert len(curves["validation_accuracy"]) == 4
    assert curves["validation_accuracy"][-1] == record.metrics["validation_accuracy"]
    monkeypatch.setattr(scoring, "CURVE_INTERVALS", 6)
    often = run_job(job(smoke("ce", settings={"recipe.epochs": 6}), tmp_path / "often", cache, "ce"))
    assert often.curves["validation_epoch"] == [1, 2, 3, 4, 5, 6]
    assert [often.curves["validation_accuracy"][epoch - 1] for epoch in (1, 3, 5, 6)] == curves["validation_accuracy"]
    assert often.weights_sha256 == record.weights_sha256


def test_a_run_of_epochs_of_its_own_is_bit_for_bit_that_of_a_recipe_with_as_many(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(scoring, "CURVE_INTERVALS", 3)
    of_recipe = run_job(job(smoke("ce", settings={"recipe.epochs": 6}), tmp_path / "recipe", cache, "ce"))
    two = job(smoke("ce", settings={"recipe.epochs": 2}), tmp_path / "own", cache, "ce")
    own = run_job(dataclasses.replace(two, spec=two.spec.model_copy(update={"own_recipe": OwnRecipe(epochs=6)})))
    assert own.weights_sha256 == of_recipe.weights_sha256 and own.curves == of_recipe.curves


@pytest.mark.parametrize("epochs", [1, 2, 20, 21, 24, 40, 80, 240])
def test_a_curve_has_every_epoch_of_a_short_run_and_about_twenty_of_a_long_one(epochs):
    points = [epoch for epoch in range(1, epochs + 1) if scoring.is_on_curve(epoch, epochs)]
    assert min(epochs, 11) <= len(points) <= 21 and points[0] == 1 and points[-1] == epochs
    assert len(points) == epochs or epochs > 20
    assert len({later - point for point, later in pairwise(points[:-1])}) <= 1


def test_progress_tells_the_epoch_and_the_last_validation(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(scoring, "CURVE_INTERVALS", 2)
    monkeypatch.setattr(worker, "TELL_EVERY", 0.0)
    told, this = [], job(smoke("ce", settings={"recipe.epochs": 4}), tmp_path, cache, "ce")
    report = worker.report_progress

    def report_and_read(*arguments):
        report(*arguments)
        told.append(read_progress(this.cache.unfinished(this.id)))

    monkeypatch.setattr(worker, "report_progress", report_and_read)
    first, third, _ = run_job(this).curves["validation_accuracy"]
    assert [(one.epoch, one.epochs, one.accuracy) for one in told] == [
        (1, 4, first), (2, 4, first), (3, 4, third), (4, 4, third)]


def test_a_run_tells_in_its_first_epoch_where_it_runs_and_where_it_goes_on_after_an_interruption(
        tmp_path, cache, monkeypatch):
    this = job(smoke("ce", seeds=[12], settings={"recipe.epochs": 4}), tmp_path, cache, "ce")
    folder = this.cache.unfinished(this.id)
    train, told = Trainer.train_epoch, []

    def look_and_train(trainer):
        told.append((read_progress(folder), is_locked(folder.lock)))
        train(trainer)

    monkeypatch.setattr(Trainer, "train_epoch", look_and_train)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(2, patch)
        run_job(this)
    first = told[0][0]
    assert (first.epoch, first.epochs, first.accuracy) == (0, 4, None)
    assert (first.host, first.process, told[0][1]) == (platform.node(), os.getpid(), True)
    assert first.started.endswith("+00:00") and not is_locked(folder.lock)
    told.clear()
    record = run_job(this)
    again = told[0][0]
    assert again.epoch >= 1 and again.accuracy is not None and again.seconds > 0
    assert again.started == record.started and len(told) == 2


def test_a_damaged_checkpoint_is_set_aside_told_and_redone(tmp_path, cache, monkeypatch):
    plan = smoke("ce", seeds=[11])
    this = job(plan, tmp_path, cache, "ce")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(1, patch)
        run_job(this)
    path = CacheFolder(cache).unfinished(this.spec.id).checkpoint
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    record = run_job(this)
    assert record.status == "ok"
    (note,) = record.notes
    assert "does not match its digest" in note and "corrupt-1" in note
    assert path.with_name("checkpoint.corrupt-1").read_bytes() == bytes(content)
    again = run_job(job(smoke("ce", seeds=[11]), tmp_path / "again", cache, "ce"))
    assert again.weights_sha256 == record.weights_sha256


def test_a_checkpoint_of_another_version_of_the_method_is_not_continued(tmp_path, cache, monkeypatch):
    first = job(smoke("mine", plugins=[plugin(tmp_path)]), tmp_path, cache, "mine")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(1, patch)
        run_job(first)
    changed = job(smoke("mine", plugins=[plugin(tmp_path, "None")]), tmp_path, cache, "mine")
    assert changed.spec.id == first.spec.id
    record = run_job(changed)
    assert record.status == "ok" and "another version of the method" in record.notes[0]


@pytest.mark.parametrize(("trouble", "status", "reason"), [
    ("student = student._replace(logits=student.logits * (float('nan') if self.progress > 0.6 else 1))",
     "diverged", "diverged at step "),
    ("raise ValueError('what is\\n this')", "crashed", "crashed: ValueError: what is this"),
    ("raise torch.cuda.OutOfMemoryError('x')", "crashed", "crashed: out of memory"),
])
def test_a_run_that_fails_is_a_record_with_its_reason(tmp_path, cache, trouble, status, reason):
    plan = smoke("mine", plugins=[plugin(tmp_path, trouble, name="mine")], settings={"recipe.epochs": 3})
    this = job(plan, tmp_path, cache, "mine")
    record = run_job(this)
    assert record.status == status and record.reason.startswith(reason)
    assert record.metrics == {} and record.weights_sha256 is None
    assert (record.traceback is not None) == (status == "crashed")
    assert Store(tmp_path).get(record.run_id) == record


def test_the_step_of_a_divergence_is_the_first_with_a_loss_that_is_not_finite(tmp_path, cache):
    trouble = "student = student._replace(logits=student.logits * (float('nan') if self.progress >= 0.5 else 1))"
    this = job(smoke("late", plugins=[plugin(tmp_path, trouble, name="late")]), tmp_path, cache, "late")
    record = run_job(this)
    steps = record.reason.removeprefix("diverged at step ").split(":")[0]
    from kdbench.data.load import load_dataset
    size = len(load_dataset("synthetic", this.spec.recipe, cache / "data", torch.device("cpu")).train)
    assert int(steps) == size // this.spec.recipe.batch_size  # of two epochs, the first step of the second


def test_a_teacher_from_a_file_is_scored_once_and_kept(tmp_path, cache, teacher):
    plan = smoke("kd")
    (spec,) = [s for s in plan.students if s.method == "kd"]
    weights = Store(cache / "teachers").files.student(teacher.run_id)
    from_file = FileTeacher(architecture=spec.teacher.architecture, path=str(weights), sha256=file_sha256(weights))
    this = job(plan, tmp_path, cache, "kd")
    spec = spec.model_copy(update={"teacher": from_file})
    other = type(this)(spec, this.method, "student", "s", tmp_path, CacheFolder(cache))
    trained, loaded = run_job(this), run_job(other)
    assert loaded.run_id != trained.run_id
    assert loaded.weights_sha256 == trained.weights_sha256
    assert loaded.metrics == trained.metrics
    assert loaded.metrics["teacher_parameters"] == teacher.metrics["parameters"] > loaded.metrics["parameters"] > 0


def test_the_student_file_loads_into_timms_own_model(tmp_path, cache):
    from safetensors.torch import load_file
    record = run_job(job(smoke("ce"), tmp_path, cache, "ce"))
    network = build(record.spec.student, 10, (3, 16, 16))
    network.model.load_state_dict(load_file(Store(tmp_path).files.student(record.run_id)))


class Untouchable:
    """Stands where the test split stands, and does not let itself be used."""

    def __getattr__(self, name):
        raise AssertionError(f"the test split was touched: {name}")

    def __len__(self):
        raise AssertionError("the test split was counted")


def without_test_split(monkeypatch):
    load = worker.load_dataset
    monkeypatch.setattr(worker, "load_dataset", lambda *args: dataclasses.replace(load(*args), test=Untouchable()))


def trial(tmp_path, cache, method):
    return dataclasses.replace(job(smoke(method), tmp_path, cache, method), role="trial")


@pytest.mark.parametrize("method", ["ce", "kd"])
def test_a_trial_never_touches_the_test_split(tmp_path, cache, method, monkeypatch):
    without_test_split(monkeypatch)
    record = run_job(trial(tmp_path, cache, method))
    assert record.status == "ok", record.traceback
    assert record.role == "trial" and set(record.metrics) == {"validation_accuracy"}


def test_a_run_that_is_no_trial_does_touch_it(tmp_path, cache, monkeypatch):
    without_test_split(monkeypatch)
    assert "the test split was" in run_job(job(smoke("ce"), tmp_path, cache, "ce")).reason


def test_a_trial_scores_on_validation_what_the_same_run_does_and_leaves_its_record_alone(tmp_path, cache):
    record = run_job(trial(tmp_path / "trial", cache, "kd"))
    same = run_job(job(smoke("kd"), tmp_path / "run", cache, "kd"))
    assert record.run_id == same.run_id and record.curves == same.curves
    assert record.metrics["validation_accuracy"] == same.metrics["validation_accuracy"]
    assert [path.name for path in (tmp_path / "trial").rglob("*") if path.is_file()] == [f"{record.run_id}.json"]


# Runs that are stopped since they are behind.

FIVE = {"recipe.epochs": 5}


def behind(this, *stop_below):
    return dataclasses.replace(this, role="trial", stop_below=stop_below)


@pytest.fixture
def whole(tmp_path, cache):
    """A run of five epochs that nothing stops."""
    return run_job(job(smoke("kd", settings=FIVE), tmp_path / "whole", cache, "kd"))


def test_the_first_stop_is_where_the_best_so_far_is_below_the_threshold_of_the_epoch():
    curves = {"validation_epoch": [1, 3, 5, 7], "validation_accuracy": [.5, .4, .6, .3], "loss": [1.0] * 7}
    for stop_below, expected in (
            ((), None),
            (((3, .5), (5, .6), (7, .6)), None),          # as high is not below, and the best so far counts
            (((3, .51), (5, .7)), (3, .5, .51)),
            (((7, .8), (5, .61)), (5, .6, .61)),          # the first, in whatever order they stand
            (((2, .9), (4, .9), (6, .9), (8, .9)), None)):  # at no point of the curve
        assert scoring.first_stop(curves, stop_below) == expected
    assert scoring.first_stop({}, ((1, .5),)) is None


def test_a_run_that_is_behind_ends_after_that_very_epoch_and_its_record_says_so(tmp_path, cache, whole):
    this = behind(job(smoke("kd", settings=FIVE), tmp_path / "pruned", cache, "kd"), (2, 0.0), (3, 1.0), (4, 1.0))
    record = run_job(this)
    best = max(whole.curves["validation_accuracy"][:3])
    assert (record.status, record.role, record.metrics) == ("pruned", "trial", {})
    assert record.reason == (f"pruned after epoch 3 of 5: its best validation accuracy, {best:.2%}, is below 100.00%, "
                             "the median of earlier trials")
    assert record.curves == {name: values[:3] for name, values in whole.curves.items()}
    assert record.seconds > 0 and record.peak_memory_bytes > 2**20 and record.dataset_digest == whole.dataset_digest
    assert Store(tmp_path / "pruned").get(record.run_id) == record
    assert [path.name for path in (tmp_path / "pruned").rglob("*") if path.is_file()] == [f"{record.run_id}.json"]


def test_a_run_that_is_pruned_leaves_no_checkpoint_and_no_progress(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(worker, "TELL_EVERY", 0.0)
    record = run_job(behind(job(smoke("ce", settings=FIVE), tmp_path, cache, "ce"), (3, 1.0)))
    unfinished = CacheFolder(cache).unfinished(record.run_id)
    assert record.status == "pruned" and not unfinished.checkpoint.exists() and not unfinished.progress.exists()


def test_a_run_that_is_not_behind_trains_to_the_same_weights_as_without_thresholds(tmp_path, cache, whole):
    accuracies = whole.curves["validation_accuracy"]
    this = job(smoke("kd", settings=FIVE), tmp_path / "ahead", cache, "kd")
    same = run_job(dataclasses.replace(this, stop_below=tuple(enumerate(accuracies[:4], start=1))))
    assert same.status == "ok" and same.weights_sha256 == whole.weights_sha256 and same.curves == whole.curves


def test_a_pruned_run_never_touches_the_test_split(tmp_path, cache, monkeypatch):
    without_test_split(monkeypatch)
    record = run_job(behind(job(smoke("kd", settings=FIVE), tmp_path, cache, "kd"), (3, 1.0)))
    assert record.status == "pruned", record.reason


@pytest.mark.parametrize("epochs", [
    pytest.param(1, marks=pytest.mark.slow), 2, 3, pytest.param(4, marks=pytest.mark.slow), 5])
def test_a_run_that_was_interrupted_before_or_beyond_where_it_stops_has_the_record_of_an_undisturbed_one(
        tmp_path, cache, monkeypatch, epochs):
    """Beyond, since the checkpoint may be of the same run in a study without a pruner."""
    this = job(smoke("dml", settings=FIVE), tmp_path / "pruned", cache, "dml")
    undisturbed = run_job(behind(this, (3, 1.0)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(epochs, patch)
        run_job(dataclasses.replace(this, out=tmp_path / "other"))
    resumed = run_job(behind(dataclasses.replace(this, out=tmp_path / "resumed"), (3, 1.0)))
    assert resumed.status == "pruned" and resumed.notes == []
    assert (resumed.reason, resumed.curves) == (undisturbed.reason, undisturbed.curves)


def test_a_learning_rate_of_a_runs_own_is_what_it_trains_by(tmp_path, cache):
    plan = smoke("ce")
    plain = job(plan, tmp_path / "plain", cache, "ce")
    own = dataclasses.replace(plain, out=tmp_path / "own",
                              spec=plain.spec.model_copy(update={"own_recipe": OwnRecipe(lr=0.05)}))
    there = job(smoke("ce", settings={"recipe.epochs": 2, "recipe.lr": 0.05}), tmp_path / "there", cache, "ce")
    weights = [run_job(one).weights_sha256 for one in (plain, own)]
    assert weights[0] != weights[1]
    run_job(dataclasses.replace(there, spec=there.spec.model_copy(update={"teacher": None})))
    assert Store(tmp_path / "there").read()[0][0].weights_sha256 == weights[1]


@pytest.mark.parametrize("trouble", [
    "next(self.ctx.teacher.parameters()).data.add_(1e-3 * (self.step_index == 0))",
    "self.ctx.teacher.train(); self.ctx.teacher(batch.images)",
])
def test_a_run_whose_method_changed_its_teacher_fails(tmp_path, cache, trouble):
    record = run_job(job(smoke("mine", plugins=[plugin(tmp_path, trouble)]), tmp_path, cache, "mine"))
    assert record.status == "crashed" and not record.metrics
    assert record.reason == ("crashed: Mine (mine.py) changed the weights or statistics of its teacher, which every "
                             "method must leave as they are")
    assert not Store(tmp_path).files.student(record.run_id).exists()


def test_a_record_keeps_what_tables_say_of_its_method_and_images(tmp_path, cache):
    plan = smoke("kd")
    record = run_job(job(plan, tmp_path, cache, "kd"))
    assert Store(tmp_path).get(record.run_id).facts == plan.methods["kd"].facts
    assert record.facts.defaults == {"temperature": 4.0, "alpha": 0.9}
    assert record.classes == tuple(f"pattern {i}" for i in range(10))
    assert record.split_sizes == {"train": 900, "validation": 100, "test": 200}
    assert record.facts.paper.arxiv == "1503.02531"
    assert record.facts.idea == "The student matches the teacher's softened class probabilities."


def test_an_operation_without_a_deterministic_kernel_is_noted_once_and_other_warnings_are_shown():
    notes = []
    with pytest.warns(UserWarning, match="something else") as shown, nondeterminism_noted(notes):
        for _ in range(2):
            warnings.warn("pool_backward_cuda does not have a deterministic implementation, but you set ...",
                          stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert notes == ["pool_backward_cuda has no deterministic kernel on this device: a rerun may differ in its last "
                     "digits"]
    assert len(shown) == 1


@pytest.mark.parametrize(("cheap", "epochs"), [(1.0, [1, 2, 3, 4, 5]), (1 / 3, [1, 4])])
def test_where_saving_is_slow_checkpoints_are_written_more_seldom(tmp_path, cache, monkeypatch, cheap, epochs):
    """An epoch takes a second here, and so does saving."""
    clock, saved = iter(range(10**6)), []
    monkeypatch.setattr(worker.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(checkpoint, "EVERY", 1.0)
    monkeypatch.setattr(checkpoint, "CHEAP", cheap)
    monkeypatch.setattr(checkpoint, "save", lambda path, state: saved.append(state["trainer"]["epoch"]))
    run_job(job(smoke("ce", settings={"recipe.epochs": 5}), tmp_path, cache, "ce"))
    assert saved == epochs


def test_the_line_of_a_plugin_is_told_though_it_was_given_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def fail():\n    raise ValueError('oh')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="oh") as raised:
        runpy.run_path(str(tmp_path / "mine.py"))["fail"]()
    assert place_in(raised.value, Path("mine.py")) == " (mine.py, line 2)"
