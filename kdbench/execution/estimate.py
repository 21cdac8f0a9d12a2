"""Estimates of how long runs will take, from how long other runs took. Nothing is read or measured here.

The seconds of a run are those of its training, which grow with its work (images times pixels), and those that its
process spends beside training on loading, predicting and scoring, which do not. The seconds that a unit of work takes
are the first of these that is known:

1. those of the same method with the same hyperparameters on the same networks, data and kind of batches: of the same
   run but for its length and seed
2. those of the same method on the same networks, whatever the data and recipe
3. the method's ratio to the reference (`ce`) in other cells, times the reference's seconds with this student: on the
   same data and kind of batches or, if these are not known, whatever the data and recipe
4. those of the same method on the same networks, on another machine
5. the median ratio of the other methods, or `TYPICAL` before one is known, times the reference's seconds as in 3
6. the median of the other methods that trained the same student

Ratios may come from any machine, everything else except 4 only from this one. In each of these places, records of runs
are preferred to a short timing, and a timing to profiles, which are measured one at a time. Of several figures the
median counts, and only the last `KEPT` are kept. Only runs that ended well are used: how long a run took until it
crashed says nothing of its length.
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
SOURCES: tuple[Source, ...] = ("record", "timed", "profile")  # the most reliable first
What = Literal["rate", "around", "memory", "disk"]
KEPT = 256  # the most figures of each kind and source that are kept
# How long a step of a method takes as a multiple of the reference's: the median of 42 methods, measured one at a time
# on an Intel Xeon. On the AMD EPYC of results/quick, the median of 76 methods is 2.7.
TYPICAL = 2.3


@dataclass(frozen=True)
class Sample:
    """What one run took, or would take according to a measurement."""

    spec: RunSpec
    seconds: float               # of the whole training
    machine: str
    source: Source = "record"
    around: float | None = None  # seconds that its process spends beside training
    memory: int | None = None    # peak, in bytes
    disk: int | None = None      # bytes of the files that it leaves

    @classmethod
    def of(cls, record: Record, disk: int | None = None) -> Self | None:
        """The sample of a record; None if its run did not end well. `disk` is the size of the files that the run left,
        in bytes, if known."""
        if record.status != "ok":
            return None
        if record.role == "trial":  # it does less beside its training than a run does, and leaves fewer files
            return cls(record.spec, record.seconds, machine(record.environment), memory=record.peak_memory_bytes)
        around = None
        with suppress(ValueError):  # a time that does not exist, such as February 30
            whole = datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)
            beside = whole.total_seconds() - record.seconds
            # Records keep times to the second. A resumed run may have trained for longer than the time since its last
            # start: its seconds beside training are not known.
            around = max(beside, 0.0) if beside > -1 else None
        return cls(record.spec, record.seconds, machine(record.environment), around=around,
                   memory=record.peak_memory_bytes, disk=disk)


class Estimate(NamedTuple):
    """The estimated duration of a run."""

    training: float  # seconds
    around: float    # seconds that its process spends beside training
    basis: str       # where the figure comes from, in words
    trusted: bool    # whether it is of this method on this machine: by places 1 to 3 above

    @property
    def seconds(self) -> float:
        return self.training + self.around


class Estimator:
    """Estimates the duration, memory and disk space of runs from samples; further samples may be added at any time.

    `reference` is the method, which learns from no teacher, to which the ratios of other methods are taken; None: no
    ratios are used.
    """

    def __init__(self, samples: Iterable[Sample] = (), reference: str | None = None):
        self.reference = reference
        self._seen: dict[tuple[What, Hashable], dict[Source, deque[float]]] = defaultdict(
            lambda: defaultdict(lambda: deque(maxlen=KEPT)))
        self._cells: dict[str, set[tuple[Hashable, str]]] = defaultdict(set)  # by method, its cells and machines
        self._trained: dict[Hashable, set[Hashable]] = defaultdict(set)  # by student and machine, keys of methods seen
        self._kinds: dict[str, _Kind] = {}
        self._rates: dict[_Kind, tuple[_Rate, float] | None] = {}  # rate, and seconds beside training
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
        """Add the sample of a record, if its run ended well."""
        if sample := Sample.of(record):
            self.add(sample)

    def estimate(self, spec: RunSpec) -> Estimate | None:
        """The estimated duration of the run; None if nothing is known of its student."""
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
        """A key that is equal for all runs that differ only in length and seed."""
        return self._kind(spec).like

    def memory(self, spec: RunSpec) -> float | None:
        """The estimated peak memory of the run, in bytes; None if nothing is known of its student."""
        kind = self._kind(spec)
        return self._first("memory", max, kind.networks, kind.student)

    def disk(self, spec: RunSpec) -> float | None:
        """The estimated size of the files that the run will leave, in bytes; None if nothing is known of its
        student."""
        kind = self._kind(spec)
        return self._first("disk", max, kind.scored, kind.student)

    # Looking up.

    def _rate(self, kind: "_Kind", here: str) -> "_Rate | None":
        """The seconds that a unit of the run's work takes, and on what that is based, in the order of the module's
        docstring; None if nothing is known."""
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
        """The seconds that a unit of work takes the reference with the run's student on this machine; None if that is
        not known, or if the run's method is the reference."""
        if self.reference is None or kind.method == self.reference:
            return None
        return self._first("rate", median, (self.reference, kind.cell, here),
                           ((self.reference, kind.student, None), here))

    def _ratio(self, method: str) -> float | None:
        """The median, over the cells in which both were seen, of the method's seconds as a multiple of the reference's;
        None if there is no such cell, or if the method is the reference."""
        if method == self.reference:
            return None
        both = self._cells.get(method, set()) & self._cells.get(str(self.reference), set())
        pairs = [(self._first("rate", median, (method, *place)), self._first("rate", median, (self.reference, *place)))
                 for place in both]
        ratios = [own / plain for own, plain in pairs if own and plain]
        return median(ratios) if ratios else None

    def _found(self, what: What, key: Hashable) -> tuple[Source, Collection[float]] | None:
        """The best source that has values for the key, and its values; None if no source has any."""
        by_source = self._seen.get((what, key), {})
        return next(((source, by_source[source]) for source in SOURCES if source in by_source), None)

    def _first(self, what: What, middle: Callable[[Collection[float]], float], *keys: Hashable) -> float | None:
        """The values for the first of the keys that has some, reduced to one number by `middle`; None if no key has
        any."""
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
    """The properties that runs must share for one to tell how long the other takes, from all of them to the student
    alone."""

    method: str
    like: Hashable      # all but length and seed
    networks: Hashable  # the method and the networks that it trains with
    cell: Hashable      # what two methods must share for their ratio to be taken
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
    """The unit in which the work of a run is counted, and the size of its training split in that unit. The number of
    images in an image folder or a long-tailed dataset is not known here: work on it is counted in passes over it, and
    compared only with work on the same dataset."""
    size = spec.recipe.train_size or _published_size(spec.dataset)
    return ("images", size) if size else (f"passes over {spec.dataset} {spec.dataset_digest}", 1)


