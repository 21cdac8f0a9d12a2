"""How methods are called in tables."""

from collections.abc import Mapping
from typing import Any

from kdbench.errors import plain


def changed(method: str, hyperparameters: Mapping[str, Any], registry: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that differ from their defaults; all, of a method that is not installed."""
    known = registry[method].hyperparameters if method in registry else {}
    return {name: value for name, value in sorted(hyperparameters.items())
            if name not in known or known[name].default != value}


def label(method: str, hyperparameters: Mapping[str, Any]) -> str:
    """A method's name with the hyperparameters that are not its defaults."""
    values = ", ".join(f"{name}={value}" for name, value in hyperparameters.items())
    return plain(f"{method} ({values})" if values else method)
