"""Runs jobs on this machine: one single-threaded process per job, several at a time or one alone.

A job tells its result by the file that it writes and its progress by another, so nothing is shared between the
processes that a killed one could leave locked. The processes are forked from a server that has imported torch already,
which makes a start cheap; they end with their parent, however that ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from kdbench.results.record import Problem, Status

POLL_SECONDS = 0.25


class Result(Protocol):
    @property
    def status(self) -> Status: ...

    @property
    def reason(self) -> str | None: ...


class Work(Protocol):
    """What the pool must know of a job: a run to train, or something to measure."""

    @property
    def id(self) -> str: ...

    def teachers(self) -> Iterable[str]:
        """The ids of the jobs that must come first."""

    def execute(self) -> None:
        """Do it, in a process of its own, and write the result."""

    def result(self) -> Result | Problem | None:
        """What was written."""

    def fail(self, status: Status, reason: str) -> Result:
        """Write the result of a job that could not write its own."""


Task = TypeVar("Task", bound=Work)


@dataclass
class Running(Generic[Task]):
    """A job in its process."""

    job: Task
    process: BaseProcess
    started: float


class LocalPool:
    """Executes jobs in processes of their own. `timeout` is in seconds per run; None for no limit."""

    def __init__(self, workers: int, timeout: float | None = None):
        self.workers, self.timeout = workers, timeout
        self._context = multiprocessing.get_context("forkserver")

    def start(self) -> None:
        """Let the fork server import torch in the background, while the caller still checks its input."""
        # Set before the server starts, since its forks inherit it: one thread per process, and imports from where this
        # process has them, not from the folder that it happens to run in.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", CUBLAS_WORKSPACE_CONFIG=":4096:8",
                          PYTHONSAFEPATH="1")
        self._context.set_forkserver_preload(["kdbench.train.worker"])
        from multiprocessing.forkserver import ensure_running

        ensure_running()

    def run(self, jobs: Iterable[Task],
            watch: Callable[[list[Running[Task]], int], None]) -> Iterator[tuple[Task, Any]]:
        """Each job with its result, as they end. A job waits for its teachers where these are among the jobs, and
        fails if one of them does. `watch` is called several times a second with the running jobs and the number that
        waits."""
        waiting = list(jobs)
        open_ids = {job.id for job in waiting}
        failed: dict[str, str] = {}
        running: list[Running[Task]] = []
        with self._ended_on_exit(running):
            while waiting or running:
                for job in [j for j in waiting if not failed.keys().isdisjoint(j.teachers())]:
                    waiting.remove(job)
                    teacher = next(t for t in job.teachers() if t in failed)
                    yield job, job.fail("crashed", f"its teacher, run {teacher}, failed: {failed[teacher]}")
                ready = [job for job in waiting if open_ids.isdisjoint(job.teachers())]
                for job in ready[:self.workers - len(running)]:
                    waiting.remove(job)
                    running.append(self._start(job))
                wait([r.process.sentinel for r in running], POLL_SECONDS)
                for ended in [r for r in running if self._has_ended(r)]:
                    running.remove(ended)
                    result = _outcome(ended, self.timeout)
                    open_ids.discard(ended.job.id)
                    if result.status != "ok":
                        failed[ended.job.id] = result.reason or result.status
                    yield ended.job, result
                watch(running, len(waiting))

    def _start(self, job: Task) -> Running[Task]:
        process = self._context.Process(target=_work, args=(job,), name=f"kdbench {job.id}")
        process.start()
        return Running(job, process, time.monotonic())

    def _has_ended(self, running: Running) -> bool:
        if running.process.is_alive() and self._over_time(running):
            running.process.kill()
            running.process.join()
        return not running.process.is_alive()

    def _over_time(self, running: Running) -> bool:
        return self.timeout is not None and time.monotonic() - running.started > self.timeout

    @contextmanager
    def _ended_on_exit(self, running: list[Running]) -> Iterator[None]:
        """No process outlives the loop: a job loses at most the epoch it is in."""
        try:
            yield
        finally:
            for r in running:
                r.process.kill()
            for r in running:
                r.process.join()


def _outcome(ended: Running, timeout: float | None) -> Result:
    """What the process wrote, or a result that says how the process ended."""
    code = ended.process.exitcode
    if code == 0:
        result = ended.job.result()
        if result is not None and not isinstance(result, Problem):
            return result
        return ended.job.fail("crashed", f"crashed: it left no readable record: {result.reason if result else 'none'}")
    if timeout is not None and time.monotonic() - ended.started > timeout:
        return ended.job.fail("timeout", f"stopped after {timeout:g} seconds (--run-timeout)")
    if code is not None and code < 0:
        return ended.job.fail("crashed", f"crashed: killed by {signal.Signals(-code).name}"
                              + (" (out of memory?)" if code == -signal.SIGKILL else ""))
    return ended.job.fail("crashed", f"crashed: its process ended with exit code {code}")


def _work(job: Work) -> None:
    """What a process does with its one job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job.execute()
    sys.stdout.flush()
    os._exit(0)  # everything is on disk; torch's own exit handlers take their time


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
