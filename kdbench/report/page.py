"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.costs import PROFILED
from kdbench.analysis.details import Details
from kdbench.analysis.ranking import rank
from kdbench.analysis.reported import of_row
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import FAMILIES, MethodInfo
from kdbench.report.costs import figure_of
from kdbench.report.elements import anchor, dot, facts, figure, file, items, link, table, wide
from kdbench.report.plots import Plot
from kdbench.report.table import NONE, Table
from kdbench.report.tables import across_table, cell_tables, interval, legend, number, title
from kdbench.version import __version__

MAIN = ("test_accuracy", "agreement", "worst_class_accuracy", "ece", "seconds")  # shown until a reader chooses one


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    heading = f"kdbench: {', '.join(leaderboard.suites)}"
    sections = {
        "Leaderboard": _filters(leaderboard) + _all_rows(leaderboard),
        "Tables": "".join(table(t) for cell in leaderboard.cells for t in cell_tables(cell, leaderboard))
                  + _across(leaderboard) + items(legend(leaderboard)),
        "Plots": f'<div class="plots">{"".join(map(_plot, plots))}</div>',
        "Methods": "".join(_method(name, leaderboard, registry) for name in _methods(leaderboard)),
        "Metrics": _metrics(),
        "What was used": items(leaderboard.statement),
        "Provenance": _provenance(leaderboard, details),
    }
    links = "".join(f"<li>{link(anchor(name), name)}</li>" for name in sections)
    body = "".join(f'<section id="{anchor(name)}"><h2>{name}</h2>{content}</section>'
                   for name, content in sections.items())
    return (
        '<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{file('page.css')}</style>\n</head>\n<body>\n"
        f'<header><div class="top"><h1>{escape(heading)}</h1>'
        '<button type="button" id="theme" class="plain" hidden>Dark mode</button></div>'
        '<p class="quiet">Knowledge-distillation methods on the same teachers, students, data and batches.</p>'
        f"{facts(_size(leaderboard))}</header>\n"
        f'<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        f'<footer><p class="quiet">Made by kdbench {escape(__version__)} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{file('page.js')}</script>\n</body>\n</html>"
    )


def _size(leaderboard: Leaderboard) -> dict[str, str]:
    """What a reader wants to know first: how much stands behind the tables, and which results they are."""
    rows = [row for cell in leaderboard.cells for row in cell.rows]
    return {
        "methods": str(len(_methods(leaderboard))), "pairs": str(len({cell.pair for cell in leaderboard.cells})),
        "datasets": str(len({cell.dataset for cell in leaderboard.cells})),
        "finished runs": str(sum(len(row.runs) for row in rows)),
        "results": leaderboard.hash[:16],
    }


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
        + _select("family", "Family", _names(row.family for _, row in rows), "all")
        + _select("pair", "Pair", _names(cell.pair for cell, _ in rows), "all")
        + _select("dataset", "Dataset", _names(cell.dataset for cell, _ in rows), "all")
        + _select("metric", "Metric", metrics, "the main ones")
        + '<button type="reset" class="plain">Reset</button><output id="count" class="quiet"></output></form>'
    )


def _names(values: Iterable[str]) -> dict[str, str]:
    return {value: value for value in sorted(set(values))}


def _select(name: str, label: str, choices: Mapping[str, str], everything: str) -> str:
    """A choice; none where there is nothing to choose."""
    if len(choices) < 2:
        return ""
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices.items())
    return f'<label>{label}<select name="{name}"><option value="">{everything}</option>{options}</select></label>'


def _all_rows(leaderboard: Leaderboard) -> str:
    shown = [name for name in METRICS if any(name in row.metrics for cell in leaderboard.cells for row in cell.rows)]
    shown.sort(key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN))
    extra = _reported_data(leaderboard)
    header = "".join([
        f'<th scope="col" class="text">method</th><th scope="col">vs {REFERENCE}, points</th>',
        *(f'<th scope="col"{_metric_data(name)} title="{escape(METRICS[name].definition)}">{escape(_header(name))}</th>'
          for name in shown),
        f'<th scope="col">seeds</th><th scope="col"{extra}>reported accuracy, %</th>',
        *(f'<th scope="col" class="text">{name}</th>' for name in ("family", "pair", "dataset", "without a result")),
    ])
    body = "".join(_row(cell, row, shown, extra) for cell in leaderboard.cells for row in cell.rows)
    return wide('<table id="all" class="sortable"><caption>One row per method, pair and dataset. A click on a header '
                f"sorts.</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>", "All results")


def _metric_data(name: str) -> str:
    return f' data-metric="{name}"' + (" data-main" if name in MAIN else " hidden")


def _header(name: str) -> str:
    unit = {"share": "%"}.get(METRICS[name].unit, METRICS[name].unit)
    return f"{METRICS[name].title}, {unit}" if unit else METRICS[name].title


def _reported_data(leaderboard: Leaderboard) -> str:
    """Of a column that is there only if somebody published a figure for one of the rows."""
    return "" if any(of_row(cell, row) for cell in leaderboard.cells for row in cell.rows) else " hidden"


