"""Runs a plan: the runs that are not done yet, teachers first, with each result on disk as soon as its run ends."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from kdbench.disk import atomic_write, explain, is_locked, read_file, set_aside, sweep
from kdbench.environment import now
from kdbench.errors import UserError, nearest
from kdbench.execution.cluster.results import ended_well_since, fingerprint
from kdbench.execution.display import Display
from kdbench.execution.executor import Executor, Watch
from kdbench.execution.job import Job
from kdbench.execution.passes import AnswerSize, plan_passes, with_passes
from kdbench.execution.shard import Share
from kdbench.execution.trackers import Tracker, tracked
from kdbench.folders import CacheFolder
from kdbench.results.record import Planned, Problem, Record, Role, Status
from kdbench.results.sizes import size_text
from kdbench.results.store import LEFT_OVER, Store
from kdbench.spec import RunSpec
from kdbench.suites.plan import Plan

FINAL: tuple[Status, ...] = ("ok", "inapplicable")  # a run with any other status failed
Retry = Literal["failed", "stale"]
RETRY: frozenset[Retry] = frozenset({"failed"})  # by default
Say = Callable[[str], None]


def read_retry(text: str) -> frozenset[Retry]:
    """The kinds of runs that a value of `--retry` names: "failed", "stale", both with a comma between them, or "none".
    UserError for any other value."""
    names, known = [name.strip() for name in text.split(",")], get_args(Retry)
    for name in names:
        if name not in (*known, "none") or (name == "none" and len(names) > 1):
            raise UserError(f"--retry {text[:100]}: expected failed, stale, failed,stale or none"
                            + nearest(name[:100], known).partition(" (")[0])
    return frozenset(name for name in known if name in names)


def with_students(reasons: Mapping[str, str], jobs: Iterable[Job]) -> dict[str, str]:
    """The reasons why jobs do not apply, by id, and for each further job that needs one of them as a teacher, that this
    teacher does not apply."""
    return {job.id: f"its teacher does not apply: {reasons[teacher]}"
            for job in jobs for teacher in job.teachers() if teacher in reasons} | dict(reasons)


class Training:
    """The `Work` of training runs, whose results are records."""

    function = "kdbench.train.worker:run_job"

    def result(self, job: Job) -> Record | Problem | None:
        return Store(job.out).get(job.id)

    def fail(self, job: Job, status: Status, reason: str) -> Record:
        record = Record.of(job, status, reason, role=job.role)
        try:
            Store(job.out).write(record)
        except OSError as error:
            raise UserError(f"{job}: {reason}; its record cannot be written: {explain(error)}") from error
        return record


@dataclass(frozen=True)
class Summary:
    """The student runs of a plan, or of a share of it, in numbers: `skipped` were finished before, `trained` are
    finished now, `failed` failed now, `inapplicable` were recorded as such now, and `waiting` were not begun, since
    they need a teacher that another share trains. `teachers_failed` is the number of teachers that failed now; their
    students may all be in other shares."""

    folder: Path
    skipped: int
    trained: int
    failed: int
    inapplicable: int
    waiting: int = 0
    teachers_failed: int = 0


class Matrix:
    """The runs of one plan in the results folder `out`. `role` is the role of the plan's students in their records.
    With `look_only`, `pending` changes nothing on disk. With a `share`, `run` does only the runs of that share."""

    def __init__(self, plan: Plan, out: Path, cache: CacheFolder, say: Say, look_only: bool = False,
                 role: Role = "student", share: Share | None = None):
        self.plan, self.out, self.cache, self.say, self.look_only = plan, out, cache, say, look_only
        self.role, self.share = role, share
        self.left: set[str] = set()  # the ids of failed runs that the last `pending` left as they are
        self._opening: list[str] = []  # lines on teacher passes that `run` says before it begins
        self._before: dict[str, str] = {}  # by run id, the fingerprint of the result that `pending` found
        self.store, self.teachers, self.training = Store(out), Store(cache.teachers), Training()

    def pending(self, retry: Collection[Retry] = RETRY) -> list[Job]:
        """The runs without a usable record and those that `retry` says to do again, teachers first. Teachers that no
        pending run needs are left out. Damaged teachers are set aside. UserError if a newer kdbench wrote the record of
        a teacher."""
        self.left.clear()
        jobs = []
        for spec in self.plan.students:
            found = self.store.get(spec.id)
            if not self._is_done(spec, found, retry):
                self._before[spec.id] = fingerprint(found)
                jobs.append(self._job(spec, self.role))
        needed = {teacher for job in jobs for teacher in job.teachers()}
        teachers = [self._job(spec, "teacher") for spec in self.plan.teachers
                    if spec.id in needed and not self._teacher_is_ready(spec)]
        self._before |= {job.id: fingerprint(self.training.result(job)) for job in teachers}
        return teachers + jobs

    def is_own(self, run_id: str) -> bool:
        """Whether the run is in the share of this matrix."""
        return self.share is None or self.share.has(run_id)

    def left_out(self) -> Iterator[str]:
        """Yield a sentence on the failed runs that the last `pending` left as they are; nothing if there are none."""
        if left := sum(map(self.is_own, self.left)):
            runs = "1 failed run" if left == 1 else f"{left} failed runs"
            yield f"{runs} left alone; --retry failed tries again"

    def share_teachers(self, jobs: list[Job], sizes: Mapping[str, AnswerSize], budget: int | None) -> list[Job]:
        """The jobs, with the teacher passes that they share within `budget` bytes, or within a part of the free disk if
        that is None. Cached passes of other plans are removed to make room for these, the longest unused first."""
        passes = plan_passes(self.cache, jobs, sizes, budget)
        self._opening += passes.lines()
        if removed := passes.make_room():
            self._opening.append(f"{len(removed)} teacher passes of other plans, unused for longest, made room: "
                                 f"{size_text(sum(one.bytes for one in removed))}")
        return with_passes(jobs, passes.shared)

    def run(self, jobs: list[Job], reasons: dict[str, str], pool: Executor, display: Display,
            opening: Iterable[str] = (), trackers: Iterable[Tracker] = ()) -> Summary:
        """Run the jobs, or those that are in the share; the jobs whose ids are in `reasons`, and those that need one of
        them as a teacher, are recorded as inapplicable for that reason instead. The lines of `opening` are said once
        nothing stands in the way, and `trackers` show each run as it ends. A run that another command has finished
        since `pending` is not done again. UserError if another command is writing into the folder, or if the cache or a
        record cannot be written."""
        foreign = [job for job in jobs if job.role == "teacher" and not self.is_own(job.id)]
        jobs = [job for job in jobs if self.is_own(job.id)]
        reasons = with_students(reasons, jobs)
        done = failed = teachers_failed = 0
        with self.store.lock(self.share.shard.name if self.share else None):
            # Another command may have held the lock since `pending` looked: what it finished is not done again.
            jobs = [job for job in jobs if not ended_well_since(job, self.training, self._before[job.id])]
            self._prepare_cache()
            for line in (*opening, *self._opening):
                self.say(line)
            self._set_damaged_aside()
            for damaged in self.store.plan(self._planned()):
                self.say(f"damaged plan {damaged.path} ({damaged.reason}) was written anew")
            for job in (j for j in jobs if j.id in reasons):
                self.say(f"n/a  {job}: {reasons[job.id]}")
                self.training.fail(job, "inapplicable", reasons[job.id])
            inapplicable = sum(job.id in reasons for job in jobs if job.role == self.role)
            jobs = [job for job in jobs if job.id not in reasons]
            self._copy_teachers()
            with display, tracked(trackers, self.say) as show:
                display.expect(jobs)
                for job, record in self._results(jobs, foreign, pool, display.watch):
                    display.ended(job, record)
                    show(record)
                    if job.role == "teacher":
                        self._copy_teachers()
                        teachers_failed += record.status != "ok"
                    done += job.role == self.role
                    failed += job.role == self.role and record.status != "ok"
        students = sum(self.is_own(spec.id) for spec in self.plan.students)
        pending = sum(job.role == self.role for job in jobs)
        return Summary(
            self.out, skipped=students - pending - inapplicable - sum(map(self.is_own, self.left)),
            trained=done - failed, failed=failed, inapplicable=inapplicable, waiting=pending - done,
            teachers_failed=teachers_failed)

    def changed_methods(self) -> dict[str, int]:
        """By method, the number of finished runs that another version of its source made, where there are any."""
        changed: dict[str, int] = {}
        for spec in self.plan.students:
            record = self.store.get(spec.id)
            if isinstance(record, Record) and record.status in FINAL and self._has_changed(record):
                changed[spec.method] = changed.get(spec.method, 0) + 1
        return changed

    # Teachers of other shares.

    def _results(self, jobs: list[Job], foreign: list[Job], pool: Executor,
                 watch: Watch[Job]) -> Iterator[tuple[Job, Record]]:
        """Run the jobs, and yield each with its record as it ends. Jobs that need one of the `foreign` teachers, which
        other shares train, begin once that teacher is there."""
        if self.share is None:
            yield from pool.run(jobs, self.training, watch)
            return
        began, failed = now(), dict[str, str]()
        for turn in self.share.turns(jobs, foreign, lambda job: self._state(job, began), self.say):
            self._copy_teachers()
            in_vain = {job.id: run for job in turn for run in job.teachers() if run in failed}
            for job in (job for job in turn if job.id in in_vain):
                run = in_vain[job.id]
                yield job, self.training.fail(job, "crashed", f"its teacher, run {run}, failed: {failed[run]}")
            for job, record in pool.run([job for job in turn if job.id not in in_vain], self.training, watch):
                if record.status != "ok":
                    failed[job.id] = record.reason or record.status
                yield job, record

    def _state(self, teacher: Job, began: str) -> str:
        """The state of a teacher that another share trains, in the words of `Share.turns`. It counts as failed only if
        it failed since this command began: its own command tries again what failed earlier."""
        record = self.teachers.get(teacher.id)
        if is_locked(self.cache.unfinished(teacher.id).lock):
            return "at work"
        if not isinstance(record, Record):
            return "not begun"
        if record.status != "ok":
            return f"failed: {record.reason}" if record.finished >= began else "not begun"
        there = self.teachers.files.student(teacher.id).exists() and not self.teachers.damage(record)
        return "there" if there else "not begun"

    # Which runs are done.

    def _is_done(self, spec: RunSpec, record: Record | Problem | None, retry: Collection[Retry]) -> bool:
        if isinstance(record, Problem) and record.newer:
            self.say(f"{record.path}: {record.reason}; the run is left as it is")
            return True
        if not isinstance(record, Record) or record.role != self.role:
            return False
        failed = record.status not in FINAL
        if (failed and "failed" in retry) or ("stale" in retry and self._has_changed(record)):
            return False
        if failed:
            self.left.add(record.run_id)
        if damage := self.store.damage(record):
            self.say(f"{damage}; run {record.run_id} is redone")
        return damage is None

    def _has_changed(self, record: Record) -> bool:
        return record.method_digest != self.plan.methods[record.spec.method].digest

    def _teacher_is_ready(self, spec: RunSpec) -> bool:
        """Whether the teacher's record has status "ok" and its weights and predictions are those that the record names.
        A damaged record, or one whose files are missing or damaged, is set aside. UserError if a newer kdbench wrote
        the record."""
        record, files = self.teachers.get(spec.id), self.teachers.files
        if record is None:
            return False
        if isinstance(record, Problem):
            if record.newer:
                raise UserError(f"{record.path}: {record.reason}; update kdbench, or choose another cache")
            self._set_aside(record)
            return False
        if record.status != "ok":
            return False
        expected = (files.student(spec.id), files.predictions(spec.id))
        missing = next((f"{path} is missing" for path in expected if not path.exists()), None)
        if damage := missing or self.teachers.damage(record):
            self._set_aside(Problem(files.record(spec.id), damage))
            return False
        return True

    # Files beside the records of the runs.

    def _prepare_cache(self) -> None:
        """Remove what killed processes left half written in the cache. UserError, before anything trains, if the cache
        cannot be written."""
        try:
            atomic_write(self.cache.root / ".writable", b"")
        except OSError as error:
            raise UserError(f"the cache cannot be written: {explain(error)}") from error
        sweep(self.cache.root, older_than=LEFT_OVER)

    def _planned(self) -> Iterable[Planned]:
        for spec in self.plan.teachers:
            yield Planned(suite=self.plan.suite, role="teacher", spec=spec)
        for spec in self.plan.students:
            yield Planned(suite=self.plan.suite, role=self.role, spec=spec)

    def _copy_teachers(self) -> None:
        """Copy the records and predictions of finished teachers from the cache, so that the results folder is complete
        by itself."""
        for spec in self.plan.teachers:
            own, record = self.store.get(spec.id), self.teachers.get(spec.id)
            damage = self.store.damage(own) if isinstance(own, Record) else None
            if isinstance(own, Problem) or (own is not None and damage is None):
                continue
            if damage:
                self.say(f"{damage}; it is copied from the cache again")
            if isinstance(record, Record) and record.status == "ok":
                self._copy_teacher(record)

    def _copy_teacher(self, record: Record) -> None:
        if damage := self.teachers.damage(record):
            self.say(f"{damage}; it is not copied, and made again as soon as a run needs it")
            return
        content = read_file(self.teachers.files.predictions(record.run_id))
        atomic_write(self.store.files.predictions(record.run_id), content)
        self.store.write(msgspec.structs.replace(record, suite=self.plan.suite))

    def _set_damaged_aside(self) -> None:
        for found in self.store.scan():
            if isinstance(found, Problem) and not found.newer and self.is_own(found.path.stem):
                self._set_aside(found)

    def _set_aside(self, problem: Problem) -> None:
        if self.look_only:
            self.say(f"damaged record {problem.path} ({problem.reason}); the run is redone")
            return
        try:
            aside = set_aside(problem.path)
        except FileNotFoundError:  # another command was faster
            return
        self.say(f"damaged record {problem.path} ({problem.reason}) was set aside as {aside.name}; the run is redone")

    def _job(self, spec: RunSpec, role: Role) -> Job:
        out = self.cache.teachers if role == "teacher" else self.out
        return Job(spec, self.plan.methods[spec.method], role, self.plan.suite, out, self.cache)
