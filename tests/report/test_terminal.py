"""A leaderboard on a terminal, and two side by side."""

import re

import pytest
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.errors import UserError
from kdbench.report.terminal import View, to_text, to_text_among, to_text_beside
from kdbench.results.store import Store

SEEDS = {"ce": (.80, .81, .80), "kd": (.90, .91, .905), "at": (.70, .71, .705)}


def write(folder, dataset="digits", **accuracies):
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            Store(folder).write(record(spec(method, seed, dataset), accuracy,
                                       metrics={"ece": {"ce": .3, "kd": .1}.get(method, .2), "agreement": .9}))
    return folder


@pytest.fixture
def board(tmp_path):
    return build(write(tmp_path, **SEEDS), REGISTRY)


def names(text):
    """The first words of a table's lines below its rule."""
    lines = text[re.search(r"^-+  ", text, re.MULTILINE).start():].split("\n\n")[0].splitlines()[1:]
    return [line.split()[0] for line in lines if not line.startswith(("teacher", "no room"))]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_what_has_no_room_is_named(board, width):
    text = to_text(board, View(width))
    assert max(map(len, text.splitlines())) <= width
    assert ("no room for" in text) == (width < 100)
    assert "vs ce" in text and "+10.17 ± 0.38 ↑" in text
    if width == 60:
        assert "no room for: family, train s, worst, agree" in text


def test_the_verdict_stands_first_and_the_table_after_it(board):
    text = to_text(board, View(100))
    assert text.startswith("big-small on digits\n- Of 2 methods, 1 is better than ce (kd)")
    assert text.index("Of 2 methods") < text.index("method  ") and names(text) == ["kd", "ce", "at"]
    assert board.results_hash[:16] in text


def test_brief_is_the_verdict_alone_and_notes_are_everything(board):
    brief, notes = to_text(board, View(100, brief=True)), to_text(board, View(100, notes=True))
    assert "1 is better than ce (kd)" in brief and "±" not in brief.split("\n\n")[0] and "method  " not in brief
    assert "Tiers: (1) kd" in notes and "Smyth" in notes and "Tiers" not in to_text(board, View(100))
    assert notes.count("+10.17 ± 0.38 ↑") == 1  # no table stands twice


def test_a_metric_that_is_asked_for_stands_in_the_table_and_sorts_it_the_better_first(board):
    text = to_text(board, View(120, metrics=("ece",)))
    assert "ECE" in text and "agree  " not in text and names(text) == ["kd", "at", "ce"]
    assert "10.00 ± 0.00" in text
    assert names(to_text(board, View(120, sort="name"))) == ["at", "ce", "kd"]
    assert names(to_text(board, View(120, metrics=("ece",), sort="test_accuracy"))) == ["kd", "ce", "at"]


def test_only_the_methods_that_are_asked_for_have_rows(board):
    assert names(to_text(board, View(100, methods=("at", "ce")))) == ["ce", "at"]


@pytest.mark.parametrize(("view", "message"), [
    (View(metrics=("ecee",)), "unknown metric 'ecee'; did you mean 'ece'"),
    (View(sort="famly"), "unknown order 'famly'; did you mean 'family'"),
    (View(methods=("kdd",)), "unknown method of these results 'kdd'; did you mean 'kd'"),
])
def test_what_a_leaderboard_does_not_have_is_a_user_error(board, view, message):
    with pytest.raises(UserError, match=message):
        to_text(board, view)


def test_two_leaderboards_stand_side_by_side_with_their_paired_differences(tmp_path):
    first = build(write(tmp_path / "a", ce=SEEDS["ce"], kd=SEEDS["kd"]), REGISTRY)
    second = build(write(tmp_path / "b", ce=SEEDS["ce"], kd=(.91, .92, .915), at=SEEDS["at"]), REGISTRY)
    text = to_text_beside(first, second, ("a", "b"), 120)
    lines = {line[:2]: re.split(r"\s{2,}", line) for line in text.splitlines() if line[:2] in ("ce", "kd", "at")}
    assert lines["ce"][3] == "0" and lines["kd"][3].startswith("+1.00 ± 0.00") and lines["at"][1].startswith("70.50")
    assert f"A: a, results {first.results_hash[:16]}" in text


def orders(folder, dataset, methods):
    """A leaderboard whose methods have accuracies that fall in the order in which they are given."""
    return build(write(folder, dataset, **{name: (.9 - .01 * place, .901 - .01 * place, .902 - .01 * place)
                                           for place, name in enumerate(methods)}), REGISTRY)


def test_of_three_leaderboards_the_orders_of_all_cells_are_compared(tmp_path):
    methods = ["ce", "kd", "at", "fitnet", "crd", "rkd", "dist", "dkd"]
    boards = [orders(tmp_path / "a", "digits", methods), orders(tmp_path / "b", "digits", methods[::-1]),
              orders(tmp_path / "c", "letters", methods), orders(tmp_path / "d", "letters", methods[:7])]
    text = to_text_among(boards, [f"runs/{name}" for name in "abcd"], 120)
    assert f"B: runs/b, results {boards[1].results_hash[:16]}" in text
    rows = [re.split(r"\s{2,}", line) for line in text.splitlines()]
    assert ["A: big-small on digits", "C: big-small on letters", "8", "1.00", "1.00", "1.00", "1.00", "1.00"] in rows
    assert [row for row in rows if row[0][:1].isdigit()] == [
        ["1 A: big-small on digits", "(1.00)", "-1.00", "1.00"],
        ["2 B: big-small on digits", "(1.00)", "-1.00"],
        ["3 C: big-small on letters", "(1.00)"]]


def test_orders_of_too_few_methods_or_too_many_folders_are_a_user_error(tmp_path):
    boards = [orders(tmp_path / name, name, ["ce", "kd", "at"]) for name in ("digits", "letters", "words")]
    with pytest.raises(UserError, match="no two cells of a, b, c have 8 methods of 3 seeds in common"):
        to_text_among(boards, "abc", 80)
    with pytest.raises(UserError, match="27 folders; at most 26"):
        to_text_among(boards * 9, ["a"] * 27, 80)


def test_leaderboards_without_a_cell_in_common_are_a_user_error(tmp_path):
    first, second = (build(write(tmp_path / name, name, **SEEDS), REGISTRY) for name in ("digits", "letters"))
    with pytest.raises(UserError, match="no pair and dataset in common: big-small on digits and big-small on letters"):
        to_text_beside(first, second, ("a", "b"), 80)
