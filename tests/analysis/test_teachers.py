"""Several teachers of one student, by records whose figures can be checked by hand."""

import pytest
from support.records import RECIPE, REGISTRY, record, spec, teacher_spec

from kdbench.analysis.answers.teachers import sentences, series
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.build import build
from kdbench.report.files import render
from kdbench.report.tables.teachers import teacher_tables
from kdbench.results.store import Store
from kdbench.spec import Architecture, OwnRecipe, TrainedTeacher

SEEDS = (0, 1, 2)
NOISE = (.001, -.002, .001)  # of a method by seed, around its mean
TEACHERS = {"tiny": (.70, 1_000), "fit": (.80, 20_000), "giant": (.90, 900_000)}  # accuracy, parameters
KD = {"tiny": .65, "fit": .75, "giant": .70}  # of kd's students: the best teacher is too large


def teacher_of(name, **changes):
    return teacher_spec(pair=name).model_copy(update={"student": Architecture(model=name), **changes})


def taught(name, method="ce", seed=0, **changes):
    return spec(method, seed, pair=f"{name}-small").model_copy(
        update={"teacher": TrainedTeacher(run=teacher_of(name)), **changes})


def write(folder, name, accuracies, *, parameters=True, accuracy=None, **changes):
    """A teacher, and its students' records by method and mean accuracy."""
    own, size = TEACHERS[name]
    metrics = {"test_accuracy": own if accuracy is None else accuracy, **({"parameters": size} if parameters else {})}
    run = taught(name, **changes).teacher.run
    Store(folder).write(record(run, role="teacher", metrics=metrics))
    for method, mean in accuracies.items():
        for seed in SEEDS:
            found = mean + NOISE[(seed + len(name) * (method != "ce")) % 3] + .01 * seed
            Store(folder).write(record(taught(name, method, seed, **changes), found, metrics={
                "agreement": .9 if name == "tiny" else .8, "parameters": 10_000.0, "deployed_size": 1.0}))


@pytest.fixture
def folder(tmp_path):
    for name in TEACHERS:
        write(tmp_path, name, {"ce": .60, "kd": KD[name]})
    return tmp_path


def only(folder):
    (one,) = series(build(folder, REGISTRY))
    return one


def test_cells_that_differ_in_the_teacher_alone_are_a_series_by_the_teachers_accuracy(folder):
    one = only(folder)
    assert [(t.name, t.accuracy, t.parameters) for t in one.teachers] == [
        ("tiny-small", .70, 1_000), ("fit-small", .80, 20_000), ("giant-small", .90, 900_000)]
    assert one.best.name == "giant-small" and one.parameters == 10_000
    assert one.title == "small of 10,000 parameters on digits"


def test_what_comes_out_the_same_with_every_teacher_is_not_compared(folder):
    one = only(folder)
    assert (one.untaught, one.taught) == (("ce",), ("kd",))
    assert {label for label, _ in one.comparisons} == {"kd"} and len(one.comparisons) == 2


def test_a_run_that_failed_in_one_cell_does_not_make_a_method_depend_on_the_teacher(folder):
    Store(folder).write(record(taught("fit", "ce", 1), status="crashed", reason="oh"))
    assert only(folder).untaught == ("ce",)


def test_students_are_compared_with_those_of_the_most_accurate_teacher_on_equal_seeds(folder):
    one = only(folder)
    found = {teacher.name: one.comparisons["kd", teacher.cell.id].mean for teacher in one.teachers[:-1]}
    assert found == pytest.approx({"tiny-small": -.05, "fit-small": .05}, abs=1e-9)
    assert all(told.significant for told in one.comparisons.values())


def test_where_a_better_teacher_makes_a_worse_student_it_is_said(folder):
    first, same, said, counts = sentences(only(folder))
    assert first == ("3 teachers of the same student, from 1,000 to 900,000 parameters and from 70.00 % to 90.00 % "
                     "test accuracy; the most accurate is that of giant-small.")
    assert same == "The same with every teacher: ce."
    assert said == ("kd: a better teacher makes a worse student. With that of giant-small, it is less accurate than "
                    "with the less accurate fit-small (+5.00 points).")
    assert counts.startswith("Of 2 comparisons of another teacher's students with those of the most accurate one, 1 is "
                             "worse, 1 better and 0 unclear")
    assert verdict(build(folder, REGISTRY))[-1].sentences == (first, same, said, counts)


