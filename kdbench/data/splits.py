"""Which images go where: stratified parts of a split, by fixed seeds. Free of torch.

Chosen positions come in a random order, so that the first n of them are a fair sample too.
"""

import numpy as np

from kdbench.errors import UserError
from kdbench.seeds import fixed_random

TENTH = 10  # validation is this fraction of train where a dataset brings no validation split


def without_validation(size: int) -> int:
    """How many of `size` training images remain when a tenth is set aside."""
    return size - max(1, round(size / TENTH))


def stratified(labels: np.ndarray, size: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """`size` positions with every class in proportion and at least once, and the remaining positions."""
    return first_of_each(labels, allocate(np.bincount(labels), size), purpose)


def first_of_each(labels: np.ndarray, quotas: np.ndarray, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Random `quotas[c]` positions of each class c, and the remaining positions."""
    order = fixed_random(purpose).permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    counts = np.bincount(labels, minlength=len(quotas))
    rank = np.empty(len(labels), np.int64)  # of each position among those of its class, in the random order
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < quotas[labels[order]]
    return order[chosen], order[~chosen]


def allocate(counts: np.ndarray, size: int) -> np.ndarray:
    """Share `size` out over classes in proportion to `counts`, by largest remainders, at least one for each that is
    not empty. UserError if that cannot be."""
    check_size(counts, size)
    total = int(counts.sum())
    quotas, remainders = np.divmod(counts * size, total)
    raised = (quotas == 0) & (counts > 0)
    quotas[raised], remainders[raised] = 1, 0
    missing = size - int(quotas.sum())
    if missing > 0:
        quotas[np.argsort(-remainders, kind="stable")[:missing]] += 1
    for _ in range(-missing):  # what the rarest classes got beyond their share, the most frequent ones give
        quotas[quotas.argmax()] -= 1
    return quotas


def check_size(counts: np.ndarray, size: int) -> None:
    total, classes = int(counts.sum()), int((counts > 0).sum())
    if size > total:
        raise UserError(f"train_size: {size} is more than the {total} images of the training split")
    if size < classes:
        raise UserError(f"train_size: {size} is less than one image for each of the {classes} classes")


def long_tail(counts: np.ndarray, factor: float) -> np.ndarray:
    """How many images of each class to keep, so that their numbers fall exponentially and the first class has `factor`
    times as many as the last (Cui et al., 2019): n_c = max(counts) factor^(-c / (K - 1)), at least one, at most all."""
    if len(counts) < 2:
        return counts
    wanted = counts.max() * factor ** (-np.arange(len(counts)) / (len(counts) - 1))
    return np.minimum(counts, np.maximum(1, np.floor(wanted + 1e-6).astype(np.int64)))
