"""A table to check by hand: test accuracy in % of three methods over three seeds.

    seed         0    1         2
    ce          80   82        84     mean 82, standard deviation 2
    kd          84   85        89     mean 86; less ce: 4, 3, 5: mean 4, standard deviation 1
    at          70   diverged  (none)
    teacher     90

The factor of a 95 % interval for three values is t = 4.3027, so ce's is 82 ± 4.3027 * 2 / sqrt(3) = 82 ± 4.968.
"""

import csv
import io
import json
import math
import random
import statistics
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from msgspec.structs import replace
from support.records import RECIPE, REGISTRY, info, planned, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.harm import holm
from kdbench.analysis.intervals import detectable_effect
from kdbench.disk import atomic_write
from kdbench.errors import UserError
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import Hyperparameter
from kdbench.report.files import render
from kdbench.results.store import Store
from kdbench.spec import TrainedTeacher

ACCURACIES = {"ce": (.80, .82, .84), "kd": (.84, .85, .89)}
T = 4.302652729911275


def records():
    return [
        *(record(spec(method, seed), accuracy) for method, row in ACCURACIES.items()
          for seed, accuracy in enumerate(row)),
        record(spec("at", 0), .70),
        record(spec("at", 1), status="diverged", reason="the loss is NaN at step 412"),
        record(teacher_spec(), .90, role="teacher", metrics={"worst_class_accuracy": .5}, seconds=9.0),
    ]


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for one in records():
        store.write(one)
    store.plan([planned(teacher_spec(), "teacher")])
    store.plan(planned(run) for run in (spec("at", 2), *(spec("ce", seed) for seed in range(3))))
    return tmp_path


def rows(folder):
    (cell,) = build(folder, REGISTRY).cells
    return {row.label: row for row in cell.rows}


def test_the_note_on_the_resolution_is_the_least_difference_that_three_seeds_find(folder):
    # kd less ce has a standard deviation of 1 point over 3 seeds. By simulation below, 3.26 deviations are found in
    # 80 % of all samples of three.
    text = render(build(folder, REGISTRY), "md")
    assert ("Resolution: with 3 seeds and 80 % power, a single moderated t-test at 5 % finds a true difference to ce "
            "of 3.26 points") in " ".join(text.split())


def test_the_note_on_the_resolution_has_the_difference_that_a_mark_takes_among_the_methods_of_the_table(tmp_path):
    for method, row in {"ce": (.80, .82, .84), "kd": (.84, .85, .89), "at": (.85, .89, .84)}.items():
        for seed, accuracy in enumerate(row):
            Store(tmp_path).write(record(spec(method, seed), accuracy))
    board = build(tmp_path, REGISTRY)
    sizes = [100 * statistics.median(told.standard_error * detectable_effect(told.degrees, count)
                                     for told in board.cells[0].compared("ce").values()) for count in (1, 2)]
    assert (f"a true difference to ce of {sizes[0]:.2f} points, and one of {sizes[1]:.2f} points after Holm's "
            "correction for 2 methods") in " ".join(render(board, "md").split())


def test_the_detectable_effect_is_found_in_80_percent_of_simulated_samples():
    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 10):
        samples = generator.normal(detectable_effect(count - 1) / math.sqrt(count), 1, (200_000, count))
        t = samples.mean(1) / (samples.std(1, ddof=1) / math.sqrt(count))
        assert (np.abs(t) > scipy.stats.t.ppf(.975, count - 1)).mean() == pytest.approx(.8, abs=.004)


def test_of_ten_comparisons_the_detectable_effect_is_marked_by_holms_correction_in_80_percent_of_tables():
    generator, degrees = np.random.default_rng(0), 4
    found = 0
    for _ in range(4000):
        means = generator.normal(size=10)
        means[0] += detectable_effect(degrees, 10)
        p = 2 * scipy.stats.t.sf(np.abs(means) / np.sqrt(generator.chisquare(degrees, 10) / degrees), degrees)
        found += holm(p.tolist())[0] < .05
    assert found / 4000 == pytest.approx(.8, abs=.02)


def test_with_a_known_deviation_the_detectable_effect_is_that_of_the_normal_test():
    assert detectable_effect(math.inf) == pytest.approx(scipy.stats.norm.ppf(.975) + scipy.stats.norm.ppf(.8), abs=1e-4)


# How rows are called.

