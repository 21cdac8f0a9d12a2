"""A table of text, and how numbers, intervals and metrics are written in it and in the rest of a report."""

from dataclasses import dataclass

from kdbench.analysis.board import REFERENCES
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.analysis.intervals import Estimate
from kdbench.analysis.moderated import Comparison
from kdbench.metrics.catalog import METRICS

MIB = 2**20
NONE = "n/a"  # stands for a missing value
BETTER, WORSE, UNCLEAR = " ↑", " ↓", " ?"  # behind a difference
DAGGER = " †"  # behind the accuracy of a network that is larger than the plain student

# What stands below every table with such signs.
INTERVALS = ("Accuracies and shares are in %. ± is half the width of the 95 % t interval over the row's own seeds; "
             f"{NONE} with fewer than {MIN_SEEDS}.")
MARKS = (f"vs {' and '.join(REFERENCES)}: mean difference of test accuracy, on equal seeds. ± is half the width of its "
         "moderated 95 % interval: seeds are blocks, and the variance over seeds of each method is shrunk towards what "
         f"those of its table have in common (Smyth, 2004); {NONE} with one seed. ↑ marks methods that are better, ↓ "
         "those that are worse at 5 %, after Holm's correction for all methods of the cell; ? those of which this is "
         "unclear.")
LARGER = "† deploys a network with more parameters than the plain student has."


@dataclass(frozen=True)
class Table:
    """A table as it is shown, in no format yet: every cell is text."""

    title: str
    header: list[str]
    lines: list[list[str]]
    text_columns: int             # how many of the first columns hold words; the others hold numbers
    notes: tuple[str, ...] = ()   # sentences below the table
    best: frozenset[str] = frozenset()  # the labels of the rows of the best tier


def number(value: float | None, unit: str, sign: str = "") -> str:
    """A share in % with two decimals, bytes in MiB and any other value with one; `sign` "+" marks positive values."""
    if value is None:
        return NONE
    if unit == "share":
        return f"{100 * value:{sign}.2f}"
    return f"{value / (MIB if unit == 'bytes' else 1):{sign}.1f}"


def interval(estimate: Estimate | None, unit: str, sign: str = "") -> str:
    """"mean ± half the interval's width", in the units of `number`; no width of fewer than three values."""
    if estimate is None:
        return NONE
    return f"{number(estimate.mean, unit, sign)} ± {few(estimate) or number(estimate.half_width, unit)}"


def mark(told: Comparison | None) -> str:
    """What stands behind a difference: whether it is better, worse, or neither can be said."""
    return UNCLEAR if told is None or not told.significant else BETTER if told.mean > 0 else WORSE


def few(estimate: Estimate) -> str:
    """What stands for the width of an interval that few values are no basis for; "" for three values or more."""
    return "" if estimate.count >= MIN_SEEDS else NONE if estimate.count == 1 else f"{NONE} ({estimate.count} seeds)"


def three_digits(value: float) -> str:
    """The value with three significant digits, or with all digits before its point if those are more."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 \
        else f"{value:.3f}" if size >= .1 else f"{value:.3g}"


def p_value(p: float) -> str:
    """Three decimals, or "< 0.001"."""
    return f"{p:.3f}" if p >= .001 else "< 0.001"


def unit_sign(metric: str) -> str:
    """The unit behind a metric's values, as `number` writes them: "%" for a share, "MiB" for bytes, "" for a pure
    number."""
    unit = METRICS[metric].unit
    return {"share": "%", "bytes": "MiB"}.get(unit, unit)


def with_unit(metric: str, title: str | None = None) -> str:
    """The metric's title, or another one for it, with its unit: "test accuracy, %"."""
    told, unit = title or METRICS[metric].title, unit_sign(metric)
    return f"{told}, {unit}" if unit else told
