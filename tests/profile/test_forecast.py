"""What a plan would cost, with made-up records and a pool that starts no process; and that the disk stays as it is."""

import dataclasses

import pytest
from support.matrices import smoke
from support.profiles import profile, training
from support.records import record, spec

from kdbench.environment import cpu_name
from kdbench.errors import UserError
from kdbench.execution.estimate import Estimator, Sample
from kdbench.execution.passes import AnswerSize
from kdbench.execution.pool import PREFLIGHT
from kdbench.folders import CacheFolder
from kdbench.profile.forecast import TIMING, earlier, forecast
from kdbench.profile.record import write_profile
from kdbench.results.store import Store

HERE = {"cpu": cpu_name()}


class Pool:
    """Answers as the processes of a pool would."""

    def __init__(self, workers=2, reasons=None, timed=None, failed=None, died=False, learning=()):
        self.workers, self.reasons, self.learning = workers, reasons or {}, learning
        self.timed, self.failed, self.died = timed or {}, failed, died
        self.started, self.asked, self.checked = False, [], []

    def start(self):
        self.started = True

    def call(self, function, *arguments):
        assert self.started
        if function == PREFLIGHT:
            self.checked = [spec.id for spec in arguments[0]]
            specs = arguments[0]
            return ({spec.id: self.reasons[spec.method] for spec in specs if spec.method in self.reasons},
                    {spec.id: AnswerSize(10, 20, 400) for spec in specs if spec.method in self.learning})
        assert function == TIMING
        if self.died:
            raise UserError("the process was killed")
        jobs = arguments[0]
        self.asked.append([job.spec.method for job in jobs])
        samples = [sample(job.spec, self.timed[job.spec.method], source="timed") for job in jobs
                   if job.spec.method in self.timed]
        return samples, {job.id: "oh" for job in jobs if job.spec.method == self.failed}, 1.0


def sample(run, seconds, source="record", **more):
    return Sample(run, seconds, cpu_name(), source, **more)


def finish(folder, run, status="ok", role="student", **changes):
    fields = {"reason": None if status == "ok" else "oh", "environment": HERE, "seconds": 2.0, **changes}
    Store(folder).write(record(run, role=role, status=status, **fields))


def finish_teacher(cache, run):
    """With the files that its record names; whether they are damaged is not asked of made-up ones."""
    store = Store(CacheFolder(cache).teachers)
    finish(store.folder, run, role="teacher")
    for path in (store.files.student(run.id), store.files.predictions(run.id)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 50)


def all_known(plan, teacher=10.0, student=3.0):
    return [*(sample(run, teacher) for run in plan.teachers), *(sample(run, student) for run in plan.students)]


def ask(plan, tmp_path, pool=None, samples=(), **more):
    return forecast(plan, tmp_path / "out", CacheFolder(tmp_path / "cache"), pool or Pool(), samples, **more)


def rows(found):
    return {row.method: (row.finished, row.inapplicable, row.to_do, row.failed) for row in found.rows}


def tree(folder):
    return {path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in sorted(folder.rglob("*"))}


# Counts.

def test_runs_are_counted_by_method_as_finished_not_applicable_to_do_and_failed_before(tmp_path):
    plan = smoke("ce", "kd", "at", "rkd", seeds=[0, 1, 2])
    by_method = {name: [run for run in plan.students if run.method == name] for name in plan.methods}
    finish(tmp_path / "out", by_method["ce"][0])
    finish(tmp_path / "out", by_method["ce"][1], "crashed")
    finish(tmp_path / "out", by_method["kd"][0], "timeout")
    finish(tmp_path / "out", by_method["kd"][1], "diverged")
    finish(tmp_path / "out", by_method["rkd"][0], "inapplicable")
    found = ask(plan, tmp_path, Pool(reasons={"at": "too few stages"}), all_known(plan))
    assert rows(found) == {"teachers": (0, 0, 1, 0), "ce": (1, 0, 2, 1), "kd": (0, 0, 3, 2), "at": (0, 3, 0, 0),
                           "rkd": (0, 1, 2, 0)}
    assert (found.runs, found.teachers, found.suite) == (7, 1, "smoke")


