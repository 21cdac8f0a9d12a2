"""What one run does, as frozen, validated data. Its id is the hash of everything that can change the result."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Value = bool | int | float | str
PROTOCOL = 1  # raised whenever the engine changes what a spec results in, so that old records are not mixed with new


T = TypeVar("T")


class Frozen(BaseModel):
    """Immutable data that refuses unknown fields, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Architecture(Frozen):
    """A network: the arguments of `timm.create_model`."""

    model: str
    kwargs: dict[str, Any] = {}


class Recipe(Frozen):
    """What all methods of a suite share: how long, how and on what the student trains."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    image_size: int = Field(ge=4, description="height and width of the network's input, in pixels")
    train_size: int | None = Field(None, ge=2, description="a stratified part of the training split, by a fixed seed")
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
    tag: str


class FileTeacher(Frozen):
    """A teacher from a safetensors file of the architecture's state dict."""

    kind: Literal["file"] = "file"
    architecture: Architecture
    path: str
    sha256: str


Teacher = Annotated[TrainedTeacher | HubTeacher | FileTeacher, Field(discriminator="kind")]


class RunSpec(Frozen):
    """One cell of a suite."""

    protocol: int = PROTOCOL
    method: str
    hyperparameters: dict[str, Value] = {}
    pair: str                      # a label: it does not enter the id, what it stands for does
    student: Architecture
    teacher: Teacher | None = None             # the pair's; scored against even by methods that do not learn from it
    self_teacher: TrainedTeacher | None = None  # a trained copy of the student, for methods that learn from one
    dataset: str
    dataset_digest: str | None = None  # of a user's own files, whose name says nothing of their content
    recipe: Recipe
    seed: int = Field(ge=0)
    device: Literal["cpu", "cuda"] = "cpu"

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of what can change the result."""
        return _identify(self._canonical_fields())[0]

    @cached_property
    def cell(self) -> str:
        """The hash of what a comparison between methods must share: everything but the method and the seed."""
        return _identify(self._canonical_fields())[1]

    def _canonical_fields(self) -> dict[str, str]:
        return {name: _canonical_field(name, value) for name, value in self.model_dump(mode="json").items()}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The spec with other values; pydantic's own method would copy the cached id as well."""
        del deep  # a spec is immutable
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | dict(update or {}))

    @classmethod
    def from_json(cls, fields: Mapping[str, bytes]) -> "RunSpec":
        """The spec whose fields a file holds, as JSON by name. ValueError naming the field that is missing, unknown or
        malformed.

        Thousands of runs share a teacher, a recipe, a dataset: each distinct text of a field is parsed once, so that
        100,000 records are read in seconds.
        """
        if fields.keys() != cls.model_fields.keys():
            odd = sorted(fields.keys() ^ cls.model_fields.keys())
            raise ValueError(f"spec: {'unknown' if odd[0] in fields else 'missing'} field {odd[0]!r}")
        read = {name: _read_field(name, text) for name, text in fields.items()}
        spec = cls.model_construct(_ALL_FIELDS, **{name: value for name, (value, _) in read.items()})
        run_id, cell = _identify({name: canonical for name, (_, canonical) in read.items()})
        spec.__dict__.update(id=run_id, cell=cell)
        return spec


def tutor(learns_from: str | None, *, teacher: T, self_teacher: T) -> T | None:
    """Which of two networks (or their specs, or their shapes) a method learns from, by its `learns_from`: the pair's
    teacher, a trained copy of the student, or none."""
    return {"teacher": teacher, "student": self_teacher, None: None}[learns_from]


def teacher_id(spec: RunSpec) -> str | None:
    """The id under which the predictions of the pair's teacher are kept: that of the run that trained it, or a hash of
    the source of its weights and of what it is shown. None without a teacher."""
    if spec.teacher is None:
        return None
    if isinstance(spec.teacher, TrainedTeacher):
        return spec.teacher.run.id
    teacher = spec.teacher.model_dump(mode="json", exclude={"path"})
    input_settings = {"image_size", "train_size", "augment", "normalise", "precision"}
    seen = spec.recipe.model_dump(mode="json", include=input_settings)
    return digest([teacher, spec.dataset, spec.dataset_digest, seen, spec.device])[:16]


def digest(content: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of `content`."""
    return _sha256(_canonical(content))


def digest_of_list(items: Iterable[Any]) -> str:
    """What `digest` gives for the list of these items, which need not be in memory all at once."""
    total = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        total.update(f"{',' if number else ''}{_canonical(item)}".encode())
    total.update(b"]")
    return total.hexdigest()


# Identity.

_IN_ID = sorted(RunSpec.model_fields.keys() - {"pair"})
_ALL_FIELDS = set(RunSpec.model_fields)  # one set for all specs that are read
_IN_CELL = sorted(set(_IN_ID) - {"method", "hyperparameters", "seed", "self_teacher"})
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def _identify(fields: Mapping[str, str]) -> tuple[str, str]:
    """Id and cell, of the canonical JSON of every field by name."""
    return (_hash(tuple([fields[name] for name in _IN_ID])),
            _hash_again(tuple([fields[name] for name in _IN_CELL])))


def _hash(parts: tuple[str, ...]) -> str:
    return _sha256(f"{{{','.join(parts)}}}")[:16]


_hash_again = lru_cache(maxsize=10_000)(_hash)  # of a cell: as many runs share it as there are methods and seeds


def _canonical_field(name: str, value: Any) -> str:
    """The field's part of the canonical JSON of a spec, given its value as JSON has it."""
    counts = _without_labels(value) if name in ("teacher", "self_teacher") else value
    return f'"{name}":{_canonical(counts)}'


def _without_labels(teacher: dict[str, Any] | None) -> dict[str, Any] | None:
    """A teacher without the name of its pair or the place of its file, neither of which changes a result."""
    if teacher is None or teacher["kind"] == "hub":
        return teacher
    if teacher["kind"] == "file":
        return {key: value for key, value in teacher.items() if key != "path"}
    run = {key: value for key, value in teacher["run"].items() if key != "pair"}
    return {**teacher, "run": run | {role: _without_labels(run[role]) for role in ("teacher", "self_teacher")}}


def _adapter(field: Any) -> TypeAdapter[Any]:
    """Validates one field of a spec by itself."""
    is_model = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return TypeAdapter(Annotated[field.annotation, field], config=None if is_model else RunSpec.model_config)


_ADAPTERS = {name: _adapter(field) for name, field in RunSpec.model_fields.items()}


@lru_cache(maxsize=10_000)
def _read_field(name: str, text: bytes) -> tuple[Any, str]:
    """The validated value of a field's JSON, and its part of the canonical JSON of a spec."""
    adapter = _ADAPTERS[name]
    try:
        value = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, ('spec', name, *first['loc'])))}: {first['msg']}") from error
    return value, _canonical_field(name, adapter.dump_python(value, mode="json"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
