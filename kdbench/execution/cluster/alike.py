"""The versions that must be the same on all machines of a cluster, so that their results are bit-identical."""

import os
import platform
from pathlib import Path

from kdbench.environment import version
from kdbench.errors import UserError

ALIKE = ("kdbench", "torch", "timm", "numpy")  # packages on which the bits of results depend


def versions() -> dict[str, str]:
    """The versions of Python and of the packages in `ALIKE`, by name; "" for a package that is not installed."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **{name: version(name) or "" for name in ALIKE}}


def need_the_same_versions(wanted: dict[str, str]) -> None:
    """UserError, with the differences, if this machine does not have the versions `wanted`, which the machine that sent
    a task has."""
    here = versions()
    if differ := [f"{name} {here[name] or 'not installed'} instead of {wanted[name]}"
                  for name in wanted if here[name] != wanted[name]]:
        raise UserError(f"{Path(os.__file__).parent} has {', '.join(differ)}")
