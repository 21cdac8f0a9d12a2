"""What changed between two folders of results: cells, methods, accuracies on equal seeds, repeated runs, machines."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdbench.analysis.board import REFERENCE, Cell, Leaderboard, Row
from kdbench.analysis.build import build
from kdbench.analysis.harm import SIGNIFICANCE, holm, two_sided
from kdbench.analysis.intervals import ROUNDED, Estimate, paired_difference, t_quantile
from kdbench.errors import UserError, plain
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Record
from kdbench.results.repeated import SOURCE, differing, environment_of
from kdbench.results.store import Store

METRIC = "test_accuracy"


Values = tuple[tuple[str, ...], tuple[str, ...]]  # the values found in A's finished runs, and in B's


@dataclass(frozen=True)
class RowChange:
    """A method that both folders, A (the first) and B (the second), have in a pair of compared cells."""

    cell: str                      # the title of A's cell
    method: str                    # its label in A
    first: Estimate | None         # test accuracy in A, over A's seeds
    second: Estimate | None        # test accuracy in B, over B's seeds
    difference: Estimate | None    # B minus A over the seeds that both have; None if they share none
    equal: bool                    # whether they share seeds, and the accuracies on all of these are equal
    p: float | None                # two-sided p-value of no difference, after Holm's correction; None if not tested
    significant: bool              # whether p is below 5 %
    verdicts: tuple[str, str]      # in A and in B, see `verdict_on`


@dataclass(frozen=True)
class RunChange:
    """A run that both folders have a record of, with different outcomes."""

    run: str    # "ID, METHOD, seed SEED (PAIR on DATASET)"
    what: str   # what differs; for a run that failed in one folder, in which folder and why


@dataclass(frozen=True)
class Reruns:
    """The runs that both folders have a record of, trials and teachers included, by how their outcomes compare."""

    shared: int                        # number of runs that both have a record of
    equal: int                         # finished in both with the same weights, predictions and metrics
    differing: tuple[RunChange, ...]   # finished in both, and not bit-equal
    failed: tuple[RunChange, ...]      # finished in one folder only
    unfinished: int                    # finished in neither
    only_first: int                    # number of runs that only A has a record of
    only_second: int                   # number of runs that only B has a record of


@dataclass(frozen=True)
class Changes:
    """What changed from a folder A to a folder B."""

    results: tuple[str, str]                              # the hashes of their results
    cells: tuple[tuple[str, ...], tuple[str, ...]]        # the titles of those in A only, and in B only
    methods: tuple[tuple[str, ...], tuple[str, ...]]      # "METHOD (CELL)": in compared cells, A only and B only
    rows: tuple[RowChange, ...]                           # methods of both, the largest difference first
    reruns: Reruns
    environments: Mapping[str, Values]                    # by name: parts of the environment that differ
    sources: Mapping[str, Values]                         # by method whose source differs: its SHA-256, shortened

    @property
    def bit_equal(self) -> bool:
        """Whether every run that finished in both folders gave bit-equal results."""
        return not self.reruns.differing


def changes(folders: tuple[Path, Path], installed: Mapping[str, MethodInfo]) -> Changes:
    """What changed from the first folder of results to the second. UserError if they are the same folder, or if one
    holds no results."""
    if folders[0].exists() and folders[0].resolve() == folders[1].resolve():
        raise UserError(f"{folders[0]} and {folders[1]} are the same folder" if folders[0] != folders[1] else
                        f"{folders[0]}: given twice")
    first, second = (build(folder, installed) for folder in folders)
    pairs, only_first, only_second = matched_cells(first, second)
    known, there = (_read(Store(folder)) for folder in folders)
    return Changes(
        results=(first.results_hash, second.results_hash),
        cells=(tuple(map(first.title, only_first)), tuple(map(second.title, only_second))),
        methods=(tuple(_alone(first, pairs, 0)), tuple(_alone(second, pairs, 1))),
        rows=tuple(_rows(first, pairs)), reruns=_reruns(known[0], there[0]), environments=_other(known[1], there[1]),
        sources=_other(known[2], there[2]))


# Cells and methods.

def matched_cells(first: Leaderboard, second: Leaderboard) -> tuple[list[tuple[Cell, Cell]], list[Cell], list[Cell]]:
    """The pairs of cells to compare, the other cells of the first leaderboard, and those of the second.

    Cells with the same id are paired first; then, of the rest, cells with the same pair, dataset and regime but other
    settings.
    """
    pairs: dict[str, Cell] = {}
    rest = list(second.cells)
    for key in (lambda cell: cell.id, lambda cell: (cell.pair, cell.dataset, cell.regime)):
        for cell in first.cells:
            other = next((one for one in rest if cell.id not in pairs and key(one) == key(cell)), None)
            if other is not None:
                pairs[cell.id] = other
                rest.remove(other)
    return ([(cell, pairs[cell.id]) for cell in first.cells if cell.id in pairs],
            [cell for cell in first.cells if cell.id not in pairs], rest)


def matched_rows(cell: Cell, other: Cell) -> Iterator[tuple[Row | None, Row | None]]:
    """Pairs of the rows of two cells with equal methods and settings, in the order of the first cell, followed by the
    rows that only the second cell has. The missing row of a pair is None. Labels are not compared, since they depend on
    the other rows of a cell."""
    there = {full_name(row): row for row in other.rows}
    here = {full_name(row): row for row in cell.rows}
    for name, row in here.items():
        yield row, there.get(name)
    yield from ((None, row) for name, row in there.items() if name not in here)


def full_name(row: Row) -> str:
    """The name of a row's method followed by all settings that are not defaults, "METHOD (NAME=VALUE, ...)"."""
    settings = ", ".join(f"{name}={value}" for name, value in sorted(row.hyperparameters.items()))
    return plain(f"{row.method} ({settings})" if settings else row.method)


