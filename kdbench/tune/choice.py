"""Which trial of a study is chosen, the file that records the choices, and plans that use them.

The rule: the default (the first trial) is chosen, unless trials beat it by more than one standard error of the paired
difference over the tune seeds; of those, the one with the highest mean validation accuracy is chosen, and the earliest
if several are equal. The rule guards against ties and small noise, and is not a test: with two seeds, some of sixteen
trials pass it by chance. What a choice is worth is measured by final runs on seeds that no trial used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from kdbench.disk import atomic_write, read_file
from kdbench.errors import UserError, unknown
from kdbench.plugins.source import Hyperparameter, MethodInfo, Value
from kdbench.results.store import Store
from kdbench.spec import OwnRecipe, RunSpec
from kdbench.suites.plan import Plan
from kdbench.suites.validation import at, validate
from kdbench.tune.space import RECIPE, SHARED

ROUNDING = 1e-12  # smaller gains of a mean are rounding errors
RULE = ("the default, unless another trial beats it by more than one standard error of the paired difference over the "
        "tune seeds; of those the one with the highest mean validation accuracy, of equal ones the earliest")


class Trial(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One setting of a method, trained once for each tune seed."""

    number: int                        # counted from 0, which is the default
    hyperparameters: dict[str, Value]  # the values of all hyperparameters
    recipe: dict[str, float]           # the recipe's values that differ from the suite's
    status: str                        # "ok", else the status of the first run that failed, or "pruned" if none did
    reason: str | None = None
    accuracies: list[float | None]     # on all validation images, one per tune seed; None: no result
    runs: list[str]                    # the ids of the runs, one per tune seed
    seconds: float                     # of training, the sum of the runs, each on one core
    saved: float = 0.0                 # share of its steps that pruning saved

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy over the tune seeds; None for a trial that failed or was pruned."""
        values = [value for value in self.accuracies if value is not None]
        return fmean(values) if self.status == "ok" and values else None


class Choice(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What was chosen for a method in a cell, and the trials that it was chosen from."""

    method: str
    method_digest: str
    pair: str
    dataset: str
    cell: str
    trial: int                         # the number of the chosen trial
    status: Literal["tuned", "default", "failed", "inapplicable"]  # "default": no trial beat it; "failed": all failed
    hyperparameters: dict[str, Value]
    recipe: dict[str, float]
    accuracy: float | None             # mean validation accuracy of the chosen trial
    default_accuracy: float | None
    standard_error: float | None       # of the paired difference of both; None for the default, and with one seed
    seconds: float                     # of training, the sum of all trials, on one core each
    saved: float | None = None         # share of the steps of all trials that pruning saved; None without a pruner
    importance: dict[str, float] = {}  # of each value: see kdbench.tune.summary.importances
    trials: list[Trial]                # empty if the choice was carried
    carried_from: str | None = None    # the pair on which it was tuned, if that is another one
    default: dict[str, Value] = {}     # of a carried choice: the hyperparameters by default

    @property
    def default_hyperparameters(self) -> dict[str, Value]:
        """The values of all hyperparameters by default, in the choice's cell."""
        return self.trials[0].hyperparameters if self.trials else self.default


