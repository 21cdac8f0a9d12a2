"""Records of compressed networks: what is read, what is refused, and how folders that hold them are checked, joined and
shown."""

import csv
import io
import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.compressed import SETTINGS, compressed, put
from support.folders import finish
from support.records import REGISTRY, planned, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.compress.record import Compressed, Settings, compressed_id, read_compressed
from kdbench.errors import UserError
from kdbench.finished.fsck import Fsck
from kdbench.finished.merge import merge
from kdbench.folders import CacheFolder
from kdbench.profile.record import Profile
from kdbench.report.flat import to_csv, to_json
from kdbench.report.markdown import to_markdown
from kdbench.report.page import to_html
from kdbench.report.tables.cell import further_tables
from kdbench.report.terminal import View, to_text
from kdbench.results.record import Problem
from kdbench.results.store import Store
from kdbench.tune.choice import read_choices

CE, KD = spec("ce"), spec("kd")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder with a run of ce and one of kd, in whose place networks may be put."""
    monkeypatch.chdir(tmp_path)
    store = Store("a")
    for run in (CE, KD):
        finish(store, run)
    finish(store, teacher_spec(), "teacher")
    store.files.student(teacher_spec().id).unlink()
    store.plan([planned(CE), planned(KD)])
    return store


def findings(folder="a") -> list[tuple[str, str]]:
    check = Fsck(Path(folder), CacheFolder(Path("cache")), Profile, Compressed)
    return [(one.kind, one.path.name) for one in check.check()]


# What is asked for.

@pytest.mark.parametrize(("settings", "said"), [
    ({}, "--int8, --prune SHARE, or both"), ({"prune": 0.0}, "above 0 and below 1"), ({"prune": 1.0}, "--prune 1: "),
    ({"prune": -.5}, "--prune -0.5"), ({"int8": True, "recovery": 2}, "--recovery goes with --prune"),
])
def test_settings_that_make_no_sense_are_refused_in_one_line(settings, said):
    with pytest.raises(UserError, match=said) as error:
        Settings(**settings)
    assert "\n" not in str(error.value)


def test_the_float_network_is_measured_beside_those_that_are_asked_for():
    assert Settings(int8=True).kinds() == ("float", "int8")
    assert Settings(prune=.5).kinds() == ("float", "pruned")
    assert Settings(int8=True, prune=.5).kinds() == ("float", "int8", "pruned", "pruned int8")


def test_an_id_depends_on_the_run_and_on_how_the_network_was_made_and_int8_not_on_pruning():
    other = Settings(int8=True, prune=.25, recovery=3)
    ids = {kind: compressed_id(CE, SETTINGS.of(kind, CE)) for kind in SETTINGS.kinds()}
    assert len(set(ids.values())) == 4
    assert compressed_id(CE, other.of("int8", CE)) == ids["int8"]
    assert compressed_id(CE, other.of("pruned", CE)) != ids["pruned"]
    assert compressed_id(KD, SETTINGS.of("int8", KD)) != ids["int8"]


def test_recovery_is_a_quarter_of_the_recipes_epochs_and_at_least_one():
    for epochs, recovery in ((24, 6), (8, 2), (1, 1)):
        run = CE.model_copy(update={"recipe": CE.recipe.model_copy(update={"epochs": epochs})})
        assert Settings(prune=.5).of("pruned", run)["recovery_epochs"] == recovery
    assert Settings(prune=.5, recovery=0).of("pruned", CE)["recovery_epochs"] == 0


@pytest.mark.parametrize(("words", "said"), [
    ("a", "nothing to do: give --int8, --prune SHARE, or both"), ("a --prune 1.5", "--prune 1.5: expected"),
    ("a kd:0 --methods kd --int8", "--methods: it goes without RUN"), ("a kq:0 --int8", "did you mean 'kd:0'"),
    ("a --methods kq --int8", "unknown method of a 'kq' (allowed: ce, kd)"), ("b --int8", "b: no records here"),
    ("a --int8 --recovery -1", "Invalid value for '--recovery'"),
])
def test_the_command_says_in_one_line_what_is_wrong_and_writes_nothing(store, kdbench, words, said):
    code, printed, errors = kdbench("compress", *words.split())
    assert code == 2 and said in errors and printed == "" and "Traceback" not in errors
    assert not store.files.compressed.exists() and not Path("b").exists()


# Files.

def test_a_record_comes_back_as_it_was_written_and_a_changed_one_is_a_problem(store):
    one = compressed()
    put(store, one)
    assert read_compressed(store, one.run_id) == one
    path = store.files.compressed_record(one.run_id)
    path.write_text(path.read_text().replace('"file_bytes": 2048', '"file_bytes": 1024'))
    assert isinstance(read_compressed(store, one.run_id), Problem)


@pytest.mark.parametrize("changes", [
    {"prune": .5}, {"calibration_images": 7}, {"run_id": "0" * 16}, {"network_sha256": None},
    {"metrics": {"test_accuracy": 1.5}}, {"metrics": {"float_agreement": 2.0}},
])
def test_a_record_that_contradicts_itself_is_not_written(store, changes):
    with pytest.raises(ValueError):
        put(store, replace(compressed(), **changes))
    assert not list(store.files.compressed.glob("*.json"))


def test_fsck_finds_nothing_wrong_with_networks_and_names_the_missing_the_damaged_and_the_orphaned(store):
    ones = [compressed(kind) for kind in SETTINGS.kinds()]
    for one in ones:
        put(store, one)
    put(store, compressed(run=KD, status="inapplicable", reason="it cannot"))
    assert findings() == []
    store.files.compressed_network(ones[0].run_id).unlink()
    store.files.compressed_network(ones[1].run_id).write_bytes(b"other")
    store.files.compressed_record(ones[2].run_id).unlink()
    store.files.compressed_record(ones[3].run_id).write_text("{")
    assert sorted(findings()) == sorted([
        ("missing", f"{ones[0].run_id}.onnx"), ("damaged", f"{ones[1].run_id}.onnx"),
        ("orphaned", f"{ones[2].run_id}.onnx"), ("damaged", f"{ones[3].run_id}.json")])


def test_merging_keeps_the_latest_record_of_a_network_with_its_file(store):
    other = Store("b")
    for run in (CE, KD):
        finish(other, run)
    early, late = compressed(latency=.001), compressed(latency=.002, finished="2026-02-01T00:00:00Z")
    only = compressed("pruned", KD)
    put(store, early)
    put(other, late)
    put(other, only)
    found = merge([Path("a"), Path("b")], Path("all"), Profile, read_choices, compressed=Compressed)
    assert not found.refused
    joined = Store("all")
    assert read_compressed(joined, late.run_id) == late and read_compressed(joined, only.run_id) == only
    assert findings("all") == []
    again = merge([Path("a"), Path("b")], Path("all"), Profile, read_choices, compressed=Compressed)
    assert not again.copies


# The leaderboard.

def board(store):
    return build(store.folder, REGISTRY)


def test_a_folder_without_compressed_networks_has_neither_table_nor_columns(store):
    found = board(store)
    assert not any(table.title.startswith("Compressed") for table in further_tables(found.cells[0], "x"))
    assert "network" not in to_csv(found).splitlines()[0].split(",")
    assert "compressed" not in json.loads(to_json(found)) and "Compressed" not in to_text(found, View())


def test_each_network_has_a_row_beside_the_float_students_with_its_change_and_costs(store):
    for kind, accuracy, latency in (("float", .5, .002), ("int8", .48, .001), ("pruned", .4, .0005)):
        put(store, compressed(kind, accuracy=accuracy, latency=latency))
    found = board(store)
    (table,) = (table for table in further_tables(found.cells[0], "x") if table.title.startswith("Compressed"))
    lines = [dict(zip(table.header, line, strict=True)) for line in table.lines]
    assert [(line["method"], line["network"]) for line in lines] == [
        ("ce", "float"), ("ce", "int8"), ("ce", "pruned 50 %")]
    assert [line["vs float"].split(" ±")[0] for line in lines] == ["", "-2.00", "-10.00"]
    assert [line["ms"] for line in lines] == ["2.00", "1.00", "0.500"] and lines[1]["p95 ms"] == "2.00"
    assert [line["as float"] for line in lines] == ["", "90.00", "90.00"]
    assert lines[1]["KiB"] == "2.00" and lines[1]["J/1000"] == "7.00" and lines[1]["worst"] == "24.00"
    for text in (to_text(found, View()), to_markdown(found)):
        assert "pruned 50 %" in text
    assert "pruned 50 %" in to_html(found, _details(store, found), [], REGISTRY)
    assert "Compressed" not in to_text(found, View(brief=True))


def _details(store, found):
    from kdbench.analysis.details import read_details
    return read_details(store, found)


def test_csv_and_json_hold_every_network_behind_the_students(store):
    for kind, accuracy in (("float", .5), ("int8", .48)):
        put(store, compressed(kind, accuracy=accuracy))
    found = board(store)
    lines = [line for line in csv.DictReader(io.StringIO(to_csv(found))) if line["role"] == "compressed"]
    assert [(line["method"], line["network"]) for line in lines] == [("ce", "float"), ("ce", "int8")]
    assert float(lines[1]["difference_to_float_mean"]) == pytest.approx(-.02)
    assert float(lines[1]["onnx_file_bytes_mean"]) == 2048 and float(lines[1]["float_agreement_mean"]) == .9
    content = json.loads(to_json(found))
    assert [line["network"] for line in content["compressed"]] == ["float", "int8"]
    assert content["compressed"][1]["test_accuracy_mean"] == .48 and len(content["rows"]) == 2


def test_a_network_of_other_weights_than_the_run_has_now_is_left_out_and_told_of(store):
    put(store, compressed())
    finish(store, CE, weights=b"!")
    found = board(store)
    assert not found.cells[0].compressed
    assert any("other weights" in line for line in found.statement)


def test_a_network_that_cannot_be_had_stands_in_the_table_with_its_reason(store):
    put(store, compressed("float"))
    put(store, compressed("pruned", status="inapplicable", reason="torch-pruning cannot prune it: why"))
    put(store, compressed("int8", status="diverged", reason="logits are not finite"))
    text = to_markdown(board(store))
    assert "torch-pruning cannot prune it: why" in " ".join(text.split()) and "n/a: ce, pruned 50 %" in text
    lines = json.loads(to_json(board(store)))["compressed"]
    assert {line["network"]: (line["failed"], line["inapplicable"], [one["status"] for one in line["failures"]])
            for line in lines} == {"float": (0, 0, []), "int8": (1, 0, ["diverged"]),
                                   "pruned 50 %": (0, 1, ["inapplicable"])}


def test_compressed_networks_change_the_hash_of_records_and_not_that_of_results(store):
    before = board(store)
    put(store, compressed())
    after = board(store)
    assert before.results_hash == after.results_hash and before.records_hash != after.records_hash
