"""Equal compute in a leaderboard. Of a recipe of 2 epochs, whose 100 steps were profiled: a step of kd takes 2.5 times
one of ce's and one of at twice that. kd has its 2 epochs; ce 5, the same compute; at 2, 2 * 2 / (2 * 2.5) = 0.8 of it.

    test accuracy in %      ce    kd    at
    equal steps             80    84    82
    equal compute           85    84    81
"""

import csv
import io
import json

import pytest
from msgspec.structs import replace
from support.profiles import comparison, profile, training
from support.records import RECIPE, REGISTRY, record, spec

from kdbench.analysis.answers.advice import Wishes, advise
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.analysis.ranking import rank
from kdbench.profile.record import write_profile
from kdbench.report.files import render
from kdbench.report.page import to_html
from kdbench.report.plots import plots
from kdbench.report.tables.cell import all_tables
from kdbench.report.tables.legend import legend
from kdbench.results.store import Store
from kdbench.spec import Architecture, OwnRecipe

STEPS, COMPUTE = {"ce": .80, "kd": .84, "at": .82}, {"ce": .85, "kd": .84, "at": .81}
EPOCHS, RATIOS = {"ce": 5, "kd": 2, "at": 2}, {"ce": 1.0, "kd": 2.5, "at": 2.0}


def at(run, pair):
    return run.model_copy(update={"pair": pair, "student": Architecture(model=f"small-{pair}")})


def matched(method, seed=0, pair="a", epochs=None):
    return at(spec(method, seed), pair).model_copy(
        update={"own_recipe": OwnRecipe(epochs=epochs or EPOCHS[method])})


def write(folder, *, pairs=("a",), seeds=(0, 1), steps=True, compute=True, profiled=True, methods=STEPS):
    store = Store(folder)
    for pair in pairs:
        for method in methods:
            for seed in seeds:
                noise = .001 * seed
                if steps:
                    store.write(record(at(spec(method, seed), pair), STEPS[method] + noise))
                if compute:
                    store.write(record(matched(method, seed, pair), COMPUTE[method] + noise))
        if profiled:
            write_profile(store, profile("pair", run=at(spec("ce"), pair), deployment=comparison()))
            for method, ratio in RATIOS.items():
                write_profile(store, profile(run=at(spec(method), pair), training=training(.01 * ratio, ratio, .1)))
    return folder


def cells(folder):
    """The cell of equal steps, and that of equal compute."""
    found = build(folder, REGISTRY).cells
    return sorted(found, key=lambda cell: cell.equal_compute)


def rows(cell):
    return {row.label: row for row in cell.rows}


def test_each_regime_has_a_table_of_its_own_comparisons(tmp_path):
    plain, compute = cells(write(tmp_path))
    assert [row.label for row in plain.rows] == ["kd", "at", "ce"]
    assert [row.label for row in compute.rows] == ["ce", "kd", "at"]
    assert rows(plain)["kd"].differences["ce"].mean == pytest.approx(.04)
    assert rows(compute)["kd"].differences["ce"].mean == pytest.approx(-.01)
    assert (plain.equal_compute, compute.equal_compute) == (False, True)
    assert all(len(row.seeds) == 2 and row.failures == () for cell in (plain, compute) for row in cell.rows)
    assert plain.comparisons.tiers[0][0] == "kd" and compute.comparisons.tiers[0][0] == "ce"


def test_titles_name_the_regime_and_nothing_else(tmp_path):
    leaderboard = build(write(tmp_path), REGISTRY)
    assert sorted(leaderboard.title(cell) for cell in leaderboard.cells) == [
        "a on digits", "a on digits (equal compute)"]
    (only,) = build(write(tmp_path / "only", steps=False), REGISTRY).cells
    assert build(tmp_path / "only", REGISTRY).title(only) == "a on digits (equal compute)"


def test_each_row_tells_its_epochs_and_its_share_of_the_compute_of_kd(tmp_path):
    plain, compute = cells(write(tmp_path))
    assert {row.label: row.conditions for row in compute.rows} == {
        "ce": ("5 epochs", "1.00x compute of kd"), "kd": ("2 epochs", "1.00x compute of kd"),
        "at": ("2 epochs", "0.80x compute of kd")}
    assert all(row.conditions == () for row in plain.rows)


