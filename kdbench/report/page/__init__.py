"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import REFERENCE, Leaderboard
from kdbench.analysis.details import Details
from kdbench.errors import printable
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import Facts, MethodInfo, family_order
from kdbench.report.cite import cite
from kdbench.report.formatting import Table, interval
from kdbench.report.page.pieces import (
    anchor,
    dot,
    escape,
    facts,
    fold,
    items,
    link,
    prose,
    sortable,
    wide,
)
from kdbench.report.page.rows import all_rows, filters
from kdbench.report.plots import Plot, inline_svg
from kdbench.report.setup import setup
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.cell import further_tables, main_tables, versus
from kdbench.report.tables.legend import legend
from kdbench.results.sizes import size_text
from kdbench.version import __version__, address

__all__ = ["to_html"]


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    """The page, style, script and plots included. `registry` has the methods by name."""
    heading = f"kdbench: {', '.join(leaderboard.suites)}"
    sections = {
        "Verdict": _verdict(leaderboard),
        "Leaderboard": filters(leaderboard) + all_rows(leaderboard) + fold(
            "What the columns mean", items(legend(leaderboard))),
        "Setup": "".join(fold(leaderboard.title(cell), facts(setup(cell, leaderboard), "setup"), cell is first)
                         for first in leaderboard.cells[:1] for cell in leaderboard.cells),
        "Tables": _tables(leaderboard),
        "Plots": _plots(plots),
        "Methods": fold(f"The {len(_families(leaderboard))} methods, with their papers and settings", "".join(
            _method(name, family, leaderboard, registry) for name, family in _families(leaderboard).items())),
        "Metrics": fold("All metrics with unit, direction, definition and reference", _metrics(leaderboard)),
        "Made from": items(leaderboard.statement) + _provenance(leaderboard, details),
        "Cite and data": _cite_and_data(leaderboard),
    }
    links = "".join(f"<li>{link(anchor(name), name)}</li>" for name in sections)
    body = "".join(f'<section id="{anchor(name)}"><h2>{name}</h2>{content}</section>'
                   for name, content in sections.items())
    home = address()
    name = f'<a href="{escape(home)}">kdbench {escape(__version__)}</a>' if home else f"kdbench {escape(__version__)}"
    return (
        '<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
        f'<header><div class="top"><h1>{escape(heading)}</h1>'
        '<button type="button" id="theme" class="plain" hidden>Dark mode</button></div>'
        '<p class="quiet">Knowledge-distillation methods on the same teachers, students, data and batches.</p>'
        f"{facts(_size(leaderboard))}</header>\n"
        f'<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        f'<footer><p class="quiet">Made by {name} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>"
    )


def _verdict(leaderboard: Leaderboard) -> str:
    """What the leaderboard says, by cell, with how it was tested."""
    said, text = verdict(leaderboard), ""
    for cell, told in zip_longest(leaderboard.cells, said):
        text += f"<h3>{escape(told.title)}</h3>{items(told.sentences)}"
        if cell is not None:
            notes = [note for table in main_tables(cell, "") for note in table.notes]
            text += fold("Tiers, noise, resolution and settings", items(notes)) if notes else ""
    return text


def _tables(leaderboard: Leaderboard) -> str:
    """The tables across cells and, by cell, those that tell what the leaderboard above does not."""
    text = "".join(fold(table.title, sortable(table, titled=False)) for table in across_tables(leaderboard))
    for cell in leaderboard.cells:
        for table in further_tables(cell, leaderboard.title(cell)):
            text += fold(table.title, sortable(table, titled=False))
    return text or "<p>None: they take groups, classes, robustness, profiles or tuning.</p>"


def _plots(plots: Sequence[Plot]) -> str:
    """The plots by the cell that they are of, which stands at the end of their titles."""
    groups: dict[str, list[Plot]] = {}
    for plot in plots:
        groups.setdefault(plot.title.partition(": ")[2] or "All cells", []).append(plot)
    return "".join(fold(name, f'<div class="plots">{"".join(map(_plot, own))}</div>', place == 0)
                   for place, (name, own) in enumerate(groups.items()))


def _cite_and_data(leaderboard: Leaderboard) -> str:
    """The files that stand beside the page, and how to cite it."""
    files = {"leaderboard.csv": "a row for each method and cell", "runs.csv": "a row for each run",
             "leaderboard.json": "everything, nested", "leaderboard.tex": "the tables for a paper",
             "leaderboard.md": "the tables as text", "records/": "the records that all of it is made from"}
    links = "".join(f'<li><a href="{name}">{name}</a>: {what}</li>' for name, what in files.items())
    return (f"<ul>{links}</ul><p>BibTeX of kdbench, methods, datasets and metrics, and a sentence that cites them "
            f'(<code>kdbench cite</code>):</p><pre class="cite" tabindex="0">{html.escape(cite(leaderboard))}</pre>')


