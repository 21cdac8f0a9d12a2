import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from support.records import REGISTRY, info, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.errors import UserError
from kdbench.folders import REPORT
from kdbench.paper import Paper
from kdbench.report.drawing import floor
from kdbench.report.files import check_report, report_files, write_report
from kdbench.report.formatting import number, with_unit
from kdbench.report.latex import safe
from kdbench.report.plots import Plot, class_changes
from kdbench.results.store import Store

SCRIPT = "<script>alert('x')</script>"


def published(name, family, doc="Says one thing.\n\nloss = 1"):
    return info(name, family, doc=doc, paper=Paper(title="A Title", authors=("Ann Bee",), year=2020, venue="ICLR",
                                                   arxiv="2001.00001"))


REAL = {"ce": published("ce", "baseline"), "kd": published("kd", "logit"), "at": published("at", "attention")}


def details_of(accuracy):
    return {
        "vectors": {"class_accuracy": [accuracy, None, 1.0], "reliability_images": [0.0, 4.0, 6.0],
                    "reliability_correct": [0.0, 2.0, 6.0], "reliability_confidence": [0.0, 2.5, 5.5]},
        "curves": {"validation_accuracy": [accuracy / 2, accuracy]}, "environment": {"python": "3.11", "cores": 2},
    }


@pytest.fixture
def folder(tmp_path):
    for method, base in (("ce", .80), ("kd", .84)):
        for seed in range(2):
            accuracy = base + seed / 50
            run = record(spec(method, seed), accuracy, metrics={"agreement": .9}, **details_of(accuracy))
            Store(tmp_path).write(run)
    Store(tmp_path).write(record(spec("at", 0), status="diverged", reason=f"NaN {SCRIPT}"))
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """One plot that takes no time, for tests that are not about plots."""
    plot = Plot("old", f"A plot {SCRIPT}", "What it shows", b"<svg><title>old</title></svg>", b"png")
    monkeypatch.setattr("kdbench.report.plots.plots", lambda leaderboard, details: [plot])


# The files.

def test_a_report_is_every_table_the_page_and_each_plot_twice(folder):
    names = set(report_files(folder, REAL))
    assert {"leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json", "index.html"} < names
    slug = "big-small-on-digits"
    for plot in (f"accuracy-{slug}", f"agreement-{slug}", f"seconds-{slug}", f"classes-{slug}", f"reliability-{slug}",
                 f"curves-{slug}", "gain-by-family"):
        assert {f"plots/{plot}.svg", f"plots/{plot}.png"} < names


def test_what_a_report_writes_is_known_to_the_check_of_a_folder(folder, undrawn):
    assert {name.partition("/")[0] for name in report_files(folder, REAL)} == set(REPORT)


def test_the_same_records_give_the_same_bytes(folder):
    assert report_files(folder, REAL) == report_files(folder, REAL)


def test_the_order_in_which_records_are_read_changes_no_byte(folder, monkeypatch):
    for seed in range(2, 5):  # as many runs of each machine: a tie
        Store(folder).write(record(spec("kd", seed), .9, **{**details_of(.9), "environment": {"cores": seed}}))
    before = report_files(folder, REAL)
    for name in ("scan_with_hashes", "scan"):
        turned = list(getattr(Store(folder), name)())[::-1]
        monkeypatch.setattr(Store, name, lambda self, found=turned: iter(found))
    assert report_files(folder, REAL) == before


@pytest.mark.slow
def test_another_process_with_other_hashes_writes_the_same_bytes(folder, tmp_path):
    written = []
    for hashes in ("1", "2"):
        subprocess.run([sys.executable, "-m", "kdbench.cli.main", "report", folder], check=True, capture_output=True,
                       env={**os.environ, "PYTHONHASHSEED": hashes})
        written.append({path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()})
    assert written[0] == written[1] and len(written[0]) > 20


