"""Versions of results: what is kept of them, and what tables say."""

import re

import msgspec
import pytest
from support.records import record

from kdbench.analysis.build import build
from kdbench.environment import version as installed
from kdbench.errors import UserError
from kdbench.finished.fsck import Fsck
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.profile.record import Profile
from kdbench.results.lock import lock, read_lock
from kdbench.results.release import read_release
from kdbench.results.store import Store
from kdbench.site.version import release
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import built_in_suites, frozen_text, load_suite

METHODS = Registry()


@pytest.fixture
def store(tmp_path):
    """Two runs of smoke, and one with a setting of its own."""
    store = Store(tmp_path / "runs")
    store.files.records.mkdir(parents=True)
    for settings in ({}, {"kd.temperature": 9.0}):
        for spec in expand(load_suite("smoke"), METHODS, Selection(["ce", "kd"], seeds=1, settings=settings)).students:
            store.write(record(spec, 0.5, suite="smoke"))
    return store


def versions(store):
    return [(one.version, one.note) for one in read_release(store).versions]


def test_a_version_keeps_both_hashes_and_tables_name_it_until_the_results_change(store):
    made = release(store.folder, "2026.12", "The first\nversion", METHODS)
    board = build(store.folder, METHODS)
    assert (made.version.results, made.version.records) == (board.results_hash, board.records_hash)
    assert "Version 2026.12 of these results: The first version" in board.statement
    assert store.files.suite.read_text() == frozen_text(load_suite("smoke"))
    assert made.told == ("2 of 3 runs are those of smoke's text, the others have settings of their own",)
    old = next(one for one in store.read()[0] if one.spec.method == "ce")
    store.write(msgspec.structs.replace(old, metrics={"test_accuracy": 0.25}))
    assert not [one for one in Fsck(store.folder, CacheFolder(store.folder), Profile).check() if one.kind == "foreign"]
    changed = [line for line in build(store.folder, METHODS).statement if "version" in line]
    assert changed == [f"Changed since version 2026.12 of these results, whose hash is {board.results_hash[:16]}."]


def test_the_runs_of_any_device_are_those_of_the_suite(store):
    for spec in expand(load_suite("smoke"), METHODS, Selection(["ce"], seeds=1, device="cpu-portable")).students:
        store.write(record(spec, 0.5, suite="smoke"))
    assert release(store.folder, "2026.12", "x", METHODS).told[0].startswith("3 of 4 runs are those of smoke's text")


@pytest.mark.parametrize("name", built_in_suites())
def test_a_frozen_text_expands_to_the_same_runs_without_the_built_in_pairs(name, tmp_path, monkeypatch):
    (tmp_path / f"{name}.toml").write_text(frozen_text(load_suite(name)))
    one = Selection(["ce", "kd"], datasets=["synthetic"])
    wanted = [run.id for run in expand(load_suite(name), METHODS, one).students]
    monkeypatch.setattr("kdbench.suites.suite.built_in_pairs", dict)
    assert [run.id for run in expand(load_suite(str(tmp_path / f"{name}.toml")), METHODS, one).students] == wanted


def test_the_lock_has_the_installed_version_of_everything_that_kdbench_needs(store):
    release(store.folder, "2026.12", "x", METHODS)
    lines = store.files.packages.read_text().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names) and all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in lines)
    for name in ("kdbench", "torch", "timm", "numpy", "sympy"):  # the last is torch's
        assert f"{name}=={installed(name)}" in lines
    assert "pytest" not in read_lock(lock())  # an extra's


def test_packages_that_records_were_made_with_and_that_are_not_locked_are_told(store):
    for one in store.read()[0]:
        used = {"torch": "2.0", "numpy": installed("numpy")}
        store.write(msgspec.structs.replace(one, environment={"versions": used}))
    told = release(store.folder, "2026.12", "x", METHODS).told
    assert told[1:] == (f"3 records were made with torch 2.0, and {installed('torch')} is installed and locked here",)


def test_versions_follow_each_other_and_one_of_the_same_results_is_noted_once(store):
    release(store.folder, "2026.12", "first", METHODS)
    release(store.folder, "2026.12", "first, said better", METHODS)
    assert versions(store) == [("2026.12", "first, said better")]
    store.write(record(expand(load_suite("smoke"), METHODS, Selection(["kd"], seeds=[5])).students[0], 0.5,
                       suite="smoke"))
    for wrong in ("2026.12", "2026.11.3"):
        with pytest.raises(UserError, match=rf"version {wrong}: .* has version 2026.12, of other results"):
            release(store.folder, wrong, "again", METHODS)
    release(store.folder, "2026.12.1", "one seed more", METHODS)
    assert versions(store) == [("2026.12.1", "one seed more"), ("2026.12", "first, said better")]


@pytest.mark.parametrize(("version", "note", "message"), [
    ("2026.13", "x", "version 2026.13: expected YEAR.MONTH"), ("1.0", "x", "expected YEAR.MONTH"),
    ("2026.12.0", "x", "expected YEAR.MONTH"), ("2026.12", "  ", "--note: expected"),
])
def test_what_is_no_version_leaves_nothing_behind(store, version, note, message):
    before = sorted(path.name for path in store.folder.iterdir())
    with pytest.raises(UserError, match=re.escape(message)):
        release(store.folder, version, note, METHODS)
    assert sorted(path.name for path in store.folder.iterdir()) == before


def test_results_that_the_suite_did_not_make_and_damaged_ones_get_no_version(store, tmp_path):
    with pytest.raises(UserError, match=r"none of its 3 runs is one that .*quick.toml asks for"):
        release(store.folder, "2026.12", "x", METHODS, suite="quick")
    next(store.files.records.iterdir()).write_text("{")
    with pytest.raises(UserError, match=r"`kdbench fsck .*` tells all that is wrong"):
        release(store.folder, "2026.12", "x", METHODS)
    assert read_release(store) is None


def test_a_damaged_release_is_told_by_tables_and_in_the_way_of_the_next(store):
    store.files.release.write_text("{}")
    assert any("release.json" in line for line in build(store.folder, METHODS).statement)
    with pytest.raises(UserError, match=r"release.json: cannot be read"):
        release(store.folder, "2026.12", "x", METHODS)
