"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import REFERENCE, Leaderboard
from kdbench.analysis.details import Details
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import family_order
from kdbench.report.cite import cite
from kdbench.report.formatting import Table, interval
from kdbench.report.page.document import THEME, document, file, sectioned
from kdbench.report.page.method import of_method
from kdbench.report.page.pieces import dot, escape, facts, fold, in_page, items, prose, sortable, wide
from kdbench.report.page.rows import all_rows, filters
from kdbench.report.plots import Plot, inline_svg
from kdbench.report.setup import setup
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.cell import further_tables, main_tables, versus
from kdbench.report.tables.fairness import AUDIT, MEANING, audit_tables
from kdbench.report.tables.legend import legend
from kdbench.results.sizes import size_text
from kdbench.version import __version__, address

__all__ = ["to_html"]


FILES = {  # files beside the page of a report, with their descriptions
    "leaderboard.csv": "a row for each method and cell", "runs.csv": "a row for each run",
    "leaderboard.json": "everything, nested", "leaderboard.tex": "the tables for a paper",
    "leaderboard.md": "the tables as text", "records/": "the records that all of it is made from",
}


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    """The report as one HTML page that includes its style, script and plots. `registry` has the installed methods by
    name."""
    body = (
        f'<header><div class="top"><h1>{escape(heading(leaderboard))}</h1>{THEME}</div>{about(leaderboard)}</header>\n'
        f"{sectioned(sections(leaderboard, details, plots, registry))}\n"
        f'<footer><p class="quiet">Made by {maker()} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{file('page.js')}</script>"
    )
    return document(heading(leaderboard), f"<style>\n{file('page.css')}</style>", body)


def heading(leaderboard: Leaderboard) -> str:
    return f"kdbench: {', '.join(leaderboard.suites)}"


def about(leaderboard: Leaderboard) -> str:
    """The HTML below the page's heading: what is compared, and the numbers of methods, pairs, datasets and finished
    runs."""
    return ('<p class="quiet">Knowledge-distillation methods on the same teachers, students, data and batches.</p>'
            f"{facts(_size(leaderboard))}")


def maker() -> str:
    """The name and version of kdbench as HTML, as a link to its home page if that is known."""
    home, name = address(), f"kdbench {escape(__version__)}"
    return f'<a href="{escape(home)}">{name}</a>' if home else name


def sections(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any],
             to_method: Callable[[str], str] = in_page, files: Mapping[str, str] = FILES) -> dict[str, str]:
    """The sections of the page as HTML by heading, in order.

    `to_method` returns the address of a method's description, given the method's name; `files` has the descriptions of
    the files to link to, by address.
    """
    audited = _audit(leaderboard)
    return {
        "Verdict": _verdict(leaderboard),
        "Leaderboard": filters(leaderboard) + all_rows(leaderboard, to_method) + fold(
            "What the columns mean", items(legend(leaderboard))),
        "Setup": "".join(fold(leaderboard.title(cell), facts(setup(cell, leaderboard), "setup"), cell is first)
                         for first in leaderboard.cells[:1] for cell in leaderboard.cells),
        **({AUDIT: audited} if audited else {}),
        "Tables": _tables(leaderboard),
        "Plots": _plots(plots),
        "Methods": fold(f"The {len(families(leaderboard))} methods, with their papers and settings", "".join(
            _method(name, family, leaderboard, registry) for name, family in families(leaderboard).items())),
        "Metrics": fold("All metrics with unit, direction, definition and reference", _metrics(leaderboard)),
        "Made from": items(leaderboard.statement) + _provenance(leaderboard, details),
        "Cite and data": _cite_and_data(leaderboard, files),
    }


def _verdict(leaderboard: Leaderboard) -> str:
    """The verdict on each cell, then on several cells together, as HTML; the notes on how a cell was tested are folded
    below its verdict."""
    said, text = verdict(leaderboard), ""
    for cell, told in zip_longest(leaderboard.cells, said):
        text += f"<h3>{escape(told.title)}</h3>{items(told.sentences)}"
        if cell is not None:
            notes = [note for table in main_tables(cell, "") for note in table.notes]
            text += fold("Tiers, noise, resolution and settings", items(notes)) if notes else ""
    return text


def _audit(leaderboard: Leaderboard) -> str:
    """The bias audit of each cell whose images have groups, as HTML; "" if there are no such cells."""
    text = ""
    for cell in leaderboard.cells:
        tables = list(audit_tables(cell, leaderboard.title(cell)))
        if tables:
            text += f"<h3>{escape(leaderboard.title(cell))}</h3>" + "".join(
                fold(table.title.partition(": ")[0].removeprefix(f"{AUDIT}, "), sortable(table, titled=False))
                for table in tables)
    return f"<p>{escape(MEANING.removeprefix(f'{AUDIT}: '))}</p>{text}" if text else ""


def _tables(leaderboard: Leaderboard) -> str:
    """The tables across cells and the further tables of each cell, beyond those of the sections above, as HTML; a
    sentence if there are none."""
    text = "".join(fold(table.title, sortable(table, titled=False)) for table in across_tables(leaderboard))
    for cell in leaderboard.cells:
        for table in further_tables(cell, leaderboard.title(cell)):
            text += fold(table.title, sortable(table, titled=False))
    return text or "<p>None: they take groups, classes, robustness, profiles or tuning.</p>"


