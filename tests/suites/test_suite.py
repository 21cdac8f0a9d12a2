import pytest
from PIL import Image

from kdbench.cli.options import read_settings
from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.spec import HubTeacher, TrainedTeacher, Transfer, teacher_runs
from kdbench.suites import plan
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import built_in_pairs, built_in_suites, load_suite

SUITE = """
methods = ["ce", "kd", "dml"]
pairs = ["mine"]
datasets = ["synthetic"]
seeds = 2

[recipe]
epochs = 2
batch_size = 16
image_size = 16
lr = 0.1

[teacher_recipe]
epochs = 4

[pair.mine]
teacher = { model = "test_resnet" }
student = { model = "lcnet_035" }

[hyperparameters.kd]
temperature = 2.0
"""


def plan_of(tmp_path, text=SUITE, **selection):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return expand(load_suite(str(file)), Registry(), Selection(**selection))


def test_a_suite_expands_to_every_cell_with_its_teacher_first(tmp_path):
    plan = plan_of(tmp_path)
    assert sorted((s.method, s.seed) for s in plan.students) == [
        (method, seed) for method in ("ce", "dml", "kd") for seed in (0, 1)]
    (teacher,) = plan.teachers
    assert (teacher.method, teacher.student.model, teacher.seed) == ("ce", "test_resnet", 1000)
    assert teacher.recipe.epochs == 4
    assert {s.teacher.run.id for s in plan.students} == {teacher.id}
    assert {s.recipe.epochs for s in plan.students} == {2}


@pytest.mark.parametrize(("suite", "dataset", "sizes"), [
    ("quick", "mnist5k", [3500]), ("cifar100", "cifar100", [None]), ("teachers", "fashion_mnist", [2000, 20_000]),
    ("longtail", "fashion_mnist+longtail(100)", [13_399]), ("fairness", "fashion_mnist+skew(0.95)", [50_000]),
])
def test_the_teachers_of_a_suite_see_as_many_images_as_it_says(suite, dataset, sizes):
    plan = expand(load_suite(suite), Registry(), Selection())
    assert plan.seen_by_teachers(dataset) == sizes and plan.seen_by_teachers("another") == []


def test_methods_of_one_cell_differ_in_nothing_but_the_method(tmp_path):
    plan = plan_of(tmp_path)
    assert len({s.cell for s in plan.students}) == 1
    assert len({s.id for s in plan.students}) == len(plan.students)


def test_a_method_that_learns_from_its_own_copy_gets_one_trained_on_the_students_recipe(tmp_path):
    learners = [info.name for info in Registry().values() if info.learns_from == "student"]
    if not learners:
        pytest.skip("no method learns from a trained copy of the student")
    plan = plan_of(tmp_path, methods=learners[:1], seeds=[0])
    (spec,) = plan.students
    own = spec.self_teacher.run
    assert own in plan.teachers
    assert (own.student, own.recipe, own.seed, own.method) == (spec.student, spec.recipe, 1000, "ce")


ASSISTED = SUITE.replace('"ce", "kd"', '"ce", "takd"').replace(
    "[pair.mine]", '[pair.mine]\nassistant = { model = "lcnet_050" }')


def test_a_pairs_assistant_is_trained_once_by_its_teacher_on_the_students_recipe_after_the_teacher(tmp_path):
    plan = plan_of(tmp_path, ASSISTED)
    teacher, assistant = plan.teachers
    (given,) = {s.self_teacher.run.id for s in plan.students if s.method == "takd"}
    assert given == assistant.id and {s.self_teacher for s in plan.students if s.method != "takd"} == {None}
    assert (assistant.method, assistant.hyperparameters["temperature"], assistant.seed) == ("kd", 2.0, 1000)
    assert assistant.student.model == "lcnet_050" and assistant.teacher.run.id == teacher.id
    assert (teacher.recipe.epochs, assistant.recipe.epochs) == (4, 2)
    for spec in plan.students:
        if spec.method == "takd":
            assert [run.id for run in teacher_runs(spec)] == [teacher.id, assistant.id]
    assert len({s.cell for s in plan.students}) == 1


def test_a_suite_chooses_what_trains_assistants_which_need_not_be_one_of_its_methods(tmp_path):
    plan = plan_of(tmp_path, 'assistant_method = "dkd"\n' + ASSISTED)
    assert plan.teachers[1].method == "dkd" and plan.methods["dkd"].name == "dkd"
    assert "dkd" not in {s.method for s in plan.students}


def test_an_assistant_that_no_method_asks_for_changes_nothing(tmp_path):
    methods = ["ce", "dml"]
    with_one, without = (plan_of(tmp_path, text, methods=methods) for text in (ASSISTED, SUITE))
    assert [s.id for s in with_one.students] == [s.id for s in without.students]
    assert [t.id for t in with_one.teachers] == [t.id for t in without.teachers]


def test_without_an_assistant_a_method_that_learns_from_one_is_planned_without(tmp_path):
    plan = plan_of(tmp_path, methods=["takd"])
    assert {s.self_teacher for s in plan.students} == {None} and len(plan.teachers) == 1


