from types import SimpleNamespace

import pytest
from support.records import RECIPE, record, spec

from kdbench.errors import UserError
from kdbench.tune.pruner import MEDIAN, curve_of, mean_curve, pruner_settings, share_saved, thresholds
from kdbench.tune.study import Settings, Study, _choice, _trial

EIGHT = RECIPE.model_copy(update={"epochs": 8})
CURVES = [dict(zip(range(1, 9), accuracies, strict=True)) for accuracies in (
    (.1, .2, .3, .4, .5, .6, .7, .8),
    (.1, .2, .2, .6, .5, .9, .7, .8),
    (.1, .2, .6, .1, .5, .5, .7, .8),
    (.1, .2, .9, .3, .5, .1, .7, .8),
)]


def run(status="ok", seed=0, until=8, accuracy=0.1, validation=None):
    """A trial's run of eight epochs whose curve goes up by `accuracy` after every epoch."""
    epochs = list(range(1, until + 1))
    curves = {"validation_epoch": epochs, "validation_accuracy": [accuracy * epoch for epoch in epochs]}
    return record(spec(seed=seed, recipe=EIGHT), role="trial", status=status,
                  curves=curves if status in ("ok", "pruned") else {},
                  metrics={} if validation is None else {"validation_accuracy": validation},
                  reason=None if status == "ok" else f"{status} {seed}")


def a_study(**fields):
    method = SimpleNamespace(name="ce", digest="a" * 64)
    return Study(method, spec(recipe=EIGHT), (), **fields)


def trial_of(*records, number=0, study=None):
    return _trial(number, study or a_study(), {}, list(records))


# Thresholds.

def test_thresholds_are_the_medians_of_earlier_trials_after_the_first_quarter_and_before_the_last_epoch():
    assert dict(thresholds(CURVES, 8)) == pytest.approx({3: .45, 4: .35, 5: .5, 6: .55, 7: .7})
    odd = thresholds([*CURVES, dict.fromkeys(range(1, 9), .05)], 8)
    assert odd == ((3, .3), (4, .3), (5, .5), (6, .5), (7, .7))


def test_thresholds_stand_at_the_points_of_the_curves_alone():
    assert [epoch for epoch, _ in thresholds([{1: .1, 5: .2, 9: .3, 13: .4, 17: .5, 20: .6}] * 4, 20)] == [9, 13, 17]


def test_fewer_than_four_trials_that_ended_well_are_compared_with_by_nobody():
    assert MEDIAN["first_trials"] == 4
    assert thresholds([], 8) == thresholds(CURVES[:3], 8) == ()


def test_a_study_compares_runs_with_those_of_their_own_seed_and_not_at_all_without_a_pruner():
    curves = [[curve, {epoch: 1 - accuracy for epoch, accuracy in curve.items()}] for curve in CURVES]
    study = a_study(pruner="median", curves=curves)
    assert study.stop_below(0) == thresholds(CURVES, 8)
    assert dict(study.stop_below(1)) == pytest.approx({3: .55, 4: .65, 5: .5, 6: .45, 7: .3})
    assert a_study(curves=curves).stop_below(0) == ()


def test_a_study_records_a_pruner_with_its_settings_and_nothing_without_one():
    assert pruner_settings("off") == {}
    assert pruner_settings("median") == {"pruner": "median", "pruner_settings": {"first_trials": 4, "warmup": 0.25}}
    for call in (lambda: pruner_settings("mean"), Settings(pruner="mean").check):
        with pytest.raises(UserError, match="unknown pruner 'mean'"):
            call()


# Curves.

def test_a_curve_is_the_validation_accuracy_by_epoch_as_far_as_the_run_came():
    assert curve_of(run("pruned", until=3)) == pytest.approx({1: .1, 2: .2, 3: .3})
    assert curve_of(run("crashed")) == {}


def test_the_mean_of_curves_ends_with_the_shortest():
    assert mean_curve([{1: .1, 2: .4, 3: .9}, {1: .3, 2: .8}]) == pytest.approx({1: .2, 2: .6})


# Trials.

def test_pruning_saves_the_steps_after_the_last_epoch_of_a_pruned_run_and_of_no_other():
    assert share_saved(run("pruned", until=3)) == 0.625
    assert [share_saved(run(status)) for status in ("ok", "crashed", "diverged")] == [0, 0, 0]
    assert trial_of(run(), run("pruned", until=3)).saved == 0.3125


def test_a_trial_with_a_pruned_run_is_pruned_has_no_accuracy_and_tells_the_reason():
    trial = trial_of(run(validation=.8), run("pruned", seed=1, until=3))
    assert (trial.status, trial.reason, trial.accuracies, trial.accuracy) == ("pruned", "pruned 1", [.8, None], None)


def test_a_failure_tells_more_of_a_trial_than_a_pruned_run_and_the_first_of_each_is_told():
    trial = trial_of(run("pruned"), run("diverged", seed=1), run("crashed", seed=2))
    assert (trial.status, trial.reason) == ("diverged", "diverged 1")
    assert trial_of(run("pruned"), run("pruned", seed=1)).reason == "pruned 0"


def test_a_choice_tells_the_share_of_all_steps_that_pruning_saved_and_takes_the_default_where_nothing_else_ended():
    study = a_study(pruner="median")
    study.trials = [trial_of(run(validation=.5), study=study), trial_of(run("pruned", until=3), number=1, study=study)]
    choice = _choice(study)
    assert (choice.trial, choice.status, choice.accuracy, choice.saved) == (0, "default", .5, 0.3125)
    study.pruner = "off"
    assert _choice(study).saved is None
