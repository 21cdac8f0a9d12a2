"""The page's table of all rows of all cells, with the form that filters it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from kdbench.analysis.board import REFERENCES, Cell, Leaderboard, Row
from kdbench.analysis.reported import of_row
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import DAGGER, number, with_unit
from kdbench.report.page.pieces import dot, escape, quiet_interval, row_anchor, to, wide
from kdbench.report.tables.cell import shown_value, versus

MAIN = ("test_accuracy", "agreement", "worst_class_accuracy", "ece", "seconds")  # shown until a reader chooses a metric


def filters(leaderboard: Leaderboard) -> str:
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
    """A drop-down list as HTML: `everything`, which filters nothing, above the choices, which are texts by value; ""
    for fewer than two choices."""
    if len(choices) < 2:
        return ""
    options = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices.items())
    return f'<label>{label}<select name="{name}"><option value="">{everything}</option>{options}</select></label>'


def all_rows(leaderboard: Leaderboard, to_method: Callable[[str], str]) -> str:
    """The table of all rows of all cells as HTML; the teacher of each cell is above its rows.

    `to_method` returns the address of a method's description, given the method's name.
    """
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
        _row(cell, row, shown, reported_data, to_method(row.method)) for row in cell.rows)
        for cell in leaderboard.cells)
    return wide('<table id="all" class="sortable"><caption>One row per method, pair and dataset. A click on a header '
                 "sorts; so does choosing a metric. ↑ better, ↓ worse, ? unclear, at 5 % after correction."
                 f"</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>", "All results")


def _metric_header(name: str) -> str:
    metric = METRICS[name]
    return (f'<th scope="col"{_metric_data(name)} data-better="{metric.better or "higher"}" '
            f'title="{escape(metric.definition).replace("`", "")}">{escape(with_unit(name))}</th>')


def _metric_data(name: str) -> str:
    """The HTML attributes by which the script shows and hides the cells of a metric."""
    return f' data-metric="{name}"' + (" data-main" if name in MAIN else " hidden")


def _reported_data(leaderboard: Leaderboard) -> str:
    """The HTML attribute that hides the column of published accuracies if no row has one; "" if some row has one."""
    return "" if any(of_row(cell, row) for cell in leaderboard.cells for row in cell.rows) else " hidden"


def _teacher(cell: Cell, shown: Sequence[str], reported_data: str) -> str:
    """The row of a cell's teacher as HTML, with its metrics for comparison; "" if these are not known."""
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
    """The HTML attributes by which the script filters a row."""
    return f'data-family="{escape(family)}" data-pair="{escape(cell.pair)}" data-dataset="{escape(cell.dataset)}"'


def _place(cell: Cell, *more: str) -> str:
    """The line below a row's name as HTML: pair, dataset, the regime if the cell has one, and further words."""
    told = " · ".join([cell.pair, cell.dataset, *filter(None, [cell.regime]), *more])
    return f'<span class="place">{escape(told)}</span>'


def _row(cell: Cell, row: Row, shown: Sequence[str], reported_data: str, method: str) -> str:
    """The row of a method as HTML, with a link to itself and one to `method`, the address of the method's
    description."""
    published = of_row(cell, row)
    source = f' title="{escape(published.source)}; {escape(published.differs)}"' if published else ""
    failures = "; ".join(f"seed {f.seed} {f.status}: {f.reason}" for f in row.failures)
    cells = [f"<td{_metric_data(name)}>{_figure(shown_value(cell, row, name), row, name)}</td>" for name in shown]
    first = cells.pop(0) if shown[:1] == [MAIN[0]] else ""
    identifier = row_anchor(cell, row)
    return (
        f'<tr id="{escape(identifier)}" {_data(cell, row.family)}><th scope="row" class="text">{dot(row.family)}'
        f'<a href="{escape(method)}">{escape(row.label)}</a> <a class="here" href="{escape(to(identifier))}" '
        f'aria-label="Link to this row of {escape(row.label)}, {escape(cell.pair)}, {escape(cell.dataset)}">#</a>'
        f'{_place(cell, *["without data"] * row.data_free)}</th>{first}'
        + "".join(f"<td>{quiet_interval(versus(cell, row, name))}</td>" for name in REFERENCES) + "".join(cells)
        + f"<td>{len(row.seeds)}</td><td{reported_data}{source}>"
        + (number(published.accuracy, "share") if published else "") + "</td>"
        + "".join(f'<td class="text">{escape(value)}</td>' for value in (row.family, "; ".join(row.told)))
        + f'<td class="text note">{escape(failures)}</td></tr>'
    )


def _figure(text: str, row: Row, metric: str) -> str:
    """The text of a metric's value as HTML; a dagger follows the test accuracy of a network that is larger than the
    plain student."""
    return quiet_interval(text) + (DAGGER if metric == MAIN[0] and row.larger else "")
