"""Suites and pairs: TOML files in, a plan of run specs out. Free of torch."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from kdbench.errors import UserError, nearest, unknown
from kdbench.spec import Architecture, Frozen, Recipe, Value

PAIRS = "pairs.toml"  # the named pairs, beside the suites
Model = TypeVar("Model", bound=BaseModel)


class TeacherSide(Architecture):
    """A pair's teacher and where its weights come from: "train", "hub:TAG" (timm's tag) or "file:PATH"."""

    weights: str = "train"

    @field_validator("weights")
    @classmethod
    def _known_source(cls, weights: str) -> str:
        source, _, rest = weights.partition(":")
        if weights != "train" and (source not in ("hub", "file") or not rest):
            raise ValueError("expected 'train', 'hub:TAG' or 'file:PATH'")
        return weights

    @property
    def architecture(self) -> Architecture:
        return Architecture(model=self.model, kwargs=self.kwargs)


class Pair(Frozen):
    """A fixed teacher and student."""

    description: str = ""
    image_size: int = Field(32, ge=4, description="of the images that it is made for, in pixels")
    teacher: TeacherSide
    student: Architecture


class SuiteFile(Frozen):
    """What a suite's TOML file may say."""

    description: str = ""
    methods: Literal["all"] | tuple[str, ...] = "all"
    core: tuple[str, ...] = Field((), description="the methods of `--core`; none: all")
    pairs: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int | tuple[int, ...] = Field(3, description="how many, from 0, or which")
    reference: str = Field("ce", description="the method that trains the teachers")
    teacher_seed: int = Field(1000, description="of the teachers' runs, apart from the students' seeds")
    recipe: Recipe
    teacher_recipe: dict[str, Any] = Field({}, description="where the teachers' recipe differs")
    pair: dict[str, Pair] = Field({}, description="pairs of the suite's own")
    hyperparameters: dict[str, dict[str, Value]] = Field({}, description="by method, where not its defaults")

    @field_validator("pairs", "datasets")
    @classmethod
    def _some(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("name at least one")
        return names

    @field_validator("seeds")
    @classmethod
    def _positive(cls, seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if (seeds < 1) if isinstance(seeds, int) else (not seeds or min(seeds) < 0):
            raise ValueError("expected a count of at least 1, or a list of seeds from 0 up")
        return seeds


@dataclass(frozen=True)
class Suite:
    """A suite by name, with the pairs that it can name."""

    name: str
    content: SuiteFile
    pairs: Mapping[str, Pair]
    source: str  # where it came from, for messages


# Reading.

def built_in_suites() -> dict[str, Path]:
    """The suites that come with kdbench, by name."""
    folder = Path(str(resources.files("kdbench.suites")))
    return {file.stem: file for file in sorted(folder.glob("*.toml")) if file.name != PAIRS}


def built_in_pairs() -> dict[str, Pair]:
    """The named pairs that come with kdbench."""
    file = Path(str(resources.files("kdbench.suites"))) / PAIRS
    return {name: _validate(Pair, content, f"{file}: {name}") for name, content in _read_toml(file).items()}


def load_suite(name: str) -> Suite:
    """A built-in suite by name or a user's by the path of its TOML file. UserError with file and line if malformed."""
    known = built_in_suites()
    if name in known:
        file = known[name]
    elif name.endswith(".toml") or "/" in name or Path(name).is_file():
        file = Path(name)
        if not file.is_file():
            raise UserError(f"suite {name}: no such file")
    else:
        raise unknown("suite", name, known)
    content = _validate(SuiteFile, _read_toml(file), str(file))
    return Suite(file.stem, content, {**built_in_pairs(), **content.pair}, str(file))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:  # its message ends in "(at line 3, column 5)"
        message, _, place = str(error).partition(" (at ")
        line = place.removeprefix("line ").split(",")[0]
        raise UserError(f"{file}:{line if line.isdigit() else 'end'}: malformed TOML: {message}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _validate(model: type[Model], content: Any, where: str) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(_explain(model, e) for e in error.errors())}") from error


def _explain(model: type[BaseModel], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        in_recipe = error["loc"][0] == "recipe" and len(error["loc"]) > 1
        fields = Recipe.model_fields if in_recipe else model.model_fields
        return f"{path}: unknown key{nearest(str(error['loc'][-1]), fields)}"
    if error["type"] == "missing":
        return f"{path}: missing"
    return f"{path}: {error['msg']}, got {error['input']!r}"
