"""A leaderboard in Markdown that reads well on a terminal of 100 columns."""

import textwrap
from collections.abc import Iterable

from kdbench.analysis.board import Leaderboard
from kdbench.analysis.ranking import rank
from kdbench.report.table import Table
from kdbench.report.tables import across_table, cell_tables, legend

WIDTH = 100


def to_markdown(leaderboard: Leaderboard) -> str:
    parts = [tables_to_markdown(cell_tables(cell, leaderboard)) for cell in leaderboard.cells]
    ranking = rank(leaderboard)
    if ranking is not None:
        table = across_table(ranking)
        parts += [f"## {table.title}", align(table), items(table.notes)]
    return "\n\n".join([*parts, items(legend(leaderboard)),
                         items([*leaderboard.statement, f"Results {leaderboard.hash}."])])


def tables_to_markdown(tables: Iterable[Table]) -> str:
    return "\n\n".join(part for table in tables for part in (f"## {table.title}", align(table),
                                                            *map(fill, table.notes)))


def align(table: Table) -> str:
    """A Markdown table whose columns line up."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (table.header, *table.lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(table.header))]
    text = [i < table.text_columns for i in range(len(widths))]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for left, width in zip(text, widths, strict=True)]

    def pad(line: list[str]) -> str:
        return " | ".join(cell.ljust(width) if left else cell.rjust(width)
                          for cell, left, width in zip(line, text, widths, strict=True))

    return "\n".join(f"| {pad(line)} |" for line in (cells[0], rule, *cells[1:]))


def items(lines: Iterable[str]) -> str:
    return "\n".join(fill(f"- {line}", indent="  ") for line in lines)


def fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
