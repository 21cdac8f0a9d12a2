"""The error for mistakes of the user. Its message is one line that names what is wrong, what was found and what is
allowed."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# A path from the root of a disk or from a home folder, in a text; not the rest of an address or of a relative path. Its
# parts may have spaces inside, and quotes and colons between letters; so words before a later slash may go with it.
_FOLDER = r"""(?!\s)(?:[^/'":\n]|\b['":]\b)+(?<!\s)/+"""
PATH = re.compile(rf"""(?<![\w/.~<-])(?:file://)?(?:~[\w-]*/+(?:{_FOLDER})*|/(?:{_FOLDER})+)([^\s/'":]*)""")


def printable(text: str) -> str:
    """Text of unknown origin with a replacement character for everything that is no character to read: control
    characters, which a terminal would obey, marks that reverse the direction of text, lone surrogates. Line breaks and
    tabs stay."""
    if text.isprintable():  # nearly always
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """Text of unknown origin on one line, `printable` and with the spaces that it has."""
    return printable(" ".join(text.splitlines()))


def plain(text: str) -> str:
    """Text of unknown origin on one line, `printable` and with single spaces for white space."""
    return printable(" ".join(text.split()))


def without_paths(text: str) -> str:
    """The text with the last name alone of each path that begins at the root of a disk or at a home folder."""
    return PATH.sub(lambda found: found[1] or found[0].rstrip("/").rpartition("/")[2], text)


def counted(number: int, what: str) -> str:
    """Such as "1 run" or "2 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


class UserError(Exception):
    """Something that the user can put right. The command line prints the message without a traceback and exits with
    `exit_code`."""

    exit_code = 2


MOST_NAMES = 100  # that a message lists


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of a message about an invalid name: "; did you mean 'x'?" if one of the allowed names is near, upper and
    lower case being alike, and then the allowed names in parentheses; of more than `MOST_NAMES` the five nearest."""
    names, given = sorted(allowed), name.lower()
    lower = {one.lower(): one for one in names}
    begun = [found for found in lower if given and found.startswith(given)]
    near = [lower[found] for found in difflib.get_close_matches(given, lower, n=5, cutoff=0.6) or begun[:5]]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(names) > MOST_NAMES:
        listed = f"the nearest: {', '.join(near)}; " if near else ""
        return f"{hint} ({listed}{len(names)} are allowed)"
    return f"{hint} (allowed: {', '.join(names) or 'none'})"


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a `kind` of thing, such as "method", whose name is none of `allowed`."""
    return UserError(f"unknown {kind} {name[:100]!r}{nearest(name[:100], allowed)}")
