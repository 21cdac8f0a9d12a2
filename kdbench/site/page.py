"""What all pages of a site share: the bar with its links and the search, the footer, and tables of leaderboard rows."""

import math
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import NamedTuple

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Row, Teacher
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import DAGGER, number, with_unit
from kdbench.report.page import maker
from kdbench.report.page.document import THEME, document, file
from kdbench.report.page.pieces import anchor, escape, quiet_interval, row_anchor, wide
from kdbench.report.tables.cell import shown_value, versus
from kdbench.site.parts import Part, Parts, slug

SCRIPTS = ("index.js", "page.js", "site.js")  # run once the page is parsed; index.js has the search index
METRICS_SHOWN = ("agreement", "worst_class_accuracy", "ece", "seconds")  # beside test accuracy
NUMBER = "# "  # prefix of the names of numeric columns
BAR = 160, 14  # width and height of the drawing of a difference, in pixels
NOTE = ("± is half the width of the 95 % interval: of an accuracy over the row's own seeds; of a difference on equal "
        "seeds, with the variance of methods moderated. ↑ better, ↓ worse, ? unclear, at 5 % after Holm's correction.")


class Line(NamedTuple):
    """A row of a table on a site: a row of a leaderboard, with its cell and the part of the site that it comes from."""

    part: Part
    cell: Cell
    row: Row


def assets() -> dict[str, str]:
    """The contents of the style sheet and the scripts that all pages share, by path from the top of the site. The
    search index is not among them."""
    own = resources.files("kdbench.site")
    return {"assets/site.css": file("page.css") + own.joinpath("site.css").read_text(encoding="utf-8"),
            "assets/page.js": file("page.js"), **{f"assets/{name}": own.joinpath(name).read_text(encoding="utf-8")
                                                  for name in ("theme.js", "site.js")}}


def page(title: str, top: str, content: str, parts: Parts, root: str = "../") -> str:
    """The HTML of a page of the site, from its plain title, its heading `top` and its `content`, which are both HTML.
    `root` is the relative path from the page to the top of the site."""
    scripts = "".join(f'\n<script src="{root}assets/{name}" defer></script>' for name in SCRIPTS)
    style = (f'<link rel="icon" href="data:,">\n<link rel="stylesheet" href="{root}assets/site.css">\n'
             f'<script src="{root}assets/theme.js"></script>{scripts}')
    links = "".join(f'<li><a href="{root}index.html#{name.lower()}">{name}</a></li>'
                    for name in ("Suites", "Methods", "Pairs", "Data"))
    body = (
        f'<header><div class="bar"><nav aria-label="Site"><ul><li><a class="brand" href="{root}index.html">kdbench</a>'
        f'</li>{links}</ul></nav><form id="search" role="search" data-root="{root}" hidden><input type="search" '
        'aria-label="Search" placeholder="Search methods, pairs, papers" autocomplete="off" spellcheck="false">'
        f'<ul id="found" hidden></ul></form>{THEME}</div>\n{top}</header>\n{content}\n'
        f'<footer><p class="quiet">Made by {maker()} from the records of runs that ended up to '
        f"{escape(parts.finished[:10])}. Licence of the results: {escape(parts.licence)}.</p></footer>")
    return document(title, style, body)


def plain_sections(sections: dict[str, str]) -> str:
    """The HTML of sections, given as HTML by heading, without a table of contents. Sections without content are left
    out."""
    return "<main>\n" + "".join(f'<section id="{escape(anchor(name))}"><h2>{escape(name)}</h2>{content}'
                                "</section>\n" for name, content in sections.items() if content) + "</main>"


def method_page(name: str) -> str:
    return f"methods/{slug(name)}.html"


def pair_page(name: str) -> str:
    return f"pairs/{slug(name)}.html"


