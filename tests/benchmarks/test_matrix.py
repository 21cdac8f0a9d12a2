"""What kdbench itself adds to a run: 10,000 runs that do nothing, each in a process and with a record of its own.

    pytest --benchmark-only -s tests/benchmarks/test_matrix.py
"""

import os
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from kdbench.execution.display import PlainDisplay, TerminalDisplay
from kdbench.execution.estimate import Estimator
from kdbench.execution.matrix import Matrix, Training
from kdbench.execution.pool import LocalPool
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import load_suite

RUNS = int(os.environ.get("RUNS", "10000"))


class Nothing(Training):
    """Work that takes no time but that of its process and its record."""

    function = "support.noop:write_record"


@pytest.fixture
def matrix(tmp_path):
    """The first runs of `quick` with many seeds."""
    registry = Registry()
    plan = expand(load_suite("quick"), registry, Selection(seeds=-(-RUNS // len(registry))))
    found = Matrix(plan, tmp_path / "out", CacheFolder(tmp_path / "cache"), say=lambda text: None)
    found.training = Nothing()
    return found


@pytest.mark.parametrize("kind", [PlainDisplay, TerminalDisplay])
def test_runs_that_do_nothing(benchmark, matrix, capsys, kind):
    jobs = [job for job in matrix.pending() if job.role == "student"][:RUNS]
    estimator, memory = Estimator(reference="ce"), []

    class Display(kind):
        def ended(self, job, record):
            super().ended(job, record)
            if self.done % (RUNS // 5) == 0:
                memory.append(psutil.Process().memory_info().rss / 2**20)

    pool = LocalPool(2, estimate=lambda job: (found := estimator.estimate(job.spec)) and found.seconds)
    pool.start()
    pool.call("support.noop:ready")  # the server has imported torch
    before = psutil.Process().cpu_times()
    with Path(os.devnull).open("w") as nowhere:
        display = Display(Console(file=nowhere, force_terminal=kind is TerminalDisplay), 2, estimator)
        summary = benchmark.pedantic(matrix.run, (jobs, {}, pool, display), rounds=1)
    after = psutil.Process().cpu_times()
    parent = after.user + after.system - before.user - before.system
    with capsys.disabled():
        print(f"\n{len(jobs):,} runs, {kind.__name__}: {benchmark.stats['min'] / len(jobs) * 1000:.1f} ms a run, "
              f"{parent / len(jobs) * 1000:.1f} of them the parent's; MiB of the parent as they go by: "
              f"{', '.join(f'{one:.0f}' for one in memory)}")
    assert (summary.trained, summary.failed) == (len(jobs), 0)
