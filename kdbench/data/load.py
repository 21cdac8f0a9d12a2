"""Loads a dataset for a recipe: images resized and tinted, in memory or decoded on demand; texts cut to length."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data.array_cache import cached
from kdbench.data.base import Dataset, Images, MemoryImages, Split, in_order
from kdbench.data.catalog import parse
from kdbench.data.collect import Collected, Part, collect
from kdbench.data.imagefolder import decode, to_grey
from kdbench.data.skew import tint
from kdbench.data.texts import LONGEST
from kdbench.errors import UserError
from kdbench.folders import DataFolder
from kdbench.spec import Recipe, Transfer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_STD = 0.1  # in levels of 0..255, so that a channel without contrast is not divided by zero
CROP_MARGIN = 8 / 7  # side of the images kept for `random_resized_crop`, in sides of the network's input
THREADS = min(4, os.cpu_count() or 1)  # threads that decode image files
CHUNK = 1024  # images that are decoded or counted at a time
DIGESTED_BYTES = 4e9  # of decoded images, up to which the digest of an image folder is over all pixels


def load_dataset(name: str, recipe: Recipe, folder: Path, device: torch.device,
                 transfer: Transfer | None = None) -> Dataset:
    """Load the dataset `name` with images of the size that the recipe needs, and the unlabelled images that `transfer`
    asks for. Labels, groups and images that are kept in memory are on `device`.

    Missing files of a published dataset are downloaded into the data folder `folder`, where decoded images are cached.
    An image folder whose images would take more memory than KDBENCH_MEMORY_GB (default 4) is decoded on demand, which
    gives the same images bit for bit. The dataset's digest does not depend on that: it is over labels, groups and
    pixels or, for an image folder of more than DIGESTED_BYTES of decoded images, over the files' paths and sizes.
    UserError if the dataset cannot be read or does not fit the recipe or `transfer`.
    """
    found = collect(parse(name), folder, recipe.train_size, transfer)
    if found.words:
        return _text_dataset(str(parse(name)), found, recipe, device, transfer)
    channels, size = _channels(found, recipe), recipe.image_size
    sides = {"train": round(size * CROP_MARGIN) if "random_resized_crop" in recipe.augment else size,
             "validation": size, "test": size}
    on_demand = found.folder is not None and _bytes(found, sides) > _memory_budget()
    load = _on_demand if on_demand else _in_memory
    images, level_counts, pixel_digest = load(found, sides, channels, folder, device)
    if found.folder is not None and _bytes(found, sides) > DIGESTED_BYTES:
        digest = found.folder.fingerprint
    else:
        digest = pixel_digest()
    unlabelled, digest = _unlabelled(found, sides, channels, folder, device, digest)
    mean, std = mean_and_std(level_counts()) if recipe.normalise == "train" else (IMAGENET_MEAN, IMAGENET_STD)
    splits = {split: _split(images[split], part, device) for split, part in found.splits.items()}
    return Dataset(
        str(parse(name)), found.classes, splits["train"], splits["validation"], splits["test"],
        (channels, size, size), torch.tensor(mean), torch.tensor(std), digest, found.group_names, unlabelled,
    )


class DataShape(NamedTuple):
    """The sizes of a dataset that are known without its images, for networks to be built and checked by."""

    num_classes: int
    image_shape: tuple[int, ...]
    num_train: int
    attributes: tuple[str, ...] = ()  # of the training images, in the dataset's order


def shape_of(name: str, recipe: Recipe, folder: Path, transfer: Transfer | None = None) -> DataShape:
    """The shape of the dataset that `load_dataset` would return, with the same UserErrors. An image folder is loaded on
    the CPU for it, which caches its decoded images; images of a published dataset are neither resized nor tinted."""
    if parse(name).path is not None:
        dataset = load_dataset(name, recipe, folder, torch.device("cpu"), transfer)
        return DataShape(len(dataset.classes), dataset.image_shape, len(dataset.train), tuple(dataset.train.groups))
    found = collect(parse(name), folder, recipe.train_size, transfer)
    if found.words:
        _check_for_texts(name, recipe, transfer)
        shape: tuple[int, ...] = (recipe.image_size, len(found.words))
    else:
        shape = (_channels(found, recipe), recipe.image_size, recipe.image_size)
    train = found.splits["train"]
    return DataShape(len(found.classes), shape, len(train.labels), tuple(train.groups))


def _text_dataset(name: str, found: Collected, recipe: Recipe, device: torch.device,
                  transfer: Transfer | None) -> Dataset:
    """The dataset of texts as tokens [N, T], where T is the recipe's `image_size`: longer texts lose their end.
    UserError if the recipe or `transfer` does not fit texts."""
    _check_for_texts(name, recipe, transfer)
    parts = {**found.splits, **({} if found.unlabelled is None else {"unlabelled": found.unlabelled})}
    tokens = {which: part.images[part.index, :recipe.image_size] for which, part in parts.items()
              if isinstance(part.images, np.ndarray)}
    stores = {which: MemoryImages(torch.from_numpy(array.astype(np.int64)).to(device))
              for which, array in tokens.items()}
    splits = {split: _split(stores[split], part, device) for split, part in found.splits.items()}
    digest = _digest({split: Pixels(tokens[split].shape, (tokens[split],)) for split in splits}, found)
    if found.unlabelled is not None:
        digest = _joined(digest, _sha256((tokens["unlabelled"],)))
    return Dataset(name, found.classes, splits["train"], splits["validation"], splits["test"],
                   (recipe.image_size, len(found.words)), torch.zeros(0), torch.zeros(0), digest,
                   found.group_names, stores.get("unlabelled"), found.words)


def _check_for_texts(name: str, recipe: Recipe, transfer: Transfer | None) -> None:
    """Raise UserError if the recipe or transfer set has a setting for images only, or asks for too long texts."""
    where = f"{name} holds texts"
    if transfer is not None and transfer.images != "rest":
        raise UserError(f"transfer.images: {transfer.images!r} is a folder of images, and {where}; allowed: 'rest'")
    if recipe.augment:
        raise UserError(f"recipe.augment: {', '.join(map(repr, recipe.augment))}: changes images, and {where}; "
                        "allowed: none")
    if recipe.normalise != "train":
        raise UserError(f"recipe.normalise: {recipe.normalise!r} is said of images, and {where}; allowed: 'train', "
                        "which leaves tokens as they are")
    if recipe.image_size > LONGEST:
        raise UserError(f"recipe.image_size: {recipe.image_size} tokens, and {where}, of which at most {LONGEST} "
                        "tokens are kept")


# Images by split, and two functions: the counts of the levels of the training images, and the digest of all pixels.
Loaded = tuple[Mapping[str, Images], Callable[[], np.ndarray], Callable[[], str]]


def _in_memory(found: Collected, sides: Mapping[str, int], channels: int, folder: Path, device: torch.device) -> Loaded:
    """All images, decoded and on the device."""
    arrays = {split: _pixels(part, sides[split], channels, folder) for split, part in found.splits.items()}
    images = {split: MemoryImages(torch.from_numpy(array).to(device)) for split, array in arrays.items()}
    pixels = {split: Pixels(array.shape, _chunks(array)) for split, array in arrays.items()}
    return images, lambda: _level_counts(_chunks(arrays["train"])), lambda: _digest(pixels, found)


def _on_demand(found: Collected, sides: Mapping[str, int], channels: int, folder: Path, device: torch.device) -> Loaded:
    """The images of an image folder, decoded each time they are taken. Counts and digest are cached in the data
    folder."""
    assert found.folder is not None and channels == 3
    images = {split: FileImages(part, sides[split], channels, device) for split, part in found.splits.items()}

    def level_counts() -> np.ndarray:
        file = _file(folder, found.splits["train"], sides["train"], "counts")
        return cached(file, lambda: _level_counts(_decoded_chunks(images["train"])))

    def digest() -> str:
        pixels = {split: Pixels((len(part), channels, sides[split], sides[split]), _decoded_chunks(images[split]))
                  for split, part in found.splits.items()}
        names = [_file(folder, part, sides[split], split).name for split, part in found.splits.items()]
        return _cached_digest(DataFolder(folder).decoded(f"{_joined(*names)[:16]}-digest"),
                              lambda: _digest(pixels, found))

    return images, level_counts, digest


def _unlabelled(found: Collected, sides: Mapping[str, int], channels: int, folder: Path, device: torch.device,
                digest: str) -> tuple[Images | None, str]:
    """The unlabelled images (None if there are none), and the digest over those and `digest`, the digest of the splits.
    Image files are decoded on demand if they need more memory than the splits of an image folder leave free; what the
    digest is over depends on DIGESTED_BYTES in the same way."""
    part = found.unlabelled
    if part is None:
        return None, digest
    side, taken = sides["train"], _bytes(found, sides) if found.folder else 0
    size = 3 * len(part) * side**2 + taken
    images: Images
    if part.folder is not None and size > _memory_budget():
        images = FileImages(part, side, channels, device)
        chunks = _decoded_chunks(images)
    else:
        pixels = _pixels(part, side, channels, folder)
        images, chunks = MemoryImages(torch.from_numpy(pixels).to(device)), _chunks(pixels)
    if part.folder is None:
        return images, _joined(digest, _sha256(chunks))
    if size > DIGESTED_BYTES:
        return images, _joined(digest, part.folder.fingerprint)
    file = _file(folder, part, side, f"{channels}-digest")
    return images, _joined(digest, _cached_digest(file, lambda: _sha256(chunks)))


def _joined(*digests: str) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


class FileImages(Images):
    """Images that are decoded from files each time they are taken; `prefetch` decodes images ahead, in a thread."""

    def __init__(self, part: Part, size: int, channels: int, device: torch.device):
        self.part, self.size, self.channels, self.device = part, size, channels, device
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[np.ndarray, Future[np.ndarray]] | None = None

    def __len__(self) -> int:
        return len(self.part)

    def take(self, index: Tensor) -> Tensor:
        positions, ahead = index.cpu().numpy(), self._ahead
        if ahead is not None and np.array_equal(ahead[0], positions):
            pixels, self._ahead = ahead[1].result(), None
        else:
            pixels = self._read(positions)
        return torch.from_numpy(pixels).to(self.device)

    def prefetch(self, index: Tensor) -> None:
        positions = index.cpu().numpy()
        self._ahead = positions, self._thread.submit(self._read, positions)

    def _read(self, positions: np.ndarray) -> np.ndarray:
        part = self.part.pick(positions)
        return _with_channels(_tinted(part, _sized(part, self.size)), self.channels)


# Pixels.

def _channels(found: Collected, recipe: Recipe) -> int:
    return 3 if recipe.normalise == "imagenet" else found.splits["train"].channels


def _pixels(part: Part, size: int, channels: int, folder: Path) -> np.ndarray:
    """All images of a split, [N, channels, size, size] uint8. Images that are decoded from files are cached in the data
    folder, where other processes find them."""
    if part.folder is None:
        images = _sized(part, size)
    else:
        images = cached(_file(folder, part, size, "pixels", tinted=False), partial(_sized, part, size))
    return _with_channels(_tinted(part, images), channels)


def _with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images [N, 1 or 3, H, W] uint8 with `channels` channels: grey ones are repeated, colour ones turned to grey."""
    if images.shape[1] == channels:
        return images
    return to_grey(images) if channels == 1 else images.repeat(channels, axis=1)


