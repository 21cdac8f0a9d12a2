"""The commands `kdbench run`, which trains a suite, and `kdbench profile`, which measures its costs."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from kdbench.cli.options import (
    AsJson,
    Core,
    Datasets,
    EstimatesFrom,
    Executor,
    Match,
    Methods,
    OnDevice,
    Out,
    Pairs,
    Plugins,
    Ray,
    Retries,
    RunTimeout,
    Settings,
    Slurm,
    SuiteName,
    TeacherCache,
    TrainingDevice,
    Workers,
    cache_size,
    read_keys,
    read_seeds,
    read_settings,
    split_names,
)
from kdbench.cli.results import leaderboard
from kdbench.errors import UserError, counted
from kdbench.execution.shard import WAIT_SECONDS
from kdbench.profile.energy import WATTS_PER_CORE
from kdbench.remote.door import WRITE, on_stores


def run(
    suite: SuiteName,
    methods: Methods = None,
    core: Core = False,
    pairs: Pairs = None,
    datasets: Datasets = None,
    seeds: Annotated[str | None, typer.Option(help="how many (3), or which (0,4,7)")] = None,
    settings: Settings = None,
    out: Out = None,
    workers: Workers = None,
    device: OnDevice = TrainingDevice.cpu,
    run_timeout: RunTimeout = None,
    retries: Retries = 1,
    plugin: Plugins = None,
    retry: Annotated[str, typer.Option(
        metavar="WHICH", help="which runs that have a record are run again: failed, stale (the source of their method "
        "changed since), failed,stale or none; runs without a record always run")] = "failed",
    teacher_cache: TeacherCache = None,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", help="print what would run, and the time, memory and disk that it takes; write nothing")] = False,
    estimates_from: EstimatesFrom = None,
    tuned: Annotated[Path | None, typer.Option(
        metavar="DIR", help="a folder of `kdbench tune`: run every method by what was chosen for it there")] = None,
    tuned_on: Annotated[str | None, typer.Option(
        metavar="PAIR", help="with --tuned: what was chosen on this pair, for all pairs of the run")] = None,
    match: Annotated[Match, typer.Option(
        help="give every method the same steps, or the compute of kd, by the profiles in --out")] = Match.steps,
    shard: Annotated[str | None, typer.Option(
        metavar="N/COUNT", help="only this part of the runs, such as 3/16, with the same cache as the others")] = None,
    wait_for_teachers: Annotated[float, typer.Option(
        min=0, metavar="SECONDS", help="with --shard: how long to wait for the teachers of other shards while nobody "
        "is at work on one")] = WAIT_SECONDS,
    track: Annotated[str | None, typer.Option(
        metavar="NAMES", help="show each run as it ends: tensorboard, wandb or trackio, comma-separated")] = None,
    as_json: AsJson = False,
    executor: Executor = "local",
    slurm: Slurm = None,
    ray: Ray = None,
) -> None:
    """Run a suite and print its leaderboard. Running the same command again continues where it stopped. The exit code
    is 1 if a run or a teacher failed, or if runs still wait for the teachers of other shards."""
    from kdbench import api

    if as_json and not dry_run:
        raise UserError("--json goes with --dry-run")
    asked: dict[str, Any] = {
        "methods": split_names(methods), "core": core, "pairs": split_names(pairs), "datasets": split_names(datasets),
        "seeds": read_seeds(seeds), "settings": read_settings(settings or ()), "out": out, "workers": workers,
        "device": device.value, "plugins": plugin or (), "retry": retry,
        "estimates_from": estimates_from or (), "tuned": tuned, "tuned_on": tuned_on, "match": match.value,
        "shard": shard, "teacher_cache": cache_size(teacher_cache), "track": split_names(track) or (),
        "executor": executor, "slurm": read_keys("--slurm", slurm), "ray": read_keys("--ray", ray)}
    if dry_run:
        from kdbench.cli.text.forecast import forecast_to_text

        found = api.plan(suite, **asked)
        print(json.dumps(dataclasses.asdict(found), indent=2) if as_json else forecast_to_text(found))
        return
    summary = api.run(suite, run_timeout=run_timeout, retries=retries, wait_for_teachers=wait_for_teachers, **asked)
    lost = summary.teachers_failed
    teachers = f"{counted(lost, 'teacher')} failed, " if lost else ""
    waiting = f"{summary.waiting} wait for teachers of other shards, " if summary.waiting else ""
    print(f"{summary.skipped} runs were finished before, {summary.trained} now, {summary.failed} failed, {teachers}"
          f"{waiting}{summary.inapplicable} not applicable; results in {summary.folder}\n")
    leaderboard([summary.folder], plugin=plugin)
    if summary.failed or lost or summary.waiting:
        raise typer.Exit(1)


@on_stores(out=WRITE)
def profile(
    suite: SuiteName,
    methods: Methods = None,
    core: Core = False,
    pairs: Pairs = None,
    datasets: Datasets = None,
    settings: Settings = None,
    out: Out = None,
    device: OnDevice = TrainingDevice.cpu,
    plugin: Plugins = None,
    steps: Annotated[int, typer.Option(min=2, help="training steps in a pass, drawn from all parts of a run")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="passes, and turns of the networks in use")] = 5,
    watts: Annotated[float, typer.Option(
        help="of a busy core: estimates energy where no counter can be read")] = WATTS_PER_CORE,
    executor: Executor = "local",
    slurm: Slurm = None,
    ray: Ray = None,
) -> None:
    """Measure the cost of training with a suite's methods and of using its networks, one at a time. Running the same
    command again measures everything again. The exit code is 1 if a measurement failed."""
    from kdbench.api import default_folder, make_plan
    from kdbench.execution.engines import alone, make_executor
    from kdbench.execution.pool import PREFLIGHT
    from kdbench.folders import CacheFolder
    from kdbench.plugins.registry import Registry
    from kdbench.profile.job import Settings as ProfileSettings
    from kdbench.profile.session import profile_jobs, run_profiles
    from kdbench.report.markdown import tables_to_markdown
    from kdbench.report.tables.costs import tables_of
    from kdbench.suites.plan import Selection

    start, cache = time.monotonic(), CacheFolder.of_user()
    selection = Selection(split_names(methods), core, split_names(pairs), split_names(datasets), seeds=1,
                          settings=read_settings(settings or ()), device=device.value)
    plan = make_plan(suite, selection, Registry(plugin or ()), cache)
    folder = out or default_folder(plan)
    jobs = profile_jobs(plan, folder, cache, ProfileSettings(steps, repeats, watts))
    pool = alone(make_executor(executor, folder, slurm=read_keys("--slurm", slurm), ray=read_keys("--ray", ray)))
    pool.start()
    reasons, _ = pool.call(PREFLIGHT, [job.spec for job in jobs if job.subject == "method"], plan.methods, cache,
                           pool.here)
    profiles = run_profiles(jobs, reasons, pool, say=print)
    print("\n" + tables_to_markdown(tables_of(profiles, plan.methods)))
    measured = sum(profile.seconds for profile in profiles)
    print(f"\n{len(profiles)} profiles in {time.monotonic() - start:.0f} s, {measured:.0f} s of them in their own "
          f"processes; results in {folder / 'profile'}")
    if any(profile.status not in ("ok", "inapplicable") for profile in profiles):
        raise typer.Exit(1)


COMMANDS = {"run": run, "profile": profile}
