"""Chooses images by class, with fixed seeds: stratified subsets and long tails.

Chosen positions come in a random order, so that the first n of them are a random sample too. The argument `purpose`
names the random stream: the same labels and purpose always give the same choice.
"""

import numpy as np

from kdbench.errors import UserError
from kdbench.seeds import fixed_random


def without_validation(size: int) -> int:
    """How many of `size` training images remain when a tenth, but at least one, is set aside for validation, as is done
    for datasets without a validation split."""
    return size - max(1, round(size / 10))


def stratified(labels: np.ndarray, size: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Split the positions in `labels` [N] in two: `size` positions that hold every class in proportion and at least
    once, and the others. UserError if `size` is too large or too small for that."""
    return first_of_each(labels, allocate(np.bincount(labels), size), purpose)


def first_of_each(labels: np.ndarray, quotas: np.ndarray, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Split the positions in `labels` [N] in two: `quotas[c]` random ones of each class c, and the others."""
    order = fixed_random(purpose).permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    counts = np.bincount(labels, minlength=len(quotas))
    rank = np.empty(len(labels), np.int64)  # of each position among those of its class, in the random order
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < quotas[labels[order]]
    return order[chosen], order[~chosen]


def allocate(counts: np.ndarray, size: int) -> np.ndarray:
    """How many images to take of each class [K]: `size` in all, in proportion to `counts` [K] by largest remainders,
    with at least one of each class that has any. UserError if `size` is too large or too small for that."""
    _check_size(counts, size)
    total = int(counts.sum())
    quotas, remainders = np.divmod(counts * size, total)
    raised = (quotas == 0) & (counts > 0)
    quotas[raised], remainders[raised] = 1, 0
    missing = size - int(quotas.sum())
    if missing > 0:
        quotas[np.argsort(-remainders, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # the most frequent classes give up what the rarest got beyond their share
        quotas[quotas.argmax()] -= 1
    return quotas


def _check_size(counts: np.ndarray, size: int) -> None:
    """Raise UserError unless `size` images, at least one of each class, can be taken of `counts` [K]."""
    total, classes = int(counts.sum()), int((counts > 0).sum())
    if size > total:
        raise UserError(f"train_size: {size} is more than the {total} images of the training split")
    if size < classes:
        raise UserError(f"train_size: {size} is less than one image for each of the {classes} classes")


def long_tail(counts: np.ndarray, factor: float) -> np.ndarray:
    """How many images of each class [K] to keep of `counts` [K], so that the numbers fall exponentially and the first
    class has `factor` times as many as the last (Cui et al., 2019): n_c = max(counts) factor^(-c / (K - 1)), but at
    least one and at most all."""
    if len(counts) < 2:
        return counts
    wanted = counts.max() * factor ** (-np.arange(len(counts)) / (len(counts) - 1))
    return np.minimum(counts, np.maximum(1, np.floor(wanted + 1e-6).astype(np.int64)))
