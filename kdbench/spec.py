"""What one run does, as frozen, validated data. Its id is the hash of everything that can change the result.

Free of torch: specs are made, hashed and read back by the command line and the leaderboard.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = bool | int | float | str
PROTOCOL = 1  # raised whenever the engine changes what a spec results in, so that old records are not mixed with new


class Frozen(BaseModel):
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

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical JSON of what can change the result."""
        return identify(self.model_dump(mode="json"))[0]

    @property
    def cell(self) -> str:
        """What a comparison between methods must share: everything but the method and the seed."""
        return identify(self.model_dump(mode="json"))[1]


def identify(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Id and cell of a spec, given as JSON: 100,000 records can be checked without building their specs."""
    return identify_fields({name: SpecField.of(name, value) for name, value in spec.items()})


def identify_fields(fields: Mapping[str, "SpecField"]) -> tuple[str, str]:
    """`identify` of what `read_field` gave."""
    return (_hash(tuple([fields[name].canonical for name in _IN_ID])),
            _hash_again(tuple([fields[name].canonical for name in _IN_CELL])))


_IN_ID = sorted(RunSpec.model_fields.keys() - {"pair"})
_IN_CELL = sorted(set(_IN_ID) - {"method", "hyperparameters", "seed", "self_teacher"})


def _hash(parts: tuple[str, ...]) -> str:
    return _sha256(f"{{{','.join(parts)}}}")[:16]


_hash_again = lru_cache(maxsize=10_000)(_hash)  # a cell's: as many runs share it as there are methods and seeds


@dataclass(frozen=True)
class SpecField:
    """The value of a spec's field as JSON has it, and name and value as canonical JSON without what does not enter an
    id."""

    value: Any
    canonical: str

    @classmethod
    def of(cls, name: str, value: Any) -> "SpecField":
        counts = _without_labels(value) if name in ("teacher", "self_teacher") else value
        return cls(value, f'"{name}":{_canonical(counts)}')


@lru_cache(maxsize=10_000)
def read_field(name: str, text: bytes) -> SpecField:
    """A field as a record's file has it. Of 100,000 runs, thousands share a teacher, a recipe, a dataset."""
    return SpecField.of(name, json.loads(text))


def teacher_id(spec: RunSpec) -> str | None:
    """The id under which the teacher's predictions are kept: its run's, or a hash of its weights' source."""
    if spec.teacher is None:
        return None
    if isinstance(spec.teacher, TrainedTeacher):
        return spec.teacher.run.id
    teacher = spec.teacher.model_dump(mode="json", exclude={"path"})
    input_settings = {"image_size", "train_size", "augment", "normalise", "precision"}
    seen = spec.recipe.model_dump(mode="json", include=input_settings)
    return digest([teacher, spec.dataset, spec.dataset_digest, seen, spec.device])[:16]


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`."""
    return _sha256(_canonical(content))


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _without_labels(teacher: dict[str, Any] | None) -> dict[str, Any] | None:
    """A teacher without the name of its pair, or the place of its file: what is in it counts, not where it lies."""
    if teacher is None or teacher["kind"] == "hub":
        return teacher
    if teacher["kind"] == "file":
        return {key: value for key, value in teacher.items() if key != "path"}
    run = {key: value for key, value in teacher["run"].items() if key != "pair"}
    return {**teacher, "run": run | {role: _without_labels(run[role]) for role in ("teacher", "self_teacher")}}
