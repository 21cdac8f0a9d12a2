import json

import pytest
from pydantic import ValidationError

from kdbench.spec import (
    Architecture,
    FileTeacher,
    HubTeacher,
    OwnRecipe,
    Recipe,
    RunSpec,
    TrainedTeacher,
    Transfer,
)

RECIPE = Recipe(epochs=2, batch_size=8, image_size=16, lr=0.1)
TEACHER = TrainedTeacher(run=RunSpec(method="ce", pair="p", student=Architecture(model="big"), dataset="d",
                                     recipe=RECIPE, seed=1000))
SPEC = RunSpec(method="kd", hyperparameters={"alpha": 0.5}, pair="p", student=Architecture(model="small"),
               teacher=TEACHER, dataset="d", recipe=RECIPE, seed=0)

CHANGES = {
    "method": "other", "hyperparameters": {"alpha": 0.6}, "student": Architecture(model="small", kwargs={"width": 2}),
    "dataset": "other", "dataset_digest": "0" * 64, "recipe": RECIPE.model_copy(update={"lr": 0.2}), "seed": 1,
    "device": "cuda", "protocol": 2, "self_teacher": TEACHER, "updates": 10,
    "own_recipe": OwnRecipe(lr=0.2), "transfer": Transfer(images="rest"),
    "init": HubTeacher(architecture=Architecture(model="small"), tag="in1k"),
    "teacher": TrainedTeacher(run=TEACHER.run.model_copy(update={"seed": 1001})),
}


@pytest.mark.parametrize("field", CHANGES)
def test_everything_that_can_change_the_result_changes_the_id(field):
    assert SPEC.model_copy(update={field: CHANGES[field]}).id != SPEC.id


def test_the_changes_above_cover_every_field_but_the_pairs_label():
    assert set(CHANGES) == set(RunSpec.model_fields) - {"pair"}


def test_labels_do_not_change_the_id():
    teacher = TrainedTeacher(run=TEACHER.run.model_copy(update={"pair": "renamed"}))
    assert SPEC.model_copy(update={"pair": "renamed", "teacher": teacher}).id == SPEC.id


def test_a_weights_file_counts_by_its_content_and_not_by_its_place():
    def spec(path, sha256):
        return SPEC.model_copy(update={
            "teacher": FileTeacher(architecture=Architecture(model="big"), path=path, sha256=sha256)})

    assert spec("/here", "a").id == spec("/there", "a").id != spec("/here", "b").id


def test_a_weights_file_that_a_teacher_starts_from_counts_by_its_content_too():
    def spec(path, sha256):
        init = FileTeacher(architecture=Architecture(model="big"), path=path, sha256=sha256)
        return SPEC.model_copy(update={"teacher": TrainedTeacher(run=TEACHER.run.model_copy(update={"init": init}))})

    here, there, other = spec("/here", "a"), spec("/there", "a"), spec("/here", "b")
    assert here.teacher.run.id == there.teacher.run.id != other.teacher.run.id
    assert here.id == there.id != other.id and here.cell == there.cell != other.cell != SPEC.cell
    assert RunSpec.model_validate_json(here.model_dump_json()) == here
    assert "init" not in SPEC.model_dump_json()


def test_the_id_survives_writing_and_reading():
    assert RunSpec.model_validate_json(SPEC.model_dump_json()) == SPEC
    assert RunSpec.model_validate_json(SPEC.model_dump_json()).id == SPEC.id


def test_the_order_of_hyperparameters_and_arguments_does_not_matter():
    a = SPEC.model_copy(update={"hyperparameters": {"a": 1, "b": 2}})
    b = SPEC.model_copy(update={"hyperparameters": {"b": 2, "a": 1}})
    assert a.id == b.id


def test_the_id_is_the_same_today_as_when_this_test_was_written():
    """A change here makes every record on every disk foreign: raise PROTOCOL and say so."""
    assert SPEC.id == "8942c0695cf06944"


def test_methods_and_seeds_of_one_cell_compare_and_other_recipes_do_not():
    assert SPEC.model_copy(update={"method": "ce", "hyperparameters": {}, "seed": 5}).cell == SPEC.cell
    assert SPEC.model_copy(update={"recipe": CHANGES["recipe"]}).cell != SPEC.cell
    assert SPEC.model_copy(update={"teacher": CHANGES["teacher"]}).cell != SPEC.cell


