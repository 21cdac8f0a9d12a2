"""What a reader of a leaderboard should know of it: what it says, what was used, what was not, what is missing."""

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.analysis.intervals import POWER, detectable_effect
from kdbench.results.record import Problem, Record

SETTLE = .005        # the true difference that further seeds should find
MOST_SEEDS = 1000    # that are worth to be named


def verdict(leaderboard: Leaderboard) -> Iterable[str]:
    """What the leaderboard answers, in sentences that are computed from it: in each cell which methods differ from the
    references, the best ones and the cheapest of these, whom they harm, and what would settle the rest."""
    if len(leaderboard.cells) == 1:
        yield from _verdict(leaderboard.cells[0])
    else:
        for cell in leaderboard.cells:
            yield f"{leaderboard.title(cell)}: {' '.join(_verdict(cell))}"


def _verdict(cell: Cell) -> Iterable[str]:
    seeing = [row for row in cell.rows if not row.data_free]
    if not cell.compared(REFERENCE):
        yield (f"Nothing can be said of differences to {REFERENCE}: that takes {REFERENCE} and another method with two "
               "seeds in common.")
        return
    for name in REFERENCES:
        compared = cell.compared(name)
        better = [label for label, told in compared.items() if told.significant and told.mean > 0]
        worse = [label for label, told in compared.items() if told.significant and told.mean < 0]
        if compared:
            unclear = len(compared) - len(better) - len(worse) or "none"
            yield (f"Of {len(compared)} method{'s' * (len(compared) > 1)}, {_count(better, f'better than {name}')}, "
                   f"{_count(worse, 'worse')}, and of {unclear} it is unclear (at 5 %, after Holm's correction).")
    yield from _best(cell, seeing)
    yield from _settling(cell, seeing)


def _count(labels: list[str], what: str) -> str:
    """"none is better", "1 is better (kd)" or "2 are better (dist, kd)", with `what` for "better"."""
    if not labels:
        return f"none is {what}"
    return f"{len(labels)} {'is' if len(labels) == 1 else 'are'} {what} ({', '.join(labels)})"


def _best(cell: Cell, rows: list[Row]) -> Iterable[str]:
    """The first tier, the cheapest of it to train, and the classes that it harms."""
    if not cell.comparisons.tiers:
        return
    best = [row for row in rows if row.label in cell.comparisons.tiers[0]]
    if len(best) == 1:
        yield f"With all pairs compared, {best[0].label} is the best, and no other method is in its tier."
    else:
        others = f"{len(best) - 1} other method{'s' * (len(best) > 2)}"
        yield (f"With all pairs compared, the best, {best[0].label}, cannot be told from {others}"
               + (f": {', '.join(row.label for row in best[1:])}." if len(best) < len(rows) else
                  ", which are all that are complete."))
    for metric, what in (("step_time_ratio", "times a step of plain training"), ("seconds", "s of training")):
        costs = {row.label: cost.mean for row in best if (cost := row.estimate(metric)) is not None}
        if len(best) > 1 and len(costs) == len(best):
            cheapest = min(costs, key=lambda label: (costs[label], label))
            yield f"The cheapest of these to train is {cheapest}, at {costs[cheapest]:.3g} {what}."
            break
    known = [row for row in best if row.harm is not None and not row.is_reference]
    harmed = [f"{row.label} on {', '.join(cell.class_name(index) for index in row.harm.harmed)}"
              for row in known if row.harm and row.harm.harmed]
    if harmed:
        yield f"Of the best tier are worse than {REFERENCE} on a class: {'; '.join(harmed)}."
    elif known:
        yield f"No method of the best tier is worse than {REFERENCE} on any class, as far as these seeds can tell."


def _settling(cell: Cell, rows: list[Row]) -> Iterable[str]:
    """How many more seeds would find a difference of `SETTLE` in most repetitions, and what they take."""
    found = cell.compared(REFERENCE).values()
    seeds = statistics.mode(told.seeds for told in found)
    typical = statistics.median_low([(told.standard_error * math.sqrt(told.seeds), told.degrees) for told in found])
    needed = _seeds_needed(*typical, seeds)
    if needed is not None and needed > seeds:
        seconds = sum(cost.mean for row in rows if (cost := row.estimate("seconds")) is not None)
        hours = (needed - seeds) * seconds / 3600
        yield (f"Differences of {100 * SETTLE:g} points would be found in {100 * POWER:g} % of repetitions with "
               f"{needed} seeds, {needed - seeds} more: {hours:.1f} core-hours by the training times here.")


def _seeds_needed(deviation: float, degrees: float, seeds: int) -> int | None:
    """The fewest seeds with which a difference of `SETTLE` is found, given the standard deviation of one seed's
    difference and the degrees of freedom that so many `seeds` gave it; None for more than `MOST_SEEDS`."""
    def found(count: int) -> bool:
        known = degrees * (count - 1) / (seeds - 1)
        return deviation / math.sqrt(count) * detectable_effect(known) <= SETTLE

    if not found(MOST_SEEDS):
        return None
    return bisect_left(range(2, MOST_SEEDS), True, key=found) + 2


def statement(folder: Path, runs: list[Record], problems: list[Problem], cells: tuple[Cell, ...]) -> Iterable[str]:
    students = [run for run in runs if run.role == "student"]
    counts = {status: sum(run.status == status for run in students) for status in sorted({r.status for r in students})}
    suites = sorted({run.suite for run in runs})
    yield (f"{len(students)} runs of {len(suites)} suite{'s' * (len(suites) != 1)} ({', '.join(suites)}): "
           + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    for problem in sorted(problems, key=lambda p: p.path):
        yield f"Not used: {problem.path.relative_to(folder)}: {problem.reason}."
    versions: dict[str, set[str]] = defaultdict(set)
    for run in students:
        if run.method_digest:
            versions[run.spec.method].add(run.method_digest)
    for profile in (cost.profile for cell in cells for cost in cell.costs if cost.profile.subject == "method"):
        versions[profile.spec.method].add(profile.method_digest)
    for method, digests in sorted(versions.items()):
        if len(digests) > 1:
            yield (f"Mixed: the runs and profiles of {method} were made by {len(digests)} versions of its source "
                   f"({', '.join(sorted(d[:8] for d in digests))}).")
    others = [row for cell in cells for row in cell.rows if REFERENCE in row.differences]
    if withheld := sum(row.harm is None for row in others):
        yield (f"Withheld: harm by class and flipped images, for {withheld} of {len(others)} rows: they take saved "
               f"predictions of at least {MIN_SEEDS} seeds that the method and {REFERENCE} share.")
    for cell in cells:
        yield from _incomplete(cell)


def _incomplete(cell: Cell) -> Iterable[str]:
    """The runs of a cell without a result, those of one kind, reason and seeds in one line."""
    alike: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for row in cell.rows:
        seeds: dict[tuple[str, str], list[int]] = defaultdict(list)
        for failure in row.failures:
            seeds[failure.status, failure.reason].append(failure.seed)
        for (status, reason), values in seeds.items():
            alike[status, reason, tuple(values)].append(row.label)
    for (status, reason, which), labels in sorted(alike.items()):
        kind = "n/a" if status == "inapplicable" else status.capitalize()
        yield (f"{kind}: {', '.join(labels)} ({cell.pair}, {cell.dataset}), seed{'s' * (len(which) > 1)} "
               f"{', '.join(map(str, which))}: {reason}.")
