"""Forecast of what running a plan would take, from earlier records or a short timing. It leaves no files."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import psutil

from kdbench.data import catalog, collect
from kdbench.data.files import PUBLISHED
from kdbench.disk import explain, free_space, need_writable
from kdbench.errors import UserError, counted
from kdbench.execution.estimate import Estimate, Estimator, Sample, time_for
from kdbench.execution.job import Job
from kdbench.execution.matrix import FINAL, RETRY, Matrix, Retry, with_students
from kdbench.execution.passes import PassPlan, plan_passes
from kdbench.execution.pool import PREFLIGHT, LocalPool
from kdbench.execution.shard import Share
from kdbench.folders import CacheFolder
from kdbench.profile.job import ProfileJob, Settings
from kdbench.profile.record import BUSY, Profile, profiles, samples_of
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.suites.plan import Plan

TIMING = "kdbench.profile.timing:time_runs"
TIMING_SECONDS = 60.0  # after which no further method is timed
TEACHERS = "teachers"  # the name of the row of runs that train teachers


@dataclass(frozen=True)
class Row:
    """What the runs of one method, or the runs that train teachers, would take."""

    method: str
    finished: int
    inapplicable: int         # finished with that status, or found to be so now
    to_do: int
    failed: int               # how many of those to do failed before
    seconds: float | None     # mean of the runs to do, or of all runs if there are none to do; None: unknown
    basis: str                # where `seconds` comes from
    core_hours: float | None  # of all runs to do; None: unknown


@dataclass(frozen=True)
class Forecast:
    """What a command would run, and the time, memory and disk space that this takes. Seconds and bytes leave out the
    runs for which they are unknown."""

    suite: str
    folder: str
    cache: str
    workers: int
    rows: tuple[Row, ...]
    runs: int                  # of students to do
    teachers: int              # to train
    seconds: float             # until all are done
    unknown: int               # runs of unknown length
    memory: float              # bytes in use while the largest runs are at work together
    memory_there: int | None   # bytes of this machine; None for a GPU or a cluster
    disk: float                # bytes of the results
    cache_disk: float          # bytes of the teachers, in the cache
    disk_free: int             # bytes where the results go
    passes_disk: int           # bytes of the teacher passes that the runs share, in the cache
    passes: tuple[str, ...]    # lines that say what the passes hold
    notes: tuple[str, ...]


def earlier(*folders: Path, named: Iterable[Path | str] = ()) -> list[Sample]:
    """Samples of what runs took, from the records and profiles in results folders. If several folders hold a run, the
    first counts; `folders` come before `named`. Raises UserError if one of `named`, the folders that the user named,
    holds no records."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    asked = [Store(folder) for folder in named]
    for store in asked:
        if not store.files.records.is_dir():
            raise store.no_records()
    for store in (*map(Store, folders), *asked):
        for found in store.scan():
            if isinstance(found, Record) and (sample := Sample.of(found, _disk(store, found.run_id))):
                samples.setdefault(("record", found.run_id), [sample])
        for profile, _ in profiles(store):
            if isinstance(profile, Profile):
                samples.setdefault(("profile", profile.run_id), samples_of(profile))
    return [sample for some in samples.values() for sample in some]


def _disk(store: Store, run_id: str) -> int | None:
    """The bytes of a run's record, network and predictions. None if one of these files is missing, as in a copy of
    records alone."""
    files = store.files
    try:
        return sum(path.stat().st_size for path in (
            files.record(run_id), files.student(run_id), files.predictions(run_id)))
    except OSError:
        return None