@pytest.mark.parametrize("change", [
    {"epochs": 0}, {"lr": 0}, {"lr": float("inf")}, {"batch_size": 1}, {"momentum": 1}, {"schedule": "steps"},
    {"augment": ["crop", "random_resized_crop"]}, {"augment": ["spin"]}, {"wormup": 0.1},
])
def test_a_recipe_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValidationError):
        Recipe.model_validate({**RECIPE.model_dump(), **change})


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        SPEC.seed = 3


@pytest.mark.parametrize("kwargs", [
    {"blocks": 1, "stem": 8, "channels": [8, 16, 32], "stride": 2}, {"channels": (8, 16)}, {"global_pool": "avg"},
    {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4, "mlp_ratio": 4.0, "qkv_bias": True},
    {"depths": [2, 2, 6, 2], "drop_path_rate": 0.1, "layer_scale_init_value": None, "kernel_sizes": [[3, 3], 7]},
    {"norm_layer": "batchnorm2d", "act_layer": "gelu", "stem_type": "deep", "stem_width": 32, "zero_init_last": False},
])
def test_an_architecture_takes_what_shapes_it_and_keeps_it_as_it_is(kwargs):
    assert Architecture(model="m", kwargs=kwargs).kwargs == kwargs


@pytest.mark.parametrize(("name", "nearest"), [
    ("checkpoint_path", ""), ("pretrained_cfg", ""), ("pretrained_cfg_overlay", ""), ("cache_dir", ""), ("pruned", ""),
    ("features_only", ""), ("pretrained", ""), ("hf_hub_id", ""), ("num_classes", ""), ("cfg", ""), ("block_args", ""),
    ("device", ""), ("scriptable", ""), ("x" * 10**6, ""), ("", ""), ("embed_dimm", "embed_dim"), ("dept", "depth"),
])
def test_an_architecture_takes_no_other_argument_and_names_the_nearest(name, nearest):
    with pytest.raises(ValidationError, match=f"shapes a network; the nearest is '{nearest}") as got:
        Architecture(model="m", kwargs={name: 1})
    assert len(got.value.errors()[0]["msg"]) < 250


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [
    "/etc/passwd", "hf-hub:a", "a.pth", "a b", "x" * 33, "a\n", {"a": 1}, [1] * 65, nested(3), nested(100_000), 65_537,
    -65_537, 10**400, 1e9, float("nan"), float("inf"), ["ok", "not/ok"], b"bytes", {1, 2},
])
def test_an_argument_of_an_architecture_is_a_bounded_number_a_short_name_or_a_short_list(value):
    with pytest.raises(ValidationError):
        Architecture(model="m", kwargs={"depth": value})


@pytest.mark.parametrize("model", ["", "local-dir:/tmp/x", "hf-hub:a/b", "../x", "a\n", "x" * 101])
def test_the_name_of_a_model_is_no_place(model):
    with pytest.raises(ValidationError):
        Architecture(model=model)


@pytest.mark.parametrize("change", [
    {"image_size": 20_000}, {"epochs": 10**6}, {"batch_size": 10**6}, {"train_size": 10**12},
    {"image_size": 1024, "batch_size": 2048},
])
def test_a_recipe_beyond_all_real_use_is_refused(change):
    with pytest.raises(ValidationError):
        Recipe.model_validate({**RECIPE.model_dump(), **change})


def test_a_method_with_a_recipe_value_of_its_own_trains_by_it_and_stays_in_its_cell():
    own = SPEC.model_copy(update={"own_recipe": OwnRecipe(lr=0.2)})
    assert own.training == RECIPE.model_copy(update={"lr": 0.2}) and own.recipe == RECIPE
    assert own.cell == SPEC.cell and own.id != SPEC.id


def test_a_spec_without_recipe_values_of_its_own_is_written_as_before_they_existed():
    assert "own_recipe" not in SPEC.model_dump() and SPEC.training == RECIPE


def test_recipe_values_of_a_runs_own_survive_writing_and_reading():
    own = SPEC.model_copy(update={"own_recipe": OwnRecipe(weight_decay=0.0)})
    fields = {name: json.dumps(value).encode() for name, value in own.model_dump(mode="json").items()}
    assert RunSpec.from_json(fields).training.weight_decay == 0.0 and RunSpec.from_json(fields).id == own.id


