"""The content of release.json: the released versions of a folder of results."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from kdbench.results.record import Problem, Utc
from kdbench.results.store import Store, read_note, write_note


class Version(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A released version of the results, and the hashes of what it consists of."""

    version: str  # "2026.12", and "2026.12.1" for a correction
    released: Utc
    results: str  # the hash of weights, predictions and metrics, which repeated runs reproduce
    records: str  # the hash of all files that the tables were made from
    note: str     # what changed since the previous version


class Release(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The content of release.json."""

    schema_version: Literal[1] = 1
    suite: str
    versions: list[Version]  # the newest first

    def current(self, results: str) -> Version | None:
        """The newest version if `results`, the hash of the folder's present results, is that version's hash; else None.
        """
        return self.versions[0] if self.versions[0].results == results else None

    def lines(self, results: str) -> Iterable[str]:
        """The line that the folder's tables show about the version. `results` is the hash of the folder's present
        results."""
        last = self.versions[0]
        if self.current(results):
            yield f"Version {last.version} of these results: {last.note}"
        else:
            yield f"Changed since version {last.version} of these results, whose hash is {last.results[:16]}."


def read_release(store: Store) -> Release | Problem | None:
    """The versions of a folder. None if it has no release.json, a Problem if that is damaged or names no version."""
    path = store.files.release
    found, _ = read_note(path, Release)
    if isinstance(found, Release) and not found.versions:
        return Problem(path, "cannot be read: it names no version")
    return found


def write_release(store: Store, release: Release) -> None:
    write_note(store.files.release, release)