def test_a_method_that_stands_once_is_called_by_its_name_and_a_note_tells_its_settings(folder):
    for seed in range(3):
        Store(folder).files.record(spec("kd", seed).id).unlink()
        Store(folder).write(record(spec("kd", seed, temperature=8.0), .9))
    row = rows(folder)["kd"]
    assert row.hyperparameters == {"temperature": 8.0}
    assert rows(folder)["ce"].differences["kd"].mean == pytest.approx(-.08)  # it is the cell's kd
    assert "Not at their defaults: kd: temperature=8.0." in render(build(folder, REGISTRY), "md")


def test_variants_of_one_method_are_told_apart_by_what_differs_between_them(folder):
    for temperature, budget in ((8.0, 1), (8.0, 10)):
        run = spec("kd", temperature=temperature).model_copy(update={"updates": budget})
        Store(folder).write(record(run, .9))
    assert set(rows(folder)) == {"ce", "at", "kd", "kd (temperature=8.0)", "kd (temperature=8.0, updates=10)"}
    for seed in range(3):
        Store(folder).files.record(spec("kd", seed).id).unlink()
    assert set(rows(folder)) == {"ce", "at", "kd", "kd (updates=10)"}


# Conditions.

def test_what_a_method_learned_under_stands_beside_it(folder):
    registry = {**REGISTRY, "at": info("at", "attention", conditions=("with kd",))}
    passes = {"student_passes": 24.0, "teacher_passes": 2.0, "deployed_size": 3.456}
    Store(folder).write(record(spec("at", 0).model_copy(update={"updates": 2}), .9, metrics=passes))
    Store(folder).files.record(spec("at", 0).id).unlink()
    Store(folder).files.record(spec("at", 1).id).unlink()
    Store(folder).files.plan(spec("at", 2).id).unlink()
    board = build(folder, registry)
    told = {row.label: row.conditions for row in board.cells[0].rows}
    assert told == {"ce": (), "kd": (), "at": ("with kd", "2x updates", "12x student passes", "3.5x size")}
    assert " | with kd; 2x updates; 12x student passes; 3.5x size |" in render(board, "md")
    assert json.loads(render(board, "json"))["rows"][0]["conditions"] == list(told["at"])


def test_methods_without_data_stand_in_a_table_of_their_own_beside_the_references(folder):
    for seed in range(3):
        Store(folder).write(record(spec("blind", seed), .99, family="data_free"))
    board = build(folder, REGISTRY)
    first, second = render(board, "md").split("## Without data: ")
    assert "blind" not in first
    assert [line.split()[1] for line in second.splitlines() if line.startswith("| ")][2:] == [
        "teacher", "kd", "ce", "blind"]
    assert "blind" not in sum(board.cells[0].comparisons.tiers, ())


# The table above.

def test_means_intervals_and_differences_are_those_computed_by_hand(folder):
    table = rows(folder)
    ce, kd = table["ce"].estimate("test_accuracy"), table["kd"].estimate("test_accuracy")
    assert (ce.mean, ce.half_width) == pytest.approx((.82, T * .02 / math.sqrt(3)))
    assert (kd.mean, kd.low, kd.high) == pytest.approx((.86, .86 - T * math.sqrt(.0007) / math.sqrt(3),
                                                        .86 + T * math.sqrt(.0007) / math.sqrt(3)))
    difference = table["kd"].differences["ce"]
    assert (difference.mean, difference.half_width) == pytest.approx((.04, T * .01 / math.sqrt(3)))
    assert set(table["ce"].differences) == {"kd"}


def test_the_difference_uses_equal_seeds_only(folder):
    difference = rows(folder)["at"].differences["ce"]  # seed 0 alone: 70 - 80
    assert (difference.mean, difference.half_width, difference.count) == (pytest.approx(-.10), None, 1)


def test_one_seed_gives_a_mean_and_no_interval(folder):
    estimate = rows(folder)["at"].estimate("test_accuracy")
    assert (estimate.mean, estimate.half_width, estimate.low, estimate.high) == (.70, None, None, None)
    assert "70.00 ± n/a" in render(build(folder, REGISTRY), "md")


def test_failed_and_missing_runs_show_in_their_row_with_their_reasons(folder):
    at = rows(folder)["at"]
    assert at.seeds == (0,)
    assert [(f.seed, f.status, f.reason) for f in at.failures] == [
        (1, "diverged", "the loss is NaN at step 412"), (2, "missing", "planned, no record yet")]
    text = render(build(folder, REGISTRY), "md")
    assert "1/3" in next(line for line in text.splitlines() if line.startswith("| at "))
    assert "Diverged: at (big-small, digits), seed 1: the loss is NaN at step 412." in text
    assert "Missing: at (big-small, digits), seed 2: planned, no record yet." in text