def _plots(plots: Sequence[Plot]) -> str:
    """The plots as HTML, grouped by the part of their titles after ": ", which names the cell; those without one are of
    all cells."""
    groups: dict[str, list[Plot]] = {}
    for plot in plots:
        groups.setdefault(plot.title.partition(": ")[2] or "All cells", []).append(plot)
    return "".join(fold(name, f'<div class="plots">{"".join(map(_plot, own))}</div>', place == 0)
                   for place, (name, own) in enumerate(groups.items()))


def _cite_and_data(leaderboard: Leaderboard, files: Mapping[str, str]) -> str:
    """Links to the files with the page's figures, and the text to cite them, as HTML."""
    links = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a>: {escape(what)}</li>'
                    for name, what in files.items())
    return (f"<ul>{links}</ul><p>BibTeX of kdbench, methods, datasets and metrics, and a sentence that cites them "
            f'(<code>kdbench cite</code>):</p><pre class="cite" tabindex="0">{html.escape(cite(leaderboard))}</pre>')


def _size(leaderboard: Leaderboard) -> dict[str, str]:
    """The numbers of methods, pairs, datasets and finished runs, and the beginning of the results' hash."""
    rows = [row for cell in leaderboard.cells for row in cell.rows]
    return {
        "methods": str(len(families(leaderboard))), "pairs": str(len({cell.pair for cell in leaderboard.cells})),
        "datasets": str(len({cell.dataset for cell in leaderboard.cells})),
        "finished runs": str(sum(len(row.runs) for row in rows)),
        "results": leaderboard.results_hash[:16],
    }


def families(leaderboard: Leaderboard) -> dict[str, str]:
    """The family of each method, by the method's name, in the order of families, then names."""
    families = {row.method: row.family for cell in leaderboard.cells for row in cell.rows}
    return dict(sorted(families.items(), key=lambda item: (family_order(item[1]), item[0])))


# Plots, methods, metrics and provenance.

def _plot(plot: Plot) -> str:
    heading, told = escape(plot.title.partition(": ")[0]), prose(plot.description)
    return (f"<figure><h3>{heading}</h3>{wide(inline_svg(plot), plot.title)}"
            f"<figcaption>{told}</figcaption></figure>")


def _method(name: str, family: str, leaderboard: Leaderboard, registry: Mapping[str, Any]) -> str:
    """The description of a method as HTML that unfolds, with its results in every cell."""
    known = leaderboard.methods.get(name)
    results = [[leaderboard.title(cell), row.label, str(len(row.seeds)),
                interval(row.estimate("test_accuracy"), "share"), versus(cell, row)]
               for cell in leaderboard.cells for row in cell.rows if row.method == name]
    found = Table(f"Results of {name}", ["cell", "method", "seeds", METRICS["test_accuracy"].title, f"vs {REFERENCE}"],
                  results, 2)
    about = of_method(name, known, registry.get(name)) if known else \
        "<p>This method is not installed here, and its records say nothing of it.</p>"
    idea = f"<br>{escape(known.idea)}" if known else ""
    return (f'<details id="method-{escape(name)}"><summary>{dot(family)}<strong>{escape(name)}</strong> '
            f'<span class="quiet">{escape(family)}</span>{idea}</summary>{about}{sortable(found)}</details>')


def _metrics(leaderboard: Leaderboard) -> str:
    """The table of the metrics that some row has, with unit, better direction and definition, as HTML."""
    known = {name for cell in leaderboard.cells for row in cell.rows for name in row.metrics}
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{prose(m.definition)} '
        f"{escape(m.cited)}</td></tr>" for name, m in METRICS.items() if name in known)
    return wide('<table><thead><tr><th scope="col" class="text">metric</th><th scope="col" class="text">unit</th>'
                 '<th scope="col" class="text">better</th><th scope="col" class="text">definition</th></tr></thead>'
                 f"<tbody>{lines}</tbody></table>", "Metrics")


def _provenance(leaderboard: Leaderboard, details: Details) -> str:
    """Suites, hashes, dates and the parts of the environment that all runs share, as HTML.

    If environments differ, a table follows with a line for each environment and a column for each part that differs.
    """
    environments = [(_flat(json.loads(text)), runs) for text, runs in details.environments]
    keys = sorted({key for environment, _ in environments for key in environment})
    apart = [key for key in keys if len({environment.get(key) for environment, _ in environments}) > 1]
    shared = {key: environments[0][0][key] for key in keys if key not in apart}
    parts = facts({
        "suites": ", ".join(leaderboard.suites),
        "results (SHA-256 of weights, predictions and metrics)": leaderboard.results_hash,
        "records (SHA-256 of all files that were used)": leaderboard.records_hash,
        "runs": f"from {details.started} to {details.finished}", "this page": f"kdbench {__version__}", **shared,
    })
    if apart:
        lines = [[str(runs), *(environment.get(key, "") for key in apart)] for environment, runs in environments]
        parts += sortable(Table("Where the runs differ", ["runs", *apart], lines, 1 + len(apart)))
    return parts


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a nested environment as text, by their own keys without the keys above them; sizes in bytes get a
    unit."""
    flat: dict[str, str] = {}
    for key, value in environment.items():
        if isinstance(value, Mapping):
            flat |= _flat(value)
        elif key.endswith("_bytes"):
            flat[key.removesuffix("_bytes").replace("_", " ")] = size_text(value)
        else:
            flat[key.replace("_", " ")] = str(value)
    return flat
