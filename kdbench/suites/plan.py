"""Expands a suite into its plan: the specs of all its runs, and of the teachers that they need first."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.data import catalog, collect
from kdbench.data.catalog import unlabelled_path
from kdbench.disk import file_sha256
from kdbench.errors import UserError, nearest, unknown
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import LEARNS_FROM, MethodInfo
from kdbench.spec import (
    MAX_SEED,
    Architecture,
    Device,
    FileTeacher,
    HubTeacher,
    Recipe,
    RunSpec,
    TrainedTeacher,
    Transfer,
    Value,
)
from kdbench.suites.suite import MAX_SEEDS, Pair, Suite, TransferTable
from kdbench.suites.validation import at, dotted, validate

MAX_RUNS = 200_000  # students' runs in a plan
TABLES = ("recipe", "transfer")  # owners of settings besides the methods


@dataclass(frozen=True)
class Selection:
    """The parts of a suite that a user narrows or overrides; None keeps what the suite says."""

    methods: Sequence[str] | None = None
    core: bool = False                         # only the suite's core methods; `methods` takes precedence
    pairs: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    seeds: int | Sequence[int] | None = None   # a number of seeds, counted from 0, or the seeds themselves
    settings: Mapping[str, Any] = field(default_factory=dict)  # {"kd.temperature": 8, "recipe.epochs": 3}
    device: Device = "cpu"

    def options(self, plugins: Iterable[Path]) -> list[str]:
        """The words of a command that ask for the settings, the plugin files and the device of this selection."""
        words = [word for name, value in self.settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
        words += [word for file in plugins for word in ("--plugin", str(file))]
        return words + (["--device", self.device] if self.device != "cpu" else [])


@dataclass(frozen=True)
class Plan:
    """The specs of all runs of a suite, and the methods that they use."""

    suite: str
    teachers: tuple[RunSpec, ...]  # to be finished before the students' runs begin
    students: tuple[RunSpec, ...]
    methods: Mapping[str, MethodInfo] = field(repr=False)  # by name: those of the students and of their teachers
    reference: str                 # the method that trains the teachers

    @property
    def images(self) -> list[tuple[str, int | None, Transfer | None]]:
        """The data that students are trained on: each combination of dataset, size of the training split (None: all of
        it) and unlabelled images (None: none) once. The share of unlabelled images in a batch makes no difference, and
        is set to 1."""
        return list(dict.fromkeys(
            (spec.dataset, spec.recipe.train_size, spec.transfer and spec.transfer.model_copy(update={"share": 1.0}))
            for spec in self.students))

    def seen_by_teachers(self, dataset: str) -> list[int | None]:
        """The sizes of the training splits of the pairs' teachers that are trained on a dataset, each once and in
        ascending order. None, which stands for the whole split, is last."""
        sizes = {spec.teacher.run.recipe.train_size for spec in self.students
                 if spec.dataset == dataset and isinstance(spec.teacher, TrainedTeacher)}
        return sorted(sizes, key=lambda size: (size is None, size))


def expand(suite: Suite, registry: Registry, selection: Selection) -> Plan:
    """The plan of a suite, narrowed by a selection. UserError for an unknown name, an invalid value or a missing file,
    and for a plan of too many runs."""
    content = suite.content
    settings, recipe_settings, transfer_settings = split_settings(selection.settings, registry)
    transfers = _transfers(suite, transfer_settings)
    for table, by_pair in (("recipes", content.recipes), ("teacher_recipes", content.teacher_recipes)):
        for name in by_pair:
            if name not in suite.pairs:
                with at(f"{suite.source}: {dotted(table, name)}"):
                    raise unknown("pair", name, suite.pairs)
            _recipes(suite, name, {})
    methods = _choose_methods(suite, registry, selection)
    given = _by_place(suite, registry)
    variants = _variants(suite, registry)
    with at(f"{suite.source}: reference"):
        reference = registry[content.reference]
    if reference.learns_from is not None:
        raise UserError(f"{suite.source}: reference: {reference.name} learns from a {reference.learns_from}, and what "
                        "trains the teachers must learn from none")
    wanted = {info.learns_from for info in methods.values()}
    helping = _assistant_method(suite, registry) if "assistant" in wanted else None
    teachers: dict[str, RunSpec] = {}
    students: dict[str, RunSpec] = {}
    datasets = _datasets(suite, selection)
    seeds = _seeds(content.seeds if selection.seeds is None else selection.seeds)
    pairs = selection.pairs or content.pairs
    settings_of = sum(1 + len(variants.get(name, ())) for name in methods)
    runs = len(pairs) * len(datasets) * len(transfers) * len(seeds) * settings_of
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
                name: _settings(info, _merged(given[name], catalog.parse(dataset), pair_name), variants.get(name, ()),
                                settings.get(name, {}))
                for name, info in methods.items()
            }
            trained: dict[str, Any] = {
                **common, "method": reference.name,
                "hyperparameters": reference.resolve(_merged(given[reference.name], catalog.parse(dataset), pair_name)),
                "seed": content.teacher_seed}
            own = TrainedTeacher(run=RunSpec(student=pair.student, recipe=recipe, **trained))
            teacher = _teacher(
                suite, pair, RunSpec(student=pair.teacher.architecture, recipe=teacher_recipe, **trained))
            tutors: dict[str | None, TrainedTeacher] = {"student": own}
            if helping is not None and pair.assistant is not None:
                tutors["assistant"] = TrainedTeacher(run=RunSpec(**trained | {
                    "method": helping.name, "student": pair.assistant, "teacher": teacher, "recipe": recipe,
                    "hyperparameters": helping.resolve(_merged(given[helping.name], catalog.parse(dataset), pair_name)),
                }))
            for transfer, seed, (name, info) in itertools.product(transfers, seeds, methods.items()):
                for chosen in hyperparameters[name]:
                    spec = RunSpec(method=name, hyperparameters=chosen, student=pair.student, teacher=teacher,
                                   self_teacher=tutors.get(info.learns_from), recipe=recipe, seed=seed,
                                   updates=content.budget.get(info.family, 1), transfer=transfer, **common)
                    _need_same_pair(students.setdefault(spec.id, spec), spec, suite.source)
            needed = [teacher.run] if isinstance(teacher, TrainedTeacher) else []
            needed += [one.run for kind, one in tutors.items() if kind in wanted]
            teachers |= {run.id: run for run in needed}
    training = {info.name: info for info in (reference, helping) if info is not None}
    return Plan(suite.name, tuple(teachers.values()), tuple(students.values()), {**methods, **training}, reference.name)


def _need_same_pair(first: RunSpec, second: RunSpec, source: str) -> None:
    """Raise UserError if two equal runs of a plan are of pairs with different names: one of these would have none."""
    if first.pair != second.pair:
        raise UserError(f"{source}: the pairs {first.pair} and {second.pair} give the same runs of {first.method}, as "
                        "student, teacher and recipe are the same: name one of them")


def _assistant_method(suite: Suite, registry: Registry) -> MethodInfo:
    """The method that trains assistants. UserError if it does not exist, or does not learn from the pair's teacher."""
    with at(f"{suite.source}: assistant_method"):
        method = registry[suite.content.assistant_method]
    if method.learns_from != "teacher":
        raise UserError(f"{suite.source}: assistant_method: {method.name} learns from {LEARNS_FROM[method.learns_from]}"
                        ", and what trains an assistant must learn from the pair's teacher")
    return method


