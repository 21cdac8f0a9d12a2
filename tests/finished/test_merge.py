"""Joining folders of results: what is kept of what several have, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from support.folders import finish, note_submissions, tree
from support.profiles import profile
from support.records import REGISTRY, planned, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.errors import UserError
from kdbench.finished import merge as module
from kdbench.finished.fsck import Fsck
from kdbench.finished.merge import merge
from kdbench.folders import CacheFolder
from kdbench.metrics.answers import Answers
from kdbench.profile.record import Profile, write_profile
from kdbench.results.merged import read_merged
from kdbench.results.store import Store
from kdbench.tune.choice import Choices, read_choices, write_choices

CE, KD, AT = spec("ce"), spec("kd"), spec("at")
LATER = {"started": "2026-02-01T00:00:00Z", "finished": "2026-02-01T00:00:02Z"}


def joined(*folders, out=Path("all"), only_look=False):
    return merge([Path(folder) for folder in folders], Path(out), Profile, read_choices, only_look)


def content(folder="all"):
    """All files of a merged folder, its note without the dates."""
    files = tree(folder)
    if "merged.json" in files:
        files["merged.json"] = json.dumps([{**one, "when": ""} for one in json.loads(files["merged.json"])["origins"]])
    return files


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """The folders a and b, with a plan, and a run in each and one in both."""
    monkeypatch.chdir(tmp_path)
    a, b = Store("a"), Store("b")
    for store, runs in ((a, (CE, KD)), (b, (CE, AT))):
        store.plan([planned(CE), planned(KD), planned(AT)])
        for run in runs:
            finish(store, run)
        finish(store, teacher_spec(), "teacher")
        store.files.student(teacher_spec().id).unlink()  # a teacher's network stays in the cache
    return a, b


def test_all_files_of_all_folders_are_in_the_merged_one_and_nothing_is_wrong_with_it(stores, tmp_path):
    a, b = stores
    write_profile(a, profile(run=KD))
    finish(b, spec("kd", seed=1000), "trial")
    write_choices(b.folder, Choices(suite="tiny", study={}, seeds=[1000]))
    found = joined("a", "b")
    there = {name: data for name, data in tree("all").items() if name != "merged.json"}
    assert there == {**tree("a"), **tree("b")} and found.records == 5 and not found.refused
    check = Fsck(Path("all"), CacheFolder(tmp_path / "cache"), Profile)
    assert list(check.check()) == [] and check.records == 5


def test_each_file_is_written_once_and_merging_again_changes_nothing(stores, monkeypatch):
    joined("a", "b")
    monkeypatch.setattr(module, "now", lambda: "2100-01-01T00:00:00Z")
    before = {path: path.stat().st_mtime_ns for path in Path("all").rglob("*") if path.name != ".lock"}
    again = joined("b", "a")
    assert again.copies == [] and again.merged is None
    assert {path: path.stat().st_mtime_ns for path in Path("all").rglob("*") if path.name != ".lock"} == before


@pytest.fixture
def tangled(stores):
    """Three folders that have runs in common: reruns, a failure, metrics that were added, profiles."""
    a, b = stores
    c = Store("c")
    finish(b, CE, environment={"cpu": "another"}, **LATER)
    finish(c, CE, metrics={"ece": .1}, started="2026-03-01T00:00:00Z", finished="2026-03-01T00:00:02+00:00")
    c.write(record(KD, status="crashed", reason="no", **LATER))
    c.write(record(spec("kd", seed=1), status="crashed", reason="no"))
    a.write(record(spec("kd", seed=1), status="inapplicable", reason="no", **LATER))
    finish(c, AT, started="2025-01-01T00:00:00Z", finished="2025-01-01T00:00:00.5Z")
    for store, cpu, when in ((a, "x", "2026-01-05T00:00:00Z"), (b, "y", "2026-01-07T00:00:00Z"),
                             (c, "z", "2026-01-06T00:00:00Z")):
        write_profile(store, profile(run=KD, environment={"cpu": cpu}, finished=when))
    return a, b, c


def test_of_several_versions_the_better_is_kept_whatever_the_order_of_folders(tangled, stores):
    results = []
    for order in permutations("abc"):
        found = joined(*order)
        results.append(content())
        assert sum("bit-equal" in line for line in found.told) == 1
        shutil.rmtree("all")
    assert all(one == results[0] for one in results)
    joined("a", "b", "c")
    kept, (a, b, c) = Store("all"), tangled
    assert kept.get(CE.id) == c.get(CE.id)                        # more metrics, though it finished last
    assert kept.get(AT.id) == c.get(AT.id)                        # the first to finish
    assert kept.get(KD.id) == a.get(KD.id)                        # ok before crashed
    assert kept.get(spec("kd", seed=1).id).status == "inapplicable"  # before crashed
    assert next(kept.files.profiles.iterdir()).read_bytes() == next(b.files.profiles.iterdir()).read_bytes()  # latest


def test_of_records_that_are_alike_the_one_with_answers_is_kept(stores):
    a, b = stores
    whole = Answers(((0, 4),), "eJxjYGBgAAAABAAB")
    finish(a, AT, started="2025-01-01T00:00:00Z", finished="2025-01-01T00:00:00.5Z")
    finish(b, AT, answers=whole, **LATER)
    joined("a", "b")
    assert Store("all").get(AT.id).answers == whole


def test_folders_that_are_merged_one_after_another_give_the_same_as_all_at_once(tangled):
    joined("a", "b", "c", out="at once")
    for folder in "cab":
        joined(folder)
    ours, theirs = content(), content("at once")
    assert ours.pop("merged.json") and theirs.pop("merged.json")
    assert ours == theirs


def test_what_became_of_runs_in_several_folders_is_told(tangled):
    told = "\n".join(joined("a", "b", "c").told)
    assert "1 run in several folders with the same record: taken once" in told  # the teacher
    assert "2 runs repeated, bit-equal: kept is the record with the most metrics, of these the first to finish" in told
    assert "1 run finished in some folders only" in told and "1 run finished in none of several folders" in told
    assert "1 profile measured in several folders: the latest is kept" in told


def test_the_target_is_one_of_the_folders(stores):
    a, _ = stores
    mine = finish(Store("all"), spec("kd", seed=7))
    failed = record(KD, status="timeout", reason="slow")
    Store("all").write(failed)
    joined("a", "b")
    kept = Store("all")
    assert kept.get(mine.run_id) == mine and kept.get(KD.id) == a.get(KD.id)
    shutil.rmtree("all")
    finish(Store("all"), KD, weights=b"x")
    before = tree("all")
    assert len(joined("a").refused) == 1 and tree("all") == before


@pytest.mark.parametrize(("change", "said"), [
    ({"weights": b"x"}, ("weights", "predictions")), ({"accuracy": .6}, ("test_accuracy",)),
    ({"role": "trial"}, ("role",)),
])
def test_finished_runs_that_contradict_each_other_are_named_and_nothing_is_written(stores, change, said):
    a, b = stores
    ours, theirs = a.get(KD.id), finish(b, KD, **{**LATER, **change})
    found = joined("a", "b")
    assert not Path("all").exists() and len(found.refused) == 1
    line = found.refused[0]
    assert line.startswith(f"contradiction: run {KD.id}, kd, seed 0 (big-small on digits): {said[0]} ")
    hashes = {"weights": "weights_sha256", "predictions": "predictions_sha256"}
    for what in said:
        if what in hashes:
            mine, other = (getattr(one, hashes[what])[:16] for one in (ours, theirs))
            assert f"{what} {mine} in a and {other} in b" in line
    assert ("test_accuracy 0.5 in a and 0.6 in b" in line) == ("accuracy" in change)
    assert ("role student in a and trial in b" in line) == ("role" in change)


def test_a_teacher_that_two_machines_trained_to_other_weights_is_named_as_one(stores):
    finish(stores[1], teacher_spec(), "teacher", weights=b"x")
    assert joined("a", "b").refused[0].startswith(
        f"contradiction: run {teacher_spec().id}, teacher ce, seed 1000 (big-small on digits): weights ")


def test_a_folder_that_another_command_writes_into_is_no_target(stores):
    with Store("all").lock():
        joined("a", "b", only_look=True)
        with pytest.raises(UserError, match="all: in use by another"):
            joined("a", "b")
    assert tree("all") == {}


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def newer(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))


@pytest.mark.parametrize("ruin", [cut, pipe])
@pytest.mark.parametrize("kind", ["record", "plan", "profile", "student", "predictions"])
def test_a_damaged_file_is_refused_by_name_unless_another_folder_has_it_whole(stores, kind, ruin):
    a, b = stores
    write_profile(a, profile(run=KD))
    path = getattr(a.files, kind)(KD.id) if kind != "profile" else next(a.files.profiles.iterdir())
    if kind == "plan":
        b.files.plan(KD.id).unlink()
    whole = path.read_bytes()
    ruin(path)
    found = joined("a", "b")
    assert [line.startswith(f"damaged: {path}: ") for line in found.refused] == [True] and not Path("all").exists()
    good = Path("b") / path.relative_to("a")
    finish(b, KD)
    good.parent.mkdir(exist_ok=True)
    good.write_bytes(whole)
    found = joined("a", "b")
    assert not found.refused and (Path("all") / path.relative_to("a")).read_bytes() == whole
    assert any(line.startswith(f"damaged: {path}: ") and line.endswith("the one of b is kept") for line in found.told)


def test_a_damaged_file_of_the_target_is_replaced_by_a_whole_one(stores):
    joined("a", "b")
    before = content()
    for path in (Store("all").files.record(KD.id), Store("all").files.student(CE.id)):
        cut(path)
    found = joined("a", "b")
    assert content() == before and len(found.copies) == 2


def test_a_record_of_a_newer_kdbench_is_refused_by_name(stores):
    path = stores[0].files.record(KD.id)
    newer(path)
    assert joined("a", "b").refused == [f"newer: {path}: schema version 2, this kdbench reads 1"]


def test_choices_of_two_tunings_are_refused_by_name_and_equal_ones_are_copied_once(stores):
    for folder in "ab":
        write_choices(Path(folder), Choices(suite="tiny", study={}, seeds=[1000]))
    assert joined("a", "b", only_look=True).refused == []
    write_choices(Path("b"), Choices(suite="tiny", study={}, seeds=[1001]))
    found = joined("a", "b")
    assert len(found.refused) == 1 and "a/tune/choices.json and b/tune/choices.json: other choices" in found.refused[0]
    Path("b/tune/choices.json").write_text("{")
    found = joined("a", "b")
    assert not found.refused and Path("all/tune/choices.json").read_bytes() == Path("a/tune/choices.json").read_bytes()
    assert any("b/tune/choices.json" in line and "the one of a is kept" in line for line in found.told)


def test_other_plugin_files_of_one_name_are_refused_by_name_and_equal_ones_are_copied_once(stores):
    a, b = stores
    for store, method in ((a, "first"), (b, "second")):
        note_submissions(store, **{method: b"A = 1"})
    found = joined("a", "b", only_look=True)
    assert found.refused == [] and [one.target.name for one in found.copies].count("mine.py") == 1
    note_submissions(b, second=b"B = 2")
    for folders, out in (("ab", "all"), ("b", "a")):
        (refused,) = joined(*folders, out=out).refused
        assert refused.startswith("contradiction: plugins/mine.py: the submissions of ")
        assert "first" in refused and "second" in refused
    assert a.files.plugin("mine.py").read_bytes() == b"A = 1" and not Path("all").exists()


def test_runs_of_one_cell_that_saw_other_images_are_warned_of(stores):
    finish(stores[1], AT, dataset_digest="b" * 64)
    warnings = [line for line in joined("a", "b").told if line.startswith("warning")]
    assert len(warnings) == 1 and "big-small on digits saw other images" in warnings[0]
    assert "aaaaaaaaaaaaaaaa by 2 runs of a; bbbbbbbbbbbbbbbb by 1 run of b" in warnings[0]


def test_networks_and_predictions_come_from_the_folder_that_has_them(stores):
    a, b = stores
    for kind in ("student", "predictions"):
        shutil.rmtree(getattr(a.files, kind)("x").parent)
    finish(b, KD, environment={"cpu": "another"}, **LATER)
    warnings = [line for line in joined("a", "b").told if line.startswith("warning")]
    kept = Store("all")
    assert kept.get(KD.id) == a.get(KD.id) and kept.damage(kept.get(KD.id)) is None
    assert warnings == []
    for kind in ("student", "predictions"):
        getattr(b.files, kind)(KD.id).unlink()
    warnings = [line for line in joined("a", "b", out="again").told if line.startswith("warning")]
    assert ["network" in line and "1 finished run without" in line for line in warnings] == [True, False]


def test_what_a_failed_run_left_is_no_damaged_file_of_a_finished_one(stores):
    a, b = stores
    b.write(record(KD, status="crashed", reason="no"))
    b.files.student(KD.id).write_bytes(b"of another try")
    a.files.student(KD.id).unlink()
    found = joined("a", "b")
    assert not found.refused and "1 finished run without network" in found.told[-1]
    assert not Store("all").files.student(KD.id).exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("nth", range(0, 13, 2))
def test_the_same_command_finishes_what_a_killed_one_began(stores, monkeypatch, nth):
    joined("a", "b", out="whole")
    writes = []

    def dying(path, content, **options):
        writes.append(path)
        if len(writes) > nth:
            raise Killed
        write(path, content, **options)

    write = module.atomic_write
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", dying)
        patch.setattr("kdbench.results.store.atomic_write", dying)
        with pytest.raises(Killed):
            joined("a", "b")
    assert not Path("all/merged.json").exists()
    if Path("all/records").exists():  # no record without its files
        assert all(Store("all").damage(one) is None for one in Store("all").read()[0])
    joined("a", "b")
    assert content() == content("whole")


def test_a_merge_that_is_killed_amid_a_file_leaves_what_the_next_one_removes(stores):
    joined("a", "b", out="whole")
    code = """
