"""A leaderboard as text: Markdown that reads well on a terminal, CSV, JSON."""

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kdbench.data import catalog
from kdbench.errors import UserError, unknown
from kdbench.leaderboard.classes import ClassChange, Comparison
from kdbench.leaderboard.statistics import Estimate
from kdbench.leaderboard.table import REFERENCE, Cell, Leaderboard, Row, Teacher
from kdbench.metrics import METRICS

COLUMNS = ("agreement", "worst_class_accuracy", "seconds")  # beside test accuracy; the other formats have all metrics
NONE = "n/a"
WIDTH = 100
MOST_AFFECTED = 10  # classes in a table of them


def render(leaderboard: Leaderboard, output_format: str) -> str:
    """The leaderboard in the format "md", "csv" or "json", without a last line break."""
    if output_format not in FORMATS:
        raise unknown("format", output_format, FORMATS)
    return FORMATS[output_format](leaderboard)


# Markdown.

def _markdown(leaderboard: Leaderboard) -> str:
    parts = []
    for cell in leaderboard.cells:
        parts += [f"## {title(cell, leaderboard)}", align(_header(), _lines(cell), left=2)]
        if any(row.comparison for row in cell.rows):
            parts += [f"### Classes and images against {REFERENCE}", align(*_class_table(cell), left=1),
                      f"### Most affected classes against {REFERENCE}", align(*_affected_table(cell), left=2)]
    parts += [_legend(leaderboard), _items(leaderboard.statement)]
    return "\n\n".join(parts)


def title(cell: Cell, leaderboard: Leaderboard) -> str:
    """Pair and dataset, and where several cells share them, what else tells this one apart."""
    alike = [c for c in leaderboard.cells if (c.pair, c.dataset) == (cell.pair, cell.dataset)]
    flat = [_flatten(c.spec) for c in alike]
    own = _flatten(cell.spec)
    apart = sorted(key for key in own if any(other.get(key) != own[key] for other in flat))
    suffix = ", ".join(f"{key}={own[key]}" for key in apart)
    return f"{cell.pair} on {cell.dataset}" + (f" ({suffix})" if suffix else "")


