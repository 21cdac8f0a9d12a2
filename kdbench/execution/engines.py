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
    """The executor of that name, for tasks whose results belong to the folder. `workers` is the most tasks at a time,
    by default one for each core, or what suits a cluster; `slurm` and `ray` are the options of `--slurm` and `--ray`;
    by the `estimator` short tasks share a Slurm job. UserError for an unknown name, and for options that are not its
    own.
    """
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
    """The executor, told to do one task at a time, on a node of which nothing else uses a part."""
    if isinstance(executor, SlurmPool):
        own = executor.options
        executor.options = replace(own, at_once=1, asked={"exclusive": True, **own.asked})
    if isinstance(executor, RayPool):
        executor.options = replace(executor.options, whole_node=True)
    executor.workers = 1
    return executor
