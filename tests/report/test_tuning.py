"""How tuning is shown: its tables, its plot, and in JSON."""

import json
import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.analysis.tuned import Order, Tuning
from kdbench.report import plots
from kdbench.report.files import render
from kdbench.report.latex import to_latex
from kdbench.report.tables.costs import tuning_tables
from kdbench.results.store import Store
from kdbench.tune.choice import Choice, Choices, Trial, write_choices
from kdbench.tune.summary import expected_best

ACCURACIES = [.80, .86, None, .84, .82]


@pytest.fixture
def folder(tmp_path):
    """kd by default and tuned on three seeds, of five trials."""
    store, run = Store(tmp_path), spec("kd")
    for seed, default, tuned in ((0, .80, .83), (1, .82, .84), (2, .81, .85)):
        store.write(record(spec("kd", seed), default))
        store.write(record(spec("kd", seed, temperature=8.0), tuned))
    trials = [Trial(number=i, hyperparameters={"temperature": 4.0 * (i + 1)}, recipe={}, runs=["r"], seconds=100.0,
                    status="ok" if accuracy else "diverged", accuracies=[accuracy])
              for i, accuracy in enumerate(ACCURACIES)]
    write_choices(tmp_path, Choices(suite="tiny", study={"sampler": "tpe"}, seeds=[1_000_000], choices=[Choice(
        method="kd", method_digest="d", pair=run.pair, dataset=run.dataset, cell=run.cell, trial=1, status="tuned",
        hyperparameters=trials[1].hyperparameters, recipe={}, accuracy=.86, default_accuracy=.80, standard_error=None,
        seconds=500.0, importance={"temperature": .934, "recipe.lr": .066, "alpha": .0}, trials=trials)]))
    return tmp_path


def tables(folder):
    (cell,) = build(folder, REGISTRY).cells
    return tuning_tables(cell.tuning, cell.order, "big-small on digits")


def only_line(table):
    (line,) = table.lines
    return dict(zip(table.header, line, strict=True))


def test_the_table_tells_what_tuning_cost_claimed_and_gained(folder):
    assert only_line(tables(folder)[0]) == {
        "method": "kd", "trials": "5", "core-seconds": "500", "kJ (estimate)": "5.00", "default": "80.00",
        "chosen": "86.00", "claimed": "+6.00", "test gain": "+3.00 ± 2.48", "optimism": "+3.00"}


def test_captions_call_only_differences_to_references_moderated(folder):
    for seed in range(3):
        Store(folder).write(record(spec("ce", seed), .70 + .01 * seed))
    text = to_latex(build(folder, REGISTRY))
    captions = re.findall(r"\\caption{(.*)}\\label", text)
    tuning = next(one for one in captions if one.startswith("Tuning"))
    compared = next(one for one in captions if one.startswith("big-small on digits"))
    assert "half the width of the 95 \\% t interval" in tuning and "moderated" not in tuning
    assert r"on seeds that no trial had, with its 95 \% t interval." in text.split(r"\kdbenchnotes{kdbench:tuning-")[1]
    assert r"$\pm$ of vs ce and vs kd: of the moderated interval." in compared


def test_a_kept_default_is_told_instead_of_a_gain(folder):
    (cell,) = build(folder, REGISTRY).cells
    (found,) = cell.tuning
    kept = replace(found, choice=msgspec.structs.replace(found.choice, status="default"))
    line = only_line(tuning_tables([kept], None, "x")[0])
    assert line["test gain"] == "default kept" and line["optimism"] == ""


def test_the_trials_are_told_by_quartiles_failures_luck_and_what_matters(folder):
    line = only_line(tables(folder)[1])
    assert line["what matters"] == "temperature 93%, recipe.lr 7%" and line["failed %"] == "20"
    assert (line["lower"], line["median"], line["upper"], line["best"]) == ("81.50", "83.00", "84.50", "86.00")
    assert (line["best of 1"], line["best of 4"], line["best of 5"]) == tuple(
        f"{100 * expected_best(ACCURACIES)[n - 1]:.2f}" for n in (1, 4, 5))


def test_methods_with_fewer_trials_have_no_expected_best_of_more():
    def one(count):
        trials = [Trial(number=i, hyperparameters={}, recipe={}, runs=["r"], seconds=1.0, status="ok", accuracies=[.5])
                  for i in range(count)]
        choice = Choice(method="m", method_digest="d", pair="p", dataset="d", cell="c", trial=0, status="default",
                        hyperparameters={}, recipe={}, accuracy=.5, default_accuracy=.5, standard_error=None,
                        seconds=1.0, trials=trials)
        return Tuning("m", choice, None, None)

    table = tuning_tables([one(16), one(1)], None, "x")[1]
    assert table.header[-3:] == ["best of 1", "best of 4", "best of 16"]
    assert [line[-3:] for line in table.lines] == [["50.00"] * 3, ["50.00", "", ""]]


def test_a_study_whose_every_trial_failed_is_named(folder):
    (found,) = build(folder, REGISTRY).cells[0].tuning
    failed = replace(found, choice=msgspec.structs.replace(found.choice, status="failed"))
    assert any("Every trial failed: kd." in note for note in tuning_tables([failed], None, "x")[0].notes)


def test_the_note_on_the_order_tells_correlation_interval_swaps_and_noise(folder):
    (cell,) = build(folder, REGISTRY).cells
    order = Order(methods=10, correlation=.512, low=.1, high=.9, same_settings=.8, other_settings=.4, swapped=11)
    note = tuning_tables(cell.tuning, order, "x")[0].notes[-1]
    assert "tau-b 0.51, 95 % interval 0.10 to 0.90" in note and "11 of 45 pairs" in note
    assert "it is 0.80 with both by default, and 0.40 with one half tuned" in note
    quiet = Order(methods=10, correlation=.512, low=.1, high=.9, same_settings=None, other_settings=None, swapped=11)
    assert "halves" not in tuning_tables(cell.tuning, quiet, "x")[0].notes[-1]


def test_without_tuning_there_is_no_table_and_no_plot(tmp_path, draw):
    Store(tmp_path).write(record(spec("ce"), .7))
    assert tables(tmp_path) == [] and not any("expected-best" in name for name in draw(tmp_path))


def test_json_has_the_choice_its_curve_and_its_gain(folder):
    (cell,) = json.loads(render(build(folder, REGISTRY), "json"))["tuning"]
    (found,) = cell["methods"]
    assert found["method"] == "kd" and found["trial_accuracies"] == ACCURACIES and cell["order"] is None
    assert found["expected_best"] == pytest.approx(expected_best(ACCURACIES))
    assert found["test_gain"]["mean"] == pytest.approx(.03) and found["optimism"] == pytest.approx(.03)


@pytest.fixture
def draw():
    def call(folder):
        leaderboard = build(folder, REGISTRY)
        drawings = plots.drawings(leaderboard, read_details(Store(folder), leaderboard))
        return {drawing.name: drawing.figure for drawing in drawings}

    return call


def test_the_plot_has_the_expected_best_accuracy_by_the_number_of_trials(folder, draw):
    axes = draw(folder)["expected-best-big-small-on-digits"].axes[0]
    (line,) = axes.lines
    assert line.get_label() == "kd"
    np.testing.assert_allclose(line.get_xydata(), [(n, 100 * value) for n, value in enumerate(
        expected_best(ACCURACIES), start=1)])
