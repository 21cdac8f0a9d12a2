"""Runs tasks as jobs of a Slurm cluster.

The folder of results, which this machine and the nodes share, holds all that is known: the record of each task is its
result, a mark says that it ended, and notes say which jobs were submitted. So this command may end at any moment. If it
is started again, on any machine that sees the folder, it waits for the jobs that are in the queue instead of submitting
them again. The queue itself is asked seldom, and only for what the folder cannot say: whether a job is still there.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.execution.cluster.alike import versions
from kdbench.execution.cluster.options import WORKERS
from kdbench.execution.cluster.results import ended_well_since, fingerprint, seen_result
from kdbench.execution.executor import Order, Queued, Result, Running, Task, Watch, Work
from kdbench.execution.pool import LocalPool
from kdbench.execution.slurm.batch import Note, batches, last_words, new_batch, remove, submit
from kdbench.execution.slurm.node import Chunk, ended, mark
from kdbench.execution.slurm.options import Options
from kdbench.execution.slurm.queue import STUCK, QueueError, Seen, cancel, look
from kdbench.folders import ResultsFolder, SlurmBatch
from kdbench.results.record import Outcome

POLL_SECONDS = 0.5      # between two looks at the marks
SETTLE_SECONDS = 10.0   # within which a shared folder shows what a job wrote before it left the queue
SILENCE_SECONDS = 900.0  # for which a cluster may fail to answer
PACK_SECONDS = 600.0    # that the tasks of a job take together, if it is known how long they take

Say = Callable[[str], None]
Estimate = Callable[[Any], float | None]


@dataclass
class Element:
    """One Slurm job: its tasks, and what the queue last showed of it."""

    batch: SlurmBatch
    index: int
    tasks: dict[str, Queued]     # those that have not ended, by id
    since: float                 # when it was seen to run, or else submitted or adopted; by time.monotonic
    saved: dict[str, float]      # by task id, when the checkpoint from which it continues was written
    seen: Seen | None = None     # None: the queue has not shown it yet
    gone: float | None = None    # since when the queue does not show it as alive; by time.monotonic

    @property
    def label(self) -> str:
        return f"Slurm job {self.seen.id}" if self.seen else f"Slurm job {self.batch.name}, {self.index}"


@dataclass
class SlurmPool:
    """Runs tasks as jobs of a Slurm cluster. Their results belong to the results folder `folder`, whose lock the caller
    holds.

    `workers` is the most tasks at a time. `timeout` is the limit of a task in seconds, None for no limit. A task is run
    again up to `retries` times when its process, or the job that it is in, is lost. `estimate` returns the seconds that
    a task will take, or None if that is not known.
    """

    folder: Path
    options: Options
    workers: int = WORKERS
    timeout: float | None = None
    retries: int = 1
    say: Say = print
    estimate: Estimate = lambda job: None
    here = False
    _local: LocalPool = field(default_factory=lambda: LocalPool(1), repr=False)
    _elements: list[Element] = field(default_factory=list, repr=False)
    _before: dict[str, str] = field(default_factory=dict, repr=False)  # fingerprints when first submitted or adopted
    _told: set[str] = field(default_factory=set, repr=False)
    _looked: float = field(default=0.0, repr=False)
    _silent: float | None = field(default=None, repr=False)  # since when the cluster does not answer

    def start(self) -> None:
        """Start the pool of processes that `call` uses. UserError if the cluster does not answer."""
        try:
            look(["kdbench"])
        except QueueError as error:
            raise error.user_error(self.options.asked) from error
        self._local.start()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the function "MODULE:NAME" in a process of its own on this machine, and return what it returns."""
        return self._local.call(function, *arguments)

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task]) -> Iterator[tuple[Task, Result]]:
        """Run the tasks, and yield each with its result as it ends. A task waits for those of its teachers that are
        among the tasks, and fails if one of them fails. `watch` is called several times a second.

        UserError if the cluster refuses jobs, cannot start them, or does not answer for `SILENCE_SECONDS`. If the
        caller stops early, the jobs that are in the queue stay there.
        """
        order = Order(jobs)
        tries: Counter[str] = Counter()
        with self._told_on_exit():
            for job, done in self._adopt(order, work):
                order.ended(job, done)
                yield job, done
            while order.waiting or self._elements:
                for job, reason in order.hopeless():
                    yield job, work.fail(job, "crashed", reason)
                self._submit(order, work)
                for job, result in self._ended(work):
                    order.ended(job, result)
                    yield job, result
                for job, result in self._lost(order, work, tries):
                    order.ended(job, result)
                    yield job, result
                running = list(self._running())
                waiting = sum(len(element.tasks) for element in self._elements) - len(running)
                watch(running, len(order.waiting) + waiting)
                if order.waiting or self._elements:
                    time.sleep(POLL_SECONDS)
            self._clean()

    # What an earlier command left.

    def _adopt(self, order: Order[Task], work: Work[Task, Result]) -> Iterator[tuple[Task, Result]]:
        """Take over the tasks that an earlier command left in the queue, instead of submitting them again. Yield the
        tasks that have ended well since the caller looked for what is to be done, with their results."""
        wanted = {job.id: job for job in order.waiting}
        known = dict(self._known())
        seen = {(one.name, one.index): one for one in self._answer(known) if one.alive}
        adopted = 0
        for batch, note in known.items():
            if not note.submitted:  # submitting was cut off: its jobs may lack the files with their tasks
                self._cancel(f"--name={batch.name}")
            marks = ended(batch)
            for index, ids in enumerate(note.chunks):
                one = seen.get((batch.name, index)) if note.submitted else None
                mine = [wanted[id] for id in ids if id in wanted]
                for job in [job for job in mine if _is_done(job, work)]:
                    order.waiting.remove(job)
                    del wanted[job.id]
                    yield job, work.result(job)  # type: ignore[misc]
                open_ = [job for job in mine if job.id in wanted and job.id not in marks]
                if one is None or not open_:
                    continue
                if any(job.method.digest != note.methods.get(job.id) for job in open_):
                    self._cancel(one.id)  # a method was edited since
                    continue
                for job in open_:
                    order.waiting.remove(job)
                    del wanted[job.id]
                    self._before[job.id] = fingerprint(work.result(job))
                adopted += len(open_)
                self._elements.append(Element(batch, index, {job.id: job for job in open_}, time.monotonic(),
                                              {job.id: _saved(job) for job in open_}, one))
        if adopted:
            self.say(f"{adopted} runs are in the queue of the cluster already, from an earlier command")

    def _known(self) -> Iterator[tuple[SlurmBatch, Note]]:
        return batches(ResultsFolder(self.folder).slurm)

    # Submitting.

    def _submit(self, order: Order[Task], work: Work[Task, Result]) -> None:
        """Submit the tasks that are ready, as far as the number of jobs at a time allows."""
        room = max(self.workers // self.options.at_once, 1) - len(self._elements)
        ready = order.ready() if room > 0 else []
        if not ready or (self._silent and (self._elements or time.monotonic() - self._looked < self.options.poll)):
            return
        chunks = self._packed(ready)[:room]
        batch = new_batch(ResultsFolder(self.folder.absolute()).slurm, self.folder.name)
        before = {job.id: self._before.setdefault(job.id, fingerprint(work.result(job)))
                  for jobs in chunks for job in jobs}
        sent = [Chunk(jobs, work, {job.id: before[job.id] for job in jobs}, batch, index, str(Path.cwd()), versions(),
                      self.options.at_once, self.timeout, self.retries)
                for index, jobs in enumerate(chunks)]
        try:
            submit(batch, sent, self.options)
        except QueueError as error:
            # The cluster may have accepted the batch, and its answer got lost. Jobs that stay in the queue nevertheless
            # can do nothing, since the files with their tasks are removed.
            self._cancel(f"--name={batch.name}")
            remove(batch)
            if error.is_silence:
                self._wait_for_an_answer(error)
                return
            if not (error.is_quota and self._elements):
                raise error.user_error(self.options.asked) from error
            self._tell(f"{error}; the other runs are submitted as these end")
            self.workers = len(self._elements) * self.options.at_once
            return
        self._answered()
        for index, jobs in enumerate(chunks):
            for job in jobs:
                order.waiting.remove(job)
            self._elements.append(Element(batch, index, {job.id: job for job in jobs}, time.monotonic(),
                                          {job.id: _saved(job) for job in jobs}))

    def _packed(self, jobs: list[Task]) -> list[list[Task]]:
        """The tasks in chunks, one for each Slurm job: of `pack` tasks each if that option is given, or else of as many
        as take `PACK_SECONDS` together; a task that takes longer, or whose duration is not known, gets a job of its
        own."""
        if self.options.pack:
            return [jobs[start:start + self.options.pack] for start in range(0, len(jobs), self.options.pack)]
        chunks: list[list[Task]] = []
        full, limit = 0.0, PACK_SECONDS * self.options.at_once
        for job in jobs:
            seconds = self.estimate(job)
            own = limit if seconds is None else min(seconds, limit)
            if not chunks or full + own > limit:
                chunks.append([])
                full = 0.0
            chunks[-1].append(job)
            full += own
        return chunks

    # Watching.

    def _ended(self, work: Work[Task, Result]) -> Iterator[tuple[Task, Result]]:
        """Yield the tasks that have left a mark since the last look, with their results."""
        marks = {element.batch: ended(element.batch) for element in self._elements}
        for element in list(self._elements):
            for task in [task for task in element.tasks if task in marks[element.batch]]:
                job: Any = element.tasks.pop(task)
                yield job, seen_result(job, work, partial(mark, element.batch, job.id))
            if not element.tasks:
                self._elements.remove(element)

    def _lost(self, order: Order[Task], work: Work[Task, Result], tries: Counter[str]) -> Iterator[tuple[Task, Result]]:
        """Ask the queue, now and then, for jobs that are gone. Their tasks wait again, except for those that had ended
        well before their mark was written, and those that fail since they were cancelled or have been tried often
        enough: these are yielded with their results."""
        if not self._elements or time.monotonic() - self._looked < self.options.poll:
            return
        for element in self._look():
            self._elements.remove(element)
            state = element.seen.state if element.seen else "gone"
            if state == "FAILED" and not element.batch.began(element.index).exists():
                self._refuse(element)
            told = f"its {element.label}{_place(element.seen)} "
            told += "was cancelled" if state == "CANCELLED" else "left the queue" if state == "gone" else \
                f"ended as {state}"
            blamed = list(element.tasks)[:self.options.at_once]  # the others had not begun
            for task, job in element.tasks.items():
                if ended_well_since(job, work, self._before[task]):
                    yield job, work.result(job)  # type: ignore[arg-type, misc]
                    continue
                went_on = _saved(job) != element.saved[task]
                blameless = task not in blamed or state == "PREEMPTED" or (state == "TIMEOUT" and went_on)
                tries[task] += not blameless
                if state == "CANCELLED" or tries[task] > self.retries:
                    reason = f"crashed: {told}{_advice(state)}"
                    yield job, work.fail(job, "crashed", reason)  # type: ignore[arg-type, misc]
                else:
                    order.waiting.insert(0, job)  # type: ignore[arg-type]
            self.say(f"{told.removeprefix('its ')}{_advice(state)}")

    def _look(self) -> list[Element]:
        """Note what the queue shows of each job, and return the jobs that it has not shown as alive for
        `SETTLE_SECONDS`; none if the cluster does not answer."""
        try:
            found = {(one.name, one.index): one for one in look({element.batch.name for element in self._elements})}
        except QueueError as error:
            self._wait_for_an_answer(error)
            return []
        self._answered()
        gone = []
        for element in self._elements:
            one = found.get((element.batch.name, element.index))
            if one and one.state == "RUNNING" and not (element.seen and element.seen.state == "RUNNING"):
                element.since = self._looked
            element.seen = one or element.seen
            if one and one.alive:
                element.gone = None
                if one.state == "PENDING" and one.reason in STUCK:
                    self._tell(f"{element.label} waits: {one.reason}: {STUCK[one.reason]}")
            elif element.gone is None:
                element.gone = self._looked
            elif self._looked - element.gone >= SETTLE_SECONDS:
                gone.append(element)
        return gone

    def _wait_for_an_answer(self, error: QueueError) -> None:
        """Note that the cluster does not answer. UserError if it has not done so for `SILENCE_SECONDS`."""
        self._looked = time.monotonic()
        self._silent = self._silent or self._looked
        self._tell(f"{error}; runs that the cluster has go on, and it is asked again")
        if self._looked - self._silent > SILENCE_SECONDS:
            raise error.user_error(self.options.asked) from error

    def _answered(self) -> None:
        self._looked = time.monotonic()
        if self._silent:
            self.say("the cluster answers again")
            self._silent, self._told = None, set()

    def _running(self) -> Iterator[Running[Any]]:
        """The tasks that are being run: the first `at_once` of each running job, as jobs run their tasks in order."""
        for element in self._elements:
            if element.seen and element.seen.state == "RUNNING":
                for job in list(element.tasks.values())[:self.options.at_once]:
                    yield Running(job, element.since)

    # Ending.

    def _refuse(self, element: Element) -> None:
        """Cancel all jobs and raise a UserError, since kdbench cannot be started on this job's node."""
        assert element.seen is not None
        said = last_words(element.batch, element.seen.id) or "it left no log in the folder, which every node must share"
        for one in {element.batch.name for element in (element, *self._elements)}:
            self._cancel(f"--name={one}")
        self._elements.clear()
        raise UserError(f"--executor slurm: {element.label}{_place(element.seen)} could not start kdbench: {said}; "
                        "nodes need this Python environment: name theirs with --slurm python=PATH or prepare it with "
                        "--slurm setup=COMMAND, or leave out a node with --slurm exclude=NODE")

    def _clean(self) -> None:
        """Remove the files of batches whose jobs have left the queue. The last job leaves it a moment after its last
        task, so that this looks several times; what is left then, the next command removes."""
        for _ in range(10):
            try:
                known = [batch for batch, _ in self._known()]
                alive = {one.name for one in look({batch.name for batch in known}) if one.alive}
            except (QueueError, UserError):
                return
            for batch in known:
                if batch.name not in alive:
                    remove(batch)
            if not alive:
                return
            time.sleep(POLL_SECONDS)

    @contextlib.contextmanager
    def _told_on_exit(self) -> Iterator[None]:
        """Tell the user that jobs go on in the queue, if the command stops early."""
        try:
            yield
        except BaseException:
            if names := sorted({element.batch.name for element in self._elements}):
                self.say(f"{len(self._elements)} jobs stay in the cluster's queue: the same command waits for them, "
                         f"`scancel --name={','.join(names)}` ends them")
            raise
        finally:
            self._elements.clear()
            self._before.clear()

    def _answer(self, known: Iterable[SlurmBatch]) -> list[Seen]:
        try:
            return look([batch.name for batch in known])
        except QueueError as error:
            raise error.user_error(self.options.asked) from error

    def _cancel(self, which: str) -> None:
        with contextlib.suppress(QueueError):
            cancel(which)

    def _tell(self, text: str) -> None:
        """Say the text, unless it was said before since the cluster last answered again."""
        if text not in self._told:
            self._told.add(text)
            self.say(text)


def _is_done(job: Queued, work: Work[Any, Any]) -> bool:
    """Whether a task has a result with status "ok" from the current version of its method."""
    result = work.result(job)
    return isinstance(result, Outcome) and result.status == "ok" and result.method_digest == job.method.digest


def _saved(job: Queued) -> float:
    """The time at which the task's checkpoint was written, in seconds since 1970; 0 if there is none."""
    try:
        return job.cache.unfinished(job.id).checkpoint.stat().st_mtime
    except OSError:
        return 0.0


def _place(seen: Seen | None) -> str:
    return f" on {seen.node}" if seen and seen.node and not seen.node.startswith("(") else ""


def _advice(state: str) -> str:
    return {"TIMEOUT": ": more with --slurm time=", "OUT_OF_MEMORY": ": more with --slurm mem="}.get(state, "")
