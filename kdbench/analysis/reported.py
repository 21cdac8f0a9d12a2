"""Figures that others published for the same pair, dataset and protocol, to stand beside the measured ones."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from kdbench.analysis.board import Cell, Row
from kdbench.suites.suite import Pair, built_in_pairs


@dataclass(frozen=True)
class Reported:
    accuracy: float  # a share
    source: str
    differs: str     # how the protocol of all figures of the source is known to differ from kdbench's
    own: str         # how this figure's differs besides; "" if in nothing


def of_row(cell: Cell, row: Row) -> Reported | None:
    """The published figure for a row: of its method, with its hyperparameters; None if there is none."""
    return _figure(cell, row.method, row.hyperparameters)


def of_teacher(cell: Cell) -> Reported | None:
    """The published figure for the teacher's architecture, trained alone; None if there is none."""
    return _figure(cell, "teacher", {})


def _figure(cell: Cell, name: str, hyperparameters: Mapping[str, Any]) -> Reported | None:
    """The published figure of a method with these hyperparameters (without defaults) for a cell, from the first source
    that has it; None if none has."""
    for source in _sources():
        if _same_protocol(source, cell):
            for pair in _pairs(cell):
                entry = source["accuracy"].get(pair, {}).get(name)
                if entry and entry.get("hyperparameters", {}) == hyperparameters:
                    return Reported(entry["percent"] / 100, source["name"], source["differs"], entry.get("differs", ""))
    return None


def _same_protocol(source: dict[str, Any], cell: Cell) -> bool:
    recipe = _hashable(cell.spec["recipe"])
    return (cell.dataset == source["dataset"] and recipe["train_size"] is None
            and source["recipe"].items() <= recipe.items())


@cache
def _sources() -> list[dict[str, Any]]:
    """The sources in `reported.toml`, with every accuracy as a dictionary."""
    text = resources.files("kdbench.analysis").joinpath("reported.toml").read_text(encoding="utf-8")
    return [{**source, "recipe": _hashable(source["recipe"]), "accuracy": {
        pair: {name: entry if isinstance(entry, dict) else {"percent": entry} for name, entry in entries.items()}
        for pair, entries in source["accuracy"].items()}} for source in tomllib.loads(text)["source"]]


@cache
def _known_pairs() -> dict[str, Pair]:
    return built_in_pairs()


def _hashable(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}


def _pairs(cell: Cell) -> Iterator[str]:
    """The names of the built-in pairs that have the cell's architectures. The name of a pair in a record is not
    compared, since it is only a label."""
    teacher = cell.spec["teacher"]
    if teacher is None:
        return
    taught_by = teacher["run"]["student"] if teacher["kind"] == "run" else teacher["architecture"]
    for name, pair in _known_pairs().items():
        if (pair.teacher.architecture.model_dump(mode="json"), pair.student.model_dump(mode="json")) == (
                taught_by, cell.spec["student"]):
            yield name
