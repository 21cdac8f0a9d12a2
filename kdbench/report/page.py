"""The report as one HTML page that needs no network: tables to sort and filter, plots, methods, metrics, provenance.

Every text that comes from records, methods or datasets goes through `escape`: a method's docstring may hold HTML.
"""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any
from urllib.parse import quote

from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import EQUAL_COMPUTE, REFERENCE, REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.details import Details
from kdbench.analysis.reported import of_row
from kdbench.errors import plain, printable
from kdbench.metrics.catalog import METRICS
from kdbench.plugins.source import Facts, MethodInfo, family_order
from kdbench.report.cite import cite
from kdbench.report.drawing import family_look
from kdbench.report.formatting import BETTER, DAGGER, UNCLEAR, WORSE, Table, interval, number, with_unit
from kdbench.report.plots import Plot, inline_svg
from kdbench.report.setup import setup
from kdbench.report.tables.across import across_tables
from kdbench.report.tables.cell import cell_tables, main_tables, shown_value, versus
from kdbench.report.tables.legend import legend
from kdbench.results.sizes import size_text
from kdbench.version import __version__, address

SAID = {BETTER: "better", WORSE: "worse", UNCLEAR: "unclear"}  # by mark
MAIN = ("test_accuracy", "agreement", "worst_class_accuracy", "ece", "seconds")  # metrics shown until one is chosen


def escape(text: str) -> str:
    """Any text as HTML, on one line."""
    return html.escape(plain(text))