def test_a_suite_may_have_its_teachers_trained_by_another_method_than_ce(tmp_path):
    text = 'reference = "pgd_at"\n' + SUITE
    plan = plan_of(tmp_path, text)
    assert {run.method for run in plan.teachers} == {"pgd_at"} and plan.reference == "pgd_at"
    assert all(run.hyperparameters["radius"] == 1.0 for run in plan.teachers)
    softer = plan_of(tmp_path, text + "\n[hyperparameters.pgd_at]\nradius = 0.5\n")
    assert all(run.hyperparameters["radius"] == 0.5 for run in softer.teachers)
    assert not {run.cell for run in plan.students} & {run.cell for run in plan_of(tmp_path).students}
    with pytest.raises(UserError, match="reference: ard learns from a teacher, and what trains"):
        plan_of(tmp_path, text.replace("pgd_at", "ard"))


def test_the_command_line_narrows_and_overrides(tmp_path):
    plan = plan_of(tmp_path, methods=["kd"], pairs=["resnet56-resnet20"], seeds=[7],
                   settings={"kd.alpha": 0.3, "recipe.epochs": 5, "recipe.schedule": "step"})
    (spec,) = plan.students
    assert (spec.method, spec.pair, spec.seed) == ("kd", "resnet56-resnet20", 7)
    assert spec.hyperparameters == {"temperature": 2.0, "alpha": 0.3}
    assert (spec.recipe.epochs, spec.recipe.schedule) == (5, "step")


PLACES = SUITE + """
[hyperparameters."kd@synthetic"]
temperature = 3.0

[hyperparameters."kd@other"]
temperature = 5.0

[pair.other]
teacher = { model = "test_resnet" }
student = { model = "lcnet_050" }
"""


def test_hyperparameters_for_a_pair_go_before_those_for_a_dataset_and_these_before_those_for_all(tmp_path):
    datasets = ["synthetic", "synthetic+longtail(2)", "mnist5k"]
    plan = plan_of(tmp_path, PLACES, pairs=["mine", "other"], datasets=datasets)
    assert {(s.pair, s.dataset): s.hyperparameters["temperature"] for s in plan.students if s.method == "kd"} == {
        ("mine", "synthetic"): 3.0, ("mine", "synthetic+longtail(2)"): 3.0, ("mine", "mnist5k"): 2.0,
        ("other", "synthetic"): 5.0, ("other", "synthetic+longtail(2)"): 5.0, ("other", "mnist5k"): 5.0}
    told = plan_of(tmp_path, PLACES, pairs=["other"], settings={"kd.temperature": 7.0})
    assert {s.hyperparameters["temperature"] for s in told.students if s.method == "kd"} == {7.0}


VARIANTS = SUITE.replace("[recipe]", """[variants]
kd = [{ temperature = 1 }, { temperature = 20.0, alpha = 0.5 }]

[recipe]""")


def kd_settings(tmp_path, text=VARIANTS, **selection):
    """The settings of kd in the order of the plan, for each seed."""
    plan = plan_of(tmp_path, text, **selection)
    assert len({run.id for run in plan.students}) == len(plan.students)
    seeds = {run.seed for run in plan.students}
    settings = {seed: [tuple(run.hyperparameters.values()) for run in plan.students
                       if (run.method, run.seed) == ("kd", seed)] for seed in seeds}
    assert len({str(found) for found in settings.values()}) == 1
    return settings[0]


def test_variants_are_run_besides_what_a_method_is_usually_set_to_and_differ_from_that(tmp_path):
    assert kd_settings(tmp_path) == [(2.0, 0.9), (1.0, 0.9), (20.0, 0.5)]
    assert [run.method for run in plan_of(tmp_path, VARIANTS, seeds=1).students] == ["ce", "kd", "kd", "kd", "dml"]
    assert {run.cell for run in plan_of(tmp_path, VARIANTS).students} == {plan_of(tmp_path).students[0].cell}
    assert {run.id for run in plan_of(tmp_path).students} < {run.id for run in plan_of(tmp_path, VARIANTS).students}


def test_what_the_command_line_sets_is_set_in_all_variants_and_those_that_are_alike_then_are_run_once(tmp_path):
    assert kd_settings(tmp_path, settings={"kd.alpha": 0.3}) == [(2.0, 0.3), (1.0, 0.3), (20.0, 0.3)]
    assert kd_settings(tmp_path, settings={"kd.temperature": 4.0}) == [(4.0, 0.9), (4.0, 0.5)]


@pytest.mark.parametrize(("variants", "message"), [
    ("kdd = [{ temperature = 1.0 }]", "variants.kdd: unknown method 'kdd'; did you mean 'kd'?"),
    ("kd = [{ temprature = 1.0 }]", "variants.kd: unknown hyperparameter of kd 'temprature'; did you mean"),
    ("kd = [{ temperature = 21.0 }]", "variants.kd: kd.temperature: 21.0 is out of range, allowed: 1.0 to 20.0"),
    ("kd = [{ temperature = [1.0, 2.0] }]", "variants.kd.0.temperature: expected"),
    ("kd = { temperature = 1.0 }", "variants.kd: expected a list, got {'temperature': 1.0}"),
    ("kd = []", "variants.kd: no variant in it, expected a list such as [{ NAME = VALUE }]"),
    ("kd = [{}]", "variants.kd: variant 1 is empty: the method's own settings are run anyway"),
    ("kd = [{ alpha = 0.1 }, { temperature = 4.0, alpha = 0.1 }]", "kd: variant 2 is that of number 1 once more"),
])
def test_a_variant_that_is_none_is_named(tmp_path, variants, message):
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, SUITE.replace("[recipe]", f"[variants]\n{variants}\n\n[recipe]"))
    assert message in str(error.value) and "mine.toml: variants.kd" in str(error.value) and "\n" not in str(error.value)


