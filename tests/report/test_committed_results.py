"""The committed results: what is generated from records is what they give."""

from pathlib import Path

import pytest

from kdbench.analysis.build import build
from kdbench.report.files import check_report, table_files
from kdbench.results.store import Store

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/records"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_tables_are_what_the_records_give(folder):
    assert [name for name, content in table_files(folder, build(folder)).items()
            if (folder / name).read_bytes() != content] == []


@pytest.mark.slow  # draws every plot of every folder
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_reports_are_what_the_records_give(folder):
    assert check_report(folder) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_run_that_was_asked_for_has_a_record(folder):
    records, problems = Store(folder).read()
    planned, damaged = Store(folder).planned()
    assert not problems and not damaged
    assert {record.run_id for record in records} == {run.run_id for run in planned} != set()
