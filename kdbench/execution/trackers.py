"""Curves and metrics of finished runs for the trackers that people look at: TensorBoard's event files, and whatever
speaks the interface of wandb.

A tracker gets a run's record once the run has ended, in a thread of its own, so that a slow or missing server holds
nothing up. Whatever a tracker raises is said once, and costs its log alone.
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

FLUSH_SECONDS = 60.0  # that the end of a matrix waits for trackers
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}  # by tracker: what it imports


class Tracker(Protocol):
    """Something that shows runs. It may raise anything."""

    def show(self, record: Record) -> None: ...


class TensorBoard:
    """Event files, in a folder of each run's own below `folder`."""

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
    """A run of a project, by the functions that wandb and trackio share: init, log and finish."""

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
    """The trackers of these names, of runs whose results lie in `folder`. UserError for an unknown name, and for a
    tracker whose package is not installed."""
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
    """What is logged of a run: by epoch, from 1, the values of its curves; its metrics with the last epoch."""
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
    """Gives a function that shows a record by every tracker, in the background. At the end it waits for them, up to
    `FLUSH_SECONDS`; a tracker that failed is left out from then on, and `say` is told why."""
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
    """The number of records that still wait."""
    left = 0
    while True:
        try:
            left += queue.get_nowait() is not None
        except Empty:
            return left
