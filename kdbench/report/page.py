"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import EQUAL_COMPUTE, REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.details import Details
from kdbench.analysis.reported import of_row
from kdbench.errors import plain, printable
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import Facts, MethodInfo, family_order
from kdbench.report.drawing import family_look
from kdbench.report.formatting import Table, interval, number, with_unit
from kdbench.report.plots import Plot
from kdbench.report.tables.cell import all_tables, shown_value, versus
from kdbench.report.tables.legend import legend
from kdbench.version import __version__

MAIN = ("test_accuracy", "agreement", "worst_class_accuracy", "ece", "seconds")  # metrics shown until one is chosen


def escape(text: str) -> str:
    """Any text as HTML, on one line."""
    return html.escape(plain(text))


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    """The page, style, script and plots included. `registry` has the methods by name."""
    heading = f"kdbench: {', '.join(leaderboard.suites)}"
    sections = {
        "Verdict": "".join(f"<h3>{escape(one.title)}</h3>{_items(one.sentences)}" for one in verdict(leaderboard)),
        "Leaderboard": _filters(leaderboard) + _all_rows(leaderboard),
        "Tables": "".join(map(_table, all_tables(leaderboard))) + _items(legend(leaderboard)),
        "Plots": f'<div class="plots">{"".join(map(_plot, plots))}</div>',
        "Methods": "".join(_method(name, family, leaderboard, registry)
                           for name, family in _families(leaderboard).items()),
        "Metrics": _metrics(),
        "What was used": _items(leaderboard.statement),
        "Provenance": _provenance(leaderboard, details),
    }
    links = "".join(f"<li>{_link(_anchor(name), name)}</li>" for name in sections)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
                   for name, content in sections.items())
    return (
        '<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n"
        f'<header><div class="top"><h1>{escape(heading)}</h1>'
        '<button type="button" id="theme" class="plain" hidden>Dark mode</button></div>'
        '<p class="quiet">Knowledge-distillation methods on the same teachers, students, data and batches.</p>'
        f"{_facts(_size(leaderboard))}</header>\n"
        f'<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        f'<footer><p class="quiet">Made by kdbench {escape(__version__)} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>"
    )


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


# The table of all rows, with its filters.

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
    """A drop-down list of choices (value: text) below `everything`, which filters nothing; "" for fewer than two."""
    if len(choices) < 2:
        return ""
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices.items())
    return f'<label>{label}<select name="{name}"><option value="">{everything}</option>{options}</select></label>'


def _all_rows(leaderboard: Leaderboard) -> str:
    shown = [name for name in METRICS if any(name in row.metrics for cell in leaderboard.cells for row in cell.rows)]
    shown.sort(key=lambda name: MAIN.index(name) if name in MAIN else len(MAIN))
    reported_data = _reported_data(leaderboard)
    header = "".join([
        f'<th scope="col" class="text">method</th><th scope="col">vs {REFERENCE}, points</th>',
        *(f'<th scope="col"{_metric_data(name)} title="{escape(METRICS[name].definition)}">'
          f"{escape(with_unit(name))}</th>" for name in shown),
        f'<th scope="col">seeds</th><th scope="col"{reported_data}>reported accuracy, %</th>',
        *(f'<th scope="col" class="text">{name}</th>' for name in ("family", "pair", "dataset", "without a result")),
    ])
    body = "".join(_row(cell, row, shown, reported_data) for cell in leaderboard.cells for row in cell.rows)
    return _wide('<table id="all" class="sortable"><caption>One row per method, pair and dataset. A click on a header '
                 f"sorts.</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>", "All results")


def _metric_data(name: str) -> str:
    """The attributes by which the script shows and hides the cells of a metric."""
    return f' data-metric="{name}"' + (" data-main" if name in MAIN else " hidden")


def _reported_data(leaderboard: Leaderboard) -> str:
    """The attribute that hides the column of published accuracies, if there are none for any row."""
    return "" if any(of_row(cell, row) for cell in leaderboard.cells for row in cell.rows) else " hidden"


def _row(cell: Cell, row: Row, shown: Sequence[str], reported_data: str) -> str:
    published = of_row(cell, row)
    source = f' title="{escape(published.source)}; {escape(published.differs)}"' if published else ""
    data = f'data-family="{escape(row.family)}" data-pair="{escape(cell.pair)}" data-dataset="{escape(cell.dataset)}"'
    failures = "; ".join(f"seed {f.seed} {f.status}: {f.reason}" for f in row.failures)
    return (
        f'<tr {data}><th scope="row" class="text">{_dot(row.family)}'
        f'{_link(f"method-{row.method}", row.label)}{f", {EQUAL_COMPUTE}" if cell.equal_compute else ""}</th>'
        f"<td>{_quiet_interval(versus(cell, row))}</td>"
        + "".join(f"<td{_metric_data(name)}>{_quiet_interval(shown_value(cell, row, name))}</td>" for name in shown)
        + f"<td>{len(row.seeds)}</td><td{reported_data}{source}>"
        + (number(published.accuracy, "share") if published else "") + "</td>"
        + "".join(f'<td class="text">{escape(value)}</td>' for value in (row.family, cell.pair, cell.dataset))
        + f'<td class="text note">{escape(failures)}</td></tr>'
    )


