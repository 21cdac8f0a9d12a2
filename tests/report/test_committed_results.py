"""The committed results: what is generated from records is what they give."""

from pathlib import Path

import pytest

from kdbench.plugins.registry import Registry
from kdbench.report.files import check_report
from kdbench.results.store import Store
from kdbench.suites.suite import load_suite

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/records"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_reports_are_what_the_records_give(folder):
    assert check_report(folder) == []


def test_quick_holds_every_method_and_seed_of_its_suite():
    content = load_suite("quick").content
    records, problems = Store(RESULTS / "quick").read()
    assert not problems
    runs = {(record.spec.method, record.spec.seed) for record in records if record.role == "student"}
    assert runs == {(method, seed) for method in Registry() for seed in range(content.seeds)}
