"""Cells with images without labels in a report, and what these images buy. Of three seeds:

    test accuracy in %      ce    kd    at
    labelled images alone   80    82    81
    half of a batch         80    85    81.5, but 80.5, 82 and 82
    the whole batch         80    84    does not apply
"""

import json

import pytest
from support.records import RECIPE, REGISTRY, record, spec

from kdbench.analysis.answers.changes import matched_cells
from kdbench.analysis.answers.unlabelled import unlabelled_gains
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.build import build
from kdbench.cli.options import read_settings
from kdbench.report.files import render, report_files
from kdbench.report.setup import command, setup
from kdbench.report.tables.cell import all_tables
from kdbench.report.tables.legend import legend
from kdbench.results.store import Store
from kdbench.spec import Architecture, Transfer

HALF, WHOLE = Transfer(images="rest", share=0.5), Transfer(images="rest", share=1.0)
NOISE = (-.01, 0.0, .011)
FOUND = {None: {"ce": .80, "kd": .82, "at": .81}, HALF: {"ce": .80, "kd": .85, "at": .815},
         WHOLE: {"ce": .80, "kd": .84}}
SIZES = {"train": 100, "validation": 10, "test": 1000}


def at(run, transfer, pair="a", recipe=RECIPE):
    return run.model_copy(update={"pair": pair, "recipe": recipe, "student": Architecture(model=f"small-{pair}"),
                                  "transfer": transfer})


def write(folder, transfers=(None, HALF, WHOLE), pairs=("a",), recipe=RECIPE):
    store = Store(folder)
    for pair in pairs:
        for transfer in transfers:
            sizes = SIZES if transfer is None else {**SIZES, "unlabelled": 900}
            for method, accuracy in FOUND[transfer].items():
                for seed, noise in enumerate(NOISE):
                    own = {("kd", HALF): (.0, .001, -.001), ("at", HALF): (.0, .005, -.005)}.get((method, transfer))
                    store.write(record(at(spec(method, seed), transfer, pair, recipe),
                                       accuracy + noise + (own[seed] if own else 0), split_sizes=sizes))
            if transfer == WHOLE:
                for seed in range(3):
                    store.write(record(at(spec("at", seed), transfer, pair), status="inapplicable", reason="no labels"))
    return build(folder, REGISTRY)


def table_of(board):
    return next(table for table in all_tables(board) if table.title.startswith("What images"))


def test_titles_say_which_images_without_labels_there_are(tmp_path):
    board = write(tmp_path)
    assert [board.title(cell) for cell in board.cells] == [
        "a on digits (labelled images alone)", "a on digits (unlabelled images: rest, 50% of a batch)",
        "a on digits (unlabelled images: rest, 100% of a batch)"]
    assert [one.title for one in verdict(board)] == [board.title(cell) for cell in board.cells]
    assert any(line.startswith("unlabelled images: ") for line in legend(board))


def test_without_such_cells_nothing_is_said_of_them(tmp_path):
    board = write(tmp_path, (None,))
    assert board.title(board.cells[0]) == "a on digits"
    assert "labelled" not in render(board, "md") and unlabelled_gains(board) == []


def test_gains_are_of_the_same_method_and_seed(tmp_path):
    (gains,) = unlabelled_gains(write(tmp_path))
    rows = {row.label: each for row, each in gains.rows}
    assert [round(one.difference.mean, 6) for one in rows["kd"]] == [.03, .02]
    assert [one.equal for one in rows["ce"]] == [True, True]
    assert rows["at"][1].difference is None and rows["at"][1].row is not None
    half = rows["kd"][0]
    # kd gains 3.0, 3.1 and 2.9: t = .03 / (.001 / sqrt 3) = 51.96, of 2 degrees p = 0.00037. at: 0.5, 1.0 and 0.0.
    # t = 1.73, p = .2254. Holm's correction is for these two: the rest are equal, or have the same gain on every seed.
    assert half.p == pytest.approx(2 * .00037, rel=.01) and half.significant
    assert rows["at"][0].p == pytest.approx(.2254, abs=1e-4) and not rows["at"][0].significant
    assert {one.p for one in rows["ce"]} == {None}


