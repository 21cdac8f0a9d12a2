"""What a Slurm job does on its node: it runs the tasks of its chunk in a pool of processes, as any machine would."""

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
    before: dict[str, str]    # by task id, the fingerprint of its result before it was first submitted
    batch: SlurmBatch
    index: int                # of the chunk in its batch
    folder: str               # in which the command was started, and to which relative paths refer
    versions: dict[str, str]  # on the machine that submitted the chunk
    at_once: int              # tasks that are run at a time
    timeout: float | None     # seconds per task
    retries: int              # of a task whose process is killed


def run_chunk(chunk: Chunk) -> None:
    """Run the tasks of the chunk that are not done yet, and leave a mark for each task that ends. A job that was sent
    back into the queue begins here again: it does not repeat finished tasks, and continues the others from their
    checkpoints. UserError if the versions on this node are not those of the machine that submitted the chunk."""
    need_the_same_versions(chunk.versions)
    os.chdir(chunk.folder)
    atomic_write(chunk.batch.began(chunk.index), os.environ.get("SLURM_JOB_ID", "").encode(), sync=False)
    jobs = [job for job in chunk.jobs if not chunk.batch.ended(job.id).exists()]
    for job in [job for job in jobs if ended_well_since(job, chunk.work, chunk.before[job.id])]:
        _mark(chunk, job)  # the job's last start was cut off between the record and the mark
        jobs.remove(job)
    if not jobs:
        return
    # Before Slurm takes a node back, it sends SIGTERM. A process that ended at that would look like one that failed.
    # Since checkpoints are on disk already, tasks go on until they are killed, and may even finish. The signals are
    # ignored rather than handled, since child processes inherit that, but not Python's handlers.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    pool = LocalPool(chunk.at_once, chunk.timeout, chunk.retries)
    pool.start()
    for job, _ in pool.run(jobs, chunk.work, lambda running, waiting: None):
        _mark(chunk, job)


def ended(batch: SlurmBatch) -> set[str]:
    """The ids of the tasks of a batch that have left a mark."""
    try:
        return {name for name in os.listdir(batch.marks) if not name.startswith(".")}  # noqa: PTH208  asks the server
    except FileNotFoundError:
        return set()


def mark(batch: SlurmBatch, task: str) -> str:
    """The fingerprint of the result with which a task ended, from its mark; "" if that cannot be read yet."""
    try:
        return read_file(batch.ended(task)).decode()
    except OSError:
        return ""


def _mark(chunk: Chunk, job: Any) -> None:
    atomic_write(chunk.batch.ended(job.id), fingerprint(chunk.work.result(job)).encode())
