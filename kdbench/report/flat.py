"""Machine-readable results with every metric: a leaderboard as data frame, CSV or JSON; runs as data frame or CSV."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from kdbench.analysis.answers.audit import Finding, audit, has_groups
from kdbench.analysis.answers.orders import between_cells, by_metric
from kdbench.analysis.answers.trend import per_doubling
from kdbench.analysis.answers.verdict import verdict
from kdbench.analysis.board import REFERENCE, REFERENCES, Cell, Leaderboard, Row, Teacher
from kdbench.analysis.build import metrics_of
from kdbench.analysis.costs import energy_source
from kdbench.analysis.harm import Harm
from kdbench.analysis.intervals import Estimate, paired_difference
from kdbench.analysis.labels import Variant, facts_of
from kdbench.analysis.moderated import Comparison
from kdbench.analysis.ranking import rank
from kdbench.analysis.reported import of_row
from kdbench.analysis.shares import Shares
from kdbench.compress.record import FLOAT_AGREEMENT
from kdbench.metrics.catalog import METRICS
from kdbench.report.formatting import number
from kdbench.report.tables.compressed import FLOAT, USE, compressed_rows
from kdbench.report.tables.fairness import group_names, swept_metrics
from kdbench.report.tables.parts import MOST_AFFECTED, affected
from kdbench.results.numbers import significant
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.tune.summary import expected_best

if TYPE_CHECKING:
    import pandas as pd


def _typed(*estimates: str) -> dict[str, str]:
    return {f"{name}_{part}": "float64" for name in estimates for part in ("mean", "low", "high")}


MODERATED = ("moderated_low", "moderated_high", "degrees", "p", "p_holm")  # columns of a difference to a reference
COLUMNS = {  # columns of the leaderboard's data frame and CSV, in order, with their types in pandas
    "role": "string", "method": "string", "family": "string", "pair": "string", "dataset": "string", "cell": "string",
    "hyperparameters": "object", "conditions": "object", "submission": "string",
    "seeds": "Int64", "seed_values": "object",
    "failed": "Int64", "missing": "Int64", "inapplicable": "Int64", "failures": "object",
    **_typed("test_accuracy"), "reported_test_accuracy": "float64", "reported_by": "string",
    "tier": "Int64",
    **{column: kind for name in REFERENCES for column, kind in {
        **_typed(f"difference_to_{name}"), **{f"difference_to_{name}_{part}": "float64" for part in MODERATED},
        f"wins_over_{name}": "float64", f"pairs_with_{name}": "Int64"}.items()},
    **_typed(*METRICS), "training_energy_source": "string", "use_energy_source": "string",
    "classes_harmed": "object", "classes_helped": "object", "flipped": "float64", "flipped_accuracy": "float64",
    f"flipped_{REFERENCE}_accuracy": "float64", "most_affected_classes": "object", "shares": "object",
    "runs": "object",
    "results": "string", "records": "string",
}


DIGITS = 9  # significant digits of floats in the leaderboard's CSV and JSON
# Columns that only rows of compressed networks have, behind `COLUMNS` in CSV: the kind of network, and its figures.
COMPRESSED = ("network", *_typed(FLOAT_AGREEMENT, "difference_to_float", *USE))

RUN_COLUMNS = {  # columns of the data frame of runs and of runs.csv, in order, with their types in pandas
    "run": "string", "role": "string", "status": "string", "reason": "string", "suite": "string", "method": "string",
    "family": "string", "pair": "string", "dataset": "string", "cell": "string", "seed": "Int64",
    "hyperparameters": "object", "updates": "Int64", "epochs": "Int64", **dict.fromkeys(METRICS, "float64"),
    "weights_sha256": "string", "predictions_sha256": "string", "dataset_digest": "string", "method_digest": "string",
    "started": "string", "finished": "string", "device": "string", "machine": "string", "git_commit": "string",
}


def runs_to_frame(store: Store) -> "pd.DataFrame":
    """The runs of a folder of results as a data frame: one row for each record, sorted by cell, method and seed.

    `role` is "student", "teacher" or "trial". `status` is "ok", or else says why there are no metrics, and `reason`
    explains it. `run` is the id that `load_student` takes; runs with the same id in `cell` are compared with each
    other. `hyperparameters` has all hyperparameters of the run, defaults included; `epochs` and `updates` are the run's
    own. Each metric of `kdbench list metrics` has a column; the metrics of profiles are missing here, since they are
    measured separately, and are found in the leaderboard. Shares are from 0 to 1. A missing value is pd.NA, NaN or
    None, depending on the column's type in `RUN_COLUMNS`. UserError if the folder has no records.
    """
    return typed(RUN_COLUMNS, run_lines(store))


def runs_to_csv(store: Store) -> str:
    """The rows and columns of `runs_to_frame` as CSV without a final line break; dicts are JSON. UserError if the
    folder has no records."""
    return csv_text(RUN_COLUMNS, run_lines(store))


def run_rows(store: Store) -> list[dict[str, Any]]:
    """The runs of a folder as rows of a listing, all text but the seed: what each run is, its test accuracy in %, its
    training time in seconds, its status with the reason, and its settings that are not defaults (of a teacher: its
    network). UserError if the folder has no records."""
    records = _sorted(store)
    known = facts_of(records, {})
    return [{"run": one.run_id, "method": one.spec.method if one.role == "student" else f"{one.role} "
             f"{one.spec.method}", "pair": one.spec.pair, "dataset": one.spec.dataset, "seed": one.spec.seed,
             "test acc.": number(one.metrics.get("test_accuracy"), "share"),
             "seconds": number(metrics_of(one).get("seconds"), "s"),
             "status": one.status + (f": {one.reason}" if one.reason else ""),
             "settings": one.spec.student.model if one.role == "teacher" else
             ", ".join(f"{name}={value}" for name, value in Variant.of(one.spec, known).settings)}
            for one in records]


def _sorted(store: Store) -> list[Record]:
    """The records of a folder by cell, method and seed. UserError if it has none."""
    records = [record for record in store.scan() if isinstance(record, Record)]
    if not records:
        raise store.no_records()
    return sorted(records, key=lambda one: (one.spec.cell, one.spec.method, one.spec.seed, one.run_id))


def run_lines(store: Store) -> Iterator[dict[str, Any]]:
    """The rows of `runs_to_frame` and of runs.csv as values by column; a value that is not known is None or absent.
    UserError if the folder has no records."""
    for record in _sorted(store):
        spec, machine = record.spec, record.environment
        yield {
            "run": record.run_id, "role": record.role, "status": record.status, "reason": record.reason,
            "suite": record.suite, "method": spec.method, "family": record.family, "pair": spec.pair,
            "dataset": spec.dataset, "cell": spec.cell, "seed": spec.seed, "hyperparameters": spec.hyperparameters,
            "updates": spec.updates, "epochs": spec.training.epochs, **metrics_of(record),
            **{name: getattr(record, name) for name in ("weights_sha256", "predictions_sha256", "dataset_digest",
                                                        "method_digest", "started", "finished")},
            "device": spec.device, "machine": machine.get("gpu") or machine.get("cpu"),
            "git_commit": machine.get("git_commit"),
        }


def to_frame(leaderboard: Leaderboard) -> "pd.DataFrame":
    """The leaderboard as a data frame: one row for each method and choice of hyperparameters in each cell, best first,
    below a row of the cell's teacher.

    `role` is "student" or "teacher". `cell` is the id of the cell, one pair, dataset and recipe, within which methods
    are compared. `hyperparameters` has only those that differ from the method's defaults. Each metric of
    `kdbench list metrics` has three columns: NAME_mean is the mean over the row's `seeds`, and NAME_low and NAME_high
    are the ends of its 95 % t interval. The paired differences of test accuracy to the references, difference_to_ce and
    difference_to_kd, have the same three columns; in addition, they have the ends of the moderated interval, its
    degrees of freedom, and p before and after Holm's correction for all methods of the cell (see
    kdbench.analysis.moderated). `tier` is 1 for the methods that see the data and that no other method is significantly
    better than. `shares` has the mean accuracies on parts of the test images, by kind of part ("class",
    "group: ATTRIBUTE", "corruption") and then by the part's name. Shares, including accuracies, are from 0 to 1.
    `results` is the hash of the leaderboard's results, the same in every row.

    Columns have the types in `COLUMNS`: string, Int64 for counts, float64, and object for lists and dicts. A missing
    value is pd.NA, NaN or None, depending on the column's type. A teacher's row has the teacher's architecture as
    `method`, and only the means of metrics.
    """
    return typed(COLUMNS, row_lines(leaderboard))


def to_csv(leaderboard: Leaderboard) -> str:
    """The rows and columns of `to_frame` as CSV without a final line break; lists and dicts are JSON.

    Floats have `DIGITS` significant digits. If students were compressed, rows with the role "compressed" follow the
    others, one for each row of the leaderboard and kind of network, and the columns in `COMPRESSED` follow those of
    `to_frame`.
    """
    compressed = [line for cell in leaderboard.cells for line in _compressed(cell)]
    hashes = {"results": leaderboard.results_hash, "records": leaderboard.records_hash}
    lines = [*row_lines(leaderboard), *({"role": "compressed", **line, **hashes} for line in compressed)]
    return csv_text([*COLUMNS, *(COMPRESSED if compressed else ())], map(rounded, lines))


def typed(columns: Mapping[str, str], found: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """A data frame of rows that are given as values by column. `columns` has the columns in order, with their types in
    pandas; a column that a row lacks is a missing value."""
    import pandas as pd  # here, because pandas takes a second to import

    rows = list(found)
    return pd.DataFrame({name: pd.Series([line.get(name) for line in rows], dtype=kind)
                         for name, kind in columns.items()})


def csv_text(columns: Iterable[str], found: Iterable[Mapping[str, Any]]) -> str:
    """Rows that are given as values by column, as CSV without a final line break. A value that is None or absent is an
    empty cell, and values of other columns are left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for line in found:
        writer.writerow({key: _csv_cell(value) for key, value in line.items()})
    return text.getvalue().removesuffix("\n")


