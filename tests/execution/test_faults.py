"""What faults of the machine and files that are not what they seem do to a matrix."""

import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from support.matrices import job, plugin, smoke, teacher_job

from kdbench.disk import atomic_write, file_sha256, read_file
from kdbench.errors import UserError
from kdbench.execution.display import PlainDisplay
from kdbench.execution.matrix import Matrix
from kdbench.execution.pool import LocalPool
from kdbench.folders import CacheFolder
from kdbench.results.store import Store
from kdbench.train import checkpoint
from kdbench.train.process import only_one
from kdbench.train.worker import run_job


def run(plan, out, cache, retries=1):
    """The summary of a run of the matrix, and what it said."""
    said = []
    matrix = Matrix(plan, out, CacheFolder(cache), said.append)
    pool = LocalPool(2, retries=retries)
    jobs = matrix.pending()
    pool.start()
    return matrix.run(jobs, {}, pool, PlainDisplay(Console(quiet=True), 2)), said


def students(out):
    return {r.run_id: r for r in Store(out).read()[0] if r.role == "student"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of two finished runs, to copy."""
    folder = tmp_path_factory.mktemp("finished")
    run(smoke("ce", "label_smoothing"), folder, tmp_path_factory.getbasetemp() / "cache")
    return folder


@pytest.mark.parametrize("kind", ["student", "predictions"])
@pytest.mark.parametrize("ruin", [
    lambda path: path.unlink(), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
], ids=["gone", "empty", "truncated", "zeroed"])
def test_a_finished_run_whose_file_is_gone_or_damaged_is_redone_and_told(tmp_path, cache, finished, kind, ruin):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = students(tmp_path)
    hit = next(iter(before))
    path = getattr(Store(tmp_path).files, kind)(hit)
    sha256 = file_sha256(path)
    ruin(path)
    summary, said = run(smoke("ce", "label_smoothing"), tmp_path, cache)
    assert (summary.trained, summary.skipped) == (1, 1)
    assert any(str(path) in line and hit in line for line in said)
    assert file_sha256(path) == sha256
    assert {i: r.weights_sha256 for i, r in students(tmp_path).items()} == \
        {i: r.weights_sha256 for i, r in before.items()}


def test_a_folder_of_records_alone_is_not_trained_again(tmp_path, cache):
    run(smoke("ce"), tmp_path, cache)
    for folder in ("students", "predictions"):
        shutil.rmtree(tmp_path / folder)
    assert Matrix(smoke("ce"), tmp_path, CacheFolder(cache), print).pending() == []


def test_runs_that_are_added_to_records_alone_do_not_make_those_be_trained_again(tmp_path, cache, finished):
    """As a clone's reference results are continued."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    kept = next(iter(students(tmp_path)))
    for kind in ("student", "predictions"):
        getattr(Store(tmp_path).files, kind)(kept).unlink()
    summary, said = run(smoke("ce", "label_smoothing"), tmp_path, cache)
    assert (summary.trained, summary.skipped) == (0, 2) and not any("missing" in line for line in said)


def test_a_record_of_a_newer_kdbench_is_named_and_left_as_it_is(tmp_path, cache):
    run(smoke("ce"), tmp_path, cache)
    (record,) = students(tmp_path).values()
    path = Store(tmp_path).files.record(record.run_id)
    newer = {**json.loads(path.read_text()), "schema_version": 2, "colour": "blue"}
    path.write_text(json.dumps(newer))
    summary, said = run(smoke("ce"), tmp_path, cache)
    assert summary.trained == 0 and json.loads(path.read_text()) == newer
    assert any(str(path) in line and "schema version 2" in line for line in said)
    assert [p.name for p in path.parent.glob("*corrupt*")] == []


def test_a_record_in_which_a_digit_was_changed_is_set_aside_and_the_run_redone(tmp_path, cache):
    run(smoke("ce"), tmp_path, cache)
    (record,) = students(tmp_path).values()
    path = Store(tmp_path).files.record(record.run_id)
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"seconds": ', b'"seconds": 1'))
    assert "changed after it was written" in Store(tmp_path).read()[1][0].reason
    summary, said = run(smoke("ce"), tmp_path, cache)
    assert summary.trained == 1 and any("set aside" in line for line in said)
    assert students(tmp_path)[record.run_id].weights_sha256 == record.weights_sha256


@pytest.mark.parametrize("what", ["seed", "dataset"])
def test_a_checkpoint_of_another_run_is_set_aside_and_changes_nothing(tmp_path, cache, monkeypatch, what):
    run_job(teacher_job(smoke("ce"), cache))
    plans = [smoke("ce", seeds=[seed], settings={"recipe.epochs": 3}) for seed in (7, 8)]
    mine, other = (job(plan, tmp_path / "out", cache, "ce") for plan in plans)
    expected = run_job(job(plans[0], tmp_path / "undisturbed", cache, "ce")).weights_sha256
    saved = {}
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "save", lambda path, state: (saved.setdefault("first", state), save(path, state)))
    run_job(other)
    if what == "dataset":
        saved["first"]["made_by"] |= {"run": mine.id, "dataset": "0" * 64}
    save_to = CacheFolder(cache).unfinished(mine.id).checkpoint
    save_to.parent.mkdir(parents=True, exist_ok=True)
    save(save_to, saved["first"])
    record = run_job(mine)
    assert record.weights_sha256 == expected
    assert "another run" in record.notes[0] if what == "seed" else "another dataset" in record.notes[0]


