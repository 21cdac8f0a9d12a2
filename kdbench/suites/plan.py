"""Expands a suite into its plan: the specs of all its runs, and of the teachers that they need first."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdbench.data import catalog, collect
from kdbench.disk import file_sha256
from kdbench.errors import UserError, nearest, unknown
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import MethodInfo
from kdbench.spec import MAX_SEED, Architecture, FileTeacher, HubTeacher, Recipe, RunSpec, TrainedTeacher
from kdbench.suites.suite import MAX_SEEDS, Pair, Suite
from kdbench.suites.validation import at, dotted, validate

MAX_RUNS = 200_000  # of a plan


@dataclass(frozen=True)
class Selection:
    """What a user narrows or overrides of a suite; None leaves the suite's own."""

    methods: Sequence[str] | None = None
    core: bool = False                         # only the suite's core methods; `methods` takes precedence
    pairs: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    seeds: int | Sequence[int] | None = None   # a number of seeds, counted from 0, or the seeds themselves
    settings: Mapping[str, Any] = field(default_factory=dict)  # {"kd.temperature": 8, "recipe.epochs": 3}
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Plan:
    """The runs of a suite."""

    suite: str
    teachers: tuple[RunSpec, ...]  # to be finished before the students' runs begin
    students: tuple[RunSpec, ...]
    methods: Mapping[str, MethodInfo] = field(repr=False)  # by name: those of the students, and the reference
    reference: str                 # the method that trains the teachers


def expand(suite: Suite, registry: Registry, selection: Selection) -> Plan:
    """The plan of a suite, narrowed by a selection. UserError for any name or value that does not exist."""
    content = suite.content
    settings, recipe_settings = split_settings(selection.settings, registry)
    for name in content.recipes:
        if name not in suite.pairs:
            with at(f"{suite.source}: {dotted('recipes', name)}"):
                raise unknown("pair", name, suite.pairs)
        _recipes(suite, name, {})
    methods = _choose_methods(suite, registry, selection)
    given = _by_place(suite, registry)
    with at(f"{suite.source}: reference"):
        reference = registry[content.reference]
    if reference.learns_from is not None:
        raise UserError(f"{suite.source}: reference: {reference.name} learns from a {reference.learns_from}, and what "
                        "trains the teachers must learn from none")
    teachers: dict[str, RunSpec] = {}
    students: list[RunSpec] = []
    datasets = _datasets(suite, selection)
    seeds, pairs = _seeds(selection.seeds or content.seeds), selection.pairs or content.pairs
    runs = len(pairs) * len(datasets) * len(seeds) * len(methods)
    if runs > MAX_RUNS:
        raise UserError(f"{suite.source}: {runs} runs, expected at most {MAX_RUNS}")
    for pair_name in pairs:
        if pair_name not in suite.pairs:
            with nullcontext() if selection.pairs else at(f"{suite.source}: pairs"):
                raise unknown("pair", pair_name, suite.pairs)
        with at(f"{suite.source}: pair {pair_name}"):
            pair = with_networks(suite.pairs[pair_name], registry)
        recipe, teacher_recipe = _recipes(suite, pair_name, recipe_settings)
        for dataset, fingerprint in datasets.items():
            common: dict[str, Any] = {
                "pair": pair_name, "dataset": dataset, "dataset_digest": fingerprint, "device": selection.device}
            hyperparameters = {
                name: info.resolve(_merged(given[name], catalog.parse(dataset), pair_name) | settings.get(name, {}))
                for name, info in methods.items()
            }
            trained: dict[str, Any] = {
                **common, "method": reference.name,
                "hyperparameters": reference.resolve(_merged(given[reference.name], catalog.parse(dataset), pair_name)),
                "seed": content.teacher_seed}
            own = TrainedTeacher(run=RunSpec(student=pair.student, recipe=recipe, **trained))
            teacher = _teacher(
                suite, pair, RunSpec(student=pair.teacher.architecture, recipe=teacher_recipe, **trained))
            students += [
                RunSpec(method=name, hyperparameters=hyperparameters[name], student=pair.student, teacher=teacher,
                        self_teacher=own if info.learns_from == "student" else None, recipe=recipe, seed=seed,
                        updates=content.budget.get(info.family, 1), **common)
                for seed in seeds for name, info in methods.items()
            ]
            needed = [teacher.run] if isinstance(teacher, TrainedTeacher) else []
            if any(info.learns_from == "student" for info in methods.values()):
                needed.append(own.run)
            teachers |= {run.id: run for run in needed}
    return Plan(suite.name, tuple(teachers.values()), tuple(students), {**methods, reference.name: reference},
                reference.name)


def with_networks(pair: Pair, registry: Registry) -> Pair:
    """The pair with the SHA-256 of the plugin file of each of its networks that are the user's own. UserError for one
    that stands in no file that was given, or if the pair asks for another SHA-256."""
    sides: dict[str, Architecture] = {}
    for role, side in (("teacher", pair.teacher), ("student", pair.student)):
        if not side.is_own:
            continue
        if side.model not in registry.networks:
            raise UserError(f"{role}: network {side.model!r} is in none of the files given by --plugin"
                            + nearest(side.model, registry.networks))
        found = registry.networks[side.model]
        if side.source not in (None, found.digest):
            raise UserError(f"{role}: {found.file} has the SHA-256 {found.digest}, the pair's source is {side.source}")
        sides[role] = side.model_copy(update={"source": found.digest})
    return pair.model_copy(update=sides)