# Plots, methods, metrics and provenance.

def _plot(plot: Plot) -> str:
    image = base64.b64encode(plot.svg).decode()
    heading, told = escape(plot.title), escape(plot.description)
    shown = f'<img src="data:image/svg+xml;base64,{image}" alt="{heading}. {told}">'
    return f"<figure><h3>{heading}</h3>{_wide(shown, plot.title)}<figcaption>{told}</figcaption></figure>"


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
    return (f'<details id="method-{escape(name)}"><summary>{_dot(family)}<strong>{escape(name)}</strong> '
            f'<span class="quiet">{escape(family)}</span>{idea}</summary>{about}{_table(found)}</details>')


def _about(name: str, known: Facts, info: MethodInfo | None) -> str:
    """A method's docstring, if it is installed, its paper and its hyperparameters."""
    paper = ""
    if known.paper:
        address = escape(known.paper.url or "")
        paper = f"<p>{escape(str(known.paper))}" + (f' <a href="{address}">{address}</a>' if address else "") + "</p>"
    ranges = {p.name: (p.type, p.allowed) for p in info.hyperparameters.values()} if info else {}
    lines = [[one, str(default), *ranges.get(one, ("", ""))] for one, default in known.defaults.items()]
    parameters = _table(Table(f"Hyperparameters of {name}", ["name", "default", "type", "range"], lines, 4)) \
        if lines else "<p>No hyperparameters.</p>"
    doc = f"<pre>{html.escape(printable(info.doc))}</pre>" if info else ""
    return f"{doc}{paper}{parameters}"


def _metrics() -> str:
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{escape(m.definition)} '
        f"{escape(m.cited)}</td></tr>" for m in METRICS.values())
    return _wide('<table><thead><tr><th scope="col" class="text">metric</th><th scope="col" class="text">unit</th>'
                 '<th scope="col" class="text">better</th><th scope="col" class="text">definition</th></tr></thead>'
                 f"<tbody>{lines}</tbody></table>", "Metrics")


def _provenance(leaderboard: Leaderboard, details: Details) -> str:
    """Suites, dates and the parts of the environment that all runs share; then a table of the environments, one in a
    line, by the parts in which they differ."""
    environments = [(_flat(json.loads(text)), runs) for text, runs in details.environments]
    keys = sorted({key for environment, _ in environments for key in environment})
    apart = [key for key in keys if len({environment.get(key) for environment, _ in environments}) > 1]
    shared = {key: environments[0][0][key] for key in keys if key not in apart}
    parts = _facts({
        "suites": ", ".join(leaderboard.suites),
        "results (SHA-256 of weights, predictions and metrics)": leaderboard.results_hash,
        "records (SHA-256 of all files that were used)": leaderboard.records_hash,
        "runs": f"from {details.started} to {details.finished}", "this page": f"kdbench {__version__}", **shared,
    })
    if apart:
        lines = [[str(runs), *(environment.get(key, "") for key in apart)] for environment, runs in environments]
        parts += _table(Table("Where the runs differ", ["runs", *apart], lines, 1 + len(apart)))
    return parts


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of an environment as text, by their own keys."""
    flat: dict[str, str] = {}
    for key, value in environment.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key.replace("_", " "): str(value)}
    return flat


# Pieces of HTML.

def _file(name: str) -> str:
    return resources.files("kdbench.report").joinpath(name).read_text(encoding="utf-8")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _link(identifier: str, text: str) -> str:
    """A link to the element of this page with that id."""
    return f'<a href="#{escape(quote(identifier))}">{escape(text)}</a>'


def _items(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _facts(pairs: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in pairs.items())}</dl>"


def _dot(family: str) -> str:
    """A dot in the colour that the family has in the plots."""
    return f'<span class="dot" style="background:{family_look(family)[0]}"></span>'


def _quiet_interval(text: str) -> str:
    """A cell's text; of "mean ± width" the width in a quieter colour."""
    mean, sign, width = text.partition(" ± ")
    return escape(mean) + (f' <span class="width">± {escape(width)}</span>' if sign else "")


def _wide(content: str, label: str) -> str:
    """A table or plot that scrolls by itself on a narrow screen, by mouse or keyboard; `label` names it."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def _table(table: Table) -> str:
    """A table that a click on a header sorts, under its title and above its notes."""
    kinds = [' class="text"' if i < table.text_columns else "" for i in range(len(table.header))]
    header = "".join(f'<th scope="col"{kind}>{escape(name)}</th>'
                     for kind, name in zip(kinds, table.header, strict=True))
    lines = ""
    for first, *others in table.lines:
        cells = "".join(f"<td{kind}>{_quiet_interval(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        teacher = " class=teacher" if first == "teacher" else ""
        lines += f'<tr{teacher}><th scope="row" class="text">{escape(first)}</th>{cells}</tr>'
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in table.notes)
    return f"<h3>{escape(table.title)}</h3>" + _wide(
        f'<table class="sortable"><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>', table.title) + notes
