"""Accuracy on parts of the test images by name: on each class, each group of an attribute, under each corruption."""

from collections.abc import Iterable, Mapping, Sequence

from kdbench.analysis.intervals import Estimate, estimate
from kdbench.data import catalog
from kdbench.errors import UserError, plain
from kdbench.results.record import Record

CLASS, CORRUPTION = "class", "corruption"
GROUP = "group: "  # followed by the attribute's name

Shares = Mapping[str, Mapping[str, Estimate]]  # by kind of part, then by the part's name


def class_names(dataset: str, recorded: Sequence[str]) -> Sequence[str]:
    """The names of a dataset's classes: those that a record holds, else those of the catalog; none if neither does."""
    if recorded:
        return recorded
    try:
        return catalog.parse(dataset).info.classes or ()
    except UserError:
        return ()


def mean_shares(runs: Iterable[Record]) -> Shares:
    """The mean accuracies on parts of the test images over runs of one cell, with their intervals. A kind of parts is
    left out if some run lacks it, or if runs name different parts; so is a part without images."""
    known = [dict(_of_run(run)) for run in runs]
    if not known:
        return {}
    return {kind: {name: estimate([run[kind][name] for run in known]) for name in parts}
            for kind, parts in known[0].items() if all(run.get(kind, {}).keys() == parts.keys() for run in known)}


def _of_run(run: Record) -> Iterable[tuple[str, dict[str, float]]]:
    if "class_accuracy" in run.vectors:
        values = run.vectors["class_accuracy"]
        names = class_names(run.spec.dataset, run.classes)
        yield CLASS, _named(names if len(names) == len(values) else map(str, range(len(values))), values)
    for attribute, groups in run.groups.items():
        if len(values := run.vectors.get(f"group_accuracy.{attribute}", [])) == len(groups):
            yield f"{GROUP}{plain(attribute)}", _named(groups, values)
    corruptions = {name.partition(".")[2]: [value for value in values if value is not None]
                   for name, values in run.vectors.items() if name.startswith("corruption_accuracy.")}
    if corruptions:
        yield CORRUPTION, {plain(name.replace("_", " ")): sum(values) / len(values)
                           for name, values in corruptions.items() if values}


def _named(names: Iterable[str], values: Sequence[float | None]) -> dict[str, float]:
    return {plain(name): value for name, value in zip(names, values, strict=True) if value is not None}
