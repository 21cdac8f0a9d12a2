"""The home page of a site: the suites and what they found, a table of all methods, the pairs, and the data."""

import html
from collections.abc import Iterable, Mapping

from kdbench.analysis.answers.verdict import best_told
from kdbench.analysis.board import REFERENCE, Cell, Leaderboard
from kdbench.analysis.costs import pair_of
from kdbench.errors import counted
from kdbench.report.cite import references
from kdbench.report.page.pieces import dot, escape, facts, quiet_interval, wide
from kdbench.report.tables.cell import versus
from kdbench.results.sizes import size_text
from kdbench.site.page import NUMBER, bullets, head, linked, method_page, page, pair_page, plain_sections
from kdbench.site.parts import MARKER, Part, Parts
from kdbench.version import __version__

TELLS = ("A reproducible benchmark of knowledge distillation: a large network teaches a small one, and every method "
         "has the same teachers, students, images, batches and seeds.",
         "Differences come with intervals, failed runs are shown, and every figure is made from records that can be "
         "repeated and checked.")


def home_page(parts: Parts, files: Mapping[str, tuple[int, str]]) -> str:
    """The HTML of the home page. `files` has the size in bytes and the SHA-256 of the files of data and releases, by
    path from the top of the site."""
    top = ('<h1>kdbench</h1>' + "".join(f'<p class="lead">{line}</p>' for line in TELLS) + facts({
        "suites": str(len(parts.all)), "methods": str(len(parts.methods)), "pairs": str(len(parts.pairs)),
        "datasets": str(len(parts.datasets)), "finished runs": f"{sum(part.runs for part in parts):,}",
        "last run": parts.finished[:10]}))
    return page("kdbench: knowledge distillation compared", top, plain_sections({
        "Suites": "".join(map(_suite, parts)), "Methods": _methods(parts), "Pairs": _pairs(parts),
        "Data": _data(parts, files), "How to cite": _cite(), "Made from": _made_from(parts),
    }), parts, root="")


# Suites.

def _suite(part: Part) -> str:
    board = part.board
    best = [(cell, best_told(cell)) for cell in board.cells]
    told = bullets(f"<strong>{escape(board.title(cell))}.</strong> "
                   f"{escape(sentence or 'Too few seeds to compare methods.')}" for cell, sentence in best)
    return (f'<article class="suite"><h3>{linked(part.address(), part.name)}</h3><p>{escape(setup_told(board))}</p>'
            f'{told}<p class="quiet">{part.runs:,} finished runs, the last on {escape(part.details.finished[:10])}; '
            f'results <span class="hash">{board.results_hash[:16]}</span></p></article>')


def setup_told(board: Leaderboard) -> str:
    """One sentence on what a suite compares and how."""
    rows = [row for cell in board.cells for row in cell.rows]
    methods, pairs = {row.method for row in rows}, sorted({cell.pair for cell in board.cells})
    cells = [cell for cell in board.cells if not cell.equal_compute]  # at equal compute, each method has its own epochs
    recipes = [cell.spec.get("recipe") or {} for cell in cells]
    images = {str(cell.split_sizes.get("train") or recipe.get("train_size") or "")
              for cell, recipe in zip(cells, recipes, strict=True)} - {""}
    parts = [f"{_range({str(recipe.get('epochs', '')) for recipe in recipes} - {''})} epochs" if recipes else "",
             f"{_range(images)} training images" if images else "",
             f"batches of {_range({str(recipe['batch_size']) for recipe in recipes if 'batch_size' in recipe})}"
             if recipes else "",
             f"{_range({str(len(row.seeds)) for row in rows if row.seeds})} seeds" if any(
                 row.seeds for row in rows) else ""]
    return (f"{counted(len(methods), 'method')} on {counted(len(pairs), 'pair')} ({', '.join(pairs)}) with "
            f"{', '.join(sorted({cell.dataset for cell in board.cells}))}: {', '.join(filter(None, parts))}.")


def _range(values: Iterable[str]) -> str:
    """The range of whole numbers given as text, such as "3" or "1 to 5"; "?" if there are none."""
    numbers = sorted({int(value) for value in values if value.isdecimal()})
    told = [f"{number:,}" for number in numbers]
    return " to ".join(dict.fromkeys([told[0], told[-1]])) if told else "?"


# The table of methods.

