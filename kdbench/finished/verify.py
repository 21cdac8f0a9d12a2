"""Repeats finished runs and compares the results with their records."""

import math
import random
import shutil
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdbench.data import collect
from kdbench.errors import UserError
from kdbench.execution.display import Display
from kdbench.execution.matrix import Matrix
from kdbench.execution.pool import PREFLIGHT, LocalPool
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.record import Record
from kdbench.results.repeated import differing, environment_of
from kdbench.results.store import Store
from kdbench.spec import teacher_runs
from kdbench.suites.plan import Plan

SEED = 0           # of the drawn sample, fixed so that everybody repeats the same runs of a folder
FEWEST_SEEDS = 3   # with fewer, a standard deviation is no estimate of the noise between seeds
DEVIATIONS = 2     # standard deviations between seeds within which a difference is called noise

Outcome = Literal["bit-equal", "within noise", "not comparable", "different", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("bit-equal", "within noise", "not comparable", "different", "failed")
Accuracies = Mapping[tuple[Hashable, ...], list[float]]  # by row of the leaderboard: the test accuracy of each seed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """The outcome of repeating the run of a record, and the reason for it in words."""

    record: Record
    outcome: Outcome
    why: str

    def __str__(self) -> str:
        spec = self.record.spec
        return (f"{self.outcome:<14}  {self.record.run_id}  {spec.method}  {spec.pair}  {spec.dataset}  "
                f"seed {spec.seed}: {self.why}")


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """The exit code of `kdbench verify`: 0 if all runs are bit-equal, 1 if one is different or failed, and 3
    otherwise."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return 1 if outcomes & {"different", "failed"} else 0 if outcomes == {"bit-equal"} else 3


def verify(folder: Path, names: Collection[str], sample: int, registry: Registry, cache: CacheFolder, pool: LocalPool,
           display: Display, say: Say) -> Iterator[Verdict]:
    """Repeat runs of a folder, compare them with their records, and yield a verdict on each. `names` are names as
    `Store.find` takes them; without any, `sample` runs are drawn.

    Everything is trained from the beginning in a temporary folder, so that the results folder and the teachers and
    unfinished runs in the cache stay as they are. A teacher is copied from the cache if its weights are the recorded
    ones; otherwise `say` is told why, and it is trained again. UserError, before anything is trained, if a named run
    does not exist or a run cannot be repeated here.
    """
    store = Store(folder)
    finished, accuracies = _finished(store)
    records = [_repeatable(store.find(name)) for name in names] or \
        [_repeatable(store.find(run)) for run in draw(finished, sample)]
    methods = {name: registry[name] for record in records for name in _methods(record)}
    teachers = {teacher.id: teacher for record in records for teacher in teacher_runs(record.spec)}
    for dataset in {record.spec.dataset for record in records}:
        collect.check(dataset, cache.data)
    students = tuple({record.run_id: record.spec for record in records}.values())
    plan = Plan("verify", tuple(teachers.values()), students, methods, reference="")
    with tempfile.TemporaryDirectory(prefix="kdbench-verify-") as temporary:
        own = CacheFolder(Path(temporary) / "cache")
        own.root.mkdir()
        cache.data.mkdir(parents=True, exist_ok=True)
        own.data.symlink_to(cache.data.absolute(), target_is_directory=True)
        for teacher in teachers:
            if why := _borrow(teacher, store, Store(cache.teachers), Store(own.teachers)):
                say(f"teacher {teacher} is trained again: {why}")
        matrix = Matrix(plan, Path(temporary) / "out", own, say)
        jobs = matrix.pending()
        pool.start()
        reasons, _ = pool.call(PREFLIGHT, [job.spec for job in jobs], plan.methods, own)
        matrix.run(jobs, reasons, pool, display)
        for record in {record.run_id: record for record in records}.values():
            again = matrix.store.get(record.run_id)
            changed_teachers = [teacher.id for teacher in teacher_runs(record.spec) if _came_out_otherwise(
                store.get(teacher.id), Store(own.teachers).get(teacher.id))]
            yield compare(record, again if isinstance(again, Record) else None, accuracies, changed_teachers)


def draw(finished: Mapping[str, Collection[str]], sample: int) -> list[str]:
    """The ids of `sample` runs, or of all if there are fewer, drawn from as many methods as possible. `finished` holds
    the ids of the finished runs by method. The same runs are drawn every time."""
    stream = random.Random(SEED)
    order = {method: stream.sample(sorted(finished[method]), len(finished[method])) for method in sorted(finished)}
    methods = stream.sample(sorted(order), len(order))
    rounds = max((len(runs) for runs in order.values()), default=0)
    return [order[method][turn] for turn in range(rounds) for method in methods if turn < len(order[method])][:sample]


def compare(record: Record, again: Record | None, accuracies: Accuracies,
            changed_teachers: Collection[str] = ()) -> Verdict:
    """The verdict on a record, given the record `again` of its repetition, or None if that left none.

    `accuracies` are the test accuracies of the seeds of every row, and `changed_teachers` the ids of the teachers whose
    weights came out differently. A repetition that did not finish has "failed". One that saw other images, or that is
    not bit-equal in an unchanged environment, is "different". In another environment, a run that is not bit-equal is
    "not comparable" if its row has fewer than FEWEST_SEEDS seeds or a test accuracy is missing, "within noise" if the
    test accuracies differ by at most DEVIATIONS standard deviations between the seeds of the row, and else "different".
    """
    if again is None or again.status != "ok":
        return Verdict(record, "failed", (again.reason or again.status) if again else "it left no record")
    if record.dataset_digest not in (None, again.dataset_digest):
        return Verdict(record, "different", f"the images are others: SHA-256 {str(again.dataset_digest)[:12]}, "
                                            f"recorded {str(record.dataset_digest)[:12]}")
    parts, shared = differing(record, again), record.metrics.keys() & again.metrics.keys()
    if not parts:
        return Verdict(record, "bit-equal", f"weights, predictions and {len(shared)} metrics")
    what = f"{', '.join(parts)} differ"
    if changed_teachers:
        what += f", as do the weights of its teacher {', '.join(changed_teachers)}"
    changes = environment_changes(record, again)
    if not changes:
        return Verdict(record, "different", f"{what}, though the environment is the same")
    was, now = (one.metrics.get("test_accuracy", math.nan) for one in (record, again))
    seeds = accuracies.get(_row(record), [])
    noise = DEVIATIONS * statistics.stdev(seeds) if len(seeds) >= FEWEST_SEEDS else math.nan
    outcome: Outcome = "within noise" if abs(now - was) <= noise else "different"
    place = f"{'within' if outcome == 'within noise' else 'beyond'} the noise of {len(seeds)} seeds, ± {noise:.2%}"
    if math.isnan(noise + now - was):
        outcome = "not comparable"
        place = f"its row has {len(seeds)} seeds, and {FEWEST_SEEDS} are needed to tell noise"
    return Verdict(record, outcome, f"{what}; test accuracy {now:.2%}, recorded {was:.2%}: {place}; other environment: "
                                    f"{', '.join(changes)}")


def environment_changes(record: Record, again: Record) -> list[str]:
    """The differences between the environments of two records that can change the bits of a result, sorted by name,
    each as "NAME THEN -> NOW"."""
    then, now = (environment_of(one) for one in (record, again))
    return [f"{name} {then.get(name)} -> {now.get(name)}" for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)]


def _finished(store: Store) -> tuple[dict[str, list[str]], Accuracies]:
    """The ids of the finished student runs of a folder by method, and the test accuracies of the seeds of every row.
    UserError if the folder has no finished student runs."""
    finished: dict[str, list[str]] = defaultdict(list)
    accuracies: dict[tuple[Hashable, ...], list[float]] = defaultdict(list)
    for found in store.scan():
        if isinstance(found, Record) and found.role == "student" and found.status == "ok":
            finished[found.spec.method].append(found.run_id)
            if "test_accuracy" in found.metrics:
                accuracies[_row(found)].append(found.metrics["test_accuracy"])
    if not finished:
        raise UserError(f"{store.folder}: no finished runs here to repeat") if store.files.records.is_dir() \
            else store.no_records()
    return finished, accuracies


def _row(record: Record) -> tuple[Hashable, ...]:
    """A key that the seeds of a row of the leaderboard share."""
    return record.spec.cell, *record.spec.settings


def _repeatable(record: Record) -> Record:
    if record.role != "student" or record.status != "ok":
        what = f"is a {record.role}" if record.role != "student" else f"has the status {record.status!r}"
        raise UserError(f"run {record.run_id} {what}; only finished runs of students can be repeated")
    return record


def _methods(record: Record) -> list[str]:
    return [record.spec.method, *(teacher.method for teacher in teacher_runs(record.spec))]


def _borrow(teacher: str, store: Store, cached: Store, own: Store) -> str | None:
    """Copy a teacher's files from the store `cached` to `own`, if they are intact and the weights are those in the
    record of the folder `store`, where it has one. None if they were copied, else the reason why not."""
    recorded, found = store.get(teacher), cached.get(teacher)
    if not isinstance(found, Record) or found.status != "ok":
        return "the cache does not have it"
    if isinstance(recorded, Record) and recorded.weights_sha256 != found.weights_sha256:
        return "the cache has one of other weights"
    paths = [(getattr(cached.files, kind)(teacher), getattr(own.files, kind)(teacher))
             for kind in ("student", "predictions", "record")]
    if damage := next((f"{path} is missing" for path, _ in paths if not path.is_file()), cached.damage(found)):
        return damage
    for path, copy in paths:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return None


def _came_out_otherwise(recorded: object, again: object) -> bool:
    return (isinstance(recorded, Record) and isinstance(again, Record)
            and recorded.weights_sha256 != again.weights_sha256)


def tally(verdicts: Iterable[Verdict]) -> str:
    """The last line of `kdbench verify`: how many runs were repeated, and how many had each outcome."""
    count = Counter(verdict.outcome for verdict in verdicts)
    return f"{count.total()} runs repeated: " + ", ".join(f"{count[outcome]} {outcome}" for outcome in OUTCOMES)
