"""The pages of suites, methods and pairs."""

import html
from collections.abc import Mapping
from typing import Any

from kdbench.analysis.board import Cell
from kdbench.plugins.source import LEARNS_FROM
from kdbench.report.cite import references
from kdbench.report.page import about, heading, sections
from kdbench.report.page.document import sectioned
from kdbench.report.page.method import of_method
from kdbench.report.page.pieces import dot, escape, facts, fold, items
from kdbench.report.plots import plots
from kdbench.report.setup import setup
from kdbench.report.tables.cell import main_tables
from kdbench.site.page import Line, linked, method_page, page, pair_page, plain_sections, rows_table
from kdbench.site.parts import Part, Parts
from kdbench.suites.suite import built_in_pairs

FILES = {"../data/rows.csv": "a row for each method and cell, of all suites", "../data/runs.csv": "a row for each run",
         "leaderboard.tex": "the tables for a paper", "leaderboard.md": "the tables as text"}


def suite_page(part: Part, parts: Parts, registry: Mapping[str, Any]) -> str:
    """The page of a suite: its report, which links to the methods' own pages instead of describing the methods."""
    found = sections(part.board, part.details, plots(part.board, part.details), registry,
                     to_method=lambda name: f"../{method_page(name)}", files=FILES)
    del found["Methods"]
    pairs = ", ".join(linked(f"../{pair_page(pair)}", pair)
                      for pair in sorted({cell.pair for cell in part.board.cells}))
    top = f"<h1>Suite {escape(part.name)}</h1>{about(part.board)}<p>Pairs: {pairs}</p>"
    return page(heading(part.board), top, sectioned(found), parts)


def method_page_of(name: str, parts: Parts, registry: Mapping[str, Any]) -> str:
    """The page of a method: what the method is, and its rows in all suites."""
    known, info, family = parts.facts.get(name), registry.get(name), parts.methods[name]
    lines = [Line(*line) for line in parts.rows if line[2].method == name]
    told = {"family": family}
    if known and known.paper:
        told["published"] = f"{known.paper.short}, {known.paper.venue}"
    if known and known.conditions:
        told["conditions"] = "; ".join(known.conditions)
    if info is not None:
        told["learns from"] = LEARNS_FROM[info.learns_from] + ("" if info.needs_data else ", without images") + (
            ", with the groups of images" if info.needs_groups else "")
    told["rows"] = str(len(lines))
    idea = f'<p class="lead">{escape(known.idea)}</p>' if known else ""
    top = f"<h1>{dot(family)}{escape(name)}</h1>{idea}{facts(told, 'small')}"
    method = of_method(name, known, info) if known else \
        "<p>This method is not installed here, and its records say nothing of it.</p>"
    entry = references({name: known.paper})[0][1:] if known and known.paper else []
    cite = f'<pre class="cite" tabindex="0">{html.escape(entry[0])}</pre>' if entry else ""
    return page(f"{name}: kdbench", top, plain_sections({
        "Results": rows_table(lines, "pair", f"Results of {name}"), "The method": method, "BibTeX": cite}), parts)


def pair_page_of(pair: str, parts: Parts) -> str:
    """The page of a pair: its networks, and the results on it in all suites."""
    found = [(part, cell) for part in parts for cell in part.board.cells if cell.pair == pair]
    part, first = found[0]
    networks = {name: told for name, told in setup(first, part.board).items() if name in ("student", "teacher")}
    built_in = built_in_pairs().get(pair)
    lead = f'<p class="lead">{escape(built_in.description)}</p>' if built_in and built_in.description else ""
    top = f"<h1>{escape(pair)}</h1>{lead}{facts(networks, 'setup')}"
    return page(f"{pair}: kdbench", top, plain_sections({
        f"{part.name}: {part.board.title(cell)}": _cell(part, cell) for part, cell in found}), parts)


def _cell(part: Part, cell: Cell) -> str:
    lines = [Line(part, cell, row) for row in cell.rows]
    notes = [note for table in main_tables(cell, "") for note in table.notes]
    return (rows_table(lines, "method", f"Results of {part.name}, {part.board.title(cell)}", cell.teacher)
            + fold("Setup", facts(setup(cell, part.board), "setup"))
            + (fold("Tiers, noise, resolution and settings", items(notes)) if notes else "")
            + f"<p>{linked(f'../{part.address()}', f'The page of {part.name}')} has plots, classes and costs.</p>")