def with_networks(pair: Pair, registry: Registry) -> Pair:
    """The pair with `source` set in each of its networks that are the user's own, to the SHA-256 of the network's
    plugin file. UserError if no plugin file that was given holds the network, or if the pair names another SHA-256."""
    sides: dict[str, Architecture] = {}
    for role, side in (("teacher", pair.teacher), ("student", pair.student), ("assistant", pair.assistant)):
        if side is None or not side.is_own:
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
    """The fingerprint of each dataset by its canonical name; None for a published dataset. UserError for a dataset that
    does not exist."""
    if selection.datasets:
        return {str(catalog.parse(name)): collect.fingerprint(name) for name in selection.datasets}
    with at(f"{suite.source}: datasets"):
        names = [str(suite.dataset(name)) for name in suite.content.datasets]
        return {name: collect.fingerprint(name) for name in names}


def _transfers(suite: Suite, settings: Mapping[str, Any]) -> list[Transfer | None]:
    """The settings of unlabelled images that each pair is run with on each dataset; None stands for labelled images
    alone. `settings` override keys of the suite's table. UserError for an unknown key, an invalid value or a folder
    without images."""
    table = suite.content.transfer
    if settings:
        table = validate(TransferTable, {**(table.model_dump() if table else {}), **settings}, "settings", "transfer")
    found: list[Transfer | None] = []
    for one in table.each() if table else [None]:
        if one is None:
            found.append(None)
            continue
        images, share = one
        path = unlabelled_path(images)
        if path is not None and "images" not in settings:
            images = f"imagefolder:{suite.path(path)}"
        with at("settings: transfer.images" if "images" in settings else f"{suite.source}: transfer.images"):
            digest = collect.transfer_fingerprint(images)
        found.append(Transfer(images=images, digest=digest, size=table.size if table else None, share=share))
    return found


def _recipes(suite: Suite, pair: str, settings: Mapping[str, Any]) -> tuple[Recipe, Recipe]:
    """The recipe of a pair's students, in which `settings` override the suite, and the recipe of its teacher, in which
    the suite's keys for teachers override that of the students. UserError for an unknown key or an invalid value."""
    content = suite.content
    recipe = validate(Recipe, {**content.recipe.model_dump(), **content.recipes.get(pair, {})}, suite.source,
                      dotted("recipes", pair))
    if settings:
        recipe = validate(Recipe, {**recipe.model_dump(), **settings}, "settings", "recipe")
    teacher = validate(Recipe, {**recipe.model_dump(), **content.teacher_recipe}, suite.source, "teacher_recipe")
    if own := content.teacher_recipes.get(pair):
        teacher = validate(Recipe, {**teacher.model_dump(), **own}, suite.source, dotted("teacher_recipes", pair))
    return recipe, teacher