import os, sys
from kdbench.cli import main
from kdbench.finished import merge
def dying(copy):
    yield b"half"
    if "records" in str(copy.path):
        os.kill(os.getpid(), 9)
    yield copy.path.read_bytes()
merge._pieces = dying
sys.argv = ["kdbench", "merge", "a", "b", "--out", "all"]
main.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL and list(Path("all/records").glob(".*.tmp"))
    joined("a", "b")
    assert content() == content("whole")


def test_a_file_that_changes_while_it_is_copied_is_not_taken(stores, monkeypatch):
    path = stores[0].files.student(KD.id)
    write = module.Merge.write

    def late(found):
        cut(path)
        write(found)

    monkeypatch.setattr(module.Merge, "write", late)
    with pytest.raises(UserError, match=f"{path}: it changed while it was merged"):
        joined("a", "b")
    assert not Store("all").files.student(KD.id).exists() and not list(Path("all").rglob("*.tmp"))


def test_a_dry_run_writes_nothing_and_says_what_a_merge_does(stores):
    found = joined("a", "b", only_look=True)
    assert not Path("all").exists()
    assert found.told == joined("a", "b").told and len(found.copies) == len(tree("all")) - 1


def test_the_leaderboard_says_where_results_came_from(stores):
    finish(stores[0], spec("kd", seed=1000), "trial")  # no result, as in its leaderboard
    joined("a", "b")
    board = build(Path("all"), REGISTRY)
    hashes = [build(Path(folder), REGISTRY).results_hash[:16] for folder in "ab"]
    assert f"Merged from a (4 records, results {hashes[0]}), b (3 records, results {hashes[1]})." in board.statement
    Path("all/merged.json").write_text(Path("all/merged.json").read_text().replace('"a"', '"c"'))
    assert build(Path("all"), REGISTRY).records_hash != board.records_hash
    Path("all/merged.json").write_text("{")
    told = build(Path("all"), REGISTRY)
    assert any(line.startswith("Not used: merged.json: cannot be read") for line in told.statement)
    assert told.results_hash == board.results_hash and told.records_hash != board.records_hash
    assert any(line.startswith("damaged: all/merged.json") for line in joined("a", "b").refused)


