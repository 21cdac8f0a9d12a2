"""The Python interface of kdbench: the functions behind the commands, available as `kdbench.run` and so on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdbench.analysis.build import build
from kdbench.data import collect
from kdbench.errors import UserError, one_line, unknown
from kdbench.execution.display import make_display
from kdbench.execution.engines import make_executor
from kdbench.execution.estimate import Estimator
from kdbench.execution.matrix import Matrix, Summary, read_retry
from kdbench.execution.pool import PREFLIGHT, LocalPool
from kdbench.execution.shard import WAIT_SECONDS, Shard, Share
from kdbench.execution.trackers import make_trackers
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.profile.forecast import Forecast, earlier, forecast
from kdbench.profile.match import EQUAL_TO, match_compute, profile_command
from kdbench.remote.door import READ, READ_ALL, WRITE_ALL, Use, on_stores
from kdbench.remote.place import with_urls
from kdbench.report.flat import runs_to_frame, to_frame
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import Device
from kdbench.suites.plan import Plan, Selection, check_used, expand
from kdbench.suites.suite import load_suite
from kdbench.tune.choice import Choices, check_carried, choices_for, with_choices, write_choices
from kdbench.tune.study import Settings
from kdbench.tune.study import tune as run_trials

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

Match = Literal["steps", "compute"]
MATCHES: tuple[Match, ...] = ("steps", "compute")


def _of_shard(use: Use) -> Callable[[Mapping[str, Any]], Use]:
    """A function for `on_stores` that gives `use` as the use of an `out` on an object store. It raises UserError if a
    shard is asked for: only one command at a time may write to a folder there."""
    def chosen(asked: Mapping[str, Any]) -> Use:
        if asked["shard"] is not None:
            raise UserError(f"--shard {asked['shard']}: on an object store each shard needs a folder of its own in "
                            "--out on its machine's disk, and `kdbench merge DIR... --out URL` joins them there")
        return use

    return chosen


@on_stores(out=_of_shard(WRITE_ALL), tuned=READ, estimates_from=READ)
def run(
    suite: str, *, methods: Sequence[str] | None = None, core: bool = False, pairs: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None, seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None, out: str | Path | None = None, workers: int | None = None,
    device: Device = "cpu", run_timeout: float | None = None, retries: int = 1, plugins: Iterable[str | Path] = (),
    retry: str = "failed", estimates_from: Iterable[str | Path] = (), teacher_cache: int | None = None,
    tuned: str | Path | None = None, tuned_on: str | None = None, match: Match = "steps", shard: str | None = None,
    wait_for_teachers: float = WAIT_SECONDS, track: Sequence[str] = (), executor: str = "local",
    slurm: Mapping[str, Any] | None = None, ray: Mapping[str, Any] | None = None,
) -> Summary:
    """Run a suite, skipping what is finished, and return how many runs were finished, failed or do not apply.

    suite           name of a built-in suite, or path of a TOML file
    methods         only these methods; core: only the suite's core methods
    pairs           only these pairs; datasets: these datasets instead of the suite's
    seeds           the number of seeds, counted from 0, or the seeds themselves
    settings        hyperparameters and values of the recipe, such as {"kd.temperature": 8, "recipe.epochs": 3}
    out             the results folder, or its URL on an object store, such as s3://bucket/run; by default runs/SUITE,
                    with match="compute" runs/SUITE-compute
    workers         number of runs at a time; by default the number of cores, on a cluster 256
    run_timeout     seconds after which a run is stopped; None for no limit
    retries         how often a run whose process was killed by a signal is tried again
    plugins         files with methods or networks of your own
    retry           which runs that have a record are run again: "failed", "stale" (those whose method's source has
                    changed since), "failed,stale" or "none"; runs without a record always run
    estimates_from  results folders whose records, besides those of `out` and the cache, show how long runs take
    teacher_cache   bytes of the cache that may hold outputs of teachers, which runs share; 0 for none, by default a
                    tenth of the free disk space
    tuned           results folder of `tune`: each method runs with the settings that were chosen for it there
    tuned_on        with `tuned`: the settings that were chosen on this pair, on all pairs. Where defaults differ, as a
                    rate that the suite sets by pair may, a pair's own default changes by the same factor
    match           what is made equal for all methods: "steps", or "compute", for which each method trains for the
                    number of epochs that takes the core-seconds of kd, according to the profiles in `out`
    shard           only this part of the runs and of their teachers, such as "3/16"; all shards must share the cache
    wait_for_teachers   seconds that the runs of a shard wait for teachers of other shards while no process is training
                    any of these teachers
    track           where each finished run is shown besides the results: "tensorboard" (event files in the folder
                    OUT-tensorboard), "wandb" or "trackio"
    executor        "local" for processes on this machine; "slurm" or "ray" for jobs or tasks of a cluster, which must
                    share the folders with this machine
    slurm           what jobs request, such as {"partition": "gpu", "time": "2:00:00", "gpus_per_node": 1, "pack": 4}
    ray             the cluster's address and what tasks request, such as {"address": "10.0.0.1:6379", "num_gpus": 0.5}

    Progress is printed to standard output. UserError, raised before anything is written, for arguments that cannot
    work.
    """
    cache, again = CacheFolder.of_user(), read_retry(retry)
    part = None if shard is None else Shard.read(shard)
    selection = Selection(methods, core, pairs, datasets, seeds, settings or {}, device)
    plan, folder, notes, choices = _plan_to_run(suite, selection, tuple(map(Path, plugins)), out, tuned, tuned_on,
                                                match)
    estimator = Estimator(reference=plan.reference)
    pool = make_executor(executor, folder, workers, run_timeout, retries, slurm, ray, _say, estimator)
    trackers = make_trackers(track, folder, plan.suite)
    opening = [collect.told(dataset, collect.check(dataset, cache.data, train_size, transfer),
                            plan.seen_by_teachers(dataset))
               for dataset, train_size, transfer in plan.images]
    opening += [f"note: {note}" for note in (*notes, *_of_another_suite(folder, plan.suite))]
    share = None if part is None else Share.of(plan, part, wait_for_teachers)
    matrix = Matrix(plan, folder, cache, say=_say, share=share)
    jobs = matrix.pending(again)
    reasons: dict[str, str] = {}
    if jobs:
        pool.start()
        for sample in earlier(cache.teachers, folder, named=estimates_from):
            estimator.add(sample)
        reasons, sizes = pool.call(PREFLIGHT, [job.spec for job in jobs], plan.methods, cache, pool.here)
        if teacher_cache != 0:
            jobs = matrix.share_teachers(jobs, sizes, teacher_cache)
    summary = matrix.run(jobs, reasons, pool, make_display(pool.workers, estimator), opening, trackers)
    if choices is not None:
        write_choices(folder, choices)  # tables say by them which rows are tuned
    for note in matrix.left_out():
        print(f"note: {note}")
    for name, count in matrix.changed_methods().items():
        print(f"note: {count} finished runs of {name} were made by another version of its source; "
              f"--retry stale redoes them")
    return summary


@on_stores(out=_of_shard(READ_ALL), tuned=READ, estimates_from=READ)
def plan(
    suite: str, *, methods: Sequence[str] | None = None, core: bool = False, pairs: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None, seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None, out: str | Path | None = None, workers: int | None = None,
    device: Device = "cpu", plugins: Iterable[str | Path] = (), retry: str = "failed",
    estimates_from: Iterable[str | Path] = (), teacher_cache: int | None = None, tuned: str | Path | None = None,
    tuned_on: str | None = None, match: Match = "steps", shard: str | None = None, track: Sequence[str] = (),
    executor: str = "local", slurm: Mapping[str, Any] | None = None, ray: Mapping[str, Any] | None = None,
) -> Forecast:
    """Forecast what `run` with the same arguments would do: how many runs of each method, and how much time, memory and
    disk space they take. Nothing is written to the results or the cache and nothing is downloaded; a method whose run
    time no record or profile shows is timed for a few steps. UserError for whatever `run` would refuse before it
    contacts a cluster."""
    cache, again = CacheFolder.of_user(), read_retry(retry)
    part = None if shard is None else Shard.read(shard)
    selection = Selection(methods, core, pairs, datasets, seeds, settings or {}, device)
    wanted, folder, notes, _ = _plan_to_run(suite, selection, tuple(map(Path, plugins)), out, tuned, tuned_on, match)
    asked = make_executor(executor, folder, workers, slurm=slurm, ray=ray)  # not started: that would ask the cluster
    make_trackers(track, folder, wanted.suite)
    known = earlier(cache.teachers, folder, named=estimates_from)
    found = forecast(wanted, folder, cache, LocalPool(asked.workers), known, again, teacher_cache,
                     None if part is None else Share.of(wanted, part), asked.here)
    return replace(found, notes=(*notes, *found.notes))


@on_stores(out=WRITE_ALL)
def tune(
    suite: str, *, methods: Sequence[str] | None = None, core: bool = False, pairs: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None, settings: Mapping[str, Any] | None = None, out: str | Path | None = None,
    workers: int | None = None, device: Device = "cpu", run_timeout: float | None = None, retries: int = 1,
    plugins: Iterable[str | Path] = (), teacher_cache: int | None = None,
    trials: int = 16, tune_seeds: int = 2, sampler: str = "tpe", sampler_seed: int = 0, pruner: str = "off",
    executor: str = "local", slurm: Mapping[str, Any] | None = None, ray: Mapping[str, Any] | None = None,
) -> tuple[Path, Choices]:
    """Run the same number of trials of every method in each cell of a suite, except those that are finished, and choose
    one trial for each by validation accuracy alone. Returns the folder, which `run` takes as `tuned`, and the choices.

    suite ... teacher_cache, executor, slurm, ray   as for `run`; `out` is runs/SUITE-tune by default
    trials              number of trials of each method in each cell; the first has the method's default settings
    tune_seeds          number of seeds that each trial is trained with; final runs never use these seeds
    sampler             "tpe", "random" or "grid"
    sampler_seed        seed of the sampler; with it, the trials are the same for any number of workers
    pruner              "off", or "median": end a run whose validation accuracy is below the median of earlier trials

    Progress is printed to standard output. UserError, raised before anything is written, for arguments that cannot
    work.
    """
    wanted = Settings(trials, tune_seeds, sampler, sampler_seed, pruner)
    wanted.check()
    cache, registry = CacheFolder.of_user(), Registry(map(Path, plugins))
    selection = Selection(methods, core, pairs, datasets, wanted.seed_numbers, settings or {}, device)
    plan = make_plan(suite, selection, registry, cache)
    folder = Path(out) if out else Path(f"{default_folder(plan)}-tune")
    estimator = Estimator(reference=plan.reference)
    pool = make_executor(executor, folder, workers, run_timeout, retries, slurm, ray, _say, estimator)
    pool.start()
    for sample in earlier(cache.teachers, folder):
        estimator.add(sample)
    return folder, run_trials(load_suite(suite), plan, registry, wanted, folder, cache, pool, estimator, say=_say,
                              teacher_cache=teacher_cache)


@on_stores(folder=READ)
def leaderboard(folder: str | Path, *, plugins: Iterable[str | Path] = ()) -> "pd.DataFrame":
    """The leaderboard of a results folder as a data frame: one row per method and cell, and one per teacher. The
    columns are those of `leaderboard.csv`; see `kdbench.report.flat.to_frame`. UserError if there are no results."""
    return to_frame(build(Path(folder), Registry(map(Path, plugins))))


@on_stores(folder=READ)
def runs(folder: str | Path) -> "pd.DataFrame":
    """The runs of a results folder as a data frame: one row per record, including those of teachers and tuning trials.
    The columns are those of `runs.csv`; see `kdbench.report.flat.runs_to_frame`. UserError if there are no records."""
    return runs_to_frame(Store(folder))


@on_stores(folder=READ)
def load_student(
    folder: str | Path, run: str, *, plugins: Iterable[str | Path] = (),
    device: Literal["cpu", "cuda"] = "cpu",
) -> "nn.Module":
    """The network that a finished run trained, on `device`, in eval mode and without gradients.

    It maps normalised images [B, C, H, W] to `kdbench.method.Outputs`. `run` is the beginning of a run id, or
    METHOD:SEED, such as "kd:0", if only one student matches. UserError if no single run matches, if it did not finish,
    or if its weights or images differ from the recorded ones.
    """
    from kdbench.finished.reload import dataset_of, reload, weights_store

    store, cache = Store(folder), CacheFolder.of_user()
    record = store.find(run)
    dataset = dataset_of(record, cache, device)
    method = Registry(map(Path, plugins))[record.spec.method]
    return reload(record, weights_store(record, store, cache), method, dataset)


def make_plan(suite: str, selection: Selection, registry: Registry, cache: CacheFolder) -> Plan:
    """The plan of the runs that a selection of a suite asks for. Its datasets are checked, and downloaded if they are
    missing. UserError for an unknown name or value, or if a dataset cannot be had."""
    plan = expand(load_suite(suite), registry, selection)
    _need_data(plan, cache)
    return plan


def _need_data(plan: Plan, cache: CacheFolder) -> None:
    """Check the data of all runs of the plan, downloading missing files. UserError if some cannot be had or read."""
    for dataset, train_size, transfer in plan.images:
        collect.check(dataset, cache.data, train_size, transfer)


def _of_another_suite(folder: Path, suite: str) -> Iterable[str]:
    """Yield a note for the user if the first record of the folder is of a suite other than `suite`."""
    first = next((found for found in Store(folder).scan() if isinstance(found, Record)), None)
    if first is not None and first.suite != suite:
        yield (f"{folder} holds runs of the suite {first.suite}; those of {suite} come beside them, into one report: "
               "--out names another folder")


def _plan_to_run(suite: str, selection: Selection, plugins: Sequence[Path], out: str | Path | None,
                 tuned: str | Path | None, tuned_on: str | None, match: Match
                 ) -> tuple[Plan, Path, list[str], Choices | None]:
    """The plan of the runs that were asked for, the folder for their results, notes for the user, and the choices of
    tuning that the plan follows. The plan has the settings chosen in `tuned`, if that is given, or the epochs of equal
    compute if `match` is "compute". UserError for an unknown or impossible argument."""
    if match not in MATCHES:
        raise unknown("match", match, MATCHES)
    if match == "compute" and tuned is not None:
        raise UserError("--match compute goes with the methods' own settings: leave out --tuned")
    if tuned is None and tuned_on is not None:
        raise UserError("--tuned-on goes with --tuned")
    found, registry = load_suite(suite), Registry(plugins)
    plan = expand(found, registry, selection)
    folder = Path(out) if out else default_folder(plan)
    if match == "compute":
        folder = Path(out) if out else Path(f"{folder}-compute")
        kd = expand(found, registry, replace(selection, methods=[EQUAL_TO], seeds=1))
        plan, notes = match_compute(plan, kd, folder, profile_command(suite, selection, plugins, folder))
        return plan, folder, notes, None  # kd's settings count there, even if it does not run
    check_used(selection.settings, plan)
    if tuned is None:
        return plan, folder, [], None
    source = None if tuned_on is None else expand(found, registry, replace(selection, pairs=[tuned_on]))
    choices = choices_for(plan, Path(tuned), source)
    for holder in (Path(tuned), folder):
        check_carried(choices, holder)
    return with_choices(plan, choices), folder, [], choices


def _say(text: str) -> None:
    print(one_line(with_urls(text)))


def default_folder(plan: Plan) -> Path:
    """The folder of a plan's results if the user names none: runs/SUITE."""
    return Path("runs") / plan.suite
