"""What a task of Ray does on its node: it runs one task of kdbench in a pool of processes, as any machine would."""

import os
import pickle
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kdbench.errors import UserError
from kdbench.execution.cluster.alike import need_the_same_versions
from kdbench.execution.cluster.results import ended_well_since, fingerprint
from kdbench.execution.pool import LocalPool

SHARED_SECONDS = 20.0  # within which a shared folder shows what another machine made


@dataclass(frozen=True)
class Errand:
    """A task on its way to a node, as plain data."""

    job: Any                  # an `execution.executor.Queued`
    work: Any                 # its `execution.executor.Work`
    before: str               # the fingerprint of its result before it was first submitted
    folder: str               # in which the command was started, and to which relative paths refer
    shared: tuple[str, ...]   # absolute paths that every machine must see
    timeout: float | None     # seconds
    retries: int              # if its process is killed


def run_errand(versions: dict[str, str], content: bytes) -> Iterator[tuple[str, str]]:
    """Run the task of a pickled `Errand`. Yield ("began", name of the node) and then ("ended", fingerprint of the
    result), or ("refused", the reason) if no task can be run on this node."""
    try:
        need_the_same_versions(versions)
        errand: Errand = pickle.loads(content)
        _enter(errand)
        yield "began", platform.node()
        if not ended_well_since(errand.job, errand.work, errand.before):  # in a try that was lost on its last step
            pool = LocalPool(1, errand.timeout, errand.retries)
            pool.start()
            for _ in pool.run([errand.job], errand.work, lambda running, waiting: None):
                pass
        yield "ended", fingerprint(errand.work.result(errand.job))
    except UserError as error:
        yield "refused", f"{platform.node()}: {error}"


def _enter(errand: Errand) -> None:
    """Change to the folder in which the command was started. UserError if this machine does not show the command's
    folders within `SHARED_SECONDS`."""
    deadline = time.monotonic() + SHARED_SECONDS
    while missing := [path for path in (errand.folder, *errand.shared) if not os.path.exists(path)]:  # noqa: PTH110
        if time.monotonic() > deadline:
            raise UserError(f"{missing[0]} is not there: this folder must be one that all nodes share with the machine "
                            "of the command (--out for results, KDBENCH_CACHE for the cache)")
        time.sleep(0.5)
    os.chdir(errand.folder)
