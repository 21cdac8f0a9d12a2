"""`UserError`, the error for mistakes of the user, and the functions that write its messages. A message is one line
that names what is wrong, what was found and what is allowed."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# An absolute path, or one from a home folder (~), inside a text, but no part of a URL or of a relative path; the group
# is the path's last name. Names of folders may have spaces inside, and quotes and colons between letters, so the match
# may include words of the text that stand before a later slash.
_FOLDER = r"""(?!\s)(?:[^/'":\n]|\b['":]\b)+(?<!\s)/+"""
PATH = re.compile(rf"""(?<![\w/.~<-])(?:file://)?(?:~[\w-]*/+(?:{_FOLDER})*|/(?:{_FOLDER})+)([^\s/'":]*)""")


def printable(text: str) -> str:
    """Make text of unknown origin safe to print: replace control characters, which a terminal would obey, formatting
    characters such as marks that reverse the direction of text, and lone surrogates by U+FFFD. Line breaks and tabs
    stay."""
    if text.isprintable():  # nearly always
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd" for c in text)


def one_line(text: str) -> str:
    """Text of unknown origin made `printable` and put on one line; other white space stays as it is."""
    return printable(" ".join(text.splitlines()))


def plain(text: str) -> str:
    """Text of unknown origin made `printable` and put on one line, each run of white space replaced by one space."""
    return printable(" ".join(text.split()))


def without_paths(text: str) -> str:
    """The text with each path that begins at the root of a disk or at a home folder replaced by its last name."""
    return PATH.sub(lambda found: found[1] or found[0].rstrip("/").rpartition("/")[2], text)


def counted(number: int, what: str) -> str:
    """A number and its noun, with a plural "s" unless the number is 1: "1 run", "2 runs"."""
    return f"{number} {what}{'s' * (number != 1)}"


class UserError(Exception):
    """A mistake that the user can correct. The command line prints the message without a traceback and exits with
    `exit_code`."""

    exit_code = 2


MOST_NAMES = 100  # the most allowed names that a message lists


def nearest(name: str, allowed: Iterable[str]) -> str:
    """The end of a message about an invalid name: "; did you mean 'x'?" if an allowed name is similar, regardless of
    case, and then the allowed names in parentheses. If there are more than `MOST_NAMES`, only their number and up to
    five similar ones are listed."""
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
    """The UserError for a `kind` of thing, such as "method", whose `name` is not among `allowed`."""
    return UserError(f"unknown {kind} {name[:100]!r}{nearest(name[:100], allowed)}")
