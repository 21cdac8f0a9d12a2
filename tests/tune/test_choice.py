import json

import pytest
from support.matrices import smoke

from kdbench.analysis.build import build
from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.spec import OwnRecipe
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import load_suite
from kdbench.tune.choice import Choice, Choices, Trial, choices_for, choose, read_choices, with_choices, write_choices


def trial(number, *accuracies, status="ok", **values):
    return Trial(number=number, hyperparameters={"alpha": 0.9, "temperature": 4.0, **values}, recipe={}, status=status,
                 accuracies=list(accuracies), runs=["a", "b"], seconds=1.0)


def chosen(*accuracies):
    return choose([trial(number, *own) for number, own in enumerate(accuracies)])


def test_the_trial_with_the_highest_mean_is_taken_if_it_is_clear_of_the_default():
    assert chosen((.50, .52), (.60, .62), (.58, .66), (.40, .40)) == (2, pytest.approx(0.03))


def test_the_default_stays_unless_it_is_beaten_by_more_than_a_standard_error_of_the_paired_difference():
    assert chosen((.50, .52), (.50, .56)) == (0, None)  # +2 points, with a standard error of 2
    assert chosen((.50, .52), (.51, .56))[0] == 1       # +2.5 points, with one of 1.5


def test_differences_are_paired_so_that_what_seeds_share_is_no_noise():
    assert chosen((.30, .70), (.31, .71))[0] == 1


def test_a_noisy_best_gives_way_to_a_lower_trial_that_is_clear_of_the_default():
    assert chosen((.50, .50), (.49, .65), (.53, .54))[0] == 2


def test_of_equal_trials_the_earlier_is_taken_and_the_default_stays_among_its_equals():
    assert chosen((.5, .5), (.6, .6), (.6, .6))[0] == 1
    assert chosen((.5, .5), (.5, .5)) == (0, None)


def test_with_one_seed_any_gain_counts():
    assert chosen((.5,), (.51,), (.5,)) == (1, None)


def test_failed_trials_are_never_taken_and_one_that_works_replaces_a_default_that_does_not():
    failed = trial(1, .9, None, status="diverged")
    assert choose([trial(0, .5, .5), failed, trial(2, .4, .4)])[0] == 0
    assert choose([trial(0, .9, None, status="crashed"), failed, trial(2, .3, .3), trial(3, .4, .4)])[0] == 3


def test_a_default_stays_though_all_later_trials_were_pruned_even_on_seeds_that_ended_higher():
    pruned = [trial(1, .9, None, status="pruned"), trial(2, .8, .8, status="pruned")]
    assert choose([trial(0, .5, .5), *pruned]) == (0, None)


def test_where_every_trial_failed_the_default_is_named():
    assert choose([trial(0, None, None, status="diverged"), trial(1, None, None, status="diverged")]) == (0, None)


# The file, and plans that go by it.

def choices(plan, method="kd", **changes):
    spec = next(spec for spec in plan.students if spec.method == method)
    one = {"method": method, "method_digest": "d", "pair": spec.pair, "dataset": spec.dataset, "cell": spec.cell,
           "trial": 1, "status": "tuned", "hyperparameters": {"alpha": 0.5, "temperature": 2.0},
           "recipe": {"lr": 0.2}, "accuracy": .6, "default_accuracy": .5, "standard_error": .01, "seconds": 3.0,
           "trials": [trial(0, .5, .5), trial(1, .6, .6, alpha=0.5, temperature=2.0)]}
    return Choices(suite="smoke", study={"sampler": "tpe"}, seeds=[1_000_000, 1_000_001],
                   choices=[Choice(**{**one, **changes})])


def test_a_plan_by_choices_has_their_values_stays_in_its_cells_and_keeps_its_seeds(tmp_path):
    plan = smoke("kd", seeds=2)
    write_choices(tmp_path, choices(plan))
    tuned = with_choices(plan, choices_for(plan, tmp_path))
    assert [spec.seed for spec in tuned.students] == [0, 1]
    assert {spec.cell for spec in tuned.students} == {spec.cell for spec in plan.students}
    for spec in tuned.students:
        assert spec.hyperparameters == {"alpha": 0.5, "temperature": 2.0} and spec.own_recipe == OwnRecipe(lr=0.2)