def test_a_table_sets_the_cells_side_by_side(tmp_path):
    table = table_of(write(tmp_path))
    assert table.title == "What images without labels buy: a on digits"
    assert table.header == ["method", "labelled", "rest 50%", "gain by rest 50%", "rest 100%", "gain by rest 100%"]
    lines = {line[0]: line[1:] for line in table.lines}
    assert lines["kd"][2] == "+3.00 ± 0.25 ↑" and lines["at"][2] == "+0.50 ± 1.24 ?"
    assert lines["ce"][2] == lines["ce"][4] == "same" and lines["at"][3:] == ["n/a", ""]
    assert "rest 50%: 900 unlabelled images: rest, 50% of a batch" in table.notes[0]


@pytest.mark.parametrize("transfers", [(HALF, WHOLE), (None,), (None, HALF)])
def test_there_is_a_table_where_labelled_images_alone_and_others_are_at_hand(transfers, tmp_path):
    found = [table for table in all_tables(write(tmp_path, transfers)) if table.title.startswith("What images")]
    assert len(found) == (transfers == (None, HALF))


def test_columns_tell_folders_and_sizes_apart(tmp_path):
    pools = [Transfer(images="imagefolder:/my/photos", digest="0" * 64, size=size) for size in (None, 500)]
    for transfer in pools:
        FOUND[transfer] = FOUND[HALF]
    assert table_of(write(tmp_path, (None, *pools))).header[2::2] == ["all of photos 50%", "500 of photos 50%"] or \
        table_of(write(tmp_path, (None, *pools))).header[2::2] == ["500 of photos 50%", "all of photos 50%"]


def test_ranks_across_cells_are_of_one_set_of_images(tmp_path):
    board = write(tmp_path, pairs=("a", "b"))
    titles = [table.title for table in all_tables(board)]
    assert titles[-5:] == [
        "Across cells", "Across cells (unlabelled images: rest, 50% of a batch)",
        "Across cells (unlabelled images: rest, 100% of a batch)",
        "What images without labels buy: a on digits", "What images without labels buy: b on digits"]
    found = json.loads(render(board, "json"))
    assert found["ranking"]["cells"] == 2
    assert list(found["ranking_by_regime"]) == ["unlabelled images: rest, 50% of a batch",
                                                "unlabelled images: rest, 100% of a batch"]


def test_the_setup_tells_what_they_are_and_the_command_asks_for_them(tmp_path):
    board = write(tmp_path)
    told = [setup(cell, board) for cell in board.cells]
    assert "unlabelled images" not in told[0] and told[1]["images"].endswith("900 unlabelled")
    assert told[1]["unlabelled images"].startswith("what train_size leaves over of the training split; 50% of")
    asked = [command(cell, board).split(" --set ")[1:] for cell in board.cells]
    assert [read_settings(each) for each in asked] == [
        {"transfer.images": "none"}, {"transfer.images": "rest", "transfer.share": .5},
        {"transfer.images": "rest", "transfer.share": 1.0}]


def test_two_folders_are_compared_in_cells_of_the_same_images(tmp_path):
    first = write(tmp_path / "a")
    second = write(tmp_path / "b", (HALF,), recipe=RECIPE.model_copy(update={"lr": 0.2}))
    pairs, alone, others = matched_cells(first, second)
    assert [(one.transfer, other.transfer) for one, other in pairs] == [(HALF.told, HALF.told)]
    assert [cell.transfer for cell in alone] == ["", WHOLE.told] and not others


def test_the_whole_report_names_them(tmp_path):
    write(tmp_path)
    files = report_files(tmp_path, REGISTRY)
    assert b"What images without labels buy" in files["index.html"] and b"What images" in files["leaderboard.md"]
    assert b"unlabelled images: rest, 50% of a batch" in files["index.html"]
