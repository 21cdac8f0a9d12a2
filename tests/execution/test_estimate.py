"""Estimates of what runs take, on records whose answers can be worked out by hand."""

from types import SimpleNamespace

import pytest
from support.records import RECIPE, record, spec, teacher_spec

from kdbench.environment import cpu_name
from kdbench.execution.estimate import KEPT, TYPICAL, Estimator, Sample, time_for
from kdbench.spec import Architecture, OwnRecipe

HERE = {"cpu": cpu_name()}
SMALL = RECIPE.model_copy(update={"train_size": 80})  # 10 batches of 8, 2 epochs: 20 steps


def sized(train_size=80, **changes):
    return RECIPE.model_copy(update={"train_size": train_size, **changes})


def run(method="kd", seed=0, pair="big-small", **recipe):
    """A run of 20 steps of 8 images of 8 x 8 pixels, unless `recipe` says otherwise; the pair is its student's name."""
    made = spec(method, seed, dataset="mnist5k", recipe=sized(**recipe), pair=pair)
    return made.model_copy(update={"student": Architecture(model=pair)})


def sample(what, seconds, machine=None, **more):
    return Sample(what, seconds, machine or cpu_name(), **more)


def known(*samples):
    return Estimator(samples, reference="ce")


def test_a_run_takes_what_the_same_run_took_with_other_seeds():
    seen = [sample(run(seed=seed), seconds) for seed, seconds in enumerate((1.0, 2.0, 9.0))]
    found = known(*seen).estimate(run(seed=7))
    assert (found.seconds, found.basis, found.trusted) == (2.0, "3 records", True)


@pytest.mark.parametrize("changes, times", [
    ({"epochs": 6}, 3), ({"train_size": 160}, 2), ({"train_size": 87}, 1), ({"train_size": 88}, 1.1),
    ({"batch_size": 16}, 1), ({"image_size": 16}, 4),
])
def test_training_grows_with_whole_batches_epochs_and_pixels(changes, times):
    assert known(sample(run(), 10.0)).estimate(run(**changes)).training == pytest.approx(10 * times)


def test_training_grows_with_updates_and_what_surrounds_it_does_not():
    found = known(sample(run(), 10.0, around=4.0)).estimate(run().model_copy(update={"updates": 3}))
    assert (found.training, found.around, found.seconds) == (pytest.approx(30), 4.0, pytest.approx(34))


def test_training_grows_with_the_epochs_of_a_runs_own():
    found = known(sample(run(), 10.0)).estimate(run().model_copy(update={"own_recipe": OwnRecipe(epochs=6)}))
    assert found.training == pytest.approx(30) and found.trusted


def test_without_a_train_size_the_published_size_counts():
    whole = run(train_size=None)
    assert known(sample(run(train_size=350), 1.0)).estimate(whole).training == pytest.approx(3496 / 344)


def test_a_folder_whose_size_is_not_known_tells_of_its_own_runs_only():
    def photos(**recipe):
        return run(train_size=None, **recipe).model_copy(update={"dataset": "imagefolder:photos"})

    one = known(sample(photos(), 5.0))
    assert one.estimate(photos(epochs=4)).training == pytest.approx(10)
    assert one.estimate(run()) is None


def test_the_more_alike_runs_count_and_others_only_without_them():
    other_data = run().model_copy(update={"dataset": "synthetic"})
    assert known(sample(other_data, 10.0)).estimate(run()).seconds == pytest.approx(10)
    found = known(sample(other_data, 10.0), sample(run(seed=1), 2.0)).estimate(run())
    assert (found.seconds, found.basis) == (2.0, "1 record")


def test_other_hyperparameters_count_only_without_equal_ones():
    hot = run().model_copy(update={"hyperparameters": {"temperature": 9.0}})
    assert known(sample(hot, 10.0)).estimate(run()).seconds == 10
    assert known(sample(hot, 10.0), sample(run(), 3.0)).estimate(run()).seconds == 3


def test_a_method_not_seen_on_a_pair_takes_its_ratio_to_the_reference_elsewhere():
    found = known(sample(run("ce"), 2.0), sample(run("ce", pair="wide"), 10.0), sample(run(pair="wide"), 25.0))
    assert found.estimate(run())[:1] == (pytest.approx(5),)
    assert found.estimate(run()).basis == "2.5 x ce"


def test_a_ratio_comes_from_any_machine_and_seconds_from_this_one():
    """Elsewhere everything takes ten times as long."""
    elsewhere = [sample(run("ce", 1), 20.0, "slow"), sample(run(seed=1), 60.0, "slow")]
    found = known(*elsewhere, sample(run("ce"), 2.0)).estimate(run())
    assert (found.seconds, found.basis, found.trusted) == (pytest.approx(6), "3.0 x ce", True)
    alone = known(*elsewhere).estimate(run())
    assert (alone.seconds, alone.basis, alone.trusted) == (60, "1 record, another machine", False)


def test_an_unknown_method_takes_the_median_ratio_of_the_others():
    found = known(sample(run("ce"), 2.0), sample(run("at"), 6.0), sample(run("rkd"), 10.0), sample(run("fsp"), 4.0))
    assert found.estimate(run()) == (pytest.approx(6), 0.0, "3.0 x ce, as other methods", False)
    found = known(sample(run("ce"), 2.0)).estimate(run())
    assert (found.seconds, found.basis) == (pytest.approx(2 * TYPICAL), "2.3 x ce, as other methods")


