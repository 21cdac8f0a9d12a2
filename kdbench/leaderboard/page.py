"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from kdbench import __version__
from kdbench.leaderboard.details import Details
from kdbench.leaderboard.plots import Plot
from kdbench.leaderboard.ranking import rank
from kdbench.leaderboard.table import REFERENCE, Cell, Leaderboard, Row
from kdbench.leaderboard.tables import NONE, Table, across_table, cell_tables, interval, legend, title
from kdbench.metrics import METRICS
from kdbench.registry import FAMILIES, MethodInfo

MAIN = ("test_accuracy", "agreement", "worst_class_accuracy", "ece", "seconds")  # shown until a reader chooses one


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    heading = f"kdbench: {', '.join(leaderboard.suites)}"
    sections = {
        "Leaderboard": _filters(leaderboard) + _all_rows(leaderboard),
        "Cells": "".join(_table(table) for cell in leaderboard.cells for table in cell_tables(cell, leaderboard))
                 + _across(leaderboard) + _list(legend(leaderboard)),
        "Plots": "".join(map(_figure, plots)),
        "Methods": "".join(_method(name, leaderboard, registry) for name in _methods(leaderboard)),
        "Metrics": _metrics(),
        "What was used": _list(leaderboard.statement),
        "Provenance": _provenance(leaderboard, details),
    }
    links = "".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in sections)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
                   for name, content in sections.items())
    return (
        '<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(heading)}</h1><p class="quiet">Knowledge-distillation methods on the same teachers, '
        f'students, data and batches. Results <span class="hash">{leaderboard.hash}</span></p>'
        '<button type="button" id="theme" class="plain theme" hidden>Dark mode</button>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>\n{body}\n</main>\n'
        f'<footer><p class="quiet">Made by kdbench {escape(__version__)} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>"
    )


def _file(name: str) -> str:
    return resources.files("kdbench.leaderboard").joinpath(name).read_text(encoding="utf-8")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _methods(leaderboard: Leaderboard) -> list[str]:
    families = {row.method: row.family for cell in leaderboard.cells for row in cell.rows}
    order = (*FAMILIES, "unknown")
    return sorted(families, key=lambda name: (order.index(families[name]) if families[name] in order else 99, name))


# The table of everything.

def _filters(leaderboard: Leaderboard) -> str:
    rows = [(cell, row) for cell in leaderboard.cells for row in cell.rows]
    metrics = {name: METRICS[name].title for name in METRICS if any(name in row.metrics for _, row in rows)}
    return (
        '<form id="filters" hidden aria-label="Filter the table">'
        '<label>Method<input type="search" name="search" autocomplete="off"></label>'
        + _select("family", "Family", {name: name for name in sorted({row.family for _, row in rows})}, "all")
        + _select("pair", "Pair", {name: name for name in sorted({cell.pair for cell, _ in rows})}, "all")
        + _select("dataset", "Dataset", {name: name for name in sorted({cell.dataset for cell, _ in rows})}, "all")
        + _select("metric", "Metric", metrics, "the main ones")
        + '<button type="reset" class="plain">Reset</button><output id="count" class="quiet"></output></form>'
    )


def _select(name: str, label: str, choices: Mapping[str, str], everything: str) -> str:
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices.items())
    return f'<label>{label}<select name="{name}"><option value="">{everything}</option>{options}</select></label>'


def _all_rows(leaderboard: Leaderboard) -> str:
    shown = [name for name in METRICS if any(name in row.metrics for cell in leaderboard.cells for row in cell.rows)]
    header = "".join([
        *(f'<th scope="col" class="text">{name}</th>' for name in ("method", "family", "pair", "dataset")),
        '<th scope="col">seeds</th>', f'<th scope="col">vs {REFERENCE}, points</th>',
        *(f'<th scope="col"{_metric_data(name)} title="{escape(METRICS[name].definition)}">{escape(_header(name))}</th>'
          for name in shown),
        '<th scope="col" class="text">without a result</th>',
    ])
    body = "".join(_row(cell, row, shown) for cell in leaderboard.cells for row in cell.rows)
    return _wide(f'<table id="all" class="sortable"><caption>One row per method and cell; a click on a header sorts.'
                 f"</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>", "All results")


def _metric_data(name: str) -> str:
    return f' data-metric="{name}"' + (" data-main" if name in MAIN else " hidden")


def _header(name: str) -> str:
    unit = {"share": "%"}.get(METRICS[name].unit, METRICS[name].unit)
    return f"{METRICS[name].title}, {unit}" if unit else METRICS[name].title


def _row(cell: Cell, row: Row, shown: Sequence[str]) -> str:
    data = f'data-family="{escape(row.family)}" data-pair="{escape(cell.pair)}" data-dataset="{escape(cell.dataset)}"'
    link = f'<a href="#method-{escape(row.method)}">{escape(row.label)}</a>'
    failures = "; ".join(f"seed {f.seed} {f.status}: {f.reason}" for f in row.failures)
    return (
        f'<tr {data}><th scope="row" class="text">{link}</th>'
        + "".join(f'<td class="text">{escape(value)}</td>' for value in (row.family, cell.pair, cell.dataset))
        + f"<td>{len(row.seeds)}</td><td>{_vs(row)}</td>"
        + "".join(f"<td{_metric_data(name)}>{_measured(row, name)}</td>" for name in shown)
        + f'<td class="text note">{escape(failures)}</td></tr>'
    )


