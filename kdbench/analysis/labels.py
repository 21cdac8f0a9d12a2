"""How methods are called in tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from kdbench.errors import plain
from kdbench.plugins.source import Facts, MethodInfo
from kdbench.results.record import Outcome
from kdbench.spec import RunSpec


def facts_of(outcomes: Iterable[Outcome], installed: Mapping[str, MethodInfo]) -> dict[str, Facts]:
    """What is known of each method that runs or profiles are of, by its name: what most of them recorded; for methods
    of which none recorded it, what is installed. Methods of which nothing is known are absent."""
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
    """The hyperparameters that differ from their defaults; all, of a method of which nothing is known."""
    defaults = known[method].defaults if method in known else {}
    return {name: value for name, value in sorted(hyperparameters.items())
            if name not in defaults or defaults[name] != value}


class Variant(NamedTuple):
    """A method as it was run in a cell: what the runs of a row share."""

    method: str
    settings: tuple[tuple[str, Any], ...]  # hyperparameters that are not the defaults, a budget, own recipe

    @classmethod
    def of(cls, spec: RunSpec, known: Mapping[str, Facts]) -> "Variant":
        budget = {"updates": spec.updates} if spec.updates != 1 else {}
        recipe = {f"recipe.{name}": value for name, value in spec.own_recipe.given().items()} if spec.own_recipe else {}
        return cls(spec.method, tuple((changed(spec.method, spec.hyperparameters, known) | budget | recipe).items()))


class Sweep(NamedTuple):
    """Settings of a method that differ in the value of one hyperparameter, a number."""

    method: str
    parameter: str
    points: tuple[tuple[float, str], ...]  # the value and the label of each, in rising order


LEAST_POINTS = 3  # of a sweep


def sweeps(names: Mapping[Variant, str], known: Mapping[str, Facts]) -> list[Sweep]:
    """The sweeps among the variants of a cell, given what these are called; of each hyperparameter, the longest one."""
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
    """What the variants of a cell are called: by their method's name, and where there are several of one method, by
    the settings in which these differ."""
    alike: dict[str, list[Variant]] = defaultdict(list)
    for variant in dict.fromkeys(variants):
        alike[variant.method].append(variant)
    return {variant: label(variant, alike[variant.method]) for some in alike.values() for variant in some}


def label(variant: Variant, alike: Iterable[Variant]) -> str:
    """The name of a variant among `alike`, the variants of its method."""
    shared = set.intersection(*({*map(repr, other.settings)} for other in alike))
    values = ", ".join(f"{name}={value}" for name, value in variant.settings if repr((name, value)) not in shared)
    return plain(f"{variant.method} ({values})" if values else variant.method)
