"""The command line: parses, calls, prints. Nothing here imports torch before something has to train."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kdbench import __version__, results_cli
from kdbench.errors import UserError
from kdbench.profile.energy import WATTS_PER_CORE
from kdbench.results_cli import Device, Plugins

if TYPE_CHECKING:
    from kdbench.suite import Plan

INTERRUPTED = 130  # what typer makes of Ctrl-C, as shells do

app = typer.Typer(
    help="kdbench: a reproducible benchmark of knowledge distillation for image classification.",
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
)

SuiteName = Annotated[str, typer.Argument(help="a suite's name, or the path of a TOML file of yours")]
Methods = Annotated[str | None, typer.Option(help="only these, comma-separated")]
Core = Annotated[bool, typer.Option("--core", help="only the suite's core methods, one or more per family")]
Pairs = Annotated[str | None, typer.Option(help="only these, comma-separated")]
Datasets = Annotated[str | None, typer.Option(help="these instead, comma-separated")]
Settings = Annotated[list[str] | None, typer.Option(
    "--set", metavar="METHOD.NAME=VALUE", help="a hyperparameter, or recipe.NAME=VALUE")]
Out = Annotated[Path | None, typer.Option(help="where results go; by default runs/SUITE")]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]


class Things(StrEnum):
    methods = "methods"
    pairs = "pairs"
    datasets = "datasets"
    suites = "suites"
    metrics = "metrics"


def main() -> None:
    """Console script: bad input is one line and exit code 2, Ctrl-C is exit code 130."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log shows progress as it comes
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of typer's usage errors
            raise
        _fail(error.format_message())
    if code == INTERRUPTED:
        print("\ninterrupted; `kdbench run` continues where it was stopped", file=sys.stderr)
    sys.exit(code)


