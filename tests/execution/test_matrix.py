"""Whole matrices in real processes."""

import dataclasses
import os
import signal
import threading
import time

import pytest
from rich.console import Console
from support.matrices import assisted, plugin, smoke
from support.records import record

from kdbench.errors import UserError
from kdbench.execution.display import PlainDisplay
from kdbench.execution.matrix import RETRY, Matrix, Summary, read_retry
from kdbench.execution.pool import LocalPool
from kdbench.folders import CacheFolder
from kdbench.results.store import Store


def run(plan, out, cache, *, workers=2, timeout=None, reasons=None, retry=RETRY):
    said = []
    matrix = Matrix(plan, out, CacheFolder(cache), said.append)
    jobs = matrix.pending(retry)
    pool = LocalPool(workers, timeout)
    pool.start()
    outcome = matrix.run(jobs, reasons or {}, pool, PlainDisplay(Console(quiet=True), workers))
    return outcome, {r.spec.method: r for r in Store(out).read()[0] if r.role == "student"}, said


def hashes(out):
    return {r.run_id: r.weights_sha256 for r in Store(out).read()[0]}


@pytest.mark.slow
def test_weights_do_not_depend_on_the_number_of_workers_or_the_order(tmp_path, cache):
    plan = smoke("ce", "kd", "dml", seeds=[0, 1])
    run(plan, tmp_path / "one", tmp_path / "cache1", workers=1)
    backwards = dataclasses.replace(plan, students=plan.students[::-1])
    run(backwards, tmp_path / "three", tmp_path / "cache3", workers=3)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "three")
    assert len(hashes(tmp_path / "one")) == 7


def test_a_finished_matrix_has_nothing_to_do_and_another_folder_needs_no_new_teacher(tmp_path, cache):
    plan = smoke("ce", "kd")
    first, _, _ = run(plan, tmp_path / "a", cache)
    assert (first.skipped, first.trained, first.failed) == (0, 2, 0)
    assert Matrix(plan, tmp_path / "a", CacheFolder(cache), print).pending() == []
    again, _, _ = run(plan, tmp_path / "a", cache)
    assert (again.skipped, again.trained) == (2, 0)
    elsewhere = Matrix(plan, tmp_path / "b", CacheFolder(cache), print).pending()
    assert {job.role for job in elsewhere} == {"student"}


@pytest.mark.slow
def test_one_run_that_is_killed_crashes_or_takes_too_long_costs_no_other(tmp_path, cache):
    plugins = [plugin(tmp_path, trouble, name) for name, trouble in (
        ("killed", "os.kill(os.getpid(), signal.SIGKILL)"),
        ("gone", "os._exit(3)"),
        ("slow", "time.sleep(600)"),
        ("wrong", "raise ValueError('oh')"),
    )]
    plan = smoke("ce", "kd", "killed", "gone", "slow", "wrong", plugins=plugins)
    outcome, records, _ = run(plan, tmp_path / "out", cache, timeout=20)
    assert {name: (r.status, r.reason) for name, r in records.items()} == {
        "ce": ("ok", None), "kd": ("ok", None),
        "killed": ("crashed", "crashed: killed by SIGKILL (out of memory?)"),
        "gone": ("crashed", "crashed: its process ended with exit code 3"),
        "slow": ("timeout", "stopped after 20 seconds (--run-timeout)"),
        "wrong": ("crashed", "crashed: ValueError: oh (wrong.py, line 12)"),
    }
    assert (outcome.trained, outcome.failed) == (2, 4)
    retried = Matrix(plan, tmp_path / "out", CacheFolder(cache), print).pending()
    assert {job.spec.method for job in retried} == {"killed", "gone", "slow", "wrong"}


def test_an_assistant_is_trained_once_after_its_teacher_and_before_the_runs_that_learn_from_it(tmp_path):
    plan, cache = assisted("ce", "takd", seeds=[0, 1]), tmp_path / "cache"
    outcome, records, _ = run(plan, tmp_path / "out", cache)
    assert (outcome.trained, outcome.failed, records["takd"].status) == (4, 0, "ok")
    teacher, assistant = (Store(cache / "teachers").find(spec.id) for spec in plan.teachers)
    assert assistant.spec.method == "kd" and assistant.started >= teacher.finished
    assert records["takd"].started >= assistant.finished
    assert assistant.metrics["agreement"] > 0  # with the pair's teacher
    assert assistant.metrics["parameters"] < teacher.metrics["parameters"]
    assert records["takd"].metrics["teacher_parameters"] == teacher.metrics["parameters"]
    assert {one.run_id for one in Store(tmp_path / "out").read()[0] if one.role == "teacher"} == {
        teacher.run_id, assistant.run_id}
    elsewhere = Matrix(plan, tmp_path / "b", CacheFolder(cache), print).pending()
    assert {job.role for job in elsewhere} == {"student"}


