"""The commands that read a folder of results."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.columns import printable
from kdbench.cli.options import Device, Folder, Plugins, Workers
from kdbench.plugins.registry import Registry


class Format(StrEnum):
    md = "md"
    csv = "csv"
    json = "json"


def leaderboard(
    folder: Folder,
    output_format: Annotated[Format, typer.Option("--format")] = Format.md,
    plugin: Plugins = None,
) -> None:
    """Print the leaderboard of a folder of results."""
    from kdbench.analysis.build import build
    from kdbench.report.files import render

    print(render(build(folder, Registry(plugin or ())), output_format.value))


def report(
    folder: Folder,
    only_check: Annotated[bool, typer.Option("--check", help="write nothing; say what is out of date")] = False,
    plugin: Plugins = None,
) -> None:
    """Write the leaderboard as Markdown, CSV, JSON, LaTeX and one offline page with plots into a folder of results."""
    from kdbench.report.files import check_report, write_report

    registry = Registry(plugin or ())
    if not only_check:
        for path in write_report(folder, registry):
            print(path)
    elif complaints := check_report(folder, registry):
        print("\n".join(complaints))
        raise typer.Exit(1)


def cite(folder: Folder, plugin: Plugins = None) -> None:
    """Print BibTeX for kdbench and for every method and dataset in a table, and a sentence for the paper's text."""
    from kdbench.analysis.build import build
    from kdbench.report.cite import cite

    print(cite(build(folder, Registry(plugin or ()))))


Run = Annotated[str, typer.Argument(metavar="RUN", help="a run's id, or its beginning")]


def card(folder: Folder, run: Run, plugin: Plugins = None) -> None:
    """Print a model card of a finished run, in Hugging Face's format."""
    from kdbench.analysis.build import build
    from kdbench.report.card import card
    from kdbench.results.store import Store

    print(card(Store(folder).find(run), build(folder, Registry(plugin or ()))), end="")


def export(
    folder: Folder,
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="a folder to make")],
    onnx: Annotated[bool, typer.Option("--onnx", help="an ONNX file too; needs the extra kdbench[onnx]")] = False,
    plugin: Plugins = None,
) -> None:
    """Write a finished run's network as a folder that timm.create_model loads, with its model card."""
    from kdbench.analysis.build import build
    from kdbench.report.card import card
    from kdbench.results.store import Store

    registry, store = Registry(plugin or ()), Store(folder)
    record = store.find(run)
    text = card(record, build(folder, registry))
    from kdbench.finished.export import export
    from kdbench.finished.reload import dataset_of, reload, weights_store
    from kdbench.folders import CacheFolder

    weights = weights_store(record, store, CacheFolder.of_user())
    dataset = dataset_of(record, CacheFolder.of_user(), "cpu")
    network = reload(record, weights, registry[record.spec.method], dataset)
    for done in export(record, weights, network, dataset, out, text, onnx):
        print(f"{out}: {done.name}; logits differ by at most {done.difference:.2g} on {done.images} test images")


def evaluate(folder: Folder) -> None:
    """Compute the metrics of finished runs anew from their saved predictions, without training."""
    from kdbench.finished.evaluate import evaluate
    from kdbench.folders import CacheFolder

    result = evaluate(folder, CacheFolder.of_user())
    print(f"{result.changed} records changed, {result.unchanged} as they were")
    _tell("not evaluated", result.problems)


def attack(
    folder: Folder,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="runs by id, or its beginning; by default all")] = None,
    device: Annotated[Device, typer.Option(help="what to attack on")] = Device.cpu,
    plugin: Plugins = None,
) -> None:
    """Add accuracy under AutoAttack to the records of finished runs; needs the extra kdbench[attack]."""
    from kdbench.finished.attack import attack, need_package

    need_package()
    from kdbench.folders import CacheFolder

    result = attack(folder, runs or (), Registry(plugin or ()), CacheFolder.of_user(), device.value,
                    say=print)
    print(f"{result.added} records changed, {result.before} had the figure before")
    _tell("not attacked", result.problems)


def fsck(
    folder: Folder,
    repair: Annotated[bool, typer.Option("--repair", help="set damaged files aside, remove temporary ones")] = False,
) -> None:
    """Check every file of a folder of results against its records. Exit code 1 if one is damaged or missing."""
    from kdbench.finished.fsck import KINDS, Fsck
    from kdbench.folders import CacheFolder
    from kdbench.profile.record import Profile

    check = Fsck(folder, CacheFolder.of_user(), Profile)
    for finding in check.check(repair):
        print(printable(str(finding)))
    if process := check.writer():
        print(f"note: process {process} may be writing into the folder: what it is at looks missing or orphaned")
    if check.without_digest:
        print(f"note: {check.without_digest} records are of kdbench 0.1 and carry no SHA-256 of their content")
    print(f"{check.records} records: " + ", ".join(f"{check.found[kind]} {kind}" for kind in KINDS)
          + (f"; {check.repaired} files set aside or removed" if repair else ""))
    if not check.clean:
        raise typer.Exit(1)


def verify(
    folder: Folder,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="runs by id, or its beginning; else a sample")] = None,
    sample: Annotated[int, typer.Option(min=1, help="how many runs to draw, of as many methods as possible")] = 5,
    workers: Workers = None,
    plugin: Plugins = None,
) -> None:
    """Repeat finished runs and compare. Exit code 0 if all are bit-equal; 3 if one is not, and within the noise between
    seeds on another machine, or not comparable; 1 if one is different or fails."""
    from kdbench.execution.display import make_display
    from kdbench.execution.estimate import Estimator
    from kdbench.execution.pool import LocalPool
    from kdbench.finished.verify import exit_code, tally, verify
    from kdbench.folders import CacheFolder
    from kdbench.profile.forecast import earlier

    pool = LocalPool(workers or os.cpu_count() or 1, retries=1)
    verdicts = []
    for verdict in verify(folder, runs or (), sample, Registry(plugin or ()), CacheFolder.of_user(), pool,
                          make_display(pool.workers, Estimator(earlier(folder))), say=print):
        print(printable(str(verdict)))
        verdicts.append(verdict)
    print(tally(verdicts))
    if code := exit_code(verdicts):
        raise typer.Exit(code)


def _tell(what: str, problems: Sequence[str]) -> None:
    """Print the problems to standard error and exit with 1, if there are any."""
    if problems:
        print("\n".join(f"{what}: {problem}" for problem in problems), file=sys.stderr)
        raise typer.Exit(1)


COMMANDS = {command.__name__: command for command in (
    leaderboard, report, cite, evaluate, card, export, attack, fsck, verify)}