def test_what_cannot_train_a_pair_is_not_timed(tmp_path):
    pool = Pool(reasons={"at": "too few stages"}, timed={"ce": 1.0})
    ask(smoke("ce", "at"), tmp_path, pool)
    assert pool.asked == [["ce", "ce"]]


def test_runs_of_a_cluster_need_neither_the_memory_nor_the_gpu_of_this_machine(tmp_path):
    plan, asked = smoke("ce"), []

    class Asked(Pool):
        def call(self, function, *arguments):
            asked.append(arguments[-1])
            return super().call(function, *arguments)

    assert ask(plan, tmp_path, Asked(), all_known(plan)).memory_there > 0
    assert ask(plan, tmp_path, Asked(), all_known(plan), runs_here=False).memory_there is None
    assert asked == [True, False]


def test_a_teacher_in_the_cache_is_finished(tmp_path):
    plan = smoke("ce")
    finish_teacher(tmp_path / "cache", plan.teachers[0])
    found = ask(plan, tmp_path, samples=all_known(plan))
    assert rows(found)["teachers"] == (1, 0, 0, 0) and found.teachers == 0


def test_with_nothing_to_do_no_process_is_started(tmp_path):
    plan, pool = smoke("ce"), Pool()
    finish(tmp_path / "out", plan.students[0])
    found = ask(plan, tmp_path, pool, earlier(tmp_path / "out"))
    assert not pool.started and (found.runs, found.teachers, found.seconds, found.disk) == (0, 0, 0, 0)
    (ce,) = (row for row in found.rows if row.method == "ce")
    assert (ce.seconds, ce.basis, ce.core_hours) == (2.0, "1 record", 0)


def test_changed_methods_are_to_do_where_a_run_would_redo_them(tmp_path):
    plan = smoke("ce")
    finish(tmp_path / "out", plan.students[0])
    assert rows(ask(plan, tmp_path))["ce"] == (1, 0, 0, 0)
    assert rows(ask(plan, tmp_path, samples=all_known(plan), retry={"stale"}))["ce"] == (0, 0, 1, 0)


# Costs.

def test_time_is_that_of_the_teacher_and_then_of_the_students_by_workers(tmp_path):
    plan = smoke("ce", "kd", seeds=[0, 1, 2])
    assert ask(plan, tmp_path, Pool(2), all_known(plan)).seconds == pytest.approx(10 + 6 / 2 * 3)
    found = ask(plan, tmp_path, Pool(1), all_known(plan))
    assert found.seconds == pytest.approx(10 + 6 * 3) and found.unknown == 0
    assert {row.method: row.core_hours for row in found.rows} == {
        "teachers": pytest.approx(10 / 3600), "ce": pytest.approx(9 / 3600), "kd": pytest.approx(9 / 3600)}


def test_a_row_has_the_mean_over_what_is_to_do_and_names_each_source_once(tmp_path):
    plan = smoke("ce", seeds=[0, 1])
    longer = plan.students[1].model_copy(update={"dataset": "mnist5k"})  # other data: 2 seconds for other images
    plan = dataclasses.replace(plan, students=(plan.students[0], longer))
    found = ask(plan, tmp_path, samples=[*all_known(plan)[:2], sample(longer, 5.0), sample(
        longer.model_copy(update={"seed": 7}), 5.0)])
    (ce,) = (row for row in found.rows if row.method == "ce")
    assert (ce.seconds, ce.basis) == (pytest.approx(4), "1 record; 2 records")


def test_memory_is_that_of_the_largest_runs_that_fit_beside_each_other(tmp_path):
    plan = smoke("ce", "kd", "at")
    sizes = {"ce": 100, "kd": 300, "at": 200}
    samples = [sample(plan.teachers[0], 9.0, memory=150),
               *(sample(run, 3.0, memory=sizes[run.method]) for run in plan.students)]
    assert ask(plan, tmp_path, Pool(1), samples).memory == 300
    assert ask(plan, tmp_path, Pool(3), samples).memory == 300 + 200 + 150
    assert ask(plan, tmp_path, Pool(8), samples).memory == 300 + 200 + 150 + 100


