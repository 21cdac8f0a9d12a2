"""The commands for results of several machines."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import AsJson, Plugins
from kdbench.cli.text.columns import coloured, printable, terminal_width
from kdbench.plugins.registry import Registry
from kdbench.remote.door import READ, READ_ALL, WRITE_ALL, on_stores
from kdbench.remote.place import with_urls
from kdbench.results.release import Release, read_release
from kdbench.results.store import Store


@on_stores(folders=READ_ALL, out=lambda asked: READ_ALL if asked["dry_run"] else WRITE_ALL)
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders of results")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where all of them go; what it holds already, stays")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write nothing; say what would be done")] = False,
) -> None:
    """Join folders of results of several machines. Equal runs are taken once. Exit code 1, and nothing is written, if
    runs contradict each other or a file is damaged that no folder has whole."""
    from kdbench.compress.record import Compressed
    from kdbench.finished.merge import merge
    from kdbench.profile.record import Profile
    from kdbench.tune.choice import read_choices

    found = merge(folders, out, Profile, read_choices, dry_run, compressed=Compressed)
    for line in found.told:
        print(printable(line))
    if found.refused:
        print("\n".join(map(printable, found.refused)), file=sys.stderr)
        print(f"nothing was merged: {len(found.refused)} in the way", file=sys.stderr)
        raise typer.Exit(1)
    done = "to copy" if dry_run else "copied"
    print(printable(f"{out}: {found.records} records; {len(found.copies)} files {done}"))


@on_stores(first=READ, second=READ)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a folder of results")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    as_json: AsJson = False,
    plugin: Plugins = None,
) -> None:
    """Say what changed between two folders of results: cells, methods, accuracies on equal seeds, repeated runs. Exit
    code 1 if a run that both finished is not bit-equal."""
    from kdbench.analysis.answers.changes import changes
    from kdbench.report.terminal import changes_to_text

    found = changes((first, second), Registry(plugin or ()))
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        print(coloured(changes_to_text(found, (_named(first), _named(second)), terminal_width())))
    if not found.bit_equal:
        raise typer.Exit(1)


def _named(folder: Path) -> str:
    """The folder, with the version of its results if it has one."""
    found = read_release(Store(folder))
    name = with_urls(str(folder))
    return f"{name} (version {found.versions[0].version})" if isinstance(found, Release) else name


COMMANDS = {command.__name__: command for command in (merge, compare)}
