"""Runs the trials of a plan's methods, the same number for each, and chooses.

The records of the trials are the only state of a study. Whenever it starts, the search begins anew with its seed, the
same batches are asked for, and the search is told what the records say; only runs without a record are run. So a study
that was killed at any moment continues as if it had not been, and there is no second state that could disagree:
optuna's journal is written from the same asking and telling, for other tools to read.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from kdbench.data import catalog, collect
from kdbench.disk import atomic_write, read_file
from kdbench.errors import UserError
from kdbench.execution.display import make_display
from kdbench.execution.estimate import Estimator
from kdbench.execution.executor import Executor
from kdbench.execution.matrix import Matrix
from kdbench.execution.pool import PREFLIGHT
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.seeds import derive
from kdbench.spec import MAX_SEED, RunSpec
from kdbench.suites.plan import Plan
from kdbench.suites.suite import Suite
from kdbench.tune.choice import Choice, Choices, Trial, choose, with_values, write_choices
from kdbench.tune.pruner import (
    Curve,
    Thresholds,
    curve_of,
    mean_curve,
    pruner_settings,
    share_saved,
    thresholds,
)
from kdbench.tune.sampler import BATCH, Search, Values, grid_size, journal, settings_of
from kdbench.tune.space import RECIPE, Space, check_names, space_of
from kdbench.tune.summary import importances

FIRST_SEED = 1_000_000  # the first seed of trials: final runs count their seeds from 0
MOST_SEEDS = 100
MOST_TRIALS = 10_000
NO_TEACHER = "its teacher, run"  # how the reason of a run begins whose teacher failed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The settings of a study."""

    trials: int = 16        # number of trials of each method in each cell
    seeds: int = 2          # number of seeds that each trial is trained with
    sampler: str = "tpe"    # one of kdbench.tune.sampler.SAMPLERS
    sampler_seed: int = 0
    pruner: str = "off"     # one of kdbench.tune.pruner.PRUNERS

    def check(self) -> None:
        """Raise UserError for a number that is out of range, or an unknown sampler or pruner."""
        for name, value, low, high in (("--trials", self.trials, 1, MOST_TRIALS),
                                       ("--tune-seeds", self.seeds, 1, MOST_SEEDS),
                                       ("--sampler-seed", self.sampler_seed, 0, MAX_SEED)):
            if not low <= value <= high:
                raise UserError(f"{name} {value}: expected {low} to {high}")
        settings_of(self.sampler)
        pruner_settings(self.pruner)

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        return tuple(range(FIRST_SEED, FIRST_SEED + self.seeds))


@dataclass
class Study:
    """The search for one method in one cell, and its trials so far."""

    method: MethodInfo
    default: RunSpec  # the run with untuned values and the first tune seed
    space: Space
    trials: list[Trial] = field(default_factory=list)
    search: Search | None = None
    most: int = 0     # maximum number of trials
    inapplicable: bool = False
    pruner: str = "off"
    curves: list[list[Curve]] = field(default_factory=list)  # of each finished trial, one per seed

    @property
    def name(self) -> str:
        return f"{self.method.name}  {self.default.pair}  {self.default.dataset}  {self.default.cell}"

    @property
    def open(self) -> bool:
        return not self.inapplicable and len(self.trials) < self.most

    def values_of(self, values: Values) -> tuple[dict[str, Any], dict[str, Any]]:
        """All hyperparameters of a trial with these values, and the values of the recipe that differ from the
        suite's."""
        own = {name: value for name, value in values.items() if not name.startswith(f"{RECIPE}.")}
        recipe = {name.removeprefix(f"{RECIPE}."): value for name, value in values.items() if name not in own}
        shared = self.default.recipe
        return {**self.default.hyperparameters, **own}, {
            name: value for name, value in recipe.items() if value != getattr(shared, name)}

    def specs(self, values: Values, seeds: Sequence[int]) -> list[RunSpec]:
        """The runs of a trial with these values, one for each seed."""
        return [with_values(self.default.model_copy(update={"seed": seed}), *self.values_of(values)) for seed in seeds]

    def stop_below(self, place: int) -> Thresholds:
        """The thresholds for runs of the next batch that have the tune seed at this place; empty without a pruner."""
        if self.pruner == "off":
            return ()
        return thresholds([curves[place] for curves in self.curves], self.default.training.epochs)

    def identity(self) -> dict[str, Any]:
        """Everything that the study's trials depend on, by name, besides the settings that all studies share."""
        return {"space": [one.as_json() for one in self.space], "hyperparameters": self.default.hyperparameters,
                "updates": self.default.updates, "method": self.method.digest}


