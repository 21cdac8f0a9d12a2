"""Corruptions of texts: words are left out, or become unknown as after a typing error.

A corruption maps tokens [B, T], the positions of the texts in the test split [B] and a share of the words to corrupted
tokens [B, T]. Which words it affects depends on the text's position and the share only.
"""

from collections.abc import Callable, Mapping

import numpy as np

from kdbench.data.texts import PADDING, UNKNOWN
from kdbench.seeds import fixed_randoms

SHARES = (0.1, 0.3, 0.5)  # of the words, at severities 1, 3 and 5


def missing_words(tokens: np.ndarray, positions: np.ndarray, share: float) -> np.ndarray:
    """Leave out each word with the probability `share`. A text that would lose all of its words becomes one unknown
    word."""
    found = np.full_like(tokens, PADDING)
    for row, text, taken in zip(found, tokens, _taken(tokens, positions, share, "missing words"), strict=True):
        left = text[(text != PADDING) & ~taken]
        row[:max(1, len(left))] = left if len(left) else UNKNOWN
    return found


def misspelt_words(tokens: np.ndarray, positions: np.ndarray, share: float) -> np.ndarray:
    """Replace each word by the unknown word with the probability `share`."""
    taken = _taken(tokens, positions, share, "misspelt words") & (tokens != PADDING)
    return np.where(taken, np.full_like(tokens, UNKNOWN), tokens)


def _taken(tokens: np.ndarray, positions: np.ndarray, share: float, purpose: str) -> np.ndarray:
    return np.stack([random.uniform(size=tokens.shape[1]) < share for random in fixed_randoms(purpose, positions)])


TEXT_CORRUPTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "missing_words": missing_words, "misspelt_words": misspelt_words}
