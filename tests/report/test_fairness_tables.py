"""The bias audit and sweeps in tables, page, plots, JSON and model card."""

import json
import re

import pytest
from support.records import REGISTRY, record, spec
from support.skewed import DATASET, make

from kdbench.analysis.build import build
from kdbench.plugins.registry import Registry
from kdbench.report.card import card
from kdbench.report.files import render, report_files
from kdbench.report.latex import safe, to_latex
from kdbench.report.tables.cell import cell_tables
from kdbench.report.tables.fairness import AUDIT, MEANING
from kdbench.results.store import Store


@pytest.fixture
def board(tmp_path):
    return build(make(tmp_path), REGISTRY)


def table(board, beginning):
    (found,) = (one for one in cell_tables(board.cells[0], board) if one.title.startswith(beginning))
    return {line[0]: line[1:] for line in found.lines}, found


def test_a_measure_is_told_beside_the_teachers_and_plain_trainings(board):
    lines, found = table(board, f"{AUDIT}, group gap: big-small on mnist5k")
    assert found.header == ["method", "gap", "vs teacher", "vs ce"]
    assert lines["teacher"] == ["10.00", "", ""]
    assert lines["kd"][0].startswith("13.50 ± ") and lines["kd"][1].startswith("+3.50 ± ")
    assert lines["kd"][1].endswith(" ↓") and lines["kd"][2].startswith("-3.00 ± ") and lines["kd"][2].endswith(" ↑")
    assert lines["ce"][2] == ""
    assert lines["kd (temperature=16.0)"][1].endswith(" ↑") and lines["kd (temperature=1.0)"][2].endswith(" ?")
    assert found.notes[0].startswith("Mended against ce: kd")


def test_a_caption_explains_the_marks_of_an_audit_as_the_report_does(board):
    captions = re.findall(r"\\caption{(.*)}\\label", to_latex(board))
    audit = next(one for one in captions if one.startswith(f"{AUDIT}, group gap"))
    assert safe(MEANING) in audit and "paired by seed" not in audit


def test_classes_that_moved_and_changes_by_group_are_told(board):
    lines, found = table(board, f"{AUDIT}, classes")
    assert found.header == ["method", "classes", "harmed", "helped", "moved from ce", "moved from teacher"]
    assert lines["kd"][:3] == ["10", "0", "3"] and "ce" not in lines
    lines, found = table(board, f"{AUDIT}, accuracy by tint less ce's")
    assert found.header == ["method", "warm", "cool"]
    assert (lines["teacher"], lines["kd"]) == (["+0.00", "+40.00"], ["+0.00 ?", "+30.00 ↑"])
    assert "ce has warm 100.00, cool 60.00 %" in found.notes[0]


def test_a_sweep_is_told_between_teacher_and_plain_training_with_its_trend(board):
    lines, found = table(board, "kd by temperature")
    assert list(lines) == ["teacher", "ce", "1", "2", "4", "16", "per doubling"]
    gap = found.header.index("gap") - 1
    assert lines["16"][gap].startswith("6.50 ± ") and lines["per doubling"][gap].startswith("-2.49 ± ")
    assert lines["4"][-3:-1] == ["0", "3"] and found.header[-3:] == ["harmed", "helped", "moved"]
    assert "Classes: 10." in found.notes[-1]


def test_page_and_markdown_have_a_section_and_the_plot(tmp_path):
    files = report_files(make(tmp_path), REGISTRY)
    page, text = files["index.html"].decode(), files["leaderboard.md"].decode()
    assert f">{AUDIT}</" in page and "What the teacher has of a bias as well is inherited" in page
    assert page.count("<h3>accuracy by tint less ce&#x27;s") == 1  # in the audit, and not among the tables again
    assert f"## {AUDIT}, group gap" in text and f"- {AUDIT}: figures beside" in text
    assert "plots/kd-by-temperature-big-small-on-mnist5k-skew-0-95.svg" in files
    content = json.loads(render(build(tmp_path, REGISTRY), "json"))
    (audited,), (sweep,) = content["bias_audit"], content["sweeps"]
    kd = next(one for one in audited["measures"]["group_gap"] if one["label"] == "kd")
    assert kd["mended"] and kd["added"] and kd["to_teacher"]["mean"] == pytest.approx(.035)
    assert sweep["values"] == [1, 2, 4, 16] and sweep["per_doubling"]["group_gap"]["mean"] < 0
    tints = next(one for one in audited["rows"] if one["label"] == "kd")["groups"]["tint"]
    assert [one["group"] for one in tints] == ["warm", "cool"] and tints[1]["change"] == pytest.approx(.3)


def test_results_without_groups_have_no_audit(tmp_path):
    for method in ("ce", "kd"):
        for seed in range(3):
            Store(tmp_path).write(record(spec(method, seed), .9, metrics={"worst_class_accuracy": .5}))
    board = build(tmp_path, REGISTRY)
    assert AUDIT not in render(board, "md") and "bias_audit" not in render(board, "json")
    assert AUDIT not in report_files(tmp_path, REGISTRY)["index.html"].decode()


def test_the_card_says_what_the_student_inherited_added_and_mended(tmp_path):
    store = Store(make(tmp_path))
    board = build(tmp_path, Registry())
    text = " ".join(card(store.get(spec("kd", 0, dataset=DATASET).id), board).split())
    assert f"## {AUDIT}" in text
    assert "Group gap: 13.50 ± " in text and "The teacher has 10.00: +3.50 ± " in text
    assert "points, added to it." in text and "ce has 16.50: -3.00 ± " in text and "points, mended." in text
    assert "| cool | 60.00 | 90.00 | +30.00 ↑ |" in text.replace("  ", " ")
    plain = " ".join(card(store.get(spec("ce", 0, dataset=DATASET).id), board).split())
    assert "Group gap: 16.50 ± " in plain and "mended." not in plain.split("## Limitations")[0].split(f"## {AUDIT}")[1]
