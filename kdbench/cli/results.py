"""The commands that report on the results in a folder, extend them with further measurements, export them and check
them."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.advice import advice_to_text, read_cost, read_milliseconds
from kdbench.cli.options import AsJson, Device, Folder, Methods, Plugins, Workers, split_names
from kdbench.cli.text.columns import coloured, printable, terminal_width
from kdbench.errors import UserError
from kdbench.plugins.registry import Registry
from kdbench.remote.door import LOCAL, READ, READ_ALL, WRITE, WRITE_ALL, on_stores
from kdbench.remote.place import with_urls


class Format(StrEnum):
    text = "text"
    md = "md"
    csv = "csv"
    json = "json"


@on_stores(folders=READ)
def leaderboard(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="the results of a suite; of two "
                                                  "folders, their rows side by side; of more, how alike their orders "
                                                  "of methods are")],
    output_format: Annotated[Format, typer.Option("--format", help="text fits the terminal; the others hold "
                                                  "everything")] = Format.text,
    brief: Annotated[bool, typer.Option("--brief", help="the verdict alone")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="all tables, their notes, and what all columns mean")] = False,
    sort: Annotated[str | None, typer.Option(
        metavar="METRIC", help="the order of rows: a metric, name or family")] = None,
    metric: Annotated[str | None, typer.Option(
        help="show these metrics, comma-separated, and sort by the first")] = None,
    methods: Methods = None,
    plugin: Plugins = None,
) -> None:
    """Print the leaderboard of a folder of results, two of them side by side, or how alike the orders of methods by
    test accuracy are in the cells of more folders."""
    from kdbench.analysis.build import build
    from kdbench.report.files import render
    from kdbench.report.terminal import View, to_text, to_text_among, to_text_beside

    view = View(terminal_width(), brief, notes, tuple(split_names(metric) or ()), sort,
                tuple(split_names(methods) or ()))
    if output_format is not Format.text and view != View(view.width):
        raise UserError(f"--format {output_format.value}: it holds everything; --brief, --notes, --sort, --metric and "
                        "--methods go with --format text")
    registry = Registry(plugin or ())
    if len(folders) == 1:
        board = build(folders[0], registry)
        print(coloured(to_text(board, view)) if output_format is Format.text else render(board, output_format.value))
        return
    if output_format is not Format.text or view != View(view.width):
        raise UserError("leaderboard: several folders are compared as text, without further options")
    boards, names = [build(folder, registry) for folder in folders], [with_urls(str(folder)) for folder in folders]
    if len(boards) == 2:
        text = to_text_beside(boards[0], boards[1], (names[0], names[1]), view.width)
    else:
        text = to_text_among(boards, names, view.width)
    print(coloured(text))


@on_stores(folder=READ)
def advise(
    folder: Folder,
    max_train: Annotated[str | None, typer.Option(metavar="COST", help="of training: 2x (of plain training's steps, "
                                                  "which kdbench profile measures; no limit at equal compute) or 90s a "
                                                  "run")] = None,
    max_latency: Annotated[str | None, typer.Option(metavar="TIME", help="of the student for one image, such as 1ms; "
                                                    "kdbench profile measures it")] = None,
    data_free: Annotated[bool, typer.Option("--data-free", help="there are no training images")] = False,
    robust: Annotated[bool, typer.Option("--robust", help="accuracy under attack counts, not on clean images")] = False,
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Recommend a method and say why: the best one, or one that is cheaper to train and at most one percentage point
    below it. The exit code is 1 if no method can be recommended."""
    from kdbench.analysis.answers.advice import Wishes, advise
    from kdbench.analysis.build import build

    cost = read_cost(max_train)
    wishes = Wishes(cost.get("x"), cost.get("s"), read_milliseconds(max_latency), data_free, robust)
    board = build(folder, Registry(plugin or ()))
    found = [(board.title(cell), advise(cell, wishes)) for cell in board.cells]
    if as_json:
        print(json.dumps([{"cell": cell.id, "title": title, **dataclasses.asdict(one)}
                          for cell, (title, one) in zip(board.cells, found, strict=True)], indent=1))
    else:
        print("\n\n".join(advice_to_text(title, one) for title, one in found))
    if all(one.method is None for _, one in found):
        raise typer.Exit(1)


@on_stores(folder=lambda asked: READ if asked["only_check"] else WRITE)
def report(
    folder: Folder,
    only_check: Annotated[bool, typer.Option("--check", help="write nothing; say what is out of date")] = False,
    plugin: Plugins = None,
) -> None:
    """Write the leaderboard as Markdown, CSV, JSON, LaTeX and one offline page with plots into a folder of results.
    With --check, the exit code is 1 if a file is out of date."""
    from kdbench.report.files import check_report, write_report

    registry = Registry(plugin or ())
    if not only_check:
        for path in write_report(folder, registry):
            print(path)
    elif complaints := check_report(folder, registry):
        print("\n".join(complaints))
        raise typer.Exit(1)


@on_stores(folder=READ)
def cite(folder: Folder, plugin: Plugins = None) -> None:
    """Print BibTeX entries for kdbench and for all methods, datasets and metrics of the leaderboard that have a
    reference, and a sentence for the paper that cites them."""
    from kdbench.analysis.build import build
    from kdbench.report.cite import cite

    print(cite(build(folder, Registry(plugin or ()))))


Run = Annotated[str, typer.Argument(metavar="RUN", help="a run's id, or its beginning, or METHOD:SEED such as kd:0")]


