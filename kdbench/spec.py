"""The specification of a run: what it does, as frozen, validated data. Its id is a hash of everything that can change
the result."""

import difflib
import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

Value = bool | int | float | str
# What a run computes on. "cpu-portable" is a CPU that computes the same bits on all x86-64 processors with AVX2.
Device = Literal["cpu", "cuda", "cpu-portable"]
PORTABLE: Device = "cpu-portable"
PROTOCOL = 1  # raised whenever the engine changes the result of a spec, so that old and new records do not mix

NAME = re.compile(r"\A[A-Za-z0-9_.-]{1,100}\Z")  # a timm model, or a tag of its weights
OWN = re.compile(r"\A[A-Za-z_]\w{0,99}:[A-Za-z_]\w{0,99}\Z", re.ASCII)  # a network of a plugin file: MODULE:FUNCTION
SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")

# Limits beyond any real use, so that a mistyped or hostile number is refused before anything is allocated.
MAX_IMAGE_SIZE = 1024
MAX_BATCH_PIXELS = 1 << 30
MAX_NUMBER = 65_536  # the largest number among an architecture's arguments
MAX_SEED = (1 << 63) - 1
MAX_EPOCHS = 100_000
MAX_UPDATES = 1000   # of a student, in multiples of its recipe's steps

# The arguments of timm's constructors that a spec may set: those that shape a network, such as its width, depth, parts
# and regularisation. Specs may come from files that others wrote, so arguments that name a file, an address, a cache or
# weights are not among them, nor those that change the kind of output. `blocks`, `stem`, `channels` and `stride` are
# resnet_cifar's own.
ARGUMENTS = frozenset("""
    blocks stem channels stride

    img_size patch_size patch_sizes embed_dim embed_dims depth depths num_heads num_kv_heads head_dim heads mlp_ratio
    mlp_ratios qkv_bias qk_norm proj_bias init_values class_token reg_tokens num_reg_tokens no_embed_class pos_embed
    pre_norm final_norm fc_norm use_fc_norm swiglu_mlp scale_mlp scale_mlp_norm scale_attn_norm scale_attn_inner
    dynamic_img_size dynamic_img_pad strict_img_size use_pos_embed use_abs_pos_emb use_rel_pos_bias
    use_shared_rel_pos_bias use_rot_pos_emb rope_temperature rope_type weight_init fix_init distilled distillation
    window_size window_sizes window_ratio always_partition attn_type attn_types key_dim attn_ratio sr_ratios merge_size
    patch_norm patch_stride patch_padding cls_attn_layers depth_token_only token_mixers attn_mlp_ratio mlp_bias
    rope_theta use_rope use_rel_pos use_abs_pos use_pos_emb use_post_norm global_attn_indexes focal_levels
    focal_windows layer_scale_init_values num_vit

    layers width width_factor width_mult width_multiplier depth_mult depth_multiplier channel_multiplier cardinality
    base_width groups group_size growth_rate growth_rates block_config bn_size num_init_features block_reduce_first
    bottle_ratio expand_ratio expansion_ratio se_ratio avg_down output_stride zero_init_last replace_stem_pool dims
    widths kernel_size kernel_sizes conv_bias conv_mlp use_grn ls_init_value layer_scale_init_value head_init_scale
    head_norm_first head_hidden_size num_features dim num_blocks strides stem_type stem_width stem_chs stem_size
    stem_stride stem_kernel_size stem_norm stem_bias input_3x3 inplanes initial_chs final_chs init_channels
    hidden_sizes widen_factor deepen_factor aa_stem_only fix_stem down_kernel_size down_patch_size
    down_stride num_stages downsamples preact

    drop_rate drop_path_rate drop_block_rate pos_drop_rate proj_drop_rate attn_drop_rate patch_drop_rate
    global_pool norm_layer act_layer aa_layer se_layer norm_eps bn_eps bn_momentum bn_tf pad_type
""".split())  # noqa: SIM905
LIMITS = {"img_size": MAX_IMAGE_SIZE, "window_size": 64, "window_sizes": 64}  # memory grows with their fourth power
_WORD = re.compile(r"[A-Za-z0-9_-]{0,32}")  # a name such as "avg" or "batchnorm2d"; no path, address or code