def linked(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{escape(text)}</a>'


def head(*names: str) -> str:
    """The HTML of a table's head. Names are HTML; those of numeric columns begin with `NUMBER`."""
    cells = (f'<th scope="col">{name.removeprefix(NUMBER)}</th>' if name.startswith(NUMBER) else
             f'<th scope="col" class="text">{name}</th>' for name in names)
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def rows_table(lines: Sequence[Line], first: str, label: str, teacher: Teacher | None = None) -> str:
    """The HTML of a table of leaderboard rows, for a page in a folder of the site. The row of the teacher comes first,
    if one is given. `first` names the first column: "pair", whose entries link to the pages of the pairs, or "method",
    whose entries link to the pages of the methods. The column "suite" links to the row on the suite's page. `label`
    describes the table to screen readers."""
    limit = _limit(lines)
    drawn = limit > 0
    suites = first == "pair"
    heads = head(first, "suite", *(NUMBER + told for told in (
        "seeds", escape(with_unit("test_accuracy")), f"vs {REFERENCE}, points",
        *[f"vs {REFERENCE}, ±{number(limit, 'share')}"] * drawn, *(f"vs {name}, points" for name in REFERENCES[1:]),
        *(escape(with_unit(name)) for name in METRICS_SHOWN))), "conditions", "without a result")
    above = _teacher(teacher, drawn) if teacher and teacher.metrics else ""
    body = "".join(_row(line, suites, limit) for line in lines)
    told = f" Drawn: the difference to {REFERENCE} and its interval, cut at the ends; the line is 0." * drawn
    return wide(f'<table class="sortable">{heads}<tbody>{above}{body}</tbody></table>', label) + \
        f'<p class="quiet">{NOTE}{told}</p>'


def _teacher(teacher: Teacher, drawn: bool) -> str:
    """The HTML of the row of a cell's teacher, whose metrics are a yardstick for the students'."""
    accuracy, *others = (
        f"<td>{number(teacher.metrics[name], METRICS[name].unit) if name in teacher.metrics else ''}</td>"
        for name in ("test_accuracy", *METRICS_SHOWN))
    text = '<td class="text"></td>'
    return (f'<tr class="teacher"><th scope="row" class="text">teacher<span class="place">'
            f"{escape(teacher.architecture)}</span></th>{text}<td></td>{accuracy}<td></td>{'<td></td>' * drawn}"
            f'{"<td></td>" * (len(REFERENCES) - 1)}{"".join(others)}{text * 2}</tr>')


def _row(line: Line, by_pair: bool, limit: float) -> str:
    part, cell, row = line
    if by_pair:
        place = " · ".join([cell.dataset, *filter(None, [cell.regime])])
        setting = f'<span class="place">{escape(row.label)}</span>' if row.label != row.method else ""
        first = f'{linked(f"../{pair_page(cell.pair)}", cell.pair)}<span class="place">{escape(place)}</span>{setting}'
    else:
        first = linked(f"../{method_page(row.method)}", row.label)
    accuracy = quiet_interval(shown_value(cell, row, "test_accuracy")) + DAGGER * row.larger
    failures = "; ".join(f"seed {one.seed} {one.status}: {one.reason}" for one in row.failures)
    numbers = [f"<td>{len(row.seeds)}</td>", f"<td>{accuracy}</td>",
               f"<td>{quiet_interval(versus(cell, row))}</td>",
               *[_picture(line, limit)] * (limit > 0),
               *(f"<td>{quiet_interval(versus(cell, row, name))}</td>" for name in REFERENCES[1:]),
               *(f"<td>{quiet_interval(shown_value(cell, row, name))}</td>" for name in METRICS_SHOWN)]
    return (f'<tr id="{escape(f"{part.name}:{row_anchor(cell, row)}")}"><th scope="row" class="text">{first}</th>'
            f'<td class="text">{linked(f"../{part.address(cell, row)}", part.name)}</td>{"".join(numbers)}'
            f'<td class="text">{escape("; ".join(row.told))}</td>'
            f'<td class="text note">{escape(failures)}</td></tr>')


def _limit(lines: Iterable[Line]) -> float:
    """The difference at which drawings end, to either side of 0: the 95th percentile of the distances from 0 of the
    ends of the intervals of differences to the reference; 0 if there are none."""
    found = (line.cell.comparisons.to.get(REFERENCE, {}).get(line.row.label) for line in lines)
    ends = sorted(abs(end) for told in found if told for end in (told.low, told.high) if math.isfinite(end))
    return ends[int(.95 * len(ends))] if ends else 0.0


def _picture(line: Line, limit: float) -> str:
    """The HTML of a table cell that draws the difference to the reference and its interval, cut off at `limit`; empty
    if there is no comparison. Screen readers skip the drawing, since the cell before it has the figures."""
    told = line.cell.comparisons.to.get(REFERENCE, {}).get(line.row.label)
    if told is None:
        return '<td class="drawn"></td>'
    width, height = BAR
    low, mean, high = (f"{width / 2 + (width / 2 - 4) * min(max(value / limit, -1), 1):.1f}"
                       for value in (told.low, told.mean, told.high))
    kind = "unclear" if not told.significant else "better" if told.mean > 0 else "worse"
    return (f'<td class="drawn" data-value="{told.mean:.6f}"><svg class="difference {kind}" width="{width}" '
            f'height="{height}" aria-hidden="true"><path class="zero" d="M{width / 2:g} 0V{height}"/>'
            f'<path d="M{low} {height / 2:g}H{high}"/><circle cx="{mean}" cy="{height / 2:g}" r="3.5"/></svg></td>')


def bullets(lines: Iterable[str]) -> str:
    """The HTML of a list of lines that are HTML themselves."""
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


