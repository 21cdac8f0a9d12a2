"""Records to a leaderboard: per cell (pair, dataset and recipe) one row per method. Nothing here knows of training."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.analysis.board import (
    PROFILED_SEED,
    REFERENCE,
    REFERENCES,
    Cell,
    Failure,
    Leaderboard,
    Row,
    Run,
    Teacher,
    Wins,
)
from kdbench.analysis.costs import Cost, method_metrics, read_costs, teacher_metrics
from kdbench.analysis.harm import MIN_SEEDS, Predicted, compare, predicted
from kdbench.analysis.intervals import paired_difference
from kdbench.analysis.labels import changed
from kdbench.analysis.statement import _statement
from kdbench.errors import UserError
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.registry import Registry
from kdbench.results.record import Planned, Problem, Summary
from kdbench.results.store import Store
from kdbench.spec import SpecField, digest, identify


def build(folder: Path, registry: Mapping[str, Any] | None = None) -> Leaderboard:
    """The leaderboard of a folder of results. UserError if there are none."""
    store = Store(folder)
    specs: dict[str, dict[str, Any]] = {}  # by cell, of the run with the lowest id
    runs: list[Run] = []
    problems: list[Problem] = []
    for found in store.summaries():
        if isinstance(found, Problem):
            problems.append(found)
        else:
            specs.setdefault(found.cell, found.spec)
            runs.append(_recorded(found))
    planned, plan_problems = store.planned(but={run.run_id for run in runs})
    damaged = {problem.path.stem: problem.reason for problem in problems}
    for wanted in planned:
        specs.setdefault(wanted.spec.cell, wanted.spec.model_dump(mode="json"))
        runs.append(_missing(wanted, damaged))
    if not runs and not problems:
        raise store.no_records()
    runs, repeats = _without_repeats(runs, store)
    registry = Registry() if registry is None else registry
    reader = _Reader(store)
    costs, cost_problems = read_costs(store, registry)
    cells = _cells(runs, specs, registry, reader, costs)
    problems += [*plan_problems, *repeats, *reader.problems, *cost_problems]
    return Leaderboard(
        cells=cells,
        suites=tuple(sorted({run.suite for run in runs})),
        statement=tuple(_statement(folder, runs, problems, cells)),
        hash=_hash(runs, costs, problems),
    )


def _without_repeats(runs: Iterable[Run], store: Store) -> tuple[list[Run], list[Problem]]:
    """Runs that differ only in how a number is written (4 or 4.0, after a method changed its type) would share a row
    and a seed: of those one is used, a finished one if there is one."""
    kept: dict[tuple, Run] = {}
    repeats = []
    for run in sorted(runs, key=lambda run: (run.status != "ok", run.run_id)):
        first = kept.setdefault((run.cell, run.role, *_group(run), run.seed), run)
        if first is not run:
            repeats.append(Problem(store.record_path(run.run_id), f"it repeats run {first.run_id}: the same method, "
                                                                  "hyperparameters and seed"))
    return list(kept.values()), repeats


def _group(run: Run) -> tuple:
    """What the runs of a row share within their cell."""
    return run.method, run.self_teacher, *sorted(run.hyperparameters.items())


def _hash(runs: Iterable[Run], costs: Iterable[Cost], problems: Iterable[Problem]) -> str:
    """Of all that a table depends on: the used records, the planned runs without one, and the files left out."""
    used = [f"{run.run_id} {run.file_sha256 or run.status}" for run in runs]
    used += [f"profile/{cost.profile.run_id} {cost.file_sha256}" for cost in costs]
    unused = [f"{problem.path.parent.name}/{problem.path.name} {problem.reason}" for problem in problems]
    return digest(sorted(used) + sorted(unused))


class _Reader:
    """Reads what runs predict, and keeps note of what cannot be read."""

    def __init__(self, store: Store):
        self.store, self.problems = store, list[Problem]()
        self.labels: dict[str, np.ndarray] = {}  # by cell

    def __call__(self, runs: Iterable[Run]) -> dict[int, Predicted]:
        """By seed, for those of the runs that have usable predictions."""
        found = {}
        for run in runs:
            path = self.store.predictions_path(run.run_id)
            if run.status == "ok" and path.exists():
                try:
                    found[run.seed] = self._read(run)
                except UserError as error:
                    self.problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
        return found

    def _read(self, run: Run) -> Predicted:
        arrays = self.store.read_predictions(run.run_id, run.predictions_sha256)
        labels = arrays["test_labels"]
        if not np.array_equal(labels, self.labels.setdefault(run.cell, labels)):
            raise UserError("they are of other test images than those of the runs that it is compared with")
        return predicted(arrays["test_logits"], labels)


# Records to runs.

def _recorded(summary: Summary) -> Run:
    metrics: dict[str, float] = {}
    if summary.status == "ok":
        metrics = summary.metrics
        metrics["seconds"] = summary.seconds
        if summary.peak_memory_bytes is not None:
            metrics["peak_memory_bytes"] = summary.peak_memory_bytes
    return _run(summary.spec, summary.self_teacher, summary.run_id, summary.cell, summary.role, summary.suite,
                summary.family, summary.status, summary.reason or "", metrics, summary)


def _missing(wanted: Planned, damaged: Mapping[str, str]) -> Run:
    reason = damaged.get(wanted.run_id)
    reason = f"its record is damaged: {reason}" if reason else "planned, no record yet"
    spec = wanted.spec.model_dump(mode="json")
    own = SpecField.of("self_teacher", spec["self_teacher"]).canonical
    return _run(spec, own, wanted.run_id, wanted.spec.cell, wanted.role, wanted.suite, None, "missing", reason, {})


def _run(spec: dict[str, Any], self_teacher: str, run_id: str, cell: str, role: str, suite: str, family: str | None,
         status: str, reason: str, metrics: dict[str, float], record: Summary | None = None) -> Run:
    return Run(
        run_id=run_id, role=role, suite=suite, cell=cell, pair=spec["pair"], dataset=spec["dataset"],
        method=spec["method"], family=family, hyperparameters=spec["hyperparameters"],
        self_teacher=self_teacher, seed=spec["seed"], status=status, reason=reason, metrics=metrics,
        method_digest=record.method_digest if record else None,
        predictions_sha256=record.predictions_sha256 if record else None,
        file_sha256=record.file_sha256 if record else None,
    )


# Runs to cells and rows.

Read = Callable[[Iterable[Run]], dict[int, Predicted]]


def _cells(runs: list[Run], specs: Mapping[str, dict[str, Any]], registry: Mapping[str, Any],
           read: Read, costs: Iterable[Cost]) -> tuple[Cell, ...]:
    teachers = {run.run_id: run for run in runs if run.role == "teacher"}
    by_cell: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.role == "student":
            by_cell[run.cell].append(run)
    costs_of: dict[str, list[Cost]] = defaultdict(list)
    for cost in costs:
        costs_of[cost.profile.spec.cell].append(cost)
    cells = [
        _with_costs(Cell(
            id=cell, pair=min(run.pair for run in members), dataset=members[0].dataset, spec=specs[cell],
            teacher=_teacher(specs[cell]["teacher"], teachers, members), rows=_rows(members, registry, read),
            costs=tuple(costs_of[cell]),
        ))
        for cell, members in by_cell.items()
    ]
    return tuple(sorted(cells, key=lambda cell: (cell.pair, cell.dataset, cell.id)))


def _with_costs(cell: Cell) -> Cell:
    """The cell, with what its profiles say among the metrics of its rows and its teacher."""
    rows = tuple(replace(row, metrics=row.metrics | {
        name: {PROFILED_SEED: value} for name, value in method_metrics(cell.costs, row.label).items()
    }) for row in cell.rows)
    teacher = cell.teacher
    if teacher is not None and teacher.metrics:
        teacher = replace(teacher, metrics=teacher.metrics | teacher_metrics(cell.costs))
    return replace(cell, rows=rows, teacher=teacher)


def _teacher(spec: dict[str, Any] | None, teachers: Mapping[str, Run], students: list[Run]) -> Teacher | None:
    """By its own record where there is one, else by what the students' records say of it."""
    if spec is None:
        return None
    trained = spec["kind"] == "run"
    own = teachers.get(identify(spec["run"])[0]) if trained else None
    architecture = (spec["run"]["student"] if trained else spec["architecture"])["model"]
    if own is not None and own.metrics:
        return Teacher(architecture, "ok", "", own.metrics)
    told = next((run.metrics for run in sorted(students, key=lambda run: run.run_id) if run.metrics), {})
    metrics = {name.removeprefix("teacher_"): value for name, value in told.items() if name.startswith("teacher_")}
    if metrics or own is None:
        return Teacher(architecture, "ok" if metrics else "missing", "" if metrics else "no record", metrics)
    return Teacher(architecture, own.status, own.reason, {})


