"""The tables of a leaderboard, each as a `Table` of text that Markdown, LaTeX and HTML set alike."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace

from kdbench.analysis.board import EQUAL_COMPUTE, REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.harm import MIN_SEEDS, ClassChange, Harm
from kdbench.analysis.intervals import POWER, detectable_effect
from kdbench.analysis.ranking import Ranking, rank
from kdbench.analysis.reported import of_row, of_teacher
from kdbench.data import catalog
from kdbench.errors import UserError, plain
from kdbench.metrics.catalog import METRICS
from kdbench.report.costs import cost_tables, tuning_tables
from kdbench.report.formatting import NONE, Table, interval, number, p_value

COLUMNS = ("agreement", "worst_class_accuracy", "seconds")  # beside test accuracy; CSV, JSON and the page have all
FURTHER = {  # tables by heading, with their metrics; for cells where some method has one of them
    "Groups": ("worst_group_accuracy", "group_gap", "equalised_odds_difference", "demographic_parity_difference",
               "bias_amplification"),
    "Long tail": ("many_shot_accuracy", "medium_shot_accuracy", "few_shot_accuracy"),
    "Robustness": ("clean_accuracy", "corruption_accuracy", "pgd_small_accuracy", "pgd_accuracy"),
    "AutoAttack": ("autoattack_accuracy",),
}
MOST_AFFECTED = 10  # lines of a table of classes


def all_tables(leaderboard: Leaderboard) -> list[Table]:
    """The tables of every cell, then those across cells."""
    tables = [table for cell in leaderboard.cells for table in cell_tables(cell, leaderboard)]
    return [*tables, *across_tables(leaderboard)]


def cell_tables(cell: Cell, leaderboard: Leaderboard) -> list[Table]:
    """The tables of a cell: its methods; those that see no data; with saved predictions, their changes by class and
    image; further metrics; costs, where they were profiled; and tuning, where methods were tuned."""
    name = leaderboard.title(cell)
    seeing = [row for row in cell.rows if not row.data_free]
    blind = [row for row in cell.rows if row.data_free]
    tables = [_main_table(name, replace(cell, rows=tuple(seeing)))] if seeing else []
    if blind:  # beside the networks that saw the images, which they are compared with and not ranked among
        yardsticks = [row for row in seeing if row.label in REFERENCES]
        tables.append(_main_table(f"Without data: {name}", replace(cell, rows=(*yardsticks, *blind))))
    if any(row.harm for row in cell.rows):
        tables += [_class_table(cell, name), _affected_table(cell, name)]
    tables += [_further_table(cell, f"{what}: {name}", columns) for what, columns in FURTHER.items()
               if _measures(cell, columns)]
    return tables + cost_tables(cell.costs, name) + tuning_tables(cell.tuning, cell.order, name)


# One cell.

def _main_table(name: str, cell: Cell) -> Table:
    """The methods of a cell by test accuracy; notes tell which the best cannot be told from, and at what settings."""
    header = ["method", "family", "conditions", "seeds", METRICS["test_accuracy"].header, f"vs {REFERENCE}",
              *(METRICS[column].header for column in COLUMNS)]
    ranked = not any(row.data_free for row in cell.rows)
    told = (*_tiers(cell), *_noise(cell, data_free=False), *_resolution(cell)) if ranked else \
        _noise(cell, data_free=True)
    table = Table(name, header, _lines(cell), 3, (*told, *_settings(cell)))
    if not any(row.conditions for row in cell.rows):
        table = replace(table, header=_without(header, 2), lines=[_without(line, 2) for line in table.lines],
                        text_columns=2)
    return _with_reported(cell, table)


def _without(values: list[str], place: int) -> list[str]:
    return [*values[:place], *values[place + 1:]]


def _settings(cell: Cell) -> Iterable[str]:
    """The note on hyperparameters that are not the methods' defaults, where the names do not tell them."""
    changed = {row.label: [f"{name}={value}" for name, value in row.hyperparameters.items() if name != "recipe.epochs"]
               for row in sorted(cell.rows, key=lambda row: row.label)}  # epochs stand among the conditions
    told = [plain(f"{label}: {', '.join(values)}") for label, values in changed.items() if values]
    if told:
        yield f"Not at their defaults: {'; '.join(told)}."


