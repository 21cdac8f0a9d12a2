"""A leaderboard for a terminal: the verdict, then each cell's table, in as many columns as there is room for."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kdbench.analysis.answers.changes import Changes, RowChange
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.errors import UserError, counted, plain, unknown
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import Table
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.beside import beside_tables, change_tables
from kdbench.report.tables.cell import COLUMNS, further_tables, main_tables
from kdbench.report.tables.compressed import compressed_tables
from kdbench.report.tables.fairness import audit_tables
from kdbench.report.tables.legend import legend

# Columns that a narrow terminal does without, the first at first; those of compressed networks before the others.
DROPPED = ("J/1000", "PGD", "p95 ms", "corrupted", "PGD small", "worst group",
           "params", "conditions", "family", "train s", "reported", "worst", "agree", "seeds", "vs kd")
WIDEST = 100  # columns of a paragraph
GAP = "  "    # between two columns
NAMES = "name", "family"  # what rows may be sorted by, besides metrics


@dataclass(frozen=True)
class View:
    """What of a leaderboard is shown, and how."""

    width: int = 80
    brief: bool = False                # the verdict alone
    notes: bool = False                # all tables, with their notes, and what all columns mean
    metrics: tuple[str, ...] = ()      # shown in place of those that are shown by default
    sort: str | None = None            # a metric, "name" or "family"; by default the first of `metrics`, else accuracy
    methods: tuple[str, ...] = ()      # only the rows of these, by method's or row's name; by default all

    def check(self, leaderboard: Leaderboard) -> None:
        """UserError for a metric or method that the leaderboard does not have."""
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
    """The leaderboard as text without a final line break. UserError for a view of what it does not have."""
    view.check(leaderboard)
    parts: list[str] = []
    if view.notes:  # before what is read first, which stands last on a terminal
        parts += [_table(table, view.width, notes=True) for cell in leaderboard.cells
                  for tables in (audit_tables, further_tables) for table in tables(cell, leaderboard.title(cell))]
        parts.append(_items(legend(leaderboard), view.width))
    said = verdict(leaderboard)
    for cell, told in zip(leaderboard.cells, said, strict=False):  # what is said of all cells comes behind
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
    """Two leaderboards side by side, in the cells that they share. UserError if they share none."""
    short = ("A", "B")
    tables = list(beside_tables(first, second, short))
    if not tables:
        raise UserError(f"{names[0]} and {names[1]} have no pair and dataset in common: "
                        f"{'; '.join(map(first.title, first.cells))} and {'; '.join(map(second.title, second.cells))}")
    heads = _heads(names, (first.results_hash, second.results_hash))
    return "\n\n".join([heads, *(_table(table, width, notes=True) for table in tables)])


def changes_to_text(changes: Changes, names: tuple[str, str], width: int) -> str:
    """What changed between two folders, which are called by these names: what one alone has, the methods of both, the
    runs of both, and what differs between the environments."""
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
    """How many methods of both changed, and of which the verdict did."""
    moved = [row for row in changes.rows if row.significant]
    turned = [row for row in changes.rows if row.verdicts[0] != row.verdicts[1]]
    same = sum(row.equal for row in changes.rows)
    return (f"Of {counted(len(changes.rows), 'method')} in both, {same} have the same accuracy on every seed, and "
            f"{len(moved)} differ at 5 %{_named(moved)}; against {REFERENCE} the verdict changed for {len(turned)}"
            f"{_named(turned)}")


def _named(rows: Sequence[RowChange]) -> str:
    return f" ({', '.join(dict.fromkeys(row.method for row in rows))})" if rows else ""


def _heads(names: tuple[str, str], hashes: tuple[str, str]) -> str:
    return "\n".join(f"{letter}: {plain(name)}, results {results[:16]}"
                     for letter, name, results in zip("AB", names, hashes, strict=True))


def _chosen(cell: Cell, view: View) -> Cell:
    """The cell with the rows of a view, in its order."""
    rows = [row for row in cell.rows if not view.methods or {row.method, row.label} & set(view.methods)]
    by = view.sort or (view.metrics[0] if view.metrics else None)
    return replace(cell, rows=tuple(rows if by is None else sorted(rows, key=lambda row: _key(row, by))))


def _key(row: Row, by: str) -> tuple:
    """The sort key of a row: the better value first, rows without one last."""
    if by in NAMES:
        return (row.family if by == "family" else row.label,)
    value = row.estimate(by)
    if value is None:
        return True, 0.0
    return False, value.mean if METRICS[by].better == "lower" else -value.mean


def _table(table: Table, width: int, notes: bool = False) -> str:
    """The table in aligned columns. Columns for which there is no room are left out, and named below."""
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
    """What was used, what was not, the results' hash, and how to see more."""
    told = list(leaderboard.statement)
    if not view.notes:
        told.append("↑ better, ↓ worse, ? unclear at 5 %; ± and all else: --notes, or kdbench report")
    yield _items([*told, f"results {leaderboard.results_hash[:16]}"], view.width)


def _items(lines: Iterable[str], width: int) -> str:
    return "\n".join(_fill(f"- {line}", width, "  ") for line in lines)


def _fill(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(plain(text), min(width, WIDEST), subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)
