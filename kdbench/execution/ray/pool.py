"""Runs tasks as tasks of a Ray cluster.

Ray finds a node for each task, and reports tasks that are lost. The result of a task is its record, in the folder that
all machines share. If the command ends, Ray ends its tasks; if it is started again, it does the runs that have no
record yet, from their last checkpoints.
"""

import contextlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.execution.cluster.alike import versions
from kdbench.execution.cluster.options import WORKERS
from kdbench.execution.cluster.results import ended_well_since, fingerprint, seen_result
from kdbench.execution.executor import Order, Result, Running, Task, Watch, Work
from kdbench.execution.pool import LocalPool
from kdbench.execution.ray.driver import Began, Ended, Lost, Submit
from kdbench.execution.ray.link import Link
from kdbench.execution.ray.node import Errand
from kdbench.execution.ray.options import Options, fits
from kdbench.folders import ResultsFolder
from kdbench.results.sizes import size_text

POLL_SECONDS = 0.25
KEYS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}  # of --ray, by Ray's name of the resource

Say = Callable[[str], None]


@dataclass
class Sent:
    """A task that was submitted to the cluster and has not ended."""

    job: Any
    demand: dict[str, float]
    began: float | None = None  # by time.monotonic; None: not yet


@dataclass
class RayPool:
    """Runs tasks as tasks of a Ray cluster. Their results belong to the results folder `folder`, whose lock the caller
    holds.

    `workers` is the most tasks at a time. `timeout` is the limit of a task in seconds, None for no limit. A task is run
    again up to `retries` times when its process, its worker or its node is lost, and again after each loss in which it
    has no part.
    """

    folder: Path
    options: Options
    workers: int = WORKERS
    timeout: float | None = None
    retries: int = 1
    say: Say = print
    here = False
    _local: LocalPool = field(default_factory=lambda: LocalPool(1), repr=False)
    _link: Link | None = field(default=None, repr=False)
    _sent: dict[str, Sent] = field(default_factory=dict, repr=False)
    _before: dict[str, str] = field(default_factory=dict, repr=False)  # by id, fingerprints when first sent
    _lacking: float | None = field(default=None, repr=False)  # since when no node could do some task

    def start(self) -> None:
        """Connect to the cluster, and start the pool of processes that `call` uses. UserError if the cluster does not
        answer."""
        self._local.start()
        self._connect()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call the function "MODULE:NAME" in a process of its own on this machine, and return what it returns."""
        return self._local.call(function, *arguments)

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task]) -> Iterator[tuple[Task, Result]]:
        """Run the tasks, and yield each with its result as it ends. A task waits for those of its teachers that are
        among the tasks, and fails if one of them fails. `watch` is called several times a second.

        UserError if nodes cannot run tasks, if none offers what a task asks for, or if the cluster is gone. If the
        caller stops early, the tasks that were begun are cancelled.
        """
        order = Order(jobs)
        tries: Counter[str] = Counter()
        with self._connection() as link:
            while order.waiting or self._sent:
                for job, reason in order.hopeless():
                    yield job, work.fail(job, "crashed", reason)
                for job in order.ready(max(self.workers - len(self._sent), 0)):
                    order.waiting.remove(job)
                    self._submit(link, job, work)
                for event in link.events(POLL_SECONDS):
                    if isinstance(event, Began):
                        self._sent[event.task].began = time.monotonic()
                        continue
                    job = self._sent.pop(event.task).job
                    result = self._result(event, job, work, tries)
                    if result is None:
                        order.waiting.insert(0, job)  # it continues from its last checkpoint
                        continue
                    order.ended(job, result)
                    yield job, result
                self._need_offers(link)
                running = [Running(sent.job, sent.began) for sent in self._sent.values() if sent.began is not None]
                watch(running, len(order.waiting) + len(self._sent) - len(running))

    def _submit(self, link: Link, job: Task, work: Work[Task, Result]) -> None:
        spec: Any = getattr(job, "spec", None)
        demand = self.options.demand(spec.device if spec else "cpu", link.offers)
        before = self._before.setdefault(job.id, fingerprint(work.result(job)))
        shared = (ResultsFolder(self.folder).lock, job.cache.root)
        errand = Errand(job, work, before, str(Path.cwd()),
                        tuple(os.path.abspath(path) for path in shared if path.exists()),  # noqa: PTH100
                        self.timeout, self.retries)
        link.send(Submit(job.id, f"kdbench {job.id}", demand, versions(), pickle.dumps(errand)))
        self._sent[job.id] = Sent(job, demand)

    def _result(self, event: Ended | Lost, job: Task, work: Work[Task, Result], tries: Counter[str]) -> Result | None:
        """The result of a task that has left the cluster; None if the task is to be tried again."""
        if isinstance(event, Ended):
            return seen_result(job, work, lambda: event.fingerprint)
        tries[job.id] += not event.blameless
        if ended_well_since(job, work, self._before[job.id]):  # lost on its last step
            return work.result(job)  # type: ignore[return-value]
        if event.final or tries[job.id] > self.retries:
            return work.fail(job, "crashed", f"crashed: {event.reason}")
        self.say(f"{job}: {event.reason}; it is tried again")
        return None

    def _need_offers(self, link: Link) -> None:
        """UserError if a task would wait for ever, since no node has offered what it asks for during the last
        `options.wait` seconds."""
        waiting = (sent.demand for sent in self._sent.values() if sent.began is None)
        demand = next((one for one in waiting if not any(fits(one, offer) for offer in link.offers)), None)
        if demand is None:
            self._lacking = None
            return
        told = f"{_asked(demand, link.offers)}: no node offers that for a run; the cluster has {_offered(link.offers)}"
        if self._lacking is None:
            self._lacking = time.monotonic()
            if self.options.wait:
                self.say(f"{told}; given up if none comes within {self.options.wait:g} seconds (--ray wait=)")
        if time.monotonic() - self._lacking >= self.options.wait:
            raise UserError(told)

    def _connect(self) -> Link:
        if self._link is None:
            link = Link(self.options.address or os.environ.get("RAY_ADDRESS") or "auto")
            try:
                link.wait_for_connection()
            except BaseException:
                link.stop()
                raise
            self._link = link
        return self._link

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Link]:
        """Yield the connection to the cluster; on exit, end it and all tasks that were submitted."""
        link = self._connect()
        try:
            yield link
        finally:
            self._link = None
            self._sent.clear()
            link.stop()


def _asked(demand: dict[str, float], offers: list[dict[str, float]]) -> str:
    """The options of `--ray` that ask for more than any node has; all options of the task if nodes have each, but none
    has all of them."""
    alone = {name: number for name, number in demand.items() if not any(fits({name: number}, one) for one in offers)}
    return "--ray " + " ".join(f"{KEYS.get(name, f'resources.{name}')}={_amount(name, number)}"
                               for name, number in (alone or demand).items())


def _offered(offers: list[dict[str, float]]) -> str:
    """The resources of the nodes as text, equal nodes counted together; of the ten most frequent kinds of node."""
    if not offers:
        return "no node"
    texts = Counter(", ".join(f"{name} {_amount(name, number)}" for name, number in sorted(offer.items())
                              if ":" not in name and name != "object_store_memory") or "nothing" for offer in offers)
    return "; ".join(f"{count} {'node' if count == 1 else 'nodes'} with {text}"
                     for text, count in texts.most_common(10))


def _amount(name: str, number: float) -> str:
    return size_text(number).replace(" ", "") if name == "memory" else f"{number:g}"
