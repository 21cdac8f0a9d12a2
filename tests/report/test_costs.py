"""Profiles beside records: as metrics of rows, as tables, and the sources of energy."""

import csv
import io
import json
import re

import pytest
from msgspec.structs import replace
from support.profiles import comparison, profile, training
from support.records import RECIPE, REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.costs import cost
from kdbench.analysis.details import read_details
from kdbench.profile.record import write_profile
from kdbench.report.files import render, report_files
from kdbench.report.formatting import three_digits
from kdbench.report.plots import plots
from kdbench.report.tables.costs import cost_tables, tables_of
from kdbench.results.store import Store

PAIR = profile("pair", deployment=comparison(student=.002, teacher=.006, joules=(1.0, 4.0)))
CE = profile(run=spec("ce"), training=training(.010, 1.0, .1))
KD = profile(run=spec("kd"), training=training(.025, 2.5, .3))

KNOWN = {name: one.facts for name, one in REGISTRY.items()}


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for item in (record(spec("ce", 0), .8), record(spec("ce", 1), .82), record(spec("kd", 0), .85),
                 record(spec("at", 0), .7), record(teacher_spec(), .9, role="teacher")):
        store.write(item)
    for item in (PAIR, CE, KD):
        write_profile(Store(tmp_path), item)
    return tmp_path


def tables(*profiles):
    return {table.title.split(":")[0].split(" (")[0]: table for table in tables_of(profiles, REGISTRY)}


def lines(table):
    return {line[0]: dict(zip(table.header, line, strict=True)) for line in table.lines}


# As metrics.

def test_a_row_has_the_costs_of_its_method_and_of_the_network_that_it_deploys(folder):
    (cell,) = build(folder, REGISTRY).cells
    rows = {row.method: row for row in cell.rows}
    expected = {"step_ms": 25, "step_time_ratio": 2.5, "training_seconds": 2.5, "training_memory_bytes": 300 * 2**20,
                "step_energy_joules": .3, "training_energy_joules": 30, "latency_ms": 2, "latency_p95_ms": 4,
                "parameters": 1234, "flops": 5_600_000, "file_bytes": 7168, "throughput": 32_000,
                "energy_per_1000_images": 1, "speedup": 3, "energy_saving": .75}
    assert {name: rows["kd"].estimate(name).mean for name in expected} == pytest.approx(expected)
    assert rows["kd"].estimate("step_ms").half_width is None  # one profile: no interval over seeds
    assert rows["kd"].estimate("test_accuracy").mean == .85 and rows["kd"].seeds == (0,)
    assert "latency_ms" not in rows["at"].metrics  # its profile is missing: what it deploys is not known
    assert cell.teacher.metrics["latency_ms"] == pytest.approx(6) and cell.teacher.metrics["test_accuracy"] == .9


def test_a_method_that_deploys_another_network_has_the_costs_of_that(folder):
    write_profile(Store(folder), replace(KD, deployment=comparison(student=.003)))
    rows = {row.method: row for row in build(folder, REGISTRY).cells[0].rows}
    assert rows["kd"].estimate("latency_ms").mean == pytest.approx(3)
    assert rows["ce"].estimate("latency_ms").mean == pytest.approx(2)


def test_profiles_of_other_hyperparameters_and_cells_stay_apart(folder):
    write_profile(Store(folder), profile(run=spec("kd", temperature=8.0), training=training(.5, 50.0)))
    write_profile(Store(folder), profile(run=spec("at", dataset="letters"), training=training(.7, 70.0)))
    rows = {row.label: row for row in build(folder, REGISTRY).cells[0].rows}
    assert rows["kd"].estimate("step_ms").mean == pytest.approx(25)
    assert "step_ms" not in rows["at"].metrics


