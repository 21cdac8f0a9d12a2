import pytest
from support.matrices import assisted, plugin, smoke

from kdbench.checks.preflight import preflight, why_inapplicable
from kdbench.errors import UserError
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


SKEWED = "synthetic+skew(0.95)"


def reasons(cache, *methods, **selection):
    """Why methods cannot be run, by method and dataset."""
    plan = smoke(*methods, **selection)
    found, _ = preflight(plan.students, plan.methods, CacheFolder(cache))
    return {(spec.method, spec.dataset): found[spec.id] for spec in plan.students if spec.id in found}


def test_a_method_that_needs_groups_does_not_apply_where_training_images_have_no_attributes(cache):
    assert reasons(cache, "kd", "balanced_kd", datasets=["synthetic", SKEWED]) == {
        ("balanced_kd", "synthetic"): "it needs the groups of training images, and those of synthetic have no "
                                      "attributes"}


def test_an_attribute_that_a_dataset_lacks_is_named_with_those_that_it_has(cache):
    assert reasons(cache, "balanced_kd", datasets=[SKEWED], settings={"balanced_kd.attribute": "bias"}) == {}
    with pytest.raises(UserError) as error:
        reasons(cache, "balanced_kd", datasets=[SKEWED], settings={"balanced_kd.attribute": "tnit"})
    assert str(error.value) == (
        f"balanced_kd.attribute ({SKEWED}): unknown attribute of training images 'tnit'; did you mean 'tint'? "
        "(allowed: bias, tint)")


def test_groups_of_the_test_split_alone_are_not_enough(cache, tmp_path):
    from data.test_imagefolder import make

    root = make(tmp_path / "pets", {"train": {"cat": 4, "dog": 4}, "test": {"cat": 1, "dog": 1}}, size=(32, 32))
    (root / "groups.csv").write_text("file,place\ntest/cat/000.png,in\ntest/dog/000.png,out\n")
    found = reasons(cache, "balanced_ce", datasets=[f"imagefolder:{root}"])
    assert [reason[:40] for reason in found.values()] == ["it needs the groups of training images, "]


@pytest.mark.parametrize(("lines", "message"), [
    ("needs_groups = True", 'needs_groups: its groups are those of an attribute, which a hyperparameter has to name: '
                            'def __init__(self, ctx, *, attribute: str = "")'),
    ("needs_groups = True\n    def __init__(self, ctx, *, attribute: int = 0):\n        super().__init__(ctx)",
     "needs_groups: its groups are those of an attribute"),
    ("needs_groups, needs_data = True, False\n    def __init__(self, ctx, *, attribute: str = ''):\n"
     "        super().__init__(ctx)", "needs_groups: a method without needs_data sees no training images"),
])
def test_a_method_that_needs_groups_and_does_not_say_which_is_refused(tmp_path, lines, message):
    file = plugin(tmp_path)
    facts = 'name, family = "mine", "logit"'
    file.write_text(file.read_text().replace(facts, f"{facts}\n    {lines}"))
    with pytest.raises(UserError) as error:
        smoke("mine", plugins=[file])
    assert message in str(error.value) and "\n" not in str(error.value)
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
