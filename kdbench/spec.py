"""What one run does, as frozen, validated data. Its id is the hash of everything that can change the result.

Free of torch: specs are made, hashed and read back by the command line and the leaderboard.
"""

import hashlib
import json
import marshal
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


def identify(spec: dict[str, Any]) -> tuple[str, str]:
    """Id and cell of a spec, given as JSON: 100,000 records can be checked without building their specs."""
    parts = {key: f'"{key}":{_canonical_of(marshal.dumps(value, 2))}' for key, value in
             sorted(_without_labels(spec).items())}
    whole = ",".join(parts.values())
    for key in ("method", "hyperparameters", "seed", "self_teacher"):
        del parts[key]
    return _sha256(f"{{{whole}}}")[:16], _sha256(f"{{{','.join(parts.values())}}}")[:16]


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


@lru_cache(maxsize=10_000)
def _canonical_of(value: bytes) -> str:
    """The canonical JSON of a marshalled value: a thousand runs share a teacher, a recipe, a dataset."""
    return _canonical(marshal.loads(value))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _without_labels(spec: dict[str, Any]) -> dict[str, Any]:
    spec = {key: value for key, value in spec.items() if key != "pair"}
    for role in ("teacher", "self_teacher"):
        teacher = spec[role]
        if teacher and teacher["kind"] == "run":
            spec[role] = {**teacher, "run": _without_labels(teacher["run"])}
        elif teacher and teacher["kind"] == "file":  # where it lies does not matter, what is in it does
            spec[role] = {key: value for key, value in teacher.items() if key != "path"}
    return spec
