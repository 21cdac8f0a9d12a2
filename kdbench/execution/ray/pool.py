"""Does tasks as tasks of a Ray cluster.

Ray finds a node for each, and tells when one is lost. What came of a task says its record, in the folder that all
machines share. Ray ends the tasks of a command that goes away; whoever starts it again does what has no record yet,
from the runs' last checkpoints.
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
    """A task that the cluster has."""

    job: Any
    demand: dict[str, float]
    began: float | None = None  # by time.monotonic


@dataclass
class RayPool:
    """Executes tasks as tasks of a Ray cluster, for the results folder `folder`, whose lock the caller holds.

    `workers` is the most tasks at a time; `timeout` is in seconds per task. A task is tried again up to `retries` times
    when its process, its worker or its node is lost, and again after each loss in which it has no part.
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
    _before: dict[str, str] = field(default_factory=dict, repr=False)  # fingerprints when first sent
    _lacking: float | None = field(default=None, repr=False)  # since when no node could do some task

    def start(self) -> None:
        """Connect. UserError if the cluster does not answer."""
        self._local.start()
        self._connect()

    def call(self, function: str, *arguments: Any) -> Any:
        """What the function "MODULE:NAME" returns, called in a process of its own on this machine."""
        return self._local.call(function, *arguments)

    def run(self, jobs: Iterable[Task], work: Work[Task, Result], watch: Watch[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, as they end. A task waits for its teachers where these are among the tasks, and
        fails if one of them does. `watch` is called several times a second.

        UserError if nodes cannot do tasks, if none offers what they ask for, or if the cluster is gone. Whenever the
        caller stops early, tasks that were begun are cancelled.
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
        """What came of a task that the cluster has no more; None if it is to be tried again."""
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
        """UserError if no node has had for a while what some task asks for, which would wait for ever."""
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
        """A connection with the cluster, at whose end no task is left there."""
        link = self._connect()
        try:
            yield link
        finally:
            self._link = None
            self._sent.clear()
            link.stop()


def _asked(demand: dict[str, float], offers: list[dict[str, float]]) -> str:
    """The options that ask for what no node has, or for what none has together."""
    alone = {name: number for name, number in demand.items() if not any(fits({name: number}, one) for one in offers)}
    return "--ray " + " ".join(f"{KEYS.get(name, f'resources.{name}')}={_amount(name, number)}"
                               for name, number in (alone or demand).items())


def _offered(offers: list[dict[str, float]]) -> str:
    """What the nodes have, those that are alike together."""
    if not offers:
        return "no node"
    texts = Counter(", ".join(f"{name} {_amount(name, number)}" for name, number in sorted(offer.items())
                              if ":" not in name and name != "object_store_memory") or "nothing" for offer in offers)
    return "; ".join(f"{count} {'node' if count == 1 else 'nodes'} with {text}"
                     for text, count in texts.most_common(10))


def _amount(name: str, number: float) -> str:
    return size_text(number).replace(" ", "") if name == "memory" else f"{number:g}"