def test_the_note_keeps_what_was_merged_before_and_what_merged_folders_know(stores):
    joined("a", out="first")
    joined("first", "b")
    assert [one.name for one in read_merged(Store("all"))[0].origins] == ["a", "b", "first"]
    first = read_merged(Store("all"))[0].origins
    finish(stores[0], spec("kd", seed=3))
    joined("a")
    now = read_merged(Store("all"))[0].origins
    assert [one for one in now if one in first] == first and [(one.name, one.records) for one in now if
                                                              one not in first] == [("a", 4)]


def test_other_metrics_of_one_run_are_both_right_if_those_that_both_have_are_equal(stores):
    a, b = stores
    b.write(msgspec.structs.replace(a.get(CE.id), metrics={"test_accuracy": .5, "ece": .1}))
    a.write(msgspec.structs.replace(a.get(CE.id), metrics={"test_accuracy": .5, "top5_accuracy": .9, "nll": 1.0}))
    assert not joined("a", "b").refused and "nll" in Store("all").get(CE.id).metrics


@pytest.mark.parametrize(("folders", "out", "message"), [
    (["a", "absent"], "all", "absent: no such folder"),
    (["a", "file"], "all", "file: no such folder"),
    (["a", "a"], "all", "a: given twice"),
    (["a", "link"], "all", "link: given twice, as a too"),
    (["a", "b"], "b", "b: it is --out too"),
    (["a", "b"], "a/all", "--out a/all: it lies inside a: "),
    (["a/records", "b"], "a", "a/records: it lies inside --out a: "),
    (["a", "empty"], "all", "empty: no records here"),
    (["a", "b"], "file", "--out file: not a folder"),
])
def test_folders_that_cannot_be_merged_are_a_user_error_and_nothing_is_written(stores, folders, out, message):
    Path("file").touch()
    Path("link").symlink_to("a")
    Path("empty").mkdir()
    before = tree(".")
    with pytest.raises(UserError) as raised:
        joined(*folders, out=out)
    assert str(raised.value).startswith(message) and tree(".") == before
    assert not Path("all").exists() and not Path("a/all").exists()
