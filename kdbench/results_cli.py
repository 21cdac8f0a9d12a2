"""The commands that read a folder of results: parse, call, print."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kdbench.registry import Registry

Plugins = Annotated[list[Path] | None, typer.Option("--plugin", metavar="FILE", help="a file with a method of yours")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the results of a suite")]


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
    from kdbench.leaderboard import build, render

    print(render(build(folder, Registry(plugin or ())), output_format.value))


def report(
    folder: Folder,
    only_check: Annotated[bool, typer.Option("--check", help="write nothing; say what is out of date")] = False,
    plugin: Plugins = None,
) -> None:
    """Write the leaderboard as Markdown, CSV, JSON, LaTeX and one offline page with plots into a folder of results."""
    from kdbench.leaderboard.report import check_report, write_report

    registry = Registry(plugin or ())
    if not only_check:
        for path in write_report(folder, registry):
            print(path)
    elif complaints := check_report(folder, registry):
        print("\n".join(complaints))
        raise typer.Exit(1)


def cite(folder: Folder, plugin: Plugins = None) -> None:
    """Print BibTeX for kdbench and for every method and dataset in a table, and a sentence for the paper's text."""
    from kdbench.leaderboard import build
    from kdbench.leaderboard.cite import cite

    registry = Registry(plugin or ())
    print(cite(build(folder, registry), registry))


COMMANDS = (leaderboard, report, cite)