@cache
def _published_size(dataset: str) -> int | None:
    try:
        name = catalog.parse(dataset)
    except UserError:  # an unknown dataset, in a record that another version of kdbench wrote
        return None
    return name.info.sizes[0] if name.info.sizes and "longtail" not in dict(name.modifiers) else None


def work(spec: RunSpec) -> float:
    """The work of a run's training: its images, in whole batches and over all epochs and updates, times the pixels of
    one."""
    recipe, (_, images) = spec.training, _images(spec)
    batch = min(recipe.batch_size, images)
    return spec.updates * recipe.epochs * (images // batch) * batch * recipe.image_size**2


def _words(source: Source, values: Collection[float]) -> str:
    return source if source != "record" else counted(len(values), "record")


# Machines.

def machine(environment: Mapping[str, Any]) -> str:
    """The GPU, or else the CPU, that the environment of a record names."""
    return str(environment.get("gpu") or environment.get("cpu"))


@cache
def this_machine(device: str) -> str:
    """The GPU of this machine if the device is "cuda", or else its CPU, by the names that `machine` returns."""
    return machine({"cpu": cpu_name(), "gpu": gpu_name() if device == "cuda" else None})


# Several at a time.

class Queued(Protocol):
    """The interface of a waiting run for `time_for`."""

    @property
    def id(self) -> str: ...

    def teachers(self) -> Iterable[str]:
        """The ids of the runs that must be done before this one."""


def time_for(waiting: Sequence[Queued], seconds: Sequence[float], running: Mapping[str, float], workers: int) -> float:
    """The seconds until all runs are done, if each free worker takes the first waiting run whose teachers are done.

    `seconds` are the durations of the waiting runs, in the same order; `running` are the seconds left of each running
    one, by id."""
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