def test_without_the_reference_an_unknown_method_takes_what_others_take_on_the_same_student():
    found = known(sample(run("at"), 6.0), sample(run("rkd"), 2.0), sample(run("ce", pair="wide"), 99.0)).estimate(run())
    assert found == (4.0, 0.0, "as other methods", False)


def test_nothing_is_estimated_of_a_student_that_nobody_trained():
    assert known().estimate(run()) is None
    assert known(sample(run(pair="wide"), 5.0)).estimate(run()) is None


def test_the_reference_takes_the_same_with_any_teacher():
    lone = run("ce").model_copy(update={"teacher": None})
    assert known(sample(lone, 3.0)).estimate(run("ce")).basis == "1 record"


def test_records_come_before_timings_and_these_before_profiles():
    profile, timed = sample(run(), 1.0, source="profile"), sample(run(), 2.0, source="timed")
    assert known(profile).estimate(run()).basis == "profile"
    assert known(profile, timed).estimate(run())[::2] == (2.0, "timed")
    assert known(profile, timed, sample(run(), 3.0)).estimate(run())[::2] == (3.0, "1 record")


@pytest.mark.parametrize("status", ["crashed", "timeout", "diverged", "inapplicable"])
def test_runs_that_did_not_end_well_tell_nothing(status):
    estimator = known(sample(run(seed=1), 6.0))
    estimator.learn(record(run(), status=status, reason="x", seconds=0.1, environment=HERE))
    assert estimator.estimate(run())[:3] == (6.0, 0.0, "1 record")


def test_a_finished_run_changes_the_estimates_that_come_after_it():
    estimator = known(sample(run("ce"), 2.0))
    assert estimator.estimate(run()).seconds == pytest.approx(2 * TYPICAL)
    estimator.learn(record(run(), seconds=7.0, environment=HERE))
    assert estimator.estimate(run(seed=5)).seconds == 7


def test_of_many_figures_the_last_count():
    estimator = known(*(sample(run(seed=seed), 2.0) for seed in range(KEPT)))
    for seed in range(KEPT // 2 + 1):
        estimator.add(sample(run(seed=seed), 6.0))
    assert estimator.estimate(run())[::2] == (6.0, f"{KEPT} records")


def test_runs_that_took_no_time_are_no_error():
    assert known(sample(run("other"), 0.0)).estimate(run()).seconds == 0


def test_a_record_tells_what_its_process_spent_beside_training():
    """It began at second 0 and ended at second 2."""
    assert Sample.of(record(run(), seconds=1.5)).around == 0.5
    assert Sample.of(record(run(), seconds=2.5)).around == 0
    assert Sample.of(record(run(), seconds=9.0)).around is None  # most of it before it was resumed


def test_records_of_unknown_datasets_and_of_times_that_never_were_do_no_harm():
    odd = run().model_copy(update={"dataset": "of another kdbench", "recipe": RECIPE})
    estimator = known(sample(odd, 5.0))
    estimator.learn(record(run(), seconds=7.0, environment=HERE, finished="2026-99-99T00:00:00Z"))
    assert estimator.estimate(run()) == (7.0, 0.0, "1 record", True)
    assert estimator.estimate(odd).seconds == 5


def test_memory_and_disk_are_the_most_that_such_runs_took():
    found = known(sample(run(), 1.0, memory=5, disk=70), sample(run(seed=1), 1.0, memory=6, disk=60))
    assert (found.memory(run(seed=2)), found.disk(run(seed=2))) == (6, 70)
    assert (found.memory(run("at")), found.disk(run("at"))) == (6, 70)  # at least the student is the same
    assert (found.memory(run(pair="wide")), found.disk(run(pair="wide"))) == (None, None)


# Several at a time.

def queue(**needs):
    return [SimpleNamespace(id=name, teachers=lambda own=own: own.split()) for name, own in needs.items()]


def test_free_workers_take_the_next_run():
    assert time_for(queue(a="", b="", c=""), [3, 1, 1], {}, workers=1) == 5
    assert time_for(queue(a="", b="", c=""), [3, 1, 1], {}, workers=2) == 3
    assert time_for(queue(a="", b="", c=""), [1, 1, 3], {}, workers=2) == 4  # the long one begins late


def test_students_wait_for_their_teacher_and_others_do_not():
    assert time_for(queue(t="", a="t", b="t"), [10, 1, 1], {}, workers=2) == 11
    assert time_for(queue(t="", a="t", b=""), [10, 1, 9], {}, workers=2) == 11
    assert time_for(queue(a="gone", b=""), [1, 1], {}, workers=2) == 1  # its teacher is done


def test_running_runs_keep_their_worker_and_their_students_waiting():
    assert time_for(queue(a="t", b=""), [2, 1], {"t": 4}, workers=2) == 6
    assert time_for(queue(a=""), [2], {"x": 4, "y": 3}, workers=2) == 5
    assert time_for([], [], {}, workers=2) == 0


def test_the_teacher_of_a_pair_is_known_by_its_own_network():
    teacher = teacher_spec("mnist5k", SMALL)
    assert known(sample(run("ce"), 1.0)).estimate(teacher) is None
    assert known(sample(teacher, 8.0)).estimate(teacher).seconds == 8
