"""Shows the curves and metrics of finished runs in trackers: TensorBoard's event files, and packages with the interface
of wandb.

A tracker is given a run's record once the run has ended, in a thread beside the matrix, so that a slow or missing
server holds nothing up. If a tracker raises, the user is told once, and only that tracker's log is lost.
"""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from kdbench.errors import UserError, unknown
from kdbench.results.record import Record

FLUSH_SECONDS = 60.0  # for which the end of a matrix waits for trackers, at most
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}  # by tracker, its package


class Tracker(Protocol):
    """The interface of a tracker. `show` may raise any exception."""

    def show(self, record: Record) -> None: ...


class TensorBoard:
    """Writes event files, for each run in a folder of its own below `folder`."""

    def __init__(self, library: Any, folder: Path):
        self.library, self.folder = library, folder

    def show(self, record: Record) -> None:
        writer = self.library.SummaryWriter(logdir=str(self.folder / _name(record)), flush_secs=1)
        try:
            for step, values in points(record):
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            writer.add_text("spec", f"```json\n{record.spec.model_dump_json(indent=1)}\n```")
        finally:
            writer.close()


class Wandb:
    """Logs each record as a run of the project, with the functions that wandb and trackio share: init, log and
    finish."""

    def __init__(self, library: Any, project: str):
        self.library, self.project = library, project

    def show(self, record: Record) -> None:
        self.library.init(project=self.project, name=_name(record), config={
            "run": record.run_id, "status": record.status, **record.spec.model_dump(mode="json")})
        try:
            for step, values in points(record):
                self.library.log(values, step=step)
        finally:
            self.library.finish()


def make_trackers(names: Sequence[str], folder: Path, suite: str) -> list[Tracker]:
    """The trackers with these names, for runs whose results lie in `folder`; a name that is repeated counts once.
    TensorBoard's files go to the folder FOLDER-tensorboard beside it, runs of the other trackers to the project
    kdbench-SUITE. UserError for an unknown name, and for a tracker whose package is not installed."""
    made: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name not in PACKAGES:
            raise unknown("tracker", name, PACKAGES)
        try:
            library = importlib.import_module(PACKAGES[name])
        except ImportError as error:
            raise UserError(f"--track {name}: it is not installed: pip install {PACKAGES[name]}") from error
        made.append(TensorBoard(library, folder.with_name(f"{folder.name}-tensorboard")) if name == "tensorboard"
                    else Wandb(library, f"kdbench-{suite}"))
    return made


def points(record: Record) -> Iterator[tuple[int, dict[str, float]]]:
    """Pairs of epoch, counted from 1, and the values that are logged with it, by name: those of the run's curves and,
    with the last epoch, its metrics."""
    steps: dict[int, dict[str, float]] = {}
    for name, values in record.curves.items():
        if name != "validation_epoch":
            epochs = record.curves.get("validation_epoch", count(1)) if name.startswith("validation_") else count(1)
            for epoch, value in zip(epochs, values, strict=False):
                steps.setdefault(int(epoch), {})[f"curve/{name}"] = value
    last = max(steps, default=record.spec.training.epochs)
    metrics = {f"metric/{name}": value for name, value in record.metrics.items()}
    steps[last] = {**steps.get(last, {}), **metrics, "metric/seconds": record.seconds}
    yield from sorted(steps.items())


def _name(record: Record) -> str:
    spec = record.spec
    return f"{spec.method} {spec.pair} {spec.dataset} seed {spec.seed} {record.run_id}".replace("/", "_")


@contextmanager
def tracked(trackers: Iterable[Tracker], say: Callable[[str], None]) -> Iterator[Callable[[Record], None]]:
    """Yield a function that shows a record in every tracker, in the background. On exit, wait up to `FLUSH_SECONDS`
    until all are shown. A tracker that raises is left out from then on, and `say` is told why."""
    queue: SimpleQueue[Record | None] = SimpleQueue()
    working = list(trackers)

    def work() -> None:
        while (record := queue.get()) is not None:
            for tracker in list(working):
                try:
                    tracker.show(record)
                except Exception as error:  # a tracker must never cost a run
                    working.remove(tracker)
                    say(f"note: {type(tracker).__name__} shows no further runs: {type(error).__name__}: "
                        f"{' '.join(str(error).split())[:200]}")

    thread = threading.Thread(target=work, daemon=True)
    if working:
        thread.start()
    try:
        yield queue.put if working else lambda record: None
    finally:
        if thread.is_alive():
            queue.put(None)
            thread.join(FLUSH_SECONDS)
            if thread.is_alive():
                say(f"note: trackers were not done after {FLUSH_SECONDS:.0f} s; {_left(queue)} runs are not shown")


def _left(queue: "SimpleQueue[Record | None]") -> int:
    """Empty the queue, and return the number of records that were still in it."""
    left = 0
    while True:
        try:
            left += queue.get_nowait() is not None
        except Empty:
            return left
