"""How long the leaderboard of 100,000 runs takes, as a user has it: the command in a process of its own.

    pytest --benchmark-only tests/benchmarks/test_leaderboard.py

`extra_info.memory_gib` is the most that the process held.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.spec import RunSpec

RESULTS = Path(__file__).parents[2] / "results" / "quick" / "records"
RUNS, CELLS = 100_000, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The records of `quick` again and again, with other seeds and epochs."""
    records = tmp_path_factory.mktemp("runs") / "records"
    records.mkdir()
    kept = [record for record in (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
            if record["role"] == "student" and record["spec"]["seed"] == 0]
    for number in range(RUNS):
        seed_and_cell, place = divmod(number, len(kept))
        seed, cell = divmod(seed_and_cell, CELLS)
        record = kept[place]
        spec = record["spec"] | {"seed": seed, "recipe": record["spec"]["recipe"] | {"epochs": 1 + cell}}
        run_id = RunSpec.from_json({name: json.dumps(value).encode() for name, value in spec.items()}).id
        text = json.dumps(record | {"run_id": run_id, "spec": spec}, separators=(",", ":"))
        (records / f"{run_id}.json").write_text(text)
    return records.parent


def test_the_leaderboard_of_100_000_runs(benchmark, folder):
    command = [sys.executable, "-c", "from kdbench.cli.main import main; main()", "leaderboard", folder]
    printed = benchmark.pedantic(subprocess.check_output, (command,), {"text": True}, rounds=3, warmup_rounds=1)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    benchmark.extra_info["memory_gib"] = round(memory, 2)
    print(f"\n{RUNS:,} records: {benchmark.stats['median']:.1f} s, {memory:.2f} GiB, {len(printed):,} characters")
    assert f"- {RUNS} runs of 1 suite (quick)" in printed