@on_stores(folder=READ)
def card(folder: Folder, run: Run, plugin: Plugins = None) -> None:
    """Print the model card of a finished run, in Hugging Face's format."""
    from kdbench.analysis.build import build
    from kdbench.report.card import card
    from kdbench.results.store import Store

    print(card(Store(folder).find(run), build(folder, Registry(plugin or ()))), end="")


@on_stores(folder=READ, out=LOCAL)
def export(
    folder: Folder,
    run: Run,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="a folder to make")],
    onnx: Annotated[bool, typer.Option("--onnx", help="an ONNX file too; needs the extra kdbench[onnx]")] = False,
    executorch: Annotated[bool, typer.Option(
        "--executorch", help="a program for ExecuTorch too; needs the extra kdbench[executorch]")] = False,
    plugin: Plugins = None,
) -> None:
    """Export the network of a finished run to a folder that timm.create_model loads, with its model card."""
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
    wanted = [name for name, yes in (("onnx", onnx), ("executorch", executorch)) if yes]
    for done in export(record, weights, network, dataset, out, text, *wanted):
        print(f"{out}: {done.name}; {done.size / 1024:,.1f} KiB; logits differ by at most {done.difference:.2g} on "
              f"{done.images} test images")


@on_stores(folder=WRITE)
def evaluate(folder: Folder) -> None:
    """Recompute the metrics of finished runs from their saved predictions, without training. The exit code is 1 if a
    run cannot be evaluated."""
    from kdbench.finished.evaluate import evaluate
    from kdbench.folders import CacheFolder

    result = evaluate(folder, CacheFolder.of_user())
    print(f"{result.changed} records changed, {result.unchanged} as they were")
    _tell("not evaluated", result.problems)


@on_stores(folder=WRITE)
def attack(
    folder: Folder,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="runs by id, or its beginning; by default all")] = None,
    device: Annotated[Device, typer.Option(help="what to attack on")] = Device.cpu,
    plugin: Plugins = None,
) -> None:
    """Add accuracy under AutoAttack to the records of finished runs. The exit code is 1 if a run cannot be attacked.
    Needs the extra kdbench[attack]."""
    from kdbench.finished.attack import attack, need_package

    need_package()
    from kdbench.folders import CacheFolder

    result = attack(folder, runs or (), Registry(plugin or ()), CacheFolder.of_user(), device.value,
                    say=print)
    print(f"{result.added} records changed, {result.before} had the figure before")
    _tell("not attacked", result.problems)


@on_stores(folder=WRITE)
def compress(
    folder: Folder,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="runs by id, or its beginning, or METHOD:SEED; by "
                                         "default all finished students")] = None,
    methods: Methods = None,
    int8: Annotated[bool, typer.Option("--int8", help="static int8, calibrated on training images")] = False,
    prune: Annotated[float | None, typer.Option(metavar="SHARE", help="remove that share of the channels of every "
                                                "layer, such as 0.5, and let the network recover")] = None,
    recovery: Annotated[int | None, typer.Option(min=0, metavar="EPOCHS", help="in which a pruned network learns from "
                                                 "the float one; by default a quarter of the recipe's")] = None,
    plugin: Plugins = None,
) -> None:
    """Make int8 and pruned ONNX networks from finished students, and measure the accuracy and the cost of each with
    onnxruntime. The exit code is 1 if a student cannot be compressed. Needs the extra kdbench[compress]."""
    from kdbench.compress.record import Settings

    settings, names = Settings(int8, prune, recovery), split_names(methods)
    if runs and names:
        raise UserError("--methods: it goes without RUN; runs are named one by one, or by their methods")
    from kdbench.compress.compress import compress, need_packages

    need_packages()
    from kdbench.folders import CacheFolder

    done = compress(folder, runs or (), names, settings, Registry(plugin or ()), CacheFolder.of_user(), say=print)
    print(f"{done.made} networks made, {done.before} were there before; kdbench leaderboard {folder} has the table")
    _tell("not compressed", done.problems)


@on_stores(folder=lambda asked: WRITE_ALL if asked["repair"] else READ_ALL)
def fsck(
    folder: Folder,
    repair: Annotated[bool, typer.Option("--repair", help="set damaged files aside, remove temporary ones")] = False,
) -> None:
    """Check every file of a folder of results against its records. The exit code is 1 if a file is damaged or
    missing."""
    from kdbench.compress.record import Compressed
    from kdbench.finished.fsck import KINDS, Fsck
    from kdbench.folders import CacheFolder
    from kdbench.profile.record import Profile

    check = Fsck(folder, CacheFolder.of_user(), Profile, Compressed)
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


@on_stores(folder=READ)
def verify(
    folder: Folder,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="runs by id, or its beginning; else a sample")] = None,
    sample: Annotated[int, typer.Option(min=1, help="how many runs to draw, of as many methods as possible")] = 5,
    workers: Workers = None,
    plugin: Plugins = None,
) -> None:
    """Repeat finished runs and compare them with their records. The exit code is 0 if all are bit-equal, 1 if one is
    different or fails, and 3 otherwise: in another environment, some differ by no more than the noise between seeds, or
    cannot be compared."""
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
    """If there are problems, print them to standard error, each after `what`, and exit with code 1."""
    if problems:
        print("\n".join(f"{what}: {problem}" for problem in problems), file=sys.stderr)
        raise typer.Exit(1)


COMMANDS = {command.__name__: command for command in (
    leaderboard, advise, report, cite, evaluate, card, export, attack, compress, fsck, verify)}
