"""How long merging ten folders of 1,000 runs takes, as a user has it: the command in a process of its own.

    pytest --benchmark-only tests/benchmarks/test_merge.py

Once with records alone, and once with plans, networks of 32 KiB and predictions of 60 KiB.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kdbench.results.record import Planned, Record, read
from kdbench.results.store import Store

RESULTS = Path(__file__).parents[2] / "results" / "quick" / "records"
FOLDERS, RUNS = 10, 1000
NETWORK, PREDICTIONS = 32 << 10, 60 << 10


def runs():
    """The records of `quick` again and again with other seeds, each with its network and predictions."""
    found = [read(Record, str(path))[0] for path in sorted(RESULTS.glob("*.json"))]
    kept = [one for one in found if isinstance(one, Record) and one.role == "student" and one.spec.seed == 0]
    for number in range(FOLDERS * RUNS):
        seed, which = divmod(number, len(kept))
        spec = kept[which].spec.model_copy(update={"seed": seed})
        network, predictions = ((json.dumps([kind, number]).encode() * size)[:size]
                                for kind, size in (("network", NETWORK), ("predictions", PREDICTIONS)))
        yield msgspec.structs.replace(
            kept[which], run_id=spec.id, spec=spec, weights_sha256=hashlib.sha256(network).hexdigest(),
            predictions_sha256=hashlib.sha256(predictions).hexdigest()), network, predictions


@pytest.fixture(params=["records", "all files"])
def folders(request, tmp_path):
    """Ten folders to which the runs are dealt, and how many files there are."""
    for number, (record, network, predictions) in enumerate(runs()):
        files = Store(tmp_path / f"machine-{number % FOLDERS}").files
        contents = {files.record(record.run_id): record.to_json()}
        if request.param == "all files":
            planned = Planned(suite=record.suite, role="student", spec=record.spec)
            contents |= {files.plan(record.run_id): planned.to_json(), files.student(record.run_id): network,
                         files.predictions(record.run_id): predictions}
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    yield tmp_path, FOLDERS * RUNS * len(contents)
    shutil.rmtree(tmp_path)  # a gigabyte


def test_the_merge_of_ten_folders_of_1_000_runs(benchmark, folders):
    place, files = folders
    out = place / "all"
    command = [sys.executable, "-c", "from kdbench.cli.main import main; main()", "merge",
               *map(str, sorted(place.glob("machine-*"))), "--out", str(out)]
    printed = benchmark.pedantic(
        subprocess.check_output, (command,), {"text": True}, rounds=3,
        setup=lambda: shutil.rmtree(out, ignore_errors=True))
    print(f"\n{FOLDERS} folders of {RUNS:,} runs, {files:,} files: {benchmark.stats['median']:.1f} s")
    assert f"{FOLDERS * RUNS} records; {files} files copied" in printed
