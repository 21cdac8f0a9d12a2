"""Sizes of files, as options give them and as tables show them: "8GB" is 8,000,000,000 bytes."""

import re

from kdbench.errors import UserError

UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}


def size_text(size: float) -> str:
    """A number of bytes as text with its unit, such as "8.0 GB", "120 MB" or "5 B"."""
    unit = next((unit for unit, bytes_of in UNITS.items() if size >= bytes_of), "B")
    value = size / UNITS[unit]
    return f"{value:.1f} {unit}" if value < 10 and unit != "B" else f"{value:.0f} {unit}"


def read_size(text: str, option: str) -> int:
    """The number of bytes in the text of an option, such as "8GB", "500 MB" or "0". Raises UserError if it is not a
    size; a number other than 0 must have a unit."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?b)?\s*", text, re.IGNORECASE)
    unit = (found[2] or "b").upper() if found else ""
    if not found or (unit == "B" and not found[2] and float(found[1]) > 0):
        raise UserError(f"{option} {text[:50]}: expected a size such as 8GB, 500MB or 0")
    return int(float(found[1]) * next(bytes_of for name, bytes_of in UNITS.items() if name.upper() == unit))
