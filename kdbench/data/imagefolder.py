"""Reads a user's own images from a folder that holds train/ and test/ or val/, each with a folder of images per class.

If there are both test/ and val/, val/ is the validation split. If there is only one of them, it is the test split, and
a tenth of train/ is set aside for validation. An optional file groups.csv gives attributes of images: its column `file`
names an image, such as "test/cat/1.jpg", and each further column is an attribute.
"""

import csv
import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from kdbench.errors import UserError
from kdbench.folders import DataFolder

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".pbm", ".pgm", ".ppm", ".tif", ".tiff"}
GROUPS_FILE = "groups.csv"
NO_CLASS = -1         # the label of an image that has none
NAMED = 5             # images that an error message names at most
DECODE_ALL = 1 << 30  # the size of an image folder, in bytes, up to which a check decodes every image
# The formats of SUFFIXES. Pillow recognises a format by the content, and would pass some others to other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
MAX_PIXELS = 1 << 26    # of an image; decoding takes up to 16 bytes per pixel
LARGE_PIXELS = 1 << 23  # larger images are decoded one at a time, to save memory
_large = Lock()
T = TypeVar("T")
warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # from Pillow; they are refused here anyway


@dataclass(frozen=True)
class File:
    """An image file."""

    path: str  # below the root, with forward slashes
    label: int     # NO_CLASS where there is none
    size: int      # bytes
    modified: int  # nanoseconds since 1970


@dataclass(frozen=True)
class ImageFolder:
    """The image files of a folder by split, with the groups of the images if the folder has a groups.csv."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, list[File]]  # "train", "test", perhaps "validation"; or "unlabelled"; sorted by path
    groups: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # by split and attribute: codes [N]
    group_names: dict[str, tuple[str, ...]] = field(default_factory=dict)   # by attribute: the group of each code
    skipped: tuple[str, ...] = ()  # the paths of the files that lack an image's suffix

    def files(self) -> Iterator[File]:
        """The files of all splits."""
        for split in self.splits.values():
            yield from split

    def paths(self, split: str) -> list[Path]:
        return [self.root / file.path for file in self.splits[split]]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 over the paths (below the root) and sizes of the files, and over groups.csv. It stays the same
        when the folder is moved."""
        return self._digest(f"{file.path}\0{file.size}" for file in self.files())

    @property
    def state(self) -> str:
        """The SHA-256 over the folder's path, the names, sizes and modification times of the files, and groups.csv. It
        changes whenever the images do, so that results computed from them can be kept under it."""
        return self._digest([str(self.root.resolve()), *(f"{f.path}\0{f.size}\0{f.modified}" for f in self.files())])

    def _digest(self, lines: Iterable[str]) -> str:
        total = hashlib.sha256()
        for line in sorted(lines):
            total.update(line.encode("utf-8", "surrogateescape") + b"\0")
        if (self.root / GROUPS_FILE).is_file():
            total.update((self.root / GROUPS_FILE).read_bytes())
        return total.hexdigest()


# Finding the files.

def scan(root: Path) -> ImageFolder:
    """Find the image files of a dataset in a folder, without opening them. UserError if the folder cannot be read, or
    is not laid out as a dataset."""
    root = _existing(root)
    train, test, validation = (root / name for name in ("train", "test", "val"))
    if not train.is_dir() or not (test.is_dir() or validation.is_dir()):
        raise UserError(f"image folder {root}: expected train/ and test/ or val/ in it, found "
                        f"{', '.join(_folders(root)) or 'no folders'}")
    places = {"train": train, "test": test if test.is_dir() else validation}
    if test.is_dir() and validation.is_dir():
        places["validation"] = validation
    classes = _folders(train)
    if len(classes) < 2:
        raise UserError(f"image folder {train}: expected a folder of images for each of two or more classes, found "
                        f"{', '.join(classes) or 'none'}")
    skipped: list[str] = []
    splits = {split: _files(root, place, classes, skipped) for split, place in places.items()}
    _check_counts(splits, places, classes)
    groups, names = _read_groups(root, splits)
    return ImageFolder(root, tuple(classes), splits, groups, names, tuple(sorted(skipped)))


