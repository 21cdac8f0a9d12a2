"""Repeating finished runs and judging how they come out."""

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console
from support.folders import finish
from support.matrices import smoke
from support.records import record, spec, teacher_spec

from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.execution.display import PlainDisplay
from kdbench.execution.matrix import Matrix
from kdbench.execution.pool import LocalPool
from kdbench.finished.verify import compare, draw, exit_code, verify
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.store import Store
from kdbench.spec import OwnRecipe, TrainedTeacher

HERE = {"python": "3.11", "versions": {"torch": "2.6"}, "cpu": "one", "git_commit": "a" * 40}
SAME = {"weights_sha256": "a", "predictions_sha256": "b", "environment": HERE, "dataset_digest": "c"}
OTHER = {"environment": HERE | {"cpu": "another", "versions": {"torch": "2.7"}}, "weights_sha256": "d"}
ROW = [.50, .52, .54]  # a standard deviation of 2 points


def judged(accuracy=.5, accuracies=ROW, **changes):
    run = spec("kd")
    again = record(run, accuracy, **{**SAME, **changes})
    rows = {(run.cell, *run.settings): list(accuracies)}
    return compare(record(run, .5, **SAME), again, rows)


def test_equal_weights_predictions_and_metrics_are_bit_equal_whatever_the_machine():
    assert judged().outcome == "bit-equal"
    assert judged(environment=OTHER["environment"]).outcome == "bit-equal"


@pytest.mark.parametrize(("changes", "told"), [
    ({"weights_sha256": "x"}, "weights differ"), ({"predictions_sha256": "x"}, "predictions differ"),
    ({"accuracy": .5001}, "1 of 1 metrics differ"),
])
def test_any_difference_in_the_same_environment_is_different(changes, told):
    verdict = judged(**changes)
    assert verdict.outcome == "different" and told in verdict.why and "the environment is the same" in verdict.why


@pytest.mark.parametrize(("accuracy", "outcome"), [(.5399, "within noise"), (.4601, "within noise"),
                                                   (.5401, "different"), (.4599, "different")])
def test_on_another_machine_two_standard_deviations_between_seeds_are_noise(accuracy, outcome):
    verdict = judged(accuracy, **OTHER)
    assert verdict.outcome == outcome and "the noise of 3 seeds, ± 4.00%" in verdict.why
    assert "cpu one -> another" in verdict.why and "torch 2.6 -> 2.7" in verdict.why and "python" not in verdict.why


@pytest.mark.parametrize(("device", "outcome"), [("cpu", "within noise"), ("cpu-portable", "different")])
def test_another_processor_excuses_other_bits_but_on_cpu_portable(device, outcome):
    first = replace(record(spec("kd"), .5, **SAME), spec=spec("kd").model_copy(update={"device": device}))
    again = replace(first, weights_sha256="x", environment=HERE | {"cpu": "another"})
    rows = {(first.spec.cell, *first.spec.settings): ROW}
    assert compare(first, again, rows).outcome == outcome
    assert compare(first, replace(first, environment=again.environment), rows).outcome == "bit-equal"


class Elsewhere:
    """An executor for which all runs apply and come out at 60 %, with other weights on another machine."""

    workers, here = 1, True

    def start(self):
        pass

    def call(self, *arguments):
        return {}, {}

    def run(self, jobs, work, watch):
        for job in jobs:
            yield job, finish(Store(job.out), job.spec, job.role, accuracy=.6, dataset_digest=SAME["dataset_digest"],
                              environment=OTHER["environment"])


@pytest.mark.parametrize("changes", [
    {"own_recipe": OwnRecipe(lr=.2)}, {"updates": 3}, {"self_teacher": TrainedTeacher(run=teacher_spec("synthetic"))},
    {"hyperparameters": {"temperature": 5.0}}, {"method": "dkd"}])
def test_the_noise_is_that_of_the_seeds_that_were_given_the_same(tmp_path, cache, changes):
    store, usual = Store(tmp_path), [spec("kd", seed, "synthetic") for seed in range(3)]
    for run, accuracy in zip(usual, (.49, .50, .51), strict=True):  # within 2 points
        store.write(record(run, accuracy, **SAME))
    for run, accuracy in zip(usual, (.30, .50, .70), strict=True):
        store.write(record(run.model_copy(update=changes), accuracy, **SAME))
    names = [usual[1].id, usual[1].model_copy(update=changes).id]
    verdicts = list(verify(tmp_path, names, 5, Registry(), CacheFolder(cache), Elsewhere(),
                           PlainDisplay(Console(quiet=True), 1), print))
    assert [verdict.outcome for verdict in verdicts] == ["different", "within noise"]
    assert all("the noise of 3 seeds" in verdict.why for verdict in verdicts)


def test_fewer_than_three_seeds_are_not_compared():
    verdict = judged(.1, ROW[:2], **OTHER)
    assert verdict.outcome == "not comparable" and "2 seeds" in verdict.why


