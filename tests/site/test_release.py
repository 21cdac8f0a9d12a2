"""The archives of a site's runs."""

import hashlib
import io
import os
import tarfile

import pytest
from support.folders import finish, note_submissions
from support.records import REGISTRY, record, spec, teacher_spec

from kdbench.errors import UserError
from kdbench.results.store import Store
from kdbench.site.build import publish


@pytest.fixture
def folder(tmp_path):
    """Three finished runs with their files, one that failed, and a teacher whose files are elsewhere."""
    store = Store(tmp_path / "tiny")
    for number in range(3):
        finish(store, spec("kd" if number else "ce", number), weights=bytes([number]))
    store.write(record(spec("at"), status="crashed", reason="memory"))
    finish(store, teacher_spec(), role="teacher", files=False)
    return store.folder


def members(archive):
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}


def test_releases_hold_the_files_of_finished_runs_and_their_sums(folder, tmp_path):
    publish([str(folder)], tmp_path / "site", REGISTRY, ["predictions", "students", "records"])
    release, store = tmp_path / "site" / "release" / "tiny", Store(folder)
    runs = sorted(one.run_id for one in store.read()[0] if one.status == "ok" and one.role == "student")
    assert members(release / "students.tar") == {
        f"tiny-students/{run}.safetensors": store.files.student(run).read_bytes() for run in runs}
    assert members(release / "predictions.tar") == {
        f"tiny-predictions/{run}.npz": store.files.predictions(run).read_bytes() for run in runs}
    assert len(members(release / "records.tar")) == 5
    sums = {name: sha256 for sha256, name in (
        line.split("  ") for line in (release / "SHA256SUMS").read_text().splitlines())}
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in release.glob("*.tar")}
    home = (tmp_path / "site" / "index.html").read_text()
    assert all(sha256 in home and f"release/tiny/{name}" in home for name, sha256 in sums.items())


def test_a_submitted_run_without_its_network_is_left_out_and_without_its_predictions_refused(folder, tmp_path):
    store = Store(folder)
    at = spec("at", 1)
    finish(store, at)
    store.files.student(at.id).unlink()
    note_submissions(store, runs=[at.id, spec("kd", 1).id], at=b"A = 1")
    publish([str(folder)], tmp_path / "site", REGISTRY, ["predictions", "students"])
    release = tmp_path / "site" / "release" / "tiny"
    assert len(members(release / "students.tar")) == 3 and len(members(release / "predictions.tar")) == 4
    store.files.predictions(at.id).unlink()
    with pytest.raises(UserError, match=f"{at.id}.npz: missing"):
        publish([str(folder)], tmp_path / "site", REGISTRY, ["predictions"])


def test_without_being_asked_for_no_file_of_a_run_is_released(folder, tmp_path):
    publish([str(folder)], tmp_path / "site", REGISTRY)
    assert not (tmp_path / "site" / "release").exists()


def test_an_archive_has_the_same_bytes_whoever_owns_the_files_and_whenever_they_were_written(folder, tmp_path):
    publish([str(folder)], tmp_path / "first", REGISTRY, ["students"])
    for path in (folder / "students").iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    publish([str(folder)], tmp_path / "second", REGISTRY, ["students"])
    first, second = (tmp_path / name / "release" / "tiny" / "students.tar" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert {(one.mtime, one.uid, one.uname, one.mode) for one in tar} == {(0, 0, "", 0o644)}


def test_a_damaged_a_missing_and_no_file_at_all_are_refused_by_name_and_nothing_is_written(folder, tmp_path):
    store = Store(folder)
    run = next(one.run_id for one in store.read()[0] if one.status == "ok" and one.role == "student")
    network = store.files.student(run)
    network.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"{network}: damaged: its SHA-256"):
        publish([str(folder)], tmp_path / "site", REGISTRY, ["students"])
    network.unlink()
    with pytest.raises(UserError, match=rf"{network}: missing"):
        publish([str(folder)], tmp_path / "site", REGISTRY, ["students"])
    for path in (folder / "predictions").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="a folder of records alone has no predictions to release"):
        publish([str(folder)], tmp_path / "site", REGISTRY, ["predictions"])
    assert {path.name for path in tmp_path.iterdir()} == {"tiny"}


def test_a_kind_that_there_is_none_of_is_told_with_those_there_are(kdbench, folder, tmp_path):
    code, _, err = kdbench("publish", folder, "--out", tmp_path / "site", "--with", "student")
    assert code == 2 and "did you mean 'students'? (allowed: predictions, records, students)" in err