def _row(cell: Cell, row: Row, shown: Sequence[str], extra: str) -> str:
    published = of_row(cell, row)
    source = f' title="{escape(published.source)}; {escape(published.differs)}"' if published else ""
    data = f'data-family="{escape(row.family)}" data-pair="{escape(cell.pair)}" data-dataset="{escape(cell.dataset)}"'
    failures = "; ".join(f"seed {f.seed} {f.status}: {f.reason}" for f in row.failures)
    return (
        f'<tr {data}><th scope="row" class="text">{dot(row.family)}{link(f"method-{row.method}", row.label)}</th>'
        f"<td>{figure(_vs(row))}</td>"
        + "".join(f"<td{_metric_data(name)}>{figure(_measured(cell, row, name))}</td>" for name in shown)
        + f"<td>{len(row.seeds)}</td><td{extra}{source}>"
        + (number(published.accuracy, "share") if published else "") + "</td>"
        + "".join(f'<td class="text">{escape(value)}</td>' for value in (row.family, cell.pair, cell.dataset))
        + f'<td class="text note">{escape(failures)}</td></tr>'
    )


def _vs(row: Row) -> str:
    return "" if row.is_reference else interval(row.differences.get(REFERENCE), "share", "+")


def _measured(cell: Cell, row: Row, name: str) -> str:
    estimate, unit = row.estimate(name), METRICS[name].unit
    if estimate is not None and name in PROFILED:
        return figure_of(cell.costs, name, row.label, estimate.mean)
    if unit in ("share", "seconds", "bytes") or estimate is None:
        return interval(estimate, unit)
    return f"{estimate.mean:.4f} ± " + (NONE if estimate.half_width is None else f"{estimate.half_width:.4f}")


# Tables and plots as they are elsewhere.

def _across(leaderboard: Leaderboard) -> str:
    ranking = rank(leaderboard)
    return table(across_table(ranking)) if ranking else ""


def _plot(plot: Plot) -> str:
    image = base64.b64encode(plot.svg).decode()
    heading, told = escape(plot.title), escape(plot.description)
    shown = f'<img src="data:image/svg+xml;base64,{image}" alt="{heading}. {told}">'
    return f"<figure><h3>{heading}</h3>{wide(shown, plot.title)}<figcaption>{told}</figcaption></figure>"


# Methods and metrics.

def _method(name: str, leaderboard: Leaderboard, registry: Mapping[str, Any]) -> str:
    info = registry.get(name)
    results = [[title(cell, leaderboard), row.label, str(len(row.seeds)),
                interval(row.estimate("test_accuracy"), "share"), _vs(row)]
               for cell in leaderboard.cells for row in cell.rows if row.method == name]
    found = Table(f"Results of {name}", ["cell", "method", "seeds", METRICS["test_accuracy"].title, f"vs {REFERENCE}"],
                  results, 2)
    about = _about(info) if info else "<p>This method is not installed here; its results are those of its records.</p>"
    family = info.family if info else "unknown"
    idea = f"<br>{escape(info.idea)}" if info else ""
    return (f'<details id="method-{escape(name)}"><summary>{dot(family)}<strong>{escape(name)}</strong> '
            f'<span class="quiet">{escape(family)}</span>{idea}</summary>{about}{table(found)}</details>')


def _about(info: MethodInfo) -> str:
    paper = ""
    if info.paper:
        link = f' <a href="{escape(info.paper.url)}">{escape(info.paper.url)}</a>' if info.paper.url else ""
        paper = f"<p>{escape(str(info.paper))}{link}</p>"
    lines = [[p.name, p.type, str(p.default), p.allowed] for p in info.hyperparameters.values()]
    parameters = table(Table(f"Hyperparameters of {info.name}", ["name", "type", "default", "range"], lines, 4)) \
        if lines else "<p>No hyperparameters.</p>"
    return f"<pre>{escape(info.doc)}</pre>{paper}{parameters}"


def _metrics() -> str:
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{escape(m.definition)} '
        f"{escape(m.reference)}</td></tr>" for m in METRICS.values())
    return wide('<table><thead><tr><th scope="col" class="text">metric</th><th scope="col" class="text">unit</th>'
                 '<th scope="col" class="text">better</th><th scope="col" class="text">definition</th></tr></thead>'
                 f"<tbody>{lines}</tbody></table>", "Metrics")


def _provenance(leaderboard: Leaderboard, details: Details) -> str:
    """What all runs share, then a line for each environment with that in which they differ."""
    environments = [(_flat(json.loads(text)), runs) for text, runs in details.environments]
    keys = sorted({key for environment, _ in environments for key in environment})
    apart = [key for key in keys if len({environment.get(key) for environment, _ in environments}) > 1]
    shared = {key: environments[0][0][key] for key in keys if key not in apart}
    parts = facts({
        "suites": ", ".join(leaderboard.suites), "results (SHA-256 of the records)": leaderboard.hash,
        "runs": f"from {details.started} to {details.finished}", "this page": f"kdbench {__version__}", **shared,
    })
    if apart:
        lines = [[str(runs), *(environment.get(key, "") for key in apart)] for environment, runs in environments]
        parts += table(Table("Where the runs differ", ["runs", *apart], lines, 1 + len(apart)))
    return parts


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in environment.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key.replace("_", " "): str(value)}
    return flat
