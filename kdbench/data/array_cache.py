"""Caches arrays that are slow to compute in files that all processes share.

A file holds the SHA-256 digest of an array (32 bytes), followed by the array in NumPy's .npy format.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from kdbench.disk import atomic_write, open_file

PIECE = 1 << 20  # elements written at a time, so that a large array is not copied whole


def cached(file: Path, build: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `file`; if that is missing or damaged, call `build` and write its result there.

    If the file cannot be written, the array is returned all the same.
    """
    with suppress(OSError, ValueError):
        return read(file)
    array = np.ascontiguousarray(build())
    with suppress(OSError):
        write(file, array)
    return array


def read(file: Path) -> np.ndarray:
    """The array in `file`. ValueError if the file is damaged, OSError if it cannot be read."""
    try:
        with os.fdopen(open_file(file), "rb") as stream:
            digest, array = stream.read(32), np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:  # a damaged header may announce any size
        raise ValueError(f"{file} holds no array: {error}") from error
    if _sha256(array) != digest:
        raise ValueError(f"{file} is damaged: the array does not match its digest")
    return array


def write(file: Path, array: np.ndarray) -> None:
    """Write a C-contiguous array to `file`, behind its digest. OSError if the file cannot be written."""
    atomic_write(file, _content(array), sync=False)  # the digest reveals damage by a power cut


def _content(array: np.ndarray) -> Iterator[bytes]:
    """Yield the content of the file of a C-contiguous array in pieces: digest, header and elements."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    yield _sha256(array)
    yield header.getvalue()
    flat = array.reshape(-1)
    yield from (flat[start:start + PIECE].tobytes() for start in range(0, len(flat), PIECE))


def _sha256(array: np.ndarray) -> bytes:
    """The digest of a C-contiguous array's type, shape and elements."""
    total = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    total.update(array.data)
    return total.digest()
