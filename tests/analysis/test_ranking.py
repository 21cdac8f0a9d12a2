"""Three methods in three cells, one seed each, to check by hand: test accuracy in %, and ranks.

    pair       ce     kd     at
    a          80 (3) 84 (1) 82 (2)
    b          70 (3) 71 (2) 75 (1)
    c          60 (2) 66 (1) crashed (3)
    mean rank  8/3    4/3    2
"""

import json
import math

import numpy as np
import pytest
import scipy.stats
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.analysis.ranking import cell_ranks, friedman, range_quantile, rank
from kdbench.report.files import render
from kdbench.results.store import Store
from kdbench.spec import Architecture

TABLE = {"a": {"ce": .80, "kd": .84, "at": .82}, "b": {"ce": .70, "kd": .71, "at": .75},
         "c": {"ce": .60, "kd": .66, "at": None}}
RANKS = np.array([[3, 1, 2], [3, 2, 1], [2, 1, 3]])


def run(pair, method, seed=0):
    return spec(method, seed, pair=pair).model_copy(update={"student": Architecture(model=f"small-{pair}")})


def write(folder, table):
    for pair, row in table.items():
        for method, accuracy in row.items():
            changes = {"status": "crashed", "reason": "out of memory"} if accuracy is None else {}
            Store(folder).write(record(run(pair, method), accuracy, **changes))


def standings(folder):
    return {standing.label: standing for standing in rank(build(folder, REGISTRY)).standings}


def test_ranks_scores_and_wins_are_those_computed_by_hand(tmp_path):
    write(tmp_path, TABLE)
    ranking = rank(build(tmp_path, REGISTRY))
    assert [(s.label, s.rank) for s in ranking.standings] == [
        ("kd", pytest.approx(4 / 3)), ("at", 2), ("ce", pytest.approx(8 / 3))]
    told = {standing.label: standing for standing in ranking.standings}
    assert (told["kd"].score, told["kd"].worst, told["kd"].cells) == (pytest.approx(.11 / 3), pytest.approx(.01), 3)
    assert (told["ce"].score, told["ce"].worst) == (0, 0)
    assert (told["kd"].wins["ce"].won, told["kd"].wins["ce"].pairs) == (3, 3)
    assert (told["at"].wins["ce"].won, told["at"].wins["ce"].pairs) == (2, 3)  # the crash is lost
    assert (told["at"].wins["kd"].won, told["ce"].wins["kd"].won) == (1, 0)
    assert ranking.friedman is None and "5 cells or more, here are 3" in ranking.withheld


def test_methods_without_data_are_not_ranked(tmp_path):
    write(tmp_path, TABLE)
    before = standings(tmp_path)
    for pair in TABLE:
        Store(tmp_path).write(record(run(pair, "blind"), .99, family="data_free"))
    assert standings(tmp_path) == before


def test_a_method_with_other_hyperparameters_in_each_cell_is_one_method_across_cells(tmp_path):
    write(tmp_path, TABLE)
    for pair, temperature in (("a", 8.0), ("b", 2.0)):
        Store(tmp_path).files.record(run(pair, "kd").id).unlink()
        tuned = run(pair, "kd").model_copy(update={"hyperparameters": {"temperature": temperature}})
        Store(tmp_path).write(record(tuned, TABLE[pair]["kd"]))
    assert standings(tmp_path)["kd"].cells == 3


def test_a_method_without_a_result_somewhere_gets_no_score(tmp_path):
    write(tmp_path, TABLE)
    assert (standings(tmp_path)["at"].score, standings(tmp_path)["at"].worst, standings(tmp_path)["at"].cells) == (
        None, None, 2)


@pytest.mark.parametrize("loss", ["fails", "is missing"])
def test_a_failed_or_missing_run_never_improves_a_method_s_rank(tmp_path, loss):
    without = {"ce": .70, "kd": .71, **({"at": None} if loss == "fails" else {})}
    write(tmp_path / "whole", TABLE)
    write(tmp_path / "part", {**TABLE, "b": without})
    whole, part = standings(tmp_path / "whole"), standings(tmp_path / "part")
    assert part["at"].rank > whole["at"].rank
    assert part["at"].score is None


def test_a_seed_that_diverged_costs_the_cell_though_the_other_seeds_are_good(tmp_path):
    write(tmp_path, TABLE)
    Store(tmp_path).write(record(run("a", "kd", 1), status="diverged", reason="NaN"))
    assert standings(tmp_path)["kd"].rank == pytest.approx((3 + 2 + 1) / 3)
    assert standings(tmp_path)["kd"].cells == 2


