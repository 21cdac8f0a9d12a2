"""How long `kdbench status` takes for 10,000 records, as a user has it: the command in a process of its own.

    pytest --benchmark-only -s tests/benchmarks/test_status.py
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.results.record import Planned
from kdbench.results.store import Store
from kdbench.spec import RunSpec

RESULTS = Path(__file__).parents[2] / "results" / "quick" / "records"
RUNS, OPEN = 10_000, 2_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The records of `quick` again and again with other seeds, and further runs that are only planned."""
    store = Store(tmp_path_factory.mktemp("runs"))
    store.files.records.mkdir()
    kept = [record for record in (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
            if record["role"] == "student" and record["spec"]["seed"] == 0]
    for number in range(RUNS + OPEN):
        seed, place = divmod(number, len(kept))
        record = kept[place]
        spec = record["spec"] | {"seed": seed}
        read = RunSpec.from_json({name: json.dumps(value).encode() for name, value in spec.items()})
        if number < RUNS:
            text = json.dumps({name: value for name, value in record.items() if name != "sha256"}
                              | {"run_id": read.id, "spec": spec}, separators=(",", ":"))
            store.files.record(read.id).write_text(text)
        else:
            store.files.plan(read.id).parent.mkdir(exist_ok=True)
            store.files.plan(read.id).write_bytes(Planned(suite="quick", role="student", spec=read).to_json())
    return store.folder


def test_the_status_of_10_000_records(benchmark, folder):
    command = [sys.executable, "-c", "from kdbench.cli.main import main; main()", "status", folder]
    printed = benchmark.pedantic(subprocess.check_output, (command,), {"text": True}, rounds=3, warmup_rounds=1)
    print(f"\n{RUNS:,} records and {OPEN:,} open runs: {benchmark.stats['median']:.1f} s")
    assert f"{OPEN} missing" in printed and f"{RUNS + OPEN} runs of quick" in printed
