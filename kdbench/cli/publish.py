"""The commands `kdbench publish`, which builds a static site of results, and `kdbench release`, which gives results a
version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import Folder, Plugins, split_names
from kdbench.plugins.registry import Registry
from kdbench.remote.door import LOCAL, READ, READ_ALL, WRITE, on_stores


def publish(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="the results of suites; NAME=DIR names a suite "
                                                 "otherwise on the site")],
    out: Annotated[Path, typer.Option(metavar="SITE", help="a folder to make, or a site to replace")],
    files: Annotated[str | None, typer.Option(
        "--with", metavar="KINDS", help="files of runs to add, of: records, predictions, students")] = None,
    licence: Annotated[str, typer.Option(
        "--license", metavar="ID", help="of the results, by Hugging Face's identifier")] = "mit",
    push: Annotated[str | None, typer.Option(
        metavar="OWNER/NAME", help="then upload SITE/data as a dataset to the Hugging Face hub, by its login")] = None,
    plugin: Plugins = None,
) -> None:
    """Write a static site from the results of suites: searchable pages for suites, methods and pairs, and the data as
    CSV and Parquet. Needs the extra kdbench[publish]."""
    from kdbench.site.parts import named

    names, places = zip(*map(named, folders), strict=True)
    _publish(names, list(places), out, files, licence, push, plugin)


@on_stores(folders=lambda asked: READ_ALL if asked["files"] else READ, out=LOCAL)
def _publish(names: Sequence[str | None], folders: list[Path], out: Path, files: str | None, licence: str,
             push: str | None, plugin: list[Path] | None) -> None:
    """Publish folders that are given separately from their names, so that `on_stores` can replace folders that are
    URLs."""
    from kdbench.results.sizes import size_text
    from kdbench.site.build import publish
    from kdbench.site.push import check_repository
    from kdbench.site.push import push as upload

    if push is not None:
        check_repository(push)
    given = [f"{name}={folder}" if name else str(folder) for name, folder in zip(names, folders, strict=True)]
    parts = publish(given, out, Registry(plugin or ()), split_names(files) or (), licence)
    written = [path for path in out.rglob("*") if path.is_file()]
    print(f"{out / 'index.html'}: {', '.join(part.name for part in parts)}; {len(parts.methods)} methods, "
          f"{len(written)} files, {size_text(sum(path.stat().st_size for path in written))}; licence of the results: "
          f"{licence}")
    if push is not None:
        print(upload(out / "data", push))


@on_stores(folder=WRITE)
def release(
    folder: Folder,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="YEAR.MONTH, such as 2026.12, or YEAR.MONTH.N")],
    note: Annotated[str, typer.Option(help="what is in it, or what changed since the last one")],
    suite: Annotated[str | None, typer.Option(
        help="the suite that made the results, by name or file; by default the one that they name")] = None,
    plugin: Plugins = None,
) -> None:
    """Give the results of a folder a version, and record with it the hashes of the results and of the records, the text
    of the suite, and the packages that are installed here."""
    from kdbench.site.version import release

    made = release(folder, version, note, Registry(plugin or ()), suite)
    for line in made.told:
        print(f"note: {line}")
    print(f"{folder}: version {made.version.version}, results {made.version.results[:16]}, records "
          f"{made.version.records[:16]}; `kdbench report {folder}` puts it into the tables")


COMMANDS = {"publish": publish, "release": release}