def test_the_teacher_is_a_reference_row_above_its_students(folder):
    lines = [line.split("|")[1:] for line in render(build(folder, REGISTRY), "md").splitlines() if line[:1] == "|"]
    assert [line[0].strip() for line in lines[2:]] == ["teacher", "kd", "ce", "at"]
    assert [cell.strip() for cell in lines[2]] == ["teacher", "big", "", "90.00", "", "", "", "50.00", "9.0", ""]


def test_rows_are_ordered_best_first_and_those_without_a_result_last(folder):
    Store(folder).write(record(spec("none", 0), status="crashed", reason="out of memory"))
    assert list(rows(folder)) == ["kd", "ce", "at", "none"]


# Which runs share a row and a cell.

def test_other_hyperparameters_are_another_row_named_by_what_differs_from_the_defaults(folder):
    Store(folder).write(record(spec("kd", 0, temperature=8.0), .95))
    table = rows(folder)
    assert list(table)[:2] == ["kd (temperature=8.0)", "kd"]
    assert table["kd"].seeds == (0, 1, 2) and table["kd (temperature=8.0)"].seeds == (0,)


def test_the_reference_with_other_hyperparameters_is_a_method_like_any_other(folder):
    Store(folder).write(record(spec("ce", 0, temperature=2.0), .83))
    assert rows(folder)["ce (temperature=2.0)"].differences["ce"].mean == pytest.approx(.03)
    assert rows(folder)["kd"].differences["ce"].mean == pytest.approx(.04)


def test_runs_that_learnt_from_other_copies_of_the_student_are_not_averaged(tmp_path):
    for seed in (1, 2):
        own = TrainedTeacher(run=spec(seed=seed).model_copy(update={"teacher": None}))
        Store(tmp_path).write(record(spec("at").model_copy(update={"self_teacher": own}), .5 + seed / 10))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert [row.estimate("test_accuracy").mean for row in cell.rows] == [.7, .6]


def test_a_method_that_is_no_longer_installed_is_still_shown_with_its_recorded_family(folder):
    Store(folder).write(record(spec("gone", 0, temperature=2.0), .5, family="relation"))
    Store(folder).write(record(spec("unheard_of", 0), .4))
    table = rows(folder)
    assert (table["gone"].family, table["gone"].hyperparameters) == ("relation", {"temperature": 2.0})
    assert table["unheard_of"].family == "unknown"


def test_only_runs_on_the_same_pair_data_and_recipe_are_compared(folder):
    store = Store(folder)
    store.write(record(spec("kd", 0, dataset="clothes"), .3))
    store.write(record(spec("kd", 0, recipe=RECIPE.model_copy(update={"epochs": 3})), .4))
    board = build(folder, REGISTRY)
    assert [(cell.dataset, len(cell.rows)) for cell in board.cells if len(cell.rows) == 1] == [
        ("clothes", 1), ("digits", 1)]
    assert all(not row.differences for cell in board.cells if len(cell.rows) == 1 for row in cell.rows)
    titles = [line for line in render(board, "md").splitlines() if line.startswith("## big")]
    assert sorted(titles) == ["## big-small on clothes", "## big-small on digits (recipe.epochs=2, "
                              "teacher.run.recipe.epochs=2)", "## big-small on digits (recipe.epochs=3, "
                              "teacher.run.recipe.epochs=3)"]


def test_the_teacher_s_figures_come_from_its_students_where_it_has_no_record(tmp_path):
    Store(tmp_path).write(record(spec(), .8, metrics={"teacher_test_accuracy": .875, "agreement": .75}))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert cell.teacher.metrics == {"test_accuracy": .875}


def test_a_teacher_without_any_figures_is_shown_as_missing_or_failed(tmp_path):
    store = Store(tmp_path)
    store.write(record(spec(), .8))
    assert build(tmp_path, REGISTRY).cells[0].teacher.status == "missing"
    store.write(record(teacher_spec(), role="teacher", status="crashed", reason="out of memory"))
    assert build(tmp_path, REGISTRY).cells[0].teacher.status == "crashed"
    assert "| teacher | crashed " in render(build(tmp_path, REGISTRY), "md")


