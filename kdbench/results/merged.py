"""The content of merged.json: where the results of a merged folder came from."""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from kdbench.errors import counted
from kdbench.results.record import Problem, Utc
from kdbench.results.store import Store, read_note, write_note


class Origin(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One of the folders that were merged, as it was then."""

    name: str                           # of the folder, as it was given to the merge
    records: Annotated[int, Meta(ge=0)]  # of the merged folder that are the same in this one; others may have them too
    results: str                        # the hash of its results, which its leaderboard shows too
    when: Utc

    def __str__(self) -> str:
        return f"{self.name} ({counted(self.records, 'record')}, results {self.results[:16]})"


class Merged(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of merged.json."""

    schema_version: Literal[1] = 1
    origins: list[Origin]  # by name

    def lines(self) -> Iterable[str]:
        """The line that the folder's tables show about the merge."""
        yield f"Merged from {', '.join(map(str, self.origins))}."


def read_merged(store: Store) -> tuple[Merged | Problem | None, str]:
    """The content of a folder's merged.json, and the SHA-256 of that file. None if nothing was merged into the folder,
    a Problem if the file is damaged."""
    return read_note(store.files.merged, Merged)


def write_merged(store: Store, merged: Merged) -> None:
    write_note(store.files.merged, merged)
