"""A dataset's name to its splits, chosen and biased but not yet sized. Free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kdbench.data import files, imagefolder, variants
from kdbench.data.catalog import DatasetName, parse
from kdbench.data.splits import first_of_each, long_tail, stratified, without_validation
from kdbench.errors import UserError
from kdbench.seeds import fixed_random


@dataclass(frozen=True)
class Part:
    """One split: the images at `index` [N] of a store, and what is known of each."""

    images: np.ndarray | Sequence[Path]  # [M, C, H, W] uint8, or files
    index: np.ndarray
    labels: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)  # by attribute: codes [N]
    tints: np.ndarray | None = None                                 # [N], where the images are to be tinted

    def __len__(self) -> int:
        return len(self.index)

    @property
    def channels(self) -> int:
        return self.images.shape[1] if isinstance(self.images, np.ndarray) and self.tints is None else 3

    def pick(self, positions: np.ndarray) -> "Part":
        return replace(
            self, index=self.index[positions], labels=self.labels[positions],
            groups={attribute: codes[positions] for attribute, codes in self.groups.items()},
            tints=None if self.tints is None else self.tints[positions],
        )


@dataclass(frozen=True)
class Collected:
    classes: tuple[str, ...]
    splits: Mapping[str, Part]                  # train, validation, test
    group_names: Mapping[str, tuple[str, ...]]  # by attribute: what its codes stand for
    folder: imagefolder.ImageFolder | None = None


def check(name: str, folder: Path, train_size: int | None = None) -> None:
    """See that a dataset can be had and read, downloading it into the data folder if need be; UserError if not."""
    found = collect(parse(name), folder, train_size)
    if found.folder is not None:
        imagefolder.check_images(found.folder, folder)


def fingerprint(name: str) -> str | None:
    """SHA-256 of the file names and sizes of an image folder; None for a published dataset."""
    path = parse(name).path
    return None if path is None else imagefolder.scan(path).fingerprint


def collect(name: DatasetName, folder: Path, train_size: int | None = None) -> Collected:
    """The splits of a dataset whose published files lie, or shall lie, in the data folder. The order of what is
    done: validation is set aside, the long tail is cut, `train_size` images are chosen, tints are given."""
    found = _image_folder(name.path) if name.path else _published(name, folder)
    modifiers = dict(name.modifiers)
    splits = dict(found.splits)
    if "longtail" in modifiers:
        for split in ("train", "validation"):
            splits[split] = _long_tail(splits[split], modifiers["longtail"], split)
    if train_size is not None:
        chosen, _ = stratified(splits["train"].labels, train_size, "train_size")
        splits["train"] = splits["train"].pick(chosen)
    group_names = dict(found.group_names)
    if "skew" in modifiers:
        for attribute in variants.GROUPS.keys() & group_names:
            raise UserError(f"dataset {name}: {imagefolder.GROUPS_FILE} has a column {attribute!r}, which skew adds")
        group_names |= variants.GROUPS
        splits = {split: _skew(part, modifiers["skew"], split) for split, part in splits.items()}
    return replace(found, splits=splits, group_names=group_names)


def _published(name: DatasetName, folder: Path) -> Collected:
    classes, sizes = name.info.classes, name.info.sizes
    assert classes is not None and sizes is not None
    if name.base == "mnist5k":
        whole = _part(files.mnist5k(folder))
        rest, test = stratified(whole.labels, sum(sizes[:2]), "test")
        splits = {"train": whole.pick(rest), "test": whole.pick(test)}
    elif name.base == "fashion_mnist":
        splits = {split: _part(arrays) for split, arrays in files.fashion_mnist(folder).items()}
    elif name.base == "synthetic":
        splits = {split: _part(_patterns(size, split)) for split, size in
                  (("train", sum(sizes[:2])), ("test", sizes[2]))}
    else:
        splits = {split: _part(arrays) for split, arrays in files.cifar(name.base, folder).items()}
    return Collected(classes, _with_validation(splits, sizes[0]), {})


def _part(arrays: files.Arrays) -> Part:
    images, labels = arrays
    return Part(images, np.arange(len(images)), labels)


def _image_folder(root: Path) -> Collected:
    found = imagefolder.scan(root)
    splits = {}
    for split, entries in found.splits.items():
        part = Part(found.paths(split), np.arange(len(entries)), np.array([entry.label for entry in entries]),
                    found.groups.get(split, {}))
        splits[split] = part.pick(fixed_random("order", split).permutation(len(part)))  # files stand class by class
    if "validation" not in splits:
        splits = _with_validation(splits, without_validation(len(splits["train"])))
    return Collected(found.classes, splits, found.group_names, found)


def _with_validation(splits: dict[str, Part], size: int) -> dict[str, Part]:
    """Keep `size` training images and set the others aside for validation."""
    train = splits["train"]
    kept, aside = stratified(train.labels, size, "validation")
    return {"train": train.pick(kept), "validation": train.pick(aside), "test": splits["test"]}


def _long_tail(part: Part, factor: float, split: str) -> Part:
    kept, _ = first_of_each(part.labels, long_tail(np.bincount(part.labels), factor), f"longtail {split}")
    return part.pick(kept)


def _skew(part: Part, share: float, split: str) -> Part:
    tints = variants.assign_tints(part.labels, 0.5 if split == "test" else share, f"skew {split}")
    bias = (tints != part.labels % 2).astype(np.int64)
    return replace(part, tints=tints, groups={**part.groups, "tint": tints, "bias": bias})


def _patterns(size: int, split: str) -> files.Arrays:
    """Images of ten fixed coarse patterns under noise."""
    patterns = fixed_random("synthetic").randint(0, 256, (10, 3, 4, 4))
    labels = np.arange(size) % 10
    noise = fixed_random("synthetic", split).randint(0, 256, (size, 3, 16, 16))
    coarse = patterns.repeat(4, axis=2).repeat(4, axis=3)[labels]
    return ((coarse + 3 * noise) // 4).astype(np.uint8), labels
