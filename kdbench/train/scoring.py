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
ON_CURVE = 1000       # validation images that a run's curve of validation accuracy is of
CURVE_INTERVALS = 20  # the most that such a curve has


def predictions_of(network: nn.Module, dataset: Dataset, normalise: Normalise, recipe: Recipe) -> Predictions:
    """The arrays that a run saves for metrics. DivergedError if logits are not finite."""
    arrays: Predictions = {}
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        arrays |= _predictions_of(network, name, split, normalise, recipe)
    return arrays | known_of_images(dataset)


def validation_of(network: nn.Module, dataset: Dataset, normalise: Normalise, recipe: Recipe) -> Predictions:
    """The arrays of the validation split alone; the test split is not touched. DivergedError if logits are not
    finite."""
    return _predictions_of(network, "validation", dataset.validation, normalise, recipe)


def _predictions_of(network: nn.Module, name: str, split: Split, normalise: Normalise, recipe: Recipe) -> Predictions:
    logits = predict(network, split, normalise, recipe.image_size)
    if not np.isfinite(logits).all():
        raise DivergedError(f"diverged: the trained network's {name} logits are not finite")
    return {f"{name}_logits": logits, f"{name}_labels": split.labels.cpu().numpy()}


def is_on_curve(epoch: int, epochs: int) -> bool:
    """Whether the curve of validation accuracy has a point after the epoch, counted from 1: after the first, then at
    even intervals, and after the last."""
    return (epoch - 1) % math.ceil(epochs / CURVE_INTERVALS) == 0 or epoch == epochs


class Stop(NamedTuple):
    """Where a run is behind."""

    epoch: int        # after which, counted from 1
    accuracy: float   # the highest on its curve up to there
    threshold: float  # which that is below


def first_stop(curves: Mapping[str, Sequence[float]], stop_below: Sequence[tuple[int, float]]) -> Stop | None:
    """The first point of a curve of validation accuracy after whose epoch the highest accuracy so far is below the
    threshold for that epoch; None if there is none."""
    thresholds, highest = dict(stop_below), 0.0
    for epoch, accuracy in zip(curves.get("validation_epoch", ()), curves.get("validation_accuracy", ()), strict=True):
        highest = max(highest, accuracy)
        if highest < thresholds.get(int(epoch), 0.0):
            return Stop(int(epoch), highest, thresholds[int(epoch)])
    return None


def first_accuracy(network: nn.Module, split: Split, normalise: Normalise, recipe: Recipe) -> float:
    """Accuracy on the split's first images, for the curve of a run."""
    logits = predict(network, split, normalise, recipe.image_size, limit=ON_CURVE)
    return _accuracy(logits, split.labels[:ON_CURVE].cpu().numpy())


def last_accuracy(predictions: Predictions) -> float:
    """What `first_accuracy` is of the network that predicted so."""
    return _accuracy(predictions["validation_logits"][:ON_CURVE], predictions["validation_labels"][:ON_CURVE])


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


@torch.no_grad()
def predict(network: nn.Module, split: Split, normalise: Normalise, image_size: int,
            limit: int | None = None) -> np.ndarray:
    """Logits [N, K], float32, of the split's first `limit` images, in eval mode and without augmentation."""
    was_training = network.training
    network.eval()
    size = len(split) if limit is None else min(limit, len(split))
    logits = [
        network(normalise(center_crop(images, image_size))).logits
        for images in in_order(split.images, size, BATCH)
    ]
    network.train(was_training)
    return torch.cat(logits).float().cpu().numpy()
