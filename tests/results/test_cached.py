"""What lies in the cache, and its removal."""

import errno
import fcntl
import os
from pathlib import Path

import pytest
from support.folders import finish
from support.matrices import smoke, teacher_job
from support.records import teacher_spec

from kdbench.checks.doctor import report
from kdbench.disk import atomic_write, locked, sweep
from kdbench.errors import UserError
from kdbench.finished.fsck import Fsck
from kdbench.folders import CacheFolder
from kdbench.profile.record import Profile
from kdbench.results.cached import entries, remove
from kdbench.results.sizes import read_size, size_text
from kdbench.results.store import Store
from kdbench.train.worker import run_job


@pytest.fixture
def full(tmp_path):
    """A cache with a teacher, a readable and an unreadable pass, an unfinished run and data."""
    folder = CacheFolder(tmp_path / "full")
    run_job(teacher_job(smoke("ce"), folder.root))
    for name, note in (("one", '{"key":"k","pair":"tiny","dataset":"synthetic","seed":3,"made_of":{}}'), ("two", "{")):
        kept = folder.teacher_pass(name)
        kept.tensor("logits").mkdir(parents=True)
        (kept.tensor("logits") / "0").write_bytes(bytes(1000))
        kept.note.write_text(note)
    run = folder.unfinished("abc")
    run.root.mkdir(parents=True)
    run.checkpoint.write_bytes(bytes(500))
    (folder.data / "raw").mkdir(parents=True)
    (folder.data / "raw" / "file").write_bytes(bytes(70))
    return folder


def test_every_entry_says_its_kind_size_and_what_made_it(full):
    found = {(one.kind, one.name): one for one in entries(full)}
    teacher = next(one for (kind, _), one in found.items() if kind == "teachers")
    assert {name for kind, name in found if kind != "teachers"} == {"one", "two", "abc", "locks", "raw", "corrupted"}
    assert found["passes", "one"].what == "teacher of tiny on synthetic, seed 3: logits"
    assert found["passes", "two"].what == "its note cannot be read"
    assert found["passes", "one"].bytes == 1000 + found["passes", "one"].paths[0].joinpath("pass.json").stat().st_size
    assert (found["unfinished", "abc"].bytes, found["data", "raw"].bytes) == (500, 70)
    assert teacher.what.startswith("resnet_cifar of tiny on synthetic, seed 1000: ") and teacher.bytes > 10_000


def test_what_is_removed_is_gone_and_nothing_else(full):
    for one in entries(full):
        before = {(other.kind, other.name) for other in entries(full)}
        assert remove(one)
        assert {(other.kind, other.name) for other in entries(full)} == before - {(one.kind, one.name)}
    assert entries(full) == []


def test_answers_of_teachers_with_given_weights_are_entries_that_can_be_removed(tmp_path):
    cache = CacheFolder(tmp_path)
    store, trained, both, one = Store(cache.teachers), teacher_spec(), "a" * 16, "b" * 16
    finish(store, trained, role="teacher")
    for path in (store.files.predictions(both), store.files.robustness(both), store.files.robustness(one)):
        atomic_write(path, bytes(10))
    found = {entry.name: entry for entry in entries(cache)}
    assert found.keys() == {trained.id, both, one} and (found[both].bytes, found[one].bytes) == (20, 10)
    assert {found[name].what for name in (both, one)} == {"answers of a teacher with given weights"}
    assert remove(found[both]) and remove(found[one])
    assert [entry.name for entry in entries(cache)] == [trained.id]
    assert not store.files.predictions(both).exists() and store.files.predictions(trained.id).exists()


def test_a_teacher_is_one_entry_with_its_robustness_and_without_a_record_too(tmp_path):
    cache = CacheFolder(tmp_path)
    store, trained, lost = Store(cache.teachers), teacher_spec(), "a" * 16
    finish(store, trained, role="teacher")
    for path in (store.files.robustness(trained.id), store.files.student(lost), store.files.predictions(lost)):
        atomic_write(path, bytes(10))
    found = {entry.name: entry for entry in entries(cache)}
    assert found.keys() == {trained.id, lost} and found[lost].what == "files without a record"
    assert all(remove(entry) for entry in found.values()) and entries(cache) == []
    assert not store.files.robustness(trained.id).exists()


@pytest.mark.parametrize("look", [
    lambda cache: sweep(cache.root), entries, lambda cache: list(report()),
    lambda cache: list(Fsck(cache.teachers, cache, Profile).check())], ids=["sweep", "cache", "doctor", "fsck"])
def test_a_folder_that_another_process_removes_meanwhile_ends_no_command(full, monkeypatch, look):
    monkeypatch.setenv("KDBENCH_CACHE", str(full.root))
    gone, scandir = [full.teacher_pass("one").tensor("logits"), full.teachers / "gone"], os.scandir
    gone[1].mkdir()

    def removed_first(path="."):
        if Path(path) in gone:
            (Path(path) / "0").unlink(missing_ok=True)
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removed_first)
    look(full)
    assert not all(path.exists() for path in gone)


def test_an_unfinished_run_that_a_process_works_on_is_left_alone(full):
    (run,) = [one for one in entries(full) if one.name == "abc"]
    file = os.open(full.unfinished("abc").lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    assert not remove(run) and full.unfinished("abc").checkpoint.exists()
    os.close(file)
    assert remove(run)


def test_a_mirror_that_a_command_writes_into_is_left_alone_and_one_without_locks_is_not(tmp_path, monkeypatch):
    cache = CacheFolder(tmp_path)
    mirror = cache.remote("abc")
    with locked(mirror.writer_lock, fcntl.LOCK_EX):
        (one,) = entries(cache)
        assert not remove(one) and mirror.root.is_dir()

    def without_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert remove(one) and not mirror.root.exists()


def test_what_ended_runs_left_is_one_entry_without_those_that_have_just_begun(full):
    (left,) = [one for one in entries(full) if one.name == "locks"]
    (teacher,) = [one for one in entries(full) if one.kind == "teachers"]
    assert left.paths == (full.unfinished(teacher.name).root,)
    begun = full.unfinished(teacher.name).lock.open()
    fcntl.flock(begun, fcntl.LOCK_EX)
    assert not remove(left) and [one.name for one in entries(full) if one.kind == "unfinished"] == ["abc"]
    begun.close()
    assert remove(left) and not left.paths[0].exists() and full.unfinished("abc").checkpoint.exists()


@pytest.mark.parametrize("text, size", [
    ("8GB", 8 * 10**9), ("0", 0), (" 1.5 gb ", 1_500_000_000), ("500MB", 500_000_000), ("3kB", 3000), ("7B", 7)])
def test_sizes_are_read_with_their_unit(text, size):
    assert read_size(text, "--option") == size


@pytest.mark.parametrize("text", ["8", "GB", "8G", "-1GB", "1e3GB", "8GBs", "", "nan", "9" * 30 + "GB"])
def test_what_is_no_size_is_refused_with_the_option_s_name(text):
    with pytest.raises(UserError, match=r"--option .*expected a size such as 8GB"):
        read_size(text, "--option")


@pytest.mark.parametrize("size, text", [
    (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_940_000, "9.9 MB"), (12_340_000, "12 MB"), (4.8e9, "4.8 GB")])
def test_sizes_are_shown_with_two_or_three_digits(size, text):
    assert size_text(int(size)) == text
