"""The modifier `+skew(share)`, which tints images by class; the same dataset always gets the same tints.

As in CIFAR-10S (Wang et al., 2020) and Colored MNIST (Arjovsky et al., 2019), the tint of an image tells much about its
class in the training split and nothing in the test split.
"""

import numpy as np

from kdbench.data.splits import first_of_each

GROUPS = {  # the attributes that a skewed dataset has, and their groups by code
    "tint": ("warm", "cool"),
    "bias": ("aligned", "conflicting"),  # whether the tint is that of most training images of the class
}
FACTORS = np.array([[256, 160, 96], [96, 160, 256]])  # of red, green and blue in each tint, in 256ths


def assign_tints(labels: np.ndarray, share: float, purpose: str) -> np.ndarray:
    """The tint of each image, as a code [N] of `GROUPS["tint"]`, by its label [N]. In a class with an even number,
    `share` of the images are warm and the others cool; in a class with an odd number it is the other way round. Shares
    are exact in each class, up to rounding. `purpose` names the random stream."""
    rare = np.floor((1 - share) * np.bincount(labels) + 0.5 + 1e-6).astype(np.int64)
    against, _ = first_of_each(labels, rare, purpose)
    tints = labels % 2
    tints[against] = 1 - tints[against]
    return tints


def tint(images: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """Tint images [B, 1 or 3, H, W] uint8 by codes `tints` [B] of `GROUPS["tint"]`; returns [B, 3, H, W] uint8."""
    factors = FACTORS[tints][:, :, None, None].astype(np.uint16)
    return ((images * factors + np.uint16(128)) >> 8).astype(np.uint8)
