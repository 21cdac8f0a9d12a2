"""How long runs will take, from what runs took before. Nothing is read or measured here.

A run's seconds are those of its training, which grow with its work (images times pixels), and those that its process
spends beside it on loading, predicting and scoring, which do not. What a unit of work takes is looked up in this order:

1. the same method with the same hyperparameters on the same networks, data and kind of batches: the run itself but for
   its length and seed
2. the same method on the same networks, whatever the data and recipe
3. the method's ratio to the reference (`ce`) in other cells, times what the reference takes on these networks by 1 or 2
4. the same method on the same networks, on another machine
5. the median ratio of the other methods, or `TYPICAL` before one is known, times what the reference takes here
6. what the other methods take that trained the same student here

Ratios may come from any machine, all else but 4 from this one. At each place records of runs come before a short
timing, and that before profiles, which are measured alone. Of several figures the median counts, of many those of the
last `KEPT`. Only runs that ended well tell anything: the seconds of a crash are no run's.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from heapq import heapify, heappop, heappush
from statistics import fmean, median
from typing import Any, Literal, NamedTuple, Protocol, Self

from kdbench.data import catalog
from kdbench.environment import cpu_name, gpu_name
from kdbench.errors import UserError, counted
from kdbench.results.record import Record
from kdbench.spec import RunSpec

Source = Literal["record", "timed", "profile"]
SOURCES: tuple[Source, ...] = ("record", "timed", "profile")  # the better first
What = Literal["rate", "around", "memory", "disk"]
KEPT = 256  # figures of a kind and a source
# Multiples of the reference's step: the median of 42 methods, measured alone on an Intel Xeon. On the AMD EPYC of
# results/quick it is 2.7, of 76.
TYPICAL = 2.3


@dataclass(frozen=True)
class Sample:
    """What one run took, or would take by a measurement."""

    spec: RunSpec
    seconds: float               # of the whole training
    machine: str
    source: Source = "record"
    around: float | None = None  # seconds of its process beside training
    memory: int | None = None    # bytes, at most at a time
    disk: int | None = None      # bytes of the files that it leaves

    @classmethod
    def of(cls, record: Record, disk: int | None = None) -> Self | None:
        """What a record tells; None if its run did not end well."""
        if record.status != "ok":
            return None
        if record.role == "trial":  # it does less beside its training than a run does, and leaves fewer files
            return cls(record.spec, record.seconds, machine(record.environment), memory=record.peak_memory_bytes)
        around = None
        with suppress(ValueError):  # of a time that never was
            whole = datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)
            beside = whole.total_seconds() - record.seconds
            # Times are kept to the second. A run that was resumed trained for longer than since its last start.
            around = max(beside, 0.0) if beside > -1 else None
        return cls(record.spec, record.seconds, machine(record.environment), around=around,
                   memory=record.peak_memory_bytes, disk=disk)


class Estimate(NamedTuple):
    """What a run will take."""

    training: float  # seconds
    around: float    # seconds of its process beside training
    basis: str       # where the figure comes from, in words
    trusted: bool    # whether it is of this method on this machine, by 1 to 3

    @property
    def seconds(self) -> float:
        return self.training + self.around


class Estimator:
    """Estimates from samples; further ones may be added at any time.

    `reference` is the method that ratios are to, which learns from no teacher; without one there are none.
    """

    def __init__(self, samples: Iterable[Sample] = (), reference: str | None = None):
        self.reference = reference
        self._seen: dict[tuple[What, Hashable], dict[Source, deque[float]]] = defaultdict(
            lambda: defaultdict(lambda: deque(maxlen=KEPT)))
        self._cells: dict[str, set[tuple[Hashable, str]]] = defaultdict(set)  # by method: where it was seen
        self._trained: dict[Hashable, set[Hashable]] = defaultdict(set)  # methods and networks, by student
        self._kinds: dict[str, _Kind] = {}
        self._rates: dict[_Kind, tuple[_Rate, float] | None] = {}  # with the seconds beside training
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        kind, here = self._kind(sample.spec), sample.machine
        rate = sample.seconds / work(sample.spec)
        for key in ((kind.like, here), (kind.networks, here), kind.networks, (kind.method, kind.cell, here)):
            self._seen["rate", key][sample.source].append(rate)
        self._cells[kind.method].add((kind.cell, here))
        self._trained[kind.student, here].add((kind.networks, here))
        others: tuple[tuple[What, float | None], ...] = (
            ("around", sample.around), ("memory", sample.memory), ("disk", sample.disk))
        for what, value in others:
            if value is not None:
                for key in (kind.networks, (kind.scored, here), kind.scored, kind.student):
                    self._seen[what, key][sample.source].append(value)
        self._rates.clear()

    def learn(self, record: Record) -> None:
        """Add what a finished run tells, if it ended well."""
        if sample := Sample.of(record):
            self.add(sample)

    def estimate(self, spec: RunSpec) -> Estimate | None:
        """What the run will take; None if nothing is known of its student."""
        kind = self._kind(spec)
        if kind not in self._rates:
            here = this_machine(spec.device)
            rate = self._rate(kind, here)
            around = self._first("around", fmean, (kind.scored, here), kind.scored, kind.student)
            self._rates[kind] = rate and (rate, around or 0.0)
        if (found := self._rates[kind]) is None:
            return None
        rate, around = found
        return Estimate(rate.seconds * work(spec), around, rate.basis, rate.trusted)

    def alike(self, spec: RunSpec) -> Hashable:
        """What runs share that differ in length and seed alone."""
        return self._kind(spec).like

    def memory(self, spec: RunSpec) -> float | None:
        """The bytes that the run will hold at most at a time; None if nothing is known of its student."""
        kind = self._kind(spec)
        return self._first("memory", max, kind.networks, kind.student)

    def disk(self, spec: RunSpec) -> float | None:
        """The bytes of the files that the run will leave; None if nothing is known of its student."""
        kind = self._kind(spec)
        return self._first("disk", max, kind.scored, kind.student)

    # Looking up.

    def _rate(self, kind: "_Kind", here: str) -> "_Rate | None":
        """What a unit of the run's work takes, by the order above."""
        for key in ((kind.like, here), (kind.networks, here)):
            if found := self._found("rate", key):
                return _Rate(median(found[1]), _words(*found), True)
        plain = self._plain(kind, here)
        if plain is not None and (ratio := self._ratio(kind.method)) is not None:
            return _Rate(ratio * plain, f"{ratio:.1f} x {self.reference}", True)
        if found := self._found("rate", kind.networks):
            return _Rate(median(found[1]), f"{_words(*found)}, another machine", False)
        if plain is not None:
            ratios = [ratio for method in self._cells if (ratio := self._ratio(method)) is not None]
            ratio = median(ratios) if ratios else TYPICAL
            return _Rate(ratio * plain, f"{ratio:.1f} x {self.reference}, as other methods", False)
        others = [self._first("rate", median, key) for key in self._trained.get((kind.student, here), ())]
        rates = [rate for rate in others if rate is not None]
        return _Rate(median(rates), "as other methods", False) if rates else None

    def _plain(self, kind: "_Kind", here: str) -> float | None:
        """What a unit of work takes the reference on the run's student here; None if that is not known, or is asked."""
        if self.reference is None or kind.method == self.reference:
            return None
        return self._first("rate", median, (self.reference, kind.cell, here),
                           ((self.reference, kind.student, None), here))

    def _ratio(self, method: str) -> float | None:
        """How long the method takes in multiples of the reference, where both were seen in a cell; None if nowhere, and
        of the reference itself."""
        if method == self.reference:
            return None
        both = self._cells.get(method, set()) & self._cells.get(str(self.reference), set())
        pairs = [(self._first("rate", median, (method, *place)), self._first("rate", median, (self.reference, *place)))
                 for place in both]
        ratios = [own / plain for own, plain in pairs if own and plain]
        return median(ratios) if ratios else None

    def _found(self, what: What, key: Hashable) -> tuple[Source, Collection[float]] | None:
        """The values from the best source that has some."""
        by_source = self._seen.get((what, key), {})
        return next(((source, by_source[source]) for source in SOURCES if source in by_source), None)

    def _first(self, what: What, middle: Callable[[Collection[float]], float], *keys: Hashable) -> float | None:
        """One value for those under the first of the keys that has some."""
        found = next(filter(None, (self._found(what, key) for key in keys)), None)
        return middle(found[1]) if found else None

    def _kind(self, spec: RunSpec) -> "_Kind":
        if spec.id not in self._kinds:
            self._kinds[spec.id] = _Kind.of(spec, self.reference)
        return self._kinds[spec.id]


