"""Results with a row for each run."""

import csv
import io

import pandas as pd
import pytest
from support.records import record, spec, teacher_spec

import kdbench
from kdbench.errors import UserError
from kdbench.metrics.catalog import METRICS
from kdbench.report.flat import RUN_COLUMNS, runs_to_csv
from kdbench.results.store import Store


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for seed in (1, 0):
        store.write(record(spec("kd", seed), .8 + seed / 10, metrics={"ece": .1}, peak_memory_bytes=7,
                           environment={"cpu": "a processor", "git_commit": "abc"}))
    store.write(record(spec("at"), status="diverged", reason="diverged at step 3"))
    store.write(record(teacher_spec(), .9, role="teacher"))
    return tmp_path


def test_every_record_is_a_row_with_its_metrics_and_what_made_it(folder):
    found = kdbench.runs(folder)
    assert list(found.columns) == list(RUN_COLUMNS) and set(METRICS) <= set(found.columns)
    assert sorted(zip(found.method, found.seed, found.role, strict=True)) == [
        ("at", 0, "student"), ("ce", 1000, "teacher"), ("kd", 0, "student"), ("kd", 1, "student")]
    kd = found[found.method == "kd"]
    assert list(kd.test_accuracy) == [.8, .9] and list(kd.run) == [spec("kd", seed).id for seed in (0, 1)]
    assert set(kd.machine) == {"a processor"} and set(kd.peak_memory_bytes) == {7.0} and set(kd.epochs) == {2}
    assert kd.hyperparameters.iloc[0] == {"temperature": 4.0} and set(kd.seconds) == {2.0}
    at = found[found.method == "at"].iloc[0]
    assert (at.status, at.reason) == ("diverged", "diverged at step 3") and pd.isna(at.test_accuracy)


def test_csv_has_the_same_rows(folder):
    rows = list(csv.DictReader(io.StringIO(runs_to_csv(Store(folder)))))
    frame = kdbench.runs(folder)
    assert [row["run"] for row in rows] == list(frame.run) and list(rows[0]) == list(RUN_COLUMNS)
    assert [float(row["test_accuracy"]) for row in rows if row["test_accuracy"]] == list(frame.test_accuracy.dropna())


def test_a_folder_without_records_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no records here"):
        kdbench.runs(tmp_path)
