"""The commands `kdbench cache`, which lists what the cache holds, and `kdbench cache prune`, which frees it."""

import json
import time
from typing import Annotated

import typer

from kdbench.cli.options import AsJson
from kdbench.cli.text.columns import print_columns
from kdbench.errors import unknown
from kdbench.folders import CacheFolder
from kdbench.results.cached import KINDS, Cached, entries, remove
from kdbench.results.sizes import size_text

DAY = 86_400.0

cache_commands = typer.Typer(no_args_is_help=False)


@cache_commands.callback(invoke_without_command=True)
def cache(context: typer.Context, as_json: AsJson = False) -> None:
    """List what the cache holds (teacher passes, teachers, unfinished runs, data, copies of results on object stores),
    with the size, the last use and the origin of each entry."""
    if context.invoked_subcommand is not None:
        return
    folder = CacheFolder.of_user()
    found = entries(folder)
    if as_json:
        print(json.dumps([{"kind": one.kind, "name": one.name, "bytes": one.bytes, "used": one.used, "what": one.what}
                          for one in found], indent=1))
        return
    if found:
        print_columns([_row(one) for one in found])
        print()
    print(f"{size_text(sum(one.bytes for one in found))} in {folder.root}")


def prune(
    kinds: Annotated[list[str] | None, typer.Argument(
        metavar="[KIND]...", help=f"what to remove: {', '.join(KINDS)}; by default passes")] = None,
    unused_for: Annotated[float, typer.Option(
        metavar="DAYS", min=0, help="only what was not used for so many days")] = 0.0,
    only_say: Annotated[bool, typer.Option("--dry-run", help="remove nothing; say what would be")] = False,
) -> None:
    """Remove teacher passes, or entries of the given kinds, from the cache. Later commands make or fetch again what
    they need. Checkpoints of runs in progress, and results that are not uploaded yet, stay."""
    chosen = kinds or ["passes"]
    for kind in chosen:
        if kind not in KINDS:
            raise unknown("kind of cached files", kind, KINDS)
    folder, before = CacheFolder.of_user(), time.time() - unused_for * DAY
    freed = count = 0
    for one in entries(folder):
        if one.kind not in chosen or one.used > before:
            continue
        if not only_say and not remove(one):
            why = "not all of it is uploaded" if one.kind == "remotes" else "a run is at work on it"
            print(f"left alone, {why}: {one.kind} {one.name}")
            continue
        freed, count = freed + one.bytes, count + 1
    would = "would be freed" if only_say else "freed"
    print(f"{size_text(freed)} {would} in {folder.root}: {count} of {', '.join(chosen)}")


def _row(entry: Cached) -> dict[str, str]:
    return {"kind": entry.kind, "name": entry.name, "size": size_text(entry.bytes),
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)), "what": entry.what}


cache_commands.command(name="prune")(prune)
