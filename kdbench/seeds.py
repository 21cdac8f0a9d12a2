"""Independent random streams out of one seed."""

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; other purposes of the same seed give unrelated streams."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fixed_random(*purpose: str) -> np.random.RandomState:
    """A random stream that is part of a dataset's definition. RandomState, since NumPy never changes its streams."""
    return np.random.RandomState(derive(0, *purpose) % 2**32)
