"""Advice to a practitioner: which method to use, given the data and what a student may cost, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Row
from kdbench.analysis.moderated import Comparison, compare
from kdbench.errors import counted, plain
from kdbench.metrics.catalog import METRICS

CLEAN, ROBUST = "test_accuracy", "pgd_small_accuracy"  # what methods are compared by, without and with --robust
MARGIN = .01                                           # how far below the best method a cheaper one may be, as a share
MOST_NAMED = 6                                         # most names that a sentence lists

ByReference = Mapping[str, Mapping[str, Comparison]]   # by label of the reference, then of the row


@dataclass(frozen=True)
class Wishes:
    """The limits on what a student may cost (None: no limit), and the purpose that it is chosen for."""

    train_ratio: float | None = None    # longest training step, in multiples of plain training's
    train_seconds: float | None = None  # longest training of a run, in seconds
    latency_ms: float | None = None     # longest time for one image, in milliseconds
    data_free: bool = False             # there are no training images
    robust: bool = False                # methods are compared by accuracy under attack


@dataclass(frozen=True)
class Advice:
    """The method that is advised for a cell, and why."""

    method: str | None                  # the row's name; None if nothing can be advised
    reasons: tuple[str, ...]            # in sentences
    excluded: Mapping[str, str]         # by label of a row that the wishes rule out: the reason


def advise(cell: Cell, wishes: Wishes) -> Advice:
    """Advise, of the methods that fulfil the wishes, the one cheapest to train among the best and those nearly as good.

    The best one has the highest mean of the metric. A method is nearly as good if the whole 95 % interval of its
    difference to the best lies above -`MARGIN`; that the difference is not significant does not suffice, since there
    may be too few seeds to find it. No method is advised if none fulfils the wishes, or if none of these has two seeds.
    """
    metric, excluded = ROBUST if wishes.robust else CLEAN, dict[str, str]()
    for row in cell.rows:
        if why := next(iter(_against(cell, row, wishes, metric)), None):
            excluded[row.label] = why
    left = [row for row in cell.rows if row.label not in excluded]
    left.sort(key=lambda row: (-_mean(row, metric), row.label))
    if not left:
        return Advice(None, ("No method of these results fulfils all of the wishes.",), excluded)
    judged = [row for row in left if len(row.metrics[metric]) > 1]
    if not judged:
        return Advice(None, (f"Differences between methods cannot be tested: that takes two seeds or more. The "
                             f"highest {METRICS[metric].title} is that of {left[0].label}, "
                             f"{100 * _mean(left[0], metric):.2f} %.",), excluded)
    found = _compared(judged, metric)
    below = found[judged[0].label]
    best = [judged[0], *(row for row in judged[1:] if row.label in below and below[row.label].low > -MARGIN)]
    chosen = min(best, key=lambda row: (_cost(row, best), row.label))
    return Advice(chosen.label, tuple(_reasons(cell, chosen, best, left, found, metric)), excluded)


# What rules a method out.

def _against(cell: Cell, row: Row, wishes: Wishes, metric: str) -> Iterable[str]:
    if not row.runs or metric not in row.metrics:
        yield f"no {METRICS[metric].title} was measured"
    if row.failures and any(one.status != "missing" for one in row.failures):
        yield f"{len(row.failures)} of {len(row.failures) + len(row.runs)} runs have no result"
    if row.data_free and not wishes.data_free:
        yield "it trains without data, which is not needed here"
    if wishes.data_free and not row.data_free:
        yield "it trains on images"
    train_ratio = None if cell.equal_compute else wishes.train_ratio  # shorter runs make up for dearer steps there
    for name, most, unit in (("step_time_ratio", train_ratio, " times plain training"),
                             ("seconds", wishes.train_seconds, " s of training"),
                             ("latency_ms", wishes.latency_ms, " ms an image")):
        yield from _above(row, name, most, unit)


def _above(row: Row, metric: str, most: float | None, unit: str) -> Iterable[str]:
    if most is None:
        return
    cost = row.estimate(metric)
    if cost is None:
        yield f"its {METRICS[metric].title} is not known: `kdbench profile` measures it"
    elif cost.mean > most:
        yield f"{cost.mean:.3g}{unit}, more than {most:g}"


# Which of the remaining methods is the best.

def _compared(rows: Sequence[Row], metric: str) -> ByReference:
    """The comparisons of the rows with `REFERENCES` and with the first row, which is the best one, by reference, then
    row."""
    seeing, blind = ({row.label: row.metrics[metric] for row in rows if row.data_free == without}
                     for without in (False, True))
    return compare(seeing, blind, tuple(dict.fromkeys((*REFERENCES, rows[0].label))), []).to


def _mean(row: Row, metric: str) -> float:
    found = row.estimate(metric)
    return found.mean if found else 0.0


def _profiled(rows: Sequence[Row]) -> bool:
    return all("training_seconds" in row.metrics for row in rows)


def _cost(row: Row, rows: Sequence[Row]) -> float:
    """The seconds that training a row takes: measured alone if all of `rows` were profiled, else by wall time."""
    return _mean(row, "training_seconds" if _profiled(rows) else "seconds")


def _reasons(cell: Cell, chosen: Row, best: Sequence[Row], left: Sequence[Row], found: ByReference,
             metric: str) -> Iterable[str]:
    title = METRICS[metric].title
    own = f"Its {title}, {100 * _mean(chosen, metric):.2f} % over {_seeds(chosen)},"
    others = _names([row.label for row in best if row is not chosen])
    near = f"within {100 * MARGIN:g} point of it by its 95 % interval"
    if len(best) == 1:
        yield f"{own} is the highest, and no other method is {near}."
    elif chosen is best[0]:
        yield f"{own} is the highest. Of those that are {near}, {others}, none is cheaper to train."
    else:
        below = found[best[0].label][chosen.label]
        yield (f"{own} is {100 * below.mean:+.2f} ± {100 * below.half_width:.2f} points from the highest, that of "
               f"{best[0].label}. Of the methods {near}, it is the cheapest to train.")
    if unknown := [row.label for row in left if len(row.metrics[metric]) < 2]:
        yield f"Not judged, since they have one seed: {_names(unknown)}."
    for reference in REFERENCES:
        difference = found.get(reference, {}).get(chosen.label)
        if difference is not None:
            verdict = "" if difference.significant else ", which is no significant difference"
            yield (f"It is {100 * difference.mean:+.2f} ± {100 * difference.half_width:.2f} points from {reference} "
                   f"with the same seeds{verdict}.")
    if len(best) > 1 and not _profiled(best):
        yield ("Costs were compared by wall time, which other work on the machine lengthens: `kdbench profile` "
               "measures costs.")
    yield from _costs(chosen)
    if chosen.larger:
        yield f"It deploys a network {chosen.size:.2g} times as large as the plain student."
    if chosen.conditions:
        yield f"Conditions: {'; '.join(chosen.conditions)}."
    if chosen.hyperparameters:
        told = ", ".join(f"{name}={value}" for name, value in chosen.hyperparameters.items())
        yield plain(f"It ran with {told}, which are not its defaults.")
    yield from _harm(cell, chosen)
    if chosen.label == REFERENCE:
        yield "That is plain training: no method that fulfils the wishes is known to be better."
    yield (f"This holds for {cell.pair} on {cell.dataset}" + ("" if len(chosen.runs) >= 3 else
           ", and rests on fewer than three seeds") + ".")


def _costs(row: Row) -> Iterable[str]:
    told = [f"{_mean(row, name):.3g} {what}" for name, what in (
        ("step_time_ratio", "times a step of plain training"), ("seconds", "s of training a run"),
        ("latency_ms", "ms an image"), ("training_energy_joules", "J of training")) if name in row.metrics]
    if told:
        yield f"It costs {', '.join(told)}."


def _harm(cell: Cell, row: Row) -> Iterable[str]:
    if row.harm is not None:
        names = [cell.class_name(index) for index in row.harm.harmed]
        yield (f"It is worse than {REFERENCE} on {_names(names)}." if names else
               f"It is significantly worse than {REFERENCE} on no class.")
    for kind, parts in row.shares.items():
        lowest = min(parts, key=lambda name: parts[name].mean)
        yield f"Its lowest accuracy by {kind} is {100 * parts[lowest].mean:.2f} %, on {lowest}."


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _seeds(row: Row) -> str:
    return counted(len(row.runs), "seed")
