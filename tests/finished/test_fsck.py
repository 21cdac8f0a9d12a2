"""The check of a whole results folder: every kind of damage that a file can have, and what repairing does."""

import errno
import fcntl
import json
import os
import shutil
import socket
from pathlib import Path

import msgspec
import pytest
from support.folders import finish, note_submissions
from support.profiles import profile
from support.records import RECIPE, planned, record, spec, teacher_spec

from kdbench.disk import atomic_write, file_sha256
from kdbench.errors import UserError
from kdbench.finished.fsck import Fsck
from kdbench.folders import CacheFolder
from kdbench.profile.record import Profile, write_profile
from kdbench.results.merged import Merged, Origin, write_merged
from kdbench.results.record import DIGEST
from kdbench.results.store import Store
from kdbench.spec import Transfer

QUICK = Path(__file__).parents[2] / "results" / "quick"
KD = spec("kd")


def check(folder, cache, repair=False):
    fsck = Fsck(Path(folder), CacheFolder(cache), Profile)
    return [(f.kind, f.path, f.why) for f in fsck.check(repair)], fsck


@pytest.fixture
def folder(tmp_path, cache):
    """Three finished runs with their teacher, plan and a profile, and nothing wrong."""
    store, teacher = Store(tmp_path / "runs"), teacher_spec()
    runs = [spec("ce"), KD, spec("kd", seed=1)]
    for run in runs:
        finish(store, run)
    finish(store, teacher, role="teacher")
    store.files.student(teacher.id).unlink()  # a teacher's network stays in the cache
    store.plan([planned(run) for run in runs] + [planned(teacher, "teacher")])
    write_profile(store, profile(run=KD))
    (store.folder / "index.html").touch()
    with store.lock():
        pass
    return store.folder


def test_a_folder_in_which_nothing_is_wrong_is_clean(folder, tmp_path):
    found, fsck = check(folder, tmp_path / "cache")
    assert found == [] and fsck.clean and fsck.records == 4


def test_runs_in_a_cluster_s_queue_are_no_fault(folder, tmp_path):
    atomic_write(Store(folder).files.slurm.batch("kdbench-runs-1").note, b"{}")
    assert check(folder, tmp_path / "cache")[0] == []


def test_the_committed_results_are_clean(tmp_path):
    found, fsck = check(QUICK, tmp_path / "cache")
    assert found == [] and fsck.records == len(list((QUICK / "records").iterdir())) and fsck.without_digest == 0


def test_a_record_of_kdbench_0_1_is_clean_without_the_digest_that_it_did_not_write_and_is_counted(folder, tmp_path):
    record = min((folder / "records").iterdir())
    record.write_bytes(record.read_bytes().partition(DIGEST)[0] + b"\n}\n")
    found, fsck = check(folder, tmp_path / "cache")
    assert found == [] and fsck.records == 4 and fsck.without_digest == 1


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def zeroed(path):
    path.write_bytes(bytes(len(path.read_bytes())))


def empty(path):
    path.write_bytes(b"")


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("ruin", [truncated, flipped, zeroed, empty, a_pipe, a_folder])
@pytest.mark.parametrize("kind", ["record", "plan", "profile", "student", "predictions"])
def test_each_file_that_is_ruined_is_the_one_damaged_and_repairing_sets_it_aside(folder, tmp_path, kind, ruin):
    path = getattr(Store(folder).files, kind)(KD.id) if kind != "profile" else next((folder / "profile").iterdir())
    ruin(path)
    found, fsck = check(folder, tmp_path / "cache")
    assert [(kind, path) for kind, path, _ in found] == [("damaged", path)] and not fsck.clean
    before = sorted(p for p in folder.rglob("*") if not p.is_dir())
    _, fsck = check(folder, tmp_path / "cache", repair=True)
    assert fsck.repaired == 1 and not path.exists() and path.with_name(f"{path.name}.corrupt-1").exists()
    assert len(sorted(p for p in folder.rglob("*") if not p.is_dir())) >= len(before) - (ruin is a_folder)
    again, fsck = check(folder, tmp_path / "cache")
    assert not fsck.found["damaged"] and "set aside" in " ".join(why for _, _, why in again)


def test_a_record_that_is_another_runs_or_of_a_student_whose_files_are_swapped_is_damaged(folder, tmp_path):
    files = Store(folder).files
    other = spec("kd", seed=1)
    shutil.copy(files.record(other.id), files.record(KD.id))
    shutil.copy(files.student(KD.id), files.student(other.id))
    found, _ = check(folder, tmp_path / "cache")
    assert [(kind, path) for kind, path, _ in found] == [
        ("damaged", path) for path in sorted((files.record(KD.id), files.student(other.id)),
                                             key=lambda path: path.stem)]


