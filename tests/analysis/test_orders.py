"""Orders of methods: by other metrics, and from cell to cell."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kendalltau
from support.records import REGISTRY, record, spec

from kdbench.analysis.answers.kendall import bootstrap, signs, tau
from kdbench.analysis.answers.orders import between_cells, by_metric
from kdbench.analysis.build import build
from kdbench.report.files import render
from kdbench.results.store import Store

METHODS = ("ce", "kd", "at", "fitnet", "crd", "rkd", "dist", "dkd", "sp")
WORST = (.10, .20, .15, .30, .25, .40, .35, .50, .45)  # pairs of neighbours change places: 4 of 36 pairs


def write(folder, dataset="digits", order=range(9), methods=METHODS, seeds=3):
    """Methods whose accuracy rises by 0.01 in that order; each seed adds the same to all."""
    for place, name in zip(order, methods, strict=True):
        for seed in range(seeds):
            run = spec(name, seed, dataset)
            Store(folder).write(record(run, .5 + .01 * place + .001 * seed, metrics={
                "worst_class_accuracy": WORST[place], "ece": .3 - .01 * place}))


def cell(folder):
    (found,) = build(folder, REGISTRY).cells
    return found


def test_the_order_by_another_metric_is_compared_by_kendalls_tau_b(tmp_path):
    write(tmp_path)
    found = by_metric(cell(tmp_path))
    expected = kendalltau(range(9), WORST).statistic
    assert found["worst_class_accuracy"].tau == pytest.approx(expected) == pytest.approx(1 - 2 * 4 / 36)
    assert found["worst_class_accuracy"].low < expected < found["worst_class_accuracy"].high <= 1
    assert found["worst_class_accuracy"].methods == 9


def test_of_a_metric_that_is_better_when_lower_the_lowest_is_first(tmp_path):
    write(tmp_path)
    assert by_metric(cell(tmp_path))["ece"].tau == 1


def test_means_of_equal_counts_of_hits_are_a_tie_whatever_their_rounding():
    means = np.array([.1 + .2, .3, .25])
    assert means[0] != means[1] and tau(signs(means), signs(np.arange(3.))) == pytest.approx(
        kendalltau([12, 12, 7], range(3)).statistic)


def test_seeds_that_agree_leave_the_whole_order_between_their_halves(tmp_path):
    write(tmp_path)
    assert by_metric(cell(tmp_path))["ece"].own == (1, 1)


@pytest.mark.parametrize("change", [
    {"status": "crashed", "reason": "memory"}, None], ids=["a failed run", "a seed less"])
def test_a_method_that_is_not_complete_does_not_count(tmp_path, change):
    write(tmp_path, seeds=4 if change else 3)
    run = spec("sp", 2)
    if change:
        Store(tmp_path).write(record(run, **change))
    else:
        Store(tmp_path).files.record(run.id).unlink()
    assert by_metric(cell(tmp_path))["ece"].methods == 8


def test_fewer_than_eight_methods_have_no_order_to_compare(tmp_path):
    write(tmp_path, order=range(7), methods=METHODS[:7])
    assert by_metric(cell(tmp_path)) == {}


@pytest.mark.parametrize("seeds", [3, 4])
def test_of_two_settings_of_a_method_those_count_that_have_more_seeds_or_are_its_defaults(tmp_path, seeds):
    write(tmp_path)
    for seed in range(seeds):
        Store(tmp_path).write(record(spec("kd", seed, temperature=9.0), .9, metrics={"ece": .9}))
    found = cell(tmp_path)
    assert len(found.rows) == 10 and by_metric(found)["ece"].methods == 9
    assert (by_metric(found)["ece"].tau < 1) == (seeds == 4)


@pytest.mark.parametrize("remark", ["tuned", "tuned on other-pair"])
def test_tuned_settings_do_not_count(tmp_path, remark):
    write(tmp_path)
    found = cell(tmp_path)
    tuned = replace(found, rows=tuple(replace(row, conditions=(remark,)) if row.method == "sp" else row
                                      for row in found.rows))
    assert by_metric(tuned)["ece"].methods == 8


def test_cells_are_compared_by_the_methods_that_they_share(tmp_path):
    write(tmp_path)
    write(tmp_path, "mnist5k", order=range(8, -1, -1))
    write(tmp_path, "fashion_mnist", order=range(7), methods=METHODS[:7])
    ((first, second, found),) = between_cells(combinations(build(tmp_path, REGISTRY).cells, 2))
    assert {first.dataset, second.dataset} == {"digits", "mnist5k"}
    assert (found.tau, found.methods, found.own) == (-1, 9, (1, 1))


def test_orders_are_in_tables_and_json(tmp_path):
    write(tmp_path)
    write(tmp_path, "mnist5k")
    board = build(tmp_path, REGISTRY)
    text = render(board, "md")
    assert "## Order by other metrics: big-small on digits" in text and "## Order from cell to cell" in text
    assert re.search(r"\| ECE +\| +9 \| 1\.00 \| 1\.00 \| 1\.00 \| +1\.00 \|", text)
    assert '"other_cell"' in render(board, "json")


def test_the_bootstrap_draws_methods_with_replacement():
    random = np.random.default_rng(3)
    first, second = random.normal(size=(2, 12))
    low, high = bootstrap(signs(first), signs(second))
    drawn = [random.integers(12, size=12) for _ in range(4000)]
    by_hand = np.percentile([tau(signs(first[one]), signs(second[one])) for one in drawn], [2.5, 97.5])
    assert (low, high) == pytest.approx(tuple(by_hand), abs=.03)
