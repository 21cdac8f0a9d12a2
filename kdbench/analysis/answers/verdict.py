"""The findings of a leaderboard in words: which methods differ, which are the best, what they cost and which classes
they harm."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kdbench.analysis.answers.teachers import sentences, series
from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.intervals import POWER, detectable_effect
from kdbench.analysis.moderated import Prior

SETTLE = .005        # the true difference, as a share, that further seeds should detect
MOST_SEEDS = 1000    # if more seeds than this are needed, their number is not stated


class Verdict(NamedTuple):
    """The findings on one cell, on several cells together, or on several teachers of one student."""

    title: str  # what the findings are on, such as the title of the cell
    sentences: tuple[str, ...]


def verdict(leaderboard: Leaderboard) -> list[Verdict]:
    """The findings of a leaderboard as sentences computed from it. For each cell they say which methods differ from the
    references, which are the best and the cheapest of these, which classes they harm, and how many seeds would settle
    what is unclear; then follows what holds in all cells of a regime, and what several teachers of one student show."""
    said = [Verdict(leaderboard.title(cell), tuple(_verdict(cell))) for cell in leaderboard.cells]
    for part in leaderboard.regimes():
        if len(part.cells) > 1:
            kind = f" ({part.regime})" if part.regime else ""
            said.append(Verdict(f"All {len(part.cells)} cells{kind}", tuple(_everywhere(part.cells))))
    return [*said, *(Verdict(f"Teachers of {one.title}", tuple(sentences(one))) for one in series(leaderboard))]


def _everywhere(cells: Sequence[Cell]) -> Iterable[str]:
    """Sentences on which methods, with any of their settings, are better than plain training in every cell, and which
    are in the best tier of every cell."""
    better = [{row.method for row in cell.rows if row.label in better_than(cell, REFERENCE)} for cell in cells]
    best = [{row.method for row in cell.rows if cell.comparisons.tiers and row.label in cell.comparisons.tiers[0]}
            for cell in cells]
    for sets, what in ((better, f"better than {REFERENCE}"), (best, "in the best tier")):
        names = sorted(set.intersection(*sets))
        yield f"{_count(names, f'{what} in every cell')}."


def better_than(cell: Cell, reference: str) -> list[str]:
    """The labels of the methods that are significantly better than a reference, best first."""
    return [label for label, told in cell.compared(reference).items() if told.significant and told.mean > 0]


def worse_than(cell: Cell, reference: str) -> list[str]:
    """The labels of the methods that are significantly worse than a reference, best first."""
    return [label for label, told in cell.compared(reference).items() if told.significant and told.mean < 0]


def _verdict(cell: Cell) -> Iterable[str]:
    seeing = [row for row in cell.rows if not row.data_free]
    if not cell.compared(REFERENCE):
        yield (f"Differences to {REFERENCE} cannot be tested: that takes {REFERENCE} and another method with two "
               "seeds in common.")
        return
    for name in REFERENCES:
        if compared := cell.compared(name):
            better, worse = better_than(cell, name), worse_than(cell, name)
            unclear = len(compared) - len(better) - len(worse)
            yield (f"Of {_methods(seeing, compared)}, {_count(better, f'better than {name}')}, "
                   f"{_count(worse, 'worse')}, and {unclear or 'none'} {'are' if unclear > 1 else 'is'} unclear "
                   "(at 5 %, after Holm's correction).")
    yield from _best(cell, seeing)
    yield from _settling(cell, seeing)


def _methods(rows: Iterable[Row], labels: Collection[str]) -> str:
    """The number of methods with these labels in words: "3 methods" or, if some are settings of one method, "3 settings
    of 2 methods"."""
    methods = len({row.method for row in rows if row.label in labels})
    told = f"{methods} method{'s' * (methods > 1)}"
    return told if methods == len(labels) else f"{len(labels)} settings of {told}"


def _count(labels: list[str], what: str) -> str:
    """The number of labels and their names in words: "none is better", "1 is better (kd)" or "2 are better (dist, kd)",
    with `what` for "better"."""
    if not labels:
        return f"none is {what}"
    return f"{len(labels)} {'is' if len(labels) == 1 else 'are'} {what} ({', '.join(labels)})"