def test_without_profiles_the_epochs_are_told_alone(tmp_path):
    (compute,) = build(write(tmp_path, steps=False, profiled=False), REGISTRY).cells
    assert rows(compute)["ce"].conditions == ("5 epochs",) and compute.costs == ()


@pytest.mark.parametrize("ratio", [None, 0.0])
def test_without_a_ratio_of_kd_no_share_is_told(tmp_path, ratio):
    store = Store(write(tmp_path, steps=False))
    kd = at(spec("kd"), "a")
    store.files.profile(kd.id).unlink()
    if ratio is not None:
        none = replace(training(.01, 1.0).step_time_ratio, median=ratio)
        write_profile(store, profile(run=kd, training=replace(training(.01, 1.0), step_time_ratio=none)))
    (compute,) = build(tmp_path, REGISTRY).cells
    assert {label: row.conditions for label, row in rows(compute).items()} == {
        "ce": ("5 epochs",), "kd": ("2 epochs",), "at": ("2 epochs",)}


def test_the_share_is_told_where_kd_did_not_run(tmp_path):
    (compute,) = build(write(tmp_path, steps=False, methods=("ce", "at")), REGISTRY).cells
    assert rows(compute)["at"].conditions == ("2 epochs", "0.80x compute of kd")


def test_costs_are_those_of_a_run_of_its_own_epochs(tmp_path):
    plain, compute = cells(write(tmp_path))
    seconds = {cell.equal_compute: {label: row.estimate("training_seconds").mean for label, row in rows(cell).items()}
               for cell in (plain, compute)}
    assert seconds[False] == pytest.approx({"ce": 1.0, "kd": 2.5, "at": 2.0})  # 100 steps
    assert seconds[True] == pytest.approx({"ce": 2.5, "kd": 2.5, "at": 2.0})
    assert rows(compute)["ce"].estimate("training_energy_joules").mean == pytest.approx(25)  # 250 steps of 0.1 J
    assert rows(compute)["ce"].estimate("latency_ms").mean == pytest.approx(2)


def test_no_method_is_dearer_at_equal_compute_whatever_its_step_takes(tmp_path):
    plain, compute = cells(write(tmp_path, seeds=(0, 1, 2)))
    most = Wishes(train_ratio=2.2)
    assert list(advise(plain, most).excluded) == ["kd"] and advise(plain, most).method == "at"
    assert not advise(compute, most).excluded and advise(compute, most).method == "ce"


@pytest.mark.parametrize("regime", [at, lambda run, pair: matched(run.method, run.seed, pair)])
def test_the_cheapest_method_is_named_only_where_steps_are_equal(tmp_path, regime):
    folder = write(tmp_path, steps=False, compute=False)
    for method, accuracies in {"ce": (.80, .82, .81), "kd": (.82, .80, .81)}.items():
        for seed, accuracy in enumerate(accuracies):
            Store(folder).write(record(regime(spec(method, seed), "a"), accuracy))
    (only,) = verdict(build(folder, REGISTRY))
    assert any("is ce, at 1 times a step" in one for one in only.sentences) == (regime is at)
    assert any("2 methods are in the best tier" in one for one in only.sentences)


def test_costs_are_those_of_its_own_pair(tmp_path):
    write(tmp_path, pairs=("a", "b"), steps=False)
    for pair, latency in (("a", .002), ("b", .004)):
        write_profile(Store(tmp_path), profile("pair", run=at(spec("ce"), pair), deployment=comparison(latency)))
    found = {cell.pair: cell for cell in build(tmp_path, REGISTRY).cells}
    assert {pair: rows(cell)["ce"].estimate("latency_ms").mean for pair, cell in found.items()} == pytest.approx(
        {"a": 2, "b": 4})
    assert [len(cell.costs) for cell in found.values()] == [4, 4]