def test_check_tells_what_is_missing_changed_or_out_of_date(folder, undrawn):
    assert any("leaderboard.md: missing" in line for line in check_report(folder, REAL))
    write_report(folder, REAL)
    assert check_report(folder, REAL) == []
    path = folder / "leaderboard.csv"
    path.write_text(path.read_text().replace("0.85", "0.95"))
    assert check_report(folder, REAL) == [f"{path}: not what the records give; run `kdbench report {folder}`"]
    write_report(folder, REAL)
    Store(folder).write(record(spec("kd", 0), .99))
    assert len(check_report(folder, REAL)) == 6


def test_another_matplotlib_s_drawing_of_the_same_records_is_no_complaint(folder, undrawn, monkeypatch):
    write_report(folder, REAL)
    other = Plot("old", f"A plot {SCRIPT}", "What it shows", b"<svg>other</svg>", b"other")
    monkeypatch.setattr("kdbench.report.plots.plots", lambda leaderboard, details: [other])
    assert check_report(folder, REAL) == []
    (folder / "plots" / "old.png").unlink()
    assert check_report(folder, REAL) == [f"{folder / 'plots' / 'old.png'}: missing"]


def test_plots_of_an_earlier_report_are_removed_and_other_files_stay(folder, undrawn):
    (folder / "plots").mkdir()
    (folder / "plots" / "older.svg").touch()
    (folder / "plots" / "mine.txt").touch()
    write_report(folder, REAL)
    assert not (folder / "plots" / "older.svg").exists() and (folder / "plots" / "old.svg").exists()
    assert (folder / "plots" / "mine.txt").exists()