def studies_of(suite: Suite, plan: Plan, methods: Mapping[str, MethodInfo], settings: Settings) -> list[Study]:
    """The studies of a plan, one for each method in each cell. UserError for a space that cannot be searched, or a grid
    with more points than trials."""
    check_names(suite.content.space, methods, suite.source)
    first: dict[tuple[str, str], RunSpec] = {}
    for spec in plan.students:
        first.setdefault((spec.method, spec.cell), spec)
    found = []
    for spec in first.values():
        info = plan.methods[spec.method]
        space = space_of(info, spec.hyperparameters, spec.recipe, suite.content.space, suite.source)
        most = settings.trials if space else 1
        if settings.sampler == "grid":
            if (points := grid_size(space)) > settings.trials:
                raise UserError(
                    f"--trials {settings.trials}: fewer than the {points} points of the grid of {info.name} "
                    f"({', '.join(one.name for one in space)}); give it more, or fix values in the suite's [space]")
            most = points
        found.append(Study(info, spec, space, most=most, pruner=settings.pruner))
    return found


def check_validation(plan: Plan, cache: CacheFolder) -> None:
    """Raise UserError if a dataset of the plan has no validation images, by which trials are compared."""
    for name, size in {(spec.dataset, spec.recipe.train_size) for spec in plan.students}:
        if not len(collect.collect(catalog.parse(name), cache.data, size).splits["validation"]):
            raise UserError(f"dataset {name}: no validation images, and tuning chooses by nothing else")


