"""Printing of rows as aligned columns, and of text that others wrote."""

import os
import re
import shutil
import sys
from typing import Any

from kdbench.errors import plain


def print_columns(rows: list[dict[str, Any]], header: bool = True) -> None:
    """Aligned columns; the last one may be long and is cut to the terminal's width, if there is one."""
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
    """The text in one line, with its control characters, which could steer the terminal, as escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def terminal_width() -> int:
    """The columns of the terminal; 100 where the output goes elsewhere."""
    return shutil.get_terminal_size((100, 24)).columns


def coloured(text: str) -> str:
    """The text with its marks for better and worse in green and red, where it goes to a terminal that shows colours
    and nobody asked for none (NO_COLOR)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return re.sub("[↑↓]", lambda found: f"\033[{32 if found[0] == '↑' else 31}m{found[0]}\033[0m", text)
