"""TODO."""

from dataclasses import dataclass

NONE = "n/a"


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    lines: list[list[str]]
    text_columns: int        # the first ones; the others hold numbers
    notes: tuple[str, ...] = ()
