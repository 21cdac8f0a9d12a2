"""Where the runs of a folder stand, by made-up records, plans, locks and checkpoints."""

import os
from fcntl import LOCK_EX, flock

import pytest
from support.records import RECIPE, REGISTRY, planned, record, spec

from kdbench.environment import cpu_name, now
from kdbench.errors import UserError
from kdbench.execution.status import Watcher
from kdbench.folders import CacheFolder
from kdbench.results.record import read
from kdbench.results.store import Store
from kdbench.results.unfinished import Progress, write_progress

SMALL = RECIPE.model_copy(update={"train_size": 80})


def run_of(method="kd", seed=0):
    return spec(method, seed, dataset="mnist5k", recipe=SMALL)


@pytest.fixture
def place(tmp_path):
    """A folder in which 6 runs and their teacher are planned, with a cache beside it."""
    store = Store(tmp_path / "out")
    store.plan([planned(run_of(seed=seed)) for seed in range(6)])
    store.plan([planned(run_of().teacher.run, "teacher")])
    return store, CacheFolder(tmp_path / "cache")


def look(place, *, methods=REGISTRY, workers=2):
    store, cache = place
    return Watcher(store.folder, cache, methods, workers).look()


def done(run, seconds=9.0, **changes):
    """A finished run whose process spends a second beside its training."""
    end = f"2026-01-01T00:00:{int(seconds) + 1:02}Z"
    return record(run, .5, seconds=seconds, finished=end, environment={"cpu": cpu_name()}, **changes)


def train_teacher(place):
    Store(place[1].teachers).write(done(run_of().teacher.run, role="teacher"))


def progress(place, run, epoch, host="node7"):
    told = Progress(epoch, 80, .25 if epoch else None, 10.0 * epoch, host, 4711, now())
    write_progress(place[1].unfinished(run.id), told)


def hold(place, run):
    """A process's lock of the run; it holds as long as the descriptor is open."""
    folder = place[1].unfinished(run.id)
    folder.root.mkdir(parents=True, exist_ok=True)
    file = os.open(folder.lock, os.O_RDWR | os.O_CREAT)
    flock(file, LOCK_EX)
    return file


def test_every_run_is_of_one_kind(place):
    store, cache = place
    runs = [run_of(seed=seed) for seed in range(6)]
    train_teacher(place)
    store.write(done(runs[0]))
    store.write(record(runs[1], status="crashed", reason="oh"))
    store.write(record(runs[2], status="inapplicable", reason="too small"))
    progress(place, runs[3], 12)
    cache.unfinished(runs[3].id).checkpoint.touch()
    progress(place, runs[4], 7)
    held = hold(place, runs[4])
    found = look(place)
    os.close(held)
    assert found.runs == {"done": 1, "failed": 1, "inapplicable": 1, "interrupted": 1, "running": 1, "missing": 1}
    assert found.teachers == {"done": 1} and found.suites == ("tiny",)
    assert {(one.run, one.kind) for one in found.open} == {
        (runs[1].id, "failed"), (runs[3].id, "interrupted"), (runs[4].id, "running"), (runs[5].id, "missing")}
    (failed,), (interrupted,), (running,) = map(found.of_kind, ("failed", "interrupted", "running"))
    assert failed.reason == "oh"
    assert (interrupted.epoch, interrupted.epochs, interrupted.host) == (12, 80, "node7")
    assert (running.epoch, running.host, running.process, running.accuracy) == (7, "node7", 4711, .25)
    assert look(place).runs["missing"] == 2  # its lock is free, and it left no checkpoint


def test_a_run_in_its_first_epoch_and_one_that_is_tried_again_are_running(place):
    store, _ = place
    first, again = run_of(seed=0), run_of(seed=1)
    store.write(record(again, status="crashed", reason="oh"))
    progress(place, first, 0)
    held = [hold(place, first), hold(place, again)]
    found = look(place)
    assert found.runs == {"running": 2, "missing": 4}
    assert [(one.epoch, one.host) for one in found.of_kind("running")] == [(None, None), (0, "node7")]
    for file in held:
        os.close(file)


