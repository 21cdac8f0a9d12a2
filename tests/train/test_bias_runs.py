"""Runs on datasets with a known bias, from training to the record and back."""

import numpy as np
import pytest
from data.test_imagefolder import collected, make, paths
from msgspec.structs import replace
from support.matrices import job, smoke, teacher_job

from kdbench.analysis.build import build
from kdbench.finished.evaluate import evaluate
from kdbench.folders import CacheFolder
from kdbench.metrics.answers import read_answers
from kdbench.metrics.catalog import METRICS, score
from kdbench.report.files import render
from kdbench.results.store import Store
from kdbench.train.worker import run_job

GROUP = ("worst_group_accuracy", "group_gap", "equalised_odds_difference", "demographic_parity_difference",
         "bias_amplification")


def run(dataset, out, cache):
    plan = smoke("kd", datasets=[dataset])
    assert run_job(teacher_job(plan, cache)).status == "ok"
    record = run_job(job(plan, out, cache, "kd"))
    assert record.status == "ok", record.traceback
    return record


def test_a_skewed_run_is_measured_by_group_and_evaluated_again_from_its_file_alone(tmp_path, cache):
    record = run("synthetic+skew(0.95)", tmp_path, cache)
    assert {*GROUP, *(f"teacher_{name}" for name in GROUP)} <= record.metrics.keys()
    assert record.groups == {"bias": ["aligned", "conflicting"], "tint": ["warm", "cool"]}
    accuracies = record.vectors["group_accuracy.bias"]
    assert min(accuracies) >= record.metrics["worst_group_accuracy"]
    assert np.mean(accuracies) == pytest.approx(record.metrics["test_accuracy"])  # the test split is balanced
    store = Store(tmp_path)
    arrays = store.read_predictions(record.run_id)
    assert arrays["train_class_counts"].tolist() == [90] * 10
    tint = arrays["group_attributes"].tolist().index("tint")
    assert arrays["train_group_counts"][tint].tolist() == [[85, 5], [5, 85]] * 5  # .05 * 90 = 4.5 rounded up

    measured = {name: value for name, value in record.metrics.items() if not METRICS[name].compute}
    vectors = {name: value for name, value in record.vectors.items() if name.startswith(("corruption", "pgd"))}
    store.write(replace(record, metrics=measured, vectors=vectors, groups={}, answers=None))
    assert evaluate(tmp_path, CacheFolder(cache)).problems == ()
    again = store.get(record.run_id)
    assert (again.metrics, again.vectors, again.groups, again.answers) == (
        record.metrics, record.vectors, record.groups, record.answers)
    read = read_answers(record.answers)
    assert np.mean(read.classes == read.labels) == pytest.approx(record.metrics["test_accuracy"])
    assert [np.bincount(codes).tolist() for codes in read.groups] == [
        np.bincount(codes).tolist() for codes in arrays["test_groups"]]


def test_a_run_without_bias_has_neither_group_nor_shot_metrics(tmp_path, cache):
    record = run("synthetic", tmp_path, cache)
    assert not [name for name in record.metrics if "group" in name or "shot" in name or "bias" in name]
    assert record.groups == {}


def test_a_long_tailed_run_has_the_accuracy_of_each_bin_that_is_not_empty(tmp_path, cache):
    record = run("synthetic+longtail(30)", tmp_path, cache)  # 90 to 3 training images: none has more than 100
    arrays = Store(tmp_path).read_predictions(record.run_id)
    counts = arrays["train_class_counts"]
    assert counts.max() == 90 and counts.min() == 3
    assert {name for name in record.metrics if "shot" in name} == {"medium_shot_accuracy", "few_shot_accuracy"}
    assert score(arrays)["few_shot_accuracy"] == record.metrics["few_shot_accuracy"]


def test_the_groups_of_an_image_folder_go_from_its_csv_file_into_record_and_table(tmp_path, cache):
    counts = {"train": {"cat": 20, "dog": 20}, "test": {"cat": 4, "dog": 4}}
    root = make(tmp_path / "pets", counts, size=(32, 32))
    rows = [f"{split}/{name}/{i:03}.png,{'indoors' if i % 4 < 3 else 'outdoors'}"
            for split, classes in counts.items() for name, count in classes.items() for i in range(count)]
    (root / "groups.csv").write_text("\n".join(["file,place", *rows, ""]))
    record = run(f"imagefolder:{root}", tmp_path / "runs", cache)
    arrays = Store(tmp_path / "runs").read_predictions(record.run_id)
    right = arrays["test_logits"].argmax(1) == arrays["test_labels"]
    outdoors = np.array([path.endswith("003.png") for path in paths(collected(root, cache).splits["test"])])
    expected = [right[~outdoors].mean(), right[outdoors].mean()]
    assert record.groups == {"place": ["indoors", "outdoors"]}
    assert record.vectors["group_accuracy.place"] == pytest.approx(expected)
    assert record.metrics["worst_group_accuracy"] == pytest.approx(min(expected))
    assert record.metrics["group_gap"] == pytest.approx(max(expected) - min(expected))
    assert record.metrics.keys() >= {f"teacher_{name}" for name in GROUP[:4]}
    text = render(build(tmp_path / "runs"), "md")
    assert f"## Groups: {record.spec.pair} on imagefolder:" in text
