"""Parts of a plan for several commands that know nothing of each other but the folders that they share.

Which part a run is in follows from the plan alone, so that all machines agree on it: nothing that was measured, and
nothing that is finished, counts. A run weighs its images, pixels, epochs and updates, and `TYPICAL` times that if it
learns from a teacher. Teachers are dealt first, then the other runs, of each the heaviest first, to the part that has
least so far: no two parts differ by more than the heaviest run. Runs that differ in their seed alone follow each other,
and come into as many parts as possible, so that a method that takes far longer than it weighs does so in all of them.
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

MOST = 10_000          # parts
WAIT_SECONDS = 3600.0  # for a teacher that nobody is at work on
LOOK_EVERY = 2.0       # seconds between two looks for teachers


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, which are numbered from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Self:
        """What `--shard` asks for, such as "3/16". UserError for anything else."""
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
        """For the name of a file."""
        return f"{self.number}-of-{self.count}"


def owners(plan: Plan, count: int) -> dict[str, int]:
    """The number of the part that each run is in, by run id."""
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
    """What a run counts for, exactly: sums of it are the same on every machine."""
    taught = plan.methods[spec.method].learns_from is not None
    return Fraction(work(spec)) * (Fraction(str(TYPICAL)) if taught else 1)


@dataclass(frozen=True)
class Share:
    """What one of several commands does of a plan: the runs of its part, teachers included. `patience` is for how many
    seconds it waits for the teachers of others while nobody is at work on one."""

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
        """The plan with the runs of this part alone."""
        return replace(plan, teachers=tuple(spec for spec in plan.teachers if self.has(spec.id)),
                       students=tuple(spec for spec in plan.students if self.has(spec.id)))

    def turns(self, jobs: Sequence[Job], foreign: Collection[Job], state: Callable[[Job], str],
              say: Callable[[str], None]) -> Iterator[list[Job]]:
        """The jobs in turns: first those that need no teacher of `foreign`, which other parts train, then further ones
        as these come. Jobs whose teachers do not come are in none.

        `state` says of a foreign teacher "there", "at work", "failed: WHY" or "not begun"."""
        waiting, life = list(jobs), time.monotonic()
        told, states = "", dict[str, str]()
        while waiting:
            # To see that a teacher is there takes the reading of all its files: that is done once.
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
