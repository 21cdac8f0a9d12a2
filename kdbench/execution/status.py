"""The state of all runs of a folder, on whichever machines they run, from the folder's files and those of the cache.
Nothing is written, and no lock is held. The files of networks and predictions are not looked at: `kdbench fsck` checks
those."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from kdbench.disk import is_locked, json_files
from kdbench.errors import UserError
from kdbench.execution.estimate import Estimator, Sample, time_for
from kdbench.execution.matrix import FINAL
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.remote.place import with_urls
from kdbench.results.record import Entry, Planned, Problem, Record, Role, Status, id_of, read
from kdbench.results.store import Store
from kdbench.results.unfinished import Progress, read_progress
from kdbench.spec import RunSpec, teacher_runs
from kdbench.suites.suite import SuiteFile

# A run is of one kind only. "stale": another version of its method made it; "newer": a newer kdbench wrote its record.
Kind = Literal["done", "inapplicable", "pruned", "running", "interrupted", "failed", "stale", "missing", "newer"]
OVER: tuple[Kind, ...] = ("done", "inapplicable", "pruned", "newer", "stale")  # what a further command leaves as it is
NO_DETAILS: tuple[Kind, ...] = ("done", "inapplicable", "pruned")

SomeEntry = TypeVar("SomeEntry", bound=Entry)


@dataclass(frozen=True)
class RunState:
    """The state of one run."""

    run: str
    kind: Kind
    role: Role
    method: str
    pair: str
    dataset: str
    seed: int
    reason: str | None = None         # why it failed, or why its record cannot be used
    # Of a running or interrupted run, as far as its progress file says:
    epoch: int | None = None          # how many epochs have ended
    epochs: int | None = None         # in all
    accuracy: float | None = None     # on validation images
    host: str | None = None           # the machine on which its process runs, or ran
    process: int | None = None        # the id of that process
    started: str | None = None        # UTC
    spec: RunSpec = field(repr=False, kw_only=True)
    progress: Progress | None = field(repr=False, default=None, kw_only=True)

    @property
    def to_do(self) -> bool:
        """Whether the run is running, or a further command will run it. A trial that failed is not tried again."""
        return self.kind not in OVER and (self.role, self.kind) != ("trial", "failed")

    @classmethod
    def of(cls, spec: RunSpec, role: Role, kind: Kind, reason: str | None = None,
           progress: Progress | None = None) -> "RunState":
        told: dict[str, Any] = {} if progress is None else {
            name: getattr(progress, name) for name in ("epoch", "epochs", "accuracy", "host", "process", "started")}
        return cls(spec.id, kind, role, spec.method, spec.pair, spec.dataset, spec.seed, reason, **told, spec=spec,
                   progress=progress)


@dataclass(frozen=True)
class FolderState:
    """The state of all runs of a folder. `runs` and `teachers` are the numbers of its runs and of its teachers by
    kind."""

    folder: str
    suites: tuple[str, ...]
    tuning: bool                      # whether the runs are trials
    runs: Mapping[Kind, int]
    teachers: Mapping[Kind, int]      # those that runs with `to_do` need, and others that are done in the folder
    stale: Mapping[str, int]          # stale runs by method
    open: Sequence[RunState]          # teachers, then runs; all whose kind is not in `NO_DETAILS`
    workers: int                      # see `Watcher`
    seconds_left: float | None        # until all runs with `to_do` are done; None: no run's length is known
    unknown: int                      # runs of unknown length, which `seconds_left` does not include
    notes: Sequence[str]

    def of_kind(self, kind: Kind) -> list[RunState]:
        """The teachers and runs in `open` that are of this kind."""
        return [one for one in self.open if one.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """The state as plain data for JSON, without the spec and progress of runs."""
        hidden = ("spec", "progress")
        return {**{name: value for name, value in vars(self).items() if name != "open"},
                "open": [{name: value for name, value in vars(one).items() if name not in hidden}
                         for one in self.open]}


class Watcher:
    """Looks at a folder as often as it is asked. A file that has not changed since the last time is not read again.

    `methods` are the installed ones, by name. `workers` is the number of runs that the time left assumes to run at a
    time, unless more are running now. `samples` say how long runs take, in addition to the records of folder and
    cache."""

    def __init__(self, folder: Path, cache: CacheFolder, methods: Mapping[str, MethodInfo], workers: int,
                 samples: Iterable[Sample] = ()):
        self.store, self.cache, self.methods, self.workers = Store(folder), cache, methods, workers
        self.name = with_urls(str(folder))
        self.teachers = Store(cache.teachers)
        self._known: dict[str, tuple[tuple[int, int, int], Any]] = {}  # by path: what the file was, and what it says
        self._samples, self._estimator = list(samples), Estimator()

    def look(self) -> FolderState:
        """The state now. UserError if there is no such folder, or if it holds neither records nor a plan."""
        folder, files = self.store.folder, self.store.files
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        ended = dict(self._entries(Record, files.records))
        planned = dict(self._entries(Planned, files.plans, but={
            run for run, found in ended.items() if not isinstance(found, Problem)}))
        if not ended and not planned:
            raise UserError(f"{folder}: neither records nor a plan here (expected {files.record('RUN_ID')})")
        runs = list(self._runs(ended, planned))
        own = [one for one in runs if one.role != "teacher"]
        needed = {spec.id: spec for one in own if one.to_do for spec in teacher_runs(one.spec)}
        teachers = [self._teacher(spec) for spec in needed.values()]
        teachers += [one for one in runs if one.role == "teacher" and one.run not in needed and one.kind == "done"]
        of_suites = [found.suite for found in (*ended.values(), *planned.values()) if not isinstance(found, Problem)]
        states = [*teachers, *own]
        seconds, unknown = self._left(states)
        return FolderState(
            folder=self.name, suites=tuple(sorted(set(of_suites))), tuning=any(one.role == "trial" for one in own),
            runs=Counter(one.kind for one in own), teachers=Counter(one.kind for one in teachers),
            stale=Counter(one.method for one in own if one.kind == "stale"),
            open=[one for one in states if one.kind not in NO_DETAILS],
            workers=self.workers, seconds_left=seconds, unknown=unknown,
            notes=tuple(self._notes(ended, planned, own)))

    # The state of each run.

    def _runs(self, ended: Mapping[str, "_Ended | Problem"],
              planned: Mapping[str, Planned | Problem]) -> Iterator[RunState]:
        for run, found in ended.items():
            if not isinstance(found, Problem):
                yield self._ended(found)
            elif isinstance(wanted := planned.get(run), Planned):
                yield self._unusable(wanted, found)
        for run, wanted in planned.items():
            if isinstance(wanted, Planned) and run not in ended:
                yield self._open(wanted.spec, wanted.role, "missing")

    def _ended(self, found: "_Ended") -> RunState:
        changed = found.spec.method in self.methods and self.methods[found.spec.method].digest != found.digest
        if found.status == "pruned":
            return RunState.of(found.spec, found.role, "pruned")
        if found.status not in FINAL:
            return self._open(found.spec, found.role, "failed", found.reason)
        if changed and found.role != "teacher":  # no command redoes a teacher whose method changed
            return self._open(found.spec, found.role, "stale")
        return RunState.of(found.spec, found.role, "done" if found.status == "ok" else "inapplicable")

    def _unusable(self, wanted: Planned, problem: Problem) -> RunState:
        if problem.newer:
            return RunState.of(wanted.spec, wanted.role, "newer", problem.reason)
        return self._open(wanted.spec, wanted.role, "missing", f"its record is damaged: {problem.reason}")

    def _open(self, spec: RunSpec, role: Role, otherwise: Kind, reason: str | None = None) -> RunState:
        """The state of a run that is not done: "running" if a process holds its lock, "interrupted" if `otherwise` is
        "missing" and there is a checkpoint, and else `otherwise`."""
        folder = self.cache.unfinished(spec.id)
        if is_locked(folder.lock):
            return RunState.of(spec, role, "running", progress=read_progress(folder))
        if otherwise == "missing" and folder.checkpoint.exists():
            return RunState.of(spec, role, "interrupted", reason, read_progress(folder))
        return RunState.of(spec, role, otherwise, reason)

    def _teacher(self, spec: RunSpec) -> RunState:
        """The state of a teacher that a run needs, by its record in the cache: a copy in the folder is not enough."""
        found = self._file(Record, str(self.teachers.files.record(spec.id)))
        if found is None or isinstance(found, Problem):
            return self._open(spec, "teacher", "missing", found.reason if found else None)
        if found.status == "ok":
            return RunState.of(spec, "teacher", "done")
        return self._open(spec, "teacher", "failed", found.reason)

    def _notes(self, ended: Mapping[str, "_Ended | Problem"], planned: Mapping[str, Planned | Problem],
               own: Sequence[RunState]) -> Iterator[str]:
        if unreadable := sum(isinstance(found, Problem) for found in (*ended.values(), *planned.values())):
            yield f"{unreadable} files of records and plan cannot be read: `kdbench fsck {self.name}` says why"
        foreign = Counter(one.method for one in own if one.kind in ("done", "inapplicable")
                          and one.method not in self.methods)
        for method, count in foreign.items():
            yield f"{method} is not installed: whether its {count} runs are stale is not known (--plugin FILE)"

    # How long the rest takes.

    def _left(self, states: Sequence[RunState]) -> tuple[float | None, int]:
        """The seconds until all runs with `to_do` are done, and the number of runs of unknown length, which these
        seconds do not include. The seconds are None if no run's length is known."""
        running = [one for one in states if one.kind == "running"]
        waiting = [one for one in states if one.to_do and one.kind != "running"]
        if not running and not waiting:
            return 0.0, 0
        estimator = self._informed(states)
        left = {one.run: _seconds_left(one, estimator) for one in running}
        whole = [(one, estimate.seconds) for one in waiting if (estimate := estimator.estimate(one.spec))]
        known = {run: seconds for run, seconds in left.items() if seconds is not None}
        unknown = len(running) + len(waiting) - len(known) - len(whole)
        if not known and not whole:
            return None, unknown
        queue = [_Queued(one.run, tuple(spec.id for spec in teacher_runs(one.spec))) for one, _ in whole]
        workers = max(self.workers, len(running))
        return time_for(queue, [seconds for _, seconds in whole], known, workers), unknown

    def _informed(self, states: Sequence[RunState]) -> Estimator:
        """The estimator, with the samples of all records that were read since the last call, and of those in the
        cache."""
        for _ in self._entries(Record, self.teachers.files.records):
            pass
        if self._estimator.reference is None:
            trained = [spec.method for one in states for spec in teacher_runs(one.spec)][:1]
            self._estimator.reference = (*trained, SuiteFile.model_fields["reference"].default)[0]
        for sample in self._samples:
            self._estimator.add(sample)
        self._samples.clear()
        return self._estimator

    # Reading.

    def _entries(self, kind: type[Entry], folder: Path, but: Iterable[str] = ()) -> Iterator[tuple[str, Any]]:
        """Pairs of run id and what `_file` finds for each JSON file of the folder, except for the run ids in `but`."""
        for path in json_files(folder):
            if (run := id_of(path)) not in but and (found := self._file(kind, path)) is not None:
                yield run, found

    def _file(self, kind: type[SomeEntry], path: str) -> Any:
        """The content of the file at `path`: an `_Ended` for a record, else the entry; a Problem if it is damaged, None
        if it is not there."""
        try:
            status = os.stat(path)  # noqa: PTH116  to make a Path takes as long as to parse a small file
        except OSError:
            return None
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        if path not in self._known or self._known[path][0] != version:
            said: Any = read(kind, path)[0]
            if isinstance(said, Record):
                if sample := Sample.of(said):
                    self._samples.append(sample)
                said = _Ended(said.spec, said.role, said.suite, said.status, said.reason, said.method_digest)
            self._known[path] = version, said
        return self._known[path][1]


class _Ended(NamedTuple):
    """The fields of a record that are kept in memory."""

    spec: RunSpec
    role: Role
    suite: str
    status: Status
    reason: str | None
    digest: str


class _Queued(NamedTuple):
    id: str
    needs: tuple[str, ...]

    def teachers(self) -> tuple[str, ...]:
        return self.needs


def _seconds_left(one: RunState, estimator: Estimator) -> float | None:
    """The seconds that a running run still needs: from the time of its own epochs once one has ended, before that from
    the estimate. None if nothing is known."""
    estimate, progress = estimator.estimate(one.spec), one.progress
    if progress is not None and progress.epoch and progress.seconds:
        rest = progress.seconds / progress.epoch * (progress.epochs - progress.epoch)
        return rest + (estimate.around if estimate else 0.0)
    if estimate is None:
        return None
    return max(estimate.seconds - seconds_since(one.started), 0.0)


def seconds_since(time: str | None) -> float:
    """The seconds since a time in ISO 8601 as files hold it; 0 if that is None, no such time or without a zone."""
    try:
        return max((datetime.now(UTC) - datetime.fromisoformat(str(time))).total_seconds(), 0.0)
    except (ValueError, TypeError):  # no time, or one without a zone
        return 0.0