def _file(folder: Path, part: Part, size: int, what: str, tinted: bool = True) -> Path:
    """The path of the cache file for an array that is computed from the images of a split and, if `tinted`, from their
    tints. Its name changes with the image folder's state."""
    assert part.folder is not None
    made_of = hashlib.sha256(part.folder.state.encode())
    for i in part.index:
        made_of.update(f"{part.images[i]}\0".encode("utf-8", "surrogateescape"))
    if tinted and part.tints is not None:
        made_of.update(part.tints.tobytes())
    return DataFolder(folder).decoded(f"{made_of.hexdigest()[:16]}-{size}-{what}")


def _sized(part: Part, size: int) -> np.ndarray:
    """The images of a split before they are tinted, [N, C, size, size] uint8."""
    if isinstance(part.images, np.ndarray):
        return resize(part.images[part.index], size)
    return _decoded([part.images[i] for i in part.index], size)


def _tinted(part: Part, images: np.ndarray) -> np.ndarray:
    """The images [N, 1 or 3, H, W] of a split in their tints, [N, 3, H, W]; unchanged if the split has no tints."""
    return images if part.tints is None else tint(images, part.tints)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize square images [N, C, H, H] uint8 to [N, C, size, size], bilinear with antialiasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(torch.from_numpy(images), size=(size, size), mode="bilinear", antialias=True).numpy()


