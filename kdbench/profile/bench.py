"""A stopwatch and an energy counter in one; the caller gives the clock, the counter and the function that waits for a
GPU."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kdbench.profile.energy import Meter


@dataclass(frozen=True)
class Sample:
    """The wall time and energy of a piece of work."""

    seconds: float
    joules: float | None  # None: no energy counter


class Bench:
    def __init__(self, meter: Meter | None, clock: Callable[[], float] = time.perf_counter,
                 synchronise: Callable[[], None] = lambda: None):
        self.meter, self.clock, self.synchronise = meter, clock, synchronise

    def sample(self, work: Callable[[], object]) -> Sample:
        """The time and energy of the work, done once. Garbage of earlier work is collected first."""
        gc.collect()
        self.synchronise()
        before = self.meter.joules() if self.meter else None
        seconds = self._lap(work)
        return Sample(seconds, self.meter.joules() - before if self.meter and before is not None else None)

    def joules(self, work: Callable[[], object]) -> float | None:
        """The energy of the work in joules: the mean over as many repetitions as fill the meter's `least_seconds`, at
        least one. None without a meter."""
        done = 0

        def repeated() -> None:
            nonlocal done
            begin = self.clock()
            while not done or self.clock() - begin < self.least_seconds:
                work()
                self.synchronise()
                done += 1

        joules = self.sample(repeated).joules
        return None if joules is None else joules / done

    @property
    def least_seconds(self) -> float:
        return self.meter.least_seconds if self.meter else 0.0

    def laps(self, works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
        """The seconds of each work in each of the rounds, by name; the works take turns in a round.

        A machine that others share changes its speed within a second, so that the times of works can only be compared
        if these alternate quickly.
        """
        gc.collect()
        self.synchronise()
        found: dict[str, list[float]] = {name: [] for name in works}
        for _, name in in_turns(works, rounds):
            found[name].append(self._lap(works[name]))
        return found

    def _lap(self, work: Callable[[], object]) -> float:
        start = self.clock()
        work()
        self.synchronise()
        return self.clock() - start


def in_turns(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Pairs of a round's number and a name, each name once a round. Every other round goes backwards, so that a drift
    of the machine favours no name."""
    order = list(names)
    for number in range(rounds):
        for name in order:
            yield number, name
        order.reverse()
