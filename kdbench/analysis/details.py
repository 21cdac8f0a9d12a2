"""What a report shows beyond its tables, read from the full records: curves, vectors, provenance."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from kdbench.analysis.board import Leaderboard, Row
from kdbench.results.record import Record
from kdbench.results.store import Store


@dataclass(frozen=True)
class Details:
    curves: dict[str, dict[float, float]]       # by run id, then epoch: validation accuracy
    vectors: dict[str, dict[str, np.ndarray]]   # by run id, then name; NaN where the record has None
    environments: tuple[tuple[str, int], ...]   # canonical JSON, and how many runs had it; the most common first
    started: str                                # when the first run started; "" without runs
    finished: str                               # when the last run finished; "" without runs

    def mean_curve(self, row: Row) -> dict[float, float]:
        """The mean validation accuracy by epoch, over those of the row's runs that have a curve, at the epochs that all
        of these curves have."""
        curves = [curve for run in row.runs.values() if (curve := self.curves.get(run))]
        shared = set.intersection(*map(set, curves)) if curves else set()
        return {epoch: float(np.mean([curve[epoch] for curve in curves])) for epoch in sorted(shared)}

    def mean_vector(self, row: Row, name: str, seeds: Iterable[int] | None = None) -> np.ndarray | None:
        """The elementwise mean of the vector `name` over the row's seeds, or over the given ones. None if no run has
        the vector, or if lengths differ."""
        chosen = row.runs if seeds is None else seeds
        return _mean(self.vectors.get(row.runs[seed], {}).get(name) for seed in chosen)


def _mean(values: Iterable[Any]) -> np.ndarray | None:
    found = [value for value in values if value is not None and len(value)]
    if not found or len({len(value) for value in found}) > 1:
        return None
    return np.mean(found, axis=0)


def read_details(store: Store, leaderboard: Leaderboard) -> Details:
    """Read the details of the leaderboard's finished runs from their records."""
    wanted = {run for cell in leaderboard.cells for row in cell.rows for run in row.runs.values()}
    curves, vectors, times = {}, {}, []
    environments: Counter[str] = Counter()
    for found in store.scan():
        if isinstance(found, Record) and found.run_id in wanted:
            accuracy = found.curves.get("validation_accuracy", [])
            curves[found.run_id] = dict(zip(found.curves.get("validation_epoch", count(1)), accuracy, strict=False))
            vectors[found.run_id] = {name: np.array(values, dtype=float) for name, values in found.vectors.items()}
            environments[json.dumps(found.environment, sort_keys=True)] += 1
            times += [found.started, found.finished]
    return Details(
        curves, vectors, tuple(sorted(environments.items(), key=lambda item: (-item[1], item[0]))),
        min(times, default=""), max(times, default=""),
    )
