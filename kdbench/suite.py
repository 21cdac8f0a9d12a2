"""Suites and pairs: TOML files in, a plan of run specs out. Free of torch."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from kdbench.data import catalog
from kdbench.errors import UserError, nearest, unknown
from kdbench.registry import MethodInfo, Registry
from kdbench.spec import (
    Architecture,
    FileTeacher,
    Frozen,
    HubTeacher,
    Recipe,
    RunSpec,
    TrainedTeacher,
    Value,
)
from kdbench.store import file_sha256

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


@dataclass(frozen=True)
class Selection:
    """What the command line narrows or overrides; None leaves the suite's own."""

    methods: Sequence[str] | None = None
    core: bool = False
    pairs: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    seeds: int | Sequence[int] | None = None
    settings: Sequence[str] = ()  # "kd.temperature=8", "recipe.epochs=3"
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Plan:
    """The runs of a suite, and the teachers that they need first."""

    suite: str
    teachers: tuple[RunSpec, ...]
    students: tuple[RunSpec, ...]
    methods: Mapping[str, MethodInfo] = field(repr=False)
    reference: str  # the one of the methods that trains the teachers


# Reading.

def built_in_suites() -> dict[str, Path]:
    """The suites that come with kdbench, by name."""
    folder = Path(str(resources.files("kdbench.suites")))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def built_in_pairs() -> dict[str, Pair]:
    """The named pairs that come with kdbench."""
    file = Path(str(resources.files("kdbench"))) / "pairs.toml"
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


# Expanding.

def expand(suite: Suite, registry: Registry, selection: Selection) -> Plan:
    """The plan of a suite, narrowed by a selection. UserError for any name or value that does not exist."""
    content = suite.content
    settings, recipe_settings = _parse_settings(selection.settings, registry)
    recipe = _validate(Recipe, {**content.recipe.model_dump(), **recipe_settings}, f"{suite.source}: recipe")
    teacher_recipe = _validate(
        Recipe, {**recipe.model_dump(), **content.teacher_recipe}, f"{suite.source}: teacher_recipe"
    )
    methods = _choose_methods(content, registry, selection)
    hyperparameters = {
        info.name: info.resolve({**content.hyperparameters.get(info.name, {}), **settings.get(info.name, {})})
        for info in methods.values()
    }
    for name in content.hyperparameters:
        registry[name]  # raises if there is no such method
    reference = registry[content.reference]
    teachers: dict[str, RunSpec] = {}
    students: list[RunSpec] = []
    datasets = {str(catalog.parse(name)): catalog.fingerprint(name) for name in selection.datasets or content.datasets}
    for pair_name in selection.pairs or content.pairs:
        if pair_name not in suite.pairs:
            raise unknown("pair", pair_name, suite.pairs)
        pair = suite.pairs[pair_name]
        for dataset, fingerprint in datasets.items():
            common: dict[str, Any] = {"pair": pair_name, "dataset": dataset, "dataset_digest": fingerprint,
                      "device": selection.device}
            trained: dict[str, Any] = {"method": reference.name, "hyperparameters": reference.resolve({}),
                       "seed": content.teacher_seed, **common}
            own = TrainedTeacher(run=RunSpec(student=pair.student, recipe=recipe, **trained))
            teacher = _teacher(pair, RunSpec(student=pair.teacher.architecture, recipe=teacher_recipe, **trained))
            students += [
                RunSpec(method=name, hyperparameters=hyperparameters[name], student=pair.student, teacher=teacher,
                        self_teacher=own if info.learns_from == "student" else None, recipe=recipe, seed=seed, **common)
                for seed in _seeds(selection.seeds or content.seeds) for name, info in methods.items()
            ]
            needed = [t for t in (teacher, own) if isinstance(t, TrainedTeacher)
                      and (t is teacher or any(info.learns_from == "student" for info in methods.values()))]
            teachers |= {t.run.id: t.run for t in needed}
    return Plan(suite.name, tuple(teachers.values()), tuple(students), {**methods, reference.name: reference},
                reference.name)


def _teacher(pair: Pair, run: RunSpec) -> TrainedTeacher | HubTeacher | FileTeacher:
    source, _, rest = pair.teacher.weights.partition(":")
    if source == "train":
        return TrainedTeacher(run=run)
    if source == "hub":
        return HubTeacher(architecture=pair.teacher.architecture, tag=rest)
    path = Path(rest).expanduser()
    if not path.is_file():
        raise UserError(f"pair {run.pair}: teacher weights {path}: no such file")
    return FileTeacher(architecture=pair.teacher.architecture, path=str(path), sha256=file_sha256(path))


def _seeds(seeds: int | Sequence[int]) -> Iterable[int]:
    return range(seeds) if isinstance(seeds, int) else seeds


def _choose_methods(content: SuiteFile, registry: Registry, selection: Selection) -> dict[str, MethodInfo]:
    if selection.methods is not None:
        names = list(selection.methods)
    elif selection.core and content.core:
        names = list(content.core)
    else:
        names = list(registry) if content.methods == "all" else list(content.methods)
    chosen = {name: registry[name] for name in names}
    return {name: chosen[name] for name in registry if name in chosen}


def _parse_settings(settings: Iterable[str], registry: Registry) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    by_method: dict[str, dict[str, Any]] = {}
    recipe: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        owner, dot, name = path.strip().partition(".")
        if not (equals and dot and name):
            raise UserError(f"--set {setting}: expected METHOD.HYPERPARAMETER=VALUE or recipe.NAME=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is a string
        if owner == "recipe":
            recipe[name] = value
        else:
            registry[owner].resolve({name: value})
            by_method.setdefault(owner, {})[name] = value
    return by_method, recipe
