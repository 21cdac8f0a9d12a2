"""Lock files: the versions of the packages that results were made with, in a form that pip can install."""

import importlib.metadata
import re
from collections.abc import Iterable, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdbench.environment import PACKAGES, version

LINE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.+!_-]{0,98})")


def lock(more: Iterable[str] = ()) -> str:
    """The lock of this environment: lines NAME==VERSION, sorted by name, of kdbench, the packages that records name,
    the distributions `more`, and all that these require. What is not installed is left out."""
    return "".join(f"{name}=={found}\n" for name, found in sorted(_installed(("kdbench", *more, *PACKAGES)).items()))


def _installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of these distributions and of all that they require without extras, by normalised name. What is not
    installed is left out."""
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
    """The versions in the text of a lock, by name. Raises ValueError for a line that is not NAME==VERSION, or that
    repeats a name."""
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
    """The packages whose `recorded` version differs from the one in `versions`, those of a lock, each as "NAME
    RECORDED, LOCKED". A recorded None says that the package was not installed."""
    return [f"{name} {told or 'not installed'}, {versions.get(name, 'not in it')}" for name, told in recorded.items()
            if told != versions.get(name)]
