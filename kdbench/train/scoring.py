"""A network's logits on the validation and test splits."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from kdbench.data.base import Dataset, Split, in_order, known_of_images
from kdbench.data.stream import Normalise, center_crop
from kdbench.results.predictions import Predictions
from kdbench.spec import Recipe
from kdbench.train.trainer import DivergedError

BATCH = 250           # images in a forward pass
ON_CURVE = 1000       # first validation images, on which the curve of validation accuracy is measured
CURVE_INTERVALS = 20  # maximum number of intervals between the points of such a curve


def predictions_of(network: nn.Module, dataset: Dataset, normalise: Normalise, recipe: Recipe) -> Predictions:
    """The logits and labels of the validation and test splits, and what metrics need to know of the dataset, as the
    arrays that a run saves. DivergedError if logits are not finite."""
    arrays: Predictions = {}
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        arrays |= _predictions_of(network, name, split, normalise, recipe)
    return arrays | known_of_images(dataset)


def validation_of(network: nn.Module, dataset: Dataset, normalise: Normalise, recipe: Recipe) -> Predictions:
    """The logits and labels of the validation split alone; the test split is not read. DivergedError if logits are not
    finite."""
    return _predictions_of(network, "validation", dataset.validation, normalise, recipe)


def _predictions_of(network: nn.Module, name: str, split: Split, normalise: Normalise, recipe: Recipe) -> Predictions:
    logits = predict(network, split, normalise, recipe.image_size)
    if not np.isfinite(logits).all():
        raise DivergedError(f"diverged: the trained network's {name} logits are not finite")
    return {f"{name}_logits": logits, f"{name}_labels": split.labels.cpu().numpy()}


def is_on_curve(epoch: int, epochs: int) -> bool:
    """Whether the curve of validation accuracy has a point after this epoch, counted from 1: it has one after the first
    epoch, then at even intervals, and after the last."""
    return (epoch - 1) % math.ceil(epochs / CURVE_INTERVALS) == 0 or epoch == epochs


class Stop(NamedTuple):
    """The point at which a run's validation accuracy is too low for it to be continued."""

    epoch: int        # the epoch, counted from 1, after which the accuracy was too low
    accuracy: float   # the highest on the run's curve up to that epoch
    threshold: float  # the accuracy that the run should have reached


def first_stop(curves: Mapping[str, Sequence[float]], stop_below: Sequence[tuple[int, float]]) -> Stop | None:
    """The first point of a curve of validation accuracy at which the highest accuracy so far is below the threshold for
    that epoch; None if there is none. `stop_below` has the thresholds as pairs of epoch and accuracy."""
    thresholds, highest = dict(stop_below), 0.0
    for epoch, accuracy in zip(curves.get("validation_epoch", ()), curves.get("validation_accuracy", ()), strict=True):
        highest = max(highest, accuracy)
        if highest < thresholds.get(int(epoch), 0.0):
            return Stop(int(epoch), highest, thresholds[int(epoch)])
    return None


def first_accuracy(network: nn.Module, split: Split, normalise: Normalise, recipe: Recipe) -> float:
    """Accuracy on the split's first `ON_CURVE` images, for the curve of validation accuracy."""
    logits = predict(network, split, normalise, recipe.image_size, limit=ON_CURVE)
    return _accuracy(logits, split.labels[:ON_CURVE].cpu().numpy())


def last_accuracy(predictions: Predictions) -> float:
    """Accuracy on the first `ON_CURVE` validation images by a network's saved predictions: what `first_accuracy`
    measures of the same network."""
    return _accuracy(predictions["validation_logits"][:ON_CURVE], predictions["validation_labels"][:ON_CURVE])


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


@torch.no_grad()
def predict(network: nn.Module, split: Split, normalise: Normalise, image_size: int,
            limit: int | None = None) -> np.ndarray:
    """Logits [N, K], float32, of the split's first `limit` images (None: all), in eval mode and without
    augmentation."""
    was_training = network.training
    network.eval()
    size = len(split) if limit is None else min(limit, len(split))
    logits = [
        network(normalise(center_crop(images, image_size))).logits
        for images in in_order(split.images, size, BATCH)
    ]
    network.train(was_training)
    return torch.cat(logits).float().cpu().numpy()