def test_a_choice_of_the_default_is_the_very_run_of_the_default(tmp_path):
    plan = smoke("kd")
    write_choices(tmp_path, choices(plan, trial=0, status="default", recipe={},
                                    hyperparameters=plan.students[0].hyperparameters))
    assert with_choices(plan, choices_for(plan, tmp_path)).students == plan.students


def test_choices_of_further_methods_join_those_that_are_there_and_replace_their_own(tmp_path):
    plan = smoke("ce", "kd")
    write_choices(tmp_path, choices(plan))
    write_choices(tmp_path, choices(plan, "ce"))
    write_choices(tmp_path, choices(plan, seconds=9.0))
    assert [(one.method, one.seconds) for one in read_choices(tmp_path).choices] == [("ce", 3.0), ("kd", 9.0)]


def test_choices_that_were_written_before_there_was_a_pruner_are_read(tmp_path):
    write_choices(tmp_path, choices(smoke("kd"), saved=0.25))
    file = tmp_path / "tune" / "choices.json"
    assert read_choices(tmp_path).choices[0].saved == 0.25
    old = json.loads(file.read_text())
    for one in (old["choices"][0], *old["choices"][0]["trials"]):
        del one["saved"]
    file.write_text(json.dumps(old))
    (one,) = read_choices(tmp_path).choices
    assert one.saved is None and {trial.saved for trial in one.trials} == {0.0}


@pytest.mark.parametrize(("selection", "changes", "message"), [
    ({"seeds": [0, 1_000_001]}, {}, "seed 1000001 was used by the trials"),
    ({"settings": {"recipe.epochs": 3}}, {}, "nothing was chosen for kd (tiny, synthetic) with this recipe"),
    ({}, {"cell": "0" * 16}, "nothing was chosen for kd"),
    ({"settings": {"recipe.epochs": 2, "kd.alpha": 0.3}}, {}, "kd was tuned around alpha=0.9, and here it is 0.3"),
])
def test_choices_that_were_not_made_for_a_plan_are_refused(tmp_path, selection, changes, message):
    write_choices(tmp_path, choices(smoke("kd"), **changes))
    with pytest.raises(UserError) as error:
        choices_for(smoke("kd", **selection), tmp_path)
    assert message in str(error.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"hyperparameters": {"alpha": 0.5}}, "kd: no value of temperature"),
    ({"hyperparameters": {"alpha": 0.5, "temperature": 99.0}}, "kd.temperature: 99.0 is out of range, allowed: "),
    ({"hyperparameters": {"alpha": 0.5, "temperature": "hot"}}, "kd.temperature: expected float, got 'hot'"),
    ({"hyperparameters": {"alpha": 0.5, "temperature": 2.0, "beta": 1.0}}, "unknown hyperparameter of kd 'beta'"),
    ({"recipe": {"epochs": 3.0}}, "kd: tuned value of the recipe 'epochs'"),
    ({"recipe": {"lr": -0.1}}, "kd: recipe.lr: expected more than 0.0, got -0.1"),
])
def test_a_choice_of_values_that_the_method_or_a_recipe_cannot_have_is_refused(tmp_path, changes, message):
    write_choices(tmp_path, choices(smoke("kd"), **changes))
    with pytest.raises(UserError) as error:
        choices_for(smoke("kd"), tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'tune/choices.json'}: tiny, synthetic: ")
    assert message in str(error.value)


def test_a_folder_without_choices_and_damaged_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match="no choices here"):
        choices_for(smoke("kd"), tmp_path)
    write_choices(tmp_path, choices(smoke("kd")))
    file = tmp_path / "tune" / "choices.json"
    for content in ("{", "[]", json.dumps({**json.loads(file.read_text()), "schema_version": 2})):
        file.write_text(content)
        with pytest.raises(UserError, match=r"choices\.json: cannot be used"):
            choices_for(smoke("kd"), tmp_path)


# Carrying choices to other pairs.