def _lines(cell: Cell) -> list[list[str]]:
    """One line for each method, below the teacher's where it is known."""
    lines = [[row.label, row.family, "; ".join(row.conditions), _seeds(row),
              interval(row.estimate("test_accuracy"), "share"),
              versus(cell, row),
              *(number(_mean(row, name), METRICS[name].unit) for name in COLUMNS)] for row in cell.rows]
    teacher = cell.teacher
    if teacher is None:
        return lines
    return [["teacher", teacher.architecture if teacher.metrics else teacher.status, "", "",
             *(number(teacher.metrics.get(name), METRICS[name].unit) if name else ""
               for name in ("test_accuracy", None, None, *COLUMNS[1:]))], *lines]


def _mean(row: Row, metric: str) -> float | None:
    estimate = row.estimate(metric)
    return estimate.mean if estimate else None


def _with_reported(cell: Cell, table: Table) -> Table:
    """The table with a column of published test accuracies beside the measured ones, where there are any."""
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
    """The number of finished runs, "2/3" where some of the planned ones have no result."""
    return f"{len(row.seeds)}/{len(row.seeds) + len(row.failures)}" if row.failures else str(len(row.seeds))


def versus(cell: Cell, row: Row) -> str:
    """The row's difference of test accuracy to the reference with its moderated interval, in points, and a star if it
    is significant; "" for the reference."""
    if row.is_reference:
        return ""
    if REFERENCE not in row.differences:
        return NONE
    told = cell.comparisons.to[REFERENCE].get(row.label)
    width = number(told.half_width if told else None, "share")
    return f"{number(row.differences[REFERENCE].mean, 'share', '+')} ± {width}{' *' * bool(told and told.significant)}"


def _tiers(cell: Cell) -> Iterable[str]:
    """The note on which methods cannot be told from the best, and then from the best of the rest; none for fewer than
    two methods with two seeds."""
    tiers = cell.comparisons.tiers
    if (count := sum(map(len, tiers))) > 1:
        listed = "; ".join(f"({i}) {', '.join(tier)}" for i, tier in enumerate(tiers, 1))
        yield (f"Tiers: {listed}. Each holds the best of the methods that are left and all that cannot be told from it "
               f"(moderated t-tests over equal seeds, 5 % after Holm's correction for {count * (count - 1) // 2} "
               f"pair{'s' * (count > 2)}).")


def _noise(cell: Cell, data_free: bool) -> Iterable[str]:
    """The note on the noise that methods share, those that see the data or the others, and which of them it may not
    fit; none if they share none."""
    prior = cell.comparisons.apart if data_free else cell.comparisons.prior
    if prior.degrees:
        deviation = number(math.sqrt(prior.variance), "share")
        degrees = "inf" if math.isinf(prior.degrees) else f"{prior.degrees:.1f}"
        unusual = ", ".join(row.label for row in cell.rows
                            if row.data_free == data_free and row.label in cell.comparisons.unusual)
        yield (f"Noise: the methods' common standard deviation over seeds, s0 = {deviation} points, counts as d0 = "
               f"{degrees} degrees of freedom beside each one's own." + (
                   f" By themselves these are so much noisier that their intervals may be too narrow: {unusual}."
                   if unusual else ""))


def _resolution(cell: Cell) -> Iterable[str]:
    """The note on how small a difference to the reference the cell's seeds can show; none with one seed."""
    found = cell.compared(REFERENCE).values()
    if found:
        seeds = statistics.mode(told.seeds for told in found)
        least = statistics.median(told.standard_error * detectable_effect(told.degrees)
                                  for told in found if told.seeds == seeds)
        yield (f"Resolution: {seeds} seeds find a true difference to {REFERENCE} of {number(least, 'share')} points in "
               f"{POWER:.0%} of repetitions (moderated t-test of one difference at 5 %, the median method's noise).")


