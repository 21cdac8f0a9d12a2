"""All tables of a leaderboard, each as a `Table` from which Markdown, LaTeX and HTML are written; and the main tables
of one cell."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.costs import PROFILED
from kdbench.analysis.intervals import POWER, detectable_effect
from kdbench.analysis.reported import of_row, of_teacher
from kdbench.errors import plain
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import DAGGER, NONE, Table, few, interval, mark, number
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.compressed import compressed_tables
from kdbench.report.tables.costs import cost_tables, profiled_value, tuning_tables
from kdbench.report.tables.fairness import audit_tables, sweep_tables
from kdbench.report.tables.orders import order_tables
from kdbench.report.tables.parts import part_tables

Z = 1.96  # half the width of the normal 95 % interval, in standard errors
COLUMNS = ("agreement", "worst_class_accuracy", "seconds")  # beside test accuracy; CSV, JSON and page have all metrics


def all_tables(leaderboard: Leaderboard) -> list[Table]:
    """The tables of every cell, then those across cells."""
    tables = [table for cell in leaderboard.cells for table in cell_tables(cell, leaderboard)]
    return [*tables, *across_tables(leaderboard)]


def cell_tables(cell: Cell, leaderboard: Leaderboard) -> list[Table]:
    """The tables of a cell: its methods; the methods that see no data; the bias audit, if images have groups; sweeps;
    classes, groups and robustness; compressed networks; costs, if they were profiled; tuning, if methods were tuned;
    and the order by other metrics."""
    name = leaderboard.title(cell)
    return [*main_tables(cell, name), *audit_tables(cell, name), *further_tables(cell, name)]


def further_tables(cell: Cell, name: str) -> list[Table]:
    """The tables of a cell other than those of its methods and of its bias audit: sweeps; classes, groups and
    robustness; compressed networks; costs; tuning; the order by other metrics. `name` is the cell's name in their
    titles."""
    return [*sweep_tables(cell, name), *part_tables(cell, name), *compressed_tables(cell, name),
            *cost_tables(cell.costs, name),
            *tuning_tables(cell.tuning, cell.order, name), *order_tables(cell, name)]


def main_tables(cell: Cell, name: str, columns: Sequence[str] = COLUMNS) -> list[Table]:
    """The table of a cell's methods, and the table of those that see no data, as far as there are such methods.
    `columns` are the metrics beside test accuracy, and `name` is the cell's name in the titles."""
    seeing = [row for row in cell.rows if not row.data_free]
    blind = [row for row in cell.rows if row.data_free]
    tables = [_main_table(name, replace(cell, rows=tuple(seeing)), columns)] if seeing else []
    if blind:  # below the references, which saw the images: methods without data are not ranked among those that did
        yardsticks = [row for row in seeing if row.label in REFERENCES]
        tables.append(_main_table(f"Without data: {name}", replace(cell, rows=(*yardsticks, *blind)), columns))
    return tables


# One cell.

def _main_table(name: str, cell: Cell, columns: Sequence[str]) -> Table:
    """The table of a cell's methods by test accuracy, without columns of conditions and submissions if these are empty.

    Its notes are on tiers, noise, resolution, the sample of test images, and settings that are not the defaults.
    """
    header = ["method", "family", "conditions", "submission", "seeds", METRICS["test_accuracy"].header,
              *(f"vs {name}" for name in REFERENCES), *(METRICS[column].header for column in columns)]
    ranked = not any(row.data_free for row in cell.rows)
    told = (*_tiers(cell), *_noise(cell, data_free=False), *_resolution(cell)) if ranked else \
        _noise(cell, data_free=True)
    best = cell.comparisons.tiers[0] if ranked and cell.comparisons.tiers else ()
    table = Table(name, header, _lines(cell, columns), 4, (*told, *_sampling(cell), *_settings(cell)), frozenset(best))
    for column, told_of in (("conditions", [row.conditions for row in cell.rows]),
                          ("submission", [row.submission for row in cell.rows])):
        if not any(told_of):
            place = table.header.index(column)
            table = replace(table, header=_without(table.header, place), text_columns=table.text_columns - 1,
                            lines=[_without(line, place) for line in table.lines])
    return _with_reported(cell, table)