T = TypeVar("T")


class Frozen(BaseModel):
    """Base of immutable data that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(Frozen):
    """A network: either a model of `timm.create_model` or of kdbench, with those arguments in `kwargs` that shape it,
    or MODULE:FUNCTION of a plugin file, with keyword arguments of the function."""

    model: str                  # a registered name (no "local-dir:", no "hf-hub:"), or MODULE:FUNCTION
    kwargs: dict[str, Any] = {}
    source: str | None = None   # the SHA-256 of the file that holds MODULE:FUNCTION

    @field_validator("model")
    @classmethod
    def _registered(cls, model: str) -> str:
        if not (NAME.fullmatch(model) or OWN.fullmatch(model)):
            raise ValueError("expected a name of letters, digits, '_', '.' and '-', or MODULE:FUNCTION of a plugin "
                             "file")
        return model

    @field_validator("kwargs")
    @classmethod
    def _only_shapes(cls, kwargs: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        own = OWN.fullmatch(info.data.get("model", ""))
        for name, value in kwargs.items():
            if name not in ARGUMENTS and not (own and name.isidentifier() and len(name) <= 100):
                near = difflib.get_close_matches(name[:100], sorted(ARGUMENTS), n=1, cutoff=0)[0]
                raise ValueError(f"{name[:100]!r} is no argument that shapes a network; the nearest is {near!r}")
            _check_argument(name, value)
        return kwargs

    @field_validator("source")
    @classmethod
    def _of_a_file(cls, source: str | None, info: ValidationInfo) -> str | None:
        if source is not None and not (OWN.fullmatch(info.data.get("model", "")) and SHA256.fullmatch(source)):
            raise ValueError("goes with MODULE:FUNCTION, and is the SHA-256 of its file: 64 digits 0-9a-f")
        return source

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields by name, without `source` if it is None: ids and files stay as they were before that field
        existed."""
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if name != "source" or value is not None}

    @property
    def is_own(self) -> bool:
        """Whether the network is MODULE:FUNCTION of a plugin file."""
        return ":" in self.model


def _check_argument(name: str, value: Any, depth: int = 0) -> None:
    """Raise ValueError unless the value of an architecture's argument is a number within its limit, a boolean, a short
    word, None, or a list of at most 64 of these, nested at most twice."""
    limit = LIMITS.get(name, MAX_NUMBER)
    if isinstance(value, list | tuple):
        if depth == 2 or len(value) > 64:
            raise ValueError(f"{name!r}: expected lists of at most 64 values, nested at most twice")
        for one in value:
            _check_argument(name, one, depth + 1)
    elif isinstance(value, int | float):
        if not -limit <= value <= limit:  # NaN is refused too
            raise ValueError(f"{name!r}: expected numbers from {-limit} to {limit}")
    elif value is not None and not (isinstance(value, str) and _WORD.fullmatch(value)):
        raise ValueError(f"{name!r}: expected numbers, true, false, short names of letters, digits, '_' and '-', or "
                         f"lists of them, got {str(value)[:100]!r}")


