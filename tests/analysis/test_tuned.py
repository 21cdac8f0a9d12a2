"""What tuning gained on fresh seeds, and whether it changes the order of methods."""

import itertools
import re

import numpy as np
import pytest
from msgspec import structs
from scipy.stats import kendalltau
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.analysis.tuned import Compared, is_tuned, order_of
from kdbench.report.files import render
from kdbench.results.store import Store
from kdbench.tune.choice import Choice, Choices, Trial, write_choices


def trial(number, hyperparameters, accuracy, **recipe):
    return Trial(number=number, hyperparameters=hyperparameters, recipe=recipe, runs=["r"], seconds=10.0,
                 status="ok" if accuracy else "diverged", accuracies=[accuracy or None])


def choice(run, trials, taken, **changes):
    chosen = trials[taken]
    fields = dict(method=run.method, method_digest="d", pair=run.pair, dataset=run.dataset, cell=run.cell, trial=taken,
                  status="tuned" if taken else "default", hyperparameters=chosen.hyperparameters, recipe=chosen.recipe,
                  accuracy=chosen.accuracy, default_accuracy=trials[0].accuracy, standard_error=None,
                  seconds=sum(one.seconds for one in trials), trials=trials)
    return Choice(**{**fields, **changes})


KD = [trial(0, {"temperature": 4.0}, .80), trial(1, {"temperature": 8.0}, .87), trial(2, {"temperature": 1.0}, 0)]
CE = [trial(0, {}, .70), trial(1, {}, .69, lr=.2)]


@pytest.fixture
def folder(tmp_path):
    """kd by default and tuned on three seeds, ce whose default was kept, and at which was not tuned."""
    store = Store(tmp_path)
    for seed, plain, default, tuned in ((0, .70, .80, .83), (1, .71, .82, .84), (2, .72, .81, .85)):
        for run, accuracy in ((spec("ce", seed), plain), (spec("kd", seed), default),
                              (spec("kd", seed, temperature=8.0), tuned), (spec("at", seed), .75)):
            store.write(record(run, accuracy, metrics={"validation_accuracy": accuracy + .01}))
    write_choices(tmp_path, Choices(suite="tiny", study={"sampler": "tpe"}, seeds=[1_000_000], choices=[
        choice(spec("kd"), KD, 1), choice(spec("ce"), CE, 0)]))
    return tmp_path


def tuning(folder):
    return {one.label: one for one in build(folder, REGISTRY).cells[0].tuning}


def test_the_gain_is_that_of_the_tuned_row_over_the_default_one_on_equal_seeds(folder):
    found = tuning(folder)["kd"]
    assert found.claimed == pytest.approx(.07)
    assert found.test.mean == pytest.approx((.03 + .02 + .04) / 3) and found.test.count == 3
    assert found.test.half_width == pytest.approx(4.303 * .01 / 3**.5, rel=1e-3)
    assert found.validation.mean == pytest.approx(.03)


def test_the_optimism_is_what_the_trials_claimed_beyond_the_gain_on_the_test_split(folder):
    assert tuning(folder)["kd"].optimism == pytest.approx(.07 - .03)


def test_a_method_whose_default_was_kept_gained_nothing(folder):
    found = tuning(folder)["ce"]
    assert found.claimed == 0 and found.test.mean == 0 and found.optimism == 0


def test_methods_that_were_not_tuned_and_cells_of_other_choices_have_none(folder):
    assert set(tuning(folder)) == {"kd", "ce"}
    write_choices(folder, Choices(suite="tiny", study={}, seeds=[1_000_000], choices=[
        choice(spec("at", dataset="letters"), CE, 0)]))
    assert set(tuning(folder)) == {"kd", "ce"}


def test_without_runs_by_the_choice_only_the_trials_are_told(folder):
    for seed in range(3):
        Store(folder).files.record(spec("kd", seed, temperature=8.0).id).unlink()
    found = tuning(folder)["kd"]
    assert found.claimed == pytest.approx(.07) and found.test is None and found.optimism is None


def carried(folder, **changes):
    """kd's settings in the folder, as carried from the pair "other"."""
    carried = structs.replace(choice(spec("kd"), KD, 1, **changes), trials=[], default=KD[0].hyperparameters,
                              carried_from="other", accuracy=None, default_accuracy=None)
    write_choices(folder, Choices(suite="tiny", study={"sampler": "tpe"}, seeds=[1_000_000], choices=[carried]))