def two_pairs(tmp_path, *methods, pairs=("one", "other"), more="", **changes):
    """The plan of a suite whose second pair has a tenth of the rate, and half of kd's weight, of the first; `more` is
    added to the suite."""
    (tmp_path / "suite.toml").write_text('''
methods = ["ce", "kd"]
pairs = ["one", "other"]
datasets = ["synthetic"]
seeds = 2

[pair.one]
teacher = {model = "resnet_cifar"}
student = {model = "resnet_cifar"}

[pair.other]
teacher = {model = "test_resnet"}
student = {model = "resnet_cifar"}

[recipe]
epochs = 1
batch_size = 32
image_size = 8
lr = 0.1
weight_decay = 0.001

[recipes.other]
lr = 0.01
weight_decay = 0.001

[hyperparameters."kd@one"]
alpha = 0.8

[hyperparameters."kd@other"]
alpha = 0.4
''' + more)
    return expand(load_suite(str(tmp_path / "suite.toml")), Registry(),
                  Selection(methods=methods or ("ce", "kd"), pairs=pairs, **changes))


def tuned_on_one(tmp_path, **values):
    """Choices for kd on the pair "one", whose alpha and rate were halved and whose temperature was set."""
    first = two_pairs(tmp_path, "kd", pairs=["one"])
    default = first.students[0].hyperparameters
    made = choices(first, hyperparameters={**default, "alpha": 0.4, "temperature": 9.0, **values},
                   recipe={"lr": 0.05, "weight_decay": 0.002},
                   trials=[Trial(number=0, hyperparameters=default, recipe={}, status="ok", accuracies=[.5], runs=["a"],
                                 seconds=1.0)])
    write_choices(tmp_path, made)
    return first


def test_a_choice_is_carried_to_another_pair_by_the_factors_of_what_differs_there(tmp_path):
    first = tuned_on_one(tmp_path)
    plan = two_pairs(tmp_path, "kd")
    found = choices_for(plan, tmp_path, first)
    here, there = {one.pair: one for one in found.choices}["one"], {one.pair: one for one in found.choices}["other"]
    assert here.carried_from is None and here.hyperparameters["alpha"] == 0.4
    assert there.carried_from == "one" and there.status == "tuned" and there.trials == []
    assert there.hyperparameters == {"alpha": pytest.approx(0.2), "temperature": 9.0}
    assert there.recipe == {"lr": pytest.approx(0.005), "weight_decay": 0.002}
    assert there.default_hyperparameters == {"alpha": 0.4, "temperature": 4.0}
    tuned = with_choices(plan, found)
    assert [(spec.pair, spec.seed) for spec in tuned.students] == [(spec.pair, spec.seed) for spec in plan.students]
    assert [spec.own_recipe.lr for spec in tuned.students if spec.pair == "other"] == [pytest.approx(0.005)] * 2
    write_choices(tmp_path / "out", found)
    assert read_choices(tmp_path / "out").choices == sorted(found.choices, key=lambda one: one.pair)
    (back,) = choices_for(first, tmp_path / "out", two_pairs(tmp_path, "kd", pairs=["other"])).choices
    assert back.carried_from == "one"  # where it was tuned, however often it was carried


def test_what_is_carried_stays_in_the_allowed_range(tmp_path):
    first = tuned_on_one(tmp_path, alpha=1.0)
    other = two_pairs(tmp_path, "kd", pairs=["other"], settings={"kd.alpha": 0.9})
    with pytest.raises(UserError, match=r"kd was tuned around alpha=0\.8, and here it is 0\.9"):
        choices_for(two_pairs(tmp_path, "kd", settings={"kd.alpha": 0.9}), tmp_path)
    (found,) = choices_for(other, tmp_path, first).choices
    assert found.hyperparameters["alpha"] == 1.0  # 0.9 x 1.0 / 0.8, and at most 1


def test_with_other_unlabelled_images_the_choice_that_was_made_with_these_is_carried(tmp_path):
    shares = {"transfer.share": [0.25, 0.5]}
    first = two_pairs(tmp_path, "kd", pairs=["one"], seeds=1, settings=shares)
    for spec, temperature in zip(first.students, (2.0, 3.0), strict=True):
        default = Trial(number=0, hyperparameters=spec.hyperparameters, recipe={}, status="ok", accuracies=[.5],
                        runs=["a"], seconds=1.0)
        write_choices(tmp_path, choices(first, cell=spec.cell, trials=[default],
                                        hyperparameters={**spec.hyperparameters, "temperature": temperature}))
    plan = two_pairs(tmp_path, "kd", settings=shares)
    tuned = with_choices(plan, choices_for(plan, tmp_path, first)).students
    assert len(tuned) == 8
    assert {(spec.pair, spec.transfer.share, spec.hyperparameters["temperature"]) for spec in tuned} == {
        (pair, share, temperature) for pair in ("one", "other") for share, temperature in ((0.25, 2.0), (0.5, 3.0))}


