"""Recomputes the metrics of finished runs from their saved predictions, so that a new metric needs no new training."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.metrics.answers import answers
from kdbench.metrics.catalog import METRICS, score, vectors
from kdbench.metrics.groups import group_names
from kdbench.results.predictions import Predictions
from kdbench.results.record import Problem, Record, as_recorded
from kdbench.results.store import Store
from kdbench.spec import TrainedTeacher, teacher_id

ReadTeacher = Callable[[str, bool], Predictions]


@dataclass(frozen=True)
class Evaluation:
    """How many records were changed by recomputing their metrics, how many were not, and why others could not be
    evaluated."""

    changed: int
    unchanged: int
    problems: tuple[str, ...]


def evaluate(folder: Path, cache: CacheFolder) -> Evaluation:
    """Recompute the metrics of all finished runs of a folder, and rewrite the records that change. UserError if the
    folder has no records or is in use; problems with single runs are returned."""
    store = Store(folder)
    if not store.files.records.is_dir():
        raise store.no_records()
    changed, unchanged, problems = 0, 0, []
    with store.lock():
        teacher = _teachers(store, Store(cache.teachers))
        for found in store.scan():
            if isinstance(found, Problem):
                problems.append(f"{found.path}: {found.reason}")
            elif found.status == "ok" and found.role != "trial":  # trials keep no predictions
                try:
                    scored = _scored(store, found, teacher)
                except UserError as error:
                    problems.append(str(error))
                    continue
                if scored == found:
                    unchanged += 1
                else:
                    changed += 1
                    store.write(scored)
    return Evaluation(changed, unchanged, tuple(dict.fromkeys(problems)))  # each once: many runs share a teacher


def _scored(store: Store, record: Record, teacher: ReadTeacher) -> Record:
    """The record with the metrics of its predictions recomputed; other metrics, such as robustness, are kept. UserError
    if the predictions of the run or of its teacher cannot be used."""
    kept = {name: value for name, value in record.metrics.items() if name not in METRICS or not METRICS[name].compute}
    predictions, name = store.read_predictions(record.run_id, record.predictions_sha256), teacher_id(record.spec)
    trained = isinstance(record.spec.teacher, TrainedTeacher)
    metrics = as_recorded({**score(predictions, teacher(name, trained) if name else None), **kept}, record.spec.device)
    return msgspec.structs.replace(record, metrics=metrics, vectors={**record.vectors, **vectors(predictions)},
                                   groups=group_names(predictions), answers=answers(predictions))


def _teachers(store: Store, cached: Store) -> ReadTeacher:
    """A function that reads a teacher's predictions from the folder, or else from the cache. It keeps those of the last
    two teachers, since most runs share a teacher.

    The function takes the teacher's id, and whether kdbench trained the teacher. If so, the predictions must be those
    that the teacher's record names. UserError if they are not, if there is no usable record, or if the predictions are
    missing or damaged.
    """

    @lru_cache(maxsize=2)
    def read(name: str, trained: bool) -> Predictions:
        here = store.files.predictions(name).exists() or not cached.files.predictions(name).exists()
        holder = store if here else cached
        return holder.read_predictions(name, _digest(name) if trained else None)

    def _digest(name: str) -> str:
        found = [place.get(name) for place in (store, cached)]
        digests = [one.predictions_sha256 for one in found if isinstance(one, Record)]
        if not digests or digests[0] is None:
            reason = next((one.reason for one in found if isinstance(one, Problem)), "it is missing")
            raise UserError(f"{store.files.record(name)}: no usable record of the teacher, whose predictions are "
                            f"compared with: {reason}")
        return digests[0]

    return read