def _fail(message: str) -> NoReturn:
    print(f"kdbench: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kdbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
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
    from kdbench.display import make_display
    from kdbench.execute.local import LocalPool
    from kdbench.folders import cache_folder
    from kdbench.matrix import Matrix

    cache = cache_folder()
    plan = _plan(suite, plugin, cache, methods=_names(methods), core=core, pairs=_names(pairs),
                 datasets=_names(datasets), seeds=_seeds(seeds), settings=settings or (), device=device.value)
    matrix = Matrix(plan, out or Path("runs") / plan.suite, cache, say=print)
    jobs = matrix.pending(rerun_changed)
    reasons: dict[str, str] = {}
    pool = LocalPool(workers or os.cpu_count() or 1, run_timeout)
    if jobs:
        pool.start()
        from kdbench.preflight import preflight

        reasons = preflight([job.spec for job in jobs], plan.methods, cache)
    outcome = matrix.run(jobs, reasons, pool, make_display(pool.workers))
    for name, count in matrix.changed_methods().items():
        print(f"note: {count} finished runs of {name} were made by another version of its source; "
              f"--rerun-changed redoes them")
    print(f"{outcome.skipped} runs were finished before, {outcome.trained} now, {outcome.failed} failed, "
          f"{outcome.inapplicable} not applicable; results in {matrix.out}\n")
    results_cli.leaderboard(matrix.out, plugin=plugin)
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
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
    from kdbench.execute.local import LocalPool
    from kdbench.folders import cache_folder
    from kdbench.leaderboard.costs import tables_of
    from kdbench.leaderboard.markdown import tables_to_markdown
    from kdbench.profile.job import Settings as ProfileSettings
    from kdbench.profile.session import measure, profile_jobs

    start, cache = time.monotonic(), cache_folder()
    plan = _plan(suite, plugin, cache, methods=_names(methods), core=core, pairs=_names(pairs),
                 datasets=_names(datasets), seeds=1, settings=settings or (), device=device.value)
    folder = out or Path("runs") / plan.suite
    jobs = profile_jobs(plan, folder, cache, ProfileSettings(steps, repeats, watts))
    pool = LocalPool(1)
    pool.start()
    from kdbench.preflight import preflight

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
    from kdbench.data import catalog
    from kdbench.folders import data_folder
    from kdbench.registry import Registry
    from kdbench.suite import Selection, expand, load_suite

    plan = expand(load_suite(suite), Registry(plugins or ()), Selection(**selection))
    for dataset in {spec.dataset for spec in plan.students}:
        catalog.check(dataset, data_folder(cache))
    return plan


for command in results_cli.COMMANDS:
    app.command()(command)


@app.command(name="list")
def list_things(
    things: Things,
    as_json: AsJson = False,
    plugin: Plugins = None,
    pair: Annotated[str | None, typer.Option(help="of methods: whether each can train this pair, or why not")] = None,
) -> None:
    """List methods, pairs, datasets, suites or metrics."""
    rows = _LISTS[things](plugin or ())
    if pair is not None:
        if things is not Things.methods:
            raise UserError(f"--pair {pair}: goes with `list methods`")
        rows = _with_applicability(rows, pair, plugin or ())
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_columns(rows)


def _methods(plugins: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.registry import Registry

    return [
        {"name": info.name, "family": info.family, "paper": info.paper.short if info.paper else "",
         "idea": info.idea}
        for info in Registry(plugins).values()
    ]


def _with_applicability(rows: list[dict[str, Any]], pair: str, plugins: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.errors import unknown
    from kdbench.registry import Registry
    from kdbench.suite import built_in_pairs

    if pair not in built_in_pairs():
        raise unknown("pair", pair, built_in_pairs())
    from kdbench.preflight import why_inapplicable

    reasons = why_inapplicable(Registry(plugins).values(), built_in_pairs()[pair])
    return [{"name": row["name"], "family": row["family"], "applies": reasons[row["name"]] or "yes"} for row in rows]


def _pairs(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.suite import built_in_pairs

    return [
        {"name": name, "teacher": pair.teacher.model, "student": pair.student.model, "weights": pair.teacher.weights,
         "description": pair.description}
        for name, pair in built_in_pairs().items()
    ]


def _datasets(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.data.catalog import rows

    return rows()


def _suites(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.suite import built_in_suites, load_suite

    return [
        {"name": name, "pairs": ", ".join(content.pairs), "datasets": ", ".join(content.datasets),
         "seeds": content.seeds, "epochs": content.recipe.epochs, "description": content.description}
        for name in built_in_suites() for content in [load_suite(name).content]
    ]


def _metrics(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.metrics import rows

    return rows()


_LISTS = {Things.methods: _methods, Things.pairs: _pairs, Things.datasets: _datasets, Things.suites: _suites,
          Things.metrics: _metrics}


@app.command()
def show(
    method: Annotated[str, typer.Argument(metavar="METHOD")],
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Show a method: its idea, paper and hyperparameters."""
    from kdbench.registry import Registry

    info = Registry(plugin or ())[method]
    parameters: list[dict[str, Any]] = [
        {"name": p.name, "type": p.type, "default": p.default, "range": p.range}
        for p in info.hyperparameters.values()
    ]
    if as_json:
        print(json.dumps({
            "name": info.name, "family": info.family, "learns_from": info.learns_from, "needs_data": info.needs_data,
            "doc": info.doc, "paper": dataclasses.asdict(info.paper) if info.paper else None,
            "hyperparameters": parameters,
        }, indent=1))
        return
    print(f"{info.name}  ({info.family})\n\n{info.doc}\n")
    if info.paper:
        print(f"paper: {info.paper}" + (f" {info.paper.url}" if info.paper.url else "") + "\n")
    if parameters:
        _print_columns([{**p, "range": _range(p["range"], p["type"])} for p in parameters])
    else:
        print("no hyperparameters")


def _range(allowed: tuple | None, kind: str) -> str:
    if allowed is None:
        return "any"
    return f"{allowed[0]} to {allowed[1]}" if kind in ("int", "float") else ", ".join(map(str, allowed))


@app.command(name="new-method")
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    family: Annotated[str, typer.Option(help="its family")],
    out: Annotated[Path, typer.Option(help="the folder to write it to")] = Path(),
) -> None:
    """Write a working plugin file to start from."""
    from kdbench.template import write_method

    file = write_method(name, family, out)
    print(f"wrote {file}\n\ntry it:\n  kdbench check {name} --plugin {file}\n"
          f"  kdbench run quick --plugin {file} --methods ce,kd,{name}")


@app.command()
def check(
    methods: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    every: Annotated[bool, typer.Option("--all", help="every method")] = False,
    plugin: Plugins = None,
) -> None:
    """Run the contract tests on methods. Exit code 1 if one fails."""
    from kdbench.registry import Registry, load

    registry = Registry(plugin or ())
    if not methods and not every:
        raise UserError("check: name a method, or --all")
    infos = [registry[name] for name in (registry if every else methods or ())]
    classes = [load(info) for info in infos]
    from kdbench.check import check_method

    failures = 0
    for info, cls in zip(infos, classes, strict=True):
        for result in check_method(cls, info.resolve({})):
            mark = "n/a " if result.inapplicable else "FAIL" if result.error else "ok  "
            detail = result.inapplicable or result.error
            print(f"{mark} {result.method}  {result.pair}: {result.test}" + (f": {detail}" if detail else ""),
                  flush=True)
            failures += result.error is not None
    print(f"{failures} failed" if failures else "all passed")
    if failures:
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Show versions, device, threads, and where caches and data lie."""
    from kdbench.doctor import report

    _print_columns([{"what": what, "found": found} for what, found in report()], header=False)


# Input and output.

def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"expected comma-separated names, got {text!r}")
    return names


def _seeds(text: str | None) -> int | list[int] | None:
    """ "3" is how many, "0,4,7" is which."""
    if text is None:
        return None
    with suppress(ValueError):
        numbers = [int(part) for part in text.split(",") if part.strip()]
        if "," in text and numbers and min(numbers) >= 0 and len(set(numbers)) == len(numbers):
            return numbers
        if "," not in text and numbers[0] >= 1:
            return numbers[0]
    raise UserError(f"--seeds {text}: expected how many (3), or which (0,4,7)")


def _print_columns(rows: list[dict[str, Any]], header: bool = True) -> None:
    """Aligned columns; the last one may be long and is cut to the terminal's width, if there is one."""
    if not rows:
        print("none")
        return
    keys = list(rows[0])
    lines = ([keys] if header else []) + [[str(row[key]) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    limit = os.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()[:limit])


if __name__ == "__main__":
    main()
