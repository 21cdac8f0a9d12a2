"""Pieces of HTML. Every text that comes from records, methods or datasets goes through `escape` or `prose`."""

import html
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from kdbench.analysis.board import Cell, Row
from kdbench.errors import plain
from kdbench.report.drawing import family_look
from kdbench.report.formatting import BETTER, UNCLEAR, WORSE, Table

SAID = {BETTER: "better", WORSE: "worse", UNCLEAR: "unclear"}  # by mark: its meaning, and its CSS class


def escape(text: str) -> str:
    """The text escaped for HTML, on one line."""
    return html.escape(plain(text))


def prose(text: str) -> str:
    """The text escaped for HTML, on one line; text between backticks becomes code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def row_anchor(cell: Cell, row: Row) -> str:
    """The HTML id of a row: METHOD@PAIR@DATASET@CELL, where METHOD has the settings that are not the defaults, and CELL
    is the beginning of the cell's id.

    It does not depend on other rows, so that links to it stay valid when rows are added.
    """
    settings = ",".join(f"{name}={value}" for name, value in sorted(row.hyperparameters.items()))
    method = f"{row.method}({settings})" if settings else row.method
    return plain(f"{method}@{cell.pair}@{cell.dataset}@{cell.id[:8]}").replace(" ", "_")


def to(identifier: str) -> str:
    """The end of an address that leads to the element with that id, quoted: "#id"."""
    return f"#{quote(identifier, safe='@=,()+:')}"


def in_page(method: str) -> str:
    """The address of a method's description on the same page."""
    return to(f"method-{method}")


def link(identifier: str, text: str) -> str:
    """A link to the element of this page with that id."""
    return f'<a href="{escape(to(identifier))}">{escape(text)}</a>'


def items(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{prose(line)}</li>' for line in lines)}</ul>"


def fold(title: str, content: str, unfolded: bool = False) -> str:
    """HTML content under a title that folds and unfolds it; it is folded at first unless `unfolded` is true."""
    return (f'<details class="fold"{" open" if unfolded else ""}><summary><h3>{escape(title)}</h3></summary>{content}'
            "</details>")


def facts(pairs: Mapping[str, str], kind: str = "") -> str:
    told = "".join(f"<div><dt>{escape(k)}</dt><dd>{prose(v)}</dd></div>" for k, v in pairs.items())
    return f"<dl{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{told}</dl>"


def dot(family: str) -> str:
    """A dot in the colour that the family has in the plots."""
    return f'<span class="dot" style="background:{family_look(family)[0]}"></span>'


def quiet_interval(text: str) -> str:
    """The text of a table's cell as HTML. In "mean ± width", the width has a quieter colour, and a mark after it has
    the colour of its meaning: better, worse or unclear."""
    mean, sign, width = text.partition(" ± ")
    if not sign:
        return escape(mean)
    sure = next((mark for mark in SAID if width.endswith(mark)), "")
    told = f'<span class="{SAID[sure]}" title="{SAID[sure]}">{sure}</span>' if sure else ""
    return f'{escape(mean)} <span class="width">± {escape(width.removesuffix(sure))}</span>{told}'


def wide(content: str, label: str) -> str:
    """HTML in which a table or plot scrolls by itself on a narrow screen, by mouse or keyboard; `label` names it for
    screen readers."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def sortable(table: Table, titled: bool = True) -> str:
    """A table as HTML that is sorted by a click on a header, with its notes below, and its title above if `titled` is
    true."""
    kinds = [' class="text"' if i < table.text_columns else "" for i in range(len(table.header))]
    header = "".join(f'<th scope="col"{kind}>{escape(name)}</th>'
                     for kind, name in zip(kinds, table.header, strict=True))
    lines = ""
    for first, *others in table.lines:
        cells = "".join(f"<td{kind}>{quiet_interval(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        teacher = " class=teacher" if first == "teacher" else ""
        lines += f'<tr{teacher}><th scope="row" class="text">{escape(first)}</th>{cells}</tr>'
    notes = "".join(f'<p class="quiet">{prose(note)}</p>' for note in table.notes)
    return f"<h3>{escape(table.title)}</h3>" * titled + wide(
        f'<table class="sortable"><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>', table.title) + notes