def test_without_its_teacher_an_assistant_fails_and_says_so_to_its_students(tmp_path):
    plan = assisted("takd")
    bad = smoke("bad", plugins=[plugin(tmp_path, "raise ValueError('no')", "bad")]).methods["bad"]
    plan = dataclasses.replace(plan, methods={**plan.methods, "ce": bad})
    _, records, _ = run(plan, tmp_path / "out", tmp_path / "cache")
    teacher, assistant = plan.teachers
    found = Store(tmp_path / "cache" / "teachers").find(assistant.id)
    assert found.reason.startswith(f"its teacher, run {teacher.id}, failed: ")
    assert records["takd"].reason.startswith("its teacher, run ")


def test_runs_whose_teacher_fails_fail_with_its_reason(tmp_path):
    plan = smoke("kd")
    cache = tmp_path / "cache"
    broken = plan.teachers[0].model_copy(update={"method": "bad"})
    with_bad = smoke("bad", plugins=[plugin(tmp_path, "raise ValueError('no')", "bad")])
    registry = {**plan.methods, **with_bad.methods}
    students = tuple(s.model_copy(update={"teacher": s.teacher.model_copy(update={"run": broken})})
                     for s in plan.students)
    plan = dataclasses.replace(plan, teachers=(broken,), students=students, methods=registry)
    _, records, _ = run(plan, tmp_path / "out", cache)
    assert records["kd"].status == "crashed"
    assert records["kd"].reason == f"its teacher, run {broken.id}, failed: crashed: ValueError: no (bad.py, line 12)"


def test_damaged_records_and_teachers_are_set_aside_told_and_redone(tmp_path):
    plan, out, cache = smoke("ce", "kd"), tmp_path / "out", tmp_path / "cache"
    run(plan, out, cache)
    before = hashes(out)
    record = Store(out).files.record(next(s.id for s in plan.students if s.method == "kd"))
    record.write_bytes(record.read_bytes()[:100])
    weights = Store(cache / "teachers").files.student(plan.teachers[0].id)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    outcome, records, said = run(plan, out, cache)
    assert (outcome.skipped, outcome.trained, records["kd"].status) == (1, 1, "ok")
    assert hashes(out) == before
    assert any("kd" not in line and record.name in line and "set aside" in line for line in said)
    assert any(weights.name in line and "set aside" in line for line in said)
    assert record.with_name(record.name + ".corrupt-1").exists()


def test_a_method_that_cannot_train_a_pair_is_recorded_with_the_reason_and_not_tried_again(tmp_path, cache):
    plan = smoke("ce", "kd")
    (spec,) = [s for s in plan.students if s.method == "kd"]
    outcome, records, said = run(plan, tmp_path, cache, reasons={spec.id: "too few stages"})
    assert (outcome.trained, outcome.inapplicable) == (1, 1)
    assert (records["kd"].status, records["kd"].reason) == ("inapplicable", "too few stages")
    assert any("too few stages" in line for line in said)
    assert Matrix(plan, tmp_path, CacheFolder(cache), print).pending() == []


def test_runs_of_a_changed_method_are_told_and_redone_on_request(tmp_path, cache):
    out = tmp_path / "out"
    run(smoke("mine", plugins=[plugin(tmp_path)]), out, cache)
    changed = smoke("mine", plugins=[plugin(tmp_path, "None")])
    matrix = Matrix(changed, out, CacheFolder(cache), print)
    assert matrix.changed_methods() == {"mine": 1}
    assert matrix.pending() == []
    outcome, records, _ = run(changed, out, cache, retry={"stale"})
    assert outcome.trained == 1
    assert records["mine"].method_digest == changed.methods["mine"].digest


def changed_and_failed(tmp_path, cache):
    """A folder in which `mine` is finished and `bad` failed, a plan of these and `ce` in which the sources of both
    changed since, and the one in which that of `mine` did."""
    old = [plugin(tmp_path), plugin(tmp_path, "raise ValueError('no')", "bad")]
    run(smoke("mine", "bad", plugins=old), tmp_path / "out", cache)
    (tmp_path / "new").mkdir()
    mine, bad = plugin(tmp_path / "new", "None"), plugin(tmp_path / "new", "1 / 0", "bad")
    return (smoke("ce", "mine", "bad", plugins=[mine, bad]), smoke("ce", "mine", "bad", plugins=[mine, old[1]]))