class Recipe(Frozen):
    """The settings that all methods of a suite share: how long, how and on what the student trains."""

    epochs: int = Field(ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(ge=2, le=65_536)
    image_size: int = Field(ge=4, le=MAX_IMAGE_SIZE, description="height and width of the network's input, in pixels; "
                                                                   "of texts, their length in tokens")
    train_size: int | None = Field(None, ge=2, le=10**9,
                                   description="a stratified part of the training split, by a fixed seed")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps over which the rate rises linearly")
    milestones: tuple[int, ...] = Field((), description="epochs at which `step` multiplies the rate by gamma")
    gamma: float = Field(0.1, gt=0, le=1)
    augment: tuple[Literal["crop", "flip", "random_resized_crop"], ...] = ()
    normalise: Literal["train", "imagenet"] = "train"
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _one_kind_of_crop(self) -> "Recipe":
        if {"crop", "random_resized_crop"} <= set(self.augment):
            raise ValueError("augment: take either 'crop' or 'random_resized_crop'")
        return self

    @model_validator(mode="after")
    def _batch_fits(self) -> "Recipe":
        if self.batch_size * self.image_size**2 > MAX_BATCH_PIXELS:
            raise ValueError(f"batch_size: {self.batch_size} images of {self.image_size} x {self.image_size} pixels, "
                             f"allowed are {MAX_BATCH_PIXELS} pixels in a batch")
        return self


class OwnRecipe(Frozen):
    """The values of a run that replace those of its recipe; where a value is None, the recipe's holds."""

    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    epochs: int | None = Field(None, ge=1, le=MAX_EPOCHS)  # set for every method of a comparison at equal compute

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields by name, without `epochs` if it is None: ids and files stay as they were before that field
        existed."""
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if name != "epochs" or value is not None}

    def given(self) -> dict[str, float]:
        """The values that replace the recipe's, by name."""
        return {name: value for name, value in self if value is not None}


class Transfer(Frozen):
    """Images without labels, on which a student learns from the outputs of a trained network alone."""

    images: str = Field(max_length=1000)  # "rest" of the training split, or "imagefolder:PATH"
    digest: str | None = None             # hash of a user's own files, as their path says nothing of their content
    size: int | None = Field(None, ge=1, le=10**9)  # how many are used, chosen by a fixed seed; None: all
    share: float = Field(0.5, gt=0, le=1)           # their share of a batch; 1: batches without labelled images

    @property
    def told(self) -> str:
        """The images and their share of a batch in words, for titles of tables."""
        most = "" if self.size is None else f"{self.size:,} of "
        return f"unlabelled images: {most}{self.images}, {self.share:.0%} of a batch"


class TrainedTeacher(Frozen):
    """A teacher that kdbench trains itself, as a run of its own."""

    kind: Literal["run"] = "run"
    run: "RunSpec"

    @property
    def architecture(self) -> Architecture:
        return self.run.student


class HubTeacher(Frozen):
    """A teacher with timm's published weights; `tag` is timm's pretrained tag, such as "a1_in1k"."""

    kind: Literal["hub"] = "hub"
    architecture: Architecture
    tag: str = Field(pattern=NAME)


class FileTeacher(Frozen):
    """A teacher whose weights are a safetensors file of its architecture's state dict."""

    kind: Literal["file"] = "file"
    architecture: Architecture
    path: str
    sha256: str


Teacher = Annotated[TrainedTeacher | HubTeacher | FileTeacher, Field(discriminator="kind")]
GivenWeights = Annotated[HubTeacher | FileTeacher, Field(discriminator="kind")]


class RunSpec(Frozen):
    """What one run does: train one network with one method on one dataset with one seed."""

    protocol: int = PROTOCOL
    method: str
    hyperparameters: dict[str, Value] = {}
    pair: str                      # a label, not part of the id; the networks that it names are
    student: Architecture
    teacher: Teacher | None = None             # the pair's; agreement with it is scored for every method
    self_teacher: TrainedTeacher | None = None  # trained for the method: a copy of the student, or the assistant
    dataset: str
    dataset_digest: str | None = None  # hash of a user's own files, as their name says nothing of them
    recipe: Recipe
    seed: int = Field(ge=0, le=MAX_SEED)
    device: Device = "cpu"
    updates: int = Field(1, ge=1, le=MAX_UPDATES)  # of the student: a multiple of the recipe's steps
    own_recipe: OwnRecipe | None = None  # the run's own values, from tuning or equal compute
    transfer: Transfer | None = None     # images without labels to train on as well; None for teachers
    init: GivenWeights | None = None  # weights that a teacher's training starts from; their classes may differ

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields by name, without those that later versions added if they have their default: ids and files stay as
        they were before these fields existed."""
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if name not in _ADDED or value != _ADDED[name]}

    @cached_property
    def training(self) -> Recipe:
        """The recipe by which the student trains: the shared one with the run's own values. If the number of epochs
        differs, each milestone moves to the first epoch at or after the same share of the run."""
        if self.own_recipe is None:
            return self.recipe
        own: dict[str, Any] = self.own_recipe.given()
        if epochs := self.own_recipe.epochs:
            own["milestones"] = tuple(-(-epochs * milestone // self.recipe.epochs)
                                      for milestone in self.recipe.milestones)
        return self.recipe.model_copy(update=own)

    @property
    def equal_compute(self) -> bool:
        """Whether the methods of the run's cell are compared at equal compute, each with its own number of epochs, and
        not at equal steps."""
        return self.own_recipe is not None and self.own_recipe.epochs is not None

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of everything that can change the result."""
        return _identify(self._canonical_fields(), self.equal_compute)[0]

    @cached_property
    def cell(self) -> str:
        """The hash of what runs must share for their methods to be compared: everything but the seed, the method and
        what it is given (hyperparameters, self-teacher, budget of updates, own values of the recipe). Runs compared at
        equal compute have another cell than those at equal steps, whatever their epochs."""
        return _identify(self._canonical_fields(), self.equal_compute)[1]

    @property
    def settings(self) -> tuple[Hashable, ...]:
        """What the seeds of one row of a table share within their cell: the method and what it is given."""
        own = self.self_teacher
        return self.method, own.run.id if own else "", *sorted((self.hyperparameters | self.own_values).items())

    @property
    def own_values(self) -> dict[str, Value]:
        """The values of the run that replace those of its recipe, and its budget of updates if that is not 1, by name
        as tables write them."""
        recipe = self.own_recipe.given() if self.own_recipe else {}
        budget: dict[str, Value] = {"updates": self.updates} if self.updates != 1 else {}
        return budget | {f"recipe.{name}": value for name, value in recipe.items()}

    def _canonical_fields(self) -> dict[str, str]:
        return {name: _canonical_field(name, value) for name, value in self.model_dump(mode="json").items()}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy of the spec with the values of `update`; pydantic's own method would also copy the cached id."""
        del deep  # a spec is immutable
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | dict(update or {}))

    @classmethod
    def from_json(cls, fields: Mapping[str, bytes]) -> "RunSpec":
        """The spec with the given fields, each as JSON by name. ValueError, which names the field, if one is missing,
        unknown or malformed.

        Thousands of runs share a teacher, a recipe and a dataset, so each distinct text of a field is parsed only once:
        100,000 records are read in seconds.
        """
        if odd := sorted((fields.keys() | _ADDED.keys()) ^ _ALL_FIELDS):
            raise ValueError(f"spec: {'unknown' if odd[0] in fields else 'missing'} field {odd[0]!r}")
        read = {name: _read_field(name, text) for name, text in fields.items()}
        values = _ADDED | {name: value for name, (value, _) in read.items()}
        own: OwnRecipe | None = values["own_recipe"]
        values["id"], values["cell"] = _identify({name: canonical for name, (_, canonical) in read.items()},
                                                 own is not None and own.epochs is not None)
        # As pydantic's model_construct, but without visiting every field: these values are already validated.
        # Attributes are set one by one so that the dictionaries of all specs share their keys.
        spec = cls.__new__(cls)
        for attribute, value in (*values.items(), ("__pydantic_fields_set__", _ALL_FIELDS),
                                 ("__pydantic_extra__", None), ("__pydantic_private__", None)):
            object.__setattr__(spec, attribute, value)
        return spec


