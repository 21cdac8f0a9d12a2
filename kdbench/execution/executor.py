"""The interface of executors, which run the tasks of a matrix in processes on this machine or on a cluster."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Outcome, Problem, Status


class Queued(Protocol):
    """The interface of a task for executors: plain data that can be sent to a process or to another machine."""

    @property
    def id(self) -> str: ...
    @property
    def method(self) -> MethodInfo: ...
    @property
    def cache(self) -> CacheFolder: ...

    def teachers(self) -> Iterable[str]:
        """The ids of the tasks that must be done before this one."""


Task = TypeVar("Task", bound=Queued)
Result = TypeVar("Result", bound=Outcome)
Task_contra = TypeVar("Task_contra", bound=Queued, contravariant=True)
Result_co = TypeVar("Result_co", bound=Outcome, covariant=True)


class Work(Protocol[Task_contra, Result_co]):
    """A kind of work: the function that a process calls with a task, and where the task's result is kept. It is plain
    data, too, so that it can be sent to another machine with the task."""

    function: str  # "MODULE:NAME" of the function that a process imports and calls with its task

    def result(self, job: Task_contra, /) -> Result_co | Problem | None:
        """The result that the task's process wrote; None if there is none, a Problem if it is damaged."""

    def fail(self, job: Task_contra, status: Status, reason: str, /) -> Result_co:
        """Write a result with this status and reason for a task that did not write its own, and return it."""


@dataclass
class Running(Generic[Task]):
    """A task that is being run, and the value of `time.monotonic` when it began."""

    job: Task
    started: float


# Called several times a second with the tasks that are being run and the number of tasks that wait.
Watch: TypeAlias = Callable[[Sequence[Running[Task]], int], None]


class Executor(Protocol):
    """Runs tasks, each in a process of its own, on this machine or elsewhere. The result of a task does not depend on
    where it is run."""

    workers: int  # the most tasks that are run at a time

    @property
    def here(self) -> bool:
        """Whether tasks are run on this machine, so that a check may look here for what they need, such as a GPU."""

    def start(self) -> None:
        """Prepare to run tasks, if possible in the background while the caller still checks its input. UserError if no
        task can be run."""

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the function "MODULE:NAME" in a process of its own on this machine, and return what it returns."""

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task],
            ) -> Iterator[tuple[Task, Result]]:
        """Run the tasks, and yield each with its result as it ends. A task waits for those of its teachers that are
        among the tasks, and fails if one of them fails."""


class Order(Generic[Task]):
    """The order in which tasks can begin: which of them still wait, and which are ready since their teachers are
    done."""

    def __init__(self, jobs: Iterable[Task]):
        self.waiting = list(jobs)
        self._open = {job.id for job in self.waiting}
        self._failed: dict[str, str] = {}

    def ready(self, most: int | None = None) -> list[Task]:
        """The waiting tasks whose teachers are done, or the first `most` of them. The caller removes the tasks that it
        begins from `waiting`."""
        return list(islice((job for job in self.waiting if self._open.isdisjoint(job.teachers())), most))

    def hopeless(self) -> list[tuple[Task, str]]:
        """Remove the tasks of which a teacher failed from `waiting`, and return each with the reason."""
        found = []
        for job in [job for job in self.waiting if not self._failed.keys().isdisjoint(job.teachers())]:
            teacher = next(teacher for teacher in job.teachers() if teacher in self._failed)
            self._failed[job.id] = reason = f"its teacher, run {teacher}, failed: {self._failed[teacher]}"
            self.waiting.remove(job)
            found.append((job, reason))
        return found

    def ended(self, job: Task, result: Outcome) -> None:
        """Note that a task has ended, so that the tasks that wait for it become ready or, if its status is not "ok",
        hopeless."""
        self._open.discard(job.id)
        if result.status != "ok":
            self._failed[job.id] = result.reason or result.status
