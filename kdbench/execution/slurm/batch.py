"""Batches of Slurm jobs: submitting one, and finding those that an earlier command left behind."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from io import StringIO

import msgspec

from kdbench.disk import atomic_write, explain, read_file
from kdbench.errors import UserError, plain
from kdbench.execution.slurm.node import Chunk, run_chunk
from kdbench.execution.slurm.options import Options
from kdbench.execution.slurm.queue import QueueError, complaint
from kdbench.folders import SlurmBatch, SlurmFolder

NOISE = ("srun:", "slurmstepd:", "submitit ")  # beginnings of lines in a job's log that tell no cause


class Note(msgspec.Struct):
    """What is written of a batch before it is submitted, so that a later command finds its jobs in the queue."""

    chunks: list[list[str]]     # the ids of the tasks of each Slurm job
    methods: dict[str, str]     # by task id, the SHA-256 of its method's source
    submitted: bool = False     # whether all jobs are in the queue and their files are written


def new_batch(folder: SlurmFolder, label: str) -> SlurmBatch:
    """A batch with a name that no other job in the cluster's queue has; its folder is not made yet."""
    return folder.batch(f"kdbench-{''.join(c for c in label if c.isalnum() or c in '-_')[:40]}-{secrets.token_hex(5)}")


def submit(batch: SlurmBatch, chunks: list[Chunk], options: Options) -> None:
    """Submit the chunks as one array of Slurm jobs. QueueError if the cluster refuses it; some of its jobs may be in
    the queue then. UserError if Slurm's commands are not installed, or if the files of the batch cannot be written."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    note = Note([[job.id for job in chunk.jobs] for chunk in chunks],
                {job.id: job.method.digest for chunk in chunks for job in chunk.jobs})
    try:
        write_note(batch, note)  # first, so that a command that dies here leaves no unknown jobs in the queue
        executor = SlurmExecutor(folder=batch.jobs.absolute(), python=options.python)
        executor.update_parameters(**{"time": None, **options.asked, "job_name": batch.name, "use_srun": False,
                                      "array_parallelism": len(chunks)})
        with redirect_stderr(StringIO()), executor.batch():  # the exception has the text that submitit prints
            for chunk in chunks:
                executor.submit(run_chunk, chunk)
        note.submitted = True
        write_note(batch, note)
    except (FailedJobError, FailedSubmissionError) as error:
        raise QueueError(complaint(str(error)) or "sbatch failed") from error
    except RuntimeError as error:
        if "srun" not in str(error):
            raise
        raise UserError("--executor slurm: sbatch and srun are not installed here: start the command on a machine of "
                        "the cluster, where Slurm's commands are") from error
    except OSError as error:
        raise UserError(f"--executor slurm: {explain(error)}") from error


def batches(folder: SlurmFolder) -> Iterator[tuple[SlurmBatch, Note]]:
    """The batches in a folder, each with its note. A batch whose note is missing or damaged was never submitted, and is
    removed. UserError if the operating system cannot read a note now: the jobs of the batch may be in the queue."""
    for path in sorted(folder.root.glob("*/")):
        batch = SlurmBatch(path)
        try:
            yield batch, msgspec.json.decode(read_file(batch.note), type=Note)
        except (FileNotFoundError, msgspec.MsgspecError):
            remove(batch)
        except OSError as error:
            raise UserError(f"--executor slurm: {explain(error)}; it says which runs are in the queue") from error


def remove(batch: SlurmBatch) -> None:
    """Remove the files of a batch that is over, and the folder of batches once it is empty."""
    shutil.rmtree(batch.root, ignore_errors=True)
    with suppress(OSError):
        batch.root.parent.rmdir()


def last_words(batch: SlurmBatch, job: str) -> str:
    """The line of a Slurm job's log that most likely says why the job failed; "" if there is none."""
    for log in sorted(batch.jobs.glob(f"{job}_*.err")):
        with suppress(OSError):
            lines = [plain(line) for line in read_file(log).decode(errors="replace").splitlines()]
            if told := [line for line in lines if line and not line.startswith(NOISE)]:
                return told[-1][:300]
    return ""


def write_note(batch: SlurmBatch, note: Note) -> None:
    atomic_write(batch.note, msgspec.json.encode(note))
