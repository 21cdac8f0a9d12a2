"""The `Table` type, and how numbers, intervals and metrics are written in tables and in the rest of a report."""

from dataclasses import dataclass

from kdbench.analysis.board import REFERENCES
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.analysis.intervals import Estimate
from kdbench.analysis.moderated import Comparison
from kdbench.metrics.catalog import METRICS

MIB = 2**20
NONE = "n/a"  # stands for a missing value
BETTER, WORSE, UNCLEAR = " ↑", " ↓", " ?"  # marks that follow a difference
DAGGER = " †"  # follows the accuracy of a network that is larger than the plain student

# Explanations that are shown with tables that have such figures and signs.
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
    """A table of text, before it is written as Markdown, LaTeX, HTML or for a terminal."""

    title: str
    header: list[str]
    lines: list[list[str]]
    text_columns: int             # so many of the first columns hold words; the others hold numbers
    notes: tuple[str, ...] = ()   # sentences below the table
    best: frozenset[str] = frozenset()  # the labels of the rows of the best tier


def number(value: float | None, unit: str, sign: str = "") -> str:
    """A value as text without its unit: a share in % with two decimals, bytes in MiB and any other value with one
    decimal.

    With `sign` "+", positive values have a plus sign. None becomes "n/a".
    """
    if value is None:
        return NONE
    if unit == "share":
        return f"{100 * value:{sign}.2f}"
    return f"{value / (MIB if unit == 'bytes' else 1):{sign}.1f}"


def interval(estimate: Estimate | None, unit: str, sign: str = "") -> str:
    """An estimate as "mean ± half-width" of its interval, in the units of `number`; "n/a" for None.

    For fewer than three values, the text of `few` stands in place of the half-width. `sign` is that of `number`, for
    the mean.
    """
    if estimate is None:
        return NONE
    return f"{number(estimate.mean, unit, sign)} ± {few(estimate) or number(estimate.half_width, unit)}"


def mark(told: Comparison | None) -> str:
    """The mark that follows a difference: better or worse if it is significant after Holm's correction, else unclear.
    It is also unclear for None."""
    return UNCLEAR if told is None or not told.significant else BETTER if told.mean > 0 else WORSE


def few(estimate: Estimate) -> str:
    """The text in place of an interval's half-width if there are fewer than three values: "n/a" for one and
    "n/a (2 seeds)" for two; "" for three values or more."""
    return "" if estimate.count >= MIN_SEEDS else NONE if estimate.count == 1 else f"{NONE} ({estimate.count} seeds)"


def three_digits(value: float) -> str:
    """The value with three significant digits, or as a whole number if it has more digits before the decimal point."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 \
        else f"{value:.3f}" if size >= .1 else f"{value:.3g}"


def p_value(p: float) -> str:
    """A p-value as text: three decimals, or "< 0.001"."""
    return f"{p:.3f}" if p >= .001 else "< 0.001"


def unit_sign(metric: str) -> str:
    """The unit of a metric's values as `number` writes them: "%" for a share, "MiB" for bytes, "" for a pure number,
    else the metric's own unit."""
    unit = METRICS[metric].unit
    return {"share": "%", "bytes": "MiB"}.get(unit, unit)


def with_unit(metric: str, title: str | None = None) -> str:
    """The metric's title, or the given title in its place, followed by the unit, such as "test accuracy, %"; without a
    unit for a pure number."""
    told, unit = title or METRICS[metric].title, unit_sign(metric)
    return f"{told}, {unit}" if unit else told