def _measures(cell: Cell, metrics: Iterable[str]) -> bool:
    return any(name in row.metrics for row in cell.rows for name in metrics)


def _further_table(cell: Cell, heading: str, metrics: tuple[str, ...]) -> Table:
    """These metrics of the cell's methods, below the teacher's."""
    lines = [[row.label, *(interval(row.estimate(name), METRICS[name].unit) for name in metrics)]
             for row in cell.rows if row.runs]
    if cell.teacher and cell.teacher.metrics:
        teacher = cell.teacher.metrics
        lines.insert(0, ["teacher", *(number(teacher.get(name), METRICS[name].unit) for name in metrics)])
    notes = _radii(cell) if "pgd_accuracy" in metrics else ()
    return Table(heading, ["method", *(METRICS[name].header for name in metrics)], lines, 1, notes)


def _radii(cell: Cell) -> tuple[str, ...]:
    """The note on how far attacks on the cell's dataset go; none for a dataset that is not known."""
    try:
        info = catalog.parse(cell.dataset).info
    except UserError:
        return ()
    return (f"PGD (small) changes pixels in 0..1 by up to {info.small_attack_radius:.4f}, PGD by up to "
            f"{info.attack_radius:.4f}.",)


def _class_table(cell: Cell, name: str) -> Table:
    """By method: how many classes it harms and helps, and how many images it flips."""
    header = ["method", "harmed", "helped", "flipped", "right there", f"{REFERENCE} there", "most affected"]
    lines = []
    for row in cell.rows:
        if (told := row.harm) is not None:
            most = affected(told)[0]
            lines.append([row.label, str(len(told.harmed)), str(len(told.helped)), number(told.flipped, "share"),
                          number(told.flipped_accuracy, "share"), number(told.flipped_reference, "share"),
                          f"{cell.class_name(most.index)} {number(most.change, 'share', '+')}"])
    return Table(f"Classes and images against {REFERENCE}: {name}", header, lines, 1)


def _affected_table(cell: Cell, name: str) -> Table:
    """The classes that change most against the reference, over all methods of the cell."""
    header = ["class", "method", "images", REFERENCE, "method's", "change", "p (Holm)"]
    changes = [(row.label, change) for row in cell.rows if row.harm for change in affected(row.harm)]
    changes.sort(key=lambda item: (-abs(item[1].change), item[0], item[1].index))
    return Table(f"Most affected classes against {REFERENCE}: {name}", header, [
        [cell.class_name(c.index), label, str(c.images), number(c.reference, "share"), number(c.accuracy, "share"),
         number(c.change, "share", "+"), NONE if c.p is None else p_value(c.p)]
        for label, c in changes[:MOST_AFFECTED]
    ], 2)


def affected(comparison: Harm) -> list[ClassChange]:
    """The classes by the size of their change, largest first."""
    return sorted(comparison.classes, key=lambda c: (-abs(c.change), c.index))


# All cells.

def across_tables(leaderboard: Leaderboard) -> Iterator[Table]:
    """For the cells of equal steps, and for those of equal compute, the table across them if they are several."""
    for part in leaderboard.regimes():
        if ranking := rank(part):
            name = f"Across cells ({EQUAL_COMPUTE})" if part.equal_compute else "Across cells"
            yield _across_table(name, ranking)


def _across_table(name: str, ranking: Ranking) -> Table:
    """The methods over all cells of a leaderboard, by average rank."""
    header = ["method", "family", "cells", "score", "worst", "rank", *(f"wins vs {name}" for name in REFERENCES)]
    return Table(name, header, [
        [s.label, s.family, str(s.cells), number(s.score, "share", "+"), number(s.worst, "share", "+"), f"{s.rank:.2f}",
         *(f"{s.wins[name].won:g}/{s.wins[name].pairs}" if name in s.wins else "" for name in REFERENCES)]
        for s in ranking.standings
    ], 2, tuple(_ranking_notes(ranking)))