def _without(values: list[str], place: int) -> list[str]:
    return [*values[:place], *values[place + 1:]]


def _settings(cell: Cell) -> Iterable[str]:
    """The note on each row's hyperparameters that are not the method's defaults; none if all are."""
    changed = {row.label: [f"{name}={value}" for name, value in row.hyperparameters.items() if name != "recipe.epochs"]
               for row in sorted(cell.rows, key=lambda row: row.label)}  # epochs are among the row's conditions
    told = [plain(f"{label}: {', '.join(values)}") for label, values in changed.items() if values]
    if told:
        yield f"Not at their defaults: {'; '.join(told)}."


def _lines(cell: Cell, columns: Sequence[str]) -> list[list[str]]:
    """The lines of the table: the teacher's, if the cell has a teacher, then one for each row of the cell."""
    lines = [[row.label, row.family, "; ".join(row.conditions), row.submission or "", _seeds(row),
              interval(row.estimate("test_accuracy"), "share") + DAGGER * row.larger,
              *(versus(cell, row, name) for name in REFERENCES),
              *(number(_mean(row, name), METRICS[name].unit) if columns is COLUMNS else shown_value(cell, row, name)
                for name in columns)] for row in cell.rows]
    teacher = cell.teacher
    if teacher is None:
        return lines
    return [["teacher", teacher.architecture if teacher.metrics else teacher.status, "", "", "",
             *(number(teacher.metrics.get(name), METRICS[name].unit) if name else ""
               for name in ("test_accuracy", *(None,) * len(REFERENCES),
                            *(None if name == "agreement" else name for name in columns)))], *lines]


def _mean(row: Row, metric: str) -> float | None:
    estimate = row.estimate(metric)
    return estimate.mean if estimate else None


def shown_value(cell: Cell, row: Row, metric: str) -> str:
    """The row's mean of a metric as text, with its interval; without an interval for a cost, which is profiled only
    once. "n/a" if the row lacks the metric."""
    found, unit = row.estimate(metric), METRICS[metric].unit
    if found is not None and metric in PROFILED:
        return profiled_value(cell.costs, metric, row.label, found.mean)
    if unit in ("share", "seconds", "bytes") or found is None:
        return interval(found, unit)
    return f"{found.mean:.4f} ± {few(found) or f'{found.half_width:.4f}'}"


def _with_reported(cell: Cell, table: Table) -> Table:
    """The table with a column of published test accuracies beside the measured ones, and notes on their sources;
    unchanged if there are none."""
    figures = [of_row(cell, row) for row in cell.rows]
    if cell.teacher:
        figures.insert(0, of_teacher(cell))
    differs = {figure.source: figure.differs for figure in figures if figure}
    if not differs:
        return table
    sources, place = list(differs), table.header.index(METRICS["test_accuracy"].header) + 1
    said = [f"{number(figure.accuracy, 'share')} [{sources.index(figure.source) + 1}]" if figure else ""
            for figure in figures]
    return replace(
        table, header=[*table.header[:place], "reported", *table.header[place:]],
        lines=[[*line[:place], value, *line[place:]] for line, value in zip(table.lines, said, strict=True)],
        notes=(*table.notes,
               *(f"reported [{i}]: {source}; {differs[source]}." for i, source in enumerate(sources, 1)),
               *(f"reported for {line[0]}: {figure.own}." for line, figure in zip(table.lines, figures, strict=True)
                 if figure and figure.own)))


def _seeds(row: Row) -> str:
    """The number of finished runs; "2/3" if only two of three planned runs have a result."""
    return f"{len(row.seeds)}/{len(row.seeds) + len(row.failures)}" if row.failures else str(len(row.seeds))


