"""Mistakes of the user, told in one line that names the culprit, what was found and what is allowed."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. The command line prints the message without a traceback and exits with 2."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """"; did you mean 'x'?" for the nearest valid name, and what is allowed."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (allowed: {', '.join(names) or 'none'})"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is none of `allowed`, with the nearest valid name where there is one."""
    return UserError(f"unknown {kind} {name!r}{nearest(name, allowed)}")