def test_variants_count_as_runs_where_a_plan_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MAX_RUNS", 9)
    with pytest.raises(UserError, match="10 runs, expected at most 9"):
        plan_of(tmp_path, VARIANTS)


def test_a_pair_may_have_a_recipe_of_its_own_for_its_students_and_its_teacher(tmp_path):
    text = PLACES.replace("[pair.mine]", '[recipes.other]\noptimizer = "adamw"\nlr = 0.001\n\n[pair.mine]')
    plan = plan_of(tmp_path, text, pairs=["mine", "other"], settings={"recipe.lr": 0.5})
    assert {(s.pair, s.recipe.optimizer, s.recipe.lr) for s in plan.students} == {
        ("mine", "sgd", 0.5), ("other", "adamw", 0.5)}
    teachers = {s.pair: s.teacher.run.recipe for s in plan_of(tmp_path, text, pairs=["mine", "other"]).students}
    assert (teachers["other"].optimizer, teachers["other"].lr, teachers["other"].epochs) == ("adamw", 0.001, 4)
    assert (teachers["mine"].optimizer, teachers["mine"].lr) == ("sgd", 0.1)


def test_a_pairs_teacher_may_have_a_recipe_of_its_own_and_its_students_keep_theirs(tmp_path):
    text = PLACES.replace("[pair.mine]", "[teacher_recipes.other]\nepochs = 1\ntrain_size = 64\n\n[pair.mine]")
    plan = plan_of(tmp_path, text, pairs=["mine", "other"])
    teachers = {run.pair: run.recipe for run in plan.teachers}
    assert (teachers["other"].epochs, teachers["other"].train_size, teachers["other"].lr) == (1, 64, 0.1)
    assert (teachers["mine"].epochs, teachers["mine"].train_size) == (4, None)
    assert {(s.recipe.epochs, s.recipe.train_size) for s in plan.students} == {(2, None)}
    same = plan_of(tmp_path, PLACES, pairs=["mine", "other"])
    assert {s.id for s in plan.students if s.pair == "mine"} == {s.id for s in same.students if s.pair == "mine"}
    assert not {s.cell for s in plan.students if s.pair == "other"} & {s.cell for s in same.students}


@pytest.mark.parametrize(("old", "new"), [
    ('pairs = ["mine"]', 'pairs = ["mine", "mine"]'), ("seeds = 2", "seeds = [0, 1, 0]"),
    ('"synthetic"', '"synthetic", "synthetic"'), ('"kd", "dml"', '"kd", "dml", "kd"'),
])
def test_what_a_suite_or_a_command_names_twice_is_run_once(tmp_path, old, new):
    assert old in SUITE
    once, twice = (plan_of(tmp_path, text) for text in (SUITE, SUITE.replace(old, new, 1)))
    assert (twice.students, twice.teachers) == (once.students, once.teachers)
    asked = plan_of(tmp_path, methods=["kd", "ce", "dml", "kd"], pairs=["mine"] * 2, datasets=["synthetic"] * 2,
                    seeds=[0, 1, 1])
    assert asked.students == once.students


def test_two_names_of_the_same_pair_are_refused_unless_the_recipes_differ(tmp_path):
    text = PLACES.replace("lcnet_050", "lcnet_035")
    with pytest.raises(UserError, match=r"mine\.toml: the pairs mine and other give the same runs of ce"):
        plan_of(tmp_path, text, pairs=["mine", "other"])
    assert len(plan_of(tmp_path, text, pairs=["other"]).students) == 6
    for table in ("recipes", "teacher_recipes"):
        plan = plan_of(tmp_path, f"{text}\n[{table}.other]\nlr = 0.2\n", pairs=["mine", "other"])
        assert len({spec.id for spec in plan.students}) == len(plan.students) == 12


@pytest.mark.parametrize(("old", "new", "message"), [
    ("[recipes.other]", "[recipes.othre]", r"recipes\.othre: unknown pair 'othre'; did you mean 'other'"),
    ("lr = 0.001", "lrr = 0.001", r"recipes\.other\.lrr: unknown key; did you mean 'lr'"),
    ("lr = 0.001", "lr = 'x'", r"recipes\.other\.lr: expected a number, got 'x'"),
])
def test_a_wrong_recipe_of_a_pair_is_refused(tmp_path, old, new, message):
    text = PLACES.replace("[pair.mine]", "[recipes.other]\nlr = 0.001\n\n[pair.mine]").replace(old, new)
    for pairs in (["mine", "other"], ["mine"]):
        with pytest.raises(UserError, match=message):
            plan_of(tmp_path, text, pairs=pairs)


