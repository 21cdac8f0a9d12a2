import re

import pytest
from pybtex.database import parse_string
from support.records import info, record, spec

from kdbench.__init__ import __version__
from kdbench.analysis.build import build
from kdbench.paper import Paper
from kdbench.plugins.registry import Registry
from kdbench.report.cite import cite, escape
from kdbench.results.release import Release, Version, write_release
from kdbench.results.store import Store


def parse(bibtex: str) -> dict[str, dict[str, str]]:
    """The entries of a BibTeX text by key; fails on anything that BibTeX would not read."""
    entries = {}
    for entry in re.findall(r"^@.*?^}$", bibtex, flags=re.MULTILINE | re.DOTALL):
        head = re.match(r"@(\w+)\{([a-z0-9]+),\n", entry)
        body = entry[head.end():-2]
        fields = {}
        for line in body.split(",\n"):
            name, value = re.fullmatch(r"  (\w+) = \{(.*)\}", line).groups()
            depth = 0
            for character in re.sub(r"\\.", "", value):
                depth += (character == "{") - (character == "}")
                assert depth >= 0, line
            assert depth == 0 and name not in fields, line
            fields[name] = value
        assert head[2] not in entries, "a key stands twice"
        entries[head[2]] = {"type": head[1], **fields}
    return entries


def board(folder, methods, registry, dataset="mnist5k"):
    for method in methods:
        Store(folder).write(record(spec(method, dataset=dataset), .5))
    return build(folder, registry)


def with_paper(**paper):
    fields = dict(title="A Title of Note", authors=("Ann Bee",), year=2020, venue="ICLR")
    return info("kd", "logit", paper=Paper(**{**fields, **paper}))


def test_every_installed_method_and_dataset_gets_an_entry_that_parses(tmp_path):
    registry = Registry()
    leaderboard = board(tmp_path, registry, registry, "cifar10+skew(0.9)+longtail(10)")
    entries = parse(cite(leaderboard))
    read = parse_string(cite(leaderboard), "bibtex")
    assert list(read.entries) == list(entries)
    assert [str(author) for author in read.entries["hinton2015distilling"].persons["author"]] == [
        "Hinton, Geoffrey", "Vinyals, Oriol", "Dean, Jeff"]
    titles = {entry["title"].strip("{}") for entry in entries.values()}
    for method in registry.values():
        assert method.paper is None or escape(method.paper.title) in titles, method.name
    assert {"Towards Fairness in Visual Recognition: Effective Strategies for Bias Mitigation",
            "Class-Balanced Loss Based on Effective Number of Samples"} <= titles
    assert entries["kdbench"]["version"] == __version__
    assert entries["hinton2015distilling"]["eprint"] == "1503.02531"
    assert r"(variants: +longtail~\cite{cui2019class}, +skew~\cite{wang2020towards})" in cite(leaderboard)
    for entry in entries.values():
        assert entry["author"] and entry["title"] and entry["year"].isdigit()
        needed = {"inproceedings": "booktitle", "article": "journal", "techreport": "institution"}
        assert needed.get(entry["type"], "title") in entry


def test_the_sentence_cites_what_has_an_entry_and_carries_the_results_hash(tmp_path):
    registry = {"kd": with_paper(), "ce": info("ce", "baseline")}
    leaderboard = board(tmp_path, ["ce", "kd", "my_own"], registry, "digits")
    text = cite(leaderboard)
    sentence = text.split("\n\n")[-1]
    assert sentence == (
        f"We compare ce, kd~\\cite{{bee2020title}}, my\\_own on digits with kdbench {__version__}~\\cite{{kdbench}}, "
        f"suite tiny (results \\texttt{{{leaderboard.results_hash[:16]}}}).\n"
        r"% Not known here, so without a reference: my\_own")
    assert set(re.findall(r"\\cite{(\w+)}", sentence)) <= set(parse(text))


def test_the_sentence_names_the_versions_of_the_runs_and_no_method_without_a_result(tmp_path):
    for seed, torch in enumerate(("2.14.1", "2.14.1", "2.15.0")):
        versions = {"kdbench": "0.0.1", "torch": torch, "timm": "1.0.31", "numpy": "2.4.6"}
        Store(tmp_path).write(record(spec("ce", seed), .5, environment={"versions": versions}))
    Store(tmp_path).write(record(spec("at"), status="inapplicable", reason="one position"))
    text = cite(build(tmp_path, {"ce": info("ce", "baseline"), "at": with_paper()}))
    assert ("We compare ce on digits" in text and "with kdbench 0.0.1~\\cite{kdbench}, torch 2.14.1 and 2.15.0, "
            "timm 1.0.31, suite tiny (results" in text and "bee2020title" not in text)


def test_a_version_of_the_results_is_cited_as_long_as_they_are_those(tmp_path):
    Store(tmp_path).write(record(spec("ce", 0), .5))
    registry = {"ce": info("ce", "baseline")}
    own = build(tmp_path, registry)
    write_release(Store(tmp_path), Release(suite="tiny", versions=[Version(
        version="2026.12", released="2026-12-01T00:00:00Z", results=own.results_hash, records=own.records_hash,
        note="All of it.")]))
    assert "(version 2026.12, results" in cite(build(tmp_path, registry))
    Store(tmp_path).write(record(spec("ce", 1), .5))
    assert "version 2026.12" not in cite(build(tmp_path, registry))


def test_two_papers_never_share_a_key_and_one_paper_stands_once(tmp_path):
    registry = {"kd": with_paper(), "at": with_paper(title="A Title of Another Kind"), "ce": with_paper()}
    entries = parse(cite(board(tmp_path, registry, registry, "digits")))
    assert sorted(entries) == ["bee2020title", "bee2020titleb", "kdbench"]


@pytest.mark.parametrize(("paper", "kind", "field"), [
    ({"venue": "arXiv", "arxiv": "2001.00001"}, "misc", ("eprint", "2001.00001")),
    ({"venue": "TMLR"}, "article", ("journal", "TMLR")),
    ({"venue": "Technical report, A University"}, "techreport", ("institution", "A University")),
    ({"venue": "CVPR", "doi": "10.1/x_y"}, "inproceedings", ("doi", "10.1/x_y")),
    ({"title": "50% of {C}_s & more"}, "inproceedings", ("title", r"{50\% of \{C\}\_s \& more}")),
    ({"authors": ("Łukasz Šør", "Ann Bee")}, "inproceedings", ("author", "Łukasz Šør and Ann Bee")),
    ({"authors": ("张伟", "Ann Bee"), "title": "知识蒸馏"}, "inproceedings", ("author", "张伟 and Ann Bee")),
])
def test_venues_and_odd_characters_become_valid_bibtex(tmp_path, paper, kind, field):
    registry = {"kd": with_paper(**paper)}
    entries = parse(cite(board(tmp_path, registry, registry, "digits")))
    (entry,) = (entry for key, entry in entries.items() if key != "kdbench")
    assert (entry["type"], entry[field[0]]) == (kind, field[1])


def test_the_metrics_of_a_table_are_cited_and_those_that_it_lacks_are_not(tmp_path):
    Store(tmp_path).write(record(spec("ce", dataset="mnist5k"), .5, metrics={"ece": .1, "teacher_pgd_accuracy": .1}))
    text = cite(build(tmp_path, Registry()))
    assert r"Metrics of other authors: ECE~\cite{guo2017calibration}." in text and "madry" not in text
    assert "guo2017calibration" in parse(text)
    assert "Metrics of other authors" not in cite(board(tmp_path / "other", ["ce"], Registry()))