def scan_unlabelled(root: Path) -> ImageFolder:
    """Find all image files in a folder and its subfolders, without opening them, as the split "unlabelled". UserError
    if the folder cannot be read or has no images."""
    root = _existing(root)
    paths = sorted(path for parent, _, names in os.walk(root) for path in (Path(parent) / name for name in names)
                   if not path.name.startswith("."))
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not images:
        raise UserError(f"image folder {root}: no images ({', '.join(sorted(SUFFIXES))}) in it")
    reads = (partial(_file, path.relative_to(root).as_posix(), path, NO_CLASS) for path in images)
    skipped = [path.relative_to(root).as_posix() for path in paths if path.suffix.lower() not in SUFFIXES]
    return ImageFolder(root, (), {"unlabelled": list(_readable(root, reads))}, skipped=tuple(skipped))


def _existing(root: Path) -> Path:
    try:
        root = root.expanduser()
        if not root.is_dir():
            raise UserError(f"image folder {root}: no such folder")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder to put in place of "~"
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"image folder {str(root)[:200]}: cannot be read: {reason}") from error
    return root


def _folders(place: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden folders are left out."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, place: Path, classes: list[str], skipped: list[str]) -> list[File]:
    """The image files of the split in the folder `place`, sorted by path. The paths of its other files, except hidden
    ones, are added to `skipped`. UserError if its class folders are not `classes`, those of train/."""
    found = _folders(place)
    if found != classes:
        odd = sorted(set(found) ^ set(classes))[0]
        raise UserError(f"image folder {place}: class folder {odd!r} is {'only here' if odd in found else 'missing'}; "
                        f"every split must have the classes of train/")
    paths = [(Path(parent) / file, label) for label, name in enumerate(classes)
             for parent, _, names in os.walk(place / name) for file in names]
    named = sorted((path.relative_to(root).as_posix(), path, label) for path, label in paths
                   if not path.name.startswith("."))
    images = [one for one in named if one[1].suffix.lower() in SUFFIXES]
    skipped += [text for text, path, _ in named if path.suffix.lower() not in SUFFIXES]
    return list(_readable(root, (partial(_file, *image) for image in images)))


def _readable(root: Path, reads: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the result of each call in `reads`, where a call raises UserError if an image cannot be read. Such errors
    are raised after the last call, as one UserError that names the first NAMED images and counts the others: a user
    then learns of all unreadable images at once, and not of one per attempt."""
    problems: list[str] = []
    more = 0
    for read in reads:
        try:
            yield read()
        except UserError as error:
            if len(problems) < NAMED:
                problems.append(str(error))
            else:
                more += 1
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"image folder {root}: {len(problems) + more} images cannot be read: {'; '.join(problems)}"
                        + f"; and {more} more" * bool(more))


def _file(name: str, path: Path, label: int) -> File:
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would keep its reader waiting for ever
        raise UserError(f"{path}: cannot be read as an image: it is a pipe, socket or device, and no file")
    return File(name, label, found.st_size, found.st_mtime_ns)


def _check_counts(splits: dict[str, list[File]], places: dict[str, Path], classes: list[str]) -> None:
    """Raise UserError if a split has no images, or if a class has too few training images: at least one is needed, and
    a second one to set aside if there is no validation split."""
    for split, files in splits.items():
        if not files:
            raise UserError(f"image folder {places[split]}: no images ({', '.join(sorted(SUFFIXES))}) in it")
    needed = 1 if "validation" in splits else 2
    counts = np.bincount([file.label for file in splits["train"]], minlength=len(classes))
    if counts.min() < needed:
        name = classes[int(counts.argmin())]
        raise UserError(f"image folder {places['train'] / name}: {counts.min()} images, expected at least {needed}"
                        + (", one of them for validation" if needed == 2 else ""))


# Attributes.

def _read_groups(root: Path, splits: dict[str, list[File]]) \
        -> tuple[dict[str, dict[str, np.ndarray]], dict[str, tuple[str, ...]]]:
    """The groups that groups.csv assigns to images: their codes [N] by split and attribute, and their names by
    attribute. Both are empty if there is no such file, and a split of which it lists no image has no codes. UserError
    if it lists only a part of a split, or no image of the test split."""
    path = root / GROUPS_FILE
    if not path.is_file():
        return {}, {}
    table = _read_table(path, {file.path for files in splits.values() for file in files})
    attributes = list(next(iter(table.values())))
    names = {attribute: tuple(sorted({row[attribute] for row in table.values()})) for attribute in attributes}
    groups = {}
    for split, files in splits.items():
        unlisted = [file.path for file in files if file.path not in table]
        if unlisted and (split == "test" or len(unlisted) < len(files)):
            raise UserError(f"{path}: {unlisted[0]!r} is not listed, nor are {len(unlisted) - 1} other images of its "
                            f"split; list all of a split, and at least the test split")
        if not unlisted:
            groups[split] = {
                attribute: np.array([names[attribute].index(table[file.path][attribute]) for file in files], np.int64)
                for attribute in attributes
            }
    return groups, names


def _read_table(path: Path, known: set[str]) -> dict[str, dict[str, str]]:
    """The rows of groups.csv by image file, each as values by attribute. `known` holds the paths of all image files.
    UserError, with the line where one is at fault, if the columns are not `file` and then attributes, each named once;
    if a file is not in `known` or is listed twice; if a value is missing; or if no image is listed."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            if columns[:1] != ["file"] or len(columns) < 2 or len(set(columns)) < len(columns) or "" in columns:
                raise UserError(f"{path}:1: expected the column 'file' and then attributes, each once, found "
                                f"{', '.join(map(repr, columns)) or 'nothing'}")
            table: dict[str, dict[str, str]] = {}
            for row in reader:
                where, name = f"{path}:{reader.line_num}", row.pop("file")
                if name not in known:
                    raise UserError(f"{where}: no image {name!r} in {path.parent}; write it as 'test/cat/1.jpg'")
                if name in table:
                    raise UserError(f"{where}: {name!r} is listed twice")
                if None in row or not all(row.values()):
                    raise UserError(f"{where}: expected a value for each of {', '.join(columns)}")
                table[name] = row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from error
    if not table:
        raise UserError(f"{path}: lists no images")
    return table


# Decoding.

def decode(path: Path, size: int) -> np.ndarray:
    """The central square of an image file as RGB [3, size, size] uint8, resized bilinearly with antialiasing. The image
    is first rotated as its EXIF data say, and transparent parts are put on white. UserError if it cannot be read."""
    from PIL import Image, ImageOps

    with _opened(path) as image, _large if image.width * image.height > LARGE_PIXELS else nullcontext():
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
        side = min(rgb.size)
        left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
        square = rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        return np.asarray(square).transpose(2, 0, 1)


def to_grey(images: np.ndarray) -> np.ndarray:
    """The luma [N, 1, H, W] uint8 (ITU-R 601, as in Pillow) of RGB images [N, 3, H, W] uint8. Where all three channels
    are equal, it is their value."""
    weights = np.array([299, 587, 114], np.uint32)
    return ((np.einsum("nchw,c->nhw", images, weights, dtype=np.uint32)[:, None] + 500) // 1000).astype(np.uint8)


@contextmanager
def _opened(path: Path) -> "Iterator[Image.Image]":
    """Open an image file, of which only the header is read at first. Any exception but MemoryError that is raised while
    it is in use, and an image of more than MAX_PIXELS, become a UserError that names the file."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, expected at most {MAX_PIXELS} pixels; "
                                 f"save it smaller")
            yield image
    except MemoryError:
        raise
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise UserError(f"{path}: cannot be read as an image: {error or type(error).__name__}") from error


def _to_rgb(image: "Image.Image") -> "Image.Image":
    """The image in 8-bit RGB, with transparent parts put on white. ValueError for an image with 32 bits per pixel in
    one channel, because the range of its values is unknown."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion would clip it to 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits per pixel; save it with 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def check_images(images: ImageFolder, folder: Path) -> None:
    """Check that every image can be read, and raise a UserError that names images that cannot.

    A successful check is noted in the data folder `folder`, and is not repeated until the image folder's state changes.
    In an image folder of more than DECODE_ALL bytes only the headers of the files are read; other damage shows in
    training.
    """
    seen = DataFolder(folder).checked(images.state)
    if seen.exists():
        return
    small = sum(file.size for file in images.files()) <= DECODE_ALL
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = [pool.submit(_check_image, images.root / file.path, small) for file in images.files()]
        try:
            for _ in _readable(images.root, (check.result for check in checks)):
                pass
        except BaseException:  # such as Ctrl-C
            pool.shutdown(cancel_futures=True)
            raise
    try:
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    except OSError:
        pass  # they are checked again next time


def _check_image(path: Path, whole: bool) -> None:
    """Raise UserError if an image file cannot be decoded or, without `whole`, its header cannot be read."""
    if whole:
        decode(path, 8)
    else:
        with _opened(path):
            pass