def _flatten(spec: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The leaves of what makes up a cell, by dotted path."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if key == "pair" or (not prefix and key in ("method", "hyperparameters", "seed", "self_teacher")):
            continue
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return flat


def _header() -> list[str]:
    return ["method", "family", "seeds", METRICS["test_accuracy"].header, f"vs {REFERENCE}",
            *(METRICS[name].header for name in COLUMNS)]


def _lines(cell: Cell) -> list[list[str]]:
    teacher = cell.teacher
    lines = [[row.label, row.family, _seeds(row), _interval(row.estimate("test_accuracy"), "share"),
              "" if row.method == REFERENCE and row.difference is None else _interval(row.difference, "share", "+"),
              *(_mean(row.estimate(name), METRICS[name].unit) for name in COLUMNS)] for row in cell.rows]
    if teacher is None:
        return lines
    return [["teacher", teacher.architecture if teacher.metrics else teacher.status, "",
             *(_number(teacher.metrics.get(name), METRICS[name].unit) if name else ""
               for name in ("test_accuracy", None, None, *COLUMNS[1:]))], *lines]


def _seeds(row: Row) -> str:
    """How many runs are in the means, out of how many where some are not."""
    return f"{len(row.seeds)}/{len(row.seeds) + len(row.failures)}" if row.failures else str(len(row.seeds))


def _interval(estimate: Estimate | None, unit: str, sign: str = "") -> str:
    if estimate is None:
        return NONE
    return f"{_number(estimate.mean, unit, sign)} ± {_number(estimate.half_width, unit)}"


def _mean(estimate: Estimate | None, unit: str) -> str:
    return _number(estimate.mean if estimate else None, unit)


def _number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return NONE
    return f"{100 * value:{sign}.2f}" if unit == "share" else f"{value:{sign}.1f}"


def align(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table whose columns line up; the first `left` columns are text, the others numbers."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (header, *lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(header))]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def pad(line: Sequence[str]) -> str:
        return " | ".join(cell.ljust(width) if i < left else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(line, widths, strict=True)))

    return "\n".join(f"| {pad(line)} |" for line in (cells[0], rule, *cells[1:]))


def _class_table(cell: Cell) -> tuple[list[str], list[list[str]]]:
    header = ["method", "harmed", "helped", "flipped", "right there", f"{REFERENCE} there", "most affected"]
    lines = []
    for row in cell.rows:
        if (told := row.comparison) is not None:
            most = affected(told)[0]
            lines.append([row.label, str(len(told.harmed)), str(len(told.helped)), _number(told.flipped, "share"),
                          _number(told.flipped_accuracy, "share"), _number(told.flipped_reference, "share"),
                          f"{class_name(cell, most.index)} {_number(most.change, 'share', '+')}"])
    return header, lines


def _affected_table(cell: Cell) -> tuple[list[str], list[list[str]]]:
    header = ["class", "method", "images", REFERENCE, "method's", "change", "p (Holm)"]
    changes = [(row.label, change) for row in cell.rows if row.comparison for change in affected(row.comparison)]
    changes.sort(key=lambda item: (-abs(item[1].change), item[0], item[1].index))
    return header, [
        [class_name(cell, c.index), label, str(c.images), _number(c.reference, "share"), _number(c.accuracy, "share"),
         _number(c.change, "share", "+"), NONE if c.p is None else f"{c.p:.3f}" if c.p >= .001 else "< 0.001"]
        for label, c in changes[:MOST_AFFECTED]
    ]


def affected(comparison: Comparison) -> list[ClassChange]:
    """The classes by how much they change, most first."""
    return sorted(comparison.classes, key=lambda c: (-abs(c.change), c.index))


def class_name(cell: Cell, index: int) -> str:
    """The class's name where the dataset is a known one, else its number."""
    try:
        names = catalog.parse(cell.dataset).info.classes
    except UserError:
        names = None
    return names[index] if names and index < len(names) else str(index)


def _legend(leaderboard: Leaderboard) -> str:
    lines = [
        f"vs {REFERENCE}: mean difference of test accuracy, on equal seeds.",
        *(f"{METRICS[name].header}: {METRICS[name].definition}" for name in ("test_accuracy", *COLUMNS)),
    ]
    if any(row.comparison for cell in leaderboard.cells for row in cell.rows):
        lines += [
            f"harmed, helped: number of classes whose accuracy differs from {REFERENCE}'s with the same seeds, at 5 % "
            "after Holm's correction for the number of classes, by min F' (Clark, 1973), which holds for other seeds "
            "and for other images.",
            f"flipped: share of test images whose majority prediction over seeds differs from {REFERENCE}'s "
            f"(compression-identified exemplars; Hooker et al., 2019), then the accuracy there of the method and of "
            f"{REFERENCE}.",
        ]
    return f"Accuracies in %. ± is half the width of the 95 % t interval over seeds; {NONE} with one seed.\n\n" \
        + _items(lines)


def _items(lines: Iterable[str]) -> str:
    return "\n".join(textwrap.fill(f"- {line}", WIDTH, subsequent_indent="  ", break_long_words=False,
                                   break_on_hyphens=False) for line in lines)


# Flat rows for CSV and JSON.

def flat_row(cell: Cell, row: Row) -> dict[str, Any]:
    """All that is known of a row; every metric as {name}_mean with its interval {name}_low to {name}_high."""
    failed = [f for f in row.failures if f.status not in ("missing", "inapplicable")]
    missing = [f for f in row.failures if f.status == "missing"]
    inapplicable = [f for f in row.failures if f.status == "inapplicable"]
    flat = {
        "method": row.method, "family": row.family, "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "hyperparameters": row.hyperparameters, "seeds": len(row.seeds), "seed_values": list(row.seeds),
        "failed": len(failed), "missing": len(missing), "inapplicable": len(inapplicable),
        "failures": [{"seed": f.seed, "status": f.status, "reason": f.reason} for f in row.failures],
        **_flat_estimate("test_accuracy", row.estimate("test_accuracy")),
        **_flat_estimate(f"difference_to_{REFERENCE}", row.difference),
    }
    for name in METRICS:
        flat |= _flat_estimate(name, row.estimate(name))
    return flat | _flat_comparison(cell, row.comparison) | {"runs": list(row.runs.values())}


def _flat_comparison(cell: Cell, comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return dict.fromkeys(("classes_harmed", "classes_helped", "flipped", "flipped_accuracy",
                              f"flipped_{REFERENCE}_accuracy", "most_affected_classes"))
    return {
        "classes_harmed": [class_name(cell, index) for index in comparison.harmed],
        "classes_helped": [class_name(cell, index) for index in comparison.helped],
        "flipped": comparison.flipped, "flipped_accuracy": comparison.flipped_accuracy,
        f"flipped_{REFERENCE}_accuracy": comparison.flipped_reference,
        "most_affected_classes": [
            {"class": class_name(cell, c.index), "images": c.images, f"{REFERENCE}_accuracy": c.reference,
             "accuracy": c.accuracy, "change": c.change, "p": c.p} for c in affected(comparison)[:MOST_AFFECTED]
        ],
    }


def flat_teacher(cell: Cell, teacher: Teacher) -> dict[str, Any]:
    return {
        "architecture": teacher.architecture, "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "status": teacher.status, "reason": teacher.reason,
        **{name: teacher.metrics[name] for name in METRICS if name in teacher.metrics},
    }


def _flat_estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {f"{name}_mean": estimate.mean if estimate else None, f"{name}_low": estimate.low if estimate else None,
            f"{name}_high": estimate.high if estimate else None}


def _json(leaderboard: Leaderboard) -> str:
    content = {
        "suites": leaderboard.suites,
        "statement": leaderboard.statement,
        "teachers": [flat_teacher(cell, cell.teacher) for cell in leaderboard.cells if cell.teacher],
        "rows": [flat_row(cell, row) for cell in leaderboard.cells for row in cell.rows],
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _csv(leaderboard: Leaderboard) -> str:
    """One line per row, the teacher's before its students'; lists are JSON."""
    lines: list[dict[str, Any]] = []
    for cell in leaderboard.cells:
        if cell.teacher:
            told = flat_teacher(cell, cell.teacher)
            means = {f"{name}_mean": told.pop(name) for name in METRICS if name in told}
            shared = {key: told[key] for key in ("pair", "dataset", "cell")}
            lines.append({"role": "teacher", "method": told["architecture"], **shared, **means})
        lines += [{"role": "student", **flat_row(cell, row)} for row in cell.rows]
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in reversed(lines) for key in line))  # a student's row has all, in order
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: json.dumps(value) if isinstance(value, list | dict) else value
                         for key, value in line.items()})
    return text.getvalue().removesuffix("\n")


FORMATS: dict[str, Callable[[Leaderboard], str]] = {"md": _markdown, "csv": _csv, "json": _json}
