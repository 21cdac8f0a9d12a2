"""Writes a site: pages of suites, methods and pairs, and their data beside them. The same records give the same bytes.

The site is written to a temporary folder beside its destination, which it replaces once it is complete.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.disk import TEMPORARY, file_sha256
from kdbench.errors import UserError
from kdbench.results.store import LEFT_OVER
from kdbench.site.data import data_files, need_packages
from kdbench.site.home import home_page
from kdbench.site.page import assets, method_page, pair_page
from kdbench.site.parts import MARKER, Parts, folders_of, read_parts
from kdbench.site.release import check_kinds, write_release
from kdbench.site.search import index_script
from kdbench.site.subjects import method_page_of, pair_page_of, suite_page
from kdbench.version import __version__


def publish(given: Sequence[str], out: Path, registry: Mapping[str, Any], kinds: Sequence[str] = (),
            licence: str = "mit") -> Parts:
    """Write the site of the folders of results in `given`, each written as DIR or NAME=DIR, into the folder `out`, and
    return its parts.

    `kinds` are the kinds of files of runs to add as archives: any of "records", "predictions" and "students". `licence`
    is the licence of the results, as a Hugging Face identifier. `registry` has the methods by name. UserError, with
    `out` left as it was, if pyarrow is missing, for folders without results or with the same suite, for files that are
    damaged or missing, and if `out` holds anything but a site or lies in, or holds, a folder of results.
    """
    need_packages()
    check_kinds(list(kinds))
    _check_out(out, folders_of(given))
    parts = read_parts(given, registry, licence)
    with _replacing(out) as folder:
        written = []
        for name, content in data_files(parts).items():
            written.append(_write(folder / "data" / name, content))
        for part in parts:
            written += write_release(part, list(kinds), folder / "release" / part.name)
        files = {str(path.relative_to(folder)): (path.stat().st_size, file_sha256(path)) for path in written}
        for name, text in _pages(parts, registry, files):
            _write(folder / name, (text + "\n").encode())
        _write(folder / MARKER, (_marker(parts, folder) + "\n").encode())
    return parts


def _pages(parts: Parts, registry: Mapping[str, Any],
           files: Mapping[str, tuple[int, str]]) -> Iterator[tuple[str, str]]:
    """The paths and texts of the site's pages, tables and scripts. `files` has the size in bytes and the SHA-256 of the
    files of data and releases, by path."""
    from kdbench.report.latex import to_latex
    from kdbench.report.markdown import to_markdown

    yield "index.html", home_page(parts, files)
    for part in parts:
        yield part.address(), suite_page(part, parts, registry)
        yield f"{part.name}/leaderboard.md", f"# kdbench leaderboard: {part.name}\n\n{to_markdown(part.board)}"
        yield f"{part.name}/leaderboard.tex", to_latex(part.board)
    for name in parts.methods:
        yield method_page(name), method_page_of(name, parts, registry)
    for pair in parts.pairs:
        yield pair_page(pair), pair_page_of(pair, parts)
    yield "assets/index.js", index_script(parts)
    yield from assets().items()


def _marker(parts: Parts, folder: Path) -> str:
    """The JSON text that marks a folder as a site: what the site was made of, and the other files in it, which the next
    site may replace."""
    return json.dumps({
        "made by": f"kdbench {__version__}", "last run": parts.finished, "licence": parts.licence,
        "suites": {part.name: {"runs": part.runs, "results": part.board.results_hash,
                               "records": part.board.records_hash} for part in parts},
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
    }, indent=1)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The folder.

def _check_out(out: Path, folders: Sequence[Path]) -> None:
    """Raise UserError if `out` is no folder or holds anything but a site, which a new site may replace, or if it is,
    lies in or holds one of the folders of results."""
    for folder in folders:
        here, there = out.resolve(), folder.resolve()
        if here == there or here in there.parents or there in here.parents:
            how = "is" if here == there else "lies in" if here in there.parents else "holds"
            raise UserError(f"--out {out}: a site stands apart from results, and {folder} {how} it")
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise UserError(f"--out {out}: it is no folder")
    try:
        files = [out / name for name in (MARKER, *json.loads((out / MARKER).read_text(encoding="utf-8"))["files"])]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    known = {place for path in files for place in (path, *path.parents)}
    for path in out.rglob("*"):
        if path not in known:
            raise UserError(f"--out {out}: it holds {path.relative_to(out)}, which is no part of a site of kdbench and "
                            "would be lost: name a folder of its own")


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which replaces `out` at the end of the context. If anything fails, `out` stays as
    it was."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    for old in out.parent.glob(f".{out.name}.*{TEMPORARY}"):  # left by a command that was killed
        if time.time() - old.stat().st_mtime > LEFT_OVER:
            shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=TEMPORARY, dir=out.parent))
    try:
        new, before = work / "new", work / "before"
        new.mkdir()
        yield new
        if out.exists():
            out.rename(before)  # a folder cannot be renamed over one that is not empty
        try:
            new.rename(out)
        except BaseException:
            if before.exists():
                before.rename(out)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
