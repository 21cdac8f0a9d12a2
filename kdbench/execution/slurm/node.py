"""What a Slurm job does on its node: the tasks of its chunk, as a pool of processes does them on any machine."""

import hashlib
import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.disk import atomic_write, read_file
from kdbench.environment import version
from kdbench.errors import UserError
from kdbench.execution.pool import LocalPool
from kdbench.folders import SlurmBatch
from kdbench.results.record import Outcome, Problem

ALIKE = ("kdbench", "torch", "timm", "numpy")  # packages that must be the same everywhere, since bits depend on them


@dataclass(frozen=True)
class Chunk:
    """The tasks of one Slurm job, as plain data."""

    jobs: list[Any]           # each an `execution.executor.Queued`
    work: Any                 # their `execution.executor.Work`
    before: dict[str, str]    # by id, the fingerprint of the result that was there when the chunk was submitted
    batch: SlurmBatch
    index: int                # of the chunk in its batch
    folder: str               # that the command was started in, from which relative paths go out
    versions: dict[str, str]  # of what submitted it
    at_once: int
    timeout: float | None
    retries: int


def run_chunk(chunk: Chunk) -> None:
    """Do what is not done yet of the chunk, and leave a mark for each task that ended. A job that was sent back into
    the queue begins again here: finished tasks are not repeated, and the others continue from their checkpoints."""
    _need_the_same_versions(chunk.versions)
    os.chdir(chunk.folder)
    atomic_write(chunk.batch.began(chunk.index), os.environ.get("SLURM_JOB_ID", "").encode(), sync=False)
    jobs = [job for job in chunk.jobs if not chunk.batch.ended(job.id).exists()]
    for job in [job for job in jobs if _is_done(chunk, job)]:
        _mark(chunk, job)  # the job's last start was cut off between the record and the mark
        jobs.remove(job)
    if not jobs:
        return
    # When Slurm takes a node back it first asks with SIGTERM. A process that obeyed would look like one that failed;
    # checkpoints lie on the disk already, so everything goes on until the kill, and may still be done by then.
    # Processes inherit what is ignored, handlers of Python's they do not.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    pool = LocalPool(chunk.at_once, chunk.timeout, chunk.retries)
    pool.start()
    for job, _ in pool.run(jobs, chunk.work, lambda running, waiting: None):
        _mark(chunk, job)


def fingerprint(result: Outcome | Problem | None) -> str:
    """What tells a result from that of another try of the same task; "" if there is none."""
    if result is None:
        return ""
    content = result.to_json() if isinstance(result, Outcome) else repr(result).encode()
    return hashlib.sha256(content).hexdigest()


def versions() -> dict[str, str]:
    """What must be the same on all machines, so that results have the same bits."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **{name: version(name) or "" for name in ALIKE}}


def ended(batch: SlurmBatch) -> set[str]:
    """The ids of the tasks that left their mark."""
    try:
        return {name for name in os.listdir(batch.marks) if not name.startswith(".")}  # noqa: PTH208  asks the server
    except FileNotFoundError:
        return set()


def mark(batch: SlurmBatch, task: str) -> str:
    """The fingerprint of the result with which a task ended; "" if it cannot be read yet."""
    try:
        return read_file(batch.ended(task)).decode()
    except OSError:
        return ""


def _is_done(chunk: Chunk, job: Any) -> bool:
    result = chunk.work.result(job)
    return isinstance(result, Outcome) and result.status == "ok" and fingerprint(result) != chunk.before[job.id]


def _mark(chunk: Chunk, job: Any) -> None:
    atomic_write(chunk.batch.ended(job.id), fingerprint(chunk.work.result(job)).encode())


def _need_the_same_versions(wanted: dict[str, str]) -> None:
    here = versions()
    if differ := [f"{name} {here[name] or 'not installed'} instead of {wanted[name]}"
                  for name in wanted if here[name] != wanted[name]]:
        raise UserError(f"{Path(os.__file__).parent} has {', '.join(differ)}")
