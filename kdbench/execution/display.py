"""What `kdbench run` shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from kdbench.errors import one_line, plain
from kdbench.execution.estimate import Estimator, time_for
from kdbench.execution.executor import Running
from kdbench.execution.job import Job
from kdbench.results.record import Record
from kdbench.results.unfinished import read_progress

LEFT_EVERY = 5.0  # seconds between two estimates of the time left, which take a while with thousands of runs


class Display:
    """The progress of a matrix: the counts of its runs, and estimates of the time left, which each finished run
    improves. Ended runs are printed, one line each; subclasses show the rest."""

    def __init__(self, console: Console, workers: int, estimator: Estimator | None = None):
        self.console, self.workers, self.estimator = console, workers, estimator or Estimator()
        self.total = self.done = 0
        self._open: dict[str, Job] = {}  # by id, the jobs that have not ended, in the order in which they begin
        self._epochs: dict[str, tuple[int, float]] = {}  # by job id, the last epoch that ended, and when that was seen
        self._started = time.monotonic()

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def expect(self, jobs: Sequence[Job]) -> None:
        self.total, self._open = len(jobs), {job.id: job for job in jobs}

    def watch(self, running: Sequence[Running[Job]], waiting: int) -> None:
        """Show the running jobs; called several times a second."""

    def ended(self, job: Job, record: Record) -> None:
        self.done += 1
        self._open.pop(job.id, None)
        self.estimator.learn(record)
        self.console.print(one_line(self._line(job, record)), markup=False, highlight=False, soft_wrap=True)
        for note in record.notes:
            self.console.print(f"  note: {plain(note)}", markup=False, highlight=False, soft_wrap=True)

    def _line(self, job: Job, record: Record) -> str:
        count = f"[{self.done}/{self.total}]"
        if record.status == "pruned":
            return f"{count} {job}: {record.reason}"
        if record.status != "ok":
            return f"{count} FAILED  {job}: {record.reason}"
        return f"{count} {job}: {_accuracy(record)} in {record.seconds:.0f} s"

    def seconds_left(self, running: Sequence[Running[Job]] = ()) -> float | None:
        """The estimated seconds until all runs are done; None as long as there is no estimate for one of them."""
        left = {r.job.id: self._left(r) for r in running}
        waiting = [job for job in self._open.values() if job.id not in left]
        whole = [self._seconds(job) for job in waiting]
        known, needed = {run: own for run, own in left.items() if own is not None}, [s for s in whole if s is not None]
        if len(known) < len(left) or len(needed) < len(waiting):
            return None
        return time_for(waiting, needed, known, self.workers)

    def _seconds(self, job: Job) -> float | None:
        estimate = self.estimator.estimate(job.spec)
        return estimate and estimate.seconds

    def _left(self, running: Running[Job]) -> float | None:
        """The seconds that a running job still needs: from the time of its own epochs once one has ended, before that
        from the estimate. None if nothing is known."""
        now, job = time.monotonic(), running.job
        estimate, progress = self.estimator.estimate(job.spec), read_progress(job.cache.unfinished(job.id))
        if progress is None or not progress.epoch or not progress.seconds:
            return max(estimate.seconds - (now - running.started), 0.0) if estimate else None
        epoch, since = self._epochs.get(job.id, (0, now))
        if epoch != progress.epoch:
            since = now
            self._epochs[job.id] = progress.epoch, since
        training = progress.seconds / progress.epoch * (progress.epochs - progress.epoch)
        return max(training + (estimate.around if estimate else 0.0) - (now - since), 0.0)


class TerminalDisplay(Display):
    """A table of the running jobs below the lines of the finished ones."""

    def __enter__(self) -> "Display":
        self._estimated = -LEFT_EVERY  # when the time left was last estimated
        self._ends: float | None = None  # when all runs are done by that estimate; None: not known
        self._live = Live(console=self.console, refresh_per_second=4, transient=True)
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def watch(self, running: Sequence[Running[Job]], waiting: int) -> None:
        super().watch(running, waiting)
        table = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
        for heading in ("run", "pair", "dataset", "seed", "epoch", "validation", "seconds"):
            table.add_column(heading)
        for r in running:
            spec, progress = r.job.spec, read_progress(r.job.cache.unfinished(r.job.id))
            name = f"teacher {spec.student.model}" if r.job.role == "teacher" else spec.method
            epoch = f"{progress.epoch}/{progress.epochs}" if progress else f"0/{spec.training.epochs}"
            accuracy = f"{progress.accuracy:.1%}" if progress and progress.accuracy is not None else "-"
            what = [escape(plain(text)) for text in (name, spec.pair, spec.dataset)]
            table.add_row(*what, str(spec.seed), epoch, accuracy,
                          f"{time.monotonic() - r.started:.0f}")
        remaining = f", about {duration(left)} left" if (left := self._until_done(running)) is not None else ""
        table.caption = f"{self.done} of {self.total} runs, {duration(time.monotonic() - self._started)}{remaining}"
        self._live.update(table)

    def _until_done(self, running: Sequence[Running[Job]]) -> float | None:
        """The seconds until all runs are done, by an estimate that is renewed every `LEFT_EVERY` seconds; None if it is
        not known."""
        now = time.monotonic()
        if now - self._estimated >= LEFT_EVERY:
            left = self.seconds_left(running)
            self._estimated, self._ends = now, None if left is None else now + left
        return None if self._ends is None else max(self._ends - now, 0.0)


class PlainDisplay(Display):
    """One line per event, for files and pipes."""

    def expect(self, jobs: Sequence[Job]) -> None:
        super().expect(jobs)
        if jobs:
            left = self.seconds_left()
            about = f", about {duration(left)}" if left is not None else ""
            self.console.print(f"{len(jobs)} runs, {self.workers} at a time{about}", highlight=False)


def _accuracy(record: Record) -> str:
    """The accuracy as text: on the test images or, for a trial, which does not see those, on the validation images."""
    name = "validation_accuracy" if record.role == "trial" else "test_accuracy"
    return f"{record.metrics[name]:.2%}" + (" of validation" if record.role == "trial" else "")


def make_display(workers: int, estimator: Estimator | None = None) -> Display:
    """The display for standard output: a live table if that is a terminal, plain lines if not."""
    console = Console()
    return (TerminalDisplay if console.is_terminal else PlainDisplay)(console, workers, estimator)


def duration(seconds: float) -> str:
    """A duration as text, such as "40 s", "3 min 20 s" or "2 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