class _Rate(NamedTuple):
    seconds: float  # of a unit of work
    basis: str
    trusted: bool


class _Kind(NamedTuple):
    """What runs must share to tell of each other, from all of it to the student alone."""

    method: str
    like: Hashable      # all but length and seed
    networks: Hashable  # the method and the networks that it trains with
    cell: Hashable      # what methods share whose ratio can be taken
    scored: Hashable    # the student and the data
    student: Hashable

    @classmethod
    def of(cls, spec: RunSpec, reference: str | None) -> Self:
        recipe, student = spec.recipe, (spec.student.model_dump_json(), _images(spec)[0], spec.device)
        teacher = spec.teacher.architecture.model_dump_json() if spec.teacher and spec.method != reference else None
        step = (recipe.batch_size, recipe.image_size, recipe.augment, recipe.precision)
        networks, data = (spec.method, student, teacher), (spec.dataset, spec.dataset_digest)
        return cls(spec.method, (networks, data, step, tuple(sorted(spec.hyperparameters.items()))), networks,
                   (student, data, step), (student, data), student)


def _images(spec: RunSpec) -> tuple[str, float]:
    """What the work of a run is counted in, and the training images in that unit. How many images a folder or a long
    tail has is not known here: its work is counted in passes over it, and compared with none of another one."""
    size = spec.recipe.train_size or _published_size(spec.dataset)
    return ("images", size) if size else (f"passes over {spec.dataset} {spec.dataset_digest}", 1)


