"""A leaderboard in LaTeX: one booktabs table per Markdown table, to be read by \\input."""

from kdbench.leaderboard.cite import escape
from kdbench.leaderboard.ranking import rank
from kdbench.leaderboard.table import Leaderboard
from kdbench.leaderboard.tables import Table, across_table, cell_tables

LAST_LATIN = "\u024f"  # what pdflatex sets without further packages ends here


def to_latex(leaderboard: Leaderboard) -> str:
    tables = [table for cell in leaderboard.cells for table in cell_tables(cell, leaderboard)]
    ranking = rank(leaderboard)
    if ranking is not None:
        tables.append(across_table(ranking))
    head = f"% \\usepackage{{booktabs}}, \\usepackage[T1]{{fontenc}}\n% results {leaderboard.hash}"
    return "\n\n".join([head, *(_table(table, leaderboard.hash[:16]) for table in tables)])


def _table(table: Table, results: str) -> str:
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    notes = "".join(f" {safe(note)}" for note in table.notes)
    return "\n".join([
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{safe(table.title)}.{notes} kdbench results \texttt{{{results}}}.}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(table.header),
        r"\midrule",
        *(_line(line) for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ])


def _line(cells: list[str]) -> str:
    return " & ".join(map(safe, cells)) + r" \\"


def safe(text: str) -> str:
    """`text` as LaTeX, with a question mark for a character that pdflatex has no letter for."""
    return escape("".join(c if c <= LAST_LATIN else "?" for c in text))