def test_settings_of_another_pair_have_their_gain_and_say_where_they_come_from(folder):
    carried(folder)
    board = build(folder, REGISTRY)
    rows = {row.label: row.conditions for row in board.cells[0].rows}
    assert rows["kd (tuned)"] == ("tuned on other",) and rows["kd"] == ()
    found = tuning(folder)["kd"]
    assert found.claimed is None and found.optimism is None and found.test.mean == pytest.approx(.03)
    text = render(board, "md")
    assert re.search(r"## Tuned on another pair: big-small on digits\n\n.*\n.*\n\| kd +\| other +\| +\+3\.00 ± ", text)
    assert any(line.startswith("Tuned, here or on another pair: by validation accuracy, of 2 trials each (tpe")
               for line in board.statement)


def test_a_default_that_was_kept_on_another_pair_is_no_tuned_row(folder):
    carried(folder, status="default", hyperparameters=KD[0].hyperparameters)
    rows = {row.label: row.conditions for row in build(folder, REGISTRY).cells[0].rows}
    assert rows["kd"] == ("default kept on other",)
    assert not is_tuned(rows["kd"]) and is_tuned(("tuned on other",)) and is_tuned(("2x updates", "tuned"))


def test_a_folder_without_choices_has_no_tuning(tmp_path):
    Store(tmp_path).write(record(spec("ce"), .7))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert cell.tuning == () and cell.order is None


# The order of methods.

def compared(default, tuned, ranked=True):
    """[M][S] accuracies of methods over seeds."""
    return [Compared(f"m{i}", ranked, *({"test_accuracy": dict(enumerate(values))} for values in own))
            for i, own in enumerate(zip(default, tuned, strict=True))]


def column(*values):
    return [[value] for value in values]


def test_the_correlation_is_kendalls_tau_b_ties_included():
    random = np.random.default_rng(0)
    for _ in range(20):
        default, tuned = random.integers(6, size=(2, 9)).astype(float)
        found = order_of(compared(column(*default), column(*tuned)))
        assert found.correlation == pytest.approx(kendalltau(default, tuned).statistic)


def test_the_same_order_is_one_its_reverse_minus_one_and_pairs_that_change_places_are_counted():
    rising = column(.1, .2, .3, .4, .5)
    assert order_of(compared(rising, column(.2, .3, .4, .5, .9))).correlation == 1
    turned = order_of(compared(rising, rising[::-1]))
    assert turned.correlation == -1 and turned.swapped == 10
    assert order_of(compared(rising, column(.2, .1, .3, .4, .5))).swapped == 1


def test_the_interval_holds_the_correlation_and_is_the_same_every_time():
    random = np.random.default_rng(3)
    default = random.normal(size=(12, 1))
    methods = compared(default, default + random.normal(size=(12, 1)))
    found = order_of(methods)
    assert found.low < found.correlation < found.high and found == order_of(methods)


def test_the_interval_covers_the_correlation_of_the_methods_that_these_were_drawn_from():
    """Normal pairs of correlation r have tau = 2 / pi * asin(r) (Kendall)."""
    random, r = np.random.default_rng(5), .7
    truth, hits = 2 / np.pi * np.arcsin(r), 0
    for _ in range(60):
        first, noise = random.normal(size=(2, 20, 1))
        found = order_of(compared(first, r * first + (1 - r * r) ** .5 * noise))
        hits += found.low <= truth <= found.high
    assert hits >= 51  # 95 % of 60 are 57; the percentile bootstrap is a little narrow


def test_what_noise_leaves_of_the_order_is_told_beside_what_tuning_leaves():
    default = [[.1, .2], [.2, .1], [.3, .3], [.4, .5], [.5, .4]]
    found = order_of(compared(default, default))
    halves = kendalltau([.1, .2, .3, .4, .5], [.2, .1, .3, .5, .4]).statistic
    assert found.correlation == 1
    assert found.same_settings == pytest.approx(halves) and found.other_settings == pytest.approx(halves)
    turned = order_of(compared(default, [own[::-1] for own in default[::-1]]))
    assert turned.same_settings == pytest.approx(halves)
    assert turned.other_settings == pytest.approx(np.mean([
        kendalltau([own[a] for own in default], [own[1 - b] for own in default[::-1]]).statistic
        for a, b in itertools.permutations(range(2))]))


def test_one_seed_tells_nothing_of_noise():
    rising = column(.1, .2, .3, .4, .5)
    assert order_of(compared(rising, rising)).same_settings is None


def test_methods_without_both_kinds_of_runs_are_not_ordered_and_few_are_not_enough():
    rising = column(.1, .2, .3, .4, .5, .6)
    methods = compared(rising, rising)
    incomplete = [*methods[:5], Compared("x", True, methods[5].default, {})]
    assert order_of(incomplete).methods == 5
    assert order_of(incomplete[1:]) is None
    assert order_of(compared(rising, rising, ranked=False)) is None