def test_a_profile_of_a_run_with_a_budget_of_updates_counts_for_a_run_without(tmp_path):
    store = Store(write(tmp_path, steps=False, methods=("ce", "kd")))
    store.write(record(matched("at", epochs=3), .5))
    budgeted = at(spec("at"), "a").model_copy(update={"updates": 5})
    store.files.profile(at(spec("at"), "a").id).unlink()
    write_profile(store, profile(run=budgeted, training=training(.02, 2.0)))  # of 100 steps
    (compute,) = build(tmp_path, REGISTRY).cells
    assert rows(compute)["at"].estimate("training_seconds").mean == pytest.approx(3 * 10 * .02)
    assert rows(compute)["at"].conditions == ("3 epochs", "1.20x compute of kd")


def test_two_lengths_of_one_method_are_two_rows(tmp_path):
    write(tmp_path, steps=False)
    Store(tmp_path).write(record(matched("at", epochs=3), .83))
    (compute,) = build(tmp_path, REGISTRY).cells
    assert {"at (recipe.epochs=2)", "at (recipe.epochs=3)"} <= set(rows(compute))


def test_ranks_across_cells_are_of_one_regime(tmp_path):
    leaderboard = build(write(tmp_path, pairs=("a", "b")), REGISTRY)
    plain, compute = (rank(part) for part in leaderboard.regimes())
    assert [(s.label, s.rank, s.cells) for s in plain.standings] == [("kd", 1, 2), ("at", 2, 2), ("ce", 3, 2)]
    assert [(s.label, s.rank, s.cells) for s in compute.standings] == [("ce", 1, 2), ("kd", 2, 2), ("at", 3, 2)]
    titles = [table.title for table in all_tables(leaderboard)]
    assert titles[-2:] == ["Across cells", "Across cells (equal compute)"]
    found = json.loads(render(leaderboard, "json"))
    assert [found[name]["standings"][0]["label"] for name in ("ranking", "ranking_equal_compute")] == ["kd", "ce"]
    text = render(leaderboard, "md")
    assert text.index("## Across cells\n") < text.index("## Across cells (equal compute)\n")


def test_a_cell_of_each_regime_is_nothing_to_rank_across(tmp_path):
    leaderboard = build(write(tmp_path), REGISTRY)
    assert not any(table.title.startswith("Across") for table in all_tables(leaderboard))
    assert json.loads(render(leaderboard, "json"))["ranking"] is None


def test_the_legend_says_what_equal_compute_is_only_where_it_is_shown(tmp_path):
    assert "`kdbench profile`" in " ".join(legend(build(write(tmp_path), REGISTRY)))
    plain = build(write(tmp_path / "plain", compute=False), REGISTRY)
    assert "equal compute" not in " ".join(legend(plain)) and len(list(plain.regimes())) == 1


def test_epochs_are_in_csv_and_no_setting_in_the_note_below_the_table(tmp_path):
    leaderboard = build(write(tmp_path, steps=False), REGISTRY)
    lines = list(csv.DictReader(io.StringIO(render(leaderboard, "csv"))))
    assert {line["method"]: json.loads(line["hyperparameters"]) for line in lines if line["role"] == "student"} == {
        method: {"recipe.epochs": epochs} for method, epochs in EPOCHS.items()}
    assert "Not at their defaults" not in render(leaderboard, "md")


def test_the_note_on_profiles_gives_no_length_that_only_one_row_has(tmp_path):
    text = " ".join(render(build(write(tmp_path, steps=False), REGISTRY), "md").split())
    assert "5 passes of 40 steps drawn from all parts of a run, each step in turns with one of ce." in text


def test_plots_and_page_keep_the_regimes_apart(tmp_path):
    leaderboard = build(write(tmp_path, pairs=("a", "b")), REGISTRY)
    details = read_details(Store(tmp_path), leaderboard)
    names = [plot.name for plot in plots(leaderboard, details)]
    assert {"gain-by-family", "gain-by-family-equal-compute", "accuracy-a-on-digits",
            "accuracy-a-on-digits-equal-compute"} <= set(names)
    assert len(names) == len(set(names))
    page = to_html(leaderboard, details, [], {}).split('<table id="all"')[1].split("</table>")[0]
    assert page.count(" · equal compute</span></th>") == 6 and page.count(" · digits</span></th>") == 6


def test_the_recipe_that_a_cell_shares_is_not_that_of_equal_compute(tmp_path):
    assert all(cell.spec["recipe"]["epochs"] == RECIPE.epochs for cell in cells(write(tmp_path)))
