"""The process that is connected to a Ray cluster: it submits tasks to the cluster and reports what becomes of them.

Ray calls such a process a driver. It is separate from the command since Ray prints, installs signal handlers, and ends
its process when it loses its cluster. When the driver ends, for whatever reason, Ray ends its tasks.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from socket import create_connection
from typing import Any

from kdbench.environment import version
from kdbench.errors import plain

POLL_SECONDS = 0.25
LOOK_SECONDS = 5.0    # between two looks at the nodes
PROBE_SECONDS = 10.0  # that an address may take to answer
DEATH_SECONDS = 30.0  # within which Ray knows that a node is dead, and of what it died
BLAMELESS = (1, 3, 4)  # Ray's numbers for a node that was stopped, preempted or idle; 2 is for one that crashed
AGAIN = "what is finished is kept: start the same command again once `ray status` answers"
START = "`ray start --head` starts a cluster, and `ray start --address=HOST:PORT` adds a machine to it"


# The messages to the driver.

@dataclass(frozen=True)
class Submit:
    """A request to run a task."""

    task: str                  # the task's id
    name: str                  # the name that Ray shows for it
    demand: dict[str, float]   # the amounts that it asks for, by Ray's names of resources
    versions: dict[str, str]   # those that its node must have, see `alike.versions`
    content: bytes             # the pickled `node.Errand`


# The messages from the driver.

@dataclass(frozen=True)
class Nodes:
    """A sign that the cluster answers. `offers` are the resources of each node that is alive; None if they are the same
    as in the last message."""

    offers: list[dict[str, float]] | None


@dataclass(frozen=True)
class Began:
    task: str
    node: str


@dataclass(frozen=True)
class Ended:
    task: str
    fingerprint: str


@dataclass(frozen=True)
class Lost:
    """A task ended without a result."""

    task: str
    reason: str
    blameless: bool = False  # whether the task has no part in it
    final: bool = False      # whether somebody cancelled the task: it is not tried again


@dataclass(frozen=True)
class Refused:
    """No task can be run, and why."""

    reason: str


@dataclass
class Task:
    """A task that was submitted to Ray."""

    id: str
    place: str = ""        # " on NODE", once the task began
    node: str | None = None  # Ray's id of the node
    died: float | None = None  # when Ray said that its node died, by time.monotonic


def drive() -> None:
    """Run the driver. The arguments of the process are the file descriptor of the connection to its parent and the
    address of the cluster."""
    connection, address = Connection(int(sys.argv[1])), sys.argv[2]
    try:
        ray = _connected(address)
    except Exception as error:
        connection.send(Refused(_refusal(address, error)))
        return
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        Driver(ray, connection).run()
    ray.shutdown()  # ends the tasks of this driver


@dataclass
class Driver:
    """Submits the tasks that come through the connection, and reports on them, until the connection is closed."""

    ray: Any
    connection: Connection
    tasks: dict[Any, Task] = field(default_factory=dict)  # by Ray's generator of each task's messages
    dying: list[Task] = field(default_factory=list)       # whose nodes seem to be dead
    offers: list[dict[str, float]] = field(default_factory=list)  # as last reported
    looked: float = -LOOK_SECONDS

    def __post_init__(self) -> None:
        self.remote = self.ray.remote(_errand())

    def run(self) -> None:
        """Work until the parent has closed the connection or is gone: that raises EOFError or another error of the
        connection."""
        while True:
            while self.connection.poll(0 if self.tasks else POLL_SECONDS):
                self._submit(self.connection.recv())
            self._look()
            ready = self.ray.wait(list(self.tasks), timeout=POLL_SECONDS)[0] if self.tasks else []
            for generator in ready:
                self._hear(generator)

    def _submit(self, message: Submit) -> None:
        demand = dict(message.demand)
        cpus, gpus, memory = (demand.pop(name, 0) for name in ("CPU", "GPU", "memory"))
        # Ray does not try tasks again: `pool` knows whose fault it was, and how often one may be tried.
        remote = self.remote.options(name=message.name, num_cpus=cpus, num_gpus=gpus, memory=int(memory) or None,
                                     resources=demand, max_retries=0, num_returns="streaming")
        self.tasks[remote.remote(message.versions, message.content)] = Task(message.task)

    def _hear(self, generator: Any) -> None:
        """Read a task's next message, and report it to the parent."""
        task = self.tasks[generator]
        try:
            what, text, task.node = self.ray.get(next(generator))
        except StopIteration:
            what, text = "lost", "ended without a word"
        except self.ray.exceptions.RayError as error:
            what, text = "lost", ""
            self._lose(task, error)
        if what == "began":
            task.place = f" on {text}"
            self.connection.send(Began(task.id, text))
            return
        del self.tasks[generator]
        if what == "ended":
            self.connection.send(Ended(task.id, text))
        elif what == "refused":
            self.connection.send(Refused(f"--executor ray: {text}; all nodes need the same Python environment, or a "
                                         "resource that only those have which do: --ray resources.NAME=1"))
        elif text:
            self.connection.send(Lost(task.id, f"its Ray task{task.place} {text}"))

    def _lose(self, task: Task, error: Exception) -> None:
        known = self.ray.exceptions
        if isinstance(error, known.NodeDiedError) and task.node:
            task.died = time.monotonic()
            self.dying.append(task)
            return
        if isinstance(error, known.LocalRayletDiedError):
            self.connection.send(Refused(f"--executor ray: Ray has ended on this machine; {AGAIN}"))
            return
        cancelled = isinstance(error, known.TaskCancelledError)
        told = "was cancelled" if cancelled else \
            "did not begin before its node died" if isinstance(error, known.NodeDiedError) else \
            "was killed by Ray, since its node had no memory left: --ray memory= sets some apart for each run" \
            if isinstance(error, known.OutOfMemoryError) else \
            "died with its worker" if isinstance(error, known.WorkerCrashedError) else f"failed: {_last_line(error)}"
        self.connection.send(Lost(task.id, f"its Ray task{task.place} {told}", final=cancelled,
                                  blameless=isinstance(error, known.NodeDiedError)))

    def _look(self) -> None:
        """Report now and then the resources of the nodes, and the tasks whose nodes died, once Ray knows of what or
        `DEATH_SECONDS` have passed."""
        now = time.monotonic()
        if now - self.looked < (1.0 if self.dying else LOOK_SECONDS):
            return
        self.looked = now
        nodes = self.ray.nodes()
        offers = [node["Resources"] for node in nodes if node["Alive"]]
        self.connection.send(Nodes(None if offers == self.offers else offers))
        self.offers = offers
        dead = {node["NodeID"]: node for node in nodes if not node["Alive"]}
        for task in list(self.dying):
            node: dict[str, Any] = dead.get(task.node, {})
            if node or now - (task.died or now) > DEATH_SECONDS:
                self.dying.remove(task)
                said = plain(node.get("DeathReasonMessage") or "")[:200]
                self.connection.send(Lost(
                    task.id, f"its node{task.place.removeprefix(' on')} died{': ' if said else ''}{said}",
                    blameless=node.get("DeathReason") in BLAMELESS))


