"""Registers the user's own networks that this process may build.

Names such as MODULE:FUNCTION come from suites and from records that others wrote, so a name alone never leads to an
import. A network can be built only after the plugin file that defines it was given on the command line, and only if the
SHA-256 of that file is the one in the spec of the run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from kdbench.errors import UserError


class Given(NamedTuple):
    """A network from a plugin file that the user gave on the command line."""

    file: str
    digest: str                # SHA-256 of the file
    build: Callable[..., Any]  # the function or class in the file that builds the network


_GIVEN: dict[str, Given] = {}  # by MODULE:FUNCTION


def give(name: str, file: str, digest: str, function: Callable[..., Any]) -> None:
    """Let this process build the network `name` (MODULE:FUNCTION) by `function`, from the imported plugin file `file`
    with the SHA-256 `digest`."""
    _GIVEN[name] = Given(file, digest, function)


def given(name: str, source: str | None) -> Callable[..., Any]:
    """The function that builds the network `name`. UserError if no plugin file with this network was given, or if the
    SHA-256 of the file is not `source`; None allows any file."""
    if name not in _GIVEN:
        raise UserError(f"network {name!r} stands in a file that was not given: --plugin {name.partition(':')[0]}.py")
    found = _GIVEN[name]
    if source not in (None, found.digest):
        raise UserError(f"network {name!r}: {found.file} is another file than the run names (SHA-256 "
                        f"{found.digest[:12]}, expected {str(source)[:12]})")
    return found.build
