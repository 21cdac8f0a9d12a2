"""How methods are called in tables."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kdbench.errors import plain
from kdbench.spec import RunSpec


def changed(method: str, hyperparameters: Mapping[str, Any], registry: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults; all, of a method that is not installed."""
    known = registry[method].hyperparameters if method in registry else {}
    return {name: value for name, value in sorted(hyperparameters.items())
            if name not in known or known[name].default != value}


class Variant(NamedTuple):
    """A method as it was run in a cell: what the runs of a row share."""

    method: str
    settings: tuple[tuple[str, Any], ...]  # hyperparameters that are not the defaults, a budget, own recipe

    @classmethod
    def of(cls, spec: RunSpec, registry: Mapping[str, Any]) -> "Variant":
        budget = {"updates": spec.updates} if spec.updates != 1 else {}
        recipe = {f"recipe.{name}": value for name, value in spec.own_recipe.given().items()} if spec.own_recipe else {}
        return cls(spec.method, tuple((changed(spec.method, spec.hyperparameters, registry) | budget | recipe).items()))


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
