"""Prints rows as aligned columns, and makes text fit for a terminal."""

import os
import re
import shutil
import sys
from typing import Any

from kdbench.errors import plain


def print_columns(rows: list[dict[str, Any]], header: bool = True) -> None:
    """Print rows in aligned columns, or "none" if there are no rows. All rows have the keys of the first one, which are
    printed as the header unless `header` is False. On a terminal, lines are cut to its width."""
    if not rows:
        print("none")
        return
    keys = list(rows[0])
    lines = ([keys] if header else []) + [[plain(str(row[key])) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    limit, cut = (terminal_width() if sys.stdout.isatty() else None), False
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if limit is not None and len(text) > limit:
            text, cut = text[:limit - 1] + "…", True
        print(text)
    if cut:
        print("…: cut; --json, or a pipe, has all of it")


def printable(text: str) -> str:
    """The text with escape sequences in place of line breaks, control characters and whatever else is not printable,
    since they could control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def terminal_width() -> int:
    """The width of the terminal in columns; 100 if the output does not go to a terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def coloured(text: str) -> str:
    """The text with its arrows in colour: ↑ (better) in green, ↓ (worse) in red. It is unchanged if standard output is
    not a terminal that shows colours, or if NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return re.sub("[↑↓]", lambda found: f"\033[{32 if found[0] == '↑' else 31}m{found[0]}\033[0m", text)
