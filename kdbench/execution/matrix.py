"""Runs a plan: what is not done yet, teachers first, each result on disk as it comes."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kdbench.disk import atomic_write, explain, read_file, set_aside, sweep
from kdbench.errors import UserError
from kdbench.execution.display import Display
from kdbench.execution.executor import Executor
from kdbench.execution.job import Job
from kdbench.execution.passes import AnswerSize, plan_passes, with_passes
from kdbench.folders import CacheFolder
from kdbench.results.record import Planned, Problem, Record, Role, Status
from kdbench.results.sizes import size_text
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.suites.plan import Plan

FINAL: tuple[Status, ...] = ("ok", "inapplicable")  # not tried again; every other status is retried by the next run
LEFT_OVER = 3600.0  # seconds after which a temporary file in the cache is nobody's any more
Say = Callable[[str], None]


class Training:
    """The work of training runs, whose results are records."""

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
    """How many student runs of a plan were finished before, were finished now, failed, or do not apply."""

    folder: Path
    skipped: int
    trained: int
    failed: int
    inapplicable: int


class Matrix:
    """The runs of one plan in one output folder. With `look_only`, `pending` touches nothing on disk. `role` is that of
    the plan's students, and `final` the statuses with which they are not tried again."""

    def __init__(self, plan: Plan, out: Path, cache: CacheFolder, say: Say, look_only: bool = False,
                 role: Role = "student", final: Collection[Status] = FINAL):
        self.plan, self.out, self.cache, self.say, self.look_only = plan, out, cache, say, look_only
        self.role, self.final = role, final
        self.store, self.teachers, self.training = Store(out), Store(cache.teachers), Training()

    def pending(self, rerun_changed: bool = False) -> list[Job]:
        """The runs without a final record, teachers first. A teacher that no pending run needs is not among them."""
        students = [s for s in self.plan.students if not self._is_done(s, rerun_changed)]
        jobs = [self._job(spec, self.role) for spec in students]
        needed = {teacher for job in jobs for teacher in job.teachers()}
        teachers = [t for t in self.plan.teachers if t.id in needed and not self._teacher_is_ready(t)]
        return [self._job(spec, "teacher") for spec in teachers] + jobs

    def share_teachers(self, jobs: list[Job], sizes: Mapping[str, AnswerSize], budget: int | None) -> list[Job]:
        """The jobs, with the teacher passes that they share within `budget` bytes, by default a share of the free disk.
        Passes of other plans make room for these, the longest unused first."""
        passes = plan_passes(self.cache, jobs, sizes, budget)
        for line in passes.lines():
            self.say(line)
        if removed := passes.make_room():
            self.say(f"{len(removed)} teacher passes of other plans, unused for longest, made room: "
                     f"{size_text(sum(one.bytes for one in removed))}")
        return with_passes(jobs, passes.shared)

    def run(self, jobs: list[Job], reasons: dict[str, str], pool: Executor, display: Display) -> Summary:
        """Execute `jobs`; those that `reasons` names by id are recorded as inapplicable instead. UserError if another
        command writes into the folder."""
        with self.store.lock():
            self._prepare_cache()
            self._set_damaged_aside()
            for damaged in self.store.plan(self._planned()):
                self.say(f"damaged plan {damaged.path} ({damaged.reason}) was written anew")
            for job in (j for j in jobs if j.id in reasons):
                self.say(f"n/a  {job}: {reasons[job.id]}")
                self.training.fail(job, "inapplicable", reasons[job.id])
            jobs = [job for job in jobs if job.id not in reasons]
            self._copy_teachers()
            failed = 0
            with display:
                display.expect(jobs)
                for job, record in pool.run(jobs, self.training, display.watch):
                    display.ended(job, record)
                    if job.role == "teacher":
                        self._copy_teachers()
                    failed += job.role == self.role and record.status != "ok"
        students = sum(job.role == self.role for job in jobs)
        return Summary(self.out, skipped=len(self.plan.students) - students - len(reasons), trained=students - failed,
                       failed=failed, inapplicable=len(reasons))

    def changed_methods(self) -> dict[str, int]:
        """By method, how many finished runs were made by another version of its source."""
        changed: dict[str, int] = {}
        for spec in self.plan.students:
            record = self.store.get(spec.id)
            if isinstance(record, Record) and record.status in FINAL and self._has_changed(record):
                changed[spec.method] = changed.get(spec.method, 0) + 1
        return changed

    # Which runs are done.

    def _is_done(self, spec: RunSpec, rerun_changed: bool) -> bool:
        record = self.store.get(spec.id)
        if isinstance(record, Problem) and record.newer:
            self.say(f"{record.path}: {record.reason}; the run is left as it is")
            return True
        if (not isinstance(record, Record) or record.role != self.role or record.status not in self.final
                or (rerun_changed and self._has_changed(record))):
            return False
        if damage := self.store.damage(record):
            self.say(f"{damage}; run {record.run_id} is redone")
        return damage is None

    def _has_changed(self, record: Record) -> bool:
        return record.method_digest != self.plan.methods[record.spec.method].digest

    def _teacher_is_ready(self, spec: RunSpec) -> bool:
        """Whether the teacher's record says ok, and its weights and predictions are those that the record names."""
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
        """Make sure that the cache can be written, before anything trains, and clear what killed processes left."""
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
        """Copy the teachers' records and predictions, so that the output folder says everything by itself."""
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
            if isinstance(found, Problem) and not found.newer:
                self._set_aside(found)

    def _set_aside(self, problem: Problem) -> None:
        if self.look_only:
            self.say(f"damaged record {problem.path} ({problem.reason}); the run is redone")
            return
        aside = set_aside(problem.path)
        self.say(f"damaged record {problem.path} ({problem.reason}) was set aside as {aside.name}; the run is redone")

    def _job(self, spec: RunSpec, role: Role) -> Job:
        out = self.cache.teachers if role == "teacher" else self.out
        return Job(spec, self.plan.methods[spec.method], role, self.plan.suite, out, self.cache)