def test_the_table_across_cells_is_in_markdown_and_json(tmp_path):
    write(tmp_path, TABLE)
    board = build(tmp_path, REGISTRY)
    text = render(board, "md")
    assert "| kd     | logit     |     3 | +3.67 | +1.00 | 1.33 |        3/3 |            |" in text
    assert "| at     | attention |     2 |   n/a |   n/a | 2.00 |        2/3 |        1/3 |" in text
    assert "Withheld: whether ranks differ by more than chance" in text
    assert json.loads(render(board, "json"))["ranking"]["standings"][0]["label"] == "kd"


def test_one_cell_is_not_averaged(tmp_path):
    write(tmp_path, {"a": TABLE["a"]})
    assert rank(build(tmp_path, REGISTRY)) is None


def test_equal_accuracies_share_a_rank_and_absent_ones_the_last():
    assert cell_ranks([.5, .9, .5, None, None]) == [2.5, 1, 2.5, 4.5, 4.5]


def test_equal_means_of_other_rounding_share_a_rank_across_cells(tmp_path):
    for pair in "ab":
        for method, accuracies in {"ce": (.3, .5, .4), "kd": (.4, .4, .4), "at": (.1, .1, .1)}.items():
            for seed, accuracy in enumerate(accuracies):
                Store(tmp_path).write(record(run(pair, method, seed), accuracy))
    rows = {row.label: row for row in build(tmp_path, REGISTRY).cells[0].rows}
    assert rows["ce"].estimate("test_accuracy").mean != rows["kd"].estimate("test_accuracy").mean
    assert [standings(tmp_path)[label].rank for label in ("ce", "kd", "at")] == [1.5, 1.5, 3]


# Friedman and Nemenyi.

def test_friedman_s_test_of_the_table_is_the_one_computed_by_hand():
    result = friedman(RANKS, ["ce", "kd", "at"])
    assert result.statistic == pytest.approx(12 * 3 / (3 * 4) * ((2 / 3) ** 2 + (2 / 3) ** 2))
    assert result.p == pytest.approx(math.exp(-result.statistic / 2))  # chi-squared with two degrees
    assert result.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 3)), abs=1e-3)
    assert result.groups == (("kd", "at", "ce"),)


@pytest.mark.parametrize("seed", range(3))
def test_friedman_s_test_equals_scipy_s_with_ties_too(seed):
    values = np.random.default_rng(seed).integers(5, size=(8, 4)).astype(float)
    result = friedman(np.array([cell_ranks(row) for row in values]), list("abcd"))
    expected = scipy.stats.friedmanchisquare(*values.T)
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_the_range_s_quantiles_are_those_of_demsar_s_table_and_of_scipy():
    published = {2: 1.960, 3: 2.343, 5: 2.728, 10: 3.164}  # Demšar (2006), table 5, q at 0.05
    assert {k: range_quantile(k) / math.sqrt(2) for k in published} == pytest.approx(published, abs=1e-3)
    assert range_quantile(42) == pytest.approx(scipy.stats.studentized_range.ppf(.95, 42, np.inf), abs=1e-5)


def test_methods_within_the_critical_difference_form_overlapping_groups():
    ranks = np.array([[1, 2, 3, 4, 5]] * 10)  # CD = 2.728 * sqrt(30 / 60) = 1.93
    result = friedman(ranks, list("abcde"))
    assert result.p < .001
    assert result.groups == (("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"))


# Within a cell.

def test_equal_runs_are_half_a_win_and_runs_that_do_not_apply_are_no_pair(tmp_path):
    store = Store(tmp_path)
    for seed in range(2):
        store.write(record(spec("ce", seed), .5))
    store.write(record(spec("kd", 0), .5))
    store.write(record(spec("kd", 1), .6))
    store.write(record(spec("at", 0), status="inapplicable", reason="no stages"))
    wins = {row.label: row.wins for row in build(tmp_path, REGISTRY).cells[0].rows}
    assert (wins["kd"]["ce"].won, wins["kd"]["ce"].pairs) == (1.5, 2)
    assert (wins["ce"]["kd"].won, wins["at"]["ce"].pairs) == (.5, 0)
    assert "ce" not in wins["ce"]