Given = dict[str, Mapping[str, Any]]  # hyperparameters of a method by the pair or dataset that they are for; "": all


def _by_place(suite: Suite, registry: Registry) -> dict[str, Given]:
    """The hyperparameters that the suite sets, by method and then by pair or dataset. UserError for an unknown method,
    pair, dataset or hyperparameter, and for an invalid value."""
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


def _variants(suite: Suite, registry: Registry) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The suite's variants by method. UserError for an unknown method or hyperparameter, for an invalid value, for a
    list without variants, and for a variant that is empty or repeats an earlier one."""
    for method, variants in suite.content.variants.items():
        with at(f"{suite.source}: {dotted('variants', method)}"):
            info, seen = registry[method], list[Mapping[str, Any]]()
            if not variants:
                raise UserError("no variant in it, expected a list such as [{ NAME = VALUE }]")
            for number, values in enumerate(variants, 1):
                if not values:
                    raise UserError(f"variant {number} is empty: the method's own settings are run anyway")
                if (resolved := info.resolve(values)) in seen:
                    raise UserError(f"variant {number} is that of number {seen.index(resolved) + 1} once more")
                seen.append(resolved)
    return suite.content.variants


def _settings(info: MethodInfo, usual: Mapping[str, Any], variants: Sequence[Mapping[str, Any]],
              asked: Mapping[str, Any]) -> list[dict[str, Value]]:
    """The full hyperparameters of each run of a method, without repetition: those that are usual, then those of each
    variant. Values that the user `asked` for override both."""
    found: list[dict[str, Value]] = []
    for variant in ({}, *variants):
        resolved = info.resolve({**usual, **variant, **asked})
        if resolved not in found:
            found.append(resolved)
    return found


def _merged(given: Given, dataset: catalog.DatasetName, pair: str) -> dict[str, Any]:
    """The hyperparameters that the suite sets for a method on a dataset and a pair. What it sets for the pair overrides
    what it sets for the dataset, then for the dataset without modifiers, and then for all."""
    return {name: value for place in ("", dataset.base, str(dataset), pair)
            for name, value in given.get(place, {}).items()}


def _teacher(suite: Suite, pair: Pair, run: RunSpec) -> TrainedTeacher | HubTeacher | FileTeacher:
    """The pair's teacher: published weights, a file of weights, or `run`, which trains it from scratch or from such
    weights. UserError if a file of weights cannot be read."""
    weights = pair.teacher.weights
    if weights == "train":
        return TrainedTeacher(run=run)
    given = _given_weights(suite, pair, run.pair, weights.removeprefix("train:"))
    return TrainedTeacher(run=run.model_copy(update={"init": given})) if weights.startswith("train:") else given


def _given_weights(suite: Suite, pair: Pair, name: str, weights: str) -> HubTeacher | FileTeacher:
    """The teacher of the pair called `name` with its published weights ("hub:TAG") or those of a file ("file:PATH").
    UserError if the file cannot be read."""
    source, _, rest = weights.partition(":")
    if source == "hub":
        return HubTeacher(architecture=pair.teacher.architecture, tag=rest)
    path = suite.path(Path(rest)) if name in suite.content.pair else Path(rest)
    try:
        path = path.expanduser()
        if not path.is_file():
            raise RuntimeError("no such file")
        return FileTeacher(architecture=pair.teacher.architecture, path=str(path), sha256=file_sha256(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder to put in place of "~"
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{suite.source}: {dotted('pair', name, 'teacher', 'weights')}: teacher weights "
                        f"{str(path)[:200]}: {reason}") from error


def _seeds(seeds: int | Sequence[int]) -> Sequence[int]:
    chosen = range(min(seeds, MAX_SEEDS + 1)) if isinstance(seeds, int) else seeds
    if not chosen:
        raise UserError("seeds: expected one at least, got none")
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


def check_used(settings: Mapping[str, Any], plan: Plan) -> None:
    """Raise UserError for the setting of a method that no student of the plan is trained by."""
    owners = {*TABLES, *(spec.method for spec in plan.students)}
    for path in settings:
        if (owner := path.partition(".")[0]) not in owners:
            raise UserError(f"setting {path!r}: {owner} is not among the methods of this command")


def split_settings(settings: Mapping[str, Any],
                   registry: Registry) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Split settings such as {"kd.temperature": 8, "recipe.epochs": 3} into hyperparameters by method, keys of the
    recipe and keys of the table `transfer`. UserError for a setting without an owner, for an unknown method or
    hyperparameter, and for a value that a hyperparameter cannot have."""
    by_method: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    for path, value in settings.items():
        owner, dot, name = path.partition(".")
        if not dot:
            raise UserError(f"setting {path!r}: expected 'METHOD.HYPERPARAMETER', 'recipe.NAME' or 'transfer.NAME'")
        if owner in tables:
            tables[owner][name] = value
        else:
            registry[owner].resolve({name: value})
            by_method.setdefault(owner, {})[name] = value
    return by_method, tables["recipe"], tables["transfer"]
