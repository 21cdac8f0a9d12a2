"""The leaderboard for programs: the data frame, and CSV with the same content."""

import csv
import io
import json

import pandas as pd
import pytest
from support.profiles import comparison, profile, training
from support.records import REGISTRY, planned, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.metrics.catalog import METRICS
from kdbench.profile.record import write_profile
from kdbench.report.flat import rounded, to_csv, to_frame, to_json
from kdbench.results.store import Store


@pytest.fixture
def board(tmp_path):
    """Two cells: a teacher, ce and kd with two seeds, at without a result; and kd alone, which failed."""
    store = Store(tmp_path)
    store.write(record(teacher_spec(), .9, role="teacher"))
    for method, accuracy in (("ce", .80), ("kd", .84)):
        for seed in range(2):
            store.write(record(spec(method, seed), accuracy + seed / 50))
    store.write(record(spec("kd", 0, temperature=8.0), .7))
    store.write(record(spec("kd", 0, dataset="letters"), status="diverged", reason="NaN"))
    store.write(record(spec("at", 1), status="inapplicable", reason="too few stages"))
    store.plan([planned(spec("at", 0))])
    write_profile(Store(tmp_path), profile("pair", deployment=comparison()))
    write_profile(Store(tmp_path), profile(run=spec("kd"), training=training(.02, 2.0, .5)))
    return build(tmp_path, REGISTRY)


def test_a_frame_has_a_row_for_each_method_in_each_cell_below_the_teacher_s(board):
    frame = to_frame(board)
    assert list(zip(frame.dataset, frame.role, frame.method, strict=True)) == [
        ("digits", "teacher", "big"), ("digits", "student", "kd"), ("digits", "student", "ce"),
        ("digits", "student", "kd"), ("digits", "student", "at"), ("letters", "teacher", "big"),
        ("letters", "student", "kd")]
    assert list(frame.hyperparameters) == [None, {}, {}, {"temperature": 8.0}, {}, None, {}]
    assert set(frame.results) == {board.results_hash} and set(frame.records) == {board.records_hash}


def test_a_frame_holds_means_intervals_and_paired_differences_as_numbers(board):
    kd = to_frame(board).query("role == 'student' and seeds == 2 and method == 'kd'").iloc[0]
    assert kd.test_accuracy_mean == pytest.approx(.85)
    assert kd.test_accuracy_high - kd.test_accuracy_mean == pytest.approx(12.706 * .01, rel=1e-3)
    assert kd.difference_to_ce_mean == pytest.approx(.04) and kd.wins_over_ce == kd.pairs_with_ce == 2
    assert kd.latency_ms_mean == pytest.approx(2) and kd.training_energy_source == "estimate"
    assert kd.seed_values == [0, 1] and len(kd.runs) == 2


def test_the_columns_of_a_frame_are_typed_and_those_of_every_metric_are_numbers(board):
    types = to_frame(board).dtypes.astype(str).to_dict()
    assert {f"{name}_{part}" for name in METRICS for part in ("mean", "low", "high")} <= {
        name for name, kind in types.items() if kind == "float64"}
    expected = {"role": "string", "method": "string", "family": "string", "cell": "string", "results": "string",
                "reported_by": "string", "seeds": "Int64", "failed": "Int64", "missing": "Int64",
                "pairs_with_ce": "Int64", "wins_over_ce": "float64", "flipped": "float64",
                "reported_test_accuracy": "float64", "hyperparameters": "object", "failures": "object",
                "classes_harmed": "object", "runs": "object"}
    assert {name: types[name] for name in expected} == expected
    assert set(types.values()) == {"string", "Int64", "float64", "object"}


def test_what_is_missing_is_missing_in_the_type_of_its_column(board):
    frame = to_frame(board)
    teacher, diverged = frame.iloc[0], frame.iloc[-1]
    assert teacher.family is pd.NA and teacher.seeds is pd.NA and teacher.runs is None
    assert teacher.test_accuracy_mean == .9 and pd.isna(teacher.test_accuracy_low)
    assert (diverged.seeds, diverged.failed, diverged.missing) == (0, 1, 0) and pd.isna(diverged.test_accuracy_mean)
    assert diverged.failures == [{"seed": 0, "status": "diverged", "reason": "NaN"}]
    at = frame[frame.method == "at"].iloc[0]
    assert (at.seeds, at.failed, at.missing, at.inapplicable) == (0, 0, 1, 1)


def test_the_types_do_not_depend_on_the_values(board, tmp_path):
    store = Store(tmp_path / "other")
    store.write(record(spec("kd"), status="crashed", reason="memory"))
    other = to_frame(build(store.folder, REGISTRY))
    assert len(other) == 2 and other.dtypes.to_dict() == to_frame(board).dtypes.to_dict()


def test_a_leaderboard_without_rows_has_every_column_with_its_type(board, tmp_path):
    store = Store(tmp_path / "teachers")
    store.write(record(teacher_spec(), .9, role="teacher"))
    empty = build(store.folder, REGISTRY)
    frame = to_frame(empty)
    assert len(frame) == 0 and frame.dtypes.to_dict() == to_frame(board).dtypes.to_dict()
    assert to_csv(empty) == ",".join(frame.columns)


def test_floats_of_csv_and_json_have_nine_digits_so_that_no_processor_changes_their_text(board):
    nested = {"p": 1 / 3, "seeds": [0.1 + 0.2, 5, "a"], "tiny": 1.23456789012e-20, "none": None, "on": True}
    assert rounded(nested) == {"p": .333333333, "seeds": [.3, 5, "a"], "tiny": 1.23456789e-20, "none": None, "on": True}
    assert type(rounded(nested)["on"]) is bool and rounded((1 / 3,)) == [.333333333]
    written = json.loads(to_json(board))
    assert rounded(written) == written
    (line, *_) = [line for line in csv.DictReader(io.StringIO(to_csv(board))) if line["role"] == "student"]
    assert len(line["test_accuracy_low"].lstrip("-0.")) <= 9


def test_csv_has_the_rows_columns_and_values_of_the_frame(board):
    frame = to_frame(board)
    lines = list(csv.DictReader(io.StringIO(to_csv(board))))
    assert len(lines) == len(frame) and list(lines[0]) == list(frame.columns)
    for column in frame.columns:
        for value, text in zip(frame[column], lines, strict=True):
            if isinstance(value, list | dict):
                assert json.loads(text[column]) == rounded(value), column
            elif pd.isna(value):
                assert text[column] == "", column
            else:
                assert type(value)(text[column]) == rounded(value), column
