"""What a leaderboard was made of: which runs were used, which were not and why, and which are missing."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from kdbench.analysis.board import REFERENCE, Cell, Row
from kdbench.analysis.harm import MIN_SEEDS
from kdbench.errors import counted
from kdbench.results.record import Problem, Record


def statement(folder: Path, runs: list[Record], problems: list[Problem], cells: tuple[Cell, ...]) -> Iterable[str]:
    students = [run for run in runs if run.role == "student"]
    counts = {status: sum(run.status == status for run in students) for status in sorted({r.status for r in students})}
    suites = sorted({run.suite for run in runs})
    yield (f"{len(students)} runs of {counted(len(suites), 'suite')} ({', '.join(suites)}): "
           + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    for problem in sorted(problems, key=lambda p: p.path):
        yield f"Not used: {problem.path.relative_to(folder)}: {problem.reason}."
    versions: dict[str, set[str]] = defaultdict(set)
    for run in students:
        if run.method_digest:
            versions[run.spec.method].add(run.method_digest)
    for profile in (cost.profile for cell in cells for cost in cell.costs if cost.profile.subject == "method"):
        versions[profile.spec.method].add(profile.method_digest)
    for method, digests in sorted(versions.items()):
        if len(digests) > 1:
            yield (f"Mixed: the runs and profiles of {method} were made by {len(digests)} versions of its source "
                   f"({', '.join(sorted(d[:8] for d in digests))}).")
    yield from _without_harm([row for cell in cells for row in cell.rows if REFERENCE in row.differences])
    for cell in cells:
        yield from _incomplete(cell)


def _without_harm(rows: list[Row]) -> Iterable[str]:
    """Sentences on how many rows have no figures of harm, because of too few seeds, or because records lack the
    predicted classes."""
    have_seeds = [row.differences[REFERENCE].count >= MIN_SEEDS for row in rows if row.harm is None]
    for reason, count in (
        (f"they share fewer than {MIN_SEEDS} finished seeds with {REFERENCE}", have_seeds.count(False)),
        (f"they or {REFERENCE} lack the answers of {MIN_SEEDS} seeds; `kdbench evaluate` adds them to older records "
         "from saved predictions", have_seeds.count(True)),
    ):
        if count:
            yield f"Withheld: harm by class and flipped images, for {count} of {len(rows)} rows: {reason}."


def _incomplete(cell: Cell) -> Iterable[str]:
    """Sentences on the runs of a cell that have no result, one for all rows with the same status, reason and seeds."""
    alike: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for row in cell.rows:
        seeds: dict[tuple[str, str], list[int]] = defaultdict(list)
        for failure in row.failures:
            seeds[failure.status, failure.reason].append(failure.seed)
        for (status, reason), values in seeds.items():
            alike[status, reason, tuple(values)].append(row.label)
    for (status, reason, which), labels in sorted(alike.items()):
        kind = "n/a" if status == "inapplicable" else status.capitalize()
        where = ", ".join(filter(None, [cell.pair, cell.dataset, cell.transfer]))
        yield (f"{kind}: {', '.join(labels)} ({where}), seed{'s' * (len(which) > 1)} "
               f"{', '.join(map(str, which))}: {reason}.")
