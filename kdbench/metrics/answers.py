"""A compact form, for records, of the class that a network predicts for each test image.

Images are sorted by label and group. Labels and groups are then stored as numbers of images, and the predictions are
long runs of one class, which zlib compresses to a fraction of a byte per image. Records of the same images hold them in
the same order.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct

from kdbench.metrics.metric import Predictions

WIDTHS = (1, 2, 4)  # bytes that store one class: 1 for up to 256 classes, 2 for up to 65,536
MOST = 2**24  # most images that are read, so that no file can make a process allocate gigabytes
Count = Annotated[int, Meta(ge=0, le=MOST)]


class Answers(Struct, frozen=True, forbid_unknown_fields=True):
    """The predicted classes of N test images. The images are sorted by label, then by the code of their group for each
    attribute in turn, then by their position in the dataset."""

    images: tuple[tuple[Count, ...], ...]  # per combination of label and groups: label, codes, number of images
    classes: str                           # base64 of zlib of N little-endian integers of 1, 2 or 4 bytes


@dataclass(frozen=True)
class ReadAnswers:
    """The content of `Answers` as arrays with one entry per image, in the order of `Answers`."""

    labels: np.ndarray   # [N]
    classes: np.ndarray  # [N], the predicted classes
    groups: np.ndarray   # [A, N]: the code of each image's group of each of A attributes


def answers(known: Predictions) -> Answers:
    """The `Answers` of a run, from its saved arrays. The prediction for an image is the class with the highest of its
    test logits [N, K], the lowest such class if several are equally high."""
    logits, labels = known["test_logits"], known["test_labels"]
    codes = known.get("test_groups", np.empty((0, len(labels)), np.int64))   # [A, N]
    order = np.lexsort([*codes[::-1], labels])
    strata, counts = np.unique(np.vstack([labels, codes]), axis=1, return_counts=True)
    width = next(width for width in WIDTHS if logits.shape[1] <= 256**width)
    classes = logits.argmax(axis=1)[order].astype(f"<u{width}").tobytes()
    return Answers(tuple((*stratum, count) for stratum, count in zip(strata.T.tolist(), counts.tolist(), strict=True)),
                   base64.b64encode(zlib.compress(classes, 9)).decode())


def read_answers(found: Answers) -> ReadAnswers:
    """Decode answers into arrays with one entry per image. ValueError with a one-line message if they are damaged or
    hold more than `MOST` images."""
    if len(kinds := set(map(len, found.images))) != 1 or min(kinds) < 2:
        raise ValueError("expected a label, the code of each group and a number of images in every row")
    strata = np.array(found.images, np.int64)
    images = int(strata[:, -1].sum())
    if images > MOST:
        raise ValueError(f"{images} images, at most {MOST} are read")
    content = _decompressed(found.classes, images * max(WIDTHS))
    width = len(content) // images if images else 0
    if width not in WIDTHS or len(content) != width * images:
        raise ValueError(f"{len(content)} bytes for {images} images, expected 1, 2 or 4 for each")
    by_image = np.repeat(strata[:, :-1], strata[:, -1], axis=0).T
    return ReadAnswers(by_image[0], np.frombuffer(content, f"<u{width}").astype(np.int64), by_image[1:])


def _decompressed(text: str, most: int) -> bytes:
    """The content of zlib data that is given as base64 text. ValueError if the text is damaged or holds more than
    `most` bytes."""
    try:
        one = zlib.decompressobj()
        content = one.decompress(base64.b64decode(text, validate=True), most + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(str(error)) from error
    if not one.eof or len(content) > most:
        raise ValueError(f"cut short, or longer than the {most} bytes that their images can take")
    return content
