"""The executors by name, as `--executor` and `kdbench.run(executor=...)` choose them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.execution.estimate import Estimator
from kdbench.execution.executor import Executor
from kdbench.execution.pool import LocalPool
from kdbench.execution.slurm.options import read_options
from kdbench.execution.slurm.pool import WORKERS, SlurmPool

EXECUTORS = ("local", "slurm")


def make_executor(name: str, folder: Path, workers: int | None = None, timeout: float | None = None, retries: int = 0,
                  slurm: Mapping[str, Any] | None = None, say: Callable[[str], None] = print,
                  estimator: Estimator | None = None) -> Executor:
    """The executor of that name, for tasks whose results belong to the folder. `workers` is the most tasks at a time,
    by default one for each core, or what suits a cluster; `slurm` are the options of `--slurm`; by the `estimator`
    short tasks share a Slurm job. UserError for an unknown name, and for options that are not its own.
    """
    def seconds(job: Any) -> float | None:
        found = estimator and estimator.estimate(job.spec)
        return found.seconds if found else None

    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name == "slurm":
        return SlurmPool(folder, read_options(slurm or {}), workers or WORKERS, timeout, retries, say, seconds)
    if slurm:
        raise UserError(f"--slurm {next(iter(slurm))}: goes with --executor slurm")
    return LocalPool(workers or os.cpu_count() or 1, timeout, retries, seconds)


def alone(executor: Executor) -> Executor:
    """The executor, told to do one task at a time, on a node of which nothing else uses a part."""
    if isinstance(executor, SlurmPool):
        own = executor.options
        executor.options = replace(own, at_once=1, asked={"exclusive": True, **own.asked})
    executor.workers = 1
    return executor
