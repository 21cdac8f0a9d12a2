"""What the runs of a trial must have reached to be continued: the median of earlier trials.

The rule is that of Vizier (Golovin et al. 2017) and of optuna's MedianPruner: a run ends after an epoch if its highest
validation accuracy so far is below the median of what earlier trials had after that epoch, with the same seed. What a
run is compared with is known before its batch begins, and is from earlier batches of the same study alone. So the same
runs end after the same epochs, for any number of workers and whatever was killed.
"""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from kdbench.errors import unknown
from kdbench.results.record import Record

PRUNERS = ("off", "median")
# Trials that must have ended well before one is pruned, as many as a batch has, and the share of the epochs in which
# none is: the first accuracies tell how fast a run starts.
MEDIAN = {"first_trials": 4, "warmup": 0.25}

Curve = dict[int, float]  # validation accuracy by epoch, from 1
Thresholds = tuple[tuple[int, float], ...]  # of validation accuracy, by epoch: see `Job.stop_below`


def pruner_settings(pruner: str) -> dict[str, Any]:
    """What a study records of its pruner: nothing without one, as studies did before there was any. UserError for an
    unknown one."""
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    return {"pruner": pruner, "pruner_settings": MEDIAN} if pruner != "off" else {}


def curve_of(record: Record) -> Curve:
    """The curve of a run, as far as it came."""
    epochs, accuracies = (record.curves.get(f"validation_{what}", []) for what in ("epoch", "accuracy"))
    return {int(epoch): accuracy for epoch, accuracy in zip(epochs, accuracies, strict=False)}


def thresholds(earlier: Sequence[Curve], epochs: int) -> Thresholds:
    """After which epochs a run of so many must have reached which accuracy: the median of the curves of earlier trials
    that ended well, all with the seed of the run."""
    if len(earlier) < MEDIAN["first_trials"]:
        return ()
    return tuple((epoch, median(curve[epoch] for curve in earlier)) for epoch in _shared(earlier)
                 if MEDIAN["warmup"] * epochs < epoch < epochs)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves at the epochs that all of them have."""
    return {epoch: fmean(curve[epoch] for curve in curves) for epoch in _shared(curves)}


def _shared(curves: Sequence[Curve]) -> list[int]:
    return sorted(set.intersection(*map(set, curves)))


def share_saved(record: Record) -> float:
    """The share of a run's steps that it did not take since it was pruned."""
    if record.status != "pruned":
        return 0.0
    return 1 - max(curve_of(record)) / record.spec.training.epochs
