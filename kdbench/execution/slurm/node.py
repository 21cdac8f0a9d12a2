"""What a Slurm job does on its node: the tasks of its chunk, as a pool of processes does them on any machine."""

import os
import signal
from dataclasses import dataclass
from typing import Any

from kdbench.disk import atomic_write, read_file
from kdbench.execution.cluster.alike import need_the_same_versions
from kdbench.execution.cluster.results import ended_well_since, fingerprint
from kdbench.execution.pool import LocalPool
from kdbench.folders import SlurmBatch


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
    need_the_same_versions(chunk.versions)
    os.chdir(chunk.folder)
    atomic_write(chunk.batch.began(chunk.index), os.environ.get("SLURM_JOB_ID", "").encode(), sync=False)
    jobs = [job for job in chunk.jobs if not chunk.batch.ended(job.id).exists()]
    for job in [job for job in jobs if ended_well_since(job, chunk.work, chunk.before[job.id])]:
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


def _mark(chunk: Chunk, job: Any) -> None:
    atomic_write(chunk.batch.ended(job.id), fingerprint(chunk.work.result(job)).encode())
