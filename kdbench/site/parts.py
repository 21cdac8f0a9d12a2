"""The folders of results that a site is made of, read and named."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.analysis.board import Cell, Leaderboard, Row
from kdbench.analysis.build import build
from kdbench.analysis.details import Details, read_details
from kdbench.data import catalog
from kdbench.errors import UserError, without_paths
from kdbench.plugins.source import Facts, family_order
from kdbench.report.page.pieces import row_anchor, to
from kdbench.results.store import Store

MARKER = "kdbench-site.json"  # says that a folder is a site, and what is in it
TAKEN = ("assets", "data", "index.html", "methods", "pairs", "release", MARKER)  # at the top of a site
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # of a suite's folder


@dataclass(frozen=True)
class Part:
    """What a folder of results adds to a site."""

    name: str      # of its suite, and of its folder on the site
    store: Store
    board: Leaderboard
    details: Details

    @property
    def runs(self) -> int:
        return sum(len(row.runs) for cell in self.board.cells for row in cell.rows)

    def address(self, cell: Cell | None = None, row: Row | None = None) -> str:
        """Of the suite's page, or of a row on it, from the top of the site."""
        return f"{self.name}/index.html" + (to(row_anchor(cell, row)) if cell and row else "")


@dataclass(frozen=True)
class Parts:
    """All folders of a site, in the order in which they were given."""

    all: tuple[Part, ...]
    licence: str  # of the results

    def __iter__(self) -> Iterator[Part]:
        return iter(self.all)

    @property
    def rows(self) -> Iterator[tuple[Part, Cell, Row]]:
        return ((part, cell, row) for part in self.all for cell in part.board.cells for row in cell.rows)

    @property
    def methods(self) -> dict[str, str]:
        """The family of each method, by name, in the order of families, then names."""
        families = {row.method: row.family for _, _, row in self.rows}
        return dict(sorted(families.items(), key=lambda item: (family_order(item[1]), item[0])))

    @property
    def pairs(self) -> list[str]:
        return sorted({cell.pair for part in self.all for cell in part.board.cells})

    @property
    def datasets(self) -> list[str]:
        return sorted({cell.dataset for part in self.all for cell in part.board.cells})

    @property
    def facts(self) -> dict[str, Facts]:
        """What is known of methods, by name: what the first folder says that knows something."""
        found: dict[str, Facts] = {}
        for part in self.all:
            found = {**part.board.methods, **found}
        return found

    def licences(self) -> Iterator[tuple[str, str]]:
        """The name of each dataset, and the source and licence of its images."""
        for dataset in self.datasets:
            try:
                info = catalog.parse(dataset).info
                yield dataset, f"{info.source}; {info.licence}"
            except UserError:
                yield dataset, "not a dataset that this kdbench knows"

    @property
    def finished(self) -> str:
        """When the last run ended."""
        return max(part.details.finished for part in self.all)


def read_parts(given: Sequence[str], installed: Mapping[str, Any], licence: str) -> Parts:
    """Read the folders that `given` names, as DIR or NAME=DIR. UserError for a folder without finished runs, for a
    suite's name that cannot be the name of a folder of a site, and for two of the same name."""
    parts: dict[str, Part] = {}
    for text in given:
        name, folder = named(text)
        board = build(folder, installed)
        if not any(row.runs for cell in board.cells for row in cell.rows):
            raise UserError(f"{folder}: no run of it has finished: there is nothing to publish")
        name = _name(name, folder, board)
        if same := parts.get(name.lower()):
            raise UserError(f"{same.store.folder} and {folder} are both of the suite {name}: name one of them, "
                            f"{name}-2={folder}")
        details = read_details(Store(folder), board)
        parts[name.lower()] = Part(name, Store(folder), _without_paths(board), replace(details, environments=tuple(
            (without_paths(text), runs) for text, runs in details.environments)))
    return Parts(tuple(parts.values()), licence)


def folders_of(given: Iterable[str]) -> list[Path]:
    return [named(text)[1] for text in given]


def named(text: str) -> tuple[str | None, Path]:
    """The name and folder in "NAME=DIR"; None and the folder in "DIR"."""
    name, equals, folder = text.partition("=")
    if equals and folder and NAME.fullmatch(name) and not Path(text).exists():
        return name, Path(folder)
    return None, Path(text)


def _name(given: str | None, folder: Path, board: Leaderboard) -> str:
    if given is None and len(board.suites) != 1:
        raise UserError(f"{folder}: it holds runs of {len(board.suites)} suites ({', '.join(board.suites)}): name what "
                        f"they are together, NAME={folder}")
    name = given or board.suites[0]
    if not NAME.fullmatch(name) or name.lower() in TAKEN:
        why = "is the name of a part of every site" if name.lower() in TAKEN else \
            "cannot be the name of a folder (allowed: letters, digits, '_', '.', '+' and '-')"
        raise UserError(f"{folder}: the suite's name {name[:100]!r} {why}: name it otherwise, NAME={folder}")
    return name


def slug(name: str) -> str:
    """The name of a page's file, without its ending, for any name of a method or pair: names that differ have other
    ones, on disks that do not tell upper case from lower as well."""
    safe = re.sub(r"[^a-z0-9_.-]", "-", name.lower())[:80].lstrip(".-")
    return safe if name and safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


# Paths of the machine that wrote a record: they help no reader, and may tell who it was.

def clean(value: Any) -> Any:
    """A value of JSON, `without_paths` in any of its texts."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, Mapping):
        return {clean(key): clean(one) for key, one in value.items()}
    return [clean(one) for one in value] if isinstance(value, list | tuple) else value


def _without_paths(board: Leaderboard) -> Leaderboard:
    return replace(board, cells=tuple(map(_cell, board.cells)), statement=tuple(map(without_paths, board.statement)))


def _cell(cell: Cell) -> Cell:
    teacher = cell.teacher and replace(cell.teacher, reason=without_paths(cell.teacher.reason))
    rows = tuple(replace(row, failures=tuple(replace(one, reason=without_paths(one.reason)) for one in row.failures))
                 for row in cell.rows)
    return replace(cell, dataset=without_paths(cell.dataset), spec=clean(cell.spec), teacher=teacher, rows=rows)
