"""A leaderboard as text for a terminal: the verdict on each cell, and its table with as many columns as fit."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase as LETTERS

from kdbench.analysis.answers.changes import Changes, RowChange
from kdbench.analysis.answers.orders import MIN_METHODS
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.errors import UserError, counted, plain, unknown
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import Table
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.beside import beside_tables, change_tables
from kdbench.report.tables.cell import COLUMNS, further_tables, main_tables
from kdbench.report.tables.compressed import compressed_tables
from kdbench.report.tables.fairness import audit_tables
from kdbench.report.tables.legend import legend
from kdbench.report.tables.orders import orders_among

# Columns that a narrow terminal leaves out, in this order; those of compressed networks go before the others.
DROPPED = ("J/1000", "PGD", "p95 ms", "corrupted", "PGD small", "worst group",
           "params", "conditions", "family", "train s", "reported", "worst", "agree", "seeds", "vs kd")
WIDEST = 100  # columns of a paragraph at most
GAP = "  "    # between two columns
NAMES = "name", "family"  # what rows may be sorted by, besides metrics


@dataclass(frozen=True)
class View:
    """Which parts of a leaderboard a terminal shows, and how."""

    width: int = 80
    brief: bool = False                # only the verdict
    notes: bool = False                # also all further tables, notes, and what the columns mean
    metrics: tuple[str, ...] = ()      # shown in place of the default ones; empty: the default ones
    sort: str | None = None            # a metric, "name" or "family"; by default the first of `metrics`, else accuracy
    methods: tuple[str, ...] = ()      # only rows whose method or label is one of these; empty: all rows

    def check(self, leaderboard: Leaderboard) -> None:
        """Raise UserError for a metric or an order that kdbench does not have, or a method that the leaderboard does
        not have."""
        for name in self.metrics:
            if name not in METRICS:
                raise unknown("metric", name, METRICS)
        if self.sort is not None and self.sort not in (*NAMES, *METRICS):
            raise unknown("order", self.sort, (*NAMES, *METRICS))
        rows = [row for cell in leaderboard.cells for row in cell.rows]
        known = dict.fromkeys(name for row in rows for name in (row.method, row.label))
        for name in self.methods:
            if name not in known:
                raise unknown("method of these results", name, known)


def to_text(leaderboard: Leaderboard, view: View) -> str:
    """The leaderboard as text without a final line break. UserError if `View.check` rejects the view."""
    view.check(leaderboard)
    parts: list[str] = []
    if view.notes:  # above the verdict: on a terminal, the end of the output is read first
        parts += [_table(table, view.width, notes=True) for cell in leaderboard.cells
                  for tables in (audit_tables, further_tables) for table in tables(cell, leaderboard.title(cell))]
        parts.append(_items(legend(leaderboard), view.width))
    said = verdict(leaderboard)
    for cell, told in zip(leaderboard.cells, said, strict=False):  # verdicts on several cells follow below
        parts.append(f"{told.title}\n{_items(told.sentences, view.width)}")
        if not view.brief:
            parts += [_table(replace(table, title=""), view.width, view.notes) for table in main_tables(
                _chosen(cell, view), "", view.metrics or COLUMNS)]
        if not view.brief and not view.methods and not view.notes:
            parts += [_table(replace(table, title="Compressed"), view.width) for table in compressed_tables(cell, "")]
    for told in said[len(leaderboard.cells):]:
        parts.append(f"{told.title}\n{_items(told.sentences, view.width)}")
    if not view.brief and not view.methods:
        parts += [_table(table, view.width, view.notes) for table in across_tables(leaderboard)]
    return "\n\n".join([*parts, *_footer(leaderboard, view)])


def to_text_beside(first: Leaderboard, second: Leaderboard, names: tuple[str, str], width: int) -> str:
    """Two leaderboards side by side as text, in the cells that they share. `names` is what they are called, `width` the
    number of columns of the terminal. UserError if they share no cells."""
    short = ("A", "B")
    tables = list(beside_tables(first, second, short))
    if not tables:
        raise UserError(f"{names[0]} and {names[1]} have no pair and dataset in common: "
                        f"{'; '.join(map(first.title, first.cells))} and {'; '.join(map(second.title, second.cells))}")
    heads = _heads(names, (first.results_hash, second.results_hash))
    return "\n\n".join([heads, *(_table(table, width, notes=True) for table in tables)])


def to_text_among(leaderboards: Sequence[Leaderboard], names: Sequence[str], width: int) -> str:
    """How alike the orders of methods by test accuracy are in the cells of several leaderboards, as text. `names` is
    what they are called, `width` the number of columns of the terminal. UserError if there are more leaderboards than
    letters, or no two cells have enough methods in common."""
    if len(leaderboards) > len(LETTERS):
        raise UserError(f"{len(leaderboards)} folders; at most {len(LETTERS)} can be compared at once")
    tables = list(orders_among(leaderboards, LETTERS[:len(leaderboards)]))
    if not tables:
        raise UserError(f"no two cells of {', '.join(names)} have {MIN_METHODS} methods of {MIN_SEEDS} seeds in "
                        "common, as orders that are compared need")
    heads = _heads(names, [one.results_hash for one in leaderboards])
    return "\n\n".join([heads, *(_table(table, width, notes=table is tables[-1]) for table in tables)])


def changes_to_text(changes: Changes, names: tuple[str, str], width: int) -> str:
    """What changed between two folders, as text: cells and methods that only one folder has, the methods of both, the
    runs of both, and what differs between their environments. `names` is what the folders are called."""
    short, reruns = ("A", "B"), changes.reruns
    tables = list(change_tables(changes, short))
    alone = [f"only in {letter}: {', '.join(some)}" for what in (changes.cells, changes.methods)
             for letter, some in zip(short, what, strict=True) if some]
    told = [f"{counted(reruns.shared, 'run')} in both: {reruns.equal} bit-equal, {len(reruns.differing)} not, "
            f"{len(reruns.failed)} finished in one only, {reruns.unfinished} in none; {reruns.only_first} only in A, "
            f"{reruns.only_second} only in B",
            *(f"not bit-equal: {one.run}: {one.what}" for one in reruns.differing),
            *(f"finished in one only: {one.run}: {one.what}" for one in reruns.failed)]
    other = [f"{name}: {' or '.join(before)} in A, {' or '.join(now)} in B"
             for name, (before, now) in changes.environments.items()]
    if changes.sources:
        other.append(f"source of {counted(len(changes.sources), 'method')}: {', '.join(changes.sources)}")
    return "\n\n".join([
        _heads(names, changes.results), *([_items(alone, width)] if alone else []),
        *(_table(table, width, notes=table is tables[-1]) for table in tables),
        *([_items([_summary(changes)], width)] if tables else []), _items(told, width),
        *([f"Environments differ\n{_items(other, width)}"] if other else [])])


def _summary(changes: Changes) -> str:
    """A sentence on how many of the methods that both folders have are equal on every seed, differ significantly, or
    have another verdict against the reference."""
    moved = [row for row in changes.rows if row.significant]
    turned = [row for row in changes.rows if row.verdicts[0] != row.verdicts[1]]
    same = sum(row.equal for row in changes.rows)
    return (f"Of {counted(len(changes.rows), 'method')} in both, {same} have the same accuracy on every seed, and "
            f"{len(moved)} differ at 5 %{_named(moved)}; against {REFERENCE} the verdict changed for {len(turned)}"
            f"{_named(turned)}")


def _named(rows: Sequence[RowChange]) -> str:
    return f" ({', '.join(dict.fromkeys(row.method for row in rows))})" if rows else ""


def _heads(names: Sequence[str], hashes: Sequence[str]) -> str:
    return "\n".join(f"{letter}: {plain(name)}, results {results[:16]}"
                     for letter, name, results in zip(LETTERS, names, hashes, strict=False))


def _chosen(cell: Cell, view: View) -> Cell:
    """The cell with only the rows that the view shows, in the view's order."""
    rows = [row for row in cell.rows if not view.methods or {row.method, row.label} & set(view.methods)]
    by = view.sort or (view.metrics[0] if view.metrics else None)
    return replace(cell, rows=tuple(rows if by is None else sorted(rows, key=lambda row: _key(row, by))))


