"""How long merging ten folders of 1,000 finished runs takes, as a user has it: the command in a process of its own.

    pytest --benchmark-only tests/benchmarks/test_merge.py

Each run has its plan, a network of 32 KiB and predictions of 60 KiB. `extra_info.memory_gib` is the most that the
process held.
"""

import hashlib
import json
import resource
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The records of `quick` again and again with other seeds, dealt to ten folders."""
    place = tmp_path_factory.mktemp("machines")
    found = [read(Record, str(path))[0] for path in sorted(RESULTS.glob("*.json"))]
    kept = [one for one in found if isinstance(one, Record) and one.role == "student" and one.spec.seed == 0]
    stores = [Store(place / f"machine-{number}") for number in range(FOLDERS)]
    for number in range(FOLDERS * RUNS):
        seed, which = divmod(number, len(kept))
        spec, store = kept[which].spec.model_copy(update={"seed": seed}), stores[number % FOLDERS]
        network, predictions = ((json.dumps([kind, number]).encode() * size)[:size]
                                for kind, size in (("network", NETWORK), ("predictions", PREDICTIONS)))
        record = msgspec.structs.replace(
            kept[which], run_id=spec.id, spec=spec, weights_sha256=hashlib.sha256(network).hexdigest(),
            predictions_sha256=hashlib.sha256(predictions).hexdigest())
        planned = Planned(suite=record.suite, role="student", spec=spec)
        for path, content in ((store.files.record(spec.id), record.to_json()), (store.files.plan(spec.id),
                              planned.to_json()), (store.files.student(spec.id), network),
                              (store.files.predictions(spec.id), predictions)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return place


def test_the_merge_of_ten_folders_of_1_000_runs(benchmark, folders):
    out = folders / "all"
    command = [sys.executable, "-c", "from kdbench.cli.main import main; main()", "merge",
               *map(str, sorted(folders.glob("machine-*"))), "--out", str(out)]
    printed = benchmark.pedantic(
        subprocess.check_output, (command,), {"text": True}, rounds=3,
        setup=lambda: shutil.rmtree(out, ignore_errors=True))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    benchmark.extra_info["memory_gib"] = round(memory, 2)
    print(f"\n{FOLDERS} folders of {RUNS:,} runs: {benchmark.stats['median']:.1f} s, {memory:.2f} GiB")
    assert f"{FOLDERS * RUNS} records; {4 * FOLDERS * RUNS} files copied" in printed