class Choices(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of choices.json."""

    schema_version: Literal[1] = 1
    suite: str
    rule: str = RULE
    study: dict[str, Any]              # sampler, its settings and seed, optuna's version; a pruner and its settings
    seeds: list[int]                   # that the trials used, and that no final run may use
    choices: list[Choice] = field(default_factory=list)


def choose(trials: Sequence[Trial]) -> tuple[int, float | None]:
    """The number of the trial to choose by the rule, and the standard error of its paired difference to the default;
    None if the default is chosen. With a single seed there is no standard error either, and any gain counts."""
    default = trials[0]
    known = [(trial.accuracy, -trial.number, standard_error(trial, default)) for trial in trials
             if trial.accuracy is not None]
    if default.accuracy is not None:
        least = default.accuracy + ROUNDING
        known = [(accuracy, number, error) for accuracy, number, error in known if accuracy > least + (error or 0.0)]
    _, number, error = max(known, key=lambda one: one[:2], default=(0.0, 0, None))
    return -number, error


def standard_error(trial: Trial, default: Trial) -> float | None:
    """The standard error of the mean difference in accuracy between a trial and the default, paired by seed; None
    unless both have an accuracy for two seeds or more."""
    pairs = zip(trial.accuracies, default.accuracies, strict=True)
    differences = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    return stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None


def write_choices(folder: Path, choices: Choices) -> None:
    """Write the choices into a folder of results. They replace those for the same methods and cells that the folder
    holds; others stay. UserError if the folder's file of choices is damaged."""
    file = Store(folder).files.tuning.choices
    if file.exists():
        before, new = read_choices(folder), {(one.method, one.cell) for one in choices.choices}
        kept = [one for one in before.choices if (one.method, one.cell) not in new]
        choices = msgspec.structs.replace(
            choices, seeds=sorted({*before.seeds, *choices.seeds}),
            choices=sorted([*kept, *choices.choices], key=lambda one: (one.pair, one.dataset, one.cell, one.method)))
    content = msgspec.json.encode(choices)
    atomic_write(file, msgspec.json.format(content, indent=1) + b"\n")


def read_choices(folder: Path) -> Choices:
    """The choices that `kdbench tune` wrote into a folder. UserError if there are none or if their file is damaged."""
    file = Store(folder).files.tuning.choices
    try:
        return msgspec.json.decode(read_file(file), type=Choices)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no choices here (expected {file}); `kdbench tune` makes them") from error
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise UserError(f"{file}: cannot be used: {' '.join(str(error).split())[:300]}; `kdbench tune` with the same "
                        "options makes it again") from error


def choices_for(plan: Plan, folder: Path, tuned_on: Plan | None = None) -> Choices:
    """The folder's choices for the methods and cells of the plan's students, whose settings must be their defaults.

    If `tuned_on` is given, a plan of the same suite for one pair, the choices are those for its students, carried to
    the cells of the plan (see `_carried`). UserError if the folder has no choices or their file is damaged, if nothing
    was chosen for one of the students, if it was tuned around other hyperparameters than the plan's, or if trials used
    a seed of the plan.
    """
    found = read_choices(folder)
    if used := sorted({spec.seed for spec in plan.students} & set(found.seeds)):
        raise UserError(f"--tuned {folder}: seed {used[0]} was used by the trials: final runs take seeds of their own")
    by_place = {(one.method, one.cell): one for one in found.choices}
    sources = {(spec.method, spec.dataset, spec.transfer): spec  # of several settings the first, which is tuned
               for spec in reversed((tuned_on or plan).students)}
    chosen: dict[tuple[str, str], Choice] = {}
    for spec in plan.students:
        place = spec.method, spec.cell
        if place not in chosen:
            method = plan.methods[spec.method]
            source = sources[spec.method, spec.dataset, spec.transfer] if tuned_on else spec
            own = _chosen(source, by_place.get((source.method, source.cell)), method, folder)
            chosen[place] = own if source.cell == spec.cell else _carried(own, source, spec, method.hyperparameters)
    return msgspec.structs.replace(found, choices=list(chosen.values()))


def check_carried(choices: Choices, folder: Path) -> None:
    """Raise UserError if a choice was carried to a pair for which a results folder has a choice of the pair's own
    trials, which it would replace there."""
    carried = [one for one in choices.choices if one.carried_from]
    if not carried or not Store(folder).files.tuning.choices.exists():
        return
    own = {(one.method, one.cell) for one in read_choices(folder).choices if one.trials}
    for one in carried:
        if (one.method, one.cell) in own:
            raise UserError(f"--tuned-on {one.carried_from}: {one.method} was tuned on {one.pair} itself in {folder}: "
                            "leave it out of the run, or --tuned-on")


def with_choices(plan: Plan, choices: Choices) -> Plan:
    """The plan with the hyperparameters and values of the recipe that were chosen for each student's method in its
    cell. `choices` must be those that `choices_for` returns for the plan."""
    by_place = {(one.method, one.cell): one for one in choices.choices}
    of_students = ((spec, by_place[spec.method, spec.cell]) for spec in plan.students)
    chosen = (with_values(spec, choice.hyperparameters, choice.recipe) for spec, choice in of_students)
    return replace(plan, students=tuple({spec.id: spec for spec in chosen}.values()))  # variants get the same choice


def _chosen(spec: RunSpec, choice: Choice | None, method: MethodInfo, folder: Path) -> Choice:
    """The choice for a student. UserError if there is none, if it was tuned around other hyperparameters, or if its
    values are not ones that the method or a recipe allows."""
    if choice is None:
        raise UserError(f"--tuned {folder}: nothing was chosen for {spec.method} ({spec.pair}, {spec.dataset}) with "
                        "this recipe and teacher: tune it in that folder first, with the same suite and settings")
    default = choice.default_hyperparameters
    if default != spec.hyperparameters:
        name = next(name for name in {**default, **spec.hyperparameters}
                    if default.get(name) != spec.hyperparameters.get(name))
        raise UserError(f"--tuned {folder}: {spec.method} was tuned around {name}={default.get(name)!r}, and here it "
                        f"is {spec.hyperparameters.get(name)!r}")
    with at(f"{Store(folder).files.tuning.choices}: {spec.pair}, {spec.dataset}"):
        if missing := sorted(spec.hyperparameters.keys() - choice.hyperparameters.keys()):
            raise UserError(f"{spec.method}: no value of {missing[0]}")
        values = method.resolve(choice.hyperparameters)
        for name in choice.recipe:
            if name not in SHARED:
                raise unknown(f"{spec.method}: tuned value of the recipe", name, SHARED)
        validate(OwnRecipe, choice.recipe, spec.method, RECIPE)
    return msgspec.structs.replace(choice, hyperparameters=values)


def _carried(choice: Choice, source: RunSpec, spec: RunSpec, facts: Mapping[str, Hyperparameter]) -> Choice:
    """The choice that was made for the student `source`, for the student `spec` of the same method on another pair.

    Where the defaults of both differ, as a rate or a weight that a suite sets by pair may, the default of `spec`
    changes by the factor by which tuning changed that of `source`, within the allowed range; else the chosen value is
    taken.
    """
    hyperparameters = {name: _scaled(value, source.hyperparameters[name], spec.hyperparameters[name], facts[name].range)
                       for name, value in choice.hyperparameters.items()}
    recipe = {name: float(_scaled(value, getattr(source.recipe, name), getattr(spec.recipe, name), None))
              for name, value in choice.recipe.items()}
    return Choice(
        method=choice.method, method_digest=choice.method_digest, pair=spec.pair, dataset=spec.dataset, cell=spec.cell,
        trial=choice.trial, status=choice.status, hyperparameters=hyperparameters, recipe=recipe, accuracy=None,
        default_accuracy=None, standard_error=None, seconds=0.0, trials=[],
        carried_from=choice.carried_from or source.pair, default=spec.hyperparameters)


def _scaled(chosen: Value, source: Value, here: Value, limits: tuple[Value, ...] | None) -> Value:
    """What a value that is `here` by default becomes by a choice that was made where it is `source` by default."""
    if source == here or not (isinstance(chosen, float) and isinstance(source, float) and isinstance(here, float)):
        return chosen
    value = here * (chosen / source) if source else chosen
    return value if limits is None else min(max(value, float(limits[0])), float(limits[1]))


def with_values(spec: RunSpec, hyperparameters: dict[str, Value], recipe: dict[str, float]) -> RunSpec:
    """The spec with these hyperparameters, and with `recipe` as its own values of the recipe, by name."""
    return spec.model_copy(update={"hyperparameters": hyperparameters,
                                   "own_recipe": OwnRecipe(**recipe) if recipe else None})