@pytest.mark.parametrize("text", [b'{"lr": 0.0, "weight_decay": null}', b'{"lr": "fast"}', b'{"momentum": 0.5}',
                                  b'{"epochs": 0}', b'{"epochs": 2.5}', b'{"epochs": 100001}'])
def test_a_recipe_value_of_a_runs_own_that_no_recipe_may_have_is_refused(text):
    fields = {name: json.dumps(value).encode() for name, value in SPEC.model_dump(mode="json").items()}
    with pytest.raises(ValueError, match="own_recipe"):
        RunSpec.from_json(fields | {"own_recipe": text})


# Equal compute: epochs of a run's own.

def test_epochs_of_a_runs_own_are_trained_and_make_a_cell_that_is_the_same_for_any_number_of_them():
    plain, some, more = SPEC, *(SPEC.model_copy(update={"own_recipe": OwnRecipe(epochs=n)}) for n in (2, 5))
    assert (some.training.epochs, more.training.epochs, more.recipe.epochs) == (2, 5, 2)
    assert some.cell == more.cell != plain.cell and len({plain.id, some.id, more.id}) == 3
    assert (plain.equal_compute, some.equal_compute) == (False, True)  # even where the epochs are the recipe's


def test_a_spec_of_equal_compute_is_the_same_after_writing_and_reading():
    own = SPEC.model_copy(update={"own_recipe": OwnRecipe(epochs=5)})
    fields = {name: json.dumps(value).encode() for name, value in own.model_dump(mode="json").items()}
    read = RunSpec.from_json(fields)
    assert (read, read.id, read.cell, read.training.epochs) == (own, own.id, own.cell, 5)


def test_recipe_values_without_epochs_are_written_and_hashed_as_before_epochs_existed():
    own = SPEC.model_copy(update={"own_recipe": OwnRecipe(lr=0.2)})
    assert own.model_dump(mode="json")["own_recipe"] == {"lr": 0.2, "weight_decay": None}
    assert (own.id, own.cell) == ("823e56067728f484", "1c6c9b63913a0e87")
    assert own.own_recipe.given() == {"lr": 0.2} and not own.equal_compute


@pytest.mark.parametrize(("epochs", "expected"), [(240, (150, 180, 210)), (480, (300, 360, 420)), (8, (5, 6, 7)),
                                                  (7, (5, 6, 7)), (1, (1, 1, 1))])
def test_rates_fall_with_the_first_epoch_at_or_after_the_same_share_of_a_run_of_other_epochs(epochs, expected):
    recipe = RECIPE.model_copy(update={"epochs": 240, "schedule": "step", "milestones": (150, 180, 210)})
    own = SPEC.model_copy(update={"recipe": recipe, "own_recipe": OwnRecipe(epochs=epochs)})
    assert own.training.milestones == expected and own.recipe.milestones == (150, 180, 210)


# Images without labels.

def test_a_spec_without_images_without_labels_is_written_as_before_they_existed():
    assert "transfer" not in SPEC.model_dump() and SPEC.cell == SPEC.model_copy(update={"transfer": None}).cell
    assert SPEC.cell == "1c6c9b63913a0e87"


def test_images_without_labels_are_part_of_the_cell_and_survive_writing_and_reading():
    several = [SPEC.model_copy(update={"transfer": Transfer(**fields)}) for fields in (
        {"images": "rest"}, {"images": "rest", "size": 9}, {"images": "rest", "share": 1.0},
        {"images": "imagefolder:a", "digest": "0"}, {"images": "imagefolder:a", "digest": "1"})]
    assert len({SPEC.cell, *(spec.cell for spec in several)}) == len({SPEC.id, *(spec.id for spec in several)}) == 6
    for spec in several:
        fields = {name: json.dumps(value).encode() for name, value in spec.model_dump(mode="json").items()}
        assert (RunSpec.from_json(fields), RunSpec.from_json(fields).id) == (spec, spec.id)


@pytest.mark.parametrize("text", [b'{"images": "rest", "share": 0.0}', b'{"images": "rest", "share": 1.5}', b'{}',
                                  b'{"images": "rest", "size": 0}', b'{"images": "rest", "many": 1}', b'"rest"'])
def test_images_without_labels_that_no_suite_may_have_are_refused(text):
    fields = {name: json.dumps(value).encode() for name, value in SPEC.model_dump(mode="json").items()}
    with pytest.raises(ValueError, match="transfer"):
        RunSpec.from_json(fields | {"transfer": text})
