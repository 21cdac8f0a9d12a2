"""Determines the splits of a dataset from its name: which images are in each, with their labels and groups.

Images are neither resized nor tinted here.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from kdbench.data import files, imagefolder, skew, texts
from kdbench.data.catalog import DatasetName, parse, unlabelled_path
from kdbench.data.splits import first_of_each, long_tail, stratified, without_validation
from kdbench.errors import UserError
from kdbench.folders import DataFolder
from kdbench.seeds import fixed_random
from kdbench.spec import Transfer

SIDE = 32     # in pixels, of image files that are decoded to be compared
CHUNK = 1024  # files that are decoded at a time


@dataclass(frozen=True)
class Part:
    """One split: N of the M images of a store, chosen by position, with the label, groups and tint of each."""

    images: np.ndarray | Sequence[Path]  # the store: [M, C, H, W] uint8, M files, or tokens [M, T] uint16
    index: np.ndarray                    # [N], the positions in the store
    labels: np.ndarray                   # [N]
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)  # by attribute: codes [N]
    tints: np.ndarray | None = None                                 # [N], codes of tints yet to be applied, if any
    folder: imagefolder.ImageFolder | None = None                   # where the files lie; None for an array

    def __len__(self) -> int:
        return len(self.index)

    @property
    def channels(self) -> int:
        """The number of channels of the images once they are tinted; files are decoded to three."""
        return self.images.shape[1] if isinstance(self.images, np.ndarray) and self.tints is None else 3

    def pick(self, positions: np.ndarray) -> "Part":
        """The part of this split at `positions`, in that order."""
        return replace(
            self, index=self.index[positions], labels=self.labels[positions],
            groups={attribute: codes[positions] for attribute, codes in self.groups.items()},
            tints=None if self.tints is None else self.tints[positions],
        )


@dataclass(frozen=True)
class Collected:
    """The three splits of a dataset, before images are resized or tinted."""

    classes: tuple[str, ...]
    splits: Mapping[str, Part]                     # by name: "train", "validation" and "test"
    group_names: Mapping[str, tuple[str, ...]]     # by attribute: the group of each code
    folder: imagefolder.ImageFolder | None = None  # None for a published dataset
    unlabelled: Part | None = None                 # further training images, without labels or groups
    words: tuple[str, ...] = ()                    # for texts: the word of each token


def check(name: str, folder: Path, train_size: int | None = None, transfer: Transfer | None = None) -> Collected:
    """The splits and unlabelled images that `collect` returns, after checks of an image folder: every image can be
    read, and no image of a folder of unlabelled images is also a validation or test image.

    Missing files of a published dataset are downloaded into the data folder `folder`. UserError if a check or a
    download fails, or `train_size` or `transfer` does not fit the dataset.
    """
    found = collect(parse(name), folder, train_size, transfer)
    if found.folder is not None:
        imagefolder.check_images(found.folder, folder)
    others = None if found.unlabelled is None else found.unlabelled.folder
    if others is not None and others is not found.folder:
        imagefolder.check_images(others, folder)
        _check_overlap(name, found, folder)
    return found


def told(name: str, found: Collected, seen_by_teachers: Sequence[int | None] = ()) -> str:
    """A line about a dataset: the images of each split, the training images of each class, the unlabelled images, and
    the files of an image folder that were skipped because they lack an image's suffix. `seen_by_teachers` holds the
    numbers of training images that teachers see, where None means all of them."""
    of_class = np.bincount(found.splits["train"].labels, minlength=len(found.classes))
    low, high = int(of_class.min()), int(of_class.max())
    each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    counts = {split: f"{len(part):,}" for split, part in found.splits.items()}
    what = "texts" if found.words else "images"
    text = (f"{name}: {counts['train']} training {what}, {each} of each of {len(found.classes)} classes, "
            f"{counts['validation']} for validation, {counts['test']} for the test")
    if seen_by_teachers:
        text += f", {' or '.join('all' if size is None else f'{size:,}' for size in seen_by_teachers)} for teachers"
    if found.unlabelled is not None:
        text += f"; {len(found.unlabelled):,} without labels"
    skipped = found.folder.skipped if found.folder else ()
    if skipped:
        text += (f"; {len(skipped)} file{'s' * (len(skipped) > 1)} with no image's name skipped: "
                 f"{', '.join(skipped[:3])}{', ...' * (len(skipped) > 3)}")
    return text


def fingerprint(name: str) -> str | None:
    """The SHA-256 over an image folder's file names, file sizes and groups.csv; None for a published dataset, which its
    name identifies. UserError if the name is not that of a dataset or the folder cannot be read."""
    path = parse(name).path
    return None if path is None else imagefolder.scan(path).fingerprint


def collect(name: DatasetName, folder: Path, train_size: int | None = None,
            transfer: Transfer | None = None) -> Collected:
    """Determine the splits of a dataset, and the unlabelled images that `transfer` asks for.

    Missing files of a published dataset are downloaded into the data folder `folder`. With `train_size`, only so many
    training images are kept, stratified by class. UserError if the files cannot be obtained, or if a modifier,
    `train_size` or `transfer` does not fit the dataset.

    The steps have a fixed order: validation images are set aside, the long tail is cut, `train_size` training images
    are chosen, tints are assigned. The training images that `train_size` leaves out may serve as unlabelled images:
    they are tinted by the same rule before their labels and groups are dropped.
    """
    found = _image_folder(name.path) if name.path else _published(name, folder)
    modifiers = dict(name.modifiers)
    splits = dict(found.splits)
    if "longtail" in modifiers:
        for split in ("train", "validation"):
            splits[split] = _long_tail(splits[split], len(found.classes), modifiers["longtail"], split)
    rest: Part | None = None
    if train_size is not None:
        chosen, others = stratified(splits["train"].labels, train_size, "train_size")
        rest, splits["train"] = splits["train"].pick(others), splits["train"].pick(chosen)
    group_names = dict(found.group_names)
    if "skew" in modifiers and found.words:
        raise UserError(f"dataset {name}: skew tints images, and {name.base} holds texts; allowed: longtail")
    if "skew" in modifiers:
        for attribute in skew.GROUPS.keys() & group_names:
            raise UserError(f"dataset {name}: {imagefolder.GROUPS_FILE} has a column {attribute!r}, which skew adds")
        group_names |= skew.GROUPS
        splits = {split: _skew(part, modifiers["skew"], split) for split, part in splits.items()}
        rest = rest and _skew(rest, modifiers["skew"], "rest")
    return replace(found, splits=splits, group_names=group_names,
                   unlabelled=None if transfer is None else _unlabelled(transfer, rest))


# Images without labels.

def transfer_fingerprint(images: str) -> str | None:
    """The SHA-256 over the names and sizes of the unlabelled images in "imagefolder:PATH"; None for "rest", the
    training images that a recipe leaves out. UserError for any other string, or if the folder has no images."""
    path = unlabelled_path(images)
    return None if path is None else imagefolder.scan_unlabelled(path).fingerprint


def _unlabelled(transfer: Transfer, rest: Part | None) -> Part:
    """The unlabelled images of `transfer`: those of a user's folder, or `rest`, the training images that `train_size`
    leaves out (None without a `train_size`). All get the label NO_CLASS and no groups. UserError if there are none, or
    fewer than `transfer.size`."""
    path = unlabelled_path(transfer.images)
    if path is not None:
        found = imagefolder.scan_unlabelled(path)
        files = found.paths("unlabelled")
        order = fixed_random("order", "unlabelled").permutation(len(files))
        part = Part(files, order, np.empty(0), folder=found)
    elif rest is None or not len(rest):
        raise UserError("transfer.images: 'rest' is what recipe.train_size leaves over of the training split, and "
                        f"{'that keeps all of it' if rest is not None else 'it is not given'}")
    else:
        part = replace(rest, groups={})  # in a random order already
    size = len(part) if transfer.size is None else transfer.size
    if size > len(part):
        raise UserError(f"transfer.size: {size} is more than the {len(part)} images of {transfer.images}")
    tints = None if part.tints is None else part.tints[:size]
    return replace(part, index=part.index[:size], labels=np.full(size, imagefolder.NO_CLASS), tints=tints)


def _check_overlap(name: str, found: Collected, folder: Path) -> None:
    """Raise UserError if an image of the folder of unlabelled images has the same pixels as a validation or test image.
    If none has, that is noted in the data folder `folder`, and the check is skipped until an image folder changes."""
    pool = found.unlabelled
    assert pool is not None and pool.folder is not None
    state = found.folder.state if found.folder else name
    seen = DataFolder(folder).checked(hashlib.sha256(f"overlap {pool.folder.state} {state}".encode()).hexdigest())
    if seen.exists():
        return
    held = found.splits["validation"].images
    size, grey = (held.shape[-1], held.shape[1] == 1) if isinstance(held, np.ndarray) else (SIDE, False)
    known = {pixels: split for split in ("validation", "test") for pixels in _pixels(found.splits[split], size)}
    twice = [(path, known[pixels]) for path, pixels in zip(pool.folder.paths("unlabelled"), _pixels(
        replace(pool, index=np.arange(len(pool.images))), size, grey), strict=True) if pixels in known]
    if twice:
        path, split = twice[0]
        raise UserError(f"transfer.images: {path} is an image of the {split} split of {name}"
                        + f", and so are {len(twice) - 1} more" * (len(twice) > 1)
                        + ": images that students are judged by must not be trained on")
    with suppress(OSError):  # a folder that cannot be written only has the images compared again
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()


def _pixels(part: Part, size: int, grey: bool = False) -> Iterator[bytes]:
    """Yield the SHA-256 of each image's pixels, before any tint. Images in files are decoded to `size` x `size` first,
    and with `grey` reduced to one channel."""
    if isinstance(part.images, np.ndarray):
        yield from (hashlib.sha256(part.images[i].tobytes()).digest() for i in part.index)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(part), CHUNK):
            files = [part.images[i] for i in part.index[start:start + CHUNK]]
            for image in pool.map(partial(imagefolder.decode, size=size), files):
                pixels = imagefolder.to_grey(image[None]) if grey else image
                yield hashlib.sha256(pixels.tobytes()).digest()


def _published(name: DatasetName, folder: Path) -> Collected:
    """The splits of a dataset that is not an image folder, before modifiers are applied."""
    classes, sizes = name.info.classes, name.info.sizes
    assert classes is not None and sizes is not None
    if name.info.words:
        found = texts.read(name.info, folder)
        splits = {"train": _part(found.train), "test": _part(found.test)}
        return Collected(classes, _with_validation(splits, sizes[0]), {}, words=found.words)
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
    """The splits of the image folder at `root`, before modifiers are applied."""
    found = imagefolder.scan(root)
    splits = {}
    for split, entries in found.splits.items():
        part = Part(found.paths(split), np.arange(len(entries)), np.array([entry.label for entry in entries]),
                    found.groups.get(split, {}), folder=found)
        splits[split] = part.pick(fixed_random("order", split).permutation(len(part)))  # files come class by class
    if "validation" not in splits:
        splits = _with_validation(splits, without_validation(len(splits["train"])))
    return Collected(found.classes, splits, found.group_names, found)


def _with_validation(splits: dict[str, Part], size: int) -> dict[str, Part]:
    """The splits with the training images divided: `size` of them, stratified by class, stay for training, and the
    others become the validation split."""
    train = splits["train"]
    kept, aside = stratified(train.labels, size, "validation")
    return {"train": train.pick(kept), "validation": train.pick(aside), "test": splits["test"]}


def _long_tail(part: Part, classes: int, factor: float, split: str) -> Part:
    """The images of the split `part` that `longtail(factor)` keeps; `split` names the random stream."""
    counts = np.bincount(part.labels, minlength=classes)
    kept, _ = first_of_each(part.labels, long_tail(counts, factor), f"longtail {split}")
    return part.pick(kept)


def _skew(part: Part, share: float, split: str) -> Part:
    """The split with the tints of `skew(share)` and the attributes "tint" and "bias". In the test split, each tint goes
    to half of the images of every class."""
    tints = skew.assign_tints(part.labels, 0.5 if split == "test" else share, f"skew {split}")
    bias = (tints != part.labels % 2).astype(np.int64)
    return replace(part, tints=tints, groups={**part.groups, "tint": tints, "bias": bias})


def _patterns(size: int, split: str) -> files.Arrays:
    """`size` synthetic images [3, 16, 16] with their labels: each is one of ten fixed coarse patterns under noise,
    which differs between splits."""
    patterns = fixed_random("synthetic").randint(0, 256, (10, 3, 4, 4))
    labels = np.arange(size) % 10
    noise = fixed_random("synthetic", split).randint(0, 256, (size, 3, 16, 16))
    coarse = patterns.repeat(4, axis=2).repeat(4, axis=3)[labels]
    return ((2 * coarse + 5 * noise) // 7).astype(np.uint8), labels