def test_hyperparameters_for_a_variant_of_a_dataset_go_before_those_for_the_dataset(tmp_path):
    text = PLACES + '[hyperparameters."kd@synthetic+longtail(2.0)"]\ntemperature = 4.0\n'
    plan = plan_of(tmp_path, text, datasets=["synthetic", "synthetic+longtail(2)"])
    assert {s.dataset: s.hyperparameters["temperature"] for s in plan.students if s.method == "kd"} == {
        "synthetic": 3.0, "synthetic+longtail(2)": 4.0}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("kd@other", "kd@othre", r'hyperparameters."kd@othre": unknown pair or dataset \'othre\'; did you mean \'other\''),
    ("kd@other", "kd@", 'hyperparameters."kd@": unknown pair or dataset'),
    ("kd@other", "dk@other", 'hyperparameters."dk@other": unknown method \'dk\''),
    ("temperature = 5.0", "temperatur = 5.0", "did you mean 'temperature'"),
])
def test_hyperparameters_for_an_unknown_place_are_refused(tmp_path, old, new, message):
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, PLACES.replace(old, new))


def test_a_budget_multiplies_the_updates_of_its_family_and_leaves_the_cell_as_it_is(tmp_path):
    plan = plan_of(tmp_path, SUITE.replace("[recipe]", "[budget]\nonline = 3\n\n[recipe]"))
    assert {s.method: s.updates for s in plan.students} == {"ce": 1, "kd": 1, "dml": 3}
    assert len({s.cell for s in plan.students}) == 1
    assert {s.id for s in plan.students if s.updates == 1} <= {s.id for s in plan_of(tmp_path).students}
    assert not {s.id for s in plan.students if s.updates == 3} & {s.id for s in plan_of(tmp_path).students}


@pytest.mark.parametrize(("budget", "message"), [
    ("onlin = 3", "mine.toml: budget: unknown family 'onlin'; did you mean 'online'"),
    ("online = 0", "budget: .*online: expected 1 to 1000 times"),
    ("online = 1.5", "budget"),
])
def test_a_budget_of_an_unknown_family_or_of_no_updates_is_refused(tmp_path, budget, message):
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, SUITE.replace("[recipe]", f"[budget]\n{budget}\n\n[recipe]"))


def test_a_count_of_seeds_starts_at_zero(tmp_path):
    assert {s.seed for s in plan_of(tmp_path, seeds=3).students} == {0, 1, 2}


def test_core_takes_the_suites_core_methods():
    plan = expand(load_suite("quick"), Registry(), Selection(core=True))
    content = load_suite("quick").content
    assert {s.method for s in plan.students} == set(content.core)
    families = {Registry()[name].family for name in content.core}
    assert families == {info.family for info in Registry().values()}, "one method per family at least"


@pytest.mark.parametrize("name", built_in_suites())
def test_every_built_in_suite_is_valid_and_names_known_methods_and_pairs(name):
    suite = load_suite(name)
    assert suite.content.description
    assert set(suite.content.pairs) <= set(suite.pairs)
    assert set(suite.content.core) <= set(Registry())


@pytest.mark.parametrize("suite, method, pair, expected", [
    ("cifar100", "dkd", "resnet56-resnet20", {"beta": 2.0, "temperature": 4.0}),
    ("cifar100", "dkd", "resnet32x4-resnet8x4", {"beta": 8.0, "temperature": 4.0}),
    ("cifar100", "reviewkd", "resnet32x4-resnet8x4", {"alpha": 5.0, "preactivation": False}),
    ("cifar100", "kd", "resnet56-resnet20", {"temperature": 4.0, "alpha": 0.9}),
    ("imagenet", "kd", "resnet34-resnet18", {"temperature": 1.0, "alpha": 0.5}),
    ("imagenet", "dkd", "resnet34-resnet18", {"beta": 0.5, "temperature": 1.0, "warmup": 0.01}),
    ("imagenet", "reviewkd", "resnet34-resnet18", {"alpha": 1.0, "preactivation": True}),
    ("imagenet", "dist", "resnet34-resnet18", {"temperature": 1.0, "inter": 2.0}),
])
def test_the_published_suites_take_the_authors_values_for_their_pairs(suite, method, pair, expected, monkeypatch):
    monkeypatch.setattr(plan.collect, "fingerprint", lambda name: "")
    (run,) = expand(load_suite(suite), Registry(), Selection(methods=[method], pairs=[pair], seeds=1)).students
    assert {name: run.hyperparameters[name] for name in expected} == expected


@pytest.mark.parametrize("suite", ["cifar100", "imagenet"])
def test_images_that_methods_without_data_keep_fit_in_three_gigabytes(suite, monkeypatch):
    monkeypatch.setattr(plan.collect, "fingerprint", lambda name: "")
    keeping = [run for run in expand(load_suite(suite), Registry(), Selection(seeds=1)).students
               if Registry()[run.method].family == "data_free" and "batches" in run.hyperparameters]
    assert {run.method for run in keeping} == {"cmi", "deepinversion", "fast_dfkd"}
    for run in keeping:
        batches = run.hyperparameters["batches"] + run.hyperparameters.get("warmup", 0)
        assert 4 * batches * run.recipe.batch_size * 3 * run.recipe.image_size**2 < 3 * 2**30, run.method