def test_disk_is_that_of_each_run_to_do_and_of_the_teachers_in_the_cache(tmp_path):
    plan = smoke("ce", "kd")
    samples = [sample(run, 1.0, disk=size) for run, size in ((plan.teachers[0], 70), (plan.students[0], 40))]
    found = ask(plan, tmp_path, Pool(timed={"kd": 1.0}), samples)
    assert (found.disk, found.cache_disk) == (80, 70)
    assert found.disk_free > 0


# What is not known.

def test_only_what_no_record_tells_is_timed_the_reference_first(tmp_path):
    plan, pool = smoke("ce", "kd", "at", seeds=[0, 1]), Pool(timed={"ce": 1.0, "kd": 2.0, "at": 3.0})
    found = ask(plan, tmp_path, pool, [sample(plan.students[1], 5.0)])
    assert plan.students[1].method != "ce"
    known = plan.students[1].method
    (other,) = {"kd", "at"} - {known}
    assert pool.asked == [["ce", "ce"], [other]]  # the teacher, and the student alone
    assert {row.method: row.basis for row in found.rows} == {
        "teachers": "timed", "ce": "timed", known: "1 record", other: "timed"}
    assert "timed a few steps of 3 kinds of runs in 2 s" in found.notes[-1]


def test_with_ratios_of_another_machine_the_reference_alone_is_timed(tmp_path):
    plan, pool = smoke("ce", "kd"), Pool(timed={"ce": 1.0})
    slow = [Sample(run, {"ce": 20.0, "kd": 50.0}[run.method], "slow") for run in plan.students]
    found = ask(plan, tmp_path, pool, slow)
    assert pool.asked == [["ce", "ce"]]
    (kd,) = (row for row in found.rows if row.method == "kd")
    assert (kd.seconds, kd.basis) == (pytest.approx(2.5), "2.5 x ce")


def test_what_cannot_be_timed_is_told_and_taken_for_a_method_like_the_others(tmp_path):
    plan = smoke("ce", "kd", "at")
    found = ask(plan, tmp_path, Pool(timed={"ce": 1.0, "at": 3.0}, failed="kd"))
    (kd,) = (row for row in found.rows if row.method == "kd")
    assert (kd.seconds, kd.basis) == (pytest.approx(3), "3.0 x ce, as other methods")
    assert any(note.startswith("kd ") and note.endswith("could not be timed: oh") for note in found.notes)


def test_methods_that_the_time_is_too_short_for_are_told(tmp_path):
    found = ask(smoke("ce", "kd", "at"), tmp_path, Pool(timed={"ce": 1.0, "at": 3.0}))
    assert any(note.startswith("1 kinds of runs were not timed") for note in found.notes)


def test_a_process_that_dies_in_the_timing_costs_the_figures_alone(tmp_path):
    found = ask(smoke("ce"), tmp_path, Pool(died=True))
    assert (found.runs, found.unknown, found.seconds) == (1, 2, 0)
    assert "not timed: the process was killed" in found.notes
    assert all((row.seconds, row.basis, row.core_hours) == (None, "unknown", None) for row in found.rows)


def test_a_dataset_that_is_not_here_is_told_and_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a download"))
    plan, pool = smoke("ce", datasets=["synthetic", "cifar10"]), Pool(timed={"ce": 1.0})
    found = ask(plan, tmp_path, pool)
    assert any(note.startswith("cifar10 is not on this machine") for note in found.notes)
    assert found.runs == 2 and {job for jobs in pool.asked for job in jobs} == {"ce"}
    assert set(pool.checked) == {run.id for run in (*plan.teachers, *plan.students) if run.dataset == "synthetic"}


# The disk.

def test_nothing_on_disk_changes_not_even_what_a_run_would_set_aside(tmp_path):
    plan, cache = smoke("ce", "kd", datasets=["synthetic", "mnist5k"]), tmp_path / "cache"
    finish_teacher(cache, plan.teachers[0])
    teachers = Store(cache / "teachers").files
    teachers.predictions(plan.teachers[0].id).unlink()  # so that the record counts as damaged
    finish(tmp_path / "out", plan.students[0])
    damaged = Store(tmp_path / "out").files.record(plan.students[1].id)
    damaged.write_bytes(b"{")
    before = tree(tmp_path)
    found = ask(plan, tmp_path, samples=all_known(plan))
    assert tree(tmp_path) == before
    assert rows(found)["teachers"] == (0, 0, 2, 0)
    assert any("is missing" in note and note.endswith("the run is redone") for note in found.notes)
    empty = tmp_path / "nothing"
    ask(plan, empty, samples=all_known(plan))
    assert not empty.exists()