def test_csv_and_json_name_the_source_of_energy(folder):
    write_profile(Store(folder), replace(KD, energy_source="rapl"))
    leaderboard = build(folder, REGISTRY)
    rows = {row["method"]: row for row in json.loads(render(leaderboard, "json"))["rows"]}
    assert (rows["kd"]["training_energy_source"], rows["kd"]["use_energy_source"]) == ("rapl", "estimate")
    assert (rows["ce"]["training_energy_source"], rows["ce"]["use_energy_source"]) == ("estimate", "estimate")
    assert rows["at"]["training_energy_source"] is None
    write_profile(Store(folder), replace(KD, energy_source="rapl", deployment=comparison()))
    rows = {row["method"]: row for row in json.loads(render(build(folder, REGISTRY), "json"))["rows"]}
    assert rows["kd"]["use_energy_source"] == "rapl"  # it deploys a network of its own
    table = {line["method"]: line for line in csv.DictReader(io.StringIO(render(leaderboard, "csv")))}
    assert table["kd"]["training_energy_source"] == "rapl"
    assert float(table["kd"]["training_energy_joules_mean"]) == pytest.approx(30)
    assert float(table["big"]["latency_ms_mean"]) == pytest.approx(6)


def test_the_hash_of_records_depends_on_profiles_and_damaged_ones_are_told(folder):
    before = build(folder, REGISTRY)
    path = Store(folder).files.profile(KD.run_id)
    path.write_bytes(path.read_bytes()[:50])
    after = build(folder, REGISTRY)
    assert before.records_hash != after.records_hash
    assert any(f"profile/{path.name}: truncated" in line for line in after.statement)
    path.unlink()
    assert build(folder, REGISTRY).records_hash not in (before.records_hash, after.records_hash)


def test_accuracy_is_drawn_against_the_costs_that_were_measured(folder):
    leaderboard = build(folder, REGISTRY)
    drawn = {plot.name: plot for plot in plots(leaderboard, read_details(Store(folder), leaderboard))}
    slug = "big-small-on-digits"
    assert f"step-time-ratio-{slug}" in drawn
    energy = drawn[f"training-energy-joules-{slug}"]
    assert energy.title == "Training energy (estimate) and test accuracy: big-small on digits"
    assert b"training energy (estimate), joules" in energy.svg


def labels_of(folder, name):
    leaderboard = build(folder, REGISTRY)
    drawn = {plot.name: plot for plot in plots(leaderboard, read_details(Store(folder), leaderboard))}
    return re.findall(r">([^<>]+)</text>", drawn[name].svg.decode())


def test_the_plot_of_latency_names_the_teacher_and_the_methods_whose_deployment_was_measured(folder):
    labels = labels_of(folder, "latency-digits-cpu")
    assert {"kd", "ce", "teacher"} <= set(labels)
    assert "at" not in labels  # what it deploys was not measured


def test_the_plot_of_latency_joins_all_pairs_of_a_dataset(folder):
    other = RECIPE.model_copy(update={"image_size": 16})
    run, measured = spec("ce", recipe=other), comparison(student=.004, teacher=.012)
    Store(folder).write(record(run, .95))
    write_profile(Store(folder), profile("pair", run=run, deployment=measured))
    write_profile(Store(folder), profile(run=run, training=training(.02, 1.0)))
    Store(folder).write(record(spec("ce", dataset="letters"), .99))
    named = [label for label in labels_of(folder, "latency-digits-cpu") if "recipe" in label]
    assert named and {label.split("=")[0] for label in named} == {  # of `other` there is no teacher
        "kd, recipe.image_size", "ce, recipe.image_size", "teacher, recipe.image_size"}
    sizes = {method: {label.split("=")[1].split(",")[0] for label in named if label.startswith(f"{method}, ")}
             for method in ("kd", "ce", "teacher")}
    assert sizes == {"kd": {"8"}, "ce": {"8", "16"}, "teacher": {"8"}}


def test_the_page_names_the_source_of_each_energy(folder):
    write_profile(Store(folder), replace(KD, energy_source="rapl"))
    page = re.sub(r"<[^>]*>", "|", report_files(folder, {})["index.html"].decode())
    assert "|30.0 (rapl)|" in page and "|10.0 (estimate)|" in page
    assert "|1.00 (estimate)|" in page and "|32,000|" in page  # of use: the pair's own


# As tables.

def test_a_leaderboard_has_tables_of_cost_only_where_something_was_measured(folder):
    text = render(build(folder, REGISTRY), "md")
    assert "## Cost of training (energy: estimate): big-small on digits" in text
    assert "## Cost of use (energy: estimate): big-small on digits" in text
    for path in (folder / "profile").iterdir():
        path.unlink()
    assert "Cost of" not in render(build(folder, REGISTRY), "md")