def test_published_weights_and_trained_teachers_are_told_apart(tmp_path):
    plan = plan_of(tmp_path, pairs=["resnet34-resnet18"])
    assert {type(s.teacher) for s in plan.students} == {HubTeacher}
    assert plan.teachers == ()
    assert {type(s.teacher) for s in plan_of(tmp_path).students} == {TrainedTeacher}


def test_the_pairs_that_the_field_knows_are_there():
    assert {"resnet56-resnet20", "resnet32x4-resnet8x4", "resnet34-resnet18"} <= set(built_in_pairs())


@pytest.mark.parametrize(("old", "new", "message"), [
    ("seeds = 2", "seeds = 0", "mine.toml: seeds: expected a count of at least 1, or a list of seeds from 0 up, got 0"),
    ("seeds = 2", 'seeds = "two"', "mine.toml: seeds: expected a whole number or a list, got 'two'"),
    ("seeds = 2", 'seeds = [0, "a"]', "mine.toml: seeds.1: expected a whole number, got 'a'"),
    ("seeds = 2", "seeds = ", "mine.toml:5: malformed TOML"),
    ("seeds = 2", "sedes = 2", "sedes: unknown key; did you mean 'seeds'?"),
    ("epochs = 2", "epoch = 2", "recipe.epoch: unknown key; did you mean 'epochs'?"),
    ("epochs = 2", 'epochs = "two"', "mine.toml: recipe.epochs: expected a whole number, got 'two'"),
    ("epochs = 2", "epochs = 0", "mine.toml: recipe.epochs: expected at least 1, got 0"),
    ("lr = 0.1", "lr = nan", "mine.toml: recipe.lr: expected a finite number, got nan"),
    ("lr = 0.1", 'lr = 0.1\noptimizer = "sdg"', "mine.toml: recipe.optimizer: got 'sdg'; did you mean 'sgd'? (allowed: "
     "adamw, sgd)"),
    ("lr = 0.1", 'lr = 0.1\naugment = ["corp"]', "mine.toml: recipe.augment.0: got 'corp'; did you mean 'crop'?"),
    ("[recipe]", "[recip]", "mine.toml: recip: unknown key; did you mean 'recipe'?"),
    ("[recipe]", "[recip]", "; recipe: missing, expected a table with epochs, batch_size, image_size, lr"),
    ("[recipe]", "[[recipe]]", "mine.toml: recipe: expected a table, got [{"),
    ('"ce", "kd", "dml"]', '"ce", 3]', "mine.toml: methods.1: expected a string, got 3"),
    ('["ce", "kd", "dml"]', '"kd"', "mine.toml: methods: expected 'all' or a list, got 'kd'"),
    ('["ce", "kd", "dml"]', "[]", "mine.toml: methods: name at least one"),
    ('"ce", "kd", "dml"', '"ce", "kdd"', "mine.toml: methods: unknown method 'kdd'"),
    ('seeds = 2', 'seeds = 2\nreference = "cee"', "mine.toml: reference: unknown method 'cee'; did you mean 'ce'?"),
    ('"ce", "kd", "dml"', '"ce", "kdd"', "unknown method 'kdd'; did you mean 'kd'?"),
    ('pairs = ["mine"]', 'pairs = ["mime"]', "mine.toml: pairs: unknown pair 'mime'; did you mean 'mine'?"),
    ('pairs = ["mine"]', 'pairs = "mine"', "mine.toml: pairs: expected a list, got 'mine'"),
    ('pairs = ["mine"]', "pairs = []", "mine.toml: pairs: name at least one, got []"),
    ('"synthetic"', '"synthetik"', "mine.toml: datasets: unknown dataset 'synthetik'; did you mean 'synthetic'?"),
    ("temperature = 2.0", "temperature = -2.0", "mine.toml: hyperparameters.kd: kd.temperature: -2.0 is out of range"),
    ("temperature = 2.0", "temperature = []", "hyperparameters.kd.temperature: expected true or false or a number or a "
     "string, got []"),
    ("temperature = 2.0", "temprature = 2.0", "hyperparameters.kd: unknown hyperparameter of kd "
     "'temprature'; did you mean 'temperature'?"),
    ("[hyperparameters.kd]", "[hyperparameters.kdd]", "mine.toml: hyperparameters.kdd: unknown method 'kdd'"),
    ("[hyperparameters.kd]", '[hyperparameters."kd@nopair"]', 'hyperparameters."kd@nopair": unknown pair or dataset'),
    ("[hyperparameters.kd]", '[hyperparameters."kd@imagefolder:"]', "write imagefolder:PATH"),
    ("[hyperparameters.kd]", '[hyperparameters.kd]\nalpha = 0.5\n[hyperparameters.kd@mine]',
     "malformed TOML: [hyperparameters.kd] stands twice, or hyperparameters is no table (a name with other"),
    ("[pair.mine]", "[pairs.mine]", "malformed TOML: [pairs.mine] stands twice, or pairs is no table"),
    ("[pair.mine]\n", "[pair.mine]\nimage_siz = 16\n", "mine.toml: pair.mine.image_siz: unknown key; did you mean "
     "'image_size'? (allowed: assistant, description, image_size, student, teacher, words)"),
    ("teacher = {", "techer = {", "pair.mine.techer: unknown key; did you mean 'teacher'? (allowed: assistant,"),
    ("teacher = {", "techer = {", "; pair.mine.teacher: missing, expected a table with model"),
    ('teacher = { model = "test_resnet" }', 'teacher = "test_resnet"', "pair.mine.teacher: expected a table, got"),
    ('model = "test_resnet" }', 'modl = "test_resnet" }', "pair.mine.teacher.modl: unknown key; did you mean 'model'? "
     "(allowed: kwargs, model, source, weights)"),
    ('model = "lcnet_035" }', 'model = "lcnet_035", weights = "train" }', "pair.mine.student.weights: unknown key "
     "(allowed: kwargs, model, source)"),
    ('model = "lcnet_035"', 'model = "hf-hub:me/mine"', "pair.mine.student.model: expected a name of letters, digits"),
    ('model = "lcnet_035" }', 'model = "lcnet_035", kwargs = { depht = 3 } }', "pair.mine.student.kwargs: 'depht' is "
     "no argument that shapes a network; the nearest is 'depth'"),
    ('model = "lcnet_035" }', 'model = "lcnet_035", kwargs = { depth = "a/b" } }', "'depth': expected numbers, true, "),
    ('model = "test_resnet" }', 'model = "test_resnet", weights = "web" }', "expected 'train', 'hub:TAG', 'file:PATH'"),
    ('model = "test_resnet" }', 'model = "test_resnet", weights = "file:/no/such" }',
     "mine.toml: pair.mine.teacher.weights: teacher weights /no/such: no such file"),
    ("epochs = 4", "epochs = 4\n[teacher_recipes.mime]\nepochs = 1",
     "mine.toml: teacher_recipes.mime: unknown pair 'mime'; did you mean 'mine'?"),
    ("epochs = 4", "epochs = 4\n[teacher_recipes.mine]\nepoch = 1",
     "mine.toml: teacher_recipes.mine.epoch: unknown key; did you mean 'epochs'?"),
    ("epochs = 4", "epochs = 4\n[teacher_recipes.mine]\nepochs = 0",
     "mine.toml: teacher_recipes.mine.epochs: expected at least 1, got 0"),
    ("epochs = 4", "epochs = 4\n[teacher_recipes.resnet56-resnet20]\ntrain_size = 'all'",
     "mine.toml: teacher_recipes.resnet56-resnet20.train_size: expected a whole number, got 'all'"),
    ("[pair.mine]", '[pair.mine]\nassistant = "lcnet_050"',
     "mine.toml: pair.mine.assistant: expected a table, got 'lcnet_050'"),
    ("[pair.mine]", '[pair.mine]\nassistant = { modl = "lcnet_050" }',
     "mine.toml: pair.mine.assistant.modl: unknown key; did you mean 'model'? (allowed: kwargs, model, "),
    ('["ce", "kd", "dml"]', '["takd"]\nassistant_method = "kdd"',
     "mine.toml: assistant_method: unknown method 'kdd'; did you mean 'kd'?"),
    ('["ce", "kd", "dml"]', '["takd"]\nassistant_method = "ce"',
     "mine.toml: assistant_method: ce learns from no trained network, and what trains an assistant must learn from"),
    ("epochs = 4", "epohcs = 4", "mine.toml: teacher_recipe.epohcs: unknown key; did you mean 'epochs'?"),
    ("epochs = 4", "epochs = 'x'", "mine.toml: teacher_recipe.epochs: expected a whole number, got 'x'"),
])
def test_a_wrong_suite_is_refused_with_the_place_and_what_is_allowed(tmp_path, old, new, message):
    assert old in SUITE
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, SUITE.replace(old, new, 1))
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path}/mine.toml:")
    assert "Input should" not in str(error.value) and "Value error" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("setting", "message"), [
    ("kd.temperatur=8", "unknown hyperparameter of kd 'temperatur'; did you mean 'temperature'?"),
    ("kd.temperature=hot", "kd.temperature: expected float, got 'hot'"),
    ("kd.temperature=1000", "kd.temperature: 1000.0 is out of range, allowed: 1.0 to 20.0"),
    ("kdd.temperature=8", "unknown method 'kdd'; did you mean 'kd'?"),
    ("temperature=8", "expected METHOD.HYPERPARAMETER=VALUE"),
    ("kd.temperature", "expected METHOD.HYPERPARAMETER=VALUE"),
    ("recipe.epochs=0", "settings: recipe.epochs: expected at least 1, got 0"),
    ("recipe.epoch=1", "epoch: unknown key; did you mean 'epochs'?"),
])
def test_a_wrong_setting_is_refused_with_its_path(tmp_path, setting, message):
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, settings=read_settings([setting]))
    assert message in str(error.value)


