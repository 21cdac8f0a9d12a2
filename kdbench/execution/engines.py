"""The executors by name, as `--executor` and `kdbench.run(executor=...)` choose them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.execution.cluster.options import WORKERS
from kdbench.execution.estimate import Estimator
from kdbench.execution.executor import Executor
from kdbench.execution.pool import LocalPool
from kdbench.execution.ray import options as of_ray
from kdbench.execution.ray.pool import RayPool
from kdbench.execution.slurm import options as of_slurm
from kdbench.execution.slurm.pool import SlurmPool

EXECUTORS = ("local", "ray", "slurm")


def make_executor(name: str, folder: Path, workers: int | None = None, timeout: float | None = None, retries: int = 0,
                  slurm: Mapping[str, Any] | None = None, ray: Mapping[str, Any] | None = None,
                  say: Callable[[str], None] = print, estimator: Estimator | None = None) -> Executor:
    """The executor with this name, for tasks whose results belong to `folder`. `workers` is the most tasks at a time,
    by default one per core, or `WORKERS` on a cluster; `timeout` is the limit of a task in seconds, None for no limit;
    a task that was killed or lost is run again up to `retries` times. `slurm` and `ray` are the keys and values of
    `--slurm` and `--ray`. By the durations that the `estimator` gives, short tasks share a Slurm job, and a local pool
    begins the longest of the last tasks first. UserError for an unknown name, for the options of another executor, and
    for invalid options."""
    def seconds(job: Any) -> float | None:
        found = estimator and estimator.estimate(job.spec)
        return found.seconds if found else None

    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    for owner, options in (("slurm", slurm), ("ray", ray)):
        if options and name != owner:
            raise UserError(f"--{owner} {next(iter(options))}: goes with --executor {owner}")
    if name == "slurm":
        return SlurmPool(folder, of_slurm.read_options(slurm or {}), workers or WORKERS, timeout, retries, say, seconds)
    if name == "ray":
        return RayPool(folder, of_ray.read_options(ray or {}), workers or WORKERS, timeout, retries, say)
    return LocalPool(workers or os.cpu_count() or 1, timeout, retries, seconds)


def alone(executor: Executor) -> Executor:
    """Set the executor to run one task at a time, on a node of a cluster that nothing else uses, and return it."""
    if isinstance(executor, SlurmPool):
        own = executor.options
        executor.options = replace(own, at_once=1, asked={"exclusive": True, **own.asked})
    if isinstance(executor, RayPool):
        executor.options = replace(executor.options, whole_node=True)
    executor.workers = 1
    return executor