def _alone(board: Leaderboard, pairs: Iterable[tuple[Cell, Cell]], which: int) -> Iterator[str]:
    for cells in pairs:
        for rows in matched_rows(*cells):
            row = rows[which]
            if row is not None and None in rows:
                yield f"{full_name(row)} ({board.title(cells[which])})"


# Accuracies.

def equal_on_shared(values: Mapping[int, float], reference: Mapping[int, float]) -> bool:
    """Whether two mappings by seed share any seeds, and have equal values for all of these."""
    shared = values.keys() & reference.keys()
    return bool(shared) and all(values[seed] == reference[seed] for seed in shared)


def _rows(first: Leaderboard, pairs: Iterable[tuple[Cell, Cell]]) -> list[RowChange]:
    """The changes of the methods that both leaderboards have, the largest difference first and unknown ones last."""
    both = [(cell, other, row, again) for cell, other in pairs for row, again in matched_rows(cell, other)
            if row is not None and again is not None]
    accuracies = [(row.metrics.get(METRIC, {}), again.metrics.get(METRIC, {})) for _, _, row, again in both]
    differences = [paired_difference(now, before) for before, now in accuracies]
    equal = [equal_on_shared(before, now) for before, now in accuracies]
    corrected = holm([1.0 if same else p_value_of(found) for found, same in zip(differences, equal, strict=True)])
    rows = [RowChange(first.title(cell), row.label, row.estimate(METRIC), again.estimate(METRIC), difference, same, p,
                      p is not None and p < SIGNIFICANCE, (verdict_on(cell, row), verdict_on(other, again)))
            for (cell, other, row, again), difference, same, p in zip(both, differences, equal, corrected, strict=True)]
    return sorted(rows, key=lambda row: (row.difference is None, -abs(row.difference.mean) if row.difference else 0.0))


def p_value_of(difference: Estimate | None) -> float | None:
    """The two-sided p-value of a mean difference of zero by the paired t-test. None with fewer than two seeds, or if
    the difference is the same for all seeds but for rounding."""
    if difference is None or difference.half_width is None or not round(difference.half_width, ROUNDED):
        return None
    degrees = difference.count - 1
    return two_sided(difference.mean / (difference.half_width / t_quantile(degrees)), degrees)


def verdict_on(cell: Cell, row: Row) -> str:
    """The verdict on a row against plain training in its cell: "better" or "worse" if the difference is significant,
    else "unclear"; "" for plain training itself, and if there are too few seeds for a test."""
    told = cell.comparisons.to.get(REFERENCE, {}).get(row.label)
    if told is None:
        return ""
    return "unclear" if not told.significant else "better" if told.mean > 0 else "worse"


# Runs and environments.

def _reruns(known: Mapping[str, Record], there: Mapping[str, Record]) -> Reruns:
    """Compare the records of the runs that two folders share; each folder's records are given by run id."""
    equal = unfinished = 0
    differ, failed = [], []
    shared = sorted(known.keys() & there.keys())
    for before, now in ((known[run], there[run]) for run in shared):
        if before.status == now.status == "ok":
            what = differing(before, now)
            equal += not what
            differ += [RunChange(_label(before), f"{', '.join(what)} differ")] if what else []
        elif "ok" in (before.status, now.status):
            where, one = ("A", before) if now.status == "ok" else ("B", now)
            failed.append(RunChange(_label(one), plain(f"in {where} {one.status}: {one.reason}")))
        else:
            unfinished += 1
    return Reruns(len(shared), equal, tuple(differ), tuple(failed), unfinished, len(known) - len(shared),
                  len(there) - len(shared))


def _read(store: Store) -> tuple[dict[str, Record], dict[str, set[str]], dict[str, set[str]]]:
    """A folder's records by run id; the values of each part of the environment of its finished runs, by the part's
    name; and the digests of each method's source in these runs, by method."""
    records: dict[str, Record] = {}
    environment: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    for record in store.scan():
        if isinstance(record, Record):
            records[record.run_id] = record.without_details()
            parts = environment_of(record) if record.status == "ok" else {}
            for name, value in parts.items():
                found = sources[plain(record.spec.method)] if name == SOURCE else environment[plain(name)]
                found.add(plain(value))
    return records, environment, sources


def _other(first: Mapping[str, set[str]], second: Mapping[str, set[str]]) -> dict[str, Values]:
    """The entries that two mappings share with different values: by name, the sorted values of the first and of the
    second."""
    return {name: (tuple(sorted(first[name])), tuple(sorted(second[name])))
            for name in sorted(first.keys() & second.keys()) if first[name] != second[name]}


def _label(record: Record) -> str:
    spec, role = record.spec, "" if record.role == "student" else f"{record.role} "
    return plain(f"{record.run_id}, {role}{spec.method}, seed {spec.seed} ({spec.pair} on {spec.dataset})")
