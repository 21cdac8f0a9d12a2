"""Suites and pairs: their models, and how they are read from TOML files."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from kdbench.data.catalog import DatasetName, parse, unlabelled_path
from kdbench.errors import UserError, nearest, unknown
from kdbench.plugins.source import FAMILIES
from kdbench.spec import MAX_SEED, MAX_UPDATES, NAME, Architecture, Frozen, Recipe, Value
from kdbench.suites.validation import validate

PAIRS = "pairs.toml"  # the built-in pairs, beside the suites

MAX_BYTES = 1 << 16  # of a suite's file: tomllib's time grows with the square of a dotted key's length
MAX_SEEDS = 1000     # of a suite


class TeacherSide(Architecture):
    """A pair's teacher and where its weights come from: "train" (kdbench trains it from scratch), "hub:TAG" (the
    weights that timm publishes under this tag) or "file:PATH". With "train:hub:TAG" or "train:file:PATH", kdbench
    trains it further from those weights."""

    weights: str = "train"

    @field_validator("weights")
    @classmethod
    def _known_source(cls, weights: str) -> str:
        source, _, rest = weights.removeprefix("train:").partition(":")
        known = (source == "file" and rest) or (source == "hub" and NAME.fullmatch(rest))
        if weights != "train" and not known:
            raise ValueError("expected 'train', 'hub:TAG', 'file:PATH', 'train:hub:TAG' or 'train:file:PATH'")
        return weights

    @property
    def architecture(self) -> Architecture:
        """The teacher without the source of its weights."""
        return Architecture(model=self.model, kwargs=self.kwargs, source=self.source)


class Pair(Frozen):
    """A teacher with the source of its weights and a student, and optionally an assistant: a network of a size between
    the two, for methods that learn from one."""

    description: str = ""
    image_size: int = Field(32, ge=4, description="side of the images that the pair is meant for, in pixels; or "
                                          "length of its texts, in tokens")
    words: int | None = Field(None, ge=3, le=65_536, description="of a pair for texts: the size of the vocabulary")
    teacher: TeacherSide
    student: Architecture
    assistant: Architecture | None = None


class TransferTable(Frozen):
    """The unlabelled images that students learn from. If `images` or `share` is a list, each combination of their
    values is a cell of its own."""

    images: str | tuple[str, ...] = Field("rest", description="'rest': what `recipe.train_size` leaves over of the "
        "training split; 'imagefolder:PATH': a folder of images, however nested; 'none': labelled images alone")
    share: float | tuple[float, ...] = Field(0.5, description="share of the images of a batch; 1: no labelled ones")
    size: int | None = Field(None, ge=1, le=10**9, description="how many of them, by a fixed seed; all if not given")

    @field_validator("images", "share")
    @classmethod
    def _some(cls, values: Any) -> Any:
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, str):
                _check_images(value)
            elif not 0 < value <= 1:
                raise ValueError("expected more than 0 and at most 1")
        if values == () or (isinstance(values, tuple) and len(set(values)) < len(values)):
            raise ValueError("name at least one, and each once")
        return values

    def each(self) -> list[tuple[str, float] | None]:
        """The images and the share of each cell, without repetition; None for labelled images alone."""
        images = self.images if isinstance(self.images, tuple) else (self.images,)
        shares = self.share if isinstance(self.share, tuple) else (self.share,)
        return list(dict.fromkeys(None if one == "none" else (one, share) for one in images for share in shares))


def _check_images(images: str) -> None:
    """Raise ValueError unless the string names a source of unlabelled images or is "none"."""
    if images != "none":
        try:
            unlabelled_path(images)
        except UserError as error:
            raise ValueError(str(error)) from error


class SuiteFile(Frozen):
    """The content of a suite's TOML file."""

    description: str = ""
    resolution: str = Field("", description="what the suite can and cannot tell apart, and which runs show it")
    methods: Literal["all"] | tuple[str, ...] = "all"
    core: tuple[str, ...] = Field((), description="the methods of `--core`; empty: all methods of the suite")
    pairs: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: int | tuple[int, ...] = Field(3, description="a number of seeds, counted from 0, or the seeds themselves")
    reference: str = Field("ce", description="the method that trains the teachers")
    assistant_method: str = Field("kd", description="the method by which a pair's teacher trains its assistant")
    teacher_seed: int = Field(1000, ge=0, le=MAX_SEED, description="seed of the teachers' runs")
    recipe: Recipe
    teacher_recipe: dict[str, Any] = Field({}, description="the keys in which the teachers' recipe differs; all the "
                                                           "others, also `train_size`, are as in `recipe`")
    recipes: dict[str, dict[str, Any]] = Field({}, description="by pair, the keys in which its recipe differs")
    teacher_recipes: dict[str, dict[str, Any]] = Field(
        {}, description="by pair, the keys in which its teacher's recipe differs from that of the other teachers")
    pair: dict[str, Pair] = Field({}, description="the suite's own pairs, by name")
    hyperparameters: dict[str, dict[str, Value]] = Field(
        {}, description="those that are not a method's defaults, by METHOD, or by METHOD@PAIR or METHOD@DATASET; what "
                        "is said of a pair goes before what is said of a dataset, and both before what is said of all")
    variants: dict[str, tuple[dict[str, Value], ...]] = Field(
        {}, description="further settings of a method, by METHOD: a list of tables of the hyperparameters in which "
                        "each differs from what `hyperparameters` says; each is run besides, as a row of its own")
    space: dict[str, dict[str, Any]] = Field(
        {}, description="what `kdbench tune` searches where it is not a method's own ranges, by METHOD, or for all by "
                        "`recipe`: [low, high], [low, high, 'log' or 'linear'], choices, or 'fixed'")
    transfer: TransferTable | None = Field(None, description="images without labels, from which students learn what a "
                                           "trained network says of them")
    budget: dict[str, int] = Field({}, description="by family, the updates of the student in multiples of the recipe's")

    @field_validator("methods", "pairs", "datasets")
    @classmethod
    def _some(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not names:
            raise ValueError("name at least one")
        return names

    @field_validator("transfer", mode="before")
    @classmethod
    def _images_alone(cls, transfer: Any) -> Any:
        return {"images": transfer} if isinstance(transfer, str) else transfer

    @field_validator("budget")
    @classmethod
    def _of_families(cls, budget: dict[str, int]) -> dict[str, int]:
        for family, updates in budget.items():
            if family not in FAMILIES:
                raise ValueError(f"unknown family {family!r}{nearest(family, FAMILIES)}")
            if not 1 <= updates <= MAX_UPDATES:
                raise ValueError(f"{family}: expected 1 to {MAX_UPDATES} times the recipe's updates, got {updates}")
        return budget

    @field_validator("seeds")
    @classmethod
    def _positive(cls, seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if (seeds < 1) if isinstance(seeds, int) else (not seeds or min(seeds) < 0):
            raise ValueError("expected a count of at least 1, or a list of seeds from 0 up")
        return seeds


@dataclass(frozen=True)
class Suite:
    """A suite's file with its name and the pairs that it can refer to."""

    name: str
    content: SuiteFile
    pairs: Mapping[str, Pair]  # by name: the built-in ones and the suite's own
    source: str                # the path of the file, for messages
    folder: Path = Path()      # what relative paths in the file are relative to

    def path(self, written: Path) -> Path:
        """Resolve a path that the suite's file names. A relative path is relative to the file's folder, or to the
        current folder if the suite is built in. If the file's folder lies below the current one, the result is relative
        to the current one, because paths are part of run ids. A path that begins with "~" is returned unchanged."""
        if str(written).startswith("~"):
            return written
        here, folder = Path.cwd(), self.folder.resolve()
        return (folder.relative_to(here) if folder.is_relative_to(here) else self.folder) / written

    def dataset(self, name: str) -> DatasetName:
        """Parse the name of a dataset in the suite's file; the path of an image folder is resolved like others.
        UserError if there is no such dataset."""
        parsed = parse(name)
        return replace(parsed, path=self.path(parsed.path)) if parsed.path else parsed


def built_in_suites() -> dict[str, Path]:
    """The files of the suites that come with kdbench, by name."""
    folder = Path(str(resources.files("kdbench.suites")))
    return {file.stem: file for file in sorted(folder.glob("*.toml")) if file.name != PAIRS}


def built_in_pairs() -> dict[str, Pair]:
    """The pairs that come with kdbench, by name."""
    file = Path(str(resources.files("kdbench.suites"))) / PAIRS
    return {name: validate(Pair, content, f"{file}: {name}") for name, content in _read_toml(file).items()}


def load_suite(name: str) -> Suite:
    """Load the built-in suite called `name`, or the suite in the TOML file with this path.

    UserError for an unknown name or a missing file, and for a malformed file with the file and line or key.
    """
    known = built_in_suites()
    if name in known:
        file = known[name]
    elif name.endswith(".toml") or "/" in name or Path(name).is_file():
        file = Path(name)
        if not file.is_file():
            raise UserError(f"suite {name}: no such file")
    else:
        raise unknown("suite", name, known)
    content = validate(SuiteFile, _read_toml(file), str(file))
    folder = Path() if name in known else file.parent
    return Suite(file.stem, content, {**built_in_pairs(), **content.pair}, str(file), folder)


def frozen_text(suite: Suite) -> str:
    """The text of the suite's file, followed by the built-in pairs that it names, so that every version of kdbench
    reads the same suite from it. UserError if a file cannot be read."""
    text, pairs = _text(Path(suite.source)), _text(Path(str(resources.files("kdbench.suites"))) / PAIRS)
    built_in = [name for name in suite.content.pairs if name not in suite.content.pair]
    blocks = [re.search(rf"^\[{re.escape(name)}\]\n(?:(?!\[|#|\n).*\n)*", pairs, re.MULTILINE) for name in built_in]
    return text.rstrip() + "\n" + "".join(f"\n[pair.{block[0][1:]}" for block in blocks if block)


def _twice(match: re.Match[str]) -> str:
    """Reword tomllib's message about a table that is declared twice, or has a value's name, in the terms of TOML."""
    keys = [key.strip(" '\"") for key in match[1].split(", ")]
    return f"[{'.'.join(keys)}] stands twice, or {keys[0]} is no table (a name with other characters than letters, " \
           f"digits, '_' and '-' needs quotes)"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError as error:  # its message ends in "(at line 3, column 5)"
        message, _, place = str(error).partition(" (at ")
        line = place.removeprefix("line ").split(",")[0]
        message = re.sub(r"Cannot declare \((.*?),?\) twice", _twice, message)
        raise UserError(f"{file}:{line if line.isdigit() else 'end'}: malformed TOML: {message}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of nested brackets
        raise UserError(f"{file}: malformed TOML: {error}") from error


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file}: {file.stat().st_size} bytes, a suite has at most {MAX_BYTES}")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
