"""The commands that list and show methods and the parts of suites, create and check methods, describe the installation,
and convert weights for teachers."""

import dataclasses
import json
import textwrap
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.options import AsJson, Device, Plugins, read_settings, split_names
from kdbench.cli.text.columns import print_columns, terminal_width
from kdbench.errors import UserError, plain, printable, unknown
from kdbench.plugins.source import FAMILIES, MethodInfo
from kdbench.remote.door import LOCAL, READ, on_stores

if TYPE_CHECKING:
    from kdbench.plugins.registry import Registry


class Things(StrEnum):
    methods = "methods"
    pairs = "pairs"
    datasets = "datasets"
    suites = "suites"
    metrics = "metrics"
    runs = "runs"


@on_stores(folder=READ)
def list_things(
    things: Things,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="of runs: the results")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
    pair: Annotated[str | None, typer.Option(help="of methods: whether each can train this pair, or why not")] = None,
    suite: Annotated[Path | None, typer.Option(metavar="FILE", help="of methods with --pair: the suite that has the "
                                               "pair, if it does not come with kdbench")] = None,
) -> None:
    """List methods, pairs, datasets, suites or metrics, or the runs of a folder of results."""
    if (folder is not None) != (things is Things.runs):
        raise UserError(f"list {things.value}: " + ("name the folder of results" if things is Things.runs else
                                                    "a folder goes with `list runs`"))
    rows = _runs(folder) if folder is not None else _LISTS[things](plugin or ())
    if suite is not None and pair is None:
        raise UserError(f"--suite {suite}: goes with --pair")
    if pair is not None:
        if things is not Things.methods:
            raise UserError(f"--pair {pair}: goes with `list methods`")
        rows = _with_applicability(rows, pair, suite, plugin or ())
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_columns(rows)


