"""Variants of a dataset with a known bias, deterministic and available for every dataset. Free of torch.

`+longtail(factor)` chooses images (`splits.long_tail`). `+skew(share)` tints them: after CIFAR-10S (Wang et al., 2020)
and Colored MNIST (Arjovsky et al., 2019), the tint says much of the class in training and nothing in the test split.
"""

import numpy as np

from kdbench.data.splits import first_of_each

GROUPS = {
    "tint": ("warm", "cool"),
    "bias": ("aligned", "conflicting"),  # whether the tint is the one that most of the class has in a skewed training
}
FACTORS = np.array([[256, 160, 96], [96, 160, 256]])  # of red, green and blue in each tint, in 256ths


def assign_tints(labels: np.ndarray, share: float, purpose: str) -> np.ndarray:
    """The tint of each image [N]: for classes of even number, `share` of the images are warm and the rest cool; for
    the others it is the other way round. Exact in each class, up to rounding."""
    rare = np.floor((1 - share) * np.bincount(labels) + 0.5 + 1e-6).astype(np.int64)
    against, _ = first_of_each(labels, rare, purpose)
    tints = labels % 2
    tints[against] = 1 - tints[against]
    return tints


def tint(images: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """Colour images [B, 1 or 3, H, W] uint8 by their tints [B]: [B, 3, H, W] uint8."""
    factors = FACTORS[tints][:, :, None, None].astype(np.uint16)
    return ((images * factors + np.uint16(128)) >> 8).astype(np.uint8)