def _methods(parts: Parts) -> str:
    cells = [(part, cell) for part in parts for cell in part.board.cells]
    known = parts.facts
    suites = [f'{NUMBER}{escape(part.name)}<span class="place">{escape(part.board.title(cell))}</span>'
              for part, cell in cells]
    body = ""
    for name, family in parts.methods.items():
        paper = known[name].paper if name in known else None
        values = "".join(f"<td>{_difference(cell, name)}</td>" for _, cell in cells)
        body += (f'<tr><th scope="row" class="text">{dot(family)}{linked(method_page(name), name)}</th>'
                 f'<td class="text">{escape(family)}</td>{values}'
                 f'<td class="text">{escape(paper.short if paper else "")}</td></tr>')
    return (f'<p class="quiet">Test accuracy less that of {REFERENCE}, plain training, in points, on equal seeds. ± is '
            "half the width of the 95 % interval. ↑ better, ↓ worse, ? unclear, at 5 % after Holm's correction.</p>"
            + wide(f'<table class="sortable matrix">{head("method", "family", *suites, "published")}'
                   f"<tbody>{body}</tbody></table>", "All methods"))


def _difference(cell: Cell, method: str) -> str:
    """A method's difference to the reference in a cell, as HTML. If the method has several settings there, it is that
    of the one that has the method's name, or else the number of settings is given; "" if the method is not in the
    cell."""
    rows = [row for row in cell.rows if row.method == method]
    row = rows[0] if len(rows) == 1 else next((row for row in rows if row.label == method), None)
    if row is not None:
        return "0" if row.is_reference else quiet_interval(versus(cell, row))
    return f"{len(rows)} settings" if rows else ""


# Pairs.

def _pairs(parts: Parts) -> str:
    body = ""
    for pair in parts.pairs:
        found = [(part, cell) for part in parts for cell in part.board.cells if cell.pair == pair]
        used = next((profile.deployment for _, cell in found
                     if (profile := pair_of(cell.costs)) and profile.deployment), None)
        spec = found[0][1].spec
        teacher = spec.get("teacher") or {}
        networks = [(spec.get("student", {}), used.student if used else None),
                    (teacher.get("run", {}).get("student") or teacher.get("architecture") or {},
                     used.teacher if used and used.teacher else None)]
        told = "".join(f'<td class="text">{escape(network.get("model", "none"))}</td>'
                       f"<td>{f'{size.parameters:,}' if size else ''}</td>" for network, size in networks)
        suites = ", ".join(dict.fromkeys(linked(part.address(), part.name) for part, _ in found))
        body += (f'<tr><th scope="row" class="text">{linked(pair_page(pair), pair)}</th>{told}'
                 f'<td class="text">{escape(", ".join(sorted({cell.dataset for _, cell in found})))}</td>'
                 f'<td class="text">{suites}</td></tr>')
    return wide('<table class="sortable">' + head("pair", "student", NUMBER + "parameters", "teacher",
                                                  NUMBER + "parameters", "datasets", "suites")
                + f"<tbody>{body}</tbody></table>", "Pairs")


# Data.

def _data(parts: Parts, files: Mapping[str, tuple[int, str]]) -> str:
    body = "".join(
        f'<tr><th scope="row" class="text">{linked(path, path)}</th><td>{escape(size_text(size))}</td>'
        f'<td class="text hash digest">{sha256}</td></tr>' for path, (size, sha256) in files.items())
    licences = bullets(f"<strong>{escape(name)}</strong>: {escape(told)}" for name, told in parts.licences())
    return (
        "<p>All suites together: <strong>rows</strong> has a line for each method and cell, as the tables have, "
        "<strong>runs</strong> one for each run. What the columns mean, "
        f"{linked('data/README.md', 'data/README.md')} says; <code>sha256sum -c SHA256SUMS</code> checks files.</p>"
        + wide(f"<table>{head('file', NUMBER + 'size', 'SHA-256')}<tbody>{body}</tbody></table>", "Files")
        + f"<p>Licence of the results: {escape(parts.licence)}. No image of any dataset is part of them; those of the "
        f"datasets are:</p>{licences}")


def _cite() -> str:
    return (f"<p>Cite a table with its suite and the beginning of its results' hash, each method by its own paper (its "
            f'page has the entry), and kdbench:</p><pre class="cite" tabindex="0">{html.escape(references({})[0][0])}'
            "</pre>")


def _made_from(parts: Parts) -> str:
    body = "".join(
        f'<tr><th scope="row" class="text">{linked(part.address(), part.name)}</th><td>{part.runs:,}</td>'
        + "".join(f'<td class="text">{escape(when[:10])}</td>'
                  for when in (part.details.started, part.details.finished))
        + "".join(f'<td class="text hash digest">{sha256}</td>'
                  for sha256 in (part.board.results_hash, part.board.records_hash)) + "</tr>" for part in parts)
    return (f"<p>kdbench {escape(__version__)} made these pages from records alone: the same records give the same "
            f"bytes. {linked(MARKER, MARKER)} says it for programs.</p>"
            + wide("<table>" + head("suite", NUMBER + "runs", "from", "to", "results, SHA-256", "records, SHA-256")
                   + f"<tbody>{body}</tbody></table>", "Suites and their hashes"))