def test_a_metric_that_some_runs_lack_is_not_averaged_over_the_others(tmp_path):
    Store(tmp_path).write(record(spec(seed=0), .8, metrics={"agreement": .5, "ece": .1}))
    Store(tmp_path).write(record(spec(seed=1), .8, metrics={"ece": .3}))
    row = rows(tmp_path)["ce"]
    assert row.estimate("agreement") is None and row.estimate("ece").mean == pytest.approx(.2)


def test_a_method_that_cannot_train_the_pair_is_not_applicable_rather_than_failed(tmp_path):
    Store(tmp_path).write(record(spec("at"), status="inapplicable", reason="the student has one stage"))
    flat = json.loads(render(build(tmp_path, REGISTRY), "json"))["rows"][0]
    assert (flat["failed"], flat["missing"], flat["inapplicable"], flat["seeds"]) == (0, 0, 1, 0)
    assert "n/a: at (big-small, digits), seed 0: the student has one stage." in render(build(tmp_path, REGISTRY), "md")


# What a reader is told.

def test_damaged_and_foreign_files_are_named_and_not_used(folder):
    store, lost = Store(folder), spec("ce", 2)
    later = json.loads(record(spec("kd", 7), .99).to_json()) | {"schema_version": 2}
    atomic_write(store.files.record(spec("kd", 7).id), json.dumps(later).encode())
    store.files.record(lost.id).write_bytes(b'{"schema_version": 1,')
    board = build(folder, REGISTRY)
    text = "\n".join(board.statement)
    assert f"Not used: records/{spec('kd', 7).id}.json: schema version 2, this kdbench reads 1." in text
    assert f"Not used: records/{lost.id}.json: truncated or not JSON" in text
    assert "Missing: ce (big-small, digits), seed 2: its record is damaged: truncated" in text
    assert rows(folder)["kd"].seeds == (0, 1, 2) and rows(folder)["ce"].seeds == (0, 1)


def test_a_copy_of_a_record_under_another_name_is_told_and_counts_once(folder):
    store, run = Store(folder), spec("kd", 0)
    store.files.record("0" * 16).write_bytes(store.files.record(run.id).read_bytes())
    statement = build(folder, REGISTRY).statement
    assert f"Not used: records/{'0' * 16}.json: the file is named otherwise than its run id, {run.id}." in statement
    assert statement[0].startswith("9 runs of 1 suite (tiny)") and rows(folder)["kd"].seeds == (0, 1, 2)


@pytest.mark.parametrize("status", ["ok", "crashed"])
def test_runs_that_differ_only_in_how_a_number_is_written_count_once(folder, status):
    again = spec("kd", 0).model_copy(update={"hyperparameters": {"temperature": 4}})  # the others have 4.0
    assert again.id != spec("kd", 0).id
    Store(folder).write(record(again, .5, status=status))
    board = build(folder, REGISTRY)
    used, unused = spec("kd", 0).id, again.id
    if status == "ok":
        used, unused = sorted((used, unused))
    assert (f"Not used: records/{unused}.json: it repeats run {used}: the same method, hyperparameters and seed."
            in board.statement)
    kd = next(row for row in board.cells[0].rows if row.method == "kd")
    assert kd.seeds == (0, 1, 2) and kd.runs[0] == used and kd.failures == ()


def test_records_of_another_protocol_are_kept_apart(folder):
    other = spec("kd", 0).model_copy(update={"protocol": 2})
    Store(folder).write(record(other, .99))
    cells = build(folder, REGISTRY).cells
    assert sorted(len(cell.rows) for cell in cells) == [1, 3]
    assert "protocol=2" in render(build(folder, REGISTRY), "md")


def test_a_folder_of_damaged_records_alone_says_so_and_gives_no_table(tmp_path):
    Store(tmp_path).write(record(spec(), .5))
    Store(tmp_path).files.record(spec().id).write_bytes(b"")
    board = build(tmp_path, REGISTRY)
    assert board.cells == () and any("Not used: records/" in line for line in board.statement)
    assert "Not used" in render(board, "md")


def test_mixed_suites_and_versions_of_a_method_are_told(folder):
    assert "Mixed" not in "\n".join(build(folder, REGISTRY).statement)
    Store(folder).write(record(spec("kd", 3), .85, method_digest="b" * 64, suite="other"))
    statement = build(folder, REGISTRY).statement
    assert statement[0] == "10 runs of 2 suites (other, tiny): 1 diverged, 1 missing, 8 ok."
    assert "Mixed: the runs and profiles of kd were made by 2 versions of its source (aaaaaaaa, bbbbbbbb)." in statement


