"""Derives independent random streams from one seed."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose. With one `seed`, different purposes get independent streams."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fixed_random(*purpose: str) -> np.random.RandomState:
    """A random stream that depends on the purpose alone, for choices that are part of the definition of a dataset or of
    a measurement. It is a RandomState because NumPy never changes the streams of that class."""
    return np.random.RandomState(derive(0, *purpose) % 2**32)


def fixed_randoms(purpose: str, positions: Iterable[int]) -> Iterator[np.random.RandomState]:
    """The stream `fixed_random(purpose, str(position))` for each position. All are one object that is seeded anew,
    which takes a hundredth of the time of making one, so each must be used before the next is drawn."""
    random = np.random.RandomState(0)
    for position in positions:
        random.seed(derive(0, purpose, str(position)) % 2**32)
        yield random
