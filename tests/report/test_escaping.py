"""Names that do harm where they are not escaped, in every format that a report has."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from support.records import REGISTRY, record, spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.errors import one_line, plain, printable
from kdbench.report.card import card
from kdbench.report.cite import cite
from kdbench.report.files import render
from kdbench.report.latex import to_latex
from kdbench.report.page import to_html
from kdbench.report.plots import plots
from kdbench.results.store import Store

HOSTILE = {
    "pair": "big\n# heading\n<script>alert(1)</script>",
    "dataset": "digits\x1b[31m\n\\input{x}", "method": "a\n\\input{x}",
    "hyperparameters": {"name": "=1+1|\x00\u202e", "<img src=x onerror=alert(1)>": 2},
}
SUITE = "=cmd()\n\\end{document}"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("hostile"))
    for seed in range(2):
        run = spec("kd", seed).model_copy(update=HOSTILE)
        one = record(run, .9, family="=evil\x07", curves={"validation_accuracy": [.1, .9]}, notes=["<script>\x1b]0;x"])
        store.write(replace(one, suite=SUITE))
        store.write(replace(record(run.model_copy(update={"seed": seed + 5})), status="crashed", metrics={},
                            reason="crashed: \x1b[2J<script>\n=1"))
    return store


def texts(store):
    board = build(store.folder, REGISTRY)
    details = read_details(store, board)
    drawn = plots(board, details)
    first = next(r for r in store.read()[0] if r.status == "ok")
    return {
        **{kind: render(board, kind) for kind in ("md", "csv", "json")}, "tex": to_latex(board),
        "html": to_html(board, details, drawn, REGISTRY), "bib": cite(board),
        "card": card(first, board), **{f"svg {plot.name}": plot.svg.decode() for plot in drawn},
    }


def test_no_format_holds_a_control_character_a_terminal_or_a_parser_would_obey(store):
    for kind, text in texts(store).items():
        assert printable(text) == text, kind


def test_no_name_opens_a_heading_html_or_a_formula(store):
    found = texts(store)
    assert not [line for line in found["md"].splitlines() if line.startswith("# ")]
    assert not re.search(r"<(script|img)", found["md"] + found["card"])
    assert not re.search(r"<script>alert|<img src=x", found["html"])
    for row in csv.reader(io.StringIO(found["csv"])):
        assert not [cell for cell in row if cell.startswith(("=", "+", "@"))]
    headings = re.findall(r"^#+", found["card"], re.MULTILINE)
    assert headings.count("#") == 1 and set(headings) == {"#", "##"}


def test_no_name_runs_a_command_of_latex_or_leaves_a_comment(store):
    found = texts(store)
    for kind in ("tex", "bib"):
        assert "\\input" not in found[kind] and "\\end{document}" not in found[kind]
    assert not [line for line in found["bib"].splitlines() if line.startswith("input") or line.startswith("\\")]


def test_every_plot_is_well_formed(store):
    for kind, text in texts(store).items():
        if kind.startswith("svg"):
            ElementTree.fromstring(text)


def test_plain_text_stays_as_it_is_and_the_rest_becomes_a_mark():
    assert plain("kd (temperature=4.0), 85 % ± 0.3 ≥ é") == "kd (temperature=4.0), 85 % ± 0.3 ≥ é"
    assert plain("a\n\tb\x1b[31m\u202ec\ud800") == "a b\ufffd[31m\ufffdc\ufffd"
    assert printable("two\nlines\x00") == "two\nlines\ufffd"
    assert one_line("a  b\n\x1bc") == "a  b \ufffdc"


def test_a_command_tells_a_hostile_name_in_one_harmless_line(kdbench, store):
    code, out, err = kdbench("run", "smoke", "--methods", "k\x1b[31md")
    assert code == 2 and "\x1b" not in out + err and err.count("\n") == 1
    code, out, _ = kdbench("leaderboard", store.folder)
    assert code == 0 and "\x1b" not in out