def versus(cell: Cell, row: Row, reference: str = REFERENCE) -> str:
    """The row's difference of test accuracy to a reference, with a mark for better, worse or unclear; "" for the
    reference itself, and "n/a" if the two share no seed."""
    if row.label == reference:
        return ""
    if reference not in row.differences:
        return NONE
    return difference(cell, row, reference) + mark(cell.comparisons.to.get(reference, {}).get(row.label))


def difference(cell: Cell, row: Row, reference: str) -> str:
    """The row's mean difference of test accuracy to a reference over the seeds that both have, in points, with half the
    width of its moderated 95 % interval. KeyError if there is no such difference."""
    told = cell.comparisons.to.get(reference, {}).get(row.label)
    width = number(told.half_width if told else None, "share")
    return f"{number(row.differences[reference].mean, 'share', '+')} ± {width}"


def _tiers(cell: Cell) -> Iterable[str]:
    """The note on which methods each tier holds; none if the tiers hold fewer than two methods together."""
    tiers = cell.comparisons.tiers
    if (count := sum(map(len, tiers))) > 1:
        listed = "; ".join(f"({i}) {', '.join(tier)}" for i, tier in enumerate(tiers, 1))
        yield (f"Tiers: {listed}. Of the methods that no earlier tier holds, a tier holds those that no other of them "
               f"is significantly better than (moderated t-tests over equal seeds, 5 % after Holm's correction for "
               f"{count * (count - 1) // 2} pair{'s' * (count > 2)}; against {' and '.join(REFERENCES)}, as the "
               "arrows say).")


def _sampling(cell: Cell) -> Iterable[str]:
    """The note on how much another sample of test images would change accuracies; none if the number of test images or
    the first row's accuracy is not known."""
    images, best = cell.test_images, cell.rows[0].estimate("test_accuracy")
    if images and best:
        width = Z * math.sqrt(best.mean * (1 - best.mean) / images)
        yield (f"Test images: {images:,}. Intervals are over seeds, on the same images; another sample of "
               f"images would change an accuracy of {number(best.mean, 'share')} by up to {number(width, 'share')} "
               "points in 95 % of cases (binomial), and differences by less, as far as methods fail on the same "
               "images.")


def _noise(cell: Cell, data_free: bool) -> Iterable[str]:
    """The note on the noise over seeds that methods share, and on the methods whose own noise is much larger; none if
    they share none. It is on the methods that see no data if `data_free` is true, else on the others."""
    prior = cell.comparisons.apart if data_free else cell.comparisons.prior
    if prior.degrees:
        deviation = number(math.sqrt(prior.variance), "share")
        unusual = ", ".join(row.label for row in cell.rows
                            if row.data_free == data_free and row.label in cell.comparisons.unusual)
        common = f"the standard deviation over seeds that the methods share, s0 = {deviation} points,"
        yield (f"Noise: {common} " + (
            "is used for all of them, as their own differ by no more than chance." if math.isinf(prior.degrees) else
            f"is combined with each method's own, with the weight of d0 = {prior.degrees:.1f} degrees of freedom.") + (
                   f" The intervals of these may be too narrow, as their own deviation is much larger: {unusual}."
                   if unusual else ""))


def _resolution(cell: Cell) -> Iterable[str]:
    """The note on how large a true difference to the reference must be for the cell's seeds to detect it; none if no
    method is compared with the reference."""
    found = cell.compared(REFERENCE).values()
    if found:
        family = len(cell.comparisons.to[REFERENCE])
        seeds = statistics.mode(told.seeds for told in found)
        alone, corrected = (
            number(statistics.median(told.standard_error * detectable_effect(told.degrees, comparisons)
                                     for told in found if told.seeds == seeds), "share")
            for comparisons in (1, family))
        yield (f"Resolution: with {seeds} seeds and {100 * POWER:g} % power, a single moderated t-test at 5 % finds a "
               f"true difference to {REFERENCE} of {alone} points, and one of {corrected} points after Holm's "
               f"correction for {family} methods, if no other differs (for the median method's noise).")