def test_the_table_of_training_is_that_of_the_profiles():
    table = tables(PAIR, KD, CE)["Cost of training"]
    assert table.title == "Cost of training (energy: estimate): big-small on digits"
    assert [line[0] for line in table.lines] == ["ce", "kd"]
    assert lines(table)["kd"] == {
        "method": "kd", "step ms": "25.0", "x ce": "2.50", "quartiles": "2.25 to 2.75", "train s": "2.50",
        "MiB": "300", "J/step": "0.300", "train J": "30.0"}
    notes = " ".join(table.notes)
    assert "5 passes of 40 steps drawn from all parts of a run of 100, each step in turns with one of ce" in notes
    assert "on a processor, 1 thread" in notes and "load average" not in notes
    assert "Energy, estimate: CPU seconds of the process times a stated wattage, no measurement, at 10 W per core" \
        in notes


def test_the_table_of_use_has_the_teacher_the_student_and_other_networks():
    other = replace(KD, deployment=comparison(student=.003))
    table = tables(CE, other, PAIR)["Cost of use"]
    found = lines(table)
    assert list(found) == ["teacher", "student", "kd"]
    assert found["student"] == {
        "network": "student", "parameters": "1,234", "MFLOPs": "5.60", "KiB": "7.00", "latency ms": "2.00",
        "p95 ms": "4.00", "images/s": "32,000", "J/1000": "1.00", "speed-up": "3.00", "saved %": "75.0"}
    assert (found["teacher"]["speed-up"], found["kd"]["speed-up"]) == ("", "2.00")


def test_two_sources_in_one_table_are_named_at_each_figure():
    table = tables(CE, replace(KD, energy_source="rapl", watts_per_core=None))["Cost of training"]
    assert table.title == "Cost of training: big-small on digits"
    assert lines(table)["ce"]["train J"] == "10.0 estimate" and lines(table)["kd"]["train J"] == "30.0 rapl"
    notes = " ".join(table.notes)
    assert "Energy, rapl: the counters" in notes and "Energy, estimate: CPU seconds" in notes


def test_no_counter_is_not_available_and_said_so():
    silent = profile(run=spec("ce"), training=training(.01, 1.0), energy_source=None, watts_per_core=None)
    table = tables(silent)["Cost of training"]
    assert lines(table)["ce"]["train J"] == "n/a"
    assert any("no counter of the GPU could be read" in note for note in table.notes)


def test_failed_and_inapplicable_methods_are_shown_with_the_reason():
    failed = profile(run=spec("kd"), status="crashed", reason="crashed: out of memory")
    unfit = profile(run=spec("at"), status="inapplicable", reason="too few stages")
    table = tables(failed, unfit, CE)["Cost of training"]
    assert [line[0] for line in table.lines] == ["ce", "at", "kd"]
    assert set(lines(table)["kd"].values()) == {"kd", "n/a"}
    assert {"Failed: kd: crashed: out of memory.", "n/a: at: too few stages."} <= set(table.notes)


def test_a_busy_machine_is_told():
    table = tables(replace(CE, load_average=3.14))["Cost of training"]
    assert any("load average was up to 3.1 when" in note for note in table.notes)


def test_methods_are_named_with_the_hyperparameters_that_are_not_their_defaults():
    found = [cost(profile(run=spec("kd", temperature=t), training=training(.1, 2.0)), KNOWN) for t in (4.0, 8.0)]
    (table,) = cost_tables(found, "here")
    assert [line[0] for line in table.lines] == ["kd", "kd (temperature=8.0)"]


@pytest.mark.parametrize("value, text", [
    (0.00123, "0.00123"), (0.0123, "0.0123"), (0.5, "0.500"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234"),
    (-12.34, "-12.3"), (0, "0")])
def test_values_have_three_digits_or_more(value, text):
    assert three_digits(value) == text


def test_a_profile_by_another_version_of_a_method_s_source_is_told(folder):
    assert not any("Mixed" in line for line in build(folder, REGISTRY).statement)
    write_profile(Store(folder), replace(KD, method_digest="b" * 64))
    (line,) = [line for line in build(folder, REGISTRY).statement if "Mixed" in line]
    assert "profiles of kd were made by 2 versions of its source (aaaaaaaa, bbbbbbbb)" in line