def test_an_unknown_suite_or_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean 'quick'"):
        load_suite("quik")
    with pytest.raises(UserError, match="no such file"):
        load_suite(str(tmp_path / "none.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_suite(str(binary))


def test_a_name_of_the_command_line_is_not_said_to_be_the_files(tmp_path):
    for selection in ({"pairs": ["mime"]}, {"methods": ["kdd"]}, {"datasets": ["synthetik"]}):
        with pytest.raises(UserError, match=r"^unknown (pair|method|dataset) '.*did you mean"):
            plan_of(tmp_path, **selection)


# Paths in a suite's file.

IMAGES = SUITE.replace('"synthetic"', '"imagefolder:photos"')


def photos(folder, shade=0):
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / "photos" / split / label).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (4, 4), (shade, i, 0)).save(folder / "photos" / split / label / f"{shade}-{i}.png")


def suite_in(folder, text=IMAGES):
    folder.mkdir(exist_ok=True)
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def datasets_of(suite, **selection):
    return {run.dataset for run in expand(load_suite(suite), Registry(), Selection(**selection)).students}


def test_an_image_folder_that_a_suite_names_lies_beside_its_file_and_one_of_the_command_line_here(
        tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite_in(tmp_path / "suites")
    photos(tmp_path / "suites", shade=1)
    assert datasets_of("suites/mine.toml") == {"imagefolder:suites/photos"}
    with pytest.raises(UserError, match=r"^image folder photos: no such folder"):
        datasets_of("suites/mine.toml", datasets=["imagefolder:photos"])
    photos(tmp_path, shade=2)
    assert datasets_of("suites/mine.toml") == {"imagefolder:suites/photos"}
    assert datasets_of("suites/mine.toml", datasets=["imagefolder:photos"]) == {"imagefolder:photos"}


def test_an_image_folder_of_a_suite_that_is_missing_is_named_with_the_suite_and_where_it_was_looked_for(
        tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path)
    suite_in(tmp_path / "suites")
    with pytest.raises(UserError, match=r"^suites/mine\.toml: datasets: image folder suites/photos: no such folder"):
        datasets_of("suites/mine.toml")


def test_a_suite_in_the_current_folder_gives_the_run_ids_that_it_gives_however_its_path_is_written(
        tmp_path, monkeypatch):
    photos(tmp_path)
    suite_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    plans = [expand(load_suite(suite), Registry(), Selection())
             for suite in ("mine.toml", "./mine.toml", str(tmp_path / "mine.toml"), f"../{tmp_path.name}/mine.toml")]
    assert {run.dataset for plan in plans for run in plan.students} == {"imagefolder:photos"}
    assert len({tuple(run.id for run in plan.students) for plan in plans}) == 1
    typed = expand(load_suite("mine.toml"), Registry(), Selection(datasets=["imagefolder:photos"]))
    assert [run.id for run in typed.students] == [run.id for run in plans[0].students]


def test_the_same_suite_and_images_give_the_same_run_ids_in_another_place(tmp_path, monkeypatch):
    ids = []
    for place in ("one", "two"):
        suite_in(tmp_path / place)
        photos(tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        ids.append([run.id for run in expand(load_suite("mine.toml"), Registry(), Selection()).students])
    assert ids[0] == ids[1]


def test_an_absolute_image_folder_of_a_suite_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path)
    file = suite_in(tmp_path / "suites", IMAGES.replace("imagefolder:photos", f"imagefolder:{tmp_path}/photos"))
    assert datasets_of(file) == {f"imagefolder:{tmp_path}/photos"}


def test_an_image_folder_of_a_suite_may_lie_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    photos(tmp_path)
    file = suite_in(tmp_path / "suites", IMAGES.replace("imagefolder:photos", "imagefolder:~/photos"))
    assert datasets_of(file) == {"imagefolder:~/photos"}


def test_an_image_folder_beside_a_suite_that_is_not_below_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    suite_in(tmp_path / "suites")
    photos(tmp_path / "suites")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert datasets_of("../suites/mine.toml") == {"imagefolder:../suites/photos"}
    assert datasets_of(str(tmp_path / "suites/mine.toml")) == {f"imagefolder:{tmp_path}/suites/photos"}


def test_hyperparameters_for_an_image_folder_of_a_suite_reach_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "suites")
    suite_in(tmp_path / "suites", IMAGES + '[hyperparameters."kd@imagefolder:photos"]\ntemperature = 7.0\n')
    runs = expand(load_suite("suites/mine.toml"), Registry(), Selection(methods=["kd"])).students
    assert {run.hyperparameters["temperature"] for run in runs} == {7.0}


