"""Tables and plots that only cells with the figures have: groups, the long tail."""

import pytest
from support.records import REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.report.files import render, report_files
from kdbench.report.tables.cell import cell_tables
from kdbench.report.tables.legend import legend
from kdbench.results.store import Store

GROUPS = {"worst_group_accuracy": .5, "group_gap": .25, "equalised_odds_difference": .3,
          "demographic_parity_difference": .1, "bias_amplification": .02}
ROBUST = {"clean_accuracy": .9, "corruption_accuracy": .6, "pgd_small_accuracy": .4, "pgd_accuracy": .1}
TAIL = {"medium_shot_accuracy": .7, "few_shot_accuracy": .2}


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path)
    for dataset, metrics in (("skewed", GROUPS), ("tailed", TAIL), ("plain", {}), ("attacked", ROBUST)):
        teacher = teacher_spec(dataset)
        store.write(record(teacher, .9, metrics={**metrics, "group_gap": .4} if metrics is GROUPS else metrics,
                           role="teacher"))
        for method in ("ce", "kd"):
            store.write(record(spec(method, 0, dataset), .8, metrics=metrics))
    return tmp_path


def tables_of(folder):
    leaderboard = build(folder, REGISTRY)
    return {cell.dataset: {table.title.partition(":")[0]: table for table in cell_tables(cell, leaderboard)}
            for cell in leaderboard.cells}


def test_only_cells_with_group_metrics_have_a_table_of_them_the_teacher_first(folder):
    tables = tables_of(folder)
    assert set(tables["plain"]) == {"big-small on plain"}
    assert "Groups" not in tables["tailed"] and "Long tail" not in tables["skewed"]
    groups = tables["skewed"]["Groups"]
    assert groups.header == ["method", "worst group", "gap", "eq. odds", "dem. parity", "bias amp."]
    assert groups.lines == [["teacher", "50.00", "40.00", "30.00", "10.00", "2.00"],
                            *([name, "50.00 ± n/a", "25.00 ± n/a", "30.00 ± n/a", "10.00 ± n/a", "2.00 ± n/a"]
                              for name in ("ce", "kd"))]


def test_a_bin_that_is_empty_is_not_applicable(folder):
    assert tables_of(folder)["tailed"]["Long tail"].lines[1] == ["ce", "n/a", "70.00 ± n/a", "20.00 ± n/a"]


def test_robustness_has_a_table_and_a_plot_and_autoattack_one_where_it_was_run(folder):
    tables = tables_of(folder)["attacked"]
    assert set(tables) == {"big-small on attacked", "Robustness"}
    assert tables["Robustness"].header == ["method", "clean", "corrupted", "PGD (small)", "PGD"]
    assert tables["Robustness"].lines[:2] == [["teacher", "90.00", "60.00", "40.00", "10.00"],
                                              ["ce", "90.00 ± n/a", "60.00 ± n/a", "40.00 ± n/a", "10.00 ± n/a"]]
    names = [name for name in report_files(folder, {}) if "robustness" in name and name.endswith("svg")]
    assert names == ["plots/robustness-big-small-on-attacked.svg"]
    Store(folder).write(record(spec("ce", 0, "attacked"), .8, metrics={
        **ROBUST, "autoattack_small_accuracy": .25, "autoattack_accuracy": .05}))
    assert tables_of(folder)["attacked"]["AutoAttack"].lines[1] == ["ce", "25.00 ± n/a", "5.00 ± n/a"]


def test_the_table_of_robustness_says_how_far_attacks_on_a_known_dataset_go(folder):
    Store(folder).write(record(spec("ce", 0, "mnist5k"), .8, metrics=ROBUST))
    tables = tables_of(folder)
    assert tables["attacked"]["Robustness"].notes == () == tables["tailed"]["Long tail"].notes
    assert tables["mnist5k"]["Robustness"].notes == (
        "PGD (small) changes pixels in 0..1 by up to 0.0314, PGD by up to 0.1000.",)


def test_the_legend_defines_the_figures_that_are_shown_and_no_others(folder):
    lines = "\n".join(legend(build(folder, REGISTRY)))
    assert "gap: The highest less the lowest" in lines and "few: Mean test accuracy" in lines
    assert "many: " not in lines
    for path in folder.glob("records/*.json"):
        if '"plain"' not in path.read_text():
            path.unlink()
    assert "gap: " not in "\n".join(legend(build(folder, REGISTRY)))


def test_the_plot_of_group_gaps_is_drawn_for_cells_with_groups_alone(folder):
    names = report_files(folder, {})
    assert [name for name in names if "group-gaps" in name and name.endswith("svg")] == [
        "plots/group-gaps-big-small-on-skewed.svg"]
    svg = names["plots/group-gaps-big-small-on-skewed.svg"].decode()
    assert "teacher" in svg and ">40.0<" in svg and ">25.0<" in svg


def test_markdown_shows_the_tables(folder):
    text = render(build(folder, REGISTRY), "md")
    assert "## Groups: big-small on skewed" in text and "## Long tail: big-small on tailed" in text
