import math
import sys

import pytest

from kdbench.errors import UserError
from kdbench.tune.sampler import BATCH, Search, grid_of, grid_size, journal, settings_of
from kdbench.tune.space import Dimension, Limits

SPACE = (Dimension("a", 0.5, Limits(0.0, 1.0, "linear")), Dimension("b", 0.05, Limits(0.005, 0.5, "log")))


def bowl(values):
    """Highest, with 1, at a = 0.3 and b = 0.005 * 100 ** 0.7."""
    return 1 - (values["a"] - 0.3) ** 2 - (math.log(values["b"] / 0.005, 100) - 0.7) ** 2


def ridge(values):
    """Highest, with 1, at a = 0.5 of a narrow ridge on which one goes up as the other goes down."""
    return 1 - 10 * (values["a"] + math.log(values["b"] / 0.005, 100) - 1.3) ** 2 - (values["a"] - 0.5) ** 2


def trials(function, sampler, seed, count=16, space=SPACE):
    search, found = Search(space, sampler, seed), []
    while len(found) < count:
        asked = search.ask(min(BATCH, count - len(found)))
        search.tell([function(values) for values in asked])
        found += asked
    return found


def mean_best(function, sampler, count=16):
    return sum(max(map(function, trials(function, sampler, seed, count))) for seed in range(50)) / 50


@pytest.mark.parametrize(("function", "count", "share"), [(bowl, 16, 0.5), (ridge, 32, 0.8)])
def test_tpe_beats_random_search_at_equal_trials_over_50_seeds(function, count, share):
    """What is left to the optimum is at most that share of what random search leaves."""
    assert 1 - mean_best(function, "tpe", count) < share * (1 - mean_best(function, "random", count))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_seed_gives_the_same_trials_and_another_seed_others(sampler):
    first = trials(bowl, sampler, 3)
    assert trials(bowl, sampler, 3) == first
    assert trials(bowl, sampler, 4)[1:] != first[1:]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_the_first_trial_is_the_centre(sampler):
    assert trials(bowl, sampler, 0, count=1) == [{"a": 0.5, "b": 0.05}]


@pytest.mark.parametrize("count", [6, 8, 13])
def test_a_longer_search_begins_with_the_trials_of_a_shorter_one(count):
    assert trials(bowl, "tpe", 5, 16)[:count] == trials(bowl, "tpe", 5, count)


def test_a_search_that_is_asked_and_told_the_same_again_goes_on_the_same_with_any_storage(tmp_path):
    def run(storage):
        search, found = Search(SPACE, "tpe", 1, storage, "a study"), []
        for _ in range(4):
            found += search.ask(BATCH)
            search.tell([bowl(values) for values in found[-BATCH:]], [{"status": "ok"}] * BATCH)
        return found

    first = run(journal(tmp_path / "study" / "journal.log"))
    assert run(None) == first == run(journal(tmp_path / "study" / "journal.log"))


def test_a_grid_covers_exactly_its_points_whatever_the_seed():
    space = (*SPACE, Dimension("mode", "soft", choices=("hard", "soft")))
    assert grid_size(space) == len(grid_of(space)) == 3 * 3 * 2
    found = trials(lambda values: 0.5, "grid", 7, 18, space)
    assert found == trials(bowl, "grid", 8, 18, space) == grid_of(space)
    assert len({tuple(point.items()) for point in found}) == 18
    assert {point["a"] for point in found} == {0.25, 0.5, 0.75}
    assert sorted({point["b"] for point in found}) == pytest.approx([0.005 * 100**p for p in (.25, .5, .75)], rel=1e-3)


def test_a_failed_trial_counts_as_the_worst():
    search = Search(SPACE, "random", 0)
    search.ask(2)
    search.tell([0.3, None])
    assert [trial.value for trial in search.study.trials] == [0.3, 0.0]


def test_a_logarithmic_scale_gives_each_factor_the_same_share_of_tries():
    space = (Dimension("b", 1.0, Limits(0.01, 100.0, "log")),)
    found = [values["b"] for values in trials(lambda values: 0.0, "random", 0, 400, space)]
    shares = [sum(low <= value < 10 * low for value in found) / len(found) for low in (0.01, 0.1, 1.0, 10.0)]
    assert shares == pytest.approx([0.25] * 4, abs=0.06)


def test_half_of_all_tries_lie_on_either_side_of_the_published_value():
    space = (Dimension("a", 0.9, Limits(0.0, 1.0, "linear")),)
    found = [values["a"] for values in trials(lambda values: 0.0, "random", 0, 400, space)]
    assert sum(value < 0.9 for value in found) / 400 == pytest.approx(0.5, abs=0.06)
    assert min(found) >= 0.0 and max(found) <= 1.0


def test_the_settings_of_tpe_are_recorded_with_the_version_of_optuna():
    found = settings_of("tpe")
    assert found["settings"]["n_startup_trials"] == 5 and found["optuna"].count(".") >= 1 and found["batch"] == BATCH


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UserError, match=r"unknown sampler 'tpee'; did you mean 'tpe'\?"):
        settings_of("tpee")


def test_without_optuna_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'kdbench\[tune\]'"):
        settings_of("tpe")


def test_a_pruned_trial_is_told_to_optuna_with_its_values_by_step_and_ranks_behind_all_others():
    search = Search(SPACE, "tpe", 0)
    search.ask(BATCH)
    search.tell([None, {2: 0.6, 3: 0.7}, 0.5, {2: 0.9}], [{"status": str(number)} for number in range(4)])
    states = [(trial.state.name, trial.value, trial.intermediate_values) for trial in search.study.trials]
    assert states == [("COMPLETE", 0.0, {}), ("PRUNED", 0.7, {2: 0.6, 3: 0.7}), ("COMPLETE", 0.5, {}),
                      ("PRUNED", 0.9, {2: 0.9})]
    assert [trial.user_attrs["status"] for trial in search.study.trials] == ["0", "1", "2", "3"]
    assert len(search.ask(BATCH)) == BATCH


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_search_with_pruned_trials_is_the_same_when_it_is_told_the_same_again(sampler):
    def run():
        search, found = Search(SPACE, sampler, 1), []
        for _ in range(2):
            asked = search.ask(BATCH)
            search.tell([{1: bowl(one)} if one["a"] > 0.5 else bowl(one) for one in asked])
            found += asked
        return [*found, *search.ask(1)]

    assert run() == run()