def forecast(plan: Plan, out: Path, cache: CacheFolder, pool: LocalPool, samples: Iterable[Sample],
             retry: Collection[Retry] = RETRY, teacher_cache: int | None = None,
             share: Share | None = None, runs_here: bool = True) -> Forecast:
    """The forecast of running the plan, or a share of it, on this machine, or on a cluster without `runs_here`. Runs of
    which neither samples nor trusted ratios tell are timed in a process of the pool. Raises UserError for whatever a
    run would refuse."""
    notes: list[str] = []
    matrix = Matrix(plan, out, cache, notes.append, look_only=True, share=share)
    estimator, reasons, sizes = Estimator(samples, plan.reference), {}, {}
    with _shadow(cache) as shadow:
        here = {name for name in {spec.dataset for spec in plan.students} if _is_here(name, shadow.data)}
        for dataset, train_size, transfer in plan.images:
            if dataset in here:
                collect.check(dataset, shadow.data, train_size, transfer)
        jobs = matrix.pending(retry)
        at_hand = [job for job in jobs if job.spec.dataset in here]
        notes += [f"{name} is not on this machine: a run downloads it first, and what it needs is not checked now"
                  for name in sorted({job.spec.dataset for job in jobs} - here)]
        if at_hand:
            pool.start()
            reasons, sizes = pool.call(PREFLIGHT, [job.spec for job in at_hand], plan.methods, shadow,
                                       runs_here)
        _need_folders(out, cache)
        reasons = with_students(reasons, at_hand)
        at_hand = [job for job in at_hand if job.id not in reasons and matrix.is_own(job.id)]
        notes += _time_unknown(plan, at_hand, estimator, out, shadow, pool)
    notes += matrix.left_out()
    passes = plan_passes(cache, jobs, sizes, teacher_cache)
    own = [job for job in jobs if matrix.is_own(job.id)]
    part = share.part_of(plan) if share else plan
    return _sum_up(part, matrix, own, reasons, estimator, pool.workers, runs_here, passes, notes)


# Without writing.

@contextmanager
def _shadow(cache: CacheFolder) -> Iterator[CacheFolder]:
    """A temporary cache with links to the files of a cache's data, so that writing into it leaves these as they are. A
    UserError that is raised inside names the files of the cache instead of the links."""
    with TemporaryDirectory(prefix="kdbench-") as folder:
        shadow = CacheFolder(Path(folder))
        for parent, _, names in os.walk(cache.data, followlinks=True):
            place = shadow.data / Path(parent).relative_to(cache.data)
            place.mkdir(parents=True)
            for name in names:
                (place / name).symlink_to(Path(parent, name).absolute())
        try:
            yield shadow
        except UserError as error:
            raise UserError(str(error).replace(folder, str(cache.root))) from error


def _is_here(dataset: str, data: Path) -> bool:
    """Whether a dataset can be read without a download."""
    published = PUBLISHED.get(catalog.parse(dataset).base)
    if published is None:
        return True
    places = [data / published.packed_in, *([published.elsewhere] if published.elsewhere else [])]
    return all(all((data / published.unpacked_in / file).is_file() for file in packed.contents)
               or any((place / packed.name).is_file() for place in places) for packed in published.files)


def _need_folders(out: Path, cache: CacheFolder) -> None:
    """Raise UserError, with the message that a run would give, if the output folder or the cache cannot be written."""
    for folder, what in ((out, "the output folder is not writable"), (cache.root, "the cache cannot be written")):
        try:
            need_writable(folder)
        except OSError as error:
            raise UserError(f"{what}: {explain(error)}") from error


# Timing.

def _time_unknown(plan: Plan, jobs: Sequence[Job], estimator: Estimator, out: Path, cache: CacheFolder,
                  pool: LocalPool) -> Iterator[str]:
    """Time a few steps of those kinds of runs of which the estimator has no trusted estimate, add the samples to it,
    and yield notes on that. The reference comes first: once it is known, ratios from other machines and pairs may give
    the rest."""
    timed, seconds = 0, 0.0
    for group in ([job for job in jobs if job.spec.method == plan.reference],
                  [job for job in jobs if job.spec.method != plan.reference]):
        unknown = {estimator.alike(job.spec): job for job in reversed(group) if not _is_known(estimator, job.spec)}
        tasks = [ProfileJob("method", job.spec, job.method, plan.methods[plan.reference], plan.suite, out, cache,
                            Settings()) for job in reversed(unknown.values())]
        if not tasks:
            continue
        try:
            samples, failed, took = pool.call(TIMING, tasks, TIMING_SECONDS - seconds)
        except UserError as error:  # its process was killed
            yield f"not timed: {error}"
            continue
        for sample in samples:
            estimator.add(sample)
        timed, seconds = timed + len(samples), seconds + took
        for task in tasks:
            if task.id in failed:
                yield f"{task} could not be timed: {failed[task.id]}"
        if left := len(tasks) - len(samples) - len(failed):
            yield f"{left} kinds of runs were not timed: the time for that was up"
    if timed:
        load = os.getloadavg()[0]
        busy = f"; the load average is {load:.1f}: they take longer while something else runs" if load > BUSY else ""
        yield f"timed a few steps of {counted(timed, 'kind')} of runs in {seconds:.0f} s{busy}"


