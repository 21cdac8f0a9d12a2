"""Runs tasks on this machine: one single-threaded process per task, several at a time or one alone.

A task reports its result and its progress in files, so the processes share nothing that a killed one could leave
locked. They are forked from a server that has already imported torch, which makes starting one cheap, and they end with
their parent, however it ends.
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
TRIES = 5  # attempts to start a process
PAUSE = 0.2  # seconds after a failed attempt
END = 8  # once no more than this many tasks per worker wait, the longest begin first
UNKNOWN = 255  # multiprocessing's exit code for a process whose fork server was killed; it may still be running
# Modules and functions by name, so that the process that holds the pool does not import torch.
PRELOADED = ["kdbench.execution.preload", "kdbench.train.worker"]
PREFLIGHT = "kdbench.checks.preflight:preflight"


@dataclass
class InProcess(Running[Task]):
    """A running task and its process."""

    process: BaseProcess
    last_words: Connection  # receives why the process failed, if it could still say so


class LocalPool:
    """Runs tasks on this machine, each in a process of its own.

    `workers` is the most tasks at a time. `timeout` is the limit of a task in seconds, None for no limit. A task whose
    process was killed by a signal that this pool did not send is run again, up to `retries` times. `estimate` returns
    the seconds that a task will take, or None if that is not known.
    """

    here = True

    def __init__(self, workers: int, timeout: float | None = None, retries: int = 0,
                 estimate: Callable[[Any], float | None] = lambda job: None):
        self.workers, self.timeout, self.retries, self.estimate = workers, timeout, retries, estimate
        self._context = multiprocessing.get_context("forkserver")

    def start(self) -> None:
        """Start the fork server, which imports torch in the background while the caller still checks its input."""
        # Set before the server starts, since the processes that it forks inherit it: one thread per process, and no
        # imports from the folder that the command happens to run in.
        os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", CUBLAS_WORKSPACE_CONFIG=":4096:8",
                          PYTHONSAFEPATH="1")
        self._context.set_forkserver_preload(PRELOADED)
        from multiprocessing.forkserver import ensure_running

        with _no_main_module():
            ensure_running()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the function "MODULE:NAME" in a process of its own, so that this one need not import torch, and return
        what it returns. A UserError that it raises is raised here, any other exception as a RuntimeError with its
        traceback. UserError if the process dies."""
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
        """Run the tasks, and yield each with its result as it ends. A task waits for those of its teachers that are
        among the tasks, and fails if one of them fails. `watch` is called several times a second."""
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
        """At most `free` tasks to begin now: in their order, but towards the end the longest first, so that no long
        task is left that runs while the other workers are idle."""
        if len(order.waiting) > END * self.workers:
            return order.ready(free)
        return sorted(order.ready(), key=lambda job: -(self.estimate(job) or 0.0))[:free]

    def _start(self, job: Task, work: Work[Task, Any]) -> InProcess[Task]:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._forked(_work, (str(Path.cwd()), work.function, job, sender), name=f"kdbench {job.id}")
        sender.close()
        return InProcess(job, time.monotonic(), process, receiver)

    def _forked(self, target: Callable[..., None], arguments: tuple[Any, ...], name: str | None = None) -> BaseProcess:
        """Start a process and return it. If the fork server is killed meanwhile, it is started again. UserError if
        `TRIES` attempts fail."""
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
        """Whether the process was killed by a signal, or lost with its fork server, and not killed by this pool for
        exceeding the timeout."""
        code = ended.process.exitcode or 0
        return (code < 0 or code == UNKNOWN) and not self._over_time(ended)

    @contextmanager
    def _ended_on_exit(self, running: list[InProcess[Task]]) -> Iterator[None]:
        """Kill the processes that are left when the loop ends; their runs lose what they did since their last
        checkpoints."""
        try:
            yield
        finally:
            for r in running:
                r.process.kill()
            for r in running:
                r.process.join()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the main module of this process while processes are started: multiprocessing would make each of them import
    it first. They only call functions of kdbench, so importing the command line, or a script that calls `kdbench.run`,
    would cost time for nothing."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _outcome(ended: InProcess[Task], work: Work[Task, Result], timeout: float | None) -> Result:
    """The result that the process wrote, or else a failed result that says how the process ended."""
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


# What runs in the started processes.

def _work(folder: str, function: str, job: Any, last_words: Connection) -> None:
    """Call the function with the one task of this process, and end the process. The function records failures itself;
    if even that fails and it raises, send the parent the reason."""
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
    """Send back what the function returns, or the error that the caller is to raise, and end the process."""
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
    gc.freeze()  # a search through all that the server imported would take 0.2 s and copy its memory
    gc.enable()  # disabled in the server (see `preload`)
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
