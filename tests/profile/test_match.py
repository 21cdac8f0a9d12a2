"""Equal compute, by profiles that nobody measured. By hand, of a recipe of 12 epochs, where a step of kd takes 2.5
times one of ce's and one of dml 3.2 times: ce 12 * 2.5 / 1 = 30 epochs, kd 12, dml 12 * 2.5 / 3.2 = 9.375, so 9."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as changed
from support.matrices import smoke
from support.profiles import comparison, profile, training
from support.records import planned, record

from kdbench.errors import UserError
from kdbench.profile.match import epochs_for, match_compute, profile_command
from kdbench.profile.record import write_profile
from kdbench.results.store import Store
from kdbench.spec import MAX_EPOCHS
from kdbench.suites.plan import Selection

RATIOS = {"ce": 1.0, "kd": 2.5, "dml": 3.2}
MEASURE = ["kdbench", "profile", "smoke", "--out", "there"]


def plan_of(*methods, **selection):
    return smoke(*methods, **{"seeds": 2, "settings": {"recipe.epochs": 12}, **selection})


def put(folder, ratios, **changes):
    """Profiles of the methods as a plan has them."""
    for method, ratio in ratios.items():
        (spec,) = plan_of(method, seeds=1, **changes).students
        write_profile(Store(folder), profile(run=spec, training=training(.01 * ratio, ratio)))


def matched(folder, *methods, plan=None, **selection):
    wanted = plan or plan_of(*methods, **selection)
    return match_compute(wanted, plan_of("kd", **{**selection, "seeds": 1}), folder, MEASURE)


def epochs(plan):
    return {spec.method: spec.training.epochs for spec in plan.students}


@pytest.mark.parametrize(("of_recipe", "ratio", "kd", "expected"), [
    (12, 1.0, 2.5, 30), (12, 3.2, 2.5, 9), (12, 2.5, 2.5, 12), (10, 4.0, 1.0, 3), (10, 4.1, 1.0, 2), (3, 100.0, 1.0, 1),
    (90_000, 1.0, 2.0, MAX_EPOCHS),
])
def test_epochs_are_the_nearest_whole_number_at_least_one_and_no_more_than_a_run_may_have(
        of_recipe, ratio, kd, expected):
    assert epochs_for(of_recipe, ratio, kd) == expected


def test_every_method_has_the_epochs_that_take_what_those_of_kd_take(tmp_path):
    put(tmp_path, RATIOS)
    plan, notes = matched(tmp_path, "ce", "kd", "dml")
    assert epochs(plan) == {"ce": 30, "kd": 12, "dml": 9} and notes == []
    assert all(spec.own_recipe.epochs for spec in plan.students)  # kd's too: it stands in that table


def test_matched_runs_share_a_cell_of_their_own_whatever_their_epochs(tmp_path):
    put(tmp_path, RATIOS)
    plain = plan_of("ce", "kd", "dml")
    plan, _ = matched(tmp_path, plan=plain)
    assert len({spec.cell for spec in plan.students}) == 1
    assert {spec.cell for spec in plan.students}.isdisjoint({spec.cell for spec in plain.students})
    assert [(spec.method, spec.seed, spec.recipe) for spec in plan.students] == [
        (spec.method, spec.seed, spec.recipe) for spec in plain.students]
    assert plan.teachers == plain.teachers


@pytest.mark.parametrize("first", RATIOS)
def test_the_profile_of_the_pair_is_none_of_the_method_that_it_was_made_with(tmp_path, first):
    put(tmp_path, RATIOS)
    (spec,) = plan_of(first, seeds=1).students
    write_profile(Store(tmp_path), profile("pair", run=spec, deployment=comparison()))
    assert epochs(matched(tmp_path, *RATIOS)[0]) == {"ce": 30, "kd": 12, "dml": 9}


def test_kd_tells_the_compute_where_it_does_not_run_itself(tmp_path):
    put(tmp_path, RATIOS)
    assert epochs(matched(tmp_path, "ce")[0]) == {"ce": 30}


def test_a_profile_of_other_hyperparameters_tells_nothing(tmp_path):
    put(tmp_path, {"ce": 1.0})
    put(tmp_path, {"kd": 9.0}, settings={"recipe.epochs": 12, "kd.temperature": 8})
    put(tmp_path, {"kd": 2.5})
    assert epochs(matched(tmp_path, "ce")[0]) == {"ce": 30}
    with pytest.raises(UserError, match=r"kd \(tiny, synthetic\) not profiled"):
        matched(tmp_path, "ce", settings={"recipe.epochs": 12, "kd.temperature": 2})


def test_a_budget_of_updates_gives_way_to_equal_compute(tmp_path):
    budgeted = plan_of("dafl")
    budgeted = replace(budgeted, students=tuple(spec.model_copy(update={"updates": 20}) for spec in budgeted.students))
    write_profile(Store(tmp_path), profile(run=budgeted.students[0], training=training(.05, 5.0)))
    put(tmp_path, {"kd": 2.5})
    plan, _ = matched(tmp_path, plan=budgeted)
    assert {(spec.training.epochs, spec.updates) for spec in plan.students} == {(6, 1)}  # 12 * 2.5 / 5


def test_what_whole_epochs_miss_by_more_than_a_tenth_is_said(tmp_path):
    put(tmp_path, RATIOS | {"dml": 7.0})  # 12 * 2.5 / 7 = 4.29: 4 epochs are 28 of kd's 30
    assert matched(tmp_path, "ce", "kd", "dml")[1] == []
    put(tmp_path, RATIOS | {"dml": 8.1})  # 3.7: 4 epochs are 32.4 of 30
    assert matched(tmp_path, "ce", "kd", "dml")[1] == []
    put(tmp_path, RATIOS | {"dml": 12.0})  # 2.5: 3 epochs are 36 of 30
    assert matched(tmp_path, "ce", "kd", "dml")[1] == [
        "dml (tiny, synthetic): 3 epochs, the nearest whole number, are 1.20 times the compute of kd"]
    put(tmp_path, RATIOS | {"dml": 60.0})
    assert "1 epoch, the nearest whole number, are 2.00 times" in matched(tmp_path, "dml")[1][0]


def test_a_method_that_does_not_apply_keeps_the_recipes_epochs(tmp_path):
    put(tmp_path, RATIOS)
    (spec,) = plan_of("dml", seeds=1).students
    write_profile(Store(tmp_path), profile(run=spec, status="inapplicable", reason="too few stages"))
    assert epochs(matched(tmp_path, "ce", "dml")[0]) == {"ce": 30, "dml": 12}


# What is refused.

def test_one_error_names_all_methods_that_lack_a_profile_and_the_command_that_measures_them(tmp_path):
    put(tmp_path, {"kd": 2.5})
    with pytest.raises(UserError) as error:
        matched(tmp_path, "ce", "kd", "dml")
    assert str(error.value) == (
        f"--match compute: {tmp_path} does not tell what a step costs: ce, dml (tiny, synthetic) not profiled. This "
        "measures it: kdbench profile smoke --out there --methods ce,dml --pairs tiny --datasets synthetic")


def test_a_failed_profile_and_a_missing_one_of_kd_are_named_with_the_reason(tmp_path):
    put(tmp_path, {"ce": 1.0})
    (spec,) = plan_of("dml", seeds=1).students
    write_profile(Store(tmp_path), profile(run=spec, status="crashed", reason="out of memory"))
    with pytest.raises(UserError, match=r"dml \(tiny, synthetic\) crashed: out of memory; kd \(tiny, synthetic\) not "
                                        r"profiled. .* --methods dml,kd --pairs tiny"):
        matched(tmp_path, "ce", "dml")


def test_a_kd_that_does_not_apply_gives_no_compute_to_match(tmp_path):
    put(tmp_path, {"ce": 1.0})
    (spec,) = plan_of("kd", seeds=1).students
    write_profile(Store(tmp_path), profile(run=spec, status="inapplicable", reason="no teacher"))
    with pytest.raises(UserError, match=r"kd .* inapplicable: no teacher"):
        matched(tmp_path, "ce")


def test_a_profile_against_another_reference_or_with_no_ratio_is_refused(tmp_path):
    put(tmp_path, {"kd": 2.5})
    (spec,) = plan_of("ce", seeds=1).students
    write_profile(Store(tmp_path), profile(run=spec, training=changed(training(.01, 1.0), reference="trades")))
    with pytest.raises(UserError, match=r"ce .* measured against trades, not ce"):
        matched(tmp_path, "ce")
    none = changed(training(.01, 1.0).step_time_ratio, median=0.0)
    write_profile(Store(tmp_path), profile(run=spec, training=changed(training(.01, 1.0), step_time_ratio=none)))
    with pytest.raises(UserError, match=r"ce .* a ratio of 0\.0"):
        matched(tmp_path, "ce")


@pytest.mark.parametrize("left", ["record", "plan"])
def test_runs_by_an_earlier_measurement_are_not_mixed_with_those_by_a_new_one(tmp_path, left):
    put(tmp_path, RATIOS)
    first, _ = matched(tmp_path, "ce")
    store = Store(tmp_path)
    if left == "record":
        store.write(record(first.students[0], .8))
    else:
        store.plan([planned(first.students[0])])
    assert matched(tmp_path, "ce")[0] == first  # the same profiles: it continues
    put(tmp_path, RATIOS | {"kd": 2.6})  # 12 * 2.6 = 31.2
    with pytest.raises(UserError, match=r"has runs of ce \(tiny, synthetic\) with 30 epochs, and by the profiles that "
                                        r"it holds now they are 31: .* choose another --out"):
        matched(tmp_path, "ce")


def test_runs_of_equal_steps_and_methods_that_did_not_apply_stand_in_nobodys_way(tmp_path):
    put(tmp_path, RATIOS)
    first, _ = matched(tmp_path, "ce")
    (plain, _) = plan_of("ce").students
    Store(tmp_path).write(record(plain, .8))
    Store(tmp_path).write(record(first.students[0], status="inapplicable", reason="no"))
    Store(tmp_path).plan([planned(first.students[0])])
    put(tmp_path, RATIOS | {"kd": 2.6})
    assert epochs(matched(tmp_path, "ce")[0]) == {"ce": 31}


def test_the_command_that_measures_has_all_that_makes_a_cell(tmp_path):
    selection = Selection(settings={"recipe.epochs": 2, "recipe.schedule": "linear"}, device="cuda")
    words = profile_command("my suite.toml", selection, [Path("a b.py")], tmp_path)
    assert shlex.split(shlex.join(words)) == words == [
        "kdbench", "profile", "my suite.toml", "--set", "recipe.epochs=2", "--set", 'recipe.schedule="linear"',
        "--plugin", "a b.py", "--device", "cuda", "--out", str(tmp_path)]