def test_a_run_whose_process_is_killed_is_tried_again_and_its_result_is_the_same(tmp_path, cache):
    once = tmp_path / "once"
    kill = f"(os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w').close(), os.kill(os.getpid(), 9)))"
    plan = smoke("mine", plugins=[plugin(tmp_path, kill)])
    summary, _ = run(plan, tmp_path / "out", cache)
    assert (summary.trained, summary.failed) == (1, 0)
    again, _ = run(plan, tmp_path / "again", cache)
    assert {r.weights_sha256 for r in students(tmp_path / "out").values()} == \
        {r.weights_sha256 for r in students(tmp_path / "again").values()}
    assert again.trained == 1


def test_a_run_that_is_killed_every_time_fails_after_its_retries(tmp_path, cache):
    file = tmp_path / "tries"
    plan = smoke("mine", plugins=[plugin(tmp_path, f"(open({str(file)!r}, 'a').write('x'), os.kill(os.getpid(), 9))")])
    summary, _ = run(plan, tmp_path / "out", cache, retries=2)
    (record,) = students(tmp_path / "out").values()
    assert summary.failed == 1 and "killed by SIGKILL" in record.reason and file.read_text() == "xxx"


def test_a_process_that_cannot_write_even_its_failure_tells_the_parent_why(tmp_path, cache):
    plan = smoke("mine", plugins=[plugin(tmp_path, "(_ for _ in ()).throw(SystemExit('enough'))")])
    run(plan, tmp_path / "out", cache)
    (record,) = students(tmp_path / "out").values()
    assert record.reason == "crashed: SystemExit: enough"


def test_a_file_size_limit_costs_one_line_that_names_the_file_and_what_to_do(tmp_path, cache):
    limit = "__import__('resource').setrlimit(__import__('resource').RLIMIT_FSIZE, (4096, 4096)), signal.signal(" \
            "signal.SIGXFSZ, signal.SIG_IGN)"
    plan = smoke("mine", "ce", plugins=[plugin(tmp_path, limit)])
    summary, _ = run(plan, tmp_path / "out", cache)
    failed = next(r for r in students(tmp_path / "out").values() if r.spec.method == "mine")
    assert (summary.trained, summary.failed) == (1, 1)
    assert "ulimit -f" in failed.reason and str(tmp_path) in failed.reason and "\n" not in failed.reason
    assert not list(Path(cache).rglob("checkpoints/**/.*.tmp"))