def _key(row: Row, by: str) -> tuple:
    """The key by which rows are sorted by a metric, the better value first and rows without a value last; or by label
    or family, if `by` is "name" or "family"."""
    if by in NAMES:
        return (row.family if by == "family" else row.label,)
    value = row.estimate(by)
    if value is None:
        return True, 0.0
    return False, value.mean if METRICS[by].better == "lower" else -value.mean


def _table(table: Table, width: int, notes: bool = False) -> str:
    """The table as text in aligned columns, with its notes below if `notes` is true. While it is wider than `width`,
    columns in `DROPPED` are left out, and a line below the table names them."""
    shown, missing = list(range(len(table.header))), []
    cells = [[plain(text) for text in line] for line in (table.header, *table.lines)]
    widths = [max(len(line[i]) for line in cells) for i in shown]
    for name in DROPPED:
        if sum(widths[i] + len(GAP) for i in shown) - len(GAP) > width and name in table.header:
            shown.remove(table.header.index(name))
            missing.append(name)

    def line(texts: Sequence[str]) -> str:
        return GAP.join(texts[i].ljust(widths[i]) if i < table.text_columns else texts[i].rjust(widths[i])
                        for i in shown).rstrip()

    lines = [*([plain(table.title)] if table.title else []), line(cells[0]), line(["-" * one for one in widths]),
             *map(line, cells[1:])]
    if missing:
        lines.append(_fill(f"no room for: {', '.join(missing)}", width))
    if notes and table.notes:
        lines += ["", *(_fill(note, width) for note in table.notes)]
    return "\n".join(lines)


def _footer(leaderboard: Leaderboard, view: View) -> Iterable[str]:
    """A list of what was used and what was not, the results' hash, and how to see more."""
    told = list(leaderboard.statement)
    if not view.notes:
        told.append("↑ better, ↓ worse, ? unclear at 5 %; ± and all else: --notes, or kdbench report")
    yield _items([*told, f"results {leaderboard.results_hash[:16]}"], view.width)


def _items(lines: Iterable[str], width: int) -> str:
    return "\n".join(_fill(f"- {line}", width, "  ") for line in lines)


def _fill(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(plain(text), min(width, WIDEST), subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)
