import importlib
import re

import numpy as np
import pytest
import timm
from huggingface_hub import ModelCard
from support.records import record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.errors import UserError
from kdbench.metrics.answers import answers
from kdbench.plugins.registry import Registry
from kdbench.report.card import card
from kdbench.results.store import Store

REGISTRY = Registry()


@pytest.fixture
def folder(tmp_path):
    """Four seeds of ce, right on every image; four of kd, wrong on all Shirts and otherwise right."""
    store, labels = Store(tmp_path), np.repeat(np.arange(10), 20)
    for method in ("ce", "kd"):
        said = np.where(labels == 6, 0, labels) if method == "kd" else labels
        logits = np.eye(10, dtype=np.float32)[said]
        for seed in range(4):
            run = spec(method, seed, dataset="fashion_mnist")
            known = {"validation_logits": logits, "validation_labels": labels, "test_logits": logits,
                     "test_labels": labels}
            sha = store.write_predictions(run.id, known)
            store.write(record(
                run, float((said == labels).mean()), predictions_sha256=sha, weights_sha256="f" * 64, family="logit",
                answers=answers(known),
                metrics={"ece": .125, "nll": 1.5}, vectors={"class_accuracy": [1.0] * 6 + [.25] + [1.0] * 3},
                environment={"git_commit": "abcdef", "cpu": "a <CPU>", "gpu": None, "versions": {"torch": "2.9"}}))
    store.write(record(teacher_spec("fashion_mnist"), .9, role="teacher"))
    return tmp_path


def made(folder, seed=0, method="kd"):
    found = Store(folder).get(spec(method, seed, dataset="fashion_mnist").id)
    return card(found, build(folder, REGISTRY))


def test_hugging_face_reads_the_front_matter(folder):
    data = ModelCard(made(folder), ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag, data.datasets) == ("timm", "image-classification", ["fashion_mnist"])
    assert {"knowledge-distillation", "kdbench", "kd"} <= set(data.tags) and data.metrics == ["accuracy"]
    results = {result.metric_type: result for result in data.eval_results}
    assert results["accuracy"].metric_value == .9 and results["accuracy"].dataset_split == "test"
    assert results["expected_calibration_error"].metric_value == .125


def test_the_card_says_how_the_student_was_made_and_of_what(folder):
    text = made(folder, seed=3)
    for fact in ("| small ", "| big ", "| kd: temperature | 4.0 ", "| seed            | 3 ", "| lr              | 0.1 ",
                 "| training images   | all ", "| test accuracy     | 90.00 % ",
                 "grey images of clothing", "| licence of the data   | MIT ",
                 "f" * 64, "abcdef", "torch=2.9", build(folder, REGISTRY).results_hash,
                 build(folder, REGISTRY).records_hash, "@inproceedings{hinton2015distilling",
                 "@misc{xiao2017fashion", "local-dir:FOLDER"):
        assert fact in text, fact


def test_every_metric_of_the_run_stands_with_its_definition(folder):
    lines = made(folder).splitlines()
    nll = next(line for line in lines if line.startswith("| NLL"))
    assert "1.5 nats" in nll and "mean over test images of -ln p(label)" in nll
    accuracy = next(line for line in lines if line.startswith("| test accuracy") and "label's" in line)
    assert "| 90.00 % " in accuracy and "90.00 ± 0.00" in accuracy


def test_harmed_classes_and_other_limits_are_told(folder):
    text = " ".join(made(folder).split())
    assert "Harmed classes against ce, at 5 % after Holm's correction: Shirt (-100.00 points)." in text
    assert "Helped classes against ce, at 5 % after Holm's correction: none." in text
    assert "differs by -10.00 ± n/a points (moderated 95 % interval). " in text  # no noise
    assert "lowest accuracy on a class is 25.00 %, on Shirt" in text
    assert "4 seeds of it were trained" in text and "under attacks was not measured" in text


def test_harm_is_withheld_without_enough_seeds_and_the_reference_is_not_compared_with_itself(folder):
    for seed in (2, 3):
        Store(folder).files.record(spec("kd", seed, dataset="fashion_mnist").id).unlink()
    text = " ".join(made(folder).split())
    assert "Which classes it harms against ce is withheld" in text and "Harmed" not in text
    assert "gainst ce" not in made(folder, method="ce")


def test_markup_in_a_record_is_shown_as_text(folder):
    run = record(spec("<b>mine</b>", dataset="my|data"), .5, notes=["<script>"], environment={"cpu": "a <CPU>"})
    Store(folder).write(run)
    text = card(run, build(folder, REGISTRY))
    assert "<script" not in text and "a &lt;CPU>" in text and "my\\|data" in text
    assert ModelCard(text).data.eval_results[0].dataset_name == "my|data"


def test_what_the_card_imports_exists_and_registers_the_architecture(folder):
    modules = re.findall(r"^import (\S+)", made(folder), flags=re.MULTILINE)
    assert modules == ["kdbench.networks", "timm"]
    for name in modules:
        importlib.import_module(name)
    assert timm.is_model("resnet_cifar")


def test_a_run_that_failed_gets_no_card(folder):
    run = record(spec("kd", 9), status="diverged", reason="NaN")
    Store(folder).write(run)
    with pytest.raises(UserError, match="has no network to describe: its status is 'diverged'"):
        card(run, build(folder, REGISTRY))


def test_a_card_is_the_same_each_time(folder):
    assert made(folder) == made(folder)


def test_accuracies_on_classes_groups_and_corruptions_stand_by_name(tmp_path):
    vectors = {"class_accuracy": [.5, .9], "group_accuracy.tint": [.8, .4], "corruption_accuracy.jpeg": [.5, .3]}
    for seed, shift in enumerate((0, .1)):
        Store(tmp_path).write(record(spec("ce", seed), .7, classes=("cat", "cow"), groups={"tint": ["red", "blue"]},
                                     vectors={**vectors, "class_accuracy": [.5 + shift, .9]}))
    text = card(Store(tmp_path).get(spec("ce", 0).id), build(tmp_path, REGISTRY))
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in row] for row in rows]
    assert ["class", "this run, %", "mean of its seeds, %"] in lines
    assert ["cat", "50.00", "55.00 ± n/a (2 seeds)"] in lines and ["blue", "40.00", "40.00 ± n/a (2 seeds)"] in lines
    assert ["jpeg", "40.00", "40.00 ± n/a (2 seeds)"] in lines
    assert "lowest accuracy on a class is 50.00 %, on cat" in " ".join(text.split())
