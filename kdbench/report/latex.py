"""A leaderboard in LaTeX: a file for \\input with one floating booktabs table for each table of the Markdown."""

import re
from collections.abc import Mapping

from kdbench.analysis.board import REFERENCES, Leaderboard
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.report.cite import escape, methods_and_datasets, references
from kdbench.report.formatting import LARGER, NONE, Table
from kdbench.report.tables.cell import all_tables
from kdbench.report.tables.fairness import MEANING

LAST_LATIN = "\u024f"  # the last character that pdflatex sets without further packages
SET = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$"}  # characters that pdflatex sets by these commands
EXPLAINED = {  # by signs: what a caption says of them, if a cell of the table has one
    "±": f"± is half the width of the 95 % t interval over seeds, {NONE} with fewer than {MIN_SEEDS}.",
    "↑↓?": "Differences are paired by seed; ↑ better, ↓ worse, ? unclear, at 5 % after Holm's correction.",
    "†": LARGER,
}
MODERATED = {f"vs {name}" for name in (*REFERENCES, "best teacher")}  # headers of columns of moderated differences
HEAD = r"""% \usepackage{booktabs,graphicx}, \usepackage[T1]{fontenc}; \cite by the entries of `kdbench cite`
% Notes on a table are text below it, since LaTeX cannot set a caption of their length:
\providecommand{\kdbenchnotes}[2]{\par\noindent{\footnotesize\raggedright Notes on Table~\ref{#1}: #2\par}}
% A table that is too wide or too high for the page is set smaller:
\providecommand{\kdbenchfit}[1]{\sbox0{#1}%
  \ifdim\wd0>\linewidth\sbox0{\resizebox{\linewidth}{!}{\usebox0}}\fi
  \ifdim\dimexpr\ht0+\dp0\relax>.8\textheight\sbox0{\resizebox*{!}{.8\textheight}{\usebox0}}\fi
  \usebox0}"""


def to_latex(leaderboard: Leaderboard) -> str:
    """All tables of a leaderboard, below comments that name the packages they need and the definitions of two macros
    that they use.

    Each method's name is followed by its citation, and the rows of the best tier are bold.
    """
    head = f"% results {leaderboard.results_hash}\n% records {leaderboard.records_hash}\n{HEAD}"
    _, keys = references(methods_and_datasets(leaderboard))
    cited = {row.label: keys[row.method] for cell in leaderboard.cells for row in cell.rows if row.method in keys}
    tables, labels = [], set[str]()
    for table in all_tables(leaderboard):
        label = _label(table.title, labels)
        labels.add(label)
        tables.append(_table(table, label, leaderboard.results_hash[:16], cited))
    return "\n\n".join([head, *tables])


def _label(title: str, taken: set[str]) -> str:
    """The table's label for \\ref, made from its title and not among those taken, such as
    kdbench:robustness-big-small-on-digits."""
    words = "kdbench:" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return next(name for name in (words, *(f"{words}-{i}" for i in range(2, len(taken) + 3))) if name not in taken)


def _table(table: Table, label: str, results: str, cited: Mapping[str, str]) -> str:
    """The table as a float, with its title, the meaning of its signs and `results` as caption, and its notes behind it.

    `label` is its label, `results` the beginning of the results' hash, and `cited` has the BibTeX keys of methods by
    the labels of their rows.
    """
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    signs = {sign for line in table.lines for text in line for sign in re.findall(r"±|†|[↑↓?]$", text)}
    audit = "vs teacher" in table.header
    explained = EXPLAINED | ({"↑↓?": MEANING} if audit else {})
    caption = [f"{table.title}.", *(told for some, told in explained.items() if signs & set(some))]
    if (moderated := [name for name in table.header if name in MODERATED]) and not audit:
        caption.append(f"± of {' and '.join(moderated)}: of the moderated interval.")
    if table.best:
        caption.append("Bold: the best tier, within which no difference is significant.")
    return "\n".join([
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{safe(' '.join(caption))} kdbench results \texttt{{{results}}}.}}\label{{{label}}}\smallskip",
        rf"\kdbenchfit{{\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line([_cell(name) for name in table.header]),
        r"\midrule",
        *(_line(_with_citation(line, table, cited), line[0] in table.best)
          + (r" \midrule" if line[0] == "teacher" else "") for line in table.lines),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
        *([rf"\kdbenchnotes{{{label}}}{{{safe(' '.join(table.notes))}}}"] if table.notes else []),
    ])


def _with_citation(line: list[str], table: Table, cited: Mapping[str, str]) -> list[str]:
    """The cells of a line as LaTeX, with a citation behind the method's name."""
    place = table.header.index("method") if "method" in table.header else None
    return [_cell(text) + (rf"~\cite{{{cited[text]}}}" if i == place and text in cited else "")
            for i, text in enumerate(line)]


def _cell(text: str) -> str:
    """The text of a cell as LaTeX; the hyphen of a negative number becomes a minus sign."""
    return re.sub(r"^-(?=\d)", "$-$", safe(text))


def _line(cells: list[str], bold: bool = False) -> str:
    return " & ".join(rf"{{\bfseries\boldmath {cell}}}" if bold and cell else cell for cell in cells) + r" \\"


def safe(text: str) -> str:
    """The text escaped for LaTeX, with a question mark for each character that pdflatex cannot set."""
    escaped = escape("".join(c if c <= LAST_LATIN or c in SET else "?" for c in text))
    return "".join(SET.get(c, c) for c in escaped)
