"""A dataset as the engine sees it: three splits of sized 8-bit images, held decoded or decoded on demand."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Images(Protocol):
    """Any store of images: `take` gives those at positions `index` [B] as uint8 [B, C, H, W]."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Tensor: ...

    def prefetch(self, index: Tensor) -> None:
        """A hint that `take(index)` comes next: a slow store may begin."""
        del index


class MemoryImages(Images):
    """Images held in one uint8 tensor [N, C, H, W] on the device."""

    def __init__(self, images: Tensor):
        assert images.dtype == torch.uint8 and images.dim() == 4
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> Tensor:
        return self.images.index_select(0, index.to(self.images.device))


def in_order(images: Images, count: int, batch_size: int) -> Iterator[Tensor]:
    """The first `count` images in batches; a slow store fetches the next batch while one is used."""
    parts = torch.arange(count).split(batch_size)
    for part, following in zip_longest(parts, parts[1:]):
        batch = images.take(part)
        if following is not None:
            images.prefetch(following)
        yield batch


@dataclass(frozen=True)
class Split:
    images: Images
    labels: Tensor  # [N], int64, on the device
    groups: Mapping[str, Tensor] = field(default_factory=dict)  # by attribute, such as a tint: codes [N], int64

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """`train` images may be larger than `image_shape` says, to leave room for `random_resized_crop`."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    image_shape: tuple[int, int, int]  # (C, H, W) of the network's input
    mean: Tensor                       # [C], of pixels in 0..1
    std: Tensor                        # [C]
    digest: str                        # SHA-256 over the labels and pixels (or files) of all splits
    group_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by attribute: what its codes stand for


def known_of_images(dataset: Dataset) -> dict[str, np.ndarray]:
    """What group and long-tail metrics need beside predictions, as arrays: training images by class [K]; and where
    test images have attributes, their names [A], the groups' names [A, G] (filled up with ""), the test images' codes
    [A, N], and training images by class and group [A, K, G] (all 0 for an attribute that training images lack)."""
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
