"""The arrays that a run saves for metrics: names, shapes and types, checked when they are written and read."""

import io
import math
import zipfile
from collections.abc import Collection, Mapping

import numpy as np

Predictions = dict[str, np.ndarray]


PREDICTIONS = ("validation_logits", "validation_labels", "test_logits", "test_labels")


TRAIN_COUNTS = ("train_class_counts",)  # older files lack these and GROUPS; those of most datasets lack GROUPS


GROUPS = ("group_attributes", "group_names", "test_groups", "train_group_counts")


def read_npz(content: bytes) -> Predictions:
    """The checked arrays in the bytes of an npz file. Raises ValueError, with a message of one line, if they are
    damaged or announce more data than they hold, so that reading takes no more memory than a few times the size of the
    file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            _check_names(found)
            return check_predictions({name: _read_array(archive, member) for name, member in found.items()})
    except Exception as error:  # damaged bytes make zipfile and numpy raise nearly anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """The array in a member of an npz file. Raises ValueError if the member is compressed, not in version 1 of the npy
    format, or does not hold as many bytes as its header announces."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename}: compressed, expected it as it is")
    file = io.BytesIO(archive.read(member))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{member.filename}: expected version 1 of the npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    announced, there = math.prod(shape) * dtype.itemsize, len(file.getbuffer()) - file.tell()
    if min(shape, default=0) < 0 or announced != there:
        raise ValueError(f"{member.filename}: announces {dtype} {list(shape)}, {announced} bytes, but holds {there}")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def check_predictions(arrays: Mapping[str, np.ndarray]) -> Predictions:
    """The arrays in a fixed order, with float32 logits and int64 labels, counts and group codes. Raises ValueError for
    missing or unknown names, other shapes or types, and labels or codes out of range."""
    counts, groups = _check_names(arrays)
    checked: Predictions = {}
    for split in ("validation", "test"):
        logits = arrays[f"{split}_logits"]
        if logits.ndim != 2 or logits.dtype != np.float32:
            raise ValueError(f"{split}_logits: expected float32 [N, K], found {logits.dtype} {list(logits.shape)}")
        checked[f"{split}_logits"] = np.ascontiguousarray(logits)
        labels = checked[f"{split}_labels"] = _integers(arrays, f"{split}_labels", logits.shape[:1])
        if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
            raise ValueError(f"{split}_labels: from {labels.min()} to {labels.max()}, but there are "
                             f"{logits.shape[1]} classes")
    images, classes = checked["test_logits"].shape
    if counts:
        checked["train_class_counts"] = _integers(arrays, "train_class_counts", (classes,))
    return checked | (_check_groups(arrays, images, classes) if groups else {})


def _check_names(names: Collection[str]) -> tuple[bool, bool]:
    """Whether the arrays TRAIN_COUNTS and the arrays GROUPS are among the names. Raises ValueError for a missing or
    unknown array."""
    counts, groups = (bool(set(some) & set(names)) for some in (TRAIN_COUNTS, GROUPS))
    expected = (*PREDICTIONS, *(TRAIN_COUNTS if counts else ()), *(GROUPS if groups else ()))
    if sorted(names) != sorted(expected):
        found = ", ".join(sorted(names))[:200] or "none"
        raise ValueError(f"expected the arrays {', '.join(expected)}, found {found}")
    return counts, groups


def _check_groups(arrays: Mapping[str, np.ndarray], images: int, classes: int) -> Predictions:
    attributes, names = arrays["group_attributes"], arrays["group_names"]
    if attributes.ndim != 1 or names.ndim != 2 or attributes.dtype.kind != "U" or names.dtype.kind != "U":
        raise ValueError(f"group_attributes and group_names: expected text [A] and [A, G], found {attributes.dtype} "
                         f"{list(attributes.shape)} and {names.dtype} {list(names.shape)}")
    codes = _integers(arrays, "test_groups", (len(attributes), images))
    for attribute, own, row in zip(attributes, codes, (names != "").sum(axis=1), strict=True):
        if images and not 0 <= own.min() <= own.max() < row:
            raise ValueError(f"test_groups: the codes of {attribute} reach from {own.min()} to {own.max()}, allowed: "
                             f"0 to {row - 1}")
    return {"group_attributes": attributes, "group_names": names, "test_groups": codes,
            "train_group_counts": _integers(arrays, "train_group_counts", (len(attributes), classes, names.shape[1]))}


def _integers(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = arrays[name]
    if found.shape != shape or found.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers {list(shape)}, found {found.dtype} {list(found.shape)}")
    return np.ascontiguousarray(found, np.int64)
