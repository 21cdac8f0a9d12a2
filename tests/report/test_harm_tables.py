"""Classes and images in the leaderboard: what the answers in records add to it, and what it says when they cannot."""

import json

import numpy as np
import pytest
from msgspec.structs import replace
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.metrics.answers import Answers, answers
from kdbench.report.files import render
from kdbench.results.store import Store

LABELS = np.repeat(np.arange(10), 12)  # mnist5k's classes


def logits(forgotten) -> np.ndarray:
    """Of a network that knows every class but one, which it takes for the next."""
    said = np.where(forgotten == LABELS, (LABELS + 1) % 10, LABELS)
    return 5 * np.eye(10, dtype=np.float32)[said]


def save(store, run, array, labels=LABELS) -> None:
    store.write(record(run, .9, answers=answers({"test_logits": array, "test_labels": labels})))


@pytest.fixture
def folder(tmp_path):
    """ce never knows class 3, kd never class 7."""
    for seed in range(3):
        save(Store(tmp_path), spec("ce", seed, dataset="mnist5k"), logits(3))
        save(Store(tmp_path), spec("kd", seed, dataset="mnist5k"), logits(7))
    return tmp_path


def kd(folder):
    (cell,) = build(folder, REGISTRY).cells
    return next(row for row in cell.rows if row.method == "kd")


def test_harmed_and_helped_classes_and_flipped_images_are_in_every_format(folder):
    assert (kd(folder).harm.harmed, kd(folder).harm.helped) == ((7,), (3,))
    board = build(folder, REGISTRY)
    row = next(row for row in json.loads(render(board, "json"))["rows"] if row["method"] == "kd")
    assert (row["classes_harmed"], row["classes_helped"], row["flipped"]) == (["7"], ["3"], .2)
    assert (row["flipped_accuracy"], row["flipped_ce_accuracy"]) == (.5, .5)
    assert row["most_affected_classes"][0]["class"] == "3" and row["most_affected_classes"][0]["change"] == 1
    assert len(row["most_affected_classes"]) == 10
    text = render(board, "md")
    assert "| kd     |      1 |      1 |   20.00 |       50.00 |    50.00 |     3 +100.00 |" in text
    assert "| 7     | kd     |     12 | 100.00 |     0.00 | -100.00 |    0.005 |" in text
    assert max(map(len, text.splitlines())) <= 120
    assert '"[""7""]"' in render(board, "csv")
    assert "Withheld" not in text


def test_the_reference_is_not_compared_with_itself(folder):
    assert next(row for row in build(folder, REGISTRY).cells[0].rows if row.method == "ce").harm is None


def test_two_seeds_are_not_compared_and_the_statement_says_so(folder):
    Store(folder).files.record(spec("ce", 1, dataset="mnist5k").id).unlink()
    assert kd(folder).harm is None
    text = render(build(folder, REGISTRY), "md")
    assert ("Withheld: harm by class and flipped images, for 1 of 1 rows: they share fewer than 3 finished seeds with "
            "ce.") in " ".join(text.split())
    assert "lack the answers" not in text and "Most affected" not in text


def change(folder, answers_of_kd) -> None:
    store, run = Store(folder), spec("kd", 1, dataset="mnist5k").id
    store.write(replace(store.get(run), answers=answers_of_kd))


def test_a_record_without_answers_is_not_compared_and_the_statement_says_how_they_come_back(folder):
    change(folder, None)
    assert kd(folder).harm is None
    text = " ".join(render(build(folder, REGISTRY), "md").split())
    assert "for 1 of 1 rows: they or ce lack the answers of 3 seeds; `kdbench evaluate` adds them" in text
    assert "share fewer than" not in text


def test_damaged_answers_are_named_and_not_used(folder):
    change(folder, Answers(Store(folder).get(spec("kd", 1, dataset="mnist5k").id).answers.images, "AAAA"))
    board = build(folder, REGISTRY)
    assert kd(folder).harm is None and kd(folder).estimate("test_accuracy").count == 3
    assert any(f"Not used: records/{spec('kd', 1, dataset='mnist5k').id}.json: its answers: " in line
               for line in board.statement)


def test_answers_with_groups_that_the_record_does_not_name_are_not_used(folder):
    store = Store(folder)
    for found in store.read()[0]:
        known = {"test_logits": logits(7), "test_labels": LABELS, "test_groups": np.tile([0, 1], 60)[None]}
        store.write(replace(found, answers=answers(known)))
    assert kd(folder).harm is None
    assert any("they have the groups of 1 attributes, the record has 0" in line
               for line in build(folder, REGISTRY).statement)


def test_answers_of_other_images_are_not_compared(folder):
    save(Store(folder), spec("kd", 1, dataset="mnist5k"), logits(7)[:-1], labels=LABELS[:-1])
    board = build(folder, REGISTRY)
    assert kd(folder).harm is None
    assert any("of other test images" in line for line in board.statement)


def test_records_without_answers_are_told_and_the_rest_of_the_leaderboard_stands(folder):
    change(folder, None)
    assert kd(folder).harm is None and kd(folder).estimate("test_accuracy").mean == pytest.approx(.9)
    assert "`kdbench evaluate` adds them to older records" in "\n".join(build(folder, REGISTRY).statement)


def test_classes_of_an_unknown_dataset_are_numbered(tmp_path):
    for seed in range(3):
        save(Store(tmp_path), spec("ce", seed), logits(3))
        save(Store(tmp_path), spec("kd", seed), logits(7))
    row = next(row for row in json.loads(render(build(tmp_path, REGISTRY), "json"))["rows"] if row["method"] == "kd")
    assert row["classes_harmed"] == ["7"]