def best_told(cell: Cell) -> str | None:
    """A sentence on the methods of the best tier; None if the cell has no tiers."""
    if not cell.comparisons.tiers:
        return None
    rows = [row for row in cell.rows if not row.data_free]
    best = [row for row in rows if row.label in cell.comparisons.tiers[0]]
    if len(best) == 1:
        return f"With all pairs compared, {best[0].label} is alone in the best tier."
    return (f"With all pairs compared, {len(best)} methods are in the best tier, within which no difference is "
            "significant: " + (f"{', '.join(row.label for row in best)}." if len(best) < len(rows) else
                               "all that are complete."))


def _best(cell: Cell, rows: list[Row]) -> Iterable[str]:
    """Sentences on the best tier: its methods, those that deploy larger networks, the one that is cheapest to train,
    and the classes that they harm."""
    told = best_told(cell)
    if told is None:
        return
    yield told
    best = [row for row in rows if row.label in cell.comparisons.tiers[0]]
    if larger := [f"{row.label} ({row.size:.2g} times)" for row in best if row.larger]:
        yield f"With more parameters in use than the plain student has, in the best tier: {', '.join(larger)}."
    for metric, what in (("step_time_ratio", "times a step of plain training"),
                         ("seconds", "s of training by wall time, which other work on the machine lengthens")):
        costs = {row.label: cost.mean for row in best if (cost := row.estimate(metric)) is not None}
        if len(best) > 1 and len(costs) == len(best) and not cell.equal_compute:
            cheapest = min(costs, key=lambda label: (costs[label], label))
            yield f"The cheapest of these to train is {cheapest}, at {costs[cheapest]:.3g} {what}."
            break
    known = [row for row in best if row.harm is not None and not row.is_reference]
    harmed = [f"{row.label} on {', '.join(cell.class_name(index) for index in row.harm.harmed)}"
              for row in known if row.harm and row.harm.harmed]
    if harmed:
        yield f"Worse than {REFERENCE} on a class, in the best tier: {'; '.join(harmed)}."
    elif known:
        yield f"No method of the best tier is significantly worse than {REFERENCE} on any class."


def _settling(cell: Cell, rows: list[Row]) -> Iterable[str]:
    """A sentence on how many more seeds would detect a true difference of `SETTLE` to plain training with a power of
    `POWER` after Holm's correction, and how long they take; none if the seeds suffice, or if more than `MOST_SEEDS` are
    needed."""
    found = cell.compared(REFERENCE).values()
    seeds = statistics.mode(told.seeds for told in found)
    typical = statistics.median_low([(told.standard_error * math.sqrt(told.seeds), told.degrees) for told in found])
    needed = _seeds_needed(*typical, cell.comparisons.prior, seeds, len(cell.comparisons.to[REFERENCE]))
    if needed is not None and needed > seeds:
        hours = sum(max(0, needed - len(row.runs)) * cost.mean for row in rows
                    if (cost := row.estimate("seconds")) is not None) / 3600
        yield (f"Finding a true difference to {REFERENCE} of {100 * SETTLE:g} points with {100 * POWER:g} % power "
               f"takes {needed} seeds, {needed - seeds} more, if no other method differs: {hours:.1f} core-hours by "
               "the training times here.")


def _seeds_needed(deviation: float, degrees: float, prior: Prior, seeds: int, comparisons: int) -> int | None:
    """The fewest seeds with which a true difference of `SETTLE` is detected; None if these are more than `MOST_SEEDS`.

    `deviation` is the standard deviation of one seed's difference, and `degrees` are the degrees of freedom that
    `seeds` seeds gave it, some of them borrowed from `prior`. `comparisons` is the number of comparisons in Holm's
    correction.
    """
    def found(count: int) -> bool:
        # More seeds add degrees of freedom to a method's own variance and to the pooled one, whose degrees are a bound.
        known = min(prior.degrees + count - 1, degrees * (count - 1) / (seeds - 1))
        return deviation / math.sqrt(count) * detectable_effect(known, comparisons) <= SETTLE

    if not found(MOST_SEEDS):
        return None
    return bisect_left(range(2, MOST_SEEDS), True, key=found) + 2
