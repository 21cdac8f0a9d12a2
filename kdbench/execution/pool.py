"""Runs tasks on this machine: one single-threaded process per task, several at a time or one alone.

A task tells its result by the file that it writes and its progress by another, so nothing is shared between the
processes that a killed one could leave locked. The processes are forked from a server that has imported torch already,
which makes a start cheap; they end with their parent, however that ends.
"""

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from kdbench.disk import explain
from kdbench.errors import UserError
from kdbench.execution.executor import Order, Result, Running, Task, Watch, Work
from kdbench.results.record import Problem

POLL_SECONDS = 0.25
TRIES = 5  # of starting a process,
PAUSE = 0.2  # seconds after each of them
END = 8  # tasks for each worker, the last ones, of which the longest begin first
UNKNOWN = 255  # multiprocessing's exit code of a process whose fork server was killed; it may still be at work
# By name, since the process that holds the pool imports no torch.
PRELOADED = ["kdbench.execution.preload", "kdbench.train.worker"]
PREFLIGHT = "kdbench.checks.preflight:preflight"


@dataclass
class InProcess(Running[Task]):
    """A task in its process."""

    process: BaseProcess
    last_words: Connection  # why the process failed, if it could tell


class LocalPool:
    """Executes tasks in processes of their own on this machine.

    `timeout` is in seconds per task; None for no limit. A task whose process a signal ended is tried again up to
    `retries` times. `estimate` gives the seconds that a task will take, if known.
    """

    here = True

    def __init__(self, workers: int, timeout: float | None = None, retries: int = 0,
                 estimate: Callable[[Any], float | None] = lambda job: None):
        self.workers, self.timeout, self.retries, self.estimate = workers, timeout, retries, estimate
        self._context = multiprocessing.get_context("forkserver")

    def start(self) -> None:
        """Let the fork server import torch in the background, while the caller still checks its input."""
        # Set before the server starts, since its forks inherit it: one thread per process, and imports from where this
        # process has them, not from the folder that it happens to run in.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", CUBLAS_WORKSPACE_CONFIG=":4096:8",
                          PYTHONSAFEPATH="1")
        self._context.set_forkserver_preload(PRELOADED)
        from multiprocessing.forkserver import ensure_running

        with _no_main_module():
            ensure_running()

    def call(self, function: str, *arguments: Any) -> Any:
        """What the function "MODULE:NAME" returns, called in a process of its own, so that this one need not import
        torch. A UserError is raised here as it was there, any other exception as a RuntimeError with its traceback, and
        a UserError if the process dies."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._forked(_answer, (str(Path.cwd()), function, arguments, sender))
        sender.close()
        try:
            returned, error = receiver.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise UserError(f"the process of {function} {how}; start the command again") from None
        finally:
            process.kill()
            process.join()
        if error is not None:
            raise error
        return returned

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they end. A task waits for its teachers where these are among the tasks, and
        fails if one of them does. `watch` is called several times a second."""
        order = Order(jobs)
        tries: Counter[str] = Counter()
        running: list[InProcess[Task]] = []
        with self._ended_on_exit(running):
            while order.waiting or running:
                for job, reason in order.hopeless():
                    yield job, work.fail(job, "crashed", reason)
                for job in self._next(order, self.workers - len(running)):
                    order.waiting.remove(job)
                    running.append(self._start(job, work))
                wait([r.process.sentinel for r in running], POLL_SECONDS)
                for ended in [r for r in running if self._has_ended(r)]:
                    running.remove(ended)
                    tries[ended.job.id] += 1
                    if self._was_killed(ended) and tries[ended.job.id] <= self.retries:
                        order.waiting.insert(0, ended.job)  # it continues from its last checkpoint
                        continue
                    result = _outcome(ended, work, self.timeout)
                    order.ended(ended.job, result)
                    yield ended.job, result
                watch(running, len(order.waiting))

    def _next(self, order: Order[Task], free: int) -> list[Task]:
        """The tasks that begin now: in their order, but at the end the longest first, so that none is left that keeps
        one process busy while the others have nothing to do."""
        if len(order.waiting) > END * self.workers:
            return order.ready(free)
        return sorted(order.ready(), key=lambda job: -(self.estimate(job) or 0.0))[:free]

    def _start(self, job: Task, work: Work[Task, Any]) -> InProcess[Task]:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._forked(_work, (str(Path.cwd()), work.function, job, sender), name=f"kdbench {job.id}")
        sender.close()
        return InProcess(job, time.monotonic(), process, receiver)

    def _forked(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str | None = None) -> BaseProcess:
        """A started process. A fork server that is killed meanwhile is started again, a few times."""
        for _ in range(TRIES):
            process = self._context.Process(target=target, args=arguments, name=name)
            try:
                with _no_main_module():
                    process.start()
            except (EOFError, ConnectionError):
                time.sleep(PAUSE)  # under load, a killed server looks alive for a moment
                continue
            return process
        raise UserError("no process can be started: the server that forks them is killed each time")

    def _has_ended(self, running: InProcess) -> bool:
        if running.process.is_alive() and self._over_time(running):
            running.process.kill()
            running.process.join()
        return not running.process.is_alive()

    def _over_time(self, running: InProcess) -> bool:
        return self.timeout is not None and time.monotonic() - running.started > self.timeout

    def _was_killed(self, ended: InProcess) -> bool:
        """Whether a signal ended the process, or the server that it was forked from, and not this pool after too long
        a time."""
        code = ended.process.exitcode or 0
        return (code < 0 or code == UNKNOWN) and not self._over_time(ended)

    @contextmanager
    def _ended_on_exit(self, running: list[InProcess[Task]]) -> Iterator[None]:
        """No process outlives the loop: a run loses what it did since its last checkpoint."""
        try:
            yield
        finally:
            for r in running:
                r.process.kill()
            for r in running:
                r.process.join()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Start processes that do not import this one's main module, which multiprocessing has each of them do first. They
    call functions of kdbench; the command line, or a script that calls `kdbench.run`, takes its time for nothing."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _outcome(ended: InProcess[Task], work: Work[Task, Result], timeout: float | None) -> Result:
    """The result that the process wrote, or one that says how the process ended."""
    job, code = ended.job, ended.process.exitcode
    if code == 0:
        result = work.result(job)
        if result is not None and not isinstance(result, Problem):
            return result
        return work.fail(job, "crashed", f"crashed: it left no readable record: {result.reason if result else 'none'}")
    if timeout is not None and time.monotonic() - ended.started > timeout:
        return work.fail(job, "timeout", f"stopped after {timeout:g} seconds (--run-timeout)")
    if code is not None and code < 0:
        return work.fail(job, "crashed", f"crashed: killed by {signal.Signals(-code).name}"
                         + (" (out of memory?)" if code == -signal.SIGKILL else ""))
    with suppress(EOFError, OSError):
        if ended.last_words.poll():
            return work.fail(job, "crashed", f"crashed: {ended.last_words.recv()}")
    return work.fail(job, "crashed", f"crashed: its process ended with exit code {code}")


# In the process.

def _work(folder: str, function: str, job: Any, last_words: Connection) -> None:
    """Do the one task of this process. If even its failure cannot be written, the parent is told why."""
    try:
        _begin(folder)
        _imported(function)(job)
        sys.stdout.flush()
    except BaseException as error:
        last_words.send(_in_a_line(error))
        os._exit(1)
    os._exit(0)  # everything is on disk; torch's own exit handlers take their time


def _in_a_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return explain(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _answer(folder: str, function: str, arguments: tuple[Any, ...], sender: Connection) -> None:
    """Send back what the function returns, or the error to raise."""
    _begin(folder)
    answer: tuple[Any, Exception | None]
    try:
        answer = _imported(function)(*arguments), None
    except UserError as error:
        answer = None, error
    except Exception:
        answer = None, RuntimeError(traceback.format_exc())
    sender.send(answer)
    os._exit(0)


def _begin(folder: str) -> None:
    gc.freeze()  # to look through what the fork server has imported takes a fifth of a second, and copies its memory
    gc.enable()  # the server does without
    os.chdir(folder)  # the fork server stays in the folder that it was started in
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _imported(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
