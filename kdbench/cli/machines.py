"""The commands `kdbench merge` and `kdbench compare`, for folders of results from several machines."""

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
    """Merge folders of results from several machines into one. A run that several folders have is kept once. The exit
    code is 1, and nothing is written, if runs contradict each other, or if a file is damaged and no folder has an
    intact copy of it."""
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
    """Report what changed from one folder of results to another: cells, methods, accuracies on shared seeds, and runs
    that both have. The exit code is 1 if a run that finished in both is not bit-equal."""
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
    """The name of a folder (its URL, if it is on an object store), followed by the newest version of its results if
    they have been released."""
    found = read_release(Store(folder))
    name = with_urls(str(folder))
    return f"{name} (version {found.versions[0].version})" if isinstance(found, Release) else name


COMMANDS = {command.__name__: command for command in (merge, compare)}
