"""What `kdbench run` shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from kdbench.disk import read_file
from kdbench.errors import one_line, plain
from kdbench.execution.job import Job
from kdbench.execution.pool import Running
from kdbench.results.record import Record


class Display:
    """Progress of a matrix. Counts and estimates; the subclasses show them."""

    def __init__(self, console: Console, workers: int):
        self.console, self.workers = console, workers
        self.total = self.done = 0
        self._seconds: list[float] = []
        self._waiting = 0
        self._started = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def expect(self, jobs: Sequence[Job]) -> None:
        self.total, self._waiting = len(jobs), len(jobs)

    def watch(self, running: list[Running[Job]], waiting: int) -> None:
        """Show the running jobs; called several times a second."""
        self._waiting = waiting

    def ended(self, job: Job, record: Record) -> None:
        self.done += 1
        self._seconds.append(record.seconds)
        self.console.print(one_line(self._line(job, record)), markup=False, highlight=False, soft_wrap=True)
        for note in record.notes:
            self.console.print(f"  note: {plain(note)}", markup=False, highlight=False, soft_wrap=True)

    def _line(self, job: Job, record: Record) -> str:
        count = f"[{self.done}/{self.total}]"
        if record.status != "ok":
            return f"{count} FAILED  {job}: {record.reason}"
        return f"{count} {job}: {record.metrics['test_accuracy']:.2%} in {record.seconds:.0f} s"

    def seconds_left(self, running: list[Running[Job]]) -> float | None:
        """Estimated seconds until all runs are done, from the mean of the finished ones; None before there is one."""
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        begun = sum(max(mean - (time.monotonic() - r.started), 0) for r in running)
        return (begun + mean * self._waiting) / self.workers


class TerminalDisplay(Display):
    """A table of the running jobs below the lines of the finished ones."""

    def __enter__(self) -> "Display":
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def watch(self, running: list[Running[Job]], waiting: int) -> None:
        super().watch(running, waiting)
        table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
        for heading in ("run", "pair", "dataset", "seed", "epoch", "validation", "seconds"):
            table.add_column(heading)
        for r in running:
            spec, progress = r.job.spec, read_progress(r.job)
            name = f"teacher {spec.student.model}" if r.job.role == "teacher" else spec.method
            epoch = f"{progress.epoch}/{progress.epochs}" if progress else f"0/{spec.recipe.epochs}"
            accuracy = f"{progress.accuracy:.1%}" if progress else "-"
            what = [escape(plain(text)) for text in (name, spec.pair, spec.dataset)]
            table.add_row(*what, str(spec.seed), epoch, accuracy,
                          f"{time.monotonic() - r.started:.0f}")
        left = self.seconds_left(running)
        remaining = f", about {_duration(left)} left" if left is not None else ""
        table.caption = f"{self.done} of {self.total} runs, {_duration(time.monotonic() - self._started)}{remaining}"
        self._live.update(table)


class PlainDisplay(Display):
    """One line per event, for files and pipes."""

    def expect(self, jobs: Sequence[Job]) -> None:
        super().expect(jobs)
        if jobs:
            self.console.print(f"{len(jobs)} runs, {self.workers} at a time", highlight=False)


def make_display(workers: int) -> Display:
    """The display that fits where standard output goes."""
    console = Console()
    return TerminalDisplay(console, workers) if console.is_terminal else PlainDisplay(console, workers)


class Progress(msgspec.Struct):
    """How far a running job is."""

    epoch: int
    epochs: int
    accuracy: float


def read_progress(job: Job) -> Progress | None:
    """The progress that a running job reports; None before its first epoch ends."""
    try:
        return msgspec.json.decode(read_file(job.cache.unfinished(job.id).progress), type=Progress)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