def tutor(learns_from: str | None, *, teacher: T, self_teacher: T) -> T | None:
    """The network that a method learns from, given its `learns_from`: `teacher` is the pair's teacher, and
    `self_teacher` what was trained for the method, a copy of the student or the pair's assistant. Works for networks,
    specs and shapes; None if it learns from none."""
    return {"teacher": teacher, "student": self_teacher, "assistant": self_teacher, None: None}[learns_from]


def teacher_runs(spec: RunSpec) -> Iterator[RunSpec]:
    """The runs that must be finished before this one, in order: those that train the pair's teacher, and the copy of
    the student or the assistant that the method learns from. Teachers with given weights need none."""
    for teacher in (spec.teacher, spec.self_teacher):
        if isinstance(teacher, TrainedTeacher):
            yield teacher.run


def teacher_id(spec: RunSpec) -> str | None:
    """The id under which the predictions of the pair's teacher are kept: the id of the run that trained it or, for
    given weights, a hash of where they come from and of the images that the teacher sees. None without a teacher."""
    if spec.teacher is None:
        return None
    if isinstance(spec.teacher, TrainedTeacher):
        return spec.teacher.run.id
    teacher = spec.teacher.model_dump(mode="json", exclude={"path"})
    input_settings = {"image_size", "train_size", "augment", "normalise", "precision"}
    seen = spec.recipe.model_dump(mode="json", include=input_settings)
    return digest([teacher, spec.dataset, spec.dataset_digest, seen, spec.device])[:16]


