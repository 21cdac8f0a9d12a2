from support.matrices import assisted, smoke

from kdbench.checks.preflight import preflight, why_inapplicable
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.spec import OwnRecipe
from kdbench.suites.suite import built_in_pairs


def test_a_teachers_answers_are_as_many_as_the_epochs_that_the_run_trains(cache):
    plan = smoke("kd")
    (spec,) = plan.students
    longer = spec.model_copy(update={"own_recipe": OwnRecipe(epochs=5)})
    _, answers = preflight([spec, longer], plan.methods, CacheFolder(cache))
    assert [2 * size for size in answers[longer.id]] == [5 * size for size in answers[spec.id]]


def test_a_method_that_learns_from_an_assistant_does_not_apply_to_a_pair_without_one(cache):
    plan = smoke("kd", "takd")
    reasons, _ = preflight(plan.students, plan.methods, CacheFolder(cache))
    (spec,) = [s for s in plan.students if s.method == "takd"]
    assert reasons == {spec.id: "it learns from an assistant, and the pair names none"}
    plan = assisted("kd", "takd")
    assert preflight([*plan.teachers, *plan.students], plan.methods, CacheFolder(cache))[0] == {}


def test_what_applies_to_a_pair_is_told_of_pairs_with_and_without_an_assistant():
    methods, pairs = [Registry()["takd"]], built_in_pairs()
    assert why_inapplicable(methods, pairs["resnet8x2-resnet8x05"]) == {"takd": None}
    assert "names none" in why_inapplicable(methods, pairs["test_resnet-lcnet_035"])["takd"]