def test_where_a_better_teacher_makes_a_better_student_nothing_of_the_kind_is_said(tmp_path):
    for name, mean in (("tiny", .65), ("fit", .70), ("giant", .75)):
        write(tmp_path, name, {"ce": .60, "kd": mean})
    told = " ".join(sentences(only(tmp_path)))
    assert "worse student" not in told and "2 are worse, 0 better" in told


def test_a_difference_within_the_noise_is_unclear(tmp_path):
    for name, mean in (("tiny", .7003), ("fit", .7), ("giant", .7)):
        write(tmp_path, name, {"ce": .60, "kd": mean})
    told = " ".join(sentences(only(tmp_path)))
    assert "worse student" not in told and "0 are worse, 0 better and 2 unclear" in told


def test_one_teacher_or_other_students_recipes_datasets_and_compute_are_no_series(tmp_path):
    write(tmp_path, "tiny", {"ce": .60, "kd": .65})
    assert series(build(tmp_path, REGISTRY)) == [] and len(list(teacher_tables(build(tmp_path, REGISTRY)))) == 0
    write(tmp_path, "fit", {"kd": .65}, student=Architecture(model="other"))
    write(tmp_path, "fit", {"kd": .65}, recipe=RECIPE.model_copy(update={"lr": .2}))
    write(tmp_path, "fit", {"kd": .65}, dataset="letters")
    write(tmp_path, "fit", {"kd": .65}, own_recipe=OwnRecipe(epochs=3))
    board = build(tmp_path, REGISTRY)
    assert len(board.cells) == 5 and series(board) == []
    assert not any("Teachers of" in one.title for one in verdict(board))
    assert "Teachers of" not in render(board, "md")


def test_teachers_of_the_rarer_recipe_are_told_from_the_usual_ones(folder):
    long = TrainedTeacher(run=teacher_of("giant", recipe=RECIPE.model_copy(update={"epochs": 50})))
    write(folder, "giant", {"ce": .60, "kd": .72}, teacher=long, accuracy=.85)
    one = only(folder)
    assert [(teacher.accuracy, teacher.usual) for teacher in one.teachers] == [
        (.70, True), (.80, True), (.85, False), (.90, True)]
    assert len({teacher.name for teacher in one.teachers}) == 4, "cells of one pair are told apart"


def test_teachers_of_one_size_are_said_to_be_so(tmp_path, monkeypatch):
    monkeypatch.setitem(TEACHERS, "tiny", (.70, 20_000))
    for name in ("tiny", "fit"):
        write(tmp_path, name, {"ce": .60, "kd": KD[name]})
    assert next(sentences(only(tmp_path))).startswith(
        "2 teachers of the same student, of 20,000 parameters each, from 70.00 % to 80.00 % test accuracy;")


def test_the_table_has_a_line_for_each_teacher_and_one_for_what_it_makes_no_difference_to(folder):
    (table,) = teacher_tables(build(folder, REGISTRY))
    assert table.title == "Teachers of small of 10,000 parameters on digits"
    assert [line[:4] for line in table.lines] == [
        ["ce", "any", "", ""], ["kd", "tiny-small", "1,000", "70.00"], ["kd", "fit-small", "20,000", "80.00"],
        ["kd", "giant-small", "900,000", "90.00"]]
    assert [line[5].split(" ±")[0] + line[5][-2:] for line in table.lines[1:3]] == ["-5.00 ↓", "+5.00 ↑"]
    assert table.lines[3][5] == "" and [line[6] for line in table.lines] == ["", "90.00", "80.00", "80.00"]


def test_records_without_parameters_have_accuracies_all_the_same(tmp_path):
    for name in TEACHERS:
        write(tmp_path, name, {"ce": .60, "kd": KD[name]}, parameters=False)
    board = build(tmp_path, REGISTRY)
    (table,) = teacher_tables(board)
    assert {line[2] for line in table.lines[1:]} == {"n/a"}
    assert next(sentences(only(tmp_path))).startswith("3 teachers of the same student, from 70.00 % to 90.00 %")


def test_markdown_terminal_and_page_have_the_table(folder):
    from kdbench.report.terminal import View, to_text

    board = build(folder, REGISTRY)
    assert "## Teachers of small of 10,000 parameters on digits" in render(board, "md")
    text = to_text(board, View(width=120))
    assert text.count("Teachers of small of 10,000 parameters on digits") == 2  # the verdict's and the table's
    assert "a better teacher makes a worse student" in to_text(board, View(brief=True)).replace("\n  ", " ")