def _ranking_notes(ranking: Ranking) -> Iterable[str]:
    """The meaning of the columns of the table across cells, and the result of Friedman's test on its ranks or why it
    is withheld."""
    yield (f"score: mean of 'vs {REFERENCE}' over all {ranking.cells} cells, so that it can be recomputed from the "
           f"tables; worst: the lowest of them; both {NONE} for a method that is not complete in every cell.")
    yield ("rank: mean over cells of the rank by test accuracy. A method with a failed, missing or inapplicable run in "
           "a cell shares its last place.")
    yield (f"wins: runs that were better than {' or '.join(REFERENCES)} with the same seed, of all such pairs; a tie "
           "is half, and a run that failed or is missing is lost.")
    if (test := ranking.friedman) is None:
        yield f"Withheld: whether ranks differ by more than chance. {ranking.withheld}."
        return
    groups = "; ".join(", ".join(group) for group in test.groups) or "none"
    yield (f"Friedman's test: chi-squared {test.statistic:.2f}, p {p_value(test.p)}; Nemenyi's critical difference at "
           f"5 %: {test.critical_difference:.2f} ranks (Demšar, 2006). Groups that cannot be told apart: {groups}.")


def legend(leaderboard: Leaderboard) -> list[str]:
    """The meaning of the columns of the cells' tables, one sentence for each column or group of columns shown."""
    lines = [
        "Accuracies and shares are in %. ± is half the width of the 95 % t interval over the row's own seeds; "
        f"{NONE} with fewer than {MIN_SEEDS}.",
        f"vs {REFERENCE}: mean difference of test accuracy, on equal seeds. ± is half the width of its moderated 95 % "
        "interval: seeds are blocks, and the variance over seeds of each method is shrunk towards what those of its "
        f"table have in common (Smyth, 2004); {NONE} with one seed. * marks methods that are better or worse than "
        f"{REFERENCE} at 5 %, after Holm's correction for all methods of the cell; of the others this is unclear.",
        *(f"{METRICS[name].header}: {METRICS[name].definition}" for name in ("test_accuracy", *COLUMNS)),
    ]
    if any(row.conditions for cell in leaderboard.cells for row in cell.rows):
        lines.append("conditions: what is otherwise than in plain training: the student's updates, and the images that "
                     "pass through student (with peers) and teacher for each of them, in multiples of plain "
                     "training's; the size of what is deployed, in multiples of the student's; with kd: its loss "
                     "contains that of kd; no labels: its loss does not read them; 2 runs: a copy of the student was "
                     "trained before, which is in no cost shown here.")
    if any(cell.equal_compute for cell in leaderboard.cells):
        lines.append(f"{EQUAL_COMPUTE}: in place of the same steps, each method has the whole epochs, at least one, "
                     "that come nearest to the core-seconds of kd's training steps, by the ratios of step times that "
                     "`kdbench profile` measured alone and with a live teacher; its epochs, and its compute in "
                     "multiples of kd's where these profiles are at hand, stand beside its name. Budgets of updates do "
                     "not count there.")
    if any(row.data_free for cell in leaderboard.cells for row in cell.rows):
        lines.append("Without data: methods that see neither images nor labels, with a budget of updates of their own; "
                     "they are not ranked among those that do.")
    if any(row.harm for cell in leaderboard.cells for row in cell.rows):
        lines += [
            f"harmed, helped: number of classes whose accuracy differs from {REFERENCE}'s with the same seeds, at 5 % "
            "after Holm's correction for the number of classes, by min F' (Clark, 1973), which holds for other seeds "
            "and for other images.",
            f"flipped: share of test images whose majority prediction over seeds differs from {REFERENCE}'s "
            "(compression-identified exemplars; Hooker et al., 2019), then the accuracy there of the method and of "
            f"{REFERENCE}.",
        ]
    measured = [name for columns in FURTHER.values() for name in columns
                if any(_measures(cell, (name,)) for cell in leaderboard.cells)]
    return lines + [f"{METRICS[name].header}: {METRICS[name].definition}" for name in measured]
