"""What must be the same on all machines of a cluster, so that results have the same bits."""

import os
import platform
from pathlib import Path

from kdbench.environment import version
from kdbench.errors import UserError

ALIKE = ("kdbench", "torch", "timm", "numpy")  # packages on which bits depend


def versions() -> dict[str, str]:
    """The versions of what must be the same; "" for what is not installed."""
    return {"Python": ".".join(platform.python_version_tuple()[:2]), **{name: version(name) or "" for name in ALIKE}}


def need_the_same_versions(wanted: dict[str, str]) -> None:
    """UserError that names what differs here from the versions of the machine that sent a task."""
    here = versions()
    if differ := [f"{name} {here[name] or 'not installed'} instead of {wanted[name]}"
                  for name in wanted if here[name] != wanted[name]]:
        raise UserError(f"{Path(os.__file__).parent} has {', '.join(differ)}")