def _rows(runs: list[Run], registry: Mapping[str, Any], read: Read) -> tuple[Row, ...]:
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.method, run.seed, run.run_id)):
        groups[_group(run)].append(run)
    members = list(groups.values())
    references = {name: group for group in members for name in REFERENCES if _is_default(group[0], name, registry)}
    reference = references.get(REFERENCE, [])
    said = read(reference) if len(_finished(reference)) >= MIN_SEEDS else {}
    rows = [_row(group, references, said, registry, read) for group in members]
    return tuple(sorted(rows, key=_rank))


def _row(runs: list[Run], references: Mapping[str, list[Run]], said: Mapping[int, Predicted],
         registry: Mapping[str, Any], read: Read) -> Row:
    first, finished, accuracy = runs[0], _finished(runs), _by_seed(runs, "test_accuracy")
    shared = set.intersection(*(set(run.metrics) for run in finished)) if finished else set()
    others = {name: _by_seed(group, "test_accuracy") for name, group in references.items() if group is not runs}
    differences = {name: paired_difference(accuracy, other) for name, other in others.items()}
    common = [run for run in finished if run.seed in said] if runs is not references.get(REFERENCE) else []
    return Row(
        method=first.method, family=_family(runs, registry),
        hyperparameters=changed(first.method, first.hyperparameters, registry),
        metrics={name: _by_seed(runs, name) for name in METRICS if name in shared},
        differences={name: difference for name, difference in differences.items() if difference},
        wins={name: _wins(runs, accuracy, other) for name, other in others.items()},
        comparison=compare(read(common), said) if len(common) >= MIN_SEEDS else None,
        failures=tuple(Failure(run.seed, run.status, run.reason) for run in runs if run.status != "ok"),
        runs={run.seed: run.run_id for run in finished},
    )


