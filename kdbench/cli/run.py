"""The commands that train and measure."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.options import (
    Core,
    Datasets,
    Device,
    Methods,
    Out,
    Pairs,
    Plugins,
    Settings,
    SuiteName,
    read_seeds,
    split_names,
)
from kdbench.cli.results import leaderboard
from kdbench.profile.energy import WATTS_PER_CORE

if TYPE_CHECKING:
    from kdbench.suites.plan import Plan


def run(
    suite: SuiteName,
    methods: Methods = None,
    core: Core = False,
    pairs: Pairs = None,
    datasets: Datasets = None,
    seeds: Annotated[str | None, typer.Option(help="how many (3), or which (0,4,7)")] = None,
    settings: Settings = None,
    out: Out = None,
    workers: Annotated[int | None, typer.Option(min=1, help="runs at a time; by default the number of cores")] = None,
    device: Annotated[Device, typer.Option(help="what to train on")] = Device.cpu,
    run_timeout: Annotated[float | None, typer.Option(min=1e-3, help="seconds after which a run is stopped")] = None,
    plugin: Plugins = None,
    rerun_changed: Annotated[bool, typer.Option(
        "--rerun-changed", help="redo finished runs whose method's source changed since")] = False,
) -> None:
    """Run a suite and print its leaderboard. The same command again continues where it stopped."""
    from kdbench.execution.display import make_display
    from kdbench.execution.matrix import Matrix
    from kdbench.execution.pool import LocalPool
    from kdbench.folders import cache_folder

    cache = cache_folder()
    plan = _plan(suite, plugin, cache, methods=split_names(methods), core=core, pairs=split_names(pairs),
                 datasets=split_names(datasets), seeds=read_seeds(seeds), settings=settings or (), device=device.value)
    matrix = Matrix(plan, out or Path("runs") / plan.suite, cache, say=print)
    jobs = matrix.pending(rerun_changed)
    reasons: dict[str, str] = {}
    pool = LocalPool(workers or os.cpu_count() or 1, run_timeout)
    if jobs:
        pool.start()
        from kdbench.checks.preflight import preflight

        reasons = preflight([job.spec for job in jobs], plan.methods, cache)
    outcome = matrix.run(jobs, reasons, pool, make_display(pool.workers))
    for name, count in matrix.changed_methods().items():
        print(f"note: {count} finished runs of {name} were made by another version of its source; "
              f"--rerun-changed redoes them")
    print(f"{outcome.skipped} runs were finished before, {outcome.trained} now, {outcome.failed} failed, "
          f"{outcome.inapplicable} not applicable; results in {matrix.out}\n")
    leaderboard(matrix.out, plugin=plugin)
    if outcome.failed:
        raise typer.Exit(1)


def profile(
    suite: SuiteName,
    methods: Methods = None,
    core: Core = False,
    pairs: Pairs = None,
    datasets: Datasets = None,
    settings: Settings = None,
    out: Out = None,
    device: Annotated[Device, typer.Option(help="what to measure on")] = Device.cpu,
    plugin: Plugins = None,
    steps: Annotated[int, typer.Option(min=2, help="training steps in a pass, drawn from all parts of a run")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="passes, and turns of the networks in use")] = 5,
    watts: Annotated[float, typer.Option(
        help="of a busy core: estimates energy where no counter can be read")] = WATTS_PER_CORE,
) -> None:
    """Measure what training and using a suite's networks costs, one at a time. The same command again measures anew."""
    from kdbench.execution.pool import LocalPool
    from kdbench.folders import cache_folder
    from kdbench.profile.job import Settings as ProfileSettings
    from kdbench.profile.session import measure, profile_jobs
    from kdbench.report.costs import tables_of
    from kdbench.report.markdown import tables_to_markdown

    start, cache = time.monotonic(), cache_folder()
    plan = _plan(suite, plugin, cache, methods=split_names(methods), core=core, pairs=split_names(pairs),
                 datasets=split_names(datasets), seeds=1, settings=settings or (), device=device.value)
    folder = out or Path("runs") / plan.suite
    jobs = profile_jobs(plan, folder, cache, ProfileSettings(steps, repeats, watts))
    pool = LocalPool(1)
    pool.start()
    from kdbench.checks.preflight import preflight

    reasons = preflight([job.spec for job in jobs if job.subject == "method"], plan.methods, cache)
    profiles = measure(jobs, reasons, pool, say=print)
    print("\n" + tables_to_markdown(tables_of(profiles, plan.methods)))
    measured = sum(profile.seconds for profile in profiles)
    print(f"\n{len(profiles)} profiles in {time.monotonic() - start:.0f} s, {measured:.0f} s of them in their own "
          f"processes; results in {folder / 'profile'}")
    if any(profile.status not in ("ok", "inapplicable") for profile in profiles):
        raise typer.Exit(1)


def _plan(suite: str, plugins: Iterable[Path] | None, cache: Path, **selection: Any) -> "Plan":
    """What a command's options select, its data at hand."""
    from kdbench.data import collect
    from kdbench.folders import data_folder
    from kdbench.plugins.registry import Registry
    from kdbench.suites.plan import Selection, expand
    from kdbench.suites.suite import load_suite

    plan = expand(load_suite(suite), Registry(plugins or ()), Selection(**selection))
    for dataset in {spec.dataset for spec in plan.students}:
        collect.check(dataset, data_folder(cache))
    return plan


COMMANDS = {"run": run, "profile": profile}
