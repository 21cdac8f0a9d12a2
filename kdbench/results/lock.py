"""The versions that results were made with, as a file that pip can install."""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdbench.environment import PACKAGES, version

LINE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.+!_-]{0,98})")


def lock(more: Iterable[str] = ()) -> str:
    """Each installed distribution that kdbench, and the distributions `more`, need to run, one on a line with its
    version, by name."""
    return "".join(f"{name}=={found}\n" for name, found in sorted(_installed(("kdbench", *more, *PACKAGES)).items()))


def _installed(names: Iterable[str]) -> dict[str, str]:
    """The versions, by name, of the installed ones of these distributions and of all that they require."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        there = None if name in found else version(name)
        if there is None:
            continue
        found[name] = there
        needed = map(Requirement, importlib.metadata.requires(name) or ())
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def read_lock(text: str) -> dict[str, str]:
    """The versions in a lock, by name. ValueError for a line that is none of a lock."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number}: expected NAME==VERSION, got {line[:80]!r}")
        if match[1] in found:
            raise ValueError(f"line {number}: {match[1]} is in it twice")
        found[match[1]] = match[2]
    return found


def disagreements(versions: Mapping[str, str], recorded: Mapping[str, str | None]) -> list[str]:
    """The packages whose recorded version, by name, is not the lock's."""
    return [f"{name} {told or 'not installed'}, {versions.get(name, 'not in it')}" for name, told in recorded.items()
            if told != versions.get(name)]
