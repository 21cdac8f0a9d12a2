from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from kdbench.errors import UserError
from kdbench.finished.evaluate import Evaluation, evaluate
from kdbench.folders import CacheFolder
from kdbench.metrics.answers import answers
from kdbench.metrics.catalog import score, vectors
from kdbench.results.record import Record, as_recorded
from kdbench.results.store import Store
from kdbench.spec import Architecture, HubTeacher, Recipe, RunSpec, TrainedTeacher, teacher_id

CACHE = CacheFolder(Path("nowhere"))
RECIPE = Recipe(epochs=1, batch_size=8, image_size=8, lr=0.1)
TEACHER = RunSpec(method="ce", pair="a", student=Architecture(model="big"), dataset="digits", recipe=RECIPE, seed=1000)
STUDENT = RunSpec(method="kd", pair="a", student=Architecture(model="small"), teacher=TrainedTeacher(run=TEACHER),
                  dataset="digits", recipe=RECIPE, seed=0)


def predictions(seed):
    generator = np.random.default_rng(seed)
    return {f"{split}_{kind}": array for split in ("validation", "test") for kind, array in (
        ("logits", generator.normal(size=(20, 4)).astype(np.float32)), ("labels", np.arange(20) % 4))}


def save(store, run, seed, role="student", metrics=None) -> None:
    digest = store.write_predictions(run.id, predictions(seed))
    store.write(Record(run_id=run.id, role=role, suite="tiny", spec=run, status="ok", metrics=metrics or {}, seconds=1,
                       predictions_sha256=digest, method_digest="a", started="2026-01-01T00:00:00Z",
                       finished="2026-01-01T00:00:02Z", curves={"loss": [1.0]}))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    save(store, STUDENT, 0, metrics={"test_accuracy": .123, "pgd_accuracy": .25})
    save(store, TEACHER, 1, "teacher")
    return store


def test_metrics_are_computed_anew_and_everything_else_in_the_record_stays(store):
    before = store.get(STUDENT.id)
    assert evaluate(store.folder, CACHE) == Evaluation(changed=2, unchanged=0, problems=())
    after = store.get(STUDENT.id)
    assert after.metrics == {**score(predictions(0), predictions(1)), "pgd_accuracy": .25}
    assert after.vectors == vectors(predictions(0)) and after.answers == answers(predictions(0))
    assert replace(after, metrics=before.metrics, vectors={}, answers=None) == before
    assert store.get(TEACHER.id).metrics == score(predictions(1))
    assert evaluate(store.folder, CACHE) == Evaluation(changed=0, unchanged=2, problems=())


def test_metrics_of_a_run_on_cpu_portable_keep_their_digits(tmp_path):
    store, run = Store(tmp_path), TEACHER.model_copy(update={"device": "cpu-portable"})
    save(store, run, 1, "teacher")
    evaluate(store.folder, CACHE)
    assert store.get(run.id).metrics == as_recorded(score(predictions(1)), "cpu-portable") != score(predictions(1))


def test_vectors_that_were_measured_stay(store):
    record = store.get(STUDENT.id)
    store.write(replace(record, vectors={"corruption_accuracy.jpeg": [.5, .4, .3]}))
    evaluate(store.folder, CACHE)
    assert store.get(STUDENT.id).vectors == {**vectors(predictions(0)), "corruption_accuracy.jpeg": [.5, .4, .3]}


def test_predictions_that_are_damaged_or_missing_leave_the_record_as_it_was(store):
    path = store.files.predictions(STUDENT.id)
    path.write_bytes(path.read_bytes()[:-1])
    before = store.get(STUDENT.id)
    result = evaluate(store.folder, CACHE)
    assert (result.changed, len(result.problems)) == (1, 1) and "damaged" in result.problems[0]
    assert store.get(STUDENT.id) == before
    store.files.predictions(TEACHER.id).unlink()
    problems = evaluate(store.folder, CACHE).problems
    assert any(f"no saved predictions of run {TEACHER.id}" in problem for problem in problems)


