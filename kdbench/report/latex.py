"""A leaderboard in LaTeX: a file for \\input with one floating booktabs table for each table of the Markdown."""

import re

from kdbench.analysis.board import Leaderboard
from kdbench.report.cite import escape
from kdbench.report.formatting import Table
from kdbench.report.tables.cell import all_tables

LAST_LATIN = "\u024f"  # the last character that pdflatex sets without further packages
HEAD = r"""% \usepackage{booktabs,graphicx}, \usepackage[T1]{fontenc}
% A table that is too wide or too high for the page is set smaller:
\providecommand{\kdbenchfit}[1]{\sbox0{#1}%
  \ifdim\wd0>\linewidth\sbox0{\resizebox{\linewidth}{!}{\usebox0}}\fi
  \ifdim\dimexpr\ht0+\dp0\relax>.8\textheight\sbox0{\resizebox*{!}{.8\textheight}{\usebox0}}\fi
  \usebox0}"""


def to_latex(leaderboard: Leaderboard) -> str:
    """All tables, below the packages and the macro that they need."""
    head = f"% results {leaderboard.results_hash}\n% records {leaderboard.records_hash}\n{HEAD}"
    return "\n\n".join([head, *(_table(table, leaderboard.results_hash[:16]) for table in all_tables(leaderboard))])


def _table(table: Table, results: str) -> str:
    """The table with its title, notes and `results`, the beginning of the results' hash, as caption."""
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    notes = "".join(f" {safe(note)}" for note in table.notes)
    return "\n".join([
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{safe(table.title)}.{notes} kdbench results \texttt{{{results}}}.}}\smallskip",
        rf"\kdbenchfit{{\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(table.header),
        r"\midrule",
        *(_line(line) + (r" \midrule" if line[0] == "teacher" else "") for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ])


def _line(cells: list[str]) -> str:
    """A row, in which the hyphen of a negative number becomes a minus sign."""
    return " & ".join(re.sub(r"^-(?=\d)", "$-$", safe(cell)) for cell in cells) + r" \\"


def safe(text: str) -> str:
    """Any text as LaTeX, with a question mark for each character that pdflatex cannot set."""
    return escape("".join(c if c <= LAST_LATIN else "?" for c in text))