def test_another_version_of_the_method_is_another_environment():
    verdict = judged(.5, weights_sha256="x", method_digest="f" * 64)
    assert verdict.outcome == "within noise" and "source of the method aaaaaaaaaaaa -> ffffffffffff" in verdict.why


def test_other_images_are_different_even_with_equal_weights_and_a_failed_run_has_failed():
    assert "images are others" in judged(dataset_digest="x").why and judged(dataset_digest="x").outcome == "different"
    assert judged(status="crashed", reason="crashed: no").outcome == "failed"
    assert compare(record(spec("kd"), .5), None, {}).outcome == "failed"


def test_metrics_that_only_one_of_the_records_has_are_not_compared():
    run = spec("kd")
    older = record(run, .5, **SAME, metrics={"attacked_later": .1})
    assert compare(older, record(run, .5, **SAME, metrics={"newer": .2}), {}).outcome == "bit-equal"


def test_the_exit_code_is_that_of_the_worst_run():
    equal, unclear, different = judged(), judged(.5, [], **OTHER), judged(.9, **OTHER)
    assert [exit_code(found) for found in ([equal], [equal, unclear], [equal, unclear, different])] == [0, 3, 1]


def test_a_sample_is_the_same_each_time_and_spreads_over_the_methods():
    finished = {method: [f"{method}{seed}" for seed in range(3)] for method in ("ce", "kd", "at")}
    four = draw(finished, 4)
    assert four == draw({name: runs[::-1] for name, runs in reversed(finished.items())}, 4)
    assert {run[:2] for run in four[:3]} == {"ce", "kd", "at"} and len(set(four)) == 4
    assert len(draw(finished, 100)) == 9 and draw({}, 5) == []


# Trained.

def runs_of(out, cache):
    plan = smoke("ce", "kd")
    matrix = Matrix(plan, out, CacheFolder(cache), print)
    pool = LocalPool(2)
    pool.start()
    matrix.run(matrix.pending(), {}, pool, PlainDisplay(Console(quiet=True), 2))
    return Store(out), next(s.id for s in plan.students if s.method == "kd"), plan.teachers[0].id


def repeat(out, cache, *names, sample=5):
    said = []
    verdicts = list(verify(out, names, sample, Registry(), CacheFolder(cache), LocalPool(2),
                           PlainDisplay(Console(quiet=True), 2), said.append))
    return verdicts, said


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_repeated_runs_are_bit_equal_and_nothing_of_the_folder_or_the_cache_changes(tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    _, kd, _ = runs_of(out, cache)
    (CacheFolder(cache).unfinished(kd).root / "checkpoint").write_bytes(b"of somebody else")
    before = contents(tmp_path)
    verdicts, said = repeat(out, cache)
    assert [v.outcome for v in verdicts] == ["bit-equal"] * 2 and said == []
    assert {v.record.spec.method for v in verdicts} == {"ce", "kd"}
    assert contents(tmp_path) == before


def test_a_record_with_other_weights_than_its_run_gives_is_different(tmp_path, cache):
    store, kd, _ = runs_of(tmp_path / "out", cache)
    store.write(msgspec.structs.replace(store.get(kd), weights_sha256="0" * 64))
    (verdict,), _ = repeat(tmp_path / "out", cache, kd[:12], kd)
    assert verdict.outcome == "different" and "weights differ, though" in verdict.why


@pytest.mark.parametrize("kind", [
    "other weights", pytest.param("gone", marks=pytest.mark.slow), pytest.param("damaged", marks=pytest.mark.slow)])
def test_a_teacher_that_the_cache_does_not_have_as_recorded_is_trained_again_apart(tmp_path, kind):
    out, cache = tmp_path / "out", tmp_path / "cache"
    _, kd, teacher = runs_of(out, cache)
    cached = Store(CacheFolder(cache).teachers)
    weights = cached.files.student(teacher)
    if kind == "gone":
        cached.files.record(teacher).unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-4] + b"1234")
    if kind == "other weights":
        cached.write(msgspec.structs.replace(cached.get(teacher), weights_sha256=file_sha256(weights)))
    before = contents(cache)
    (verdict,), said = repeat(out, cache, kd)
    assert verdict.outcome == "bit-equal" and len(said) == 1 and f"teacher {teacher} is trained again" in said[0]
    assert contents(cache) == before


def test_bad_input_is_refused_before_anything_trains(tmp_path, cache):
    with pytest.raises(UserError, match="no records here"):
        repeat(tmp_path / "absent", cache)
    store = Store(tmp_path)
    store.write(record(spec("ce"), status="crashed", reason="no"))
    with pytest.raises(UserError, match="no finished runs here"):
        repeat(tmp_path, cache)
    store.write(record(spec("kd"), .5))
    store.write(record(teacher_spec(), .5, role="teacher"))
    for name, reason in (("nothing", "no single run"), (spec("ce").id, "status 'crashed'"),
                         (teacher_spec().id, "is a teacher"), (spec("kd").id, "unknown dataset 'digits'")):
        with pytest.raises(UserError, match=reason):
            repeat(tmp_path, cache, name)
