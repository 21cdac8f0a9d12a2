"""A run that does nothing: its record is another run's, under its own name."""

from kdbench.execution.job import Job
from kdbench.execution.matrix import Training
from kdbench.results.record import Record
from kdbench.results.store import Store


class Nothing(Training):
    """Work that takes no time but that of its process and its record."""

    function = "support.noop:write_record"


def write_record(job: Job) -> None:
    """Leave a record as a finished run does. It names neither weights nor predictions, as there are none."""
    Store(job.out).write(Record.of(job, "ok", role=job.role, seconds=0.0, metrics={"test_accuracy": 0.5}))


def ready() -> None:
    """Nothing: the answer shows that the fork server is ready."""