def test_what_is_made_of_a_dataset_goes_nowhere_and_what_was_made_is_used(tmp_path):
    plan, cache = smoke("ce", datasets=["mnist5k"]), CacheFolder(tmp_path / "cache")
    kept = cache.data / "decoded" / "mine"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"as it was")

    class Writing(Pool):
        def call(self, function, *arguments):
            if function == PREFLIGHT:
                data = arguments[2].data / "decoded"
                assert (data / "mine").read_bytes() == b"as it was"
                (data / "new").write_bytes(b"new")
            return super().call(function, *arguments)

    before = tree(tmp_path)
    ask(plan, tmp_path, Writing(timed={"ce": 1.0}))
    assert tree(tmp_path) == before


def test_an_error_names_the_files_of_the_cache(tmp_path):
    class Failing(Pool):
        def call(self, function, *arguments):
            raise UserError(f"{arguments[2].data / 'x'}: damaged")

    with pytest.raises(UserError) as error:
        ask(smoke("ce"), tmp_path, Failing())
    assert str(error.value) == f"{tmp_path / 'cache' / 'data' / 'x'}: damaged"


@pytest.mark.parametrize("name, words", [("out", "the output folder is not writable: "), ("cache", "the cache cannot")])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, name, words):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=words):
        ask(smoke("ce"), tmp_path, Pool(timed={"ce": 1.0}))


# Earlier records.

def test_earlier_records_and_profiles_count_once_and_damaged_ones_not_at_all(tmp_path):
    run = spec("kd", dataset="mnist5k")
    for folder, seconds in (("a", 2.0), ("b", 9.0)):
        finish(tmp_path / folder, run, seconds=seconds)
    finish(tmp_path / "b", spec("kd", 1, dataset="mnist5k"), "crashed")
    Store(tmp_path / "b").files.record("0" * 16).write_bytes(b"{")
    write_profile(Store(tmp_path / "b"), profile("method", run, training=training(.02, 2.0), environment=HERE))
    found = earlier(tmp_path / "a", tmp_path / "b", tmp_path / "absent")
    assert [(one.spec.method, one.seconds, one.source) for one in found] == [
        ("kd", 2.0, "record"), ("kd", pytest.approx(2.0), "profile"), ("ce", pytest.approx(1.0), "profile")]


def test_a_profile_gives_the_ratio_of_a_method_on_any_machine(tmp_path):
    run = spec("kd", dataset="mnist5k")
    write_profile(Store(tmp_path), profile("method", run, training=training(.02, 2.0), environment={"cpu": "other"}))
    plain = spec("ce", dataset="mnist5k")
    found = Estimator([*earlier(tmp_path), sample(plain, 3.0)], "ce").estimate(run)
    assert (found.seconds, found.basis) == (pytest.approx(6), "2.0 x ce")


def test_the_files_of_a_run_are_weighed_where_all_are_there(tmp_path):
    run = spec("kd", dataset="mnist5k")
    finish(tmp_path, run)
    assert [one.disk for one in earlier(tmp_path)] == [None]
    files = Store(tmp_path).files
    for path in (files.student(run.id), files.predictions(run.id)):
        path.parent.mkdir()
        path.write_bytes(b"0" * 1000)
    assert [one.disk for one in earlier(tmp_path)] == [2000 + files.record(run.id).stat().st_size]


def test_the_teacher_passes_that_runs_would_share_are_told_with_their_size(tmp_path):
    plan = smoke("kd", "dkd", seeds=[0, 1])
    pool = Pool(timed={"ce": 1.0, "kd": 1.0, "dkd": 1.0}, learning=("kd", "dkd"))
    found = ask(plan, tmp_path, pool, teacher_cache=80)
    assert found.passes_disk == 2 * 30
    assert found.passes[0].startswith("teacher passes: 4 runs share the answers of a teacher in 2 passes: up to 20 B ")
    assert "800 B of stages of 2 passes" in found.passes[1]
    assert ask(plan, tmp_path, pool, teacher_cache=0).passes == ()
