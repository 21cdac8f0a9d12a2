"""The networks of the user's own that this process may build.

What is named MODULE:FUNCTION comes out of suites and out of records that others wrote, so that a name alone never
leads to an import: a network can be built only after the plugin file that holds it was given on the command line, and
only if the file is still the one, by its SHA-256, that a run's spec names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kdbench.errors import UserError


class Given(NamedTuple):
    """A network of a plugin file that the user gave."""

    file: str
    digest: str                # SHA-256 of the file
    build: Callable[..., Any]  # the function, or the class, of that name in it


_GIVEN: dict[str, Given] = {}  # by MODULE:FUNCTION


def give(name: str, file: str, digest: str, function: Callable[..., Any]) -> None:
    """Let this process build the network `name`, MODULE:FUNCTION, by the function of a file that was imported."""
    _GIVEN[name] = Given(file, digest, function)


def given(name: str, source: str | None) -> Callable[..., Any]:
    """What builds the network `name`. UserError unless its file was given, and has the SHA-256 `source`, if that is
    not None."""
    if name not in _GIVEN:
        raise UserError(f"network {name!r} stands in a file that was not given: --plugin {name.partition(':')[0]}.py")
    found = _GIVEN[name]
    if source not in (None, found.digest):
        raise UserError(f"network {name!r}: {found.file} is another file than the run names (SHA-256 "
                        f"{found.digest[:12]}, expected {str(source)[:12]})")
    return found.build