def _wins(runs: list[Run], accuracy: Mapping[int, float], other: Mapping[int, float]) -> Wins:
    pairs = [run.seed for run in runs if run.seed in other and run.status != "inapplicable"]
    both = [(accuracy[seed], other[seed]) for seed in pairs if seed in accuracy]
    return Wins(sum((ours > theirs) + (ours == theirs) / 2 for ours, theirs in both), len(pairs))


def _finished(runs: list[Run]) -> list[Run]:
    return [run for run in runs if run.status == "ok"]


def _by_seed(runs: Iterable[Run], metric: str) -> dict[int, float]:
    return {run.seed: run.metrics[metric] for run in runs if metric in run.metrics}


def _is_default(run: Run, method: str, registry: Mapping[str, Any]) -> bool:
    return run.method == method and not changed(run.method, run.hyperparameters, registry)


def _family(runs: list[Run], registry: Mapping[str, Any]) -> str:
    recorded = min((run.family for run in runs if run.family), default=None)
    return recorded or (registry[runs[0].method].family if runs[0].method in registry else "unknown")


def _rank(row: Row) -> tuple:
    """Best first; rows without a result last."""
    accuracy = row.estimate("test_accuracy")
    return accuracy is None, -accuracy.mean if accuracy else 0.0, row.method, row.label