def tune(suite: Suite, plan: Plan, methods: Mapping[str, MethodInfo], settings: Settings, folder: Path,
         cache: CacheFolder, pool: Executor, estimator: Estimator, say: Say,
         teacher_cache: int | None = None) -> Choices:
    """Run the trials that have no record yet, choose, write the choices and return them. The plan's students have the
    tune seeds. `teacher_cache` is the number of bytes for teacher passes that runs share; None is the default.

    UserError, before anything is written, for settings that are not allowed, a space that cannot be searched, a dataset
    without validation images, a folder that holds another study, and for what the preflight of its runs refuses.
    UserError later if a teacher cannot be trained.
    """
    settings.check()
    studies = studies_of(suite, plan, methods, settings)
    check_validation(plan, cache)
    shared = {**settings_of(settings.sampler), "sampler_seed": settings.sampler_seed,
              "seeds": list(settings.seed_numbers), **pruner_settings(settings.pruner)}
    files = Store(folder).files.tuning
    written = _merged(files.study, folder, shared, studies)
    if not files.study.exists():  # a study that was begun has passed it
        pool.call(PREFLIGHT, list(plan.students), plan.methods, cache, pool.here)
    with Store(files.root).lock():
        atomic_write(files.study, msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
        storage = journal(files.journal)
        for study in studies:
            seed = derive(settings.sampler_seed, "tune", study.method.name, study.default.cell)
            study.search = Search(study.space, settings.sampler, seed, storage, study.name)
        while running := [study for study in studies if study.open]:
            _round(running, plan, settings, Runner(folder, cache, pool, estimator, say, teacher_cache))
        choices = Choices(suite=suite.name, study=shared, seeds=list(settings.seed_numbers),
                          choices=[_choice(study) for study in studies])
        write_choices(folder, choices)
    return choices


def _merged(file: Path, folder: Path, shared: dict[str, Any], studies: Collection[Study]) -> dict[str, Any]:
    """The content of the folder's file of studies, with these studies added. UserError if the file is damaged, or if
    its trials depend on something else than the trials of these studies."""
    own = {study.name: study.identity() for study in studies}
    try:
        content = msgspec.json.decode(read_file(file), type=dict[str, Any])
        before, known = dict(content["shared"]), dict(content["studies"])
    except FileNotFoundError:
        return {"shared": shared, "studies": own}
    except (OSError, msgspec.MsgspecError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be used: {' '.join(str(error).split())[:300]}; choose another folder with "
                        "--out") from error
    _need_same(folder, "", before, shared)
    for name in own.keys() & known.keys():
        _need_same(folder, f"{name}: ", known[name], own[name])
    return {"shared": shared, "studies": dict(sorted({**known, **own}.items()))}


def _need_same(folder: Path, what: str, before: Any, now: dict[str, Any]) -> None:
    now = msgspec.json.decode(msgspec.json.encode(now))
    before = before if isinstance(before, dict) else {}
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            values = [str(some.get(key))[:120] for some in (before, now)]
            raise UserError(f"{folder}: it holds another study: {what}{key} is {values[0]} there and {values[1]} here; "
                            "choose another folder with --out")


@dataclass(frozen=True)
class Runner:
    """Runs trials: where their records go, which processes run them, and how progress is shown."""

    folder: Path
    cache: CacheFolder
    pool: Executor
    estimator: Estimator
    say: Say
    teacher_cache: int | None = None  # bytes for teacher passes that runs share; None: the default

    def run(self, plan: Plan, stops: Mapping[str, Thresholds]) -> None:
        """Run the trials of the plan that have no record yet, each run with the thresholds for its id. UserError if a
        teacher cannot be trained; the records of the runs that need it are removed."""
        matrix = Matrix(plan, self.folder, self.cache, self.say, role="trial")
        _forget_unbegun(matrix)  # those on an object store come back, since they are not removed there
        # Failed runs are not tried again: another outcome could change the rest of the study.
        jobs = [replace(job, stop_below=stops.get(job.id, ())) for job in matrix.pending(retry=())]
        if not jobs:
            return
        reasons, sizes = self.pool.call(PREFLIGHT, [job.spec for job in jobs], plan.methods, self.cache,
                                         self.pool.here)
        if self.teacher_cache != 0:
            jobs = matrix.share_teachers(jobs, sizes, self.teacher_cache)
        matrix.run(jobs, reasons, self.pool, make_display(self.pool.workers, self.estimator))
        if failed := _forget_unbegun(matrix):
            raise UserError(f"{failed}; the same command tries again")


def _forget_unbegun(matrix: Matrix) -> str:
    """Remove the records of the plan's runs that never began because their teacher failed, and return the reason of the
    last one; "" if there are none."""
    failed = ""
    for spec in matrix.plan.students:
        record = matrix.store.get(spec.id)
        if isinstance(record, Record) and (record.reason or "").removeprefix("crashed: ").startswith(NO_TEACHER):
            matrix.store.files.record(spec.id).unlink()
            failed = str(record.reason)
    return failed


def _round(studies: list[Study], plan: Plan, settings: Settings, runner: Runner) -> None:
    """Run one batch of each study: ask for the suggestions of all studies, run all trials, then tell all results."""
    seeds = settings.seed_numbers
    asked: list[tuple[Study, list[Values], list[list[RunSpec]]]] = []
    for study in studies:
        assert study.search is not None
        values = study.search.ask(min(BATCH, study.most - len(study.trials)))
        asked.append((study, values, [study.specs(one, seeds) for one in values]))
    runs: dict[str, RunSpec] = {}
    stops: dict[str, Thresholds] = {}
    for place in range(len(seeds)):  # seed by seed, since runs of one seed share the answers of their teacher
        for study, _, specs in asked:
            own = {trial[place].id: trial[place] for trial in specs}
            runs |= own
            stops |= dict.fromkeys(own, study.stop_below(place))
    runner.run(replace(plan, students=tuple(runs.values())), stops)
    store = Store(runner.folder)
    for study, values, specs in asked:
        assert study.search is not None
        records = [_records(own, store) for own in specs]
        trials = [_trial(len(study.trials) + place, study, one, own)
                  for place, (one, own) in enumerate(zip(values, records, strict=True))]
        curves = [[curve_of(record) for record in own] for own in records]
        study.search.tell([mean_curve(own) if trial.status == "pruned" else trial.accuracy
                           for trial, own in zip(trials, curves, strict=True)],
                          [{"status": trial.status, "runs": trial.runs, "accuracies": trial.accuracies}
                           for trial in trials])
        study.trials += trials
        study.curves += [own for trial, own in zip(trials, curves, strict=True) if trial.status == "ok"]
        study.inapplicable = trials[0].status == "inapplicable"


def _records(specs: list[RunSpec], store: Store) -> list[Record]:
    """The records of a trial's runs. UserError if one is missing or damaged."""
    records = []
    for spec in specs:
        record = store.get(spec.id)
        if not isinstance(record, Record):
            raise UserError(f"{store.files.record(spec.id)}: {record.reason if record else 'it is gone'}; start the "
                            "command again")
        records.append(record)
    return records


def _trial(number: int, study: Study, values: Values, records: list[Record]) -> Trial:
    """The trial with this number and these values, by the records of its runs."""
    bad = min((record for record in records if record.status != "ok"), default=None,
              key=lambda record: record.status == "pruned")  # the first that failed, or else the first that was pruned
    hyperparameters, recipe = study.values_of(values)
    return Trial(number=number, hyperparameters=hyperparameters, recipe=recipe, status=bad.status if bad else "ok",
                 reason=bad.reason if bad else None, runs=[record.run_id for record in records],
                 accuracies=[record.metrics.get("validation_accuracy") for record in records],
                 seconds=sum(record.seconds for record in records),
                 saved=fmean(share_saved(record) for record in records))


def _choice(study: Study) -> Choice:
    number, error = choose(study.trials)
    chosen, default = study.trials[number], study.trials[0]
    ok = any(trial.status == "ok" for trial in study.trials)
    status = "inapplicable" if study.inapplicable else "failed" if not ok else "tuned" if number else "default"
    return Choice(method=study.method.name, method_digest=study.method.digest, pair=study.default.pair,
                  dataset=study.default.dataset, cell=study.default.cell, trial=number, status=status,  # type: ignore[arg-type]
                  hyperparameters=chosen.hyperparameters, recipe=chosen.recipe, accuracy=chosen.accuracy,
                  default_accuracy=default.accuracy, standard_error=error,
                  seconds=sum(trial.seconds for trial in study.trials),
                  saved=None if study.pruner == "off" else fmean(trial.saved for trial in study.trials),
                  importance=importances(study.space, study.trials), trials=study.trials)
