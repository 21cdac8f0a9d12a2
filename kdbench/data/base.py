"""Datasets as training and scoring use them: three splits of 8-bit images or of texts.

All images of a split have one size, and all texts one length in tokens. Names and docstrings speak of images. Unless
they say otherwise, texts take the place of images as token tensors [B, T] int64.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdbench.data.catalog import parse


class Images(Protocol):
    """The images of a split, held in memory or decoded on demand."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Tensor:
        """The images at positions `index` [B], as uint8 [B, C, H, W] on the device; texts as int64 [B, T]."""
        ...

    def prefetch(self, index: Tensor) -> None:
        """Announce that the next call is `take(index)`, so that a store that decodes on demand can begin; other stores
        do nothing."""
        del index


class MemoryImages(Images):
    """Images held in one uint8 tensor [N, C, H, W] on the device; or texts, in one int64 tensor [N, T]."""

    def __init__(self, images: Tensor):
        assert (images.dtype, images.dim()) in ((torch.uint8, 4), (torch.int64, 2))
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        return self.images.index_select(0, index.to(self.images.device))


class Joined(Images):
    """Two stores as one: the images of `first`, followed by those of `second`."""

    def __init__(self, first: Images, second: Images):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def take(self, index: Tensor) -> Tensor:
        behind = index >= len(self.first)
        parts = [store.take(part) for store, part in self._parts(index) if len(part)]
        order = torch.argsort(behind.to(torch.uint8), stable=True)  # the place in the batch of each image of `parts`
        images = torch.cat(parts)
        return torch.empty_like(images).index_copy_(0, order.to(images.device), images)

    def prefetch(self, index: Tensor) -> None:
        for store, part in self._parts(index):
            if len(part):
                store.prefetch(part)

    def _parts(self, index: Tensor) -> tuple[tuple[Images, Tensor], tuple[Images, Tensor]]:
        behind = index >= len(self.first)
        return (self.first, index[~behind]), (self.second, index[behind] - len(self.first))


def in_order(images: Images, count: int, batch_size: int) -> Iterator[Tensor]:
    """Yield the first `count` images of a store, in order, in batches [B, C, H, W] of at most `batch_size`. Before a
    batch is yielded, the next one is announced to the store."""
    parts = torch.arange(count).split(batch_size)
    for part, following in zip_longest(parts, parts[1:]):
        batch = images.take(part)
        if following is not None:
            images.prefetch(following)
        yield batch


@dataclass(frozen=True)
class Split:
    """N images with their labels and, for each attribute (such as the tint), the group that each image belongs to."""

    images: Images
    labels: Tensor  # [N], int64, on the device
    groups: Mapping[str, Tensor] = field(default_factory=dict)  # by attribute: codes [N], int64, on the device

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The three splits of a dataset, with its classes, the shape of its images and the statistics that normalise them.

    The images of `train` may be larger than `image_shape`, to leave room for `random_resized_crop`.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    image_shape: tuple[int, ...]       # (C, H, W) of the network's input; for texts (T, V): T tokens, each below V
    mean: Tensor                       # [C], subtracted from pixels that are scaled to 0..1; for texts empty, [0]
    std: Tensor                        # [C], what they are then divided by; for texts empty, [0]
    digest: str                        # SHA-256 over labels, groups and pixels; of a large image folder, over the files
    group_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by attribute: the group of each code
    unlabelled: Images | None = None   # further training images, without labels; as large as those of `train`
    words: tuple[str, ...] = ()        # for texts: the word of each token

    @property
    def attack_radius(self) -> float:
        """The L-infinity radius of attacks on the images, for pixels scaled to 0..1."""
        return parse(self.name).info.attack_radius

    @property
    def small_attack_radius(self) -> float:
        """A second, smaller L-infinity radius of attacks, for pixels scaled to 0..1, within which networks that were
        not trained to be robust still differ in accuracy."""
        return parse(self.name).info.small_attack_radius


def known_of_images(dataset: Dataset) -> dict[str, np.ndarray]:
    """The arrays about a dataset that the metrics of groups and of the long tail need; they are saved with the
    predictions.

    train_class_counts [K]         the number of training images of each class
    and, if test images have attributes:
    group_attributes [A]           the names of the attributes
    group_names [A, G]             the names of each attribute's groups, padded with ""
    test_groups [A, N]             the group of each test image by attribute, as an index into `group_names`
    train_group_counts [A, K, G]   the number of training images by class and group; 0 if they lack the attribute
    """
    classes, train, test = len(dataset.classes), dataset.train, dataset.test
    labels = train.labels.cpu().numpy()
    arrays = {"train_class_counts": np.bincount(labels, minlength=classes)}
    attributes = sorted(test.groups)
    if not attributes:
        return arrays
    width = max(len(dataset.group_names[attribute]) for attribute in attributes)
    counts = np.zeros((len(attributes), classes, width), np.int64)
    for place, attribute in enumerate(attributes):
        if attribute in train.groups:
            np.add.at(counts[place], (labels, train.groups[attribute].cpu().numpy()), 1)
    names = [[*dataset.group_names[a], *[""] * (width - len(dataset.group_names[a]))] for a in attributes]
    return {
        **arrays, "group_attributes": np.array(attributes), "group_names": np.array(names),
        "test_groups": np.stack([test.groups[attribute].cpu().numpy() for attribute in attributes]),
        "train_group_counts": counts,
    }
