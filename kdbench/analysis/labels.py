"""The names of methods in tables, and the sweeps among their settings."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from kdbench.errors import plain
from kdbench.plugins.source import Facts, MethodInfo
from kdbench.results.record import Outcome
from kdbench.spec import RunSpec


def facts_of(outcomes: Iterable[Outcome], installed: Mapping[str, MethodInfo]) -> dict[str, Facts]:
    """The facts about each method that the outcomes (runs or profiles) are of, by name: those that most of its outcomes
    recorded or, if none did, those of the installed method. Methods of which neither is known are absent."""
    methods: dict[str, Counter[bytes]] = defaultdict(Counter)
    for outcome in outcomes:
        recorded = methods[outcome.spec.method]
        if outcome.facts is not None:
            recorded[msgspec.json.encode(outcome.facts)] += 1
    found: dict[str, Facts] = {}
    for name, recorded in sorted(methods.items()):
        if recorded:
            most = max(recorded, key=lambda facts: (recorded[facts], facts))
            found[name] = msgspec.json.decode(most, type=Facts)
        elif name in installed:
            found[name] = installed[name].facts
    return found


def changed(method: str, hyperparameters: Mapping[str, Any], known: Mapping[str, Facts]) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults; all of them if the method's defaults are not known."""
    defaults = known[method].defaults if method in known else {}
    return {name: value for name, value in sorted(hyperparameters.items())
            if name not in defaults or defaults[name] != value}


class Variant(NamedTuple):
    """A method with the settings that the runs of one row share."""

    method: str
    settings: tuple[tuple[str, Any], ...]  # hyperparameters that are not defaults, updates, own recipe

    @classmethod
    def of(cls, spec: RunSpec, known: Mapping[str, Facts]) -> "Variant":
        own = changed(spec.method, spec.hyperparameters, known) | spec.own_values
        return cls(spec.method, tuple(own.items()))


class Sweep(NamedTuple):
    """Settings of a method that differ only in the value of one hyperparameter, which is a number."""

    method: str
    parameter: str
    points: tuple[tuple[float, str], ...]  # the value and the label of each, in rising order


LEAST_POINTS = 3  # fewest settings that make a sweep


def sweeps(names: Mapping[Variant, str], known: Mapping[str, Facts]) -> list[Sweep]:
    """The sweeps among the variants of a cell, given the labels of these. For each hyperparameter of a method it is the
    longest sweep, if that has `LEAST_POINTS` settings or more and the default is known."""
    found = []
    for method, parameter in sorted({(one.method, name) for one in names for name, _ in one.settings}):
        default = known[method].defaults.get(parameter) if method in known else None
        alike: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for variant, label in names.items():
            value: Any = dict(variant.settings).get(parameter, default)
            if variant.method == method and type(value) in (int, float):
                rest = [setting for setting in variant.settings if setting[0] != parameter]
                alike[repr(rest)].append((value, label))
        longest = max(alike.values(), key=len, default=[])
        if default is not None and len(longest) >= LEAST_POINTS:
            found.append(Sweep(plain(method), parameter, tuple(sorted(longest))))
    return found


def labels(variants: Iterable[Variant]) -> dict[Variant, str]:
    """The labels of the variants of a cell: the method's name, followed by the settings in which its variants differ if
    there are several."""
    alike: dict[str, list[Variant]] = defaultdict(list)
    for variant in dict.fromkeys(variants):
        alike[variant.method].append(variant)
    return {variant: label(variant, alike[variant.method]) for some in alike.values() for variant in some}


def label(variant: Variant, alike: Iterable[Variant]) -> str:
    """The label of a variant among `alike`, the variants of its method: "METHOD", or "METHOD (NAME=VALUE, ...)" with
    the settings that not all of these share."""
    shared = set.intersection(*({*map(repr, other.settings)} for other in alike))
    values = ", ".join(f"{name}={value}" for name, value in variant.settings if repr((name, value)) not in shared)
    return plain(f"{variant.method} ({values})" if values else variant.method)