def test_variants_take_the_choice_around_the_methods_own_settings_and_are_run_once(tmp_path):
    tuned_on_one(tmp_path)
    variants = "[variants]\nkd = [{ alpha = 0.1 }, { temperature = 8.0 }]\n"
    first, plan = (two_pairs(tmp_path, "kd", pairs=pairs, more=variants) for pairs in (["one"], ["one", "other"]))
    assert len(plan.students) == 12  # three settings
    for tuned, pairs in ((with_choices(first, choices_for(first, tmp_path)), {"one": 0.4}),
                         (with_choices(plan, choices_for(plan, tmp_path, first)), {"one": 0.4, "other": 0.2})):
        assert [(spec.pair, spec.seed, spec.hyperparameters) for spec in tuned.students] == [
            (pair, seed, {"alpha": pytest.approx(alpha), "temperature": 9.0})
            for pair, alpha in pairs.items() for seed in (0, 1)]


def test_a_default_that_was_kept_is_carried_as_the_default_of_the_other_pair(tmp_path):
    first = tuned_on_one(tmp_path)
    default = first.students[0].hyperparameters
    write_choices(tmp_path, choices(first, hyperparameters=default, recipe={}, status="default", trial=0, trials=[
        Trial(number=0, hyperparameters=default, recipe={}, status="ok", accuracies=[.5], runs=["a"], seconds=1.0)]))
    plan = two_pairs(tmp_path, "kd")
    assert with_choices(plan, choices_for(plan, tmp_path, first)).students == plan.students


def test_a_pair_that_was_tuned_itself_takes_no_choice_of_another(tmp_path, kdbench, cache):
    tuned_on_one(tmp_path)
    run = ("run", tmp_path / "suite.toml", "--methods", "kd", "--pairs", "other", "--tuned", tmp_path, "--tuned-on",
           "one", "--out", tmp_path / "out")
    write_choices(tmp_path / "out", choices(two_pairs(tmp_path, "kd", pairs=["other"])))
    before = (tmp_path / "out/tune/choices.json").read_bytes()
    refusal = "kdbench: --tuned-on one: kd was tuned on other itself in {}: leave it out of the run, or --tuned-on"
    code, _, err = kdbench(*run)
    assert code == 2 and err.strip() == refusal.format(tmp_path / "out")
    assert (tmp_path / "out/tune/choices.json").read_bytes() == before
    write_choices(tmp_path, choices(two_pairs(tmp_path, "kd", pairs=["other"])))
    code, _, err = kdbench(*run)
    assert code == 2 and err.strip() == refusal.format(tmp_path)


def test_a_method_that_was_not_tuned_on_the_pair_is_refused(tmp_path):
    tuned_on_one(tmp_path)
    with pytest.raises(UserError, match=r"nothing was chosen for ce \(one, synthetic\)"):
        choices_for(two_pairs(tmp_path), tmp_path, two_pairs(tmp_path, pairs=["one"]))


def test_a_run_by_the_choices_of_another_pair_stands_beside_the_defaults_and_says_where_they_come_from(
        tmp_path, kdbench, cache):
    tuned_on_one(tmp_path)
    run = ("run", tmp_path / "suite.toml", "--methods", "kd", "--pairs", "other", "--seeds", "1", "--out",
           tmp_path / "out")
    code, _, err = kdbench(*run, "--tuned-on", "one")
    assert code == 2 and err.strip() == "kdbench: --tuned-on goes with --tuned"
    for more in ((), ("--tuned", tmp_path, "--tuned-on", "one")):
        code, _, err = kdbench(*run, *more)
        assert code == 0, err
    (cell,) = build(tmp_path / "out").cells
    assert sorted((row.label, row.conditions[:1]) for row in cell.rows) == [
        ("kd (alpha=0.4)", ()), ("kd (tuned)", ("tuned on one",))]
    (choice,) = read_choices(tmp_path / "out").choices
    assert (choice.pair, choice.carried_from) == ("other", "one")
