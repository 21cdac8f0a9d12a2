"""A spec on its way to a process: what to do, with what, and where the results go. Free of torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.registry import MethodInfo
from kdbench.spec import RunSpec, TrainedTeacher
from kdbench.store import Role


@dataclass(frozen=True)
class Job:
    spec: RunSpec
    method: MethodInfo
    role: Role
    suite: str
    out: Path    # the store of its record; for a teacher that of all teachers
    cache: Path

    def teachers(self) -> Iterator[str]:
        """The ids of the runs that must come first."""
        for teacher in (self.spec.teacher, self.spec.self_teacher):
            if isinstance(teacher, TrainedTeacher):
                yield teacher.run.id

    def __str__(self) -> str:
        spec = self.spec
        what = f"teacher {spec.student.model}" if self.role == "teacher" else spec.method
        return f"{what}  {spec.pair}  {spec.dataset}  seed {spec.seed}"