@cache
def _published_size(dataset: str) -> int | None:
    try:
        name = catalog.parse(dataset)
    except UserError:  # of a record that another kdbench wrote
        return None
    return name.info.sizes[0] if name.info.sizes and "longtail" not in dict(name.modifiers) else None


def work(spec: RunSpec) -> float:
    """The work of a run's training: images times pixels, of whole batches."""
    recipe, (_, images) = spec.training, _images(spec)
    batch = min(recipe.batch_size, images)
    return spec.updates * recipe.epochs * (images // batch) * batch * recipe.image_size**2


def _words(source: Source, values: Collection[float]) -> str:
    return source if source != "record" else counted(len(values), "record")


# Machines.

def machine(environment: Mapping[str, Any]) -> str:
    """What computes, by the environment of a record."""
    return str(environment.get("gpu") or environment.get("cpu"))


@cache
def this_machine(device: str) -> str:
    """What computes here, in the words of `machine`."""
    return machine({"cpu": cpu_name(), "gpu": gpu_name() if device == "cuda" else None})


# Several at a time.

class Queued(Protocol):
    """What must be known of a run that waits."""

    @property
    def id(self) -> str: ...

    def teachers(self) -> Iterable[str]:
        """The ids of the runs that must come first."""


def time_for(waiting: Sequence[Queued], seconds: Sequence[float], running: Mapping[str, float], workers: int) -> float:
    """The seconds until all runs are done, if each worker that gets free takes the first run whose teachers are done.

    `seconds` are those of the waiting runs; `running` has the seconds left of each running one, by id."""
    open_ids = {*running, *(run.id for run in waiting)}
    needs = [open_ids & set(run.teachers()) for run in waiting]
    dependants: dict[str, list[int]] = defaultdict(list)
    for place, ids in enumerate(needs):
        for needed in ids:
            dependants[needed].append(place)
    missing = [len(ids) for ids in needs]
    ready = [place for place, count in enumerate(missing) if not count]  # a heap, since it is sorted
    ends = [(left, run) for run, left in running.items()]
    heapify(ends)
    now = 0.0
    while ready or ends:
        while ready and len(ends) < workers:
            place = heappop(ready)
            heappush(ends, (now + seconds[place], waiting[place].id))
        now, ended = heappop(ends)
        for place in dependants.pop(ended, ()):
            missing[place] -= 1
            if not missing[place]:
                heappush(ready, place)
    return now