def _csv_cell(value: Any) -> Any:
    """A value as a cell of CSV: lists and dicts as JSON, and text that a spreadsheet would take for a formula behind an
    apostrophe."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def row_lines(leaderboard: Leaderboard) -> Iterator[dict[str, Any]]:
    """The rows of `to_frame` and of the leaderboard's CSV as values by column; a value that is not known is None or
    absent.

    For each cell, the teacher's row comes first if the cell has a teacher, then the rows of its methods in their order.
    """
    for cell in leaderboard.cells:
        if cell.teacher:
            known = cell.teacher.metrics
            yield {"role": "teacher", "method": cell.teacher.architecture, "pair": cell.pair, "dataset": cell.dataset,
                   "cell": cell.id, **{f"{name}_mean": known[name] for name in METRICS if name in known},
                   "shares": _shares(cell.teacher.shares), "results": leaderboard.results_hash,
                   "records": leaderboard.records_hash}
        for row in cell.rows:
            yield {"role": "student", **_row(cell, row), "results": leaderboard.results_hash,
                   "records": leaderboard.records_hash}


def to_json(leaderboard: Leaderboard) -> str:
    """The leaderboard as JSON without a final line break: verdict, teachers, rows, tuning and rankings across cells;
    where there are any, also bias audits, sweeps, compressed networks and correlations of orders. Floats have `DIGITS`
    significant digits."""
    content: dict[str, Any] = {
        "results": leaderboard.results_hash,
        "records": leaderboard.records_hash,
        "suites": leaderboard.suites,
        "verdict": [one._asdict() for one in verdict(leaderboard)],
        "statement": leaderboard.statement,
        "teachers": [_teacher(cell, cell.teacher) for cell in leaderboard.cells if cell.teacher],
        "rows": [_row(cell, row) for cell in leaderboard.cells for row in cell.rows],
        "tuning": [_tuning(cell) for cell in leaderboard.cells if cell.tuning],
        "ranking": None,
    }
    if audited := [_audit(cell) for cell in leaderboard.cells if has_groups(cell)]:
        content["bias_audit"] = audited
    if sweeps := [one for cell in leaderboard.cells for one in _sweeps(cell)]:
        content["sweeps"] = sweeps
    if compressed := [line for cell in leaderboard.cells for line in _compressed(cell)]:
        content["compressed"] = compressed
    if orders := list(_orders(leaderboard)):
        content["orders"] = orders
    for part in leaderboard.regimes():
        if ranking := rank(part):
            found = dataclasses.asdict(ranking)
            if part.cells[0].transfer:
                content.setdefault("ranking_by_regime", {})[part.regime] = found
            else:
                content["ranking_equal_compute" if part.equal_compute else "ranking"] = found
    return json.dumps(rounded(content), indent=1, allow_nan=False)


def rounded(value: Any) -> Any:
    """The value with all floats in it, at any depth, rounded to `DIGITS` significant digits, so that the same records
    give the same text on processors that sum in another order. Tuples become lists."""
    if isinstance(value, float):
        return significant(value, DIGITS)
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _orders(leaderboard: Leaderboard) -> Iterator[dict[str, Any]]:
    """Kendall's tau-b between the order of a cell's methods by test accuracy and another order of the same methods: by
    another metric, or by test accuracy in another cell."""
    for cell in leaderboard.cells:
        place = {"pair": cell.pair, "dataset": cell.dataset, "cell": cell.id}
        for metric, one in by_metric(cell).items():
            yield {**place, "metric": metric, **dataclasses.asdict(one)}
    for first, second, one in between_cells(combinations(leaderboard.cells, 2)):
        yield {"pair": first.pair, "dataset": first.dataset, "cell": first.id, "other_cell": second.id,
               **dataclasses.asdict(one)}


def _teacher(cell: Cell, teacher: Teacher) -> dict[str, Any]:
    return {
        "architecture": teacher.architecture, "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "status": teacher.status, "reason": teacher.reason,
        **{name: teacher.metrics[name] for name in METRICS if name in teacher.metrics},
        "shares": _shares(teacher.shares),
    }


def _audit(cell: Cell) -> dict[str, Any]:
    """The bias audit of a cell whose images have groups: its measures, and the changes by class and by group."""
    def told(one: Finding) -> dict[str, Any]:
        return {"label": one.label, **dataclasses.asdict(one), "added": one.added, "mended": one.mended,
                "worsened": one.worsened}

    return {
        "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "measures": {metric: [told(one) for one in found] for metric, found in audit(cell).items()},
        "rows": [{
            "label": row.label,
            "moved_classes": [cell.class_name(index) for index in row.harm.moved],
            "classes_moved_from_teacher": None if row.harm.moved_from_teacher is None else [
                cell.class_name(index) for index in row.harm.moved_from_teacher],
            "groups": {attribute: [{"group": name, "images": c.images, f"{REFERENCE}_accuracy": c.reference,
                                    "accuracy": c.accuracy, "change": c.change, "p": c.p}
                                   for name, c in zip(group_names(row, attribute), changes, strict=False)]
                       for attribute, changes in row.harm.groups.items()},
        } for row in cell.rows if row.harm],
    }


def _sweeps(cell: Cell) -> Iterator[dict[str, Any]]:
    """The sweeps of a cell (settings of one method that differ in the value of one hyperparameter), each with the
    trends of metrics along it."""
    for sweep in cell.sweeps:
        trends = {metric: per_doubling(cell, sweep, metric) for metric in swept_metrics(cell, sweep)}
        yield {"pair": cell.pair, "dataset": cell.dataset, "cell": cell.id, "method": sweep.method,
               "parameter": sweep.parameter, "values": [value for value, _ in sweep.points],
               "labels": [label for _, label in sweep.points],
               "per_doubling": {metric: dataclasses.asdict(found) for metric, found in trends.items() if found}}


def _tuning(cell: Cell) -> dict[str, Any]:
    """What tuning did to the methods of a cell, and to their order."""
    return {
        "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "methods": [{
            "method": one.choice.method, "status": one.choice.status, "trials": len(one.choice.trials),
            "carried_from": one.choice.carried_from,
            "core_seconds": one.choice.seconds, "default_validation_accuracy": one.choice.default_accuracy,
            "chosen_validation_accuracy": one.choice.accuracy, "claimed_gain": one.claimed,
            "validation_gain": one.validation and dataclasses.asdict(one.validation),
            "test_gain": one.test and dataclasses.asdict(one.test), "optimism": one.optimism,
            "hyperparameters": one.choice.hyperparameters, "recipe": one.choice.recipe,
            "importance": one.choice.importance,
            "expected_best": expected_best([trial.accuracy for trial in one.choice.trials]),
            "trial_accuracies": [trial.accuracy for trial in one.choice.trials],
        } for one in cell.tuning],
        "order": cell.order and dataclasses.asdict(cell.order),
    }


def _row(cell: Cell, row: Row) -> dict[str, Any]:
    """What is known of a row, as values by column; None for a missing value."""
    statuses = [failure.status for failure in row.failures]
    missing, inapplicable = statuses.count("missing"), statuses.count("inapplicable")
    published = of_row(cell, row)
    flat = {
        "method": row.method, "family": row.family, "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
        "hyperparameters": row.hyperparameters, "conditions": list(row.conditions),
        "submission": row.submission,
        "seeds": len(row.seeds), "seed_values": list(row.seeds),
        "failed": len(statuses) - missing - inapplicable, "missing": missing, "inapplicable": inapplicable,
        "failures": [{"seed": f.seed, "status": f.status, "reason": f.reason} for f in row.failures],
        **_estimate("test_accuracy", row.estimate("test_accuracy")),
        "reported_test_accuracy": published.accuracy if published else None,
        "reported_by": published.source if published else None,
        "tier": next((i for i, tier in enumerate(cell.comparisons.tiers, 1) if row.label in tier), None),
    }
    for name in REFERENCES:
        wins = row.wins.get(name)
        flat |= _estimate(f"difference_to_{name}", row.differences.get(name))
        flat |= _moderated(f"difference_to_{name}", cell.comparisons.to.get(name, {}).get(row.label))
        flat |= {f"wins_over_{name}": wins.won if wins else None, f"pairs_with_{name}": wins.pairs if wins else None}
    for name in METRICS:
        flat |= _estimate(name, row.estimate(name))
    flat |= {"training_energy_source": energy_source(cell.costs, "training_energy_joules", row.label),
             "use_energy_source": energy_source(cell.costs, "energy_per_1000_images", row.label)}
    return flat | _comparison(cell, row.harm) | {"shares": _shares(row.shares), "runs": list(row.runs.values())}


def _compressed(cell: Cell) -> Iterator[dict[str, Any]]:
    """What is known of a cell's compressed networks, as values by column: one dict for each row and kind of network."""
    rows = compressed_rows(cell)
    floats = {row.label: row.values("test_accuracy") for row in rows if row.network == FLOAT}
    for row in rows:
        change = paired_difference(row.values("test_accuracy"), floats.get(row.label, {})) \
            if row.network != FLOAT else None
        known = [name for name in METRICS if row.values(name)]
        yield {
            "method": row.method, "family": row.family, "pair": cell.pair, "dataset": cell.dataset, "cell": cell.id,
            "hyperparameters": next(one.hyperparameters for one in cell.rows if one.label == row.label),
            "network": row.network, "seeds": len(row.networks), "seed_values": list(row.networks),
            "failed": sum(one.status != "inapplicable" for one in row.failures.values()),
            "inapplicable": sum(one.status == "inapplicable" for one in row.failures.values()),
            "failures": [{"seed": seed, "status": one.status, "reason": one.reason}
                         for seed, one in row.failures.items()],
            **{key: value for name in (*known, FLOAT_AGREEMENT, *USE)
               for key, value in _estimate(name, row.estimate(name)).items()},
            **_estimate("difference_to_float", change),
            "runs": [one.spec.id for one in row.networks.values()],
        }