def test_a_folder_without_records_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no records here"):
        build(tmp_path, REGISTRY)


# The formats.

def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path, monkeypatch):
    written = records()
    texts = set()
    for attempt in range(3):
        store = Store(tmp_path / str(attempt))
        random.Random(attempt).shuffle(written)
        for one in written:
            store.write(one)
        found = list(store.scan_with_hashes())
        random.Random(attempt).shuffle(found)
        monkeypatch.setattr(Store, "scan_with_hashes", lambda self, found=found: iter(found))
        texts.add(tuple(render(build(store.folder, REGISTRY), kind) for kind in ("md", "csv", "json")))
        monkeypatch.undo()
    assert len(texts) == 1


def test_the_markdown_table_lines_up_and_fits_120_columns(folder):
    Store(folder).write(record(spec("label_smoothing", 0), 1.0, family="adversarial"))
    lines = [line for line in render(build(folder, REGISTRY), "md").splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 120
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in lines}) == 1
    assert "| kd " in lines[4] and "86.00 ± 6.57 | +4.00 ± 2.48 ↑ |" in lines[4]


def test_markup_in_a_value_cannot_break_the_table(tmp_path):
    run = spec("kd").model_copy(update={"hyperparameters": {"mode": "a|b\nc", "temperature": 8.0}})
    Store(tmp_path).write(record(run, .5))
    assert "\nNot at their defaults: kd: mode=a|b c, temperature=8.0." in render(build(tmp_path, REGISTRY), "md")
    Store(tmp_path).write(record(spec("kd", temperature=8.0), .5))
    assert "| kd (mode=a\\|b c) |" in render(build(tmp_path, REGISTRY), "md")


def test_json_rows_carry_everything_and_are_valid_json(folder):
    content = json.loads(render(build(folder, REGISTRY), "json"))
    kd = next(row for row in content["rows"] if row["method"] == "kd")
    assert kd["family"] == "logit" and kd["pair"] == "big-small" and kd["dataset"] == "digits" and kd["seeds"] == 3
    assert kd["test_accuracy_mean"] == pytest.approx(.86) and kd["difference_to_ce_mean"] == pytest.approx(.04)
    assert kd["runs"] == [spec("kd", seed).id for seed in range(3)]
    at = next(row for row in content["rows"] if row["method"] == "at")
    assert (at["seeds"], at["failed"], at["missing"], at["test_accuracy_low"]) == (1, 1, 1, None)
    assert at["failures"][0] == {"seed": 1, "status": "diverged", "reason": "the loss is NaN at step 412"}
    assert content["teachers"][0]["test_accuracy"] == .9
    assert all(f"{name}_mean" in kd for name in METRICS)


def test_csv_has_the_same_figures_with_the_teacher_in_a_role_of_its_own(folder):
    table = list(csv.DictReader(io.StringIO(render(build(folder, REGISTRY), "csv"))))
    assert [(line["role"], line["method"]) for line in table] == [
        ("teacher", "big"), ("student", "kd"), ("student", "ce"), ("student", "at")]
    assert float(table[0]["test_accuracy_mean"]) == .9 and float(table[1]["test_accuracy_mean"]) == pytest.approx(.86)
    assert table[3]["test_accuracy_low"] == "" and json.loads(table[3]["failures"])[1]["status"] == "missing"


def test_every_format_carries_a_hash_of_the_records_that_changes_with_what_it_was_made_from(folder):
    before = build(folder, REGISTRY).records_hash
    assert all(before in render(build(folder, REGISTRY), kind) for kind in ("md", "csv", "json"))
    hashes = {before}
    Store(folder).write(record(spec("kd", 0), .84, seconds=2.5))
    hashes.add(build(folder, REGISTRY).records_hash)
    Store(folder).plan([planned(spec("at", 3))])
    hashes.add(build(folder, REGISTRY).records_hash)
    Store(folder).files.record("0" * 16).write_bytes(b"{")
    hashes.add(build(folder, REGISTRY).records_hash)
    assert len(hashes) == 4


def test_repeated_runs_have_the_same_hash_of_results_whatever_time_and_machine_they_took(folder):
    before = build(folder, REGISTRY).results_hash
    assert all(before in render(build(folder, REGISTRY), kind) for kind in ("md", "csv", "json"))
    store = Store(folder)
    (again,) = (r for r in store.read()[0] if (r.spec.method, r.spec.seed) == ("kd", 0))
    store.write(replace(again, seconds=99.0, environment={"cpu": "another"}, finished="2027-01-01T00:00:00Z"))
    assert build(folder, REGISTRY).results_hash == before
    hashes = {before}
    for changes in ({"metrics": {"test_accuracy": .1}}, {"weights_sha256": "0" * 64}, {"predictions_sha256": "1" * 64},
                    {"status": "crashed"}):
        store.write(replace(again, **changes))
        hashes.add(build(folder, REGISTRY).results_hash)
    assert len(hashes) == 5


