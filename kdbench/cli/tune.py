"""The command `kdbench tune`."""

import shlex
from typing import Annotated, Any

import typer

from kdbench.cli.options import (
    Core,
    Datasets,
    Executor,
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
    read_settings,
    split_names,
)
from kdbench.cli.text.columns import print_columns
from kdbench.errors import plain
from kdbench.tune.choice import Choice


def tune(
    suite: SuiteName,
    methods: Methods = None,
    core: Core = False,
    pairs: Pairs = None,
    datasets: Datasets = None,
    settings: Settings = None,
    out: Out = None,
    workers: Workers = None,
    device: OnDevice = TrainingDevice.cpu,
    run_timeout: RunTimeout = None,
    retries: Retries = 1,
    teacher_cache: TeacherCache = None,
    plugin: Plugins = None,
    trials: Annotated[int, typer.Option(help="of each method in each cell; the first is its default")] = 16,
    tune_seeds: Annotated[int, typer.Option(help="with how many seeds each trial is trained")] = 2,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid")] = "tpe",
    sampler_seed: Annotated[int, typer.Option(help="of what is tried")] = 0,
    pruner: Annotated[str, typer.Option(help="off, or median: end runs below that of earlier ones")] = "off",
    executor: Executor = "local",
    slurm: Slurm = None,
    ray: Ray = None,
) -> None:
    """Tune every method with the same number of trials, and choose its hyperparameters by validation accuracy. Running
    the same command again continues where it stopped. The exit code is 1 if all trials of a method failed in a cell."""
    from kdbench import api
    from kdbench.suites.plan import Selection

    folder, found = api.tune(
        suite, methods=split_names(methods), core=core, pairs=split_names(pairs), datasets=split_names(datasets),
        settings=read_settings(settings or ()), out=out, workers=workers, device=device.value,
        run_timeout=run_timeout, retries=retries, teacher_cache=cache_size(teacher_cache),
        plugins=plugin or (), trials=trials, tune_seeds=tune_seeds, sampler=sampler, sampler_seed=sampler_seed,
        pruner=pruner, executor=executor, slurm=read_keys("--slurm", slurm), ray=read_keys("--ray", ray))
    narrowed = [word for option, names in (("--methods", methods), ("--pairs", pairs), ("--datasets", datasets))
                if names for word in (option, names)] + ["--core"] * core
    asked = Selection(settings=read_settings(settings or ()), device=device.value)
    command = shlex.join(["kdbench", "run", suite, *narrowed, *asked.options(plugin or ()), "--tuned", str(folder)])
    print()
    print_columns([_row(choice) for choice in found.choices])
    print(f"\nchosen by mean validation accuracy over {tune_seeds} seed{'s' * (tune_seeds > 1)}: {found.rule}\n"
          f"`{plain(command)}` trains by it with other seeds, and reads the test split")
    if any(choice.status == "failed" for choice in found.choices):
        raise typer.Exit(1)


def _row(choice: Choice) -> dict[str, Any]:
    default = choice.trials[0]
    changed = {name: value for name, value in choice.hyperparameters.items() if value != default.hyperparameters[name]}
    failed = [trial for trial in choice.trials if trial.status not in ("ok", "pruned")]
    pruned = {} if choice.saved is None else {
        "pruned": sum(trial.status == "pruned" for trial in choice.trials), "saved": f"{choice.saved:.0%} of the steps"}
    gain = "" if choice.accuracy is None or choice.default_accuracy is None or not choice.trial else (
        f"{100 * (choice.accuracy - choice.default_accuracy):+.2f}"
        + (f" (SE {100 * choice.standard_error:.2f})" if choice.standard_error is not None else ""))
    reason = "" if choice.status not in ("failed", "inapplicable") else f": {failed[0].reason}"
    what = ", ".join(f"{name}={value}" for name, value in (
        *changed.items(), *((f"recipe.{name}", value) for name, value in choice.recipe.items())))
    return {"method": choice.method, "pair": choice.pair, "dataset": choice.dataset, "trials": len(choice.trials),
            "failed": len(failed), **pruned, "default": _percent(choice.default_accuracy),
            "chosen": _percent(choice.accuracy), "gain": gain, "core-seconds": f"{choice.seconds:.0f}",
            "settings": what or choice.status + reason}


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f}"


COMMANDS = {"tune": tune}
