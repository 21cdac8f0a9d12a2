"""`kdbench evaluate`: the metrics of finished runs, computed anew."""


import numpy as np
import pytest

from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import Architecture, Recipe, RunSpec

RUN = RunSpec(method="kd", pair="a", student=Architecture(model="small"), dataset="mnist5k",
              recipe=Recipe(epochs=1, batch_size=8, image_size=8, lr=0.1), seed=0)


@pytest.fixture
def folder(tmp_path):
    store, logits, labels = Store(tmp_path), np.eye(10, dtype=np.float32), np.arange(10)
    digest = store.write_predictions(RUN.id, {"validation_logits": logits, "validation_labels": labels,
                                              "test_logits": logits, "test_labels": labels})
    store.write(Record(run_id=RUN.id, role="student", suite="tiny", spec=RUN, status="ok",
                       metrics={"test_accuracy": .5}, seconds=1, predictions_sha256=digest, method_digest="a",
                       started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:02Z", curves={"loss": [1.0]}))
    return tmp_path


def test_evaluate_rewrites_the_metrics_once(kdbench, folder):
    assert kdbench("evaluate", folder) == (0, "1 records changed, 0 as they were\n", "")
    assert next(Store(folder).scan()).metrics["test_accuracy"] == 1
    assert kdbench("evaluate", folder) == (0, "0 records changed, 1 as they were\n", "")


def test_evaluate_tells_what_it_could_not_do(kdbench, folder):
    next((folder / "predictions").iterdir()).write_bytes(b"")
    code, out, err = kdbench("evaluate", folder)
    assert code == 1 and out.startswith("0 records changed") and "not evaluated: " in err and "SHA-256" in err


def test_evaluating_a_folder_without_records_is_one_line_and_exit_code_2(kdbench, tmp_path):
    code, out, err = kdbench("evaluate", tmp_path / "absent")
    assert (code, out) == (2, "") and "no records here" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "absent").exists()