def test_an_unknown_format_is_a_user_error(folder):
    with pytest.raises(UserError, match=r"unknown format 'html'.*csv"):
        render(build(folder, REGISTRY), "html")


def test_the_installed_methods_name_the_families_unless_others_are_given(folder):
    (cell,) = build(folder).cells
    assert {row.method: row.family for row in cell.rows}["ce"] == "baseline"
    (cell,) = build(folder, {"ce": info("ce", "mine")}).cells
    assert {row.method: row.family for row in cell.rows} == {"ce": "mine", "kd": "unknown", "at": "unknown"}


def test_importing_the_leaderboard_imports_no_torch_pandas_or_scipy():
    code = ("import sys, kdbench.analysis.build, kdbench.report.files\n"
            "print([m for m in ('torch', 'pandas', 'scipy') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_runs_of_other_images_are_left_out_of_the_cell_and_named(tmp_path):
    store = Store(tmp_path)
    for method, images in (("ce", "a"), ("kd", "a"), ("at", "b")):
        for seed in range(2):
            store.write(record(spec(method, seed), .8, dataset_digest=images * 64))
    store.write(record(spec("at", 2), .7, dataset_digest="a" * 64))
    store.write(record(spec("at", 3), .6))  # an old record, which says nothing of its images
    store.write(record(spec("at", 4), status="crashed", reason="memory"))
    board = build(tmp_path, REGISTRY)
    (cell,) = board.cells
    assert {row.method: row.seeds for row in cell.rows} == {"ce": (0, 1), "kd": (0, 1), "at": (2, 3)}
    assert sorted(line for line in board.statement if "other images" in line) == sorted(
        f"Not used: records/{spec('at', seed).id}.json: made of other images (SHA-256 {'b' * 16}) than the other runs "
        "of its cell." for seed in range(2))


@pytest.mark.parametrize("images", ["ab", "ba"])
def test_where_no_images_are_the_most_frequent_those_of_the_reference_count(tmp_path, images):
    store = Store(tmp_path)
    for method, own in zip(("ce", "kd"), images, strict=True):
        for seed in range(2):
            store.write(record(spec(method, seed), .8, dataset_digest=own * 64))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert [row.method for row in cell.rows] == ["ce"]


def test_images_may_differ_between_cells(tmp_path):
    store = Store(tmp_path)
    for dataset in ("digits", "letters"):
        store.write(record(spec("ce", 0, dataset=dataset), .8, dataset_digest=dataset))
    board = build(tmp_path, REGISTRY)
    assert len(board.cells) == 2 and not any("other images" in line for line in board.statement)


# Methods that are not installed.

def test_what_records_say_of_a_method_makes_the_same_tables_without_it_and_after_it_changed(tmp_path):
    method = info("kd", "logit", conditions=("with at",), doc="The idea.",
                  hyperparameters={"temperature": Hyperparameter("temperature", "float", 8.0)})
    for one in ("ce", "kd"):
        facts = (method if one == "kd" else REGISTRY[one]).facts
        Store(tmp_path).write(record(spec(one, 0, temperature=8.0), .8, family="logit", facts=facts))
    boards = [build(tmp_path, installed) for installed in ({"kd": method}, {}, REGISTRY)]
    assert boards[0] == boards[1] == boards[2]
    row = next(row for row in boards[0].cells[0].rows if row.method == "kd")
    assert row.label == "kd" and row.hyperparameters == {} and row.conditions == ("with at",)
    assert boards[1].methods["kd"].idea == "The idea."


def test_of_records_that_differ_in_what_they_say_of_a_method_the_most_count(tmp_path):
    def said(default):
        temperature = Hyperparameter("temperature", "float", default)
        return info("kd", "logit", hyperparameters={"temperature": temperature}).facts

    for seed, default in enumerate((4.0, 8.0, 8.0)):
        Store(tmp_path).write(record(spec("kd", seed, temperature=4.0), .8, facts=said(default)))
    assert build(tmp_path, {}).methods["kd"].defaults == {"temperature": 8.0}
