"""Pruning of trials: thresholds of validation accuracy below which a run is stopped, from the median of earlier trials.

The rule is that of Vizier (Golovin et al. 2017) and of optuna's MedianPruner: a run is stopped after an epoch if its
highest validation accuracy so far is below the median of the accuracies that earlier trials had after that epoch with
the same seed. The thresholds of a run are known before its batch begins, and depend on earlier batches of the same
study alone. So the same runs are stopped after the same epochs, for any number of workers and after any interruption.
"""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from kdbench.errors import unknown
from kdbench.results.record import Record

PRUNERS = ("off", "median")
# The number of trials that must have finished before one is pruned, as many as a batch has, and the share of the epochs
# at the beginning in which none is pruned: the first accuracies only show how fast a run starts.
MEDIAN = {"first_trials": 4, "warmup": 0.25}

Curve = dict[int, float]  # validation accuracy by epoch, from 1
Thresholds = tuple[tuple[int, float], ...]  # of validation accuracy, by epoch: see `Job.stop_below`


def pruner_settings(pruner: str) -> dict[str, Any]:
    """The settings of a pruner that a study records; empty for "off", so that such studies equal those from before
    there were pruners. UserError for an unknown pruner."""
    if pruner not in PRUNERS:
        raise unknown("pruner", pruner, PRUNERS)
    return {"pruner": pruner, "pruner_settings": MEDIAN} if pruner != "off" else {}


def curve_of(record: Record) -> Curve:
    """The curve of a run's validation accuracy, as far as the run got."""
    epochs, accuracies = (record.curves.get(f"validation_{what}", []) for what in ("epoch", "accuracy"))
    return {int(epoch): accuracy for epoch, accuracy in zip(epochs, accuracies, strict=False)}


def thresholds(earlier: Sequence[Curve], epochs: int) -> Thresholds:
    """The validation accuracies that a run of `epochs` epochs must have reached to be continued, by epoch: the medians
    of the curves of `earlier` trials, which have finished and were run with the same seed. Empty if there are too few;
    there are none for the warm-up and for the last epoch."""
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
    """The share of a run's training steps that pruning saved; 0 for a run that was not pruned."""
    if record.status != "pruned":
        return 0.0
    return 1 - max(curve_of(record)) / record.spec.training.epochs