def test_retry_chooses_among_the_runs_with_a_record_and_those_without_always_run(tmp_path, cache):
    both, mine = changed_and_failed(tmp_path, cache)

    def asked(plan, *arguments):
        matrix = Matrix(plan, tmp_path / "out", CacheFolder(cache), print, look_only=True)
        return {job.spec.method for job in matrix.pending(*arguments)}, list(matrix.left_out())

    told = ["1 failed run left alone; --retry failed tries again"]
    assert asked(mine) == asked(mine, read_retry("failed")) == ({"ce", "bad"}, [])
    assert asked(mine, read_retry("none")) == ({"ce"}, told)
    assert asked(mine, read_retry("stale")) == ({"ce", "mine"}, told)
    assert asked(both, read_retry("stale")) == ({"ce", "mine", "bad"}, [])
    assert asked(mine, read_retry("failed,stale")) == ({"ce", "mine", "bad"}, [])


def test_a_failed_run_that_is_left_is_not_counted_as_finished(tmp_path, cache):
    _, plan = changed_and_failed(tmp_path, cache)
    outcome, records, _ = run(plan, tmp_path / "out", cache, retry=frozenset())
    assert (outcome.skipped, outcome.trained, outcome.failed) == (1, 1, 0) and records["bad"].status == "crashed"


@pytest.mark.parametrize(("text", "message"), [
    ("", "expected failed, stale"), ("stael", "did you mean 'stale'?"), ("failed,none", "expected failed, stale"),
    ("failed,", "expected failed, stale"), ("x" * 999, "expected failed, stale"),
])
def test_what_no_retry_is_is_one_line_with_what_is_allowed(text, message):
    with pytest.raises(UserError) as error:
        read_retry(text)
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200


class Failing:
    """An executor all of whose runs fail."""

    workers, here = 1, True

    def run(self, jobs, work, watch):
        for job in jobs:
            yield job, work.fail(job, "crashed", "crashed: out of memory")


@pytest.mark.parametrize("plan", [lambda: smoke("ce", "kd"), lambda: assisted("ce", "takd")],
                         ids=["teacher", "assistant"])
def test_without_a_teacher_that_applies_its_students_are_inapplicable_for_its_reason(tmp_path, plan):
    plan = plan()
    (ce, other), cache = plan.students, CacheFolder(tmp_path / "cache")
    matrix = Matrix(plan, tmp_path / "out", cache, print)
    reasons = {plan.teachers[0].id: "no such network", other.id: "too few stages"}
    outcome = matrix.run(matrix.pending(), reasons, Failing(), PlainDisplay(Console(quiet=True), 1))
    assert outcome == Summary(tmp_path / "out", skipped=0, trained=0, failed=0, inapplicable=2)
    kept = {one.run_id: one for store in (matrix.store, Store(cache.teachers)) for one in store.read()[0]}
    assert {one.status for one in kept.values()} == {"inapplicable"}
    passed_on = "its teacher does not apply: no such network"
    assert {run_id: one.reason for run_id, one in kept.items()} == {
        **{spec.id: passed_on for spec in (*plan.teachers, ce)}, **reasons}


def test_what_another_command_finished_since_the_runs_were_chosen_stays_and_the_rest_is_done(tmp_path, cache):
    plan = smoke("ce", "label_smoothing")
    matrix = Matrix(plan, tmp_path, CacheFolder(cache), print)
    jobs = [job for job in matrix.pending() if job.role == "student"]
    theirs = record(jobs[0].spec, method_digest=plan.methods["ce"].digest)
    matrix.store.write(theirs)
    outcome = matrix.run(jobs, {}, Failing(), PlainDisplay(Console(quiet=True), 1))
    assert (outcome.skipped, outcome.trained, outcome.failed) == (1, 0, 1)
    assert matrix.store.get(theirs.run_id) == theirs
    jobs = matrix.pending()
    matrix.store.write(record(jobs[-1].spec, status="crashed", reason="crashed: theirs"))
    assert matrix.run(jobs[-1:], {}, Failing(), PlainDisplay(Console(quiet=True), 1)).failed == 1


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_stopping_the_matrix_ends_its_processes(tmp_path, cache, interruptible):
    plan = smoke("slow", plugins=[plugin(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); "
                                                   "time.sleep(600)", "slow")])
    threading.Thread(target=_interrupt_once_there, args=(tmp_path / "pid",), daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path / "out", cache)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [r for r in Store(tmp_path / "out").read()[0] if r.role == "student"] == []


def _interrupt_once_there(path):
    while not path.exists() or not path.read_text():
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
