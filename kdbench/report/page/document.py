"""The HTML around the content of a page: the document itself, links to sections, style and script."""

from collections.abc import Mapping
from importlib import resources

from kdbench.report.page.pieces import anchor, escape, link

THEME = '<button type="button" id="theme" class="plain" hidden>Dark mode</button>'


def document(title: str, head: str, body: str) -> str:
    """A whole page of HTML. `head` is the HTML in its head that holds its style or links to it."""
    return ('<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>")


def sectioned(sections: Mapping[str, str]) -> str:
    """Links to the sections, then the sections, as HTML. `sections` has their HTML by heading, and the headings are not
    escaped."""
    links = "".join(f"<li>{link(anchor(name), name)}</li>" for name in sections)
    return (f'<nav aria-label="Sections" tabindex="0"><ul>{links}</ul></nav>\n<main>\n' + "".join(
        f'<section id="{anchor(name)}"><h2>{name}</h2>{content}</section>' for name, content in sections.items())
        + "\n</main>")


def file(name: str) -> str:
    """The text of the page's style, "page.css", or of its script, "page.js"."""
    return resources.files("kdbench.report.page").joinpath(name).read_text(encoding="utf-8")
