from support.matrices import smoke

from kdbench.checks.preflight import preflight
from kdbench.folders import CacheFolder
from kdbench.spec import OwnRecipe


def test_a_teachers_answers_are_as_many_as_the_epochs_that_the_run_trains(cache):
    plan = smoke("kd")
    (spec,) = plan.students
    longer = spec.model_copy(update={"own_recipe": OwnRecipe(epochs=5)})
    _, answers = preflight([spec, longer], plan.methods, CacheFolder(cache))
    assert [2 * size for size in answers[longer.id]] == [5 * size for size in answers[spec.id]]
