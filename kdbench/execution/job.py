"""A run on its way to a process, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Role
from kdbench.spec import RunSpec, teacher_runs


@dataclass(frozen=True)
class PassShare:
    """A teacher pass that a run may read, and the parts of the answers ("logits", "embedding", "stages") that it may
    add."""

    key: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run to train: what to do, with which method, and where its results go."""

    spec: RunSpec
    method: MethodInfo
    role: Role
    suite: str
    out: Path    # the results folder of its record; for a teacher that of all teachers
    cache: CacheFolder
    teacher_pass: PassShare | None = None  # None: the teacher computes all of its answers
    # After an epoch, the accuracy on the first validation images that the run must have reached to be continued.
    stop_below: tuple[tuple[int, float], ...] = ()

    @property
    def id(self) -> str:
        return self.spec.id

    def teachers(self) -> Iterator[str]:
        """The ids of the runs that must come first."""
        return (run.id for run in teacher_runs(self.spec))

    def __str__(self) -> str:
        spec = self.spec
        kind = "teacher" if spec.teacher is None else "assistant"
        what = f"{kind} {spec.student.model}" if self.role == "teacher" else spec.method
        return f"{what}  {spec.pair}  {spec.dataset}  seed {spec.seed}"