def test_a_newer_record_is_named_and_left_even_by_repairing(folder, tmp_path):
    path = Store(folder).files.record(KD.id)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}).replace("}", "}", 1))
    content = path.read_bytes()
    found, fsck = check(folder, tmp_path / "cache", repair=True)
    assert [(kind, at) for kind, at, _ in found] == [("newer", path)] and fsck.clean and fsck.repaired == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["student", "predictions"])
def test_a_file_of_a_finished_run_that_is_gone_is_missing(folder, tmp_path, kind):
    path = getattr(Store(folder).files, kind)(KD.id)
    path.unlink()
    found, fsck = check(folder, tmp_path / "cache")
    assert found == [("missing", path, "the record says that the run is finished")] and not fsck.clean


def test_a_copy_of_records_alone_misses_nothing(folder, tmp_path):
    for name in ("students", "predictions"):
        shutil.rmtree(folder / name)
    assert check(folder, tmp_path / "cache")[0] == []


def test_a_planned_run_without_a_record_is_missing_and_its_files_are_orphaned(folder, tmp_path):
    files = Store(folder).files
    files.record(KD.id).unlink()
    found, fsck = check(folder, tmp_path / "cache")
    assert [(kind, path) for kind, path, _ in found] == [
        ("missing", files.record(KD.id)), ("orphaned", files.student(KD.id)), ("orphaned", files.predictions(KD.id))]
    assert "kd  big-small  digits  seed 0" in found[0][2] and not fsck.clean


def test_files_of_a_failed_run_are_orphaned(folder, tmp_path):
    store = Store(folder)
    store.write(record(KD, status="crashed", reason="no"))
    found, fsck = check(folder, tmp_path / "cache")
    assert [kind for kind, _, _ in found] == ["orphaned", "orphaned"] and "crashed" in found[0][2] and fsck.clean


def test_a_teacher_that_records_name_is_missing_without_its_record(folder, tmp_path):
    files, teacher = Store(folder).files, teacher_spec()
    files.record(teacher.id).unlink()
    files.plan(teacher.id).unlink()
    files.predictions(teacher.id).unlink()
    found, _ = check(folder, tmp_path / "cache")
    assert [(kind, path) for kind, path, _ in found] == [("missing", files.record(teacher.id))]


@pytest.mark.parametrize("kind", ["other weights", "damaged", "no network", "damaged record"])
def test_the_caches_files_of_a_teacher_are_checked_and_never_repaired(folder, tmp_path, kind):
    cached, teacher = Store(CacheFolder(tmp_path / "cache").teachers), teacher_spec()
    finish(cached, teacher, role="teacher")
    of_folder = Store(folder).get(teacher.id)
    assert check(folder, tmp_path / "cache")[0] == []
    files = cached.files
    path = {"other weights": files.record, "damaged": files.student, "no network": files.student,
            "damaged record": files.record}[kind](teacher.id)
    if kind == "other weights":
        files.student(teacher.id).write_bytes(b"other")
        cached.write(msgspec.structs.replace(of_folder, weights_sha256=file_sha256(files.student(teacher.id))))
    elif kind == "no network":
        path.unlink()
    else:
        flipped(path)
    found, fsck = check(folder, tmp_path / "cache", repair=True)
    assert [(kind, at) for kind, at, _ in found] == [("missing" if kind == "no network" else "damaged", path)]
    assert fsck.repaired == 0 and not list((tmp_path / "cache").rglob("*.corrupt*"))


def test_runs_made_of_other_images_than_the_others_are_damaged_and_left_by_repairing(folder, tmp_path):
    finish(Store(folder), KD, dataset_digest="b" * 64)
    finish(Store(folder), spec("ce", dataset="letters"), dataset_digest="c" * 64)  # another dataset
    finish(Store(folder), KD.model_copy(update={"transfer": Transfer(images="rest")}), dataset_digest="d" * 64)
    path = Store(folder).files.record(KD.id)
    found, fsck = check(folder, tmp_path / "cache", repair=True)
    made_of = [(kind, at, why) for kind, at, why in found if "images" in why]
    assert [(kind, at) for kind, at, _ in made_of] == [("damaged", path)] and "3 other runs" in made_of[0][2]
    assert path.exists() and fsck.repaired == 0


@pytest.mark.parametrize("changes", [{"augment": ("random_resized_crop",)}, {"normalise": "imagenet"}])
def test_runs_whose_recipe_loads_the_images_otherwise_are_compared_with_one_another_alone(folder, tmp_path, changes):
    runs = [spec("kd", seed=seed, recipe=RECIPE.model_copy(update=changes)) for seed in range(3)]
    for run, digest in zip(runs, "bbc", strict=True):
        finish(Store(folder), run, dataset_digest=digest * 64)
    found, _ = check(folder, tmp_path / "cache")
    assert [at for _, at, why in found if "images" in why] == [Store(folder).files.record(runs[2].id)]


