"""The arrays that a run saves for metrics: names, shapes and types, checked when they are written and read."""

from collections.abc import Mapping

import numpy as np

Predictions = dict[str, np.ndarray]


PREDICTIONS = ("validation_logits", "validation_labels", "test_logits", "test_labels")


TRAIN_COUNTS = ("train_class_counts",)  # what follows is absent from files of older runs, and groups from most datasets


GROUPS = ("group_attributes", "group_names", "test_groups", "train_group_counts")


def check_predictions(arrays: Mapping[str, np.ndarray]) -> Predictions:
    """The arrays in a fixed order and of fixed types; ValueError if they are not what they should be."""
    groups = GROUPS if set(GROUPS) & set(arrays) else ()
    counts = TRAIN_COUNTS if set(TRAIN_COUNTS) & set(arrays) else ()
    expected = (*PREDICTIONS, *counts, *groups)
    if sorted(arrays) != sorted(expected):
        raise ValueError(f"expected the arrays {', '.join(expected)}, found {', '.join(sorted(arrays)) or 'none'}")
    checked: Predictions = {}
    for split in ("validation", "test"):
        logits = arrays[f"{split}_logits"]
        if logits.ndim != 2 or logits.dtype != np.float32:
            raise ValueError(f"{split}_logits: expected float32 [N, K], found {logits.dtype} {list(logits.shape)}")
        checked[f"{split}_logits"] = np.ascontiguousarray(logits)
        checked[f"{split}_labels"] = _integers(arrays, f"{split}_labels", logits.shape[:1])
    images, classes = checked["test_logits"].shape
    if counts:
        checked["train_class_counts"] = _integers(arrays, "train_class_counts", (classes,))
    return checked | (_check_groups(arrays, images, classes) if groups else {})


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
