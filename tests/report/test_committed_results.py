"""The committed results: what is generated from records is what they give."""

from pathlib import Path

import pytest

from kdbench.report.files import check_report
from kdbench.results.store import Store

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/records"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_reports_are_what_the_records_give(folder):
    assert check_report(folder) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_run_that_was_asked_for_has_a_record(folder):
    records, problems = Store(folder).read()
    planned, damaged = Store(folder).planned()
    assert not problems and not damaged
    assert {record.run_id for record in records} == {run.run_id for run in planned} != set()