def test_a_cache_that_cannot_be_written_stops_the_command_before_anything_trains(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the cache cannot be written"):
        run(smoke("ce"), tmp_path / "out", tmp_path / "file" / "cache")
    assert students(tmp_path / "out") == {}


def test_half_written_files_in_the_cache_are_cleared_once_they_are_old(tmp_path, cache):
    old, young = (CacheFolder(cache).unfinished(name).root / ".progress.json.1-a.tmp" for name in ("old", "young"))
    for path in (old, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, (0, 0))
    run(smoke("ce"), tmp_path, cache)
    assert not old.exists() and young.exists()


def test_a_record_that_a_slow_git_keeps_waiting_is_written_without_a_commit(tmp_path, monkeypatch):
    from kdbench import environment

    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(environment, "GIT_SECONDS", 0.2)
    environment.git_commit.cache_clear()
    try:
        assert environment.git_commit() is None
    finally:
        environment.git_commit.cache_clear()


def test_an_unknown_user_without_a_home_is_told_to_name_a_cache(monkeypatch):
    for name in ("KDBENCH_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match="set KDBENCH_CACHE"):
        CacheFolder.of_user()


def test_a_teacher_s_damaged_copy_in_the_folder_is_made_again_from_the_cache_and_told(tmp_path, cache):
    plan = smoke("ce")
    run(plan, tmp_path, cache)
    (teacher,) = plan.teachers
    path = Store(tmp_path).files.predictions(teacher.id)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    summary, said = run(plan, tmp_path, cache)
    assert summary.trained == 0 and path.read_bytes() == whole
    assert any(str(path) in line and "copied" in line for line in said)


def test_a_teacher_s_damaged_predictions_are_not_copied_from_the_cache(tmp_path, cache):
    plan, teachers = smoke("ce"), Store(CacheFolder(cache).teachers)
    run(plan, tmp_path, cache)
    (teacher,) = plan.teachers
    path, copy = teachers.files.predictions(teacher.id), Store(tmp_path).files.predictions(teacher.id)
    whole = path.read_bytes()
    copy.unlink()
    path.write_bytes(whole[:-1])
    try:
        assert any(str(path) in line and "not copied" in line for line in run(plan, tmp_path, cache)[1])
        assert not copy.exists()
    finally:
        path.write_bytes(whole)


def test_a_damaged_plan_is_told_and_written_anew(tmp_path, cache):
    plan = smoke("ce")
    run(plan, tmp_path, cache)
    path = Store(tmp_path).files.plan(plan.students[0].id)
    whole = path.read_bytes()
    path.write_bytes(b"{")
    assert any(str(path) in line for line in run(plan, tmp_path, cache)[1])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)],
                         ids=["folder", "pipe", "link"])
def test_what_is_no_file_is_read_without_waiting_and_replaced_by_the_next_write(tmp_path, make):
    make(tmp_path / "name")
    with pytest.raises(OSError):
        read_file(tmp_path / "name")
    with pytest.raises(OSError):
        file_sha256(tmp_path / "name")
    atomic_write(tmp_path / "name", b"new")
    assert read_file(tmp_path / "name") == b"new"


def test_a_pipe_in_the_place_of_a_run_s_lock_keeps_nobody_waiting(tmp_path):
    folder = CacheFolder(tmp_path).unfinished("run")
    folder.root.mkdir(parents=True)
    os.mkfifo(folder.lock)
    with only_one(folder):
        pass


def test_what_a_killed_process_left_half_written_of_a_run_is_cleared_by_the_next(tmp_path, cache):
    plan = smoke("ce")
    run(plan, tmp_path, cache)
    again = job(plan, tmp_path, cache, "ce")
    left = (again.cache.unfinished(again.id).root / ".checkpoint.1-a.tmp", tmp_path / f".{again.id}.npz.1-a.tmp")
    other = tmp_path / ".another.npz.1-a.tmp"
    for path in (*left, other):
        path.touch()
    run_job(again)
    assert [path.exists() for path in (*left, other)] == [False, False, True]


def test_a_killed_fork_server_costs_no_run(tmp_path, cache):
    once = tmp_path / "once"
    kill = f"(os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w').close(), os.kill(os.getppid(), 9)))"
    plan = smoke("mine", "ce", plugins=[plugin(tmp_path, kill)])
    summary, _ = run(plan, tmp_path / "out", cache)
    assert (summary.trained, summary.failed) == (2, 0)
