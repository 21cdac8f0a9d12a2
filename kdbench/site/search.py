"""The search index of a site, as a script: a page that is opened from a disk may not fetch other files."""

import json
from collections.abc import Iterator

from kdbench.errors import plain
from kdbench.site.home import setup_told
from kdbench.site.page import method_page, pair_page
from kdbench.site.parts import Parts


def index_script(parts: Parts) -> str:
    """The text of the script, which sets `kdbenchIndex` to a list of entries, each [kind, name, address from the top of
    the site, text shown below the name, further words to search]."""
    lines = ",\n".join(json.dumps([plain(text) for text in entry], ensure_ascii=False) for entry in _entries(parts))
    return f'"use strict";\nconst kdbenchIndex = [\n{lines}\n];\n'


def _entries(parts: Parts) -> Iterator[tuple[str, str, str, str, str]]:
    known = parts.facts
    for part in parts:
        yield "suite", part.name, part.address(), setup_told(part.board), ""
    for name, family in parts.methods.items():
        facts = known.get(name)
        paper = facts.paper if facts else None
        words = " ".join([family, *(paper.authors if paper else ()), facts.idea if facts else ""])
        yield "method", name, method_page(name), str(paper) if paper else facts.idea if facts else family, words
    for pair in parts.pairs:
        cells = [cell for part in parts for cell in part.board.cells if cell.pair == pair]
        teacher = cells[0].spec.get("teacher") or {}
        models = [cells[0].spec.get("student", {}).get("model", ""),
                  (teacher.get("run", {}).get("student") or teacher.get("architecture") or {}).get("model", "")]
        datasets = ", ".join(sorted({cell.dataset for cell in cells}))
        yield "pair", pair, pair_page(pair), f"on {datasets}", " ".join(models)