def _vs(row: Row) -> str:
    return "" if row.is_reference else interval(row.differences.get(REFERENCE), "share", "+")


def _measured(row: Row, name: str) -> str:
    estimate, unit = row.estimate(name), METRICS[name].unit
    if unit in ("share", "seconds", "bytes") or estimate is None:
        return interval(estimate, unit)
    return f"{estimate.mean:.4f} ± " + (NONE if estimate.half_width is None else f"{estimate.half_width:.4f}")


# Tables and plots as they are elsewhere.

def _wide(content: str, label: str) -> str:
    """A table that scrolls by itself on a narrow screen, by keyboard too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def _table(table: Table) -> str:
    kinds = [' class="text"' if i < table.text_columns else "" for i in range(len(table.header))]
    header = "".join(f'<th scope="col"{kind}>{escape(name)}</th>'
                     for kind, name in zip(kinds, table.header, strict=True))
    lines = ""
    for line in table.lines:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True))
        lines += f"<tr{' class=teacher' if line[0] == 'teacher' else ''}>{cells}</tr>"
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in table.notes)
    return f"<h3>{escape(table.title)}</h3>" + _wide(
        f'<table class="sortable"><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>', table.title) + notes


def _across(leaderboard: Leaderboard) -> str:
    ranking = rank(leaderboard)
    return _table(across_table(ranking)) if ranking else ""


def _figure(plot: Plot) -> str:
    image = base64.b64encode(plot.svg).decode()
    heading, told = escape(plot.title), escape(plot.description)
    return (f'<figure><h3>{heading}</h3><img src="data:image/svg+xml;base64,{image}" alt="{heading}. {told}">'
            f"<figcaption>{told}</figcaption></figure>")


# Methods and metrics.

def _method(name: str, leaderboard: Leaderboard, registry: Mapping[str, Any]) -> str:
    info = registry[name] if name in registry else None  # noqa: SIM401  a Registry's `get` raises
    results = [[title(cell, leaderboard), row.label, str(len(row.seeds)),
                interval(row.estimate("test_accuracy"), "share"), _vs(row)]
               for cell in leaderboard.cells for row in cell.rows if row.method == name]
    table = Table(f"Results of {name}", ["cell", "method", "seeds", METRICS["test_accuracy"].title, f"vs {REFERENCE}"],
                  results, 2)
    about = _about(info) if info else "<p>This method is not installed here; its results are those of its records.</p>"
    family = info.family if info else "unknown family"
    idea = f": {escape(info.idea)}" if info else ""
    return (f'<details id="method-{escape(name)}"><summary><strong>{escape(name)}</strong> ({escape(family)}){idea}'
            f"</summary>{about}{_table(table)}</details>")


def _about(info: MethodInfo) -> str:
    paper = ""
    if info.paper:
        link = f' <a href="{escape(info.paper.url)}">{escape(info.paper.url)}</a>' if info.paper.url else ""
        paper = f"<p>{escape(str(info.paper))}{link}</p>"
    lines = [[p.name, p.type, str(p.default), _range(p.range, p.type)] for p in info.hyperparameters.values()]
    parameters = _table(Table(f"Hyperparameters of {info.name}", ["name", "type", "default", "range"], lines, 4)) \
        if lines else "<p>No hyperparameters.</p>"
    return f"<pre>{escape(info.doc)}</pre>{paper}{parameters}"


def _range(allowed: tuple | None, kind: str) -> str:
    if allowed is None:
        return "any"
    return f"{allowed[0]} to {allowed[1]}" if kind in ("int", "float") else ", ".join(map(str, allowed))


def _metrics() -> str:
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{escape(m.definition)} '
        f"{escape(m.reference)}</td></tr>" for m in METRICS.values())
    return _wide('<table><thead><tr><th scope="col" class="text">metric</th><th scope="col" class="text">unit</th>'
                 '<th scope="col" class="text">better</th><th scope="col" class="text">definition</th></tr></thead>'
                 f"<tbody>{lines}</tbody></table>", "Metrics")


def _provenance(leaderboard: Leaderboard, details: Details) -> str:
    facts = [
        f"Suites: {', '.join(leaderboard.suites)}", f"Results (SHA-256 of the records): {leaderboard.hash}",
        f"Runs: from {details.started} to {details.finished}", f"kdbench {__version__} made this page",
    ]
    parts = [_list(facts)]
    for environment, runs in details.environments:
        lines = [f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}"
                 for name, value in sorted(json.loads(environment).items())]
        parts.append(f"<h3>Machine and versions of {runs} runs</h3>{_list(lines)}")
    return "".join(parts)
