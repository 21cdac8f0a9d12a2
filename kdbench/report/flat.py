"""A leaderboard for programs: CSV and JSON, with every metric."""

import csv
import dataclasses
import io
import json
from typing import Any

from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row, Teacher
from kdbench.analysis.costs import energy_source
from kdbench.analysis.harm import Harm
from kdbench.analysis.intervals import Estimate
from kdbench.analysis.ranking import rank
from kdbench.analysis.reported import of_row
from kdbench.metrics.catalog import METRICS
from kdbench.report.tables import MOST_AFFECTED, affected, class_name


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
    }
    published = of_row(cell, row)
    flat |= {"reported_test_accuracy": published.accuracy if published else None,
             "reported_by": published.source if published else None}
    for name in REFERENCES:
        flat |= _flat_estimate(f"difference_to_{name}", row.differences.get(name))
        wins = row.wins.get(name)
        flat |= {f"wins_over_{name}": wins.won if wins else None, f"pairs_with_{name}": wins.pairs if wins else None}
    for name in METRICS:
        flat |= _flat_estimate(name, row.estimate(name))
    flat |= {"training_energy_source": energy_source(cell.costs, "training_energy_joules", row.label),
             "use_energy_source": energy_source(cell.costs, "energy_per_1000_images", row.label)}
    return flat | _flat_comparison(cell, row.harm) | {"runs": list(row.runs.values())}


def _flat_comparison(cell: Cell, comparison: Harm | None) -> dict[str, Any]:
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


def to_json(leaderboard: Leaderboard) -> str:
    content = {
        "hash": leaderboard.hash,
        "suites": leaderboard.suites,
        "statement": leaderboard.statement,
        "teachers": [flat_teacher(cell, cell.teacher) for cell in leaderboard.cells if cell.teacher],
        "rows": [flat_row(cell, row) for cell in leaderboard.cells for row in cell.rows],
        "ranking": dataclasses.asdict(ranking) if (ranking := rank(leaderboard)) else None,
    }
    return json.dumps(content, indent=1, allow_nan=False)


def to_csv(leaderboard: Leaderboard) -> str:
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
    columns.append("results")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: json.dumps(value) if isinstance(value, list | dict) else value
                         for key, value in line.items()} | {"results": leaderboard.hash})
    return text.getvalue().removesuffix("\n")