def _errand() -> Callable[..., Iterator[tuple[str, str, str]]]:
    """The function that Ray calls on a node. It is defined inside another function so that Ray sends its code instead
    of its name, and it can report that kdbench is missing on the node."""
    def errand(versions: Mapping[str, str], content: bytes) -> Iterator[tuple[str, str, str]]:
        import platform
        import sys

        import ray

        node = ray.get_runtime_context().get_node_id()
        try:
            from kdbench.execution.ray.node import run_errand
        except ImportError as error:
            yield "refused", f"{platform.node()}: {sys.executable} has no kdbench like the one here: {error}", node
            return
        for what, text in run_errand(dict(versions), content):
            yield what, text, node

    return errand


# Connecting.

def _connected(address: str) -> Any:
    """The module `ray`, connected to the cluster at the address. Any exception may mean that this failed."""
    import logging

    import ray

    if address != "auto":
        host, _, port = address.rpartition(":")
        if "/" in host or not (host and port.isdecimal()):
            raise ValueError("expected HOST:PORT, as `ray start --head` prints it")
        with create_connection((host.strip("[]"), int(port)), PROBE_SECONDS):  # Ray would try for minutes
            pass

    ray.init(address=address, namespace="kdbench", log_to_driver=False, logging_level=logging.ERROR)
    return ray


def _refusal(address: str, error: Exception) -> str:
    """One line that says why there is no connection, and what to do."""
    what = "--executor ray" if address == "auto" else f"RAY_ADDRESS={address}" \
        if address == os.environ.get("RAY_ADDRESS") else f"--ray address={address}"
    said = plain(str(error))
    if "could not find any running ray instance" in said.lower():
        return f"{what}: no Ray cluster is found from this machine: {START}; --ray address=HOST:PORT names one"
    if "version mismatch" in said.lower():
        return f"{what}: {said[:300]}; all machines need the same Ray and Python"
    if isinstance(error, OSError) and (error.errno or isinstance(error, TimeoutError)):
        return f"{what}: no Ray cluster answers there: {said[:100]}; {START}"
    said = said or f"Ray {version('ray')} cannot connect"  # Ray gives no text if the cluster's Ray is newer
    return f"{what}: {said[:300]}; the command is started on a machine of the cluster, by its Ray: {START}"


def _last_line(error: Exception) -> str:
    """The last line of the text of an exception, at most 300 characters: Ray names the exception of the task there."""
    lines = [plain(line) for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
