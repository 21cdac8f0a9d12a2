"""Accuracy on classes, groups and corruptions by name, from records whose figures are known."""

import json

import pytest
from support.records import REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.report.files import render
from kdbench.report.flat import to_frame
from kdbench.report.tables.cell import cell_tables
from kdbench.results.store import Store

VECTORS = {
    "class_accuracy": [.5, None, .9], "group_accuracy.tint": [.8, .4], "pgd_radius": [.1],
    "corruption_accuracy.gaussian_noise": [.9, .6, .3], "corruption_accuracy.jpeg": [.5, .5, .5],
}


def put(folder, method, seed=0, **changes):
    fields = {"vectors": VECTORS, "groups": {"tint": ["red", "blue"]}, "classes": ("cat", "dog", "cow"), **changes}
    Store(folder).write(record(spec(method, seed), .7, **fields))


def row(folder, method):
    return next(row for row in build(folder, REGISTRY).cells[0].rows if row.method == method)


def table(folder, start):
    board = build(folder, REGISTRY)
    return next(one for one in cell_tables(board.cells[0], board) if one.title.startswith(start))


def test_parts_have_names_and_means_over_seeds(tmp_path):
    put(tmp_path, "ce")
    put(tmp_path, "ce", 1, vectors={**VECTORS, "class_accuracy": [.7, None, .7]})
    found = row(tmp_path, "ce").shares
    assert {kind: {name: one.mean for name, one in parts.items()} for kind, parts in found.items()} == {
        "class": pytest.approx({"cat": .6, "cow": .8}), "group: tint": {"red": .8, "blue": .4},
        "corruption": pytest.approx({"gaussian noise": .6, "jpeg": .5})}
    assert found["class"]["cat"].count == 2 and found["class"]["cat"].half_width > 1  # of .5 and .7


def test_a_kind_of_part_that_a_run_lacks_or_names_otherwise_is_left_out(tmp_path):
    put(tmp_path, "ce")
    put(tmp_path, "ce", 1, groups={"tint": ["red", "green"]}, vectors={"group_accuracy.tint": [.8, .4]})
    assert row(tmp_path, "ce").shares == {}


def test_classes_without_recorded_names_have_those_of_the_catalog_or_their_places(tmp_path):
    Store(tmp_path).write(record(spec("ce", dataset="fashion_mnist"), .7, vectors={"class_accuracy": [.5] * 10}))
    assert list(row(tmp_path, "ce").shares["class"])[:2] == ["T-shirt/top", "Trouser"]
    put(tmp_path / "other", "ce", classes=())
    assert list(row(tmp_path / "other", "ce").shares["class"]) == ["0", "2"]


def test_a_class_that_a_record_names_is_named_where_classes_are_harmed(tmp_path):
    put(tmp_path, "ce")
    assert build(tmp_path, REGISTRY).cells[0].class_name(1) == "dog"


def test_tables_name_the_parts_and_the_lowest_one_below_the_teacher(tmp_path):
    put(tmp_path, "ce")
    Store(tmp_path).write(record(teacher_spec(), .9, role="teacher", classes=("cat", "dog", "cow"),
                                 vectors={"class_accuracy": [.9, None, .8]}))
    classes = table(tmp_path, "Accuracy by class")
    assert classes.header == ["method", "cat", "cow", "lowest class"]
    assert classes.lines == [["teacher", "90.00", "80.00", "cow"], ["ce", "50.00", "90.00", "cat"]]
    assert table(tmp_path, "Accuracy by group: tint").lines == [["ce", "80.00", "40.00", "blue"]]
    assert table(tmp_path, "Accuracy by corruption").lines == [["ce", "60.00", "50.00", "jpeg"]]


def test_a_part_that_the_teacher_lacks_has_its_column(tmp_path):
    put(tmp_path, "ce", vectors={"class_accuracy": [.5, .7, .9]})
    Store(tmp_path).write(record(teacher_spec(), .9, role="teacher", classes=("cat", "dog", "cow"),
                                 vectors={"class_accuracy": [.9, None, .8]}))
    classes = table(tmp_path, "Accuracy by class")
    assert classes.header == ["method", "cat", "cow", "dog", "lowest class"]
    assert classes.lines == [["teacher", "90.00", "80.00", "n/a", "cow"], ["ce", "50.00", "90.00", "70.00", "cat"]]


def test_of_many_classes_the_lowest_are_named(tmp_path):
    put(tmp_path, "ce", classes=tuple(f"c{i}" for i in range(100)),
        vectors={"class_accuracy": [i / 100 for i in range(100)]})
    found = table(tmp_path, "Accuracy by class")
    assert found.lines == [["ce", "c0 0.00", "c1 1.00", "c2 2.00", "c3 3.00", "c4 4.00"]]
    assert "5 of 100" in found.notes[0]


def test_json_and_the_data_frame_have_all_of_them(tmp_path):
    put(tmp_path, "ce")
    board = build(tmp_path, REGISTRY)
    wanted = {"class": {"cat": .5, "cow": .9}, "group: tint": {"red": .8, "blue": .4},
              "corruption": {"gaussian noise": pytest.approx(.6), "jpeg": .5}}
    assert json.loads(render(board, "json"))["rows"][0]["shares"] == wanted
    assert to_frame(board).query("role == 'student'").shares.item() == wanted


def test_the_sampling_error_of_the_test_split_is_stated_with_its_size(tmp_path):
    put(tmp_path, "ce", split_sizes={"train": 50, "test": 400})
    (note,) = [note for note in table(tmp_path, "big-small").notes if note.startswith("Test images")]
    assert note.startswith("Test images: 400.")
    assert "accuracy of 70.00 by up to 4.49 points" in note  # 1.96 sqrt(.7 * .3 / 400)
    put(tmp_path / "other", "ce")
    assert not [note for note in table(tmp_path / "other", "big-small").notes if note.startswith("Test images")]


def test_a_network_that_is_larger_than_the_plain_student_is_marked_where_its_accuracy_stands(tmp_path):
    for method, size in (("ce", 1.0), ("kd", 3.5)):
        put(tmp_path, method, metrics={"deployed_size": size})
    text = render(build(tmp_path, REGISTRY), "md")
    assert "70.00 ± n/a † |" in text and text.count(" † |") == 1
    assert "† deploys a network with more parameters" in text
