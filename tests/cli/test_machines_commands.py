"""The commands for results of several machines."""

import json

import pytest
from support.folders import finish, tree
from support.records import spec

from kdbench.results.store import Store


@pytest.fixture
def stores(tmp_path):
    """The folders a and b, with a run that they share and one of their own."""
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    for store, seed in ((a, 1), (b, 2)):
        finish(store, spec("ce"))
        finish(store, spec("kd", seed=seed))
    return a, b


def test_merge_says_what_it_took_and_a_dry_run_what_it_would_take(kdbench, stores, tmp_path):
    code, out, err = kdbench("merge", "a", "b", "--out", "all", "--dry-run")
    lines = out.splitlines()
    assert (code, err) == (0, "") and not (tmp_path / "all").exists()
    assert lines[0].startswith("a (2 records, results ") and lines[1].startswith("b (2 records, results ")
    assert lines[2] == "1 run in several folders with the same record: taken once"
    assert lines[-1] == "all: 3 records; 9 files to copy"
    assert kdbench("merge", "a", "b", "--out", "all") == (0, out.replace("to copy", "copied"), "")
    assert kdbench("merge", "b", "a", "--out", "all")[1].endswith("all: 3 records; 0 files copied\n")
    assert "- Merged from a (2 records" in kdbench("leaderboard", "all")[1]


def test_merge_of_contradicting_or_damaged_runs_is_a_line_each_and_exit_code_1(kdbench, stores, tmp_path):
    a, b = stores
    finish(b, spec("ce"), weights=b"x")
    a.files.record(spec("kd", seed=1).id).write_text("{")
    code, _, err = kdbench("merge", "a", "b", "--out", "all")
    lines = err.splitlines()
    assert code == 1 and len(lines) == 3 and not (tmp_path / "all").exists()
    assert lines[0].startswith("damaged: a/records/") and lines[1].startswith("contradiction: run ")
    assert lines[2] == "nothing was merged: 2 in the way"


@pytest.mark.parametrize("arguments", [
    ("a", "absent", "--out", "all"), ("a", "a", "--out", "all"), ("a", "b", "--out", "a/all"), ("a", "b", "--out", "a"),
    ("a", ".", "--out", "all"), ("a", "b"), ("--out", "all"),
])
def test_merge_of_what_cannot_be_merged_is_one_line_and_exit_code_2(kdbench, stores, tmp_path, arguments):
    before = tree(tmp_path)
    code, out, err = kdbench("merge", *arguments)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and tree(tmp_path) == before
    assert not (tmp_path / "all").exists()


def test_compare_exits_with_0_if_all_runs_of_both_are_bit_equal_and_with_1_if_not(kdbench, stores):
    code, out, err = kdbench("compare", "a", "b")
    assert (code, err) == (0, "") and out.startswith("A: a, results ") and "1 run in both: 1 bit-equal, 0 not" in out
    finish(stores[1], spec("ce"), weights=b"x")
    code, out, _ = kdbench("compare", "a", "b")
    assert code == 1 and "not bit-equal: " in out
    code, out, _ = kdbench("compare", "a", "b", "--json")
    told = json.loads(out)
    assert code == 1 and told["reruns"]["differing"][0]["what"] == "weights, predictions differ"
    assert {"results", "cells", "methods", "rows", "reruns", "environments", "sources"} == told.keys()
    assert {"method", "difference", "p", "significant", "verdicts"} < told["rows"][0].keys()


@pytest.mark.parametrize("arguments", [("a", "absent"), ("a", "a"), ("a", "."), ("a",), ("a", "b", "a")])
def test_compare_of_what_cannot_be_compared_is_one_line_and_exit_code_2(kdbench, stores, tmp_path, arguments):
    before = tree(tmp_path)
    code, out, err = kdbench("compare", *arguments)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and tree(tmp_path) == before