def prose(text: str) -> str:
    """Any text as HTML, on one line; what stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def to_html(leaderboard: Leaderboard, details: Details, plots: Sequence[Plot], registry: Mapping[str, Any]) -> str:
    """The page, style, script and plots included. `registry` has the methods by name."""
    heading = f"kdbench: {', '.join(leaderboard.suites)}"
    sections = {
        "Verdict": _verdict(leaderboard),
        "Leaderboard": _filters(leaderboard) + _all_rows(leaderboard) + _fold(
            "What the columns mean", _items(legend(leaderboard))),
        "Setup": "".join(_fold(leaderboard.title(cell), _facts(setup(cell, leaderboard), "setup"), cell is first)
                         for first in leaderboard.cells[:1] for cell in leaderboard.cells),
        "Tables": _tables(leaderboard),
        "Plots": _plots(plots),
        "Methods": _fold(f"The {len(_families(leaderboard))} methods, with their papers and settings", "".join(
            _method(name, family, leaderboard, registry) for name, family in _families(leaderboard).items())),
        "Metrics": _fold("All metrics with unit, direction, definition and reference", _metrics(leaderboard)),
        "Made from": _items(leaderboard.statement) + _provenance(leaderboard, details),
        "Cite and data": _cite_and_data(leaderboard),
    }
    links = "".join(f"<li>{_link(_anchor(name), name)}</li>" for name in sections)
    body = "".join(f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
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
        f"{_facts(_size(leaderboard))}</header>\n"
        f'<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>\n<main>\n{body}\n</main>\n'
        f'<footer><p class="quiet">Made by {name} from the records alone; '
        "<code>kdbench report --check</code> says whether it still is what they give.</p></footer>\n"
        f"<script>\n{_file('page.js')}</script>\n</body>\n</html>"
    )


def _verdict(leaderboard: Leaderboard) -> str:
    """What the leaderboard says, by cell, with how it was tested."""
    said, text = verdict(leaderboard), ""
    for cell, told in zip_longest(leaderboard.cells, said):
        text += f"<h3>{escape(told.title)}</h3>{_items(told.sentences)}"
        if cell is not None:
            notes = [note for table in main_tables(cell, "") for note in table.notes]
            text += _fold("Tiers, noise, resolution and settings", _items(notes)) if notes else ""
    return text


def _tables(leaderboard: Leaderboard) -> str:
    """The tables across cells and, by cell, those that tell what the leaderboard above does not."""
    text = "".join(_fold(table.title, _table(table, titled=False)) for table in across_tables(leaderboard))
    for cell in leaderboard.cells:
        name = leaderboard.title(cell)
        known = len(main_tables(cell, name))  # they stand first, and their rows in the leaderboard above
        for table in cell_tables(cell, leaderboard)[known:]:
            text += _fold(table.title, _table(table, titled=False))
    return text or "<p>None: they take groups, classes, robustness, profiles or tuning.</p>"


def _plots(plots: Sequence[Plot]) -> str:
    """The plots by the cell that they are of, which stands at the end of their titles."""
    groups: dict[str, list[Plot]] = {}
    for plot in plots:
        groups.setdefault(plot.title.partition(": ")[2] or "All cells", []).append(plot)
    return "".join(_fold(name, f'<div class="plots">{"".join(map(_plot, own))}</div>', place == 0)
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
        '<th scope="col" class="text">method</th>',
        *map(_metric_header, [name for name in shown if name == MAIN[0]]),
        *(f'<th scope="col" data-better="higher">vs {name}, points</th>' for name in REFERENCES),
        *map(_metric_header, [name for name in shown if name != MAIN[0]]),
        f'<th scope="col">seeds</th><th scope="col"{reported_data}>reported accuracy, %</th>',
        *(f'<th scope="col" class="text">{name}</th>' for name in ("family", "conditions", "without a result")),
    ])
    body = "".join(_teacher(cell, shown, reported_data) + "".join(
        _row(cell, row, shown, reported_data) for row in cell.rows) for cell in leaderboard.cells)
    return _wide('<table id="all" class="sortable"><caption>One row per method, pair and dataset. A click on a header '
                 "sorts; so does choosing a metric. ↑ better, ↓ worse, ? unclear, at 5 % after correction."
                 f"</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>", "All results")


def _metric_header(name: str) -> str:
    metric = METRICS[name]
    return (f'<th scope="col"{_metric_data(name)} data-better="{metric.better or "higher"}" '
            f'title="{escape(metric.definition).replace("`", "")}">{escape(with_unit(name))}</th>')


def _metric_data(name: str) -> str:
    """The attributes by which the script shows and hides the cells of a metric."""
    return f' data-metric="{name}"' + (" data-main" if name in MAIN else " hidden")


def _reported_data(leaderboard: Leaderboard) -> str:
    """The attribute that hides the column of published accuracies, if there are none for any row."""
    return "" if any(of_row(cell, row) for cell in leaderboard.cells for row in cell.rows) else " hidden"


def _teacher(cell: Cell, shown: Sequence[str], reported_data: str) -> str:
    """The row of a cell's teacher, whose figures are a yardstick."""
    teacher = cell.teacher
    if teacher is None or not teacher.metrics:
        return ""
    cells = [f"<td{_metric_data(name)}>"
             f"{number(teacher.metrics[name], METRICS[name].unit) if name in teacher.metrics else ''}</td>"
             for name in shown]
    first = cells.pop(0) if shown[:1] == [MAIN[0]] else ""
    return (f'<tr class="teacher" {_data(cell, "")}><th scope="row" class="text">teacher{_place(cell)}</th>{first}'
            f'{"<td></td>" * len(REFERENCES)}{"".join(cells)}<td></td><td{reported_data}></td>'
            f'<td class="text">{escape(teacher.architecture)}</td><td class="text"></td><td class="text"></td></tr>')


def _data(cell: Cell, family: str) -> str:
    """The attributes by which the script filters a row."""
    return f'data-family="{escape(family)}" data-pair="{escape(cell.pair)}" data-dataset="{escape(cell.dataset)}"'


def _place(cell: Cell, *more: str) -> str:
    """Where a row's figures are from, below its name."""
    told = " · ".join([cell.pair, cell.dataset, *([EQUAL_COMPUTE] if cell.equal_compute else []), *more])
    return f'<span class="place">{escape(told)}</span>'


def _row(cell: Cell, row: Row, shown: Sequence[str], reported_data: str) -> str:
    published = of_row(cell, row)
    source = f' title="{escape(published.source)}; {escape(published.differs)}"' if published else ""
    failures = "; ".join(f"seed {f.seed} {f.status}: {f.reason}" for f in row.failures)
    cells = [f"<td{_metric_data(name)}>{_figure(shown_value(cell, row, name), row, name)}</td>" for name in shown]
    first = cells.pop(0) if shown[:1] == [MAIN[0]] else ""
    return (
        f'<tr {_data(cell, row.family)}><th scope="row" class="text">{_dot(row.family)}'
        f'{_link(f"method-{row.method}", row.label)}{_place(cell, *["without data"] * row.data_free)}</th>{first}'
        + "".join(f"<td>{_quiet_interval(versus(cell, row, name))}</td>" for name in REFERENCES) + "".join(cells)
        + f"<td>{len(row.seeds)}</td><td{reported_data}{source}>"
        + (number(published.accuracy, "share") if published else "") + "</td>"
        + "".join(f'<td class="text">{escape(value)}</td>' for value in (row.family, "; ".join(row.conditions)))
        + f'<td class="text note">{escape(failures)}</td></tr>'
    )