def _shares(shares: Shares) -> dict[str, dict[str, float]] | None:
    return {kind: {name: found.mean for name, found in parts.items()} for kind, parts in shares.items()} or None


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {f"{name}_mean": estimate.mean if estimate else None, f"{name}_low": estimate.low if estimate else None,
            f"{name}_high": estimate.high if estimate else None}


def _moderated(name: str, told: Comparison | None) -> dict[str, float | None]:
    values = (told.low, told.high, told.degrees, told.p, told.corrected) if told else (None,) * len(MODERATED)
    return {f"{name}_{part}": value for part, value in zip(MODERATED, values, strict=True)}


def _comparison(cell: Cell, comparison: Harm | None) -> dict[str, Any]:
    """The columns of changes by class and image against the reference; all are None if the comparison is withheld, for
    lack of shared seeds."""
    if comparison is None:
        return dict.fromkeys(("classes_harmed", "classes_helped", "flipped", "flipped_accuracy",
                              f"flipped_{REFERENCE}_accuracy", "most_affected_classes"))
    return {
        "classes_harmed": [cell.class_name(index) for index in comparison.harmed],
        "classes_helped": [cell.class_name(index) for index in comparison.helped],
        "flipped": comparison.flipped, "flipped_accuracy": comparison.flipped_accuracy,
        f"flipped_{REFERENCE}_accuracy": comparison.flipped_reference,
        "most_affected_classes": [
            {"class": cell.class_name(c.index), "images": c.images, f"{REFERENCE}_accuracy": c.reference,
             "accuracy": c.accuracy, "change": c.change, "p": c.p} for c in affected(comparison)[:MOST_AFFECTED]
        ],
    }