def _is_known(estimator: Estimator, spec: RunSpec) -> bool:
    found = estimator.estimate(spec)
    return found is not None and found.trusted


# Sums.

def _sum_up(plan: Plan, matrix: Matrix, jobs: Sequence[Job], reasons: dict[str, str], estimator: Estimator,
            workers: int, runs_here: bool, passes: PassPlan, notes: Sequence[str]) -> Forecast:
    jobs = [job for job in jobs if job.id not in reasons]
    estimates = [estimator.estimate(job.spec) for job in jobs]
    known = [(job, found.seconds) for job, found in zip(jobs, estimates, strict=True) if found]
    teachers = [job for job in jobs if job.role == "teacher"]
    disks = {role: sum(estimator.disk(job.spec) or 0 for job in jobs if job.role == role)
             for role in ("student", "teacher")}
    cpu = all(spec.device != "cuda" for spec in plan.students)
    return Forecast(
        suite=plan.suite, folder=str(matrix.out), cache=str(matrix.cache.root), workers=workers,
        rows=tuple(_rows(plan, matrix, {job.id for job in jobs}, reasons, estimator)),
        runs=len(jobs) - len(teachers), teachers=len(teachers),
        seconds=time_for([job for job, _ in known], [seconds for _, seconds in known], {}, workers),
        unknown=len(jobs) - len(known),
        memory=sum(nlargest(workers, (estimator.memory(job.spec) or 0 for job in jobs))),
        memory_there=psutil.virtual_memory().total if cpu and runs_here else None,
        disk=disks["student"], cache_disk=disks["teacher"], disk_free=free_space(matrix.out), passes_disk=passes.bytes,
        passes=tuple(passes.lines()), notes=tuple(notes),
    )


def _rows(plan: Plan, matrix: Matrix, to_do: set[str], reasons: dict[str, str],
          estimator: Estimator) -> Iterator[Row]:
    """The teachers' row, and one for each method, in the order of the plan."""
    specs: dict[str, list[RunSpec]] = defaultdict(list, {TEACHERS: list(plan.teachers)} if plan.teachers else {})
    for spec in plan.students:
        specs[spec.method].append(spec)
    for name, runs in specs.items():
        store = matrix.teachers if name == TEACHERS else matrix.store
        records = {spec.id: store.get(spec.id) for spec in runs}
        statuses = {run: record.status if isinstance(record, Record) else None for run, record in records.items()}
        waiting = [spec for spec in runs if spec.id in to_do]
        rest = [spec for spec in runs if spec.id not in to_do]
        inapplicable = sum(spec.id in reasons or statuses[spec.id] == "inapplicable" for spec in rest)
        left = sum(spec.id in matrix.left for spec in rest)
        found = [estimator.estimate(spec) for spec in waiting or rest]
        known = [estimate for estimate in found if estimate is not None]
        seconds = fmean(estimate.seconds for estimate in known) if known else None
        yield Row(
            name, finished=len(rest) - inapplicable - left, inapplicable=inapplicable, to_do=len(waiting),
            failed=sum(statuses[spec.id] not in (None, *FINAL) for spec in waiting), seconds=seconds,
            basis=_bases(found), core_hours=None if seconds is None else seconds * len(waiting) / 3600)


def _bases(estimates: Sequence[Estimate | None]) -> str:
    """Where the estimates come from, each source once; "unknown" stands for None."""
    return "; ".join(dict.fromkeys("unknown" if found is None else found.basis for found in estimates))