def _decoded(paths: Sequence[Path], size: int) -> np.ndarray:
    """The images in files as [N, 3, size, size] uint8, decoded by several threads."""
    images = np.empty((len(paths), 3, size, size), np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), CHUNK):
            for i, image in enumerate(pool.map(partial(decode, size=size), paths[start:start + CHUNK]), start):
                images[i] = image
    return images


def _bytes(found: Collected, sides: Mapping[str, int]) -> int:
    """The memory in bytes that all splits of an image folder take once they are decoded."""
    return sum(3 * len(part) * sides[split] ** 2 for split, part in found.splits.items())


def _memory_budget() -> float:
    """The memory in bytes for decoded images, from KDBENCH_MEMORY_GB (default 4). UserError if that is not a number."""
    given = os.environ.get("KDBENCH_MEMORY_GB", "4")
    try:
        return float(given) * 1e9
    except ValueError:
        raise UserError(f"KDBENCH_MEMORY_GB: expected a number, got {given!r}") from None


# Statistics.

def _level_counts(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """How many pixels of each channel have each of the 256 levels, [C, 256], over all images [B, C, H, W]."""
    counts = (np.stack([np.bincount(channel.ravel(), minlength=256) for channel in chunk.swapaxes(0, 1)])
              for chunk in chunks)
    return np.add.reduce(list(counts))


def mean_and_std(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each channel [C], for pixels scaled to 0..1, from the counts of their 256
    levels [C, 256]. The standard deviation is at least LEAST_STD levels. Both come from sums of integers, which do not
    depend on the order of the images."""
    levels = np.arange(256)
    total = counts.sum(1)
    mean = (counts * levels).sum(1) / total
    variance = (counts * levels**2).sum(1) / total - mean**2
    return (mean / 255).tolist(), (np.sqrt(variance.clip(LEAST_STD**2)) / 255).tolist()


class Pixels(NamedTuple):
    """The images of a split, or its tokens, to compute a digest from."""

    shape: tuple[int, ...]         # of all of them
    chunks: Iterable[np.ndarray]   # they, in order, in arrays along the first axis


def _digest(pixels: Mapping[str, Pixels], found: Collected) -> str:
    """The SHA-256 over the labels, attributes and pixels of all splits."""
    total = hashlib.sha256()
    for split, part in found.splits.items():
        total.update(f"{split} {pixels[split].shape} {sorted(part.groups)}".encode() + part.labels.tobytes())
        for attribute in sorted(part.groups):
            total.update(part.groups[attribute].tobytes())
        for chunk in pixels[split].chunks:
            total.update(np.ascontiguousarray(chunk).data)
    return total.hexdigest()


def _sha256(chunks: Iterable[np.ndarray]) -> str:
    total = hashlib.sha256()
    for chunk in chunks:
        total.update(np.ascontiguousarray(chunk).data)
    return total.hexdigest()


def _cached_digest(file: Path, build: Callable[[], str]) -> str:
    """The hexadecimal digest in `file`; if that is missing or damaged, what `build` returns, which is written there."""
    return cached(file, lambda: np.frombuffer(bytes.fromhex(build()), np.uint8)).tobytes().hex()


def _chunks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    return (pixels[start:start + CHUNK] for start in range(0, len(pixels), CHUNK))


def _decoded_chunks(images: Images) -> Iterator[np.ndarray]:
    return (batch.cpu().numpy() for batch in in_order(images, len(images), CHUNK))


def _split(images: Images, part: Part, device: torch.device) -> Split:
    """The split with its labels and groups on the device."""
    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).long().to(device)

    return Split(images, tensor(part.labels), {attribute: tensor(codes) for attribute, codes in part.groups.items()})
