"""One run to execute, as plain data that can be sent to a process or to another machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Role
from kdbench.spec import RunSpec, teacher_runs


@dataclass(frozen=True)
class PassShare:
    """The teacher pass (the cached outputs of a teacher for a stream of batches) that a run may read, and the parts of
    the outputs ("logits", "embedding", "stages") that the run may add to it."""

    key: str  # see `passes.pass_key`
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run to train: its spec, its method, and the folders for its results and the cache."""

    spec: RunSpec
    method: MethodInfo
    role: Role
    suite: str
    out: Path    # the results folder of its record; for a teacher, the folder of all teachers in the cache
    cache: CacheFolder
    teacher_pass: PassShare | None = None  # None: the teacher computes all of its outputs
    # Pairs of epoch (from 1) and threshold: the run is stopped after that epoch if its highest accuracy so far on the
    # first validation images is below the threshold.
    stop_below: tuple[tuple[int, float], ...] = ()

    @property
    def id(self) -> str:
        return self.spec.id

    def teachers(self) -> Iterator[str]:
        """The ids of the runs that must be done before this one, which train its teachers."""
        return (run.id for run in teacher_runs(self.spec))

    def __str__(self) -> str:
        spec = self.spec
        kind = "teacher" if spec.teacher is None else "assistant"
        what = f"{kind} {spec.student.model}" if self.role == "teacher" else spec.method
        return f"{what}  {spec.pair}  {spec.dataset}  seed {spec.seed}"