def _figure(text: str, row: Row, metric: str) -> str:
    """A metric's value; an accuracy of a network that is larger than the plain student with a dagger."""
    return _quiet_interval(text) + (DAGGER if metric == MAIN[0] and row.larger else "")


# Plots, methods, metrics and provenance.

def _plot(plot: Plot) -> str:
    heading, told = escape(plot.title.partition(": ")[0]), prose(plot.description)
    return (f"<figure><h3>{heading}</h3>{_wide(inline_svg(plot), plot.title)}"
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


def _metrics(leaderboard: Leaderboard) -> str:
    """Those that some method has."""
    known = {name for cell in leaderboard.cells for row in cell.rows for name in row.metrics}
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(m.title)}</th><td class="text">{escape(m.unit or "number")}</td>'
        f'<td class="text">{m.better or ""}</td><td class="text note">{prose(m.definition)} '
        f"{escape(m.cited)}</td></tr>" for name, m in METRICS.items() if name in known)
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
        if isinstance(value, Mapping):
            flat |= _flat(value)
        elif key.endswith("_bytes"):
            flat[key.removesuffix("_bytes").replace("_", " ")] = size_text(value)
        else:
            flat[key.replace("_", " ")] = str(value)
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
    return f"<ul>{''.join(f'<li>{prose(line)}</li>' for line in lines)}</ul>"


def _fold(title: str, content: str, unfolded: bool = False) -> str:
    """Content under a title that opens and closes it."""
    return (f'<details class="fold"{" open" if unfolded else ""}><summary><h3>{escape(title)}</h3></summary>{content}'
            "</details>")


def _facts(pairs: Mapping[str, str], kind: str = "") -> str:
    told = "".join(f"<div><dt>{escape(k)}</dt><dd>{prose(v)}</dd></div>" for k, v in pairs.items())
    return f"<dl{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{told}</dl>"


def _dot(family: str) -> str:
    """A dot in the colour that the family has in the plots."""
    return f'<span class="dot" style="background:{family_look(family)[0]}"></span>'


def _quiet_interval(text: str) -> str:
    """A cell's text; of "mean ± width" the width in a quieter colour, and a mark behind it in the colour of what it
    says."""
    mean, sign, width = text.partition(" ± ")
    if not sign:
        return escape(mean)
    sure = next((mark for mark in SAID if width.endswith(mark)), "")
    told = f'<span class="{SAID[sure]}" title="{SAID[sure]}">{sure}</span>' if sure else ""
    return f'{escape(mean)} <span class="width">± {escape(width.removesuffix(sure))}</span>{told}'


def _wide(content: str, label: str) -> str:
    """A table or plot that scrolls by itself on a narrow screen, by mouse or keyboard; `label` names it."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def _table(table: Table, titled: bool = True) -> str:
    """A table that a click on a header sorts, above its notes, and under its title unless that stands elsewhere."""
    kinds = [' class="text"' if i < table.text_columns else "" for i in range(len(table.header))]
    header = "".join(f'<th scope="col"{kind}>{escape(name)}</th>'
                     for kind, name in zip(kinds, table.header, strict=True))
    lines = ""
    for first, *others in table.lines:
        cells = "".join(f"<td{kind}>{_quiet_interval(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        teacher = " class=teacher" if first == "teacher" else ""
        lines += f'<tr{teacher}><th scope="row" class="text">{escape(first)}</th>{cells}</tr>'
    notes = "".join(f'<p class="quiet">{prose(note)}</p>' for note in table.notes)
    return f"<h3>{escape(table.title)}</h3>" * titled + _wide(
        f'<table class="sortable"><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>', table.title) + notes
