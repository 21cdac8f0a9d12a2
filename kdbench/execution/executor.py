"""What runs the tasks of a matrix: the interface that a pool of processes here and a cluster both have."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Outcome, Problem, Status


class Queued(Protocol):
    """What an executor must know of a task: plain data that can be sent to a process or to another machine."""

    @property
    def id(self) -> str: ...
    @property
    def method(self) -> MethodInfo: ...
    @property
    def cache(self) -> CacheFolder: ...

    def teachers(self) -> Iterable[str]:
        """The ids of the tasks that must come first."""


Task = TypeVar("Task", bound=Queued)
Result = TypeVar("Result", bound=Outcome)
Task_contra = TypeVar("Task_contra", bound=Queued, contravariant=True)
Result_co = TypeVar("Result_co", bound=Outcome, covariant=True)


class Work(Protocol[Task_contra, Result_co]):
    """A kind of work: what a process does with a task, and where the task's result is kept. It is plain data too."""

    function: str  # "MODULE:NAME" of the function that a process imports and calls with its task

    def result(self, job: Task_contra, /) -> Result_co | Problem | None:
        """The result that the task's process wrote; None if there is none, a Problem if it is damaged."""

    def fail(self, job: Task_contra, status: Status, reason: str, /) -> Result_co:
        """Write and return the result of a task that could not write its own."""


@dataclass
class Running(Generic[Task]):
    """A task that is being done, and since when by `time.monotonic`."""

    job: Task
    started: float


# Called several times a second with the tasks that are being done and the number of those that wait.
Watch: TypeAlias = Callable[[Sequence[Running[Task]], int], None]


class Executor(Protocol):
    """Does tasks, each in a process of its own, here or elsewhere. What a task results in does not depend on where."""

    workers: int  # tasks at a time, at most

    @property
    def here(self) -> bool:
        """Whether tasks are done on this machine, so that what they need can be looked for on it."""

    def start(self) -> None:
        """Get ready in the background, while the caller still checks its input. UserError if tasks cannot be done."""

    def call(self, function: str, *arguments: Any) -> Any:
        """What the function "MODULE:NAME" returns, called in a process of its own on this machine."""

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task],
            ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they end. A task waits for its teachers where these are among the tasks, and
        fails if one of them does."""


class Order(Generic[Task]):
    """The order of tasks: which still wait, and which of these can begin, since their teachers are done."""

    def __init__(self, jobs: Iterable[Task]):
        self.waiting = list(jobs)
        self._open = {job.id for job in self.waiting}
        self._failed: dict[str, str] = {}

    def ready(self, most: int | None = None) -> list[Task]:
        """The waiting tasks whose teachers are done, or the first `most` of them. The caller takes those that it begins
        out of `waiting`."""
        return list(islice((job for job in self.waiting if self._open.isdisjoint(job.teachers())), most))

    def hopeless(self) -> list[tuple[Task, str]]:
        """The waiting tasks of which a teacher failed, with the reason; they wait no longer."""
        found = []
        for job in [job for job in self.waiting if not self._failed.keys().isdisjoint(job.teachers())]:
            teacher = next(teacher for teacher in job.teachers() if teacher in self._failed)
            self._failed[job.id] = reason = f"its teacher, run {teacher}, failed: {self._failed[teacher]}"
            self.waiting.remove(job)
            found.append((job, reason))
        return found

    def ended(self, job: Task, result: Outcome) -> None:
        """Let the tasks begin that waited for this one, or fail with it."""
        self._open.discard(job.id)
        if result.status != "ok":
            self._failed[job.id] = result.reason or result.status