def test_runs_whose_recipe_differs_in_what_leaves_the_images_alone_are_compared(folder, tmp_path):
    other = spec("kd", recipe=RECIPE.model_copy(update={"augment": ("crop", "flip"), "lr": 0.2, "epochs": 3}))
    finish(Store(folder), other, dataset_digest="b" * 64)
    found, _ = check(folder, tmp_path / "cache")
    assert [at for _, at, why in found if "images" in why] == [Store(folder).files.record(other.id)]


def test_names_that_kdbench_never_writes_are_foreign_and_stay(folder, tmp_path):
    foreign = {folder / "notes.txt", folder / "records" / "README.md", folder / "records" / "kd.json",
               folder / "students" / f"{KD.id}.pt", folder / "old"}
    for path in foreign - {folder / "old"}:
        path.touch()
    (folder / "old").mkdir()
    found, fsck = check(folder, tmp_path / "cache", repair=True)
    assert {path for kind, path, _ in found if kind == "foreign"} == foreign and len(found) == len(foreign)
    assert fsck.clean and all(path.exists() for path in foreign)


def test_the_note_of_a_merge_is_no_foreign_name_and_is_damaged_if_it_cannot_be_read(folder, tmp_path):
    store = Store(folder)
    write_merged(store, Merged(origins=[Origin(name="a", records=1, results="b" * 64, when="2026-01-01T00:00:00Z")]))
    assert check(folder, tmp_path / "cache")[0] == []
    store.files.merged.write_bytes(store.files.merged.read_bytes()[:-20])
    found, fsck = check(folder, tmp_path / "cache", repair=True)
    assert [(kind, path) for kind, path, _ in found] == [("damaged", store.files.merged)] and fsck.repaired == 1
    assert not store.files.merged.exists()


def test_each_plugin_file_that_a_submission_names_is_missed_if_the_folder_has_another_one(folder, tmp_path):
    store = Store(folder)
    note_submissions(store, first=b"A = 1", second=b"A = 1")
    assert check(folder, tmp_path / "cache")[0] == []
    for source in (b"A = 1", b"B = 2"):
        note_submissions(store, first=b"A = 1", second=b"B = 2")
        store.files.plugin("mine.py").write_bytes(source)
        found, _ = check(folder, tmp_path / "cache")
        assert [(kind, path) for kind, path, _ in found] == [("damaged", store.files.plugin("mine.py"))]


def test_the_versions_of_a_folder_are_damaged_if_they_cannot_be_read_or_are_none(folder, tmp_path):
    path = Store(folder).files.release
    for damaged in ("{", '{"schema_version": 1, "suite": "s", "versions": []}'):
        path.write_text(damaged)
        found, fsck = check(folder, tmp_path / "cache", repair=True)
        assert found[0][:2] == ("damaged", path) and fsck.repaired == 1
        assert not path.exists()


def test_temporary_files_are_told_and_repairing_removes_them(folder, tmp_path):
    path = folder / "records" / f".{KD.id}.json.1-abcd.tmp"
    path.touch()
    assert [(kind, at) for kind, at, _ in check(folder, tmp_path / "cache")[0]] == [("temporary", path)]
    assert path.exists()
    _, fsck = check(folder, tmp_path / "cache", repair=True)
    assert fsck.repaired == 1 and not path.exists()
    assert check(folder, tmp_path / "cache")[0] == []


def test_a_process_of_another_user_that_writes_is_alive(folder, tmp_path, monkeypatch):
    (folder / ".lock").write_text(f"{os.getppid()} on {socket.gethostname()}")

    def refuse(process, signal):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert check(folder, tmp_path / "cache")[1].writer() == os.getppid()


def test_a_locked_folder_is_read_and_not_repaired(folder, tmp_path):
    truncated(Store(folder).files.record(KD.id))
    with (folder / ".lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write(f"{os.getppid()} on {socket.gethostname()}")
        held.flush()
        found, fsck = check(folder, tmp_path / "cache")
        assert [kind for kind, _, _ in found] == ["damaged"] and fsck.writer() == os.getppid()
        with pytest.raises(UserError, match="in use by another"):
            check(folder, tmp_path / "cache", repair=True)
    assert Store(folder).files.record(KD.id).exists()


def test_checking_changes_nothing(folder, tmp_path):
    truncated(Store(folder).files.record(KD.id))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    check(folder, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_absent_or_holds_no_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "absent", tmp_path / "cache")
    with pytest.raises(UserError, match="no records here"):
        check(tmp_path, tmp_path / "cache")
