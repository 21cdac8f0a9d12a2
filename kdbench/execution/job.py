"""A spec on its way to a process: what to do, with what, and where the results go. Free of torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.environment import environment, now
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Problem, Record, Role, Status
from kdbench.results.store import Store
from kdbench.spec import RunSpec, TrainedTeacher


@dataclass(frozen=True)
class Job:
    spec: RunSpec
    method: MethodInfo
    role: Role
    suite: str
    out: Path    # the store of its record; for a teacher that of all teachers
    cache: Path

    @property
    def id(self) -> str:
        return self.spec.id

    def teachers(self) -> Iterator[str]:
        """The ids of the runs that must come first."""
        for teacher in (self.spec.teacher, self.spec.self_teacher):
            if isinstance(teacher, TrainedTeacher):
                yield teacher.run.id

    def execute(self) -> None:
        """Train, in this process, and write the record."""
        from kdbench.train.worker import run_job

        run_job(self)

    def result(self) -> Record | Problem | None:
        return Store(self.out).get(self.id)

    def fail(self, status: Status, reason: str) -> Record:
        """Write the record of a run that could not write its own."""
        record = Record(
            run_id=self.id, role=self.role, suite=self.suite, spec=self.spec, status=status, reason=reason,
            seconds=0.0, method_digest=self.method.digest, environment=environment("cpu"), started=now(),
            finished=now(),
        )
        Store(self.out).write(record)
        return record

    def __str__(self) -> str:
        spec = self.spec
        what = f"teacher {spec.student.model}" if self.role == "teacher" else spec.method
        return f"{what}  {spec.pair}  {spec.dataset}  seed {spec.seed}"
