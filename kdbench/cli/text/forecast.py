"""The forecast of `kdbench run --dry-run` as text."""

from kdbench.errors import counted, plain
from kdbench.execution.display import duration
from kdbench.profile.forecast import Forecast, Row
from kdbench.results.sizes import size_text

COLUMNS = ("method", "finished", "n/a", "to do", "s a run", "from", "core-hours")
UNKNOWN = "-"


def forecast_to_text(found: Forecast) -> str:
    """A table with a line for each method, then the runs to do, the time, memory and disk that they need, and notes."""
    lines = [COLUMNS, *(_cells(row) for row in found.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) if name in ("method", "from") else cell.rjust(width)
                       for name, cell, width in zip(COLUMNS, line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", *_totals(found), *(f"note: {plain(note)}" for note in found.notes)])


def _cells(row: Row) -> tuple[str, ...]:
    to_do = f"{row.to_do} ({row.failed} failed before)" if row.failed else str(row.to_do)
    return (plain(row.method), str(row.finished), str(row.inapplicable), to_do, _number(row.seconds), plain(row.basis),
            _number(row.core_hours))


def _number(value: float | None) -> str:
    """The value with about three significant digits; "0" for zero, and UNKNOWN for None."""
    if not value:
        return UNKNOWN if value is None else "0"
    return f"{value:.{next((digits for digits, least in enumerate((100, 10, 1)) if value >= least), 3)}f}"


def _totals(found: Forecast) -> list[str]:
    skipped = sum(row.inapplicable for row in found.rows)
    beside = f" ({skipped} of the plan not applicable)" if skipped else ""
    if not found.runs:
        return [f"nothing to do: all runs are finished{beside}; results in {plain(found.folder)}"]
    teachers = f" and {counted(found.teachers, 'teacher')} to train first" if found.teachers else ""
    return [
        f"{counted(found.runs, 'run')} to do{beside}{teachers}, {found.workers} at a time",
        f"time: {_time(found)}",
        f"memory: {_memory(found)}",
        f"disk: {_disk(found)}",
        *found.passes,
    ]


def _time(found: Forecast) -> str:
    if found.unknown == found.runs + found.teachers:
        return "not known"
    hours = sum(row.core_hours or 0 for row in found.rows)
    more = f", and {found.unknown} runs of which nothing is known" if found.unknown else ""
    return f"about {duration(found.seconds)} ({_number(hours)} core-hours){more}"


def _memory(found: Forecast) -> str:
    if not found.memory:
        return "not known"
    there = f" of {size_text(found.memory_there)}" if found.memory_there else ""
    return f"up to {size_text(found.memory)}{there}"


def _disk(found: Forecast) -> str:
    if not found.disk:
        return "not known"
    cache = f", {size_text(found.cache_disk)} for teachers in the cache" if found.cache_disk else ""
    return f"{size_text(found.disk)} in {plain(found.folder)}{cache}; {size_text(found.disk_free)} are free"