def digest(content: Any) -> str:
    """The SHA-256, in hexadecimal, of the canonical JSON of `content`."""
    return _sha256(_canonical(content))


# Identity.

# Fields that specs of older versions lack, with the values that they then have.
_ADDED: dict[str, Any] = {"updates": 1, "own_recipe": None, "transfer": None, "init": None}
_IN_ID = sorted(RunSpec.model_fields.keys() - {"pair"})
_ALL_FIELDS = set(RunSpec.model_fields)  # one object, shared by all specs that are read
_IN_CELL = sorted(set(_IN_ID) - {"method", "hyperparameters", "seed", "self_teacher", "updates", "own_recipe"})
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def _identify(fields: Mapping[str, str], equal_compute: bool) -> tuple[str, str]:
    """The id and the cell of a spec, given the canonical JSON of each of its fields by name, and whether the methods of
    its cell are compared at equal compute."""
    shared = [fields[name] for name in _IN_CELL if name in fields] + ['"match":"compute"'] * equal_compute
    return _hash(tuple([fields[name] for name in _IN_ID if name in fields])), _hash_again(tuple(shared))


def _hash(parts: tuple[str, ...]) -> str:
    return _sha256(f"{{{','.join(parts)}}}")[:16]


_hash_again = lru_cache(maxsize=10_000)(_hash)  # for cells, which all methods and seeds share


def _canonical_field(name: str, value: Any) -> str:
    """A field's part of the canonical JSON of a spec; `value` is the field's JSON value."""
    counts = _without_labels(value) if name in ("teacher", "self_teacher", "init") else value
    return f'"{name}":{_canonical(counts)}'


def _without_labels(teacher: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON value of a teacher without its pair's name and its file's path, which do not change a result."""
    if teacher is None or teacher["kind"] == "hub":
        return teacher
    if teacher["kind"] == "file":
        return {key: value for key, value in teacher.items() if key != "path"}
    run = {key: value for key, value in teacher["run"].items() if key != "pair"}
    return {**teacher, "run": run | {
        role: _without_labels(run[role]) for role in ("teacher", "self_teacher", "init") if role in run}}


def _adapter(field: Any) -> TypeAdapter[Any]:
    """A validator for one field of a spec by itself."""
    is_model = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return TypeAdapter(Annotated[field.annotation, field], config=None if is_model else RunSpec.model_config)


_ADAPTERS = {name: _adapter(field) for name, field in RunSpec.model_fields.items()}


@lru_cache(maxsize=10_000)
def _read_field(name: str, text: bytes) -> tuple[Any, str]:
    """The validated value of a field given as JSON, and the field's part of the canonical JSON of a spec. ValueError,
    which names the field, if it is malformed."""
    adapter = _ADAPTERS[name]
    try:
        value = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, ('spec', name, *first['loc'])))}: {first['msg']}") from error
    return value, _canonical_field(name, adapter.dump_python(value, mode="json"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
