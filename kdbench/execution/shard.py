"""Shards: the parts of one plan for several commands, which know nothing of each other but the folders that they share.

Which part a run is in follows from the plan alone, so that all machines agree on it: neither measured times nor
finished runs matter. The weight of a run is its work (training images times pixels, over all epochs and updates), times
`TYPICAL` if its method learns from a teacher. Teachers are dealt out first, then the other runs, both from the heaviest
to the lightest, each to the part whose total weight is the least so far: no two parts differ by more than the heaviest
run. Runs that differ only in their seed follow each other and so come into as many parts as possible: a method that
takes far longer than its weight says then does so in all of them.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import Self

from kdbench.errors import UserError
from kdbench.execution.estimate import TYPICAL, work
from kdbench.execution.job import Job
from kdbench.spec import RunSpec
from kdbench.suites.plan import Plan

MOST = 10_000          # parts of a plan
WAIT_SECONDS = 3600.0  # to wait for teachers while no process trains one
LOOK_EVERY = 2.0       # seconds between two looks for teachers


@dataclass(frozen=True)
class Shard:
    """One of the `count` parts of a plan; the parts are numbered from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Self:
        """The part that a value of `--shard`, such as "3/16", names. UserError if the value names none."""
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MOST:
            raise UserError(f"--shard {text[:100]}: expected NUMBER/COUNT, such as 3/16, with a number from 1 to the "
                            f"count, and a count of at most {MOST}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """The part as it stands in names of files, such as "3-of-16"."""
        return f"{self.number}-of-{self.count}"


def owners(plan: Plan, count: int) -> dict[str, int]:
    """By run id, the number of the part that the run is in, if there are `count` parts."""
    loads: list[tuple[Fraction, int]] = [(Fraction(0), number) for number in range(1, count + 1)]
    heapify(loads)
    found = {}
    for runs in (plan.teachers, plan.students):
        by_weight = sorted(
            (-weight(spec, plan), spec.method, spec.pair, spec.dataset, spec.seed, spec.id) for spec in runs)
        for negative, *_, run in by_weight:
            load, number = heappop(loads)
            found[run] = number
            heappush(loads, (load - negative, number))
    return found


def weight(spec: RunSpec, plan: Plan) -> Fraction:
    """The weight of a run, as an exact fraction: sums of weights are then the same on every machine."""
    taught = plan.methods[spec.method].learns_from is not None
    return Fraction(work(spec)) * (Fraction(str(TYPICAL)) if taught else 1)


@dataclass(frozen=True)
class Share:
    """The part of a plan that one of several commands does, teachers included. `owner` is the number of each run's
    part, by run id. `patience` is how many seconds the command waits for teachers of other parts while no process
    trains one."""

    shard: Shard
    owner: Mapping[str, int]
    patience: float = WAIT_SECONDS

    @classmethod
    def of(cls, plan: Plan, shard: Shard, patience: float = WAIT_SECONDS) -> Self:
        return cls(shard, owners(plan, shard.count), patience)

    def has(self, run_id: str) -> bool:
        """Whether the run is in this part."""
        return self.owner.get(run_id) == self.shard.number

    def part_of(self, plan: Plan) -> Plan:
        """The plan reduced to the runs of this part."""
        return replace(plan, teachers=tuple(spec for spec in plan.teachers if self.has(spec.id)),
                       students=tuple(spec for spec in plan.students if self.has(spec.id)))

    def turns(self, jobs: Sequence[Job], foreign: Collection[Job], state: Callable[[Job], str],
              say: Callable[[str], None]) -> Iterator[list[Job]]:
        """Yield the jobs in groups, each once it can begin: first the jobs that need none of the `foreign` teachers,
        which other parts train, then further ones as these teachers are finished. Jobs that wait in vain are not
        yielded, and `say` is told: when all teachers that they lack have failed, or when no process has trained a
        foreign teacher for `patience` seconds.

        `state` returns the state of a foreign teacher: "there", "at work", "failed: WHY" or "not begun"."""
        waiting, life = list(jobs), time.monotonic()
        told, states = "", dict[str, str]()
        while waiting:
            # To find that a teacher is there, all of its files are read: that is done once per teacher.
            states |= {job.id: state(job) for job in foreign if states.get(job.id) != "there"}
            missing = {run for run, one in states.items() if one != "there"}
            if turn := [job for job in waiting if missing.isdisjoint(job.teachers())]:
                waiting = [job for job in waiting if not missing.isdisjoint(job.teachers())]
                yield turn
                life = time.monotonic()
                continue
            needed = missing.intersection(teacher for job in waiting for teacher in job.teachers())
            line = "; ".join(f"{job} (shard {self.owner[job.id]}/{self.shard.count}, {states[job.id]})"
                             for job in foreign if job.id in needed)
            if "at work" in states.values():
                life = time.monotonic()
            left = self.patience - (time.monotonic() - life)
            if left <= 0 or all(states[run].startswith("failed") for run in needed):
                say(f"{_runs(waiting)} not begun: the teachers are not there: {line}; the same command continues when "
                    "they are")
                return
            if line != told:
                say(f"{_runs(waiting)} waiting for {line}; given up {self.patience:g} seconds after nobody is at work "
                    "on a teacher (--wait-for-teachers)")
            told = line
            time.sleep(min(LOOK_EVERY, left))


def _runs(jobs: Sequence[Job]) -> str:
    return "1 run is" if len(jobs) == 1 else f"{len(jobs)} runs are"
