"""Figures that others published for the same pair, dataset and protocol, to stand beside the measured ones."""

import tomllib
from collections.abc import Iterator
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
    differs: str     # what is known to be otherwise there than here


def reported(cell: Cell) -> dict[str, Reported]:
    """The published figures for a cell, by method, with "teacher" among them. Where several sources have a method, the
    first one counts."""
    found: dict[str, Reported] = {}
    for source in _sources():
        if _same_protocol(source, cell):
            for pair in _pairs(cell):
                for method, percent in source["accuracy"].get(pair, {}).items():
                    found.setdefault(method, Reported(percent / 100, source["name"], source["differs"]))
    return found


def _same_protocol(source: dict[str, Any], cell: Cell) -> bool:
    recipe = _hashable(cell.spec["recipe"])
    return (cell.dataset == source["dataset"] and recipe["train_size"] is None
            and source["recipe"].items() <= recipe.items())


def of_row(cell: Cell, row: Row) -> Reported | None:
    """The published figure for a row; None if there is none, or if its hyperparameters are not the defaults."""
    return None if row.hyperparameters else reported(cell).get(row.method)


@cache
def _sources() -> list[dict[str, Any]]:
    text = resources.files("kdbench.analysis").joinpath("reported.toml").read_text(encoding="utf-8")
    return [{**source, "recipe": _hashable(source["recipe"])} for source in tomllib.loads(text)["source"]]


@cache
def _known_pairs() -> dict[str, Pair]:
    return built_in_pairs()


def _hashable(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in recipe.items()}


def _pairs(cell: Cell) -> Iterator[str]:
    """The built-in pairs with the cell's architectures: the pair's name in a record is a mere label."""
    teacher = cell.spec["teacher"]
    if teacher is None:
        return
    taught_by = teacher["run"]["student"] if teacher["kind"] == "run" else teacher["architecture"]
    for name, pair in _known_pairs().items():
        if (pair.teacher.architecture.model_dump(mode="json"), pair.student.model_dump(mode="json")) == (
                taught_by, cell.spec["student"]):
            yield name