def test_runs_of_a_method_whose_source_changed_are_stale_and_no_time_is_counted_for_them(place):
    store, _ = place
    train_teacher(place)
    for seed in range(6):
        store.write(done(run_of(seed=seed), method_digest="b" * 64 if seed < 2 else "a" * 64))
    found = look(place)
    assert found.runs == {"done": 4, "stale": 2} and found.stale == {"kd": 2}
    assert (found.seconds_left, found.unknown) == (0, 0)
    unknown = look(place, methods={})
    assert unknown.runs == {"done": 6} and any("kd is not installed" in note for note in unknown.notes)


def test_a_teacher_that_pending_runs_need_is_shown_wherever_it_stands(place):
    store, cache = place
    teacher = run_of().teacher.run
    assert look(place).teachers == {"missing": 1}
    store.write(done(teacher, role="teacher"))  # a copy without its network teaches nobody
    assert look(place).teachers == {"missing": 1}
    held = hold(place, teacher)
    assert look(place).teachers == {"running": 1}
    os.close(held)
    Store(cache.teachers).write(record(teacher, role="teacher", status="diverged", reason="nan"))
    assert look(place).teachers == {"failed": 1}
    train_teacher(place)
    assert look(place).teachers == {"done": 1}
    for seed in range(6):
        store.write(done(run_of(seed=seed)))
    Store(cache.teachers).files.record(teacher.id).unlink()
    assert look(place).teachers == {"done": 1}  # nobody needs it any more


def test_a_damaged_record_is_a_run_to_do_and_is_told(place):
    store, _ = place
    store.write(done(run_of()))
    path = store.files.record(run_of().id)
    path.write_bytes(path.read_bytes()[:50])
    found = look(place)
    assert found.runs == {"missing": 6} and any("kdbench fsck" in note for note in found.notes)
    assert any(one.reason and "its record is damaged" in one.reason for one in found.open)


def test_the_time_left_is_that_of_open_runs_on_so_many_workers(place):
    store, _ = place
    train_teacher(place)
    assert (look(place).seconds_left, look(place).unknown) == (None, 6)
    store.write(done(run_of()))
    assert look(place, workers=1).seconds_left == pytest.approx(50)
    assert look(place, workers=5).seconds_left == pytest.approx(10)
    progress(place, run_of(seed=1), 79)  # of 80 epochs, 10 s each
    held = hold(place, run_of(seed=1))
    assert look(place, workers=1).seconds_left == pytest.approx(10 + 1 + 40)
    os.close(held)


def test_where_nothing_is_known_of_a_run_no_time_is_told(place):
    found = look(place)
    assert (found.seconds_left, found.unknown) == (None, 7)


def test_trials_that_failed_or_were_pruned_are_not_to_do(place):
    store, _ = place
    for path in store.files.plans.iterdir():
        path.unlink()
    store.write(record(run_of(seed=0), status="crashed", reason="oh", role="trial"))
    store.write(record(run_of(seed=1), status="pruned", reason="behind", role="trial"))
    found = look(place)
    assert found.tuning and found.runs == {"failed": 1, "pruned": 1} and found.seconds_left == 0


def test_a_watcher_sees_what_changed_and_reads_nothing_twice(place, monkeypatch):
    store, cache = place
    train_teacher(place)
    store.write(done(run_of()))
    watcher = Watcher(store.folder, cache, REGISTRY, 2)
    assert watcher.look().runs == {"done": 1, "missing": 5}
    paths = []

    def note_and_read(kind, path):
        paths.append(path)
        return read(kind, path)

    monkeypatch.setattr("kdbench.execution.status.read", note_and_read)
    store.write(done(run_of(seed=1)))
    assert watcher.look().runs == {"done": 2, "missing": 4}
    assert paths == [str(store.files.record(run_of(seed=1).id))]
    store.write(record(run_of(seed=1), status="crashed", reason="oh"))
    assert watcher.look().runs == {"done": 1, "failed": 1, "missing": 4}


def test_a_look_writes_nothing(place):
    store, _ = place
    store.write(done(run_of()))
    before = {path: path.lstat().st_mtime_ns for path in store.folder.parent.rglob("*")}
    look(place)
    assert {path: path.lstat().st_mtime_ns for path in store.folder.parent.rglob("*")} == before


def test_a_folder_without_runs_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        look((Store(tmp_path / "none"), CacheFolder(tmp_path)))
    with pytest.raises(UserError, match="neither records nor a plan"):
        look((Store(tmp_path), CacheFolder(tmp_path)))
