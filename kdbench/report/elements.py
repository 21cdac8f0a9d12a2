"""Pieces of the report's page. All text that comes from records, methods or datasets is escaped here or by the caller:
a method's docstring may hold HTML."""

from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from urllib.parse import quote

from kdbench.report.plots import colour
from kdbench.report.table import Table


def file(name: str) -> str:
    return resources.files("kdbench.report").joinpath(name).read_text(encoding="utf-8")


def anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def link(identifier: str, text: str) -> str:
    """To the element with that id."""
    return f'<a href="#{escape(quote(identifier))}">{escape(text)}</a>'


def items(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def facts(pairs: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in pairs.items())}</dl>"


def dot(family: str) -> str:
    """In the family's colour in the plots."""
    return f'<span class="dot" style="background:{colour(family)}"></span>'


def figure(text: str) -> str:
    """A number with its interval set back."""
    mean, sign, width = text.partition(" ± ")
    return escape(mean) + (f' <span class="width">± {escape(width)}</span>' if sign else "")


def wide(content: str, label: str) -> str:
    """A table or plot that scrolls by itself on a narrow screen, by keyboard too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


def table(shown: Table, level: int = 3) -> str:
    """A sortable table under a heading, with its notes below."""
    kinds = [' class="text"' if i < shown.text_columns else "" for i in range(len(shown.header))]
    header = "".join(f'<th scope="col"{kind}>{escape(name)}</th>'
                     for kind, name in zip(kinds, shown.header, strict=True))
    lines = ""
    for first, *others in shown.lines:
        cells = "".join(f"<td{kind}>{figure(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
        teacher = " class=teacher" if first == "teacher" else ""
        lines += f'<tr{teacher}><th scope="row" class="text">{escape(first)}</th>{cells}</tr>'
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in shown.notes)
    return f"<h{level}>{escape(shown.title)}</h{level}>" + wide(
        f'<table class="sortable"><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>', shown.title) + notes