def test_a_teachers_file_of_weights_lies_beside_the_suite_and_its_place_is_not_in_the_run_id(tmp_path, monkeypatch):
    text = SUITE.replace('model = "test_resnet" }', 'model = "test_resnet", weights = "file:teacher.safetensors" }')
    for place in ("one", "two"):
        suite_in(tmp_path / place, text)
        (tmp_path / place / "teacher.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    one, two = ([run for run in expand(load_suite(f"{place}/mine.toml"), Registry(), Selection()).students]
                for place in ("one", "two"))
    assert {run.teacher.path for run in one} == {"one/teacher.safetensors"}
    assert [run.id for run in one] == [run.id for run in two]


def test_a_built_in_suites_image_folder_lies_in_the_current_folder(tmp_path, monkeypatch):
    photos(tmp_path)
    (tmp_path / "photos").rename(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    assert datasets_of("imagenet", methods=["ce"]) == {"imagefolder:imagenet"}


# Images without labels.

def cells_of(plan):
    return list(dict.fromkeys(spec.transfer for spec in plan.students))


SIZED = SUITE.replace("lr = 0.1", "lr = 0.1\ntrain_size = 100")


def test_a_suite_has_a_cell_for_each_combination_of_its_images_without_labels(tmp_path):
    plan = plan_of(tmp_path, f'{SIZED}\n[transfer]\nimages = ["none", "rest"]\nshare = [0.5, 1.0]\nsize = 300')
    assert cells_of(plan) == [None, Transfer(images="rest", share=0.5, size=300),
                              Transfer(images="rest", share=1.0, size=300)]
    assert len(plan.students) == 3 * len(plan_of(tmp_path, SIZED).students)
    assert {spec.id for spec in plan_of(tmp_path, SIZED).students} < {spec.id for spec in plan.students}


def test_teachers_learn_from_labelled_images_alone(tmp_path):
    plan = plan_of(tmp_path, f"{SIZED}\n[transfer]", methods=["ban", "kd"])
    assert {spec.transfer for spec in plan.teachers} == {spec.self_teacher.run.transfer for spec in plan.students
                                                         if spec.self_teacher} == {None}
    assert {spec.id for spec in plan.teachers} == {spec.id for spec in plan_of(tmp_path, SIZED,
                                                                              methods=["ban", "kd"]).teachers}


@pytest.mark.parametrize("written, asked", [
    ('transfer = "rest"\n', {}), ("", {"transfer.images": "rest"}),
    ("[transfer]\nshare = 0.1\n", {"transfer.share": 0.5}),
    ("[transfer]\n", {}), ("", {"transfer.share": 0.5}), ("", {"transfer.images": ["rest"], "transfer.share": [0.5]})])
def test_images_without_labels_may_be_written_in_short_or_asked_for(written, asked, tmp_path):
    text = written + SIZED if written.startswith("transfer =") else SIZED + written
    assert cells_of(plan_of(tmp_path, text, settings=asked)) == [Transfer(images="rest", share=0.5)]


def test_a_folder_without_labels_goes_out_from_the_suites_folder_and_is_known_by_its_files(tmp_path, monkeypatch):
    pool = tmp_path / "suites/pool/any"
    pool.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(pool / "1.png")
    text = f'transfer = "imagefolder:pool"\n{SUITE}'
    monkeypatch.chdir(tmp_path)
    (one,) = cells_of(plan_of(tmp_path / "suites", text))
    assert one.images == "imagefolder:suites/pool" and len(one.digest) == 64
    Image.new("RGB", (9, 9)).save(pool / "2.png")
    (other,) = cells_of(plan_of(tmp_path / "suites", text))
    assert other.images == one.images and other.digest != one.digest
    (asked,) = cells_of(plan_of(tmp_path / "suites", SUITE, settings={"transfer.images": "imagefolder:suites/pool"}))
    assert asked == other


@pytest.mark.parametrize("written, message", [
    ('transfer = "ret"', r"mine.toml: transfer.images: unknown source of images without labels 'ret'; .*'rest'"),
    ('transfer = "imagefolder"', "mine.toml: transfer.images: 'imagefolder': write imagefolder:PATH"),
    ('transfer = "imagefolder:nowhere"', "mine.toml: transfer.images: image folder .*nowhere: no such folder"),
    ("transfer = { images = [] }", "transfer.images: name at least one, and each once"),
    ('transfer = { images = ["rest", "rest"] }', "transfer.images: name at least one, and each once"),
    ("transfer = { share = [0.5, 0.5] }", "transfer.share: name at least one, and each once"),
    ("transfer = { share = 0 }", "transfer.share: expected more than 0 and at most 1, got 0"),
    ("transfer = { share = [0.5, 1.1] }", "transfer.share: expected more than 0 and at most 1, got"),
    ('transfer = { share = "half" }', "transfer.share: expected a number or a list, got 'half'"),
    ("transfer = { size = 0 }", "transfer.size: expected at least 1"),
    ('transfer = { size = "all" }', "transfer.size: expected a whole number, got 'all'"),
    ("transfer = { shares = 0.5 }", "transfer.shares: unknown key.*'share'"),
    ("transfer = 3", "transfer: expected a table, got 3"),
])
def test_what_no_suite_may_say_of_images_without_labels_is_refused_in_a_line(written, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        plan_of(tmp_path, f"{written}\n{SIZED}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, value", [("images", "ret"), ("share", 0), ("share", "x"), ("size", -1), ("shared", 1)])
def test_what_no_setting_may_say_of_them_is_refused_in_a_line(name, value, tmp_path):
    with pytest.raises(UserError, match=f"settings: transfer.{name}") as error:
        plan_of(tmp_path, SIZED, settings={f"transfer.{name}": value})
    assert "\n" not in str(error.value)


def test_the_suite_transfer_compares_with_runs_of_the_suite_cpu():
    registry = Registry()
    plans = [expand(load_suite(name), registry, Selection()) for name in ("transfer", "cpu")]
    ours, theirs = ({spec.id for spec in plan.students} for plan in plans)
    assert {spec.id for spec in plans[0].students if spec.transfer is None} <= theirs
    assert len(ours) == 7 * 3 * 3 and plans[0].teachers[0].id in {spec.id for spec in plans[1].teachers}