def test_predictions_that_are_not_the_recorded_ones_are_not_scored(store):
    store.write_predictions(STUDENT.id, predictions(5))
    assert "SHA-256" in evaluate(store.folder, CACHE).problems[0]
    assert store.get(STUDENT.id).metrics["test_accuracy"] == .123


def test_damaged_records_are_told_and_failed_runs_left_alone(store):
    failed = STUDENT.model_copy(update={"seed": 1})
    store.write(Record(run_id=failed.id, role="student", suite="tiny", spec=failed, status="crashed", reason="memory",
                       seconds=0, method_digest="a", started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:02Z"))
    store.files.record("0" * 16).write_bytes(b"{")
    result = evaluate(store.folder, CACHE)
    assert result.changed == 2 and "truncated" in result.problems[0] and len(result.problems) == 1
    assert store.get(failed.id).metrics == {}


def test_trials_which_keep_no_predictions_are_no_problems(store):
    trial = STUDENT.model_copy(update={"seed": 1_000_000})
    save(store, trial, 2, "trial", metrics={"test_accuracy": .123})
    store.files.predictions(trial.id).unlink()
    before = store.get(trial.id)
    assert evaluate(store.folder, CACHE) == Evaluation(changed=2, unchanged=0, problems=())
    assert store.get(trial.id) == before


def test_a_teacher_s_predictions_are_also_found_in_the_cache(tmp_path, cache):
    hub = STUDENT.model_copy(update={"teacher": HubTeacher(architecture=Architecture(model="big"), tag="in1k")})
    save(Store(tmp_path), hub, 0)
    Store(CacheFolder(cache).teachers).write_predictions(teacher_id(hub), predictions(1))
    assert evaluate(tmp_path, CacheFolder(cache)).changed == 1
    assert Store(tmp_path).get(hub.id).metrics == score(predictions(0), predictions(1))


def test_a_folder_without_records_is_a_user_error_and_stays_untouched(tmp_path):
    with pytest.raises(UserError, match="no records"):
        evaluate(tmp_path / "absent", CACHE)
    assert not (tmp_path / "absent").exists()


def test_a_folder_in_use_is_not_evaluated(store):
    with store.lock(), pytest.raises(UserError, match="in use"):
        evaluate(store.folder, CACHE)


def test_a_teacher_s_predictions_that_are_not_the_recorded_ones_change_no_record(store):
    others = [STUDENT.model_copy(update={"seed": seed}) for seed in (1, 2)]
    for other in others:
        save(store, other, 7)
    evaluate(store.folder, CACHE)
    before = store.read()[0]
    path = store.files.predictions(TEACHER.id)
    path.write_bytes(store.files.predictions(STUDENT.id).read_bytes())
    result = evaluate(store.folder, CACHE)
    assert result.changed == 0 and store.read()[0] == before
    (problem,) = result.problems
    assert str(path) in problem and "SHA-256" in problem


def test_a_teacher_without_a_record_is_told_once_and_its_students_keep_their_records(store):
    save(store, STUDENT.model_copy(update={"seed": 1}), 7)
    evaluate(store.folder, CACHE)
    before = store.read()[0]
    store.files.record(TEACHER.id).unlink()
    result = evaluate(store.folder, CACHE)
    assert result.changed == 0 and store.read()[0] == [record for record in before if record.run_id != TEACHER.id]
    (problem,) = result.problems
    assert TEACHER.id in problem and "missing" in problem


def test_the_cache_s_record_of_a_teacher_tells_which_predictions_are_its_own(tmp_path):
    cache = tmp_path / "cache"
    save(Store(tmp_path), STUDENT, 0)
    teachers = Store(CacheFolder(cache).teachers)
    save(teachers, TEACHER, 1, "teacher")
    assert evaluate(tmp_path, CacheFolder(cache)) == Evaluation(changed=1, unchanged=0, problems=())
    teachers.write_predictions(TEACHER.id, predictions(2))
    assert "SHA-256" in evaluate(tmp_path, CacheFolder(cache)).problems[0]