def _size(leaderboard: Leaderboard) -> dict[str, str]:
    """The numbers of methods, pairs, datasets and finished runs, and the beginning of the results' hash."""
    rows = [row for cell in leaderboard.cells for row in cell.rows]
    return {
        "methods": str(len(_families(leaderboard))), "pairs": str(len({cell.pair for cell in leaderboard.cells})),
        "datasets": str(len({cell.dataset for cell in leaderboard.cells})),
        "finished runs": str(sum(len(row.runs) for row in rows)),
        "results": leaderboard.results_hash[:16],
    }


def _families(leaderboard: Leaderboard) -> dict[str, str]:
    """The family of each method, by the method's name, in the order of families, then names."""
    families = {row.method: row.family for cell in leaderboard.cells for row in cell.rows}
    return dict(sorted(families.items(), key=lambda item: (family_order(item[1]), item[0])))


# Plots, methods, metrics and provenance.

def _plot(plot: Plot) -> str:
    heading, told = escape(plot.title.partition(": ")[0]), prose(plot.description)
    return (f"<figure><h3>{heading}</h3>{wide(inline_svg(plot), plot.title)}"
            f"<figcaption>{told}</figcaption></figure>")


def _method(name: str, family: str, leaderboard: Leaderboard, registry: Mapping[str, Any]) -> str:
    """What is known of a method, to unfold, and its results in every cell."""
    known = leaderboard.methods.get(name)
    results = [[leaderboard.title(cell), row.label, str(len(row.seeds)),
                interval(row.estimate("test_accuracy"), "share"), versus(cell, row)]
               for cell in leaderboard.cells for row in cell.rows if row.method == name]
    found = Table(f"Results of {name}", ["cell", "method", "seeds", METRICS["test_accuracy"].title, f"vs {REFERENCE}"],
                  results, 2)
    about = _about(name, known, registry.get(name)) if known else \
        "<p>This method is not installed here, and its records say nothing of it.</p>"
    idea = f"<br>{escape(known.idea)}" if known else ""
    return (f'<details id="method-{escape(name)}"><summary>{dot(family)}<strong>{escape(name)}</strong> '
            f'<span class="quiet">{escape(family)}</span>{idea}</summary>{about}{sortable(found)}</details>')


def _about(name: str, known: Facts, info: MethodInfo | None) -> str:
    """A method's docstring, if it is installed, its paper and its hyperparameters."""
    paper = ""
    if known.paper:
        address = escape(known.paper.url or "")
        paper = f"<p>{escape(str(known.paper))}" + (f' <a href="{address}">{address}</a>' if address else "") + "</p>"
    ranges = {p.name: (p.type, p.allowed) for p in info.hyperparameters.values()} if info else {}
    lines = [[one, str(default), *ranges.get(one, ("", ""))] for one, default in known.defaults.items()]
    parameters = sortable(Table(f"Hyperparameters of {name}", ["name", "default", "type", "range"], lines, 4)) \
        if lines else "<p>No hyperparameters.</p>"
    doc = f"<pre>{html.escape(printable(info.doc))}</pre>" if info else ""
    return f"{doc}{paper}{parameters}"


def _metrics(leaderboard: Leaderboard) -> str:
    """Those that some method has."""
    known = {name for cell in leaderboard.cells for row in cell.rows for name in row.metrics}
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{prose(m.definition)} '
        f"{escape(m.cited)}</td></tr>" for name, m in METRICS.items() if name in known)
    return wide('<table><thead><tr><th scope="col" class="text">metric</th><th scope="col" class="text">unit</th>'
                 '<th scope="col" class="text">better</th><th scope="col" class="text">definition</th></tr></thead>'
                 f"<tbody>{lines}</tbody></table>", "Metrics")


def _provenance(leaderboard: Leaderboard, details: Details) -> str:
    """Suites, dates and the parts of the environment that all runs share; then a table of the environments, one in a
    line, by the parts in which they differ."""
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
    """The leaves of an environment as text, by their own keys."""
    flat: dict[str, str] = {}
    for key, value in environment.items():
        if isinstance(value, Mapping):
            flat |= _flat(value)
        elif key.endswith("_bytes"):
            flat[key.removesuffix("_bytes").replace("_", " ")] = size_text(value)
        else:
            flat[key.replace("_", " ")] = str(value)
    return flat


def _file(name: str) -> str:
    return resources.files("kdbench.report.page").joinpath(name).read_text(encoding="utf-8")
