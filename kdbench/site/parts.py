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

MARKER = "kdbench-site.json"  # file that marks a folder as a site and lists its content
TAKEN = ("assets", "data", "index.html", "methods", "pairs", "release", MARKER)  # names at the top of every site
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # of the folder of a suite on the site


@dataclass(frozen=True)
class Part:
    """One folder of results as a part of a site, with its leaderboard and further details."""

    name: str      # the name of its suite and of its folder on the site
    store: Store
    board: Leaderboard
    details: Details

    @property
    def runs(self) -> int:
        return sum(len(row.runs) for cell in self.board.cells for row in cell.rows)

    def address(self, cell: Cell | None = None, row: Row | None = None) -> str:
        """The address, from the top of the site, of the suite's page, or of the row `row` of `cell` on it."""
        return f"{self.name}/index.html" + (to(row_anchor(cell, row)) if cell and row else "")


@dataclass(frozen=True)
class Parts:
    """The parts of a site, in the order in which their folders were given."""

    all: tuple[Part, ...]
    licence: str  # of the results, as a Hugging Face identifier

    def __iter__(self) -> Iterator[Part]:
        return iter(self.all)

    @property
    def rows(self) -> Iterator[tuple[Part, Cell, Row]]:
        return ((part, cell, row) for part in self.all for cell in part.board.cells for row in cell.rows)

    @property
    def methods(self) -> dict[str, str]:
        """The family of each method by the method's name, in the order of families and then of names."""
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
        """What is known of the methods, by name. If several folders describe a method, the first one counts."""
        found: dict[str, Facts] = {}
        for part in self.all:
            found = {**part.board.methods, **found}
        return found

    def licences(self) -> Iterator[tuple[str, str]]:
        """Pairs of a dataset's name and the source and licence of its images, for all datasets of the site."""
        for dataset in self.datasets:
            try:
                info = catalog.parse(dataset).info
                yield dataset, f"{info.source}; {info.licence}"
            except UserError:
                yield dataset, "not a dataset that this kdbench knows"

    @property
    def finished(self) -> str:
        """The time at which the last run ended, as records write times."""
        return max(part.details.finished for part in self.all)


def read_parts(given: Sequence[str], installed: Mapping[str, Any], licence: str) -> Parts:
    """Read the folders of results in `given`, each written as DIR or NAME=DIR. UserError for a folder without finished
    runs, for a suite's name that cannot be the name of a folder of a site, for a folder of several suites that is not
    given a name, and for two folders of the same name."""
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
    """The name and folder in "NAME=DIR"; None and the folder in "DIR", or if the whole text is the path of something
    that exists."""
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
    """The file name, without its suffix, of the page of a method or pair. Different names have different file names,
    even if upper and lower case are not distinguished."""
    safe = re.sub(r"[^a-z0-9_.-]", "-", name.lower())[:80].lstrip(".-")
    return safe if name and safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


# Paths of the machine that wrote a record are removed: they help no reader, and may reveal who wrote it.

def clean(value: Any) -> Any:
    """A JSON value with `without_paths` applied to every text in it, keys included."""
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