def _datasets(suite: Suite, selection: Selection) -> dict[str, str | None]:
    """The fingerprint of each dataset by its name. UserError for one that does not exist."""
    if selection.datasets:
        return {str(catalog.parse(name)): collect.fingerprint(name) for name in selection.datasets}
    with at(f"{suite.source}: datasets"):
        names = [str(suite.dataset(name)) for name in suite.content.datasets]
        return {name: collect.fingerprint(name) for name in names}


def _recipes(suite: Suite, pair: str, settings: Mapping[str, Any]) -> tuple[Recipe, Recipe]:
    """The recipes of a pair's students and of its teacher. UserError for a key or value that a recipe does not have."""
    content = suite.content
    recipe = validate(Recipe, {**content.recipe.model_dump(), **content.recipes.get(pair, {})}, suite.source,
                      dotted("recipes", pair))
    if settings:
        recipe = validate(Recipe, {**recipe.model_dump(), **settings}, "settings", "recipe")
    teacher = {**recipe.model_dump(), **content.teacher_recipe}
    return recipe, validate(Recipe, teacher, suite.source, "teacher_recipe")


Given = dict[str, Mapping[str, Any]]  # hyperparameters of a method, by the pair or dataset they are for; "" is all


def _by_place(suite: Suite, registry: Registry) -> dict[str, Given]:
    """The suite's hyperparameters by method. UserError for a method, pair, dataset, hyperparameter or value that does
    not exist."""
    given: dict[str, Given] = {name: {} for name in registry}
    for key, values in suite.content.hyperparameters.items():
        method, at_sign, place = key.partition("@")
        with at(f"{suite.source}: {dotted('hyperparameters', key)}"):
            registry[method].resolve(values)
            if at_sign and place not in suite.pairs:
                base = place.partition("+")[0].partition(":")[0]
                if base not in catalog.DATASETS:
                    raise unknown("pair or dataset", place, {*suite.pairs, *catalog.DATASETS})
                place = place if place == base else str(suite.dataset(place))
        given[method][place] = values
    return given


def _merged(given: Given, dataset: catalog.DatasetName, pair: str) -> dict[str, Any]:
    """A method's hyperparameters for a dataset and a pair: the more particular a place, the later its word."""
    return {name: value for place in ("", dataset.base, str(dataset), pair)
            for name, value in given.get(place, {}).items()}


def _teacher(suite: Suite, pair: Pair, run: RunSpec) -> TrainedTeacher | HubTeacher | FileTeacher:
    """The pair's teacher; `run` is the run that trains it, if its weights are not published or a file. UserError if
    that file is missing."""
    source, _, rest = pair.teacher.weights.partition(":")
    if source == "train":
        return TrainedTeacher(run=run)
    if source == "hub":
        return HubTeacher(architecture=pair.teacher.architecture, tag=rest)
    path = suite.path(Path(rest)) if run.pair in suite.content.pair else Path(rest)
    try:
        path = path.expanduser()
        if not path.is_file():
            raise RuntimeError("no such file")
        return FileTeacher(architecture=pair.teacher.architecture, path=str(path), sha256=file_sha256(path))
    except (OSError, RuntimeError) as error:  # the latter for "~" where nobody is at home
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{suite.source}: {dotted('pair', run.pair, 'teacher', 'weights')}: teacher weights "
                        f"{str(path)[:200]}: {reason}") from error


def _seeds(seeds: int | Sequence[int]) -> Sequence[int]:
    chosen = range(min(seeds, MAX_SEEDS + 1)) if isinstance(seeds, int) else seeds
    if len(chosen) > MAX_SEEDS or not all(0 <= seed <= MAX_SEED for seed in chosen):
        raise UserError(f"seeds: expected at most {MAX_SEEDS} of them, each from 0 to {MAX_SEED}")
    return chosen


def _choose_methods(suite: Suite, registry: Registry, selection: Selection) -> dict[str, MethodInfo]:
    """The selected methods by name, in the registry's order. UserError for an unknown name."""
    content = suite.content
    if selection.methods is not None:
        chosen = {name: registry[name] for name in selection.methods}
    else:
        key, names = ("core", content.core) if selection.core and content.core else ("methods", content.methods)
        with at(f"{suite.source}: {key}"):
            chosen = dict(registry) if names == "all" else {name: registry[name] for name in names}
    return {name: chosen[name] for name in registry if name in chosen}


def split_settings(settings: Mapping[str, Any],
                   registry: Registry) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Settings as hyperparameters by method, and as fields of the recipe. UserError for a hyperparameter that does not
    exist or may not have the value."""
    by_method: dict[str, dict[str, Any]] = {}
    recipe: dict[str, Any] = {}
    for path, value in settings.items():
        owner, dot, name = path.partition(".")
        if not dot:
            raise UserError(f"setting {path!r}: expected 'METHOD.HYPERPARAMETER' or 'recipe.NAME'")
        if owner == "recipe":
            recipe[name] = value
        else:
            registry[owner].resolve({name: value})
            by_method.setdefault(owner, {})[name] = value
    return by_method, recipe
