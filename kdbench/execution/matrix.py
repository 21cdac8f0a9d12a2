"""Runs a plan: what is not done yet, teachers first, each result on disk as it comes. Free of torch until it trains."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from kdbench import folders
from kdbench.disk import file_sha256
from kdbench.environment import environment, now
from kdbench.execution.display import Display
from kdbench.execution.job import Job
from kdbench.execution.pool import LocalPool
from kdbench.results.record import Planned, Problem, Record, Role
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.suites.plan import Plan

FINAL = ("ok", "inapplicable")  # not tried again; every other status is retried by the next run


Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How many student runs of the plan were already there, were made now, failed or do not apply."""

    skipped: int
    trained: int
    failed: int
    inapplicable: int


class Matrix:
    """The runs of one plan in one output folder."""

    def __init__(self, plan: Plan, out: Path, cache: Path, say: Say):
        self.plan, self.out, self.cache, self.say = plan, out, cache, say
        self.store, self.teachers = Store(out), Store(folders.teachers_folder(cache))

    def pending(self, rerun_changed: bool = False) -> list[Job]:
        """The runs without a final record, teachers first. A teacher that no pending run needs is not among them."""
        students = [s for s in self.plan.students if not self._is_done(s, rerun_changed)]
        jobs = [self._job(spec, "student") for spec in students]
        needed = {teacher for job in jobs for teacher in job.teachers()}
        teachers = [t for t in self.plan.teachers if t.id in needed and not self._teacher_is_ready(t)]
        return [self._job(spec, "teacher") for spec in teachers] + jobs

    def run(self, jobs: list[Job], reasons: dict[str, str], pool: LocalPool, display: Display) -> Outcome:
        """Execute `jobs`; those that `reasons` names are recorded as inapplicable instead."""
        with self.store.lock():
            self._set_damaged_aside()
            self.store.plan(self._planned())
            for job in (j for j in jobs if j.spec.id in reasons):
                self._record_inapplicable(job, reasons[job.spec.id])
            jobs = [job for job in jobs if job.spec.id not in reasons]
            self._copy_teachers()
            failed = 0
            with display:
                display.expect(jobs)
                for job, record in pool.run(jobs, display.watch):
                    display.ended(job, record)
                    if job.role == "teacher":
                        self._copy_teachers()
                    failed += job.role == "student" and record.status != "ok"
        students = sum(job.role == "student" for job in jobs)
        return Outcome(skipped=len(self.plan.students) - students - len(reasons), trained=students - failed,
                       failed=failed, inapplicable=len(reasons))

    def changed_methods(self) -> dict[str, int]:
        """Of finished runs, how many were made by another version of the method's source, by method."""
        changed: dict[str, int] = {}
        for spec in self.plan.students:
            record = self.store.get(spec.id)
            if isinstance(record, Record) and record.status in FINAL and self._has_changed(record):
                changed[spec.method] = changed.get(spec.method, 0) + 1
        return changed

    # Which runs are done.

    def _is_done(self, spec: RunSpec, rerun_changed: bool) -> bool:
        record = self.store.get(spec.id)
        return (isinstance(record, Record) and record.role == "student" and record.status in FINAL
                and not (rerun_changed and self._has_changed(record)))

    def _has_changed(self, record: Record) -> bool:
        return record.method_digest != self.plan.methods[record.spec.method].digest

    def _teacher_is_ready(self, spec: RunSpec) -> bool:
        """Its record says ok, and its weights and predictions are those that the record speaks of."""
        record = self.teachers.get(spec.id)
        if record is None:
            return False
        if isinstance(record, Problem):
            self._set_aside(self.teachers, record)
            return False
        if record.status != "ok":
            return False
        for path, expected in ((self.teachers.student_path(spec.id), record.weights_sha256),
                               (self.teachers.predictions_path(spec.id), record.predictions_sha256)):
            if not path.exists() or file_sha256(path) != expected:
                problem = Problem(self.teachers.record_path(spec.id), f"{path} is missing or damaged")
                self._set_aside(self.teachers, problem)
                return False
        return True

    # What is written beside the runs' own records.

    def _planned(self) -> Iterable[Planned]:
        for spec in self.plan.teachers:
            yield Planned(suite=self.plan.suite, role="teacher", spec=spec)
        for spec in self.plan.students:
            yield Planned(suite=self.plan.suite, role="student", spec=spec)

    def _copy_teachers(self) -> None:
        """The teachers' records and predictions, so that the output folder says everything by itself."""
        for spec in self.plan.teachers:
            record = self.teachers.get(spec.id)
            if isinstance(record, Record) and self.store.get(spec.id) is None and record.status == "ok":
                target = self.store.predictions_path(spec.id)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(self.teachers.predictions_path(spec.id), target)
                self.store.write(record.model_copy(update={"suite": self.plan.suite}))

    def _record_inapplicable(self, job: Job, reason: str) -> None:
        self.say(f"n/a  {job}: {reason}")
        self.store.write(Record(
            run_id=job.spec.id, role=job.role, suite=job.suite, spec=job.spec, status="inapplicable", reason=reason,
            seconds=0.0, family=job.method.family, method_digest=job.method.digest,
            environment=environment(job.spec.device), started=now(), finished=now(),
        ))

    def _set_damaged_aside(self) -> None:
        for problem in self.store.read().problems:
            self._set_aside(self.store, problem)

    def _set_aside(self, store: Store, problem: Problem) -> None:
        aside = store.set_aside(problem.path)
        self.say(f"damaged record {problem.path} ({problem.reason}) was set aside as {aside.name}; the run is redone")

    def _job(self, spec: RunSpec, role: Role) -> Job:
        out = self.teachers.folder if role == "teacher" else self.out
        return Job(spec, self.plan.methods[spec.method], role, self.plan.suite, out, self.cache)
