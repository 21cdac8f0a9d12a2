"""A leaderboard in Markdown that reads well on a terminal: paragraphs are filled to 100 columns, tables aligned."""

import re
import textwrap
from collections.abc import Iterable

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import Leaderboard
from kdbench.errors import plain
from kdbench.report.formatting import Table
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.cell import cell_tables
from kdbench.report.tables.legend import legend

WIDTH = 100  # columns of a paragraph


def to_markdown(leaderboard: Leaderboard) -> str:
    """The leaderboard as Markdown without a final line break: verdict, all tables, the meaning of their columns, what
    was used, and the hashes of results and records."""
    parts = [*verdict_to_markdown(leaderboard),
             *(tables_to_markdown(cell_tables(cell, leaderboard)) for cell in leaderboard.cells)]
    for table in across_tables(leaderboard):
        parts += [f"## {safe(table.title)}", align(table), items(table.notes)]
    return "\n\n".join([*parts, items(legend(leaderboard)),
                         items([*leaderboard.statement, *hashes(leaderboard)])])


def verdict_to_markdown(leaderboard: Leaderboard) -> list[str]:
    """The verdict as bulleted lists, each below its title: one for each cell, then those on several cells together."""
    return [f"{safe(one.title)}:\n\n{items(one.sentences)}" for one in verdict(leaderboard)]


def hashes(leaderboard: Leaderboard) -> list[str]:
    """Two sentences with the hashes of the results and of the records that tables show, by which they can be cited and
    compared with those of a repetition."""
    return [f"Results {leaderboard.results_hash}: weights, predictions and metrics, which repeated runs give again.",
            f"Records {leaderboard.records_hash}: all files that this was made from, times and machines included."]


def tables_to_markdown(tables: Iterable[Table]) -> str:
    """Each table under its title, with its notes as paragraphs."""
    return "\n\n".join(part for table in tables for part in (f"## {safe(table.title)}", align(table),
                                                            *map(fill, table.notes)))


def align(table: Table) -> str:
    """A Markdown table with columns of equal width; numbers are right-aligned."""
    cells = [[safe(cell).replace("|", "\\|") for cell in line] for line in (table.header, *table.lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(table.header))]
    text = [i < table.text_columns for i in range(len(widths))]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for left, width in zip(text, widths, strict=True)]

    def pad(line: list[str]) -> str:
        return " | ".join(cell.ljust(width) if left else cell.rjust(width)
                          for cell, left, width in zip(line, text, widths, strict=True))

    return "\n".join(f"| {pad(line)} |" for line in (cells[0], rule, *cells[1:]))


def safe(text: str) -> str:
    """The text as Markdown, on one line, escaped so that no HTML tag begins in it."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", plain(text))


def items(lines: Iterable[str]) -> str:
    """The lines as a bulleted list in Markdown, filled to `WIDTH` columns."""
    return "\n".join(fill(f"- {line}", indent="  ") for line in lines)


def fill(text: str, indent: str = "") -> str:
    """The text as Markdown, filled to `WIDTH` columns, with `indent` before every line but the first."""
    return textwrap.fill(safe(text), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
