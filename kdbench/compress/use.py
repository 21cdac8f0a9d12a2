"""Measures what ONNX networks cost in use: latency, throughput and energy in onnxruntime, with the networks in
turns."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kdbench.compress.record import Use
from kdbench.profile.bench import Bench, Sample, in_turns
from kdbench.profile.record import Quartiles

BATCH = 64               # images at a time for throughput and energy
CALLS, SECONDS = 50, 0.05  # of one turn of latency: at least so many calls, and so many seconds
THROUGHPUT_SECONDS = 0.2  # of one turn of throughput, so that energy counters move
REPEATS = 5               # turns of each network
WARM_UP = 3               # calls before anything is measured


def measure_use(sessions: Mapping[str, Any], image_shape: tuple[int, ...], bench: Bench) -> dict[str, Use]:
    """The costs of using onnxruntime's sessions, by name, on random images of `image_shape` (C, H, W). The sessions
    take turns, in latency call by call, so that a change in the machine's speed favours none."""
    subjects = {name: _Subject(session, image_shape, bench) for name, session in sessions.items()}
    calls = max((subject.calls for subject in subjects.values()), default=0)
    for _ in range(REPEATS):
        laps = bench.laps({name: subject.run_one for name, subject in subjects.items()}, calls)
        for name, subject in subjects.items():
            subject.laps += laps[name]
    for _, name in in_turns(subjects, REPEATS):
        subjects[name].run_batches()
    return {name: subject.use() for name, subject in subjects.items()}


class _Subject:
    """A session that is measured, with the measurements of its turns so far."""

    def __init__(self, session: Any, image_shape: tuple[int, ...], bench: Bench):
        self.session, self.bench = session, bench
        random = np.random.default_rng(0)
        self.one, self.many = ({"images": random.standard_normal((size, *image_shape), dtype=np.float32)}
                               for size in (1, BATCH))
        self.calls = max(CALLS, self._calls_in(SECONDS, self.run_one))
        self.batches = self._calls_in(THROUGHPUT_SECONDS, self.run_many)
        self.laps: list[float] = []
        self.samples: list[Sample] = []

    def run_one(self) -> None:
        self.session.run(None, self.one)

    def run_many(self) -> None:
        self.session.run(None, self.many)

    def _calls_in(self, seconds: float, work: Callable[[], object]) -> int:
        """How many calls take about that many seconds, at least one. The calls made to find out also warm the session
        up."""
        laps = self.bench.laps({"warm": work}, WARM_UP)
        return max(1, math.ceil(seconds / laps["warm"][-1]))

    def run_batches(self) -> None:
        def work() -> None:
            for _ in range(self.batches):
                self.run_many()

        self.samples.append(self.bench.sample(work))

    def use(self) -> Use:
        images = self.batches * BATCH
        joules = [1000 * sample.joules / images for sample in self.samples if sample.joules is not None]
        return Use(latency_seconds=Quartiles.of(self.laps), latency_p95_seconds=float(np.percentile(self.laps, 95)),
                   throughput=Quartiles.of([images / sample.seconds for sample in self.samples]),
                   joules_per_1000_images=Quartiles.of(joules) if joules else None)