def _methods(plugins: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.plugins.registry import Registry

    return [
        {"name": info.name, "family": info.family, "paper": info.paper.short if info.paper else "",
         "idea": info.idea}
        for info in Registry(plugins).values()
    ]


def _with_applicability(rows: list[dict[str, Any]], pair: str, suite: Path | None,
                        plugins: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.plugins.registry import Registry
    from kdbench.suites.plan import with_networks
    from kdbench.suites.suite import built_in_pairs, load_suite

    pairs, registry = built_in_pairs() if suite is None else load_suite(str(suite)).pairs, Registry(plugins)
    if pair not in pairs:
        raise unknown("pair", pair, pairs)
    from kdbench.checks.preflight import why_inapplicable

    reasons = why_inapplicable(registry.values(), with_networks(pairs[pair], registry))
    return [{"name": row["name"], "family": row["family"], "applies": reasons[row["name"]] or "yes"} for row in rows]


def _pairs(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.suites.suite import built_in_pairs

    return [
        {"name": name, "teacher": pair.teacher.model, "student": pair.student.model, "weights": pair.teacher.weights,
         "description": pair.description}
        for name, pair in built_in_pairs().items()
    ]


def _datasets(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.data.catalog import rows

    return rows()


def _suites(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.suites.suite import built_in_suites, load_suite

    return [
        {"name": name, "pairs": ", ".join(content.pairs), "datasets": ", ".join(content.datasets),
         "seeds": content.seeds, "epochs": content.recipe.epochs, "description": content.description,
         "resolution": content.resolution}
        for name in built_in_suites() for content in [load_suite(name).content]
    ]


def _metrics(_: Iterable[Path]) -> list[dict[str, Any]]:
    from kdbench.metrics.catalog import rows

    return rows()


def _runs(folder: Path) -> list[dict[str, Any]]:
    from kdbench.report.flat import run_rows
    from kdbench.results.store import Store

    return run_rows(Store(folder))


_LISTS = {Things.methods: _methods, Things.pairs: _pairs, Things.datasets: _datasets, Things.suites: _suites,
          Things.metrics: _metrics}


@on_stores(folder=READ)
def show(
    name: Annotated[str, typer.Argument(
        metavar="NAME", help="a method, metric, pair, dataset or suite; with DIR, a run's id or METHOD:SEED")],
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="the results that hold the run")] = None,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Show a method (its idea, paper, hyperparameters and search space for tuning), a metric, a pair, a dataset, a
    suite, or a run in a folder of results."""
    if folder is not None:
        from kdbench.results.store import Store

        facts = Store(folder).find(name).described()
        traceback = None if as_json else facts.pop("traceback", None)
        _show_facts(facts, as_json)
        if traceback:
            print(f"\n{printable(traceback)}")
        return
    from kdbench.plugins.registry import Registry

    registry = Registry(plugin or ())
    if name in registry:
        _show_method(registry[name], as_json)
        return
    known = {row["name"]: row for things, rows in _LISTS.items() if things is not Things.methods for row in rows(())}
    base = name.partition("+")[0].partition(":")[0]  # without a dataset's +MODIFIER(...) and :PATH
    if name not in known and base not in known:
        raise unknown("method, metric, pair, dataset or suite", name, [*registry, *known])
    _show_facts(known.get(name, known.get(base, {})), as_json)


def _show_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        print(textwrap.fill(f"{key.ljust(width)}  {plain(str(value))}", terminal_width(),
                            subsequent_indent=" " * (width + 2), break_long_words=False, break_on_hyphens=False))


def _show_method(info: MethodInfo, as_json: bool) -> None:
    from kdbench.tune.space import rows

    parameters: list[dict[str, Any]] = [
        {"name": p.name, "type": p.type, "default": p.default, "range": p.range}
        for p in info.hyperparameters.values()
    ]
    if as_json:
        print(json.dumps({
            "name": info.name, "family": info.family, "learns_from": info.learns_from, "needs_data": info.needs_data,
            "needs_groups": info.needs_groups, "unlabelled": info.unlabelled, "conditions": info.conditions,
            "doc": info.doc,
            "paper": dataclasses.asdict(info.paper) if info.paper else None, "hyperparameters": parameters,
            "space": rows(info),
        }, indent=1))
        return
    print(f"{info.name}  ({info.family})\n\n{info.doc}\n")
    if info.paper:
        print(textwrap.fill(f"paper: {info.paper}" + (f" {info.paper.url}" if info.paper.url else ""),
                            terminal_width(), break_long_words=False, break_on_hyphens=False) + "\n")
    if parameters:
        allowed = {p.name: p.allowed for p in info.hyperparameters.values()}
        print_columns([{**p, "range": allowed[p["name"]]} for p in parameters])
    else:
        print("no hyperparameters")
    print("\nsearch space of `kdbench tune`; a suite may override it:")
    print_columns(rows(info))


@on_stores(out=LOCAL)
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    family: Annotated[str, typer.Option(help=f"its family: {', '.join(FAMILIES)}")],
    out: Annotated[Path, typer.Option(help="the folder to write it to")] = Path(),
) -> None:
    """Write a working plugin file as a starting point for a new method."""
    from kdbench.plugins.template import write_method

    file = write_method(name, family, out)
    print(f"wrote {file}\n\ntry it:\n  kdbench check {name} --plugin {file}\n"
          f"  kdbench run quick --plugin {file} --methods ce,kd,{name}")


def check(
    methods: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    every: Annotated[bool, typer.Option("--all", help="every method")] = False,
    settings: Annotated[list[str] | None, typer.Option(
        "--set", metavar="METHOD.NAME=VALUE", help="a hyperparameter, as of `kdbench run`")] = None,
    plugin: Plugins = None,
    device: Annotated[Device, typer.Option(help="what to run them on")] = Device.cpu,
) -> None:
    """Run the contract tests on methods, with the hyperparameters of the suite `smoke`. One of the tests is also run
    for each other value of a hyperparameter that is boolean or has named choices. The exit code is 1 if one fails."""
    from kdbench.plugins.registry import Registry, load
    from kdbench.suites.suite import load_suite

    registry = Registry(plugin or ())
    if not methods and not every:
        raise UserError("check: name a method, or --all")
    infos = [registry[name] for name in (registry if every else split_names(",".join(methods or ())) or ())]
    given = _given(settings or (), infos, registry)
    classes = [load(info) for info in infos]
    from kdbench.checks.contract import check_method
    from kdbench.checks.preflight import need_device

    need_device({device.value})
    failures, short = 0, load_suite("smoke").content.hyperparameters
    for info, cls in zip(infos, classes, strict=True):
        told: set[str | None] = set()
        own = given.get(info.name, {})
        choices = {name: p.choices for name, p in info.hyperparameters.items() if name not in own}
        for result in check_method(cls, info.resolve({**short.get(info.name, {}), **own}), choices, device.value):
            mark = "n/a " if result.inapplicable else "FAIL" if result.error else "ok  "
            detail = "as above" if result.error and result.error in told else result.inapplicable or result.error
            told.add(result.error)
            where = f"{result.pair}, {result.choice}" if result.choice else result.pair
            print(f"{mark} {result.method}  {where}: {result.test}" + (f": {detail}" if detail else ""), flush=True)
            failures += result.error is not None
    print(f"{failures} failed" if failures else "all passed")
    if failures:
        raise typer.Exit(1)


def _given(settings: Iterable[str], infos: Iterable[MethodInfo], registry: "Registry") -> dict[str, dict[str, Any]]:
    """The hyperparameters given with --set, by method. UserError if a setting is for the recipe or the transfer, or for
    a method that is not among `infos`."""
    from kdbench.suites.plan import split_settings

    by_method, recipe, transfer = split_settings(read_settings(settings), registry)
    for name in (*(f"recipe.{key}" for key in recipe), *(f"transfer.{key}" for key in transfer)):
        raise UserError(f"--set {name}: the contract tests have a recipe of their own, allowed: "
                        f"METHOD.HYPERPARAMETER=VALUE")
    checked = {info.name for info in infos}
    for name, values in by_method.items():
        if name not in checked:
            raise UserError(f"--set {name}.{next(iter(values))}: {name} is not checked here, allowed: "
                            f"{', '.join(sorted(checked))}")
    return by_method


def doctor() -> None:
    """Show the versions of Python and packages, the processor and GPU, the default threads, and where cache, data and
    results are."""
    from kdbench.checks.doctor import report

    print_columns([{"what": what, "found": found} for what, found in report()], header=False)


def weights(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="a PyTorch or safetensors file of weights")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="the name of the same network in timm")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="the safetensors file to write")],
    look: Annotated[list[Path] | None, typer.Option(
        metavar="IMAGE", help="say what the network takes it for; may be repeated")] = None,
) -> None:
    """Convert a checkpoint of other code to a safetensors file with timm's parameter names, which a pair can name as
    weights = "file:FILE" or "train:file:FILE" of its teacher. The tensors are checked against those of timm's model;
    whether the network also computes the same can be seen with --look, on images whose class you know."""
    from kdbench.train.initial import classes_of, convert

    network = convert(checkpoint, model, out)
    print(f"{out}: {len(network.state_dict())} tensors of {model}")
    for image in look or ():
        told = ", ".join(f"{name.partition(',')[0]} {probability:.0%}" for name, probability in
                         classes_of(network, image))
        print(plain(f"{image}: {told}"))


COMMANDS = {"list": list_things, "show": show, "new-method": new_method, "check": check, "doctor": doctor,
            "weights": weights}