def test_rendering_a_leaderboard_imports_neither_matplotlib_nor_pandas():
    code = ("import sys, kdbench.report.files\n"
            "print([name for name in ('matplotlib', 'pandas') if name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_folder_without_records_gets_no_report(tmp_path):
    with pytest.raises(UserError, match="no records"):
        write_report(tmp_path, REAL)
    assert list(tmp_path.iterdir()) == []


def test_runs_without_details_or_without_any_result_still_give_a_report(tmp_path):
    Store(tmp_path).write(record(spec("kd"), .5))
    assert "plots/curves-big-small-on-digits.svg" not in report_files(tmp_path, REAL)
    Store(tmp_path).write(record(spec("kd"), status="crashed", reason="memory"))
    assert "crashed" in report_files(tmp_path, REAL)["index.html"].decode()


# The page.

class Page(HTMLParser):
    """Collects the tags, and fails on one that is closed out of order."""

    VOID = ("meta", "input", "img", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder, registry=REAL):
    return Page(report_files(folder, registry)["index.html"].decode())


def test_the_page_needs_nothing_from_elsewhere(folder, undrawn):
    found = page(folder)
    assert found.all("link") == [] and all("src" not in script for script in found.all("script"))
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in found.all("img"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", report_files(folder, REAL)["index.html"].decode())


def test_the_page_can_be_read_without_seeing_it(folder, undrawn):
    found = page(folder)
    assert found.all("html")[0]["lang"] == "en" and found.all("title")
    assert all(image["alt"] for image in found.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"][1:] for link in found.all("a") if link["href"].startswith("#")]
    assert targets and set(targets) <= set(ids)
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_markup_in_methods_docstrings_reasons_and_datasets_is_shown_as_text(folder, undrawn):
    registry = {**REAL, "kd": published("kd", "logit", f"{SCRIPT} teaches.\n\n<b>loss</b>")}
    Store(folder).write(record(spec("kd", 5, dataset=f'"><img src=x onerror={SCRIPT}>'), .5))
    found = page(folder, registry)
    assert len(found.all("script")) == 1 and found.all("b") == []
    assert all("onerror" not in attributes for _, attributes in found.tags)
    assert f"{SCRIPT} teaches." in found.text and f"NaN {SCRIPT}" in found.text


def test_the_page_says_what_each_metric_is_where_the_runs_were_made_and_what_was_left_out(folder, undrawn):
    Store(folder).files.record("0" * 16).write_bytes(b"{")
    text = page(folder).text
    assert "Share of test images for which the student predicts the same class" in text
    assert "python3.11" in text and build(folder, REGISTRY).results_hash in text
    assert "Not used: records/0000000000000000.json" in text
    assert "Bee, 2020. A Title. ICLR." in text and "loss = 1" in text


def test_a_filter_is_there_only_where_there_is_a_choice(folder, undrawn):
    assert [select["name"] for select in page(folder).all("select")] == ["family", "metric"]
    Store(folder).write(record(spec("kd", 0, dataset="clothes"), .5))
    assert [select["name"] for select in page(folder).all("select")] == ["family", "dataset", "metric"]


def test_a_method_that_is_not_installed_has_the_family_of_its_records(folder, undrawn):
    Store(folder).write(record(spec("novel"), .9, family="mine"))
    Store(folder).write(record(spec("nobodys"), .9))
    found = page(folder)
    assert [family["value"] for family in found.all("option")][1:6] == ["attention", "baseline", "logit", "mine",
                                                                        "unknown"]
    ids = [details["id"] for details in found.all("details") if "id" in details]
    assert ids == ["method-ce", "method-kd", "method-at", "method-novel", "method-nobodys"]
    assert "novel mine" in found.text and "nobodys unknown" in found.text


def test_the_head_counts_what_stands_behind_the_tables(folder, undrawn):
    text = page(folder).text
    assert "methods3pairs1datasets1finished runs4" in text  # at has one run, which diverged
    assert f"results{build(folder, REGISTRY).results_hash[:16]}" in text


def test_the_main_table_begins_with_the_figures_that_matter(folder, undrawn):
    text = page(folder).text
    assert "methodtest accuracy, %vs ce, pointsvs kd, pointsagreement, %" in text
    assert "seedsreported accuracy, %familyconditions" in text


def test_what_all_runs_share_is_told_once_and_what_differs_by_line(folder, undrawn):
    assert "Where the runs differ" not in page(folder).text
    for seed in (7, 8):
        Store(folder).write(record(spec("kd", seed), .8, environment={"python": "3.11", "cores": 4}))
    text = page(folder).text
    assert text.count("python3.11") == 1
    assert "Where the runs differrunscores4224" in text  # 4 runs on 2 cores, 2 runs on 4


def test_sizes_have_units(folder, undrawn):
    Store(folder).write(record(spec("kd", 7), .8, environment={"memory_bytes": 25_276_502_016}))
    text = page(folder).text
    assert "25 GB" in text and "25276502016" not in text
    assert (with_unit("peak_memory_bytes"), number(3 * 2**20, "bytes")) == ("peak memory, MiB", "3.0")


def test_names_that_no_address_could_hold_are_linked_and_shown(folder, undrawn):
    Store(folder).write(record(spec('100% "odd" <x>'), .5, environment={"cpu": "a <b>CPU</b>"}))
    found = page(folder)
    assert {"href": "#method-100%25%20%22odd%22%20%3Cx%3E"} in found.all("a")
    assert 'method-100% "odd" <x>' in {details.get("id") for details in found.all("details")}
    assert found.all("b") == [] and "a <b>CPU</b>" in found.text


def test_markup_in_a_paper_s_address_or_a_machine_s_name_is_shown_as_text(folder, undrawn):
    paper = Paper(title="A Title", authors=("Ann Bee",), year=2020, venue="ICLR", doi='10/"><b>x</b>')
    registry = {**REAL, "kd": replace(REAL["kd"], paper=paper)}
    for seed in range(2):
        for method in ("ce", "kd"):
            Store(folder).write(record(spec(method, seed), .8, environment={"cpu": "a <b>CPU</b>"}))
    found = page(folder, registry)
    assert found.all("b") == [] and "a <b>CPU</b>" in found.text


def test_the_teacher_s_row_is_set_apart(folder, undrawn):
    Store(folder).write(record(teacher_spec(), .9, role="teacher"))
    files = report_files(folder, REAL)
    assert any(row.get("class") == "teacher" for row in page(folder).all("tr"))
    assert "& 90.00 &" in next(line for line in files["leaderboard.tex"].decode().splitlines()
                               if line.endswith(r"\\ \midrule"))


# What the plots show.

def test_an_axis_leaves_out_failures_far_below_the_rest_and_nothing_else():
    assert floor([27, 80, 81, 82, 83, 84]) == 80
    assert floor([78, 80, 81, 82, 83, 84]) == 78
    assert floor([5.0]) == 5


def test_class_changes_are_means_over_common_seeds(folder):
    for seed, accuracy in ((7, .1), (8, .1)):  # seeds that ce lacks
        Store(folder).write(record(spec("kd", seed), accuracy, **details_of(accuracy)))
    board = build(folder, REGISTRY)
    changes = class_changes(list(board.cells[0].rows), read_details(Store(folder), board))
    assert list(changes) == ["kd"]
    assert changes["kd"] == pytest.approx([.04, np.nan, 0], nan_ok=True)


def test_details_are_those_of_the_runs_in_the_tables(folder):
    board = build(folder, REGISTRY)
    details = read_details(Store(folder), board)
    (kd,) = (row for row in board.cells[0].rows if row.method == "kd")
    assert details.mean_curve(kd) == pytest.approx({1: .425, 2: .85})
    assert details.environments == ((json.dumps({"cores": 2, "python": "3.11"}), 4),)
    assert (details.started, details.finished) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:02Z")


# LaTeX.

def test_latex_tables_are_booktabs_with_every_special_character_escaped(folder, undrawn):
    Store(folder).write(record(spec("my_own", 0, temperature=50), .5, family="data_free"))
    text = report_files(folder, REAL)["leaderboard.tex"].decode()
    assert r"my\_own & data\_free & 1 & 50.00 $\pm$ n/a" in text
    assert r"my\_own: temperature=50" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 3
    header = next(line for line in text.splitlines() if line.startswith("method &"))
    assert r"\begin{tabular}{llrrrrrrr}" in text
    main = text[:text.rindex(r"\begin{table}")]  # the last one is of accuracies by class
    body = [line for line in main.splitlines() if line.endswith((r"\\", r"\\ \midrule"))]
    assert {line.count("&") for line in body} == {header.count("&")}
    assert "& $-$30.00 $\\pm$ n/a ? &" in next(line for line in body if r"my\_own" in line)  # a minus, no hyphen
    assert build(folder, REAL).results_hash[:16] in text


def test_a_latex_table_is_labelled_cites_its_methods_and_sets_the_best_tier_bold(folder, undrawn):
    for seed, accuracy in enumerate((.90, .91)):
        Store(folder).write(record(spec("kd", seed), accuracy, metrics={"agreement": .9}))
        Store(folder).write(record(spec("ce", seed), accuracy - .4 - seed / 1000, metrics={"agreement": .9}))
    text = report_files(folder, REAL)["leaderboard.tex"].decode()
    labels = re.findall(r"\\label{(.*?)}", text)
    assert labels[0] == "kdbench:big-small-on-digits" and len(set(labels)) == text.count(r"\begin{table}")
    best, ce = (next(line for line in text.splitlines() if line.startswith(start))
                for start in (r"{\bfseries\boldmath kd~\cite{bee2020title}}", r"ce~\cite{bee2020title}"))
    assert r"{\bfseries\boldmath 90.50 $\pm$" in best and r"$\uparrow$" in best and "bfseries" not in ce
    first = text[text.index(r"\caption"):].split(r"\label")[0]
    assert r"$\pm$ is half the width" in first and r"$\uparrow$ better, $\downarrow$ worse" in first
    assert "Bold: the best tier" in first


def test_characters_that_pdflatex_has_no_letter_for_are_replaced():
    assert safe("Łódź 50% 数") == r"Łódź 50\% ?"
